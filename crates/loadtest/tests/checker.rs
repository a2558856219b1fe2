//! The checker finds what is planted, and accuses nobody of what did not happen: each kind of
//! fault by hand, then thousands of random clean histories with one random change each.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, reason = "numbers of a small test")]

use std::collections::BTreeSet;

use fanfare_loadtest::checker::{Answer, Channel, Fault, FlagsAllowed, History, Lineage, Payload, Position};
use fanfare_loadtest::random::Random;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Heard(Position, Option<Payload>),
    Gap(Option<Position>),
    Cut,
    /// For longer than anything is kept.
    Absent,
}

use Step::{Absent, Cut, Gap, Heard};

#[derive(Clone, Debug)]
struct Sent {
    payload: Payload,
    channel: usize,
    speaker: Option<usize>,
    answer: Answer,
    /// Where it is, whether the publisher knows or not.
    at: Option<Position>,
}

#[derive(Clone, Debug)]
struct Line {
    channel: usize,
    begin: Position,
    steps: Vec<Step>,
    end: Position,
}

impl Line {
    fn lose(&mut self, step: usize) {
        self.steps.remove(step);
    }

    /// Indices of the deliveries.
    fn heard(&self) -> Vec<usize> {
        (0..self.steps.len())
            .filter(|at| matches!(self.steps[*at], Heard(..)))
            .collect()
    }
}

/// A history as data that a test can damage.
#[derive(Clone, Debug, Default)]
struct Script {
    channels: Vec<&'static str>,
    sent: Vec<Sent>,
    lines: Vec<Line>,
}

impl Script {
    fn history(&self) -> History {
        let mut history = History::default();
        let channels: Vec<Channel> = self.channels.iter().map(|name| history.channel(name)).collect();
        let lines: Vec<Lineage> = (self.lines.iter().enumerate())
            .map(|(at, line)| history.lineage(&format!("line {at}"), channels[line.channel], line.begin))
            .collect();
        for sent in &self.sent {
            let speaker = sent.speaker.map(|speaker| lines[speaker]);
            history.invoke(sent.payload, channels[sent.channel], speaker);
            history.answered(sent.payload, sent.answer);
        }
        for (line, lineage) in self.lines.iter().zip(lines) {
            for step in &line.steps {
                match *step {
                    Heard(at, payload) => history.heard(lineage, at, payload),
                    Gap(to) => history.gap(lineage, to),
                    Cut => history.cut(lineage),
                    Absent => history.absent(lineage),
                }
            }
            history.end(lineage, line.end);
        }
        history
    }

    fn faults(&self, flags: FlagsAllowed) -> BTreeSet<Fault> {
        self.history().judge(flags).counts.into_keys().collect()
    }

    /// What a channel holds, in order.
    fn ordered(&self, channel: usize) -> Vec<&Sent> {
        self.sent
            .iter()
            .filter(|sent| sent.channel == channel && sent.at.is_some())
            .collect()
    }
}

fn at(epoch: u64, offset: u64) -> Position {
    Position { epoch, offset }
}

fn payload(publisher: u32, sequence: u32) -> Payload {
    Payload { publisher, sequence }
}

/// Two publishers, two channels of two apps, three lineages on each; twenty publications at offsets
/// 1 to 20 of epoch 7, on the channels in turn: lineage 0 hears 1, 3, 5, … 19 as its steps 0 to 9.
fn plain() -> Script {
    let mut script = Script {
        channels: vec!["shop/orders", "other/orders"],
        ..Script::default()
    };
    for number in 0..20 {
        let at = at(7, u64::from(number) + 1);
        script.sent.push(Sent {
            payload: payload(number / 2 % 2, number),
            channel: number as usize % 2,
            speaker: None,
            answer: Answer::Accepted(at),
            at: Some(at),
        });
    }
    for line in 0..6 {
        let channel = line % 2;
        let ordered = script.ordered(channel).into_iter();
        let steps = ordered.map(|sent| Heard(sent.at.unwrap(), Some(sent.payload)));
        let (begin, steps, end) = (at(7, 0), steps.collect(), at(7, 20));
        script.lines.push(Line {
            channel,
            begin,
            steps,
            end,
        });
    }
    script
}

/// The same, but the second half is in epoch 8, from offset 1, and everyone is told.
fn two_epochs() -> Script {
    let mut script = plain();
    let moved = |place: Position| match place.offset {
        0..=10 => place,
        offset => at(8, offset - 10),
    };
    for sent in &mut script.sent {
        sent.at = sent.at.map(moved);
        sent.answer = Answer::Accepted(sent.at.unwrap());
    }
    for line in &mut script.lines {
        for step in &mut line.steps {
            if let Heard(place, _) = step {
                *place = moved(*place);
            }
        }
        line.steps.insert(5, Gap(Some(at(8, 0))));
        line.end = moved(line.end);
    }
    script
}

#[track_caller]
fn check(
    what: &str,
    mut script: Script,
    flags: FlagsAllowed,
    change: impl Fn(&mut Script),
    expected: &[Fault],
) {
    assert_eq!(script.faults(flags), BTreeSet::new(), "before: {what}");
    change(&mut script);
    let report = script.history().judge(flags);
    let found: Vec<Fault> = report.counts.keys().copied().collect();
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    assert_eq!(found, expected, "{what}\n{report}");
    assert_eq!(report.is_clean(), expected.is_empty(), "{what}");
    assert_eq!(
        report.to_string().contains("no findings"),
        expected.is_empty(),
        "{what}"
    );
}

#[test]
fn each_planted_fault_is_found_and_named() {
    use FlagsAllowed::{Always, Never, WithNewEpoch};
    let case = |what, change: fn(&mut Script), expected: &[Fault]| {
        check(what, plain(), Never, change, expected);
        check(what, plain(), WithNewEpoch, change, expected);
        check(what, plain(), Always, change, expected);
    };
    case("nothing", |_| {}, &[]);
    case("a cut", |s| s.lines[0].steps.insert(4, Cut), &[]);
    case("loss", |s| s.lines[0].lose(4), &[Fault::Lost]);
    case("loss of the first", |s| s.lines[0].lose(0), &[Fault::Lost]);
    case(
        "loss of the last, not noticed by the cursor",
        |s| s.lines[0].lose(9),
        &[Fault::Lost],
    );
    case(
        "loss for everyone",
        |s| s.lines.iter_mut().for_each(|line| line.lose(4)),
        &[Fault::Lost],
    );
    case(
        "stays behind",
        |s| {
            s.lines[0].steps.pop();
            s.lines[0].end = at(7, 17);
        },
        &[Fault::DidNotCatchUp],
    );
    case(
        "repeat",
        |s| s.lines[0].steps.insert(5, plain().lines[0].steps[4]),
        &[Fault::Repeated],
    );
    case(
        "late repeat",
        |s| s.lines[0].steps.push(plain().lines[0].steps[0]),
        &[Fault::Repeated],
    );
    case(
        "older than the beginning",
        |s| s.lines[0].begin = at(7, 1),
        &[Fault::Backwards],
    );
    case("swap", |s| s.lines[0].steps.swap(4, 5), &[Fault::Backwards]);
    case(
        "another order of payloads",
        |s| {
            s.lines[0].steps[4] = Heard(at(7, 9), Some(payload(1, 10)));
            s.lines[0].steps[5] = Heard(at(7, 11), Some(payload(0, 8)));
        },
        &[Fault::Misplaced],
    );
    case(
        "an offset that the answer contradicts, for everyone",
        |s| {
            for line in [0, 2, 4] {
                s.lines[line].steps[4] = Heard(at(7, 10), Some(payload(0, 8)));
            }
        },
        &[Fault::Misplaced, Fault::Lost],
    );
    case(
        "two payloads answered with one place",
        |s| s.sent[2].answer = Answer::Accepted(at(7, 1)),
        &[Fault::Misplaced],
    );
    case(
        "phantom",
        |s| s.lines[0].steps.insert(5, Heard(at(7, 10), Some(payload(9, 9)))),
        &[Fault::NeverSent],
    );
    case(
        "strange text",
        |s| s.lines[0].steps.insert(5, Heard(at(7, 10), None)),
        &[Fault::NeverSent],
    );
    case(
        "leak from another app",
        |s| s.lines[0].steps.insert(5, plain().lines[1].steps[4]),
        &[Fault::WrongChannel],
    );
    case(
        "what was refused",
        |s| s.sent[8].answer = Answer::Refused,
        &[Fault::Refused],
    );
    case(
        "order of a publisher",
        |s| {
            let [one, other] = [s.sent[0].answer, s.sent[4].answer];
            (s.sent[0].answer, s.sent[4].answer) = (other, one);
            for line in [0, 2, 4] {
                s.lines[line].steps[0] = Heard(at(7, 1), Some(payload(0, 4)));
                s.lines[line].steps[2] = Heard(at(7, 5), Some(payload(0, 0)));
            }
        },
        &[Fault::PublisherOrder],
    );
    case("unknown, and there", |s| s.sent[8].answer = Answer::Unknown, &[]);
    case(
        "unknown, and there for all but one",
        |s| {
            s.sent[8].answer = Answer::Unknown;
            s.lines[4].steps.remove(4);
        },
        &[Fault::Lost],
    );
    case(
        "unknown, and not there",
        |s| {
            s.sent[8].answer = Answer::Unknown;
            for line in [0, 2, 4] {
                s.lines[line].steps.remove(4);
            }
        },
        &[],
    );
    case(
        "unknown, and there twice",
        |s| {
            s.sent[8].answer = Answer::Unknown;
            for line in [0, 2, 4] {
                s.lines[line]
                    .steps
                    .insert(5, Heard(at(7, 10), Some(payload(0, 8))));
            }
        },
        &[Fault::Misplaced],
    );
    case(
        "said by a lineage, which hears it",
        |s| s.sent[8].speaker = Some(0),
        &[Fault::HeardItself],
    );
    case(
        "said by a lineage, which does not hear it",
        |s| {
            s.sent[8].speaker = Some(0);
            s.sent[8].answer = Answer::Taken;
            s.lines[0].steps.remove(4);
        },
        &[],
    );
    case(
        "said by a lineage, and nobody hears it",
        |s| {
            s.sent[8].speaker = Some(0);
            s.sent[8].answer = Answer::Taken;
            for line in [0, 2, 4] {
                s.lines[line].steps.remove(4);
            }
        },
        &[Fault::Lost],
    );
    case(
        "another epoch without a flag",
        |s| {
            s.lines[0].steps.truncate(9);
            s.lines[0].steps.push(Heard(at(8, 1), Some(payload(1, 18))));
            s.lines[0].end = at(8, 1);
        },
        &[Fault::SilentEpoch, Fault::Misplaced],
    );
}

#[test]
fn flags_cover_what_they_cover_and_no_more() {
    use FlagsAllowed::{Always, Never, WithNewEpoch};
    // 5 and 7 missing, and a flag: steps 0 and 1, the flag, then 9 and so on.
    let skip = |to: Option<Position>| {
        let mut script = plain();
        script.lines[0].steps.splice(2..4, [Cut, Gap(to)]);
        script
    };
    for to in [Some(at(7, 7)), Some(at(7, 8)), None] {
        check("a flag", skip(to), Always, |_| {}, &[]);
        let again = |s: &mut Script| s.lines[0].steps.insert(3, Gap(None));
        check("flagged twice before the next", skip(to), Always, again, &[]);
        for flags in [Never, WithNewEpoch] {
            let change = |s: &mut Script| *s = skip(to);
            check("a needless flag", plain(), flags, change, &[Fault::NeedlessGap]);
        }
    }
    check(
        "loss behind a flag",
        skip(Some(at(7, 7))),
        Always,
        |s| s.lines[0].lose(4),
        &[Fault::Lost],
    );
    check(
        "a flag that covers too little",
        skip(Some(at(7, 7))),
        Always,
        |s| s.lines[0].steps[3] = Gap(Some(at(7, 6))),
        &[Fault::Lost],
    );
    check(
        "something older than the flag",
        skip(Some(at(7, 7))),
        Always,
        |s| s.lines[0].steps[3] = Gap(Some(at(7, 9))),
        &[Fault::Backwards],
    );
    check(
        "a flag that leads back",
        skip(Some(at(7, 7))),
        Always,
        |s| s.lines[0].steps.insert(8, Gap(Some(at(7, 1)))),
        &[Fault::Backwards],
    );
    check(
        "a flag to the end",
        plain(),
        Always,
        |s| {
            s.lines[0].steps.truncate(5);
            s.lines[0].steps.push(Gap(Some(at(7, 20))));
        },
        &[],
    );
    check(
        "a flag to nowhere",
        plain(),
        Always,
        |s| {
            s.lines[0].steps.truncate(5);
            s.lines[0].steps.push(Gap(None));
            s.lines[0].end = at(7, 9);
        },
        &[Fault::DidNotCatchUp],
    );
}

#[test]
fn who_was_away_too_long_is_told_first() {
    use FlagsAllowed::Always;
    let away = |steps: &[Step]| {
        let mut script = plain();
        script.lines[0].steps.splice(4..4, steps.iter().copied());
        script
    };
    let told = Gap(Some(at(7, 8)));
    for (what, steps) in [
        ("told", &[Absent, told][..]),
        ("told without a place", &[Cut, Absent, Gap(None)]),
        ("away twice, told once", &[Absent, Cut, Absent, told]),
        ("told twice", &[Absent, told, told]),
    ] {
        check(what, away(steps), Always, |_| {}, &[]);
    }
    for (what, steps) in [
        ("not told", &[Absent][..]),
        ("told before it left", &[told, Absent]),
        ("told the first time only", &[Absent, told, Absent]),
    ] {
        let change = |s: &mut Script| *s = away(steps);
        check(what, plain(), Always, change, &[Fault::SilentReturn]);
    }
    check(
        "told too late",
        plain(),
        Always,
        |s| {
            s.lines[0].steps.insert(4, Absent);
            s.lines[0].steps.insert(6, Gap(Some(at(7, 9))));
        },
        &[Fault::SilentReturn],
    );
    let report = away(&[Absent, Absent, told]).history().judge(Always);
    assert_eq!(report.summary.returns, 2);
}

#[test]
fn a_new_epoch_needs_a_flag_and_gives_no_licence() {
    use FlagsAllowed::{Always, Never, WithNewEpoch};
    let faults = two_epochs().faults(Never);
    assert_eq!(
        faults,
        BTreeSet::from([Fault::NeedlessGap]),
        "an epoch that must not change"
    );
    for flags in [WithNewEpoch, Always] {
        let case = |what, change: fn(&mut Script), expected: &[Fault]| {
            check(what, two_epochs(), flags, change, expected);
        };
        case("the old epoch's end is gone", |s| s.lines[0].lose(4), &[]);
        case("a flag without a place", |s| s.lines[0].steps[5] = Gap(None), &[]);
        case("no flag", |s| s.lines[0].lose(5), &[Fault::SilentEpoch]);
        case("loss behind the change", |s| s.lines[0].lose(6), &[Fault::Lost]);
        case("loss before the change", |s| s.lines[0].lose(3), &[Fault::Lost]);
        case(
            "back to the old epoch",
            |s| s.lines[0].steps.insert(7, plain().lines[0].steps[2]),
            &[Fault::Repeated],
        );
    }
}

#[test]
fn what_the_driver_saw_is_counted_and_broken_wire_is_a_finding() {
    let mut script = two_epochs();
    script.sent[3].answer = Answer::Unknown;
    script.lines[0].steps.insert(2, Cut);
    let mut history = script.history();
    history.broken(None, "a picture instead of JSON".to_owned());
    let report = history.judge(FlagsAllowed::Always);
    assert_eq!(report.counts.keys().copied().collect::<Vec<_>>(), [Fault::Broken]);
    assert!(report.findings[0].text.contains("a picture"));
    let summary = report.summary;
    assert_eq!((summary.sent, summary.accepted, summary.unknown), (20, 19, 1));
    assert_eq!((summary.deliveries, summary.gaps, summary.cuts), (60, 6, 1));
}

#[test]
fn findings_are_kept_within_bounds_and_all_counted() {
    let mut script = plain();
    for line in &mut script.lines {
        line.steps.clear();
    }
    let report = script.history().judge(FlagsAllowed::Never);
    assert_eq!(report.counts[&Fault::Lost], 60);
    assert!(report.findings.len() < 60);
}

#[test]
fn positions_are_read_as_they_are_written() {
    for text in ["6f2k-42", "0-0", "zz-18446744073709551615"] {
        assert_eq!(text.parse::<Position>().unwrap().to_string(), text);
    }
    for text in ["", "-", "6f2k", "6f2k-", "6f2k-x", "?-1"] {
        assert!(text.parse::<Position>().is_err(), "{text}");
    }
}

/// A random clean history. The first lineage of each channel hears everything, so that nothing that
/// was heard is known to one lineage alone.
fn random_script(random: &mut Random, flags: FlagsAllowed) -> Script {
    let mut script = Script {
        channels: vec!["app/a", "app/b", "other/a"],
        ..Script::default()
    };
    let epochs = 1 + u64::from(flags != FlagsAllowed::Never);
    let (lines_each, count) = (4, 40 + random.below(40));
    let mut sequences = [0; 3];
    for epoch in 0..epochs {
        let mut offset = 0;
        for number in 0..count {
            let publisher = random.below(3) as usize;
            // The last ones of all are certain, one on each channel.
            let last = epoch + 1 == epochs && number + 3 >= count;
            let channel = if last { number + 3 - count } else { random.below(3) } as usize;
            let kind = if last { 9 } else { random.below(10) };
            offset += 1 + random.below(3);
            let place = at(20 - epoch, offset);
            let (answer, there, speaker) = match kind {
                0 => (Answer::Refused, false, false),
                1 => (Answer::Unknown, false, false),
                2 => (Answer::Unknown, true, random.one_in(2)),
                3 => (Answer::Taken, true, true),
                _ => (Answer::Accepted(place), true, false),
            };
            script.sent.push(Sent {
                payload: payload(publisher as u32, sequences[publisher]),
                channel,
                speaker: speaker.then(|| channel + 3 * (1 + random.below(lines_each - 1) as usize)),
                answer,
                at: there.then_some(place),
            });
            sequences[publisher] += 1;
        }
    }
    for number in 0..3 * lines_each as usize {
        let line = random_line(random, &script, number, flags);
        script.lines.push(line);
    }
    script
}

fn random_line(random: &mut Random, script: &Script, number: usize, flags: FlagsAllowed) -> Line {
    let channel = number % 3;
    let is_witness = number < 3;
    let ordered = script.ordered(channel);
    let late = if is_witness {
        0
    } else {
        random.below(ordered.len() as u64 / 2)
    };
    let begin = match late {
        0 => at(20, 0),
        late => ordered[late as usize - 1].at.unwrap(),
    };
    let mut line = Line {
        channel,
        begin,
        steps: Vec::new(),
        end: script.sent.iter().rev().find_map(|sent| sent.at).unwrap(),
    };
    let mut epoch = begin.epoch;
    let mut missing = 0;
    for (here, sent) in ordered.iter().enumerate().skip(late as usize) {
        let place = sent.at.unwrap();
        if place.epoch != epoch {
            epoch = place.epoch;
            missing = 0;
            let to = (is_witness || random.one_in(2)).then(|| at(epoch, random.below(place.offset)));
            line.steps.push(Gap(to));
        }
        if random.one_in(8) {
            line.steps.push(Cut);
        }
        let may_skip = flags == FlagsAllowed::Always && !is_witness && here + 1 < ordered.len();
        if may_skip && (missing > 0 || random.one_in(15)) {
            missing += 1;
            let must_tell = here + 2 == ordered.len();
            if ordered[here + 1].at.unwrap().epoch == epoch && (must_tell || random.one_in(2)) {
                line.steps.push(Gap(random.one_in(2).then_some(place)));
                missing = 0;
            }
        } else if sent.speaker != Some(number) {
            line.steps.push(Heard(place, Some(sent.payload)));
        }
    }
    line
}

/// Damages one lineage in one place; says how. `None`: what was drawn does not apply here.
fn damage(random: &mut Random, script: &mut Script, flags: FlagsAllowed) -> Option<String> {
    let number = 3 + random.below(script.lines.len() as u64 - 3) as usize;
    let others: Vec<Payload> = (script.sent.iter())
        .filter(|sent| sent.channel != script.lines[number].channel)
        .map(|sent| sent.payload)
        .collect();
    let refused = script.sent.iter().find(|sent| sent.answer == Answer::Refused)?;
    let (refused, refused_channel) = (refused.payload, refused.channel);
    let own = (script.sent.iter()).find(|sent| sent.speaker == Some(number) && sent.at.is_some());
    let own = own.map(|sent| Heard(sent.at.unwrap(), Some(sent.payload)));
    let line = &mut script.lines[number];
    let heard = line.heard();
    let which = random.below(heard.len().checked_sub(1)? as u64) as usize;
    let (here, next) = (heard[which], heard[which + 1]);
    let Heard(place, payload) = line.steps[here] else {
        return None;
    };
    let kind = random.below(12);
    match kind {
        0 => {
            // Next to a flag a loss looks like a wider flag.
            let behind = line.steps[here + 1..].iter().find(|step| **step != Cut);
            let before = line.steps[..here].iter().rfind(|step| **step != Cut);
            let is_covered = matches!(behind, Some(Gap(_))) || before == Some(&Gap(None));
            (!is_covered).then(|| line.steps.remove(here))?;
        }
        1 => line.steps.insert(here + 1, line.steps[here]),
        2 => line.steps.insert(next + 1, line.steps[here]),
        3 => line.steps.swap(here, next),
        4 => {
            let Heard(other, exchanged) = line.steps[next] else {
                return None;
            };
            line.steps[here] = Heard(place, exchanged);
            line.steps[next] = Heard(other, payload);
        }
        5 => line.steps[here] = Heard(place, Some(others[random.below(others.len() as u64) as usize])),
        6 => {
            let (publisher, sequence) = (77, 0);
            let phantom = Payload { publisher, sequence };
            line.steps[here] = Heard(place, random.one_in(2).then_some(phantom));
        }
        7 => line.steps[here] = Heard(at(place.epoch, place.offset + 1), payload),
        8 => line.steps[here] = Heard(at(99, place.offset), payload),
        9 if flags != FlagsAllowed::Always => line.steps.insert(here + 1, Gap(Some(place))),
        10 if refused_channel == line.channel => line.steps[here] = Heard(place, Some(refused)),
        11 => line.steps.insert(here, own?),
        _ => return None,
    }
    Some(format!("kind {kind} at step {here} of line {number}"))
}

#[test]
fn clean_histories_have_no_finding_and_any_one_change_has() {
    use FlagsAllowed::{Always, Never, WithNewEpoch};
    let mut damaged = 0;
    for seed in 0..3_000 {
        let mut random = Random::new(seed);
        let flags = [Never, WithNewEpoch, Always][seed as usize % 3];
        let clean = random_script(&mut random, flags);
        let report = clean.history().judge(flags);
        assert!(report.is_clean(), "seed {seed}, {flags:?}:\n{report}");
        for _ in 0..4 {
            let mut script = clean.clone();
            if let Some(how) = damage(&mut random, &mut script, flags) {
                damaged += 1;
                let faults = script.faults(flags);
                assert!(!faults.is_empty(), "seed {seed}, {flags:?}: {how} was not found");
            }
        }
    }
    assert!(damaged > 8_000, "only {damaged} were damaged");
}
