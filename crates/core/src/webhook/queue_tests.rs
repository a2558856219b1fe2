//! Who is sent what, whatever fails.

use proptest::prelude::*;

use super::super::{EVENT_OVERHEAD_BYTES, What};
use super::*;
use crate::channel::ChannelPattern;

fn at(seconds: u64) -> Moment {
    Moment::after_start(Duration::from_secs(seconds))
}

fn settings() -> Settings {
    Settings {
        delay: Duration::ZERO,
        queue_max: 9,
        queue_bytes_max: usize::MAX,
        batch_max: 3,
        retry_for: Duration::from_mins(1),
        retry_pause: Duration::from_secs(1),
    }
}

fn everything() -> Filter {
    Filter {
        kinds: vec![EventKind::SubscriptionCount],
        channels: ChannelPattern::new("*").unwrap(),
    }
}

/// URLs that want counts of these channels.
fn queue(patterns: &[&str]) -> Queue {
    let filter = |pattern: &&str| Filter {
        kinds: vec![EventKind::SubscriptionCount],
        channels: ChannelPattern::new(pattern).unwrap(),
    };
    let mut queue = Queue::default();
    queue.configure((0..).map(HookId).zip(patterns.iter().map(filter)).collect());
    queue
}

fn event(name: char, number: u64) -> Event {
    Event {
        channel: ChannelName::new(&name.to_string()).unwrap(),
        what: What::Count(usize::try_from(number).unwrap()),
    }
}

fn id(url: usize) -> HookId {
    HookId(url as u64)
}

fn numbers(events: Option<Vec<Arc<Event>>>) -> Option<Vec<usize>> {
    let number = |event: &Arc<Event>| match event.what {
        What::Count(number) => number,
        _ => usize::MAX,
    };
    events.map(|events| events.iter().map(number).collect())
}

/// A conversation with the URLs, each step at its second: `0a5` event 5 on channel a; `1t0` URL 0 takes,
/// `2y0` it has got them, `3n0` it has not; `h` hurries; `c7`: only URL 7 is left or there. What the URLs take, `-`
/// for nothing; what is given up on failures, as `!1`; and at the end how many wait, and how many were dropped at the
/// limit, and with their URL if any were.
#[track_caller]
fn check(patterns: &[&str], settings: &Settings, steps: &str, expected: &str) {
    let mut queue = queue(patterns);
    let mut seen = Vec::new();
    for step in steps.split_whitespace() {
        let digits = step.find(|c: char| !c.is_ascii_digit()).unwrap();
        let now = at(step[..digits].parse().unwrap());
        let (what, number) = step[digits..].split_at(1);
        let number: u64 = number.parse().unwrap_or(0);
        match what {
            "t" => seen.push(
                match numbers(queue.take(HookId(number), settings.batch_max, now)) {
                    None => "-".to_owned(),
                    Some(numbers) => numbers
                        .iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>()
                        .join(","),
                },
            ),
            "y" => queue.delivered(HookId(number)),
            "n" => match queue
                .failed(HookId(number), settings, now)
                .map(|failure| failure.given_up)
            {
                None => seen.push("gone".to_owned()),
                Some(0) => {}
                Some(count) => seen.push(format!("!{count}")),
            },
            "h" => queue.hurry(),
            "c" => queue.configure(vec![(HookId(number), everything())]),
            name => queue.push(event(name.chars().next().unwrap(), number), settings),
        }
    }
    let Dropped { limit, removed } = queue.take_dropped();
    seen.push(format!("{}/{limit}", queue.len()));
    if removed > 0 {
        seen.push(format!("removed {removed}"));
    }
    assert_eq!(seen.join(" "), expected, "{steps}");
    for hook in &queue.hooks {
        let rest = hook.waiting.len() - hook.sending;
        assert_eq!(hook.bytes, rest * EVENT_OVERHEAD_BYTES);
    }
}

#[test]
fn events_go_out_in_their_order_a_batch_at_a_time() {
    let check = |steps, expected| check(&["*"], &settings(), steps, expected);
    check("0t0", "- 0/0");
    check("0a1 0t0", "1 1/0");
    check("0a1 0t0 0t0", "1 - 1/0");
    check("0a1 0t0 0y0 0t0", "1 - 0/0");
    check("0a1 0b2 0a3 0b4 0t0 0y0 0t0 0y0", "1,2,3 4 0/0");
    check("0a1 0t0 0a2 0y0 0t0", "1 2 1/0");
}

#[test]
fn what_fails_is_tried_again_later_and_nothing_overtakes_it() {
    let check = |steps, expected| check(&["*"], &settings(), steps, expected);
    check("0a1 0t0 0n0 0t0 1t0", "1 - 1 1/0");
    // One at a time, until it works.
    check("0a1 0t0 0n0 0a2 0a3 1t0 1y0 1t0 1y0", "1 1 2,3 0/0");
    check("0a1 0a2 0t0 0n0 1t0 1n0 3t0 3y0 3t0", "1,2 1 1 2 1/0");
    check("0a1 0t0 0n0 1t0 1n0 2t0 3t0 3n0 6t0 7t0", "1 1 - 1 - 1 1/0");
    // After a success the pauses begin anew.
    check("0a1 0t0 0n0 1t0 1y0 1a2 1t0 1n0 2t0", "1 1 2 2 1/0");
    check("0a1 0t0 0n0 0h 0t0", "1 1 1/0");
    let pauses: Vec<u64> = {
        let mut queue = queue(&["*"]);
        queue.push(event('a', 1), &settings());
        let fail = |_| {
            queue
                .failed(HookId(0), &settings(), at(0))
                .unwrap()
                .pause
                .as_secs()
        };
        (0..7).map(fail).collect()
    };
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
}

#[test]
fn what_is_not_taken_for_too_long_is_given_up_alone() {
    let check = |steps, expected| check(&["*"], &settings(), steps, expected);
    check("0a1 0a2 9t0 9n0 68t0 68n0 99t0", "1,2 1 1 2/0");
    check(
        "0a1 0a2 9t0 9n0 69t0 69n0 99t0 99n0 128t0 128n0",
        "1,2 1 !1 2 2 1/0",
    );
    check(
        "0a1 0a2 9t0 9n0 69t0 69n0 99t0 99n0 159t0 159n0",
        "1,2 1 !1 2 2 !1 0/0",
    );
    // A batch that fails loses nothing, however long that took.
    check("0a1 0a2 0t0 99n0 100t0 100n0 102t0", "1,2 1 !1 2 1/0");
    // However old, it has as much time as any other.
    check("0a1 999t0 999y0", "1 0/0");
    check(
        "0a1 0a2 0a3 0a4 999t0 999n0 1000t0 1000y0 1000t0",
        "1,2,3 1 2,3,4 3/0",
    );
}

#[test]
fn no_url_holds_up_another() {
    let both = |steps, expected| check(&["*", "a"], &settings(), steps, expected);
    both("0a1 0t0 0t1 0n0 0y1 0a2 0t1 0t0 1t0", "1 1 2 - 1 3/0");
    both("0b1 0a2 0t1 0y1 0t0", "2 1,2 2/0");
    // What only the other one wants is nothing to it.
    both("0b1 0b2 0b3 0b4 0t1 0a5 0t1", "- 5 6/0");
    both("0b1 0t0 0y0 0t1", "1 - 0/0");
    // Nor makes it room for that.
    let few = Settings {
        queue_max: 3,
        ..settings()
    };
    let steps = "0a1 0t0 0y0 0b2 0t0 0y0 0b3 0t0 0y0 0b4 0t0 0y0 0b5 0t0 0y0 0t1";
    check(&["*", "a"], &few, steps, "1 2 3 4 5 1 1/0");
    check(&["*", "a"], &few, "0a1 0b2 0b3 0b4 0b5 0t1 0t0", "1 3,4,5 4/2");
}

#[test]
fn urls_come_and_go() {
    let check = |steps, expected| check(&["*"], &settings(), steps, expected);
    check("0a1 0c0 0t0", "1 1/0");
    check("0a1 0c7 0a2 0t7 0y7 0t0", "2 - 0/0 removed 1");
    check("0a1 0t0 0c7 0n0 0y0 0t7", "1 gone - 0/0 removed 1");
    check("0a1 0t0 0n0 0c0 0t0 1t0", "1 - 1 1/0");
}

#[test]
fn what_nobody_wants_does_not_wait() {
    check(&["a"], &settings(), "0b1 0b2", "0/0");
    check(&[], &settings(), "0a1", "0/0");
}

#[test]
fn at_the_limit_the_oldest_go() {
    let settings = Settings {
        queue_max: 3,
        ..settings()
    };
    let one = |steps, expected| check(&["*"], &settings, steps, expected);
    one("0a1 0a2 0a3 0a4 0a5 0t0", "3,4,5 3/2");
    // What is under way is lost only if it does not arrive.
    one("0a1 0a2 0t0 0a3 0a4 0a5 0y0 0t0", "1,2 3,4,5 3/0");
    one("0a1 0a2 0t0 0a3 0a4 0a5 0n0 1t0", "1,2 3 3/2");
    one("0a1 0t0 0a2 0a3 0a4 0a5 0y0 0t0", "1 3,4,5 3/1");
    let bytes = |count| Settings {
        queue_bytes_max: count * EVENT_OVERHEAD_BYTES,
        ..settings
    };
    check(&["*"], &bytes(2), "0a1 0a2 0a3 0t0", "2,3 2/1");
    // The newest stays whatever it costs.
    check(&["*"], &bytes(0), "0a1 0a2 0t0", "2 1/1");
    // Who comes first for that is tried as long as any other.
    one("0a1 0t0 0n0 50a2 50a3 50a4 59t0 59n0 61t0 61n0", "1 2 2 3/1");
}

#[test]
fn a_batch_is_no_longer_than_receivers_take() {
    let mut queue = queue(&["*"]);
    let all = Settings {
        queue_max: usize::MAX,
        batch_max: usize::MAX,
        ..settings()
    };
    let fit = BATCH_BYTES_MAX / EVENT_OVERHEAD_BYTES;
    for number in 0..=fit {
        queue.push(event('a', number as u64), &all);
    }
    let taken = queue.take(id(0), all.batch_max, at(0)).unwrap();
    assert_eq!(taken.len(), fit);
}

#[test]
fn a_miss_that_is_lost_is_told_of() {
    let mut queue = Queue::default();
    let filter = Filter {
        kinds: vec![EventKind::CacheMiss],
        channels: ChannelPattern::new("*").unwrap(),
    };
    queue.configure(vec![(id(0), filter)]);
    let mut check = |settings: &Settings, tries: usize, given_up: usize, expected: &[&str]| {
        for name in ["cache-a", "cache-b"] {
            let channel = ChannelName::new(name).unwrap();
            let what = What::Missed;
            queue.push(Event { channel, what }, settings);
        }
        let mut total = 0;
        for _ in 0..tries {
            queue.hurry();
            queue.take(id(0), 9, at(0)).unwrap();
            total += queue.failed(id(0), settings, at(0)).unwrap().given_up;
        }
        assert_eq!(total, given_up);
        let missed = queue.take_missed();
        let missed: Vec<&str> = missed.iter().map(ChannelName::as_str).collect();
        assert_eq!(missed, expected);
        queue.hurry();
        while queue.take(id(0), 9, at(0)).is_some() {
            queue.delivered(id(0));
        }
    };
    check(&settings(), 3, 0, &[]);
    let at_once = Settings {
        retry_for: Duration::ZERO,
        ..settings()
    };
    check(&at_once, 1, 0, &[]);
    check(&at_once, 2, 1, &["cache-a"]);
    check(&at_once, 3, 2, &["cache-a", "cache-b"]);
    let one = Settings {
        queue_max: 1,
        ..settings()
    };
    check(&one, 1, 0, &["cache-a"]);
    // With its URL.
    let channel = ChannelName::new("cache-a").unwrap();
    let what = What::Missed;
    queue.push(Event { channel, what }, &settings());
    queue.configure(Vec::new());
    assert_eq!(queue.take_missed().len(), 1);
}

proptest! {
    /// Whatever fails, and whenever: each URL gets what it wants, in order, each time from the first that
    /// it has not got on; and what nobody needs does not wait.
    #[test]
    fn each_url_gets_what_it_wants_in_order(
        steps in prop::collection::vec((0_usize..6, any::<bool>(), 0_u64..5), 0..120),
    ) {
        let patterns = ["*", "a", "b"];
        let mut queue = queue(&patterns);
        // Each has room for what it wants, and for nothing more.
        let settings = Settings { queue_max: steps.len(), ..settings() };
        let (mut now, mut number) = (0, 0_u64);
        let mut wanted: Vec<Vec<usize>> = vec![Vec::new(); 3];
        let mut got = wanted.clone();
        let mut under_way: Vec<Option<Vec<usize>>> = vec![None; 3];
        let mut end = |queue: &mut Queue, url: usize, events: Vec<usize>, well: bool, now: u64| {
            if well {
                got[url].extend(events);
                queue.delivered(id(url));
            } else {
                queue.failed(id(url), &Settings { retry_for: Duration::MAX, ..settings }, at(now));
            }
        };
        for (what, well, wait) in steps {
            now += wait;
            if what < 3 {
                number += 1;
                let name = if what == 0 { 'a' } else { 'b' };
                queue.push(event(name, number), &settings);
                wanted[0].push(usize::try_from(number).unwrap());
                wanted[if name == 'a' { 1 } else { 2 }].push(usize::try_from(number).unwrap());
                continue;
            }
            let url = what - 3;
            match under_way[url].take() {
                Some(events) => end(&mut queue, url, events, well, now),
                None => under_way[url] = numbers(queue.take(id(url), settings.batch_max, at(now))),
            }
        }
        for (url, events) in under_way.into_iter().enumerate() {
            if let Some(events) = events {
                end(&mut queue, url, events, false, now);
            }
        }
        queue.hurry();
        for url in 0..3 {
            while let Some(events) = numbers(queue.take(id(url), settings.batch_max, at(now))) {
                end(&mut queue, url, events, true, now);
            }
        }
        prop_assert_eq!(got, wanted);
        prop_assert_eq!((queue.len(), queue.take_dropped()), (0, Dropped::default()));
        prop_assert!(queue.hooks.iter().all(|hook| hook.bytes == 0));
    }
}
