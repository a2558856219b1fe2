//! Every order of events of small cases, or every order with at most so many preemptions: switches
//! away from a thread that could have gone on. With `FANFARE_PROOFS=full`, more of them.

#![cfg(feature = "loom")]
#![allow(missing_docs, clippy::unwrap_used, clippy::semicolon_if_nothing_returned)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize as Count, Ordering};

use bytes::Bytes;
use fanfare_core::frames::Frames;
use fanfare_core::publication::{Publication, WireForm};
use fanfare_core::sync::AtomicUsize;
use fanfare_proofs::house::{
    Accepted, Entering, FAULTY_ENGINES, MakeEngine, Place, Shard, empty, engine, judge, mailboxes, publish,
};
use fanfare_proofs::post::{Post, letter};
use fanfare_proofs::report::{Tried, finds, full};
use fanfare_proofs::{planted, shard};
use loom::thread;

/// Preemptions at most, always and with `FANFARE_PROOFS=full`; `None` is any number of them.
type Bounds = [Option<usize>; 2];

/// So few orders that no bound is needed.
const ALL: Bounds = [None, None];

const MANY: Bounds = [Some(5), None];

/// Where all orders would take hours. Two preemptions show most faults that there are: Musuvathi and Qadeer, PLDI
/// 2007.
const MOST: Bounds = [Some(2), Some(4)];

/// Runs `case` in every order of its events within the bounds.
fn every_order(bounds: Bounds, tried: &Tried, case: impl Fn() + Send + Sync + 'static) {
    let counted = tried.clone();
    let mut model = loom::model::Builder::new();
    model.preemption_bound = bounds[usize::from(full())];
    model.check(move || {
        counted.one();
        case();
    });
}

/// Proves something of what ships, and says in how many orders it held.
fn holds(what: &str, bounds: Bounds, proof: impl FnOnce(Bounds, &Tried)) {
    let tried = Tried::default();
    proof(bounds, &tried);
    let bound = bounds[usize::from(full())];
    let bound = bound.map_or_else(|| "all".to_owned(), |bound| format!("preemptions up to {bound}"));
    tried.say(&format!("loom: {what}: {bound}"));
}

/// Nothing is lost, doubled or reordered between those who push, so many each, and the one who
/// takes and sleeps.
fn pushed_and_taken<M: Post>(pushes: &'static [u64], bounds: Bounds, tried: &Tried) {
    every_order(bounds, tried, move || {
        let mailbox = Arc::new(M::with_bounds(100, 100));
        let push = |(who, &count): (u64, &u64)| {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || {
                for number in 1..=count {
                    assert!(mailbox.reserve(1));
                    mailbox.push(letter(who * 10 + number));
                }
            })
        };
        let threads: Vec<_> = (1..).zip(pushes).map(push).collect();
        let mut got: Vec<Place> = Vec::new();
        let mut taken = Vec::new();
        while (got.len() as u64) < pushes.iter().sum() {
            mailbox.sleep();
            mailbox.take(&mut taken);
            for publication in taken.drain(..) {
                got.push(publication.offset.get());
                mailbox.release(1);
            }
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        for (who, &count) in (1..).zip(pushes) {
            let of_one = got.iter().copied().filter(|place| place / 10 == who);
            assert!(
                of_one.eq(who * 10 + 1..=who * 10 + count),
                "pushed {pushes:?}, taken {got:?}"
            );
        }
        assert_eq!(mailbox.counted(), (0, 0));
    });
}

#[test]
fn a_mailbox_loses_and_reorders_nothing() {
    let proof = pushed_and_taken::<shard::mailbox::Mailbox>;
    holds("two push", MANY, |bounds, tried| proof(&[1, 1], bounds, tried));
    holds("one pushes three", MANY, |bounds, tried| {
        proof(&[3], bounds, tried)
    });
    holds("three push four", MOST, |bounds, tried| {
        proof(&[2, 1, 1], bounds, tried)
    });
}

#[test]
fn lost_wakes_are_found() {
    finds("wake_before_push", "deadlock", |tried| {
        pushed_and_taken::<planted::wake_before_push::Mailbox>(&[1], MANY, tried);
    });
    finds("wake_judged_after_unlock", "deadlock", |tried| {
        pushed_and_taken::<planted::wake_judged_after_unlock::Mailbox>(&[1, 1], MANY, tried);
    });
}

/// Never more places are given than the two, or more bytes than the four, that there are; and all
/// come back. Each thread asks for publications of these sizes.
fn reserved_and_released<M: Post>(sizes: &'static [&'static [usize]], bounds: Bounds, tried: &Tried) {
    every_order(bounds, tried, move || {
        let mailbox = Arc::new(M::with_bounds(2, 4));
        // Counted after a place was given and until before it is given back: never more than is given.
        let held = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
        let ask = |sizes: &&'static [usize]| {
            let (mailbox, held, sizes) = (Arc::clone(&mailbox), Arc::clone(&held), *sizes);
            thread::spawn(move || {
                for &bytes in sizes {
                    if mailbox.reserve(bytes) {
                        assert!(held.0.fetch_add(1, Ordering::AcqRel) < 2, "one too many");
                        assert!(
                            held.1.fetch_add(bytes, Ordering::AcqRel) + bytes <= 4,
                            "bytes too many"
                        );
                        held.1.fetch_sub(bytes, Ordering::AcqRel);
                        held.0.fetch_sub(1, Ordering::AcqRel);
                        mailbox.release(bytes);
                    }
                }
            })
        };
        let threads: Vec<_> = sizes.iter().map(ask).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(mailbox.counted(), (0, 0));
    });
}

#[test]
fn a_mailbox_has_no_more_places_than_it_has() {
    let proof = reserved_and_released::<shard::mailbox::Mailbox>;
    holds("three reserve, places for two", MOST, |bounds, tried| {
        proof(&[&[1], &[1], &[1]], bounds, tried)
    });
    holds("two reserve, bytes for one", ALL, |bounds, tried| {
        proof(&[&[3], &[2]], bounds, tried)
    });
    holds("two reserve twice", MANY, |bounds, tried| {
        proof(&[&[3, 1], &[2, 4]], bounds, tried)
    });
}

#[test]
fn too_many_places_are_found() {
    let proof = reserved_and_released::<planted::room_judged_before_counting::Mailbox>;
    finds("room_judged_before_counting", "bytes too many", |tried| {
        proof(&[&[3], &[2]], ALL, tried)
    });
    finds("room_judged_before_counting", "one too many", |tried| {
        proof(&[&[1], &[1], &[1]], MOST, tried)
    });
}

/// So many besides this thread ask for the same frame at once: one makes it, all share it. Another
/// form is another frame.
fn made_once<F: Default + Send + Sync + 'static>(
    get: fn(&F, WireForm, &dyn Fn() -> Bytes) -> Bytes,
    others: usize,
    tried: &Tried,
) {
    every_order(ALL, tried, move || {
        let frames = Arc::new((F::default(), Count::new(0)));
        let ask = move |frames: &(F, Count), form: WireForm| {
            get(&frames.0, form, &|| {
                frames.1.fetch_add(1, Ordering::Relaxed);
                Bytes::from(format!("{form:?}"))
            })
        };
        let other = |_| {
            let frames = Arc::clone(&frames);
            thread::spawn(move || ask(&frames, WireForm::WebSocketRaw))
        };
        let threads: Vec<_> = (0..others).map(other).collect();
        let own = ask(&frames, WireForm::WebSocketRaw);
        let of_other_form = ask(&frames, WireForm::EventStreamRaw);
        assert_eq!(
            (&own[..], &of_other_form[..]),
            (&b"WebSocketRaw"[..], &b"EventStreamRaw"[..])
        );
        let got: Vec<Bytes> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(frames.1.load(Ordering::Relaxed), 2, "made more than once");
        for got in got {
            assert_eq!(
                (got.as_ptr(), got.len()),
                (own.as_ptr(), own.len()),
                "not the same bytes"
            );
        }
    });
}

#[test]
fn a_frame_is_made_once_and_shared() {
    let get = |frames: &Frames, form, make: &dyn Fn() -> Bytes| frames.get_or_make(form, make);
    holds("two ask for a frame", ALL, |_, tried| made_once(get, 1, tried));
    holds("three ask for a frame", ALL, |_, tried| made_once(get, 2, tried));
}

#[test]
fn frames_made_twice_are_found() {
    let get = |frames: &planted::looked_before_making::Frames, form, make: &dyn Fn() -> Bytes| {
        frames.get_or_make(form, make)
    };
    finds("looked_before_making", "made more than once", |tried| {
        made_once(get, 1, tried)
    });
}

#[test]
fn shards_share_the_frame_of_a_publication() {
    fn encode(publication: &Publication) -> Bytes {
        publication.encoded(&publication.places()[0], WireForm::WebSocketMeta)
    }
    holds("three encode a publication", ALL, |bounds, tried| {
        every_order(bounds, tried, || {
            let publication = letter(1);
            let other = |_| {
                let publication = Arc::clone(&publication);
                thread::spawn(move || encode(&publication))
            };
            let threads: Vec<_> = (0..2).map(other).collect();
            let own = encode(&publication);
            for thread in threads {
                assert_eq!(
                    thread.join().unwrap().as_ptr(),
                    own.as_ptr(),
                    "not the same bytes"
                );
            }
        });
    });
}

/// Listeners come while others publish.
#[derive(Clone, Copy)]
struct Case {
    make: MakeEngine,
    /// Each on a thread; on each a listener comes.
    shards: usize,
    /// Each on a thread, publishing so often.
    publishers: &'static [u64],
    /// Each shard has a listener already.
    another: bool,
    /// Before the listener, somebody else comes and leaves again.
    visitor: bool,
    entering: Entering,
}

const CASE: Case = Case {
    make: engine,
    shards: 1,
    publishers: &[1, 1],
    another: false,
    visitor: false,
    entering: Entering::AsShipped,
};

/// Whoever is in hears all that is ordered behind the position it was told, and nothing else, and
/// afterwards nobody is counted any more. What counts is written in [`judge`].
fn entered_while_published(case: Case, bounds: Bounds, tried: &Tried) {
    every_order(bounds, tried, move || {
        let mailboxes = mailboxes(case.shards, 100);
        let engine = (case.make)(&mailboxes);
        let last: u64 = case.publishers.iter().sum();
        let open = |index| {
            let mut shard = Shard::new(index, &engine, &mailboxes);
            shard.entering = case.entering;
            if case.another {
                shard.enter(0, &["a"], None);
            }
            shard
        };
        let mut shards: Vec<Shard> = (0..case.shards).map(open).collect();
        let publisher = |&count: &u64| {
            let engine = Arc::clone(&engine);
            thread::spawn(move || -> Vec<Place> {
                (0..count).map(|_| publish(&*engine, &["a"]).unwrap()).collect()
            })
        };
        let publishers: Vec<_> = case.publishers.iter().map(publisher).collect();
        let live = move |mut shard: Shard| {
            if case.visitor {
                shard.enter(2, &["a"], None);
                shard.leave(2);
            }
            shard.enter(1, &["a"], None);
            // What is lost would be waited for without end, which is found.
            while shard.lacks(0, last) || shard.lacks(1, last) {
                shard.sleep_then_deliver();
            }
            // What comes for a visitor who has left comes too late for a wake that is waited for.
            shard.deliver();
            shard.close()
        };
        let own = shards.remove(0);
        let others: Vec<_> = shards
            .into_iter()
            .map(|shard| thread::spawn(move || live(shard)))
            .collect();
        let mut stays = live(own);
        let mut accepted = Accepted::new();
        for publisher in publishers {
            let places = publisher.join().unwrap();
            assert!(places.is_sorted());
            accepted.extend(places.into_iter().map(|place| (place, &["a"][..])));
        }
        for other in others {
            stays.extend(other.join().unwrap());
        }
        judge(&accepted, &stays);
        empty(&*engine, &mailboxes, &["a"]);
    });
}

#[test]
fn who_has_entered_hears_all_of_after_and_nothing_of_before() {
    let proof = entered_while_published;
    holds("one enters, two publish", MOST, |bounds, tried| {
        proof(CASE, bounds, tried)
    });
    let one_publisher = Case {
        publishers: &[2],
        ..CASE
    };
    let beside_another = Case {
        another: true,
        ..one_publisher
    };
    holds("one enters beside another", MANY, |bounds, tried| {
        proof(beside_another, bounds, tried)
    });
    let two_shards = Case {
        shards: 2,
        ..one_publisher
    };
    holds("one enters on each of two shards", MOST, |bounds, tried| {
        proof(two_shards, bounds, tried)
    });
    let behind_a_visitor = Case {
        visitor: true,
        ..one_publisher
    };
    holds("one enters behind a visitor", MOST, |bounds, tried| {
        proof(behind_a_visitor, bounds, tried)
    });
}

#[test]
fn faults_of_an_engine_are_found() {
    let proof = entered_while_published;
    // The others harm only those who come back, or need announcements: see shuttle.rs.
    let [(reorders, reordering), (overlooks, overlooking), ..] = FAULTY_ENGINES;
    let case = Case {
        make: reordering,
        another: true,
        ..CASE
    };
    finds(reorders, "should have heard", |tried| proof(case, MOST, tried));
    let case = Case {
        make: overlooking,
        ..CASE
    };
    finds(overlooks, "deadlock", |tried| proof(case, MOST, tried));
}

#[test]
fn faults_of_entering_are_found() {
    let proof = entered_while_published;
    let delivering = Case {
        entering: Entering::Delivering,
        ..CASE
    };
    finds("delivering while entering", "should have heard", |tried| {
        proof(delivering, MOST, tried)
    });
    let forgetting = Case {
        entering: Entering::Forgetting,
        another: true,
        ..CASE
    };
    finds("forgetting the position", "should have heard", |tried| {
        proof(forgetting, MOST, tried)
    });
}
