//! Plants faults: copies shipped files, each with one mistake that somebody could make, so that
//! the tests can show that the proofs find it. A file that no longer has the place of a mistake
//! fails the build: a fault that cannot be planted would prove nothing.

use std::path::Path;

const MAILBOX: &str = "../core/src/mailbox.rs";
const WAKING: &str = "../server/src/shard/mailbox.rs";
const FRAMES: &str = "../core/src/frames.rs";
const ENGINE: &str = "../server/src/engine/memory.rs";

/// A text that a file has once, and what stands there instead.
type Change = (&'static str, &'static str);

/// Faults in the mailbox: name, changes of the mailbox, changes of its waking.
const MAILBOX_FAULTS: [(&str, &[Change], &[Change]); 3] = [
    // The shard wakes, finds nothing and sleeps; then the publication comes.
    (
        "wake_before_push",
        &[],
        &[(
            "if self.places.push(publication) {\n            self.arrived.notify_one();\n        }",
            "self.arrived.notify_one();\n        let _ = self.places.push(publication);",
        )],
    ),
    // Two push, then both look: each thinks that the other was first.
    (
        "wake_judged_after_unlock",
        &[(
            "queue.push(publication);\n        queue.len() == 1",
            "queue.push(publication);\n        drop(queue);\n        self.queue.lock().len() == 1",
        )],
        &[],
    ),
    // Two look, both see the last place.
    (
        "room_judged_before_counting",
        &[
            ("self.publications.fetch_add(1, Ordering::AcqRel);", "self.len();"),
            ("self.bytes.fetch_add(bytes, Ordering::AcqRel);", "self.bytes();"),
            (
                "            return true;",
                "            self.publications.fetch_add(1, Ordering::AcqRel);\n            \
                 self.bytes.fetch_add(bytes, Ordering::AcqRel);\n            return true;",
            ),
            ("        self.release(1, bytes);\n", ""),
        ],
        &[],
    ),
];

/// Faults in the memory engine.
const ENGINE_FAULTS: [(&str, &[Change]); 4] = [
    // Offsets in one order, mailboxes in another.
    (
        "pushed_outside_the_lock",
        &[
            (
                "let mut receipts = Receipts::new();",
                "let mut late = Vec::new();\n        let mut receipts = Receipts::new();",
            ),
            (
                "set_bits(reach.shards).for_each(|shard| self.mailboxes[shard].push(Arc::clone(&publication)));",
                "late.push((reach.shards, publication));",
            ),
            (
                "        Ok(receipts)\n",
                "        drop(ordered);\n        for (shards, publication) in late {\n            \
                 set_bits(shards).for_each(|shard| self.mailboxes[shard].push(Arc::clone(&publication)));\n        }\n        \
                 Ok(receipts)\n",
            ),
        ],
    ),
    // Who listens is asked in one step, the offset is given in another.
    (
        "audience_of_an_earlier_moment",
        &[(
            "let mut receipts = Receipts::new();",
            "drop(ordered);\n        let mut ordered = app.ordered.lock();\n        \
             let Ordered { streams, answers, .. } = &mut *ordered;\n        let mut receipts = Receipts::new();",
        )],
    ),
    // What was missed is read in one step, listening begins in another.
    (
        "read_before_listening",
        &[(
            "        let replay = ordered.streams.subscribe(shard, channels, resume, reader, now)?;\n",
            "        let replay = ordered.streams.read(channels, resume, reader, now);\n        drop(ordered);\n        \
             let mut ordered = app.ordered.lock();\n        \
             ordered.streams.subscribe(shard, channels, Resume::Now, reader, now)?;\n",
        )],
    ),
    // Who listens is there for its channels in one step, for announcements in another.
    (
        "joined_later",
        &[(
            "        if is_new {\n",
            "        drop(ordered);\n        let mut ordered = app.ordered.lock();\n        if is_new {\n",
        )],
    ),
];

const FRAMES_FAULTS: [(&str, &[Change]); 1] = [
    // Both see nothing, both encode.
    (
        "looked_before_making",
        &[(
            "cell.get_or_init(make).clone()",
            "if let Some(frame) = cell.get() { frame.clone() } else {\n                \
             let frame = make();\n                let _ = cell.set(frame.clone());\n                frame\n            }",
        )],
    ),
];

fn main() {
    for file in [MAILBOX, WAKING, FRAMES, ENGINE] {
        println!("cargo::rerun-if-changed={file}");
    }
    for (name, mailbox, waking) in MAILBOX_FAULTS {
        let waking =
            changed(WAKING, waking).replace("use fanfare_core::mailbox;", "use self::places as mailbox;");
        write(
            name,
            &format!("pub mod places {{\n{}\n}}\n{waking}", changed(MAILBOX, mailbox)),
        );
    }
    for (name, changes) in ENGINE_FAULTS {
        write(name, &changed(ENGINE, changes));
    }
    for (name, changes) in FRAMES_FAULTS {
        write(name, &changed(FRAMES, changes));
    }
}

fn changed(path: &str, changes: &[Change]) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    // A head can stand only at the beginning of a file, and this becomes part of another.
    let mut text: String = text
        .lines()
        .filter(|line| !line.starts_with("//!"))
        .map(|line| format!("{line}\n"))
        .collect();
    for (from, to) in changes {
        assert_eq!(
            text.matches(from).count(),
            1,
            "{path} has changed: where is now {from:?}?"
        );
        text = text.replace(from, to);
    }
    text
}

fn write(name: &str, text: &str) {
    let folder = std::env::var("OUT_DIR").unwrap_or_default();
    let path = Path::new(&folder).join(format!("{name}.rs"));
    if let Err(error) = std::fs::write(&path, text) {
        panic!("{}: {error}", path.display());
    }
}
