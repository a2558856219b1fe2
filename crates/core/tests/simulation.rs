//! Shards, streams and listeners in one thread under a seed: every promise about order and loss,
//! in interleavings that nobody thought of.
//!
//! A seed decides everything: who listens to what, when a connection is cut (in the midst of a frame
//! too), how much a shard takes from its mailbox at a time, what is kept, when time passes, and, in
//! one seed of three, what is lost, doubled or reordered on the way to a shard. The oracle
//! (`world/judge.rs`) knows only what was published and what each listener saw.
//!
//! `FANFARE_SIMULATION_SEEDS` says how many seeds are tried, `FANFARE_SIMULATION_SEED` repeats one.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod world;

use world::{Bug, Report, World};

const SEEDS: u64 = 20_000;

/// Runs one seed to its end; the steps it took, and what is wrong.
fn run(seed: u64, bug: Option<Bug>) -> (Report, Vec<String>) {
    let mut world = World::new(seed, bug);
    world.run();
    world.judge()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn every_promise_holds_in_every_seed() {
    let seeds = match number("FANFARE_SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("FANFARE_SIMULATION_SEEDS").unwrap_or(SEEDS),
    };
    let mut total = Report::default();
    for seed in seeds {
        let (report, wrong) = run(seed, None);
        assert!(
            wrong.is_empty(),
            "FANFARE_SIMULATION_SEED={seed}: {} things are wrong, first {}",
            wrong.len(),
            wrong[0]
        );
        total.add(&report);
    }
    println!("{total:?}");
    if number("FANFARE_SIMULATION_SEED").is_none() {
        // What is never tried cannot fail.
        assert!(total.all_above_zero(), "{total:?}");
    }
}

#[test]
fn a_seed_always_takes_the_same_way() {
    for seed in 0..20 {
        assert_eq!(run(seed, None), run(seed, None));
    }
}

#[test]
fn planted_bugs_are_found() {
    for bug in Bug::ALL {
        let found = (0..SEEDS).find(|seed| !run(*seed, Some(bug)).1.is_empty());
        let Some(seed) = found else {
            panic!("{bug:?} was not found in {SEEDS} seeds");
        };
        println!("{bug:?}: seed {seed}: {}", run(seed, Some(bug)).1[0]);
    }
}
