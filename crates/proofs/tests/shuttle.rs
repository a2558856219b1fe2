//! A whole house under a great many orders of events: two shards, two publishers, listeners who
//! come, go and come back, mailboxes small enough to refuse.
//!
//! Orders are chosen in two ways. With `FANFARE_PROOFS=full` there are ten times as many.

#![cfg(all(feature = "shuttle", not(feature = "loom")))]
#![allow(missing_docs, clippy::unwrap_used, clippy::semicolon_if_nothing_returned)]

use std::sync::{Arc, Mutex};

use fanfare_proofs::house::{
    APP, Accepted, END, Entering, FAULTY_ENGINES, MakeEngine, Place, Shard, Stay, channel, empty, engine,
    judge, mailboxes, publish_all,
};
use fanfare_proofs::report::{Tried, finds, full};
use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;

/// Orders to try in each of the two ways.
const SCHEDULES: usize = 100_000;

/// Publications that may wait for one shard, so few that some are refused.
const PLACES: usize = 3;

type Channels = &'static [&'static str];

/// What listeners listen to, and what is published to: the last only that.
const AUDIENCES: [Channels; 4] = [&["a"], &["b"], &["a", "b"], &["*"]];

/// Who has left, with what it had seen: it may come back on any shard.
type Returners = Arc<Mutex<Vec<(Channels, Place)>>>;

/// Publishes until all is accepted; a full mailbox means to try again.
fn insist(engine: &dyn fanfare_proofs::engine::Engine, batch: &[Channels], accepted: &mut Accepted) {
    loop {
        if let Ok(places) = publish_all(engine, batch) {
            assert!(places.is_sorted() && accepted.keys().next_back() < places.first());
            accepted.extend(places.into_iter().zip(batch.iter().copied()));
            return;
        }
        thread::yield_now();
    }
}

/// Something happens on a shard: somebody comes, goes or comes back, or a socket woke it.
fn step(shard: &mut Shard, there: &mut [Option<Channels>; 3], returners: &Returners) {
    let slot = thread_rng().gen_range(0..there.len());
    // Slot 0 is for who waits for the end.
    let number = u32::try_from(slot).unwrap() + 1;
    match (there[slot].take(), thread_rng().gen_range(0..4)) {
        (Some(channels), 0 | 1) => {
            let seen = shard.leave(number);
            returners.lock().unwrap().push((channels, seen));
        }
        (None, 0) => {
            let channels = AUDIENCES[thread_rng().gen_range(0..AUDIENCES.len() - 1)];
            shard.enter(number, channels, None);
            there[slot] = Some(channels);
        }
        (None, 1 | 2) => {
            let returner = returners.lock().unwrap().pop();
            if let Some((channels, seen)) = returner {
                shard.enter(number, channels, Some(seen));
                there[slot] = Some(channels);
            }
        }
        (still, _) => {
            there[slot] = still;
            shard.deliver();
        }
    }
}

fn live(mut shard: Shard, returners: &Returners) -> Vec<Stay> {
    // The first to come meets a shard that nothing is sent to yet.
    shard.enter(0, &[END], None);
    let mut there = [None; 3];
    for _ in 0..6 {
        step(&mut shard, &mut there, returners);
    }
    while !shard.ended {
        // A wake that was lost would be waited for without end, which is found.
        shard.sleep_then_deliver();
        step(&mut shard, &mut there, returners);
    }
    shard.close()
}

fn house(make: MakeEngine, entering: Entering) {
    let mailboxes = mailboxes(2, PLACES);
    let engine = make(&mailboxes);
    let returners = Returners::default();
    let shards: Vec<_> = (0..2)
        .map(|index| {
            let mut shard = Shard::new(index, &engine, &mailboxes);
            shard.entering = entering;
            let returners = Arc::clone(&returners);
            thread::spawn(move || live(shard, &returners))
        })
        .collect();
    let publishers: Vec<_> = (0..2)
        .map(|_| {
            let engine = Arc::clone(&engine);
            thread::spawn(move || {
                let mut accepted = Accepted::new();
                for _ in 0..2 {
                    let audience = || AUDIENCES[thread_rng().gen_range(0..AUDIENCES.len())];
                    let batch = [audience(), audience()];
                    insist(&*engine, &batch[..thread_rng().gen_range(1..3)], &mut accepted);
                }
                accepted
            })
        })
        .collect();
    let mut accepted = Accepted::new();
    for publisher in publishers {
        accepted.extend(publisher.join().unwrap());
    }
    while engine.listeners(APP, &[channel(END)]) < 2 {
        thread::yield_now();
    }
    insist(&*engine, &[&[END]], &mut accepted);
    let stays: Vec<Stay> = shards
        .into_iter()
        .flat_map(|shard| shard.join().unwrap())
        .collect();
    judge(&accepted, &stays);
    empty(&*engine, &mailboxes, &["a", "b", END]);
}

fn schedules() -> usize {
    if full() { 10 * SCHEDULES } else { SCHEDULES }
}

#[test]
fn everyone_hears_what_is_theirs_in_orders_chosen_at_random() {
    let tried = Tried::default();
    let counted = tried.clone();
    shuttle::check_random(
        move || {
            counted.one();
            house(engine, Entering::AsShipped);
        },
        schedules(),
    );
    tried.say("shuttle: a whole house, at random");
}

#[test]
fn everyone_hears_what_is_theirs_in_orders_with_few_switches() {
    let tried = Tried::default();
    let counted = tried.clone();
    // Probabilistic concurrency testing: Burckhardt and others, ASPLOS 2010.
    shuttle::check_pct(
        move || {
            counted.one();
            house(engine, Entering::AsShipped);
        },
        schedules(),
        3,
    );
    tried.say("shuttle: a whole house, by priorities");
}

#[test]
fn planted_faults_are_found() {
    let run = |make: MakeEngine, entering: Entering, tried: &Tried| {
        let counted = tried.clone();
        shuttle::check_random(
            move || {
                counted.one();
                house(make, entering);
            },
            SCHEDULES,
        );
    };
    for (fault, make) in FAULTY_ENGINES {
        finds(fault, "should have heard", |tried| {
            run(make, Entering::AsShipped, tried)
        });
    }
    for (fault, entering) in [
        ("delivering while entering", Entering::Delivering),
        ("forgetting the position", Entering::Forgetting),
    ] {
        finds(fault, "should have heard", |tried| run(engine, entering, tried));
    }
}
