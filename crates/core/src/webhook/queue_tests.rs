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

fn numbers(events: Option<Vec<Event>>) -> Option<Vec<usize>> {
    let number = |event: &Event| match event.what {
        What::Count(number) => number,
        _ => usize::MAX,
    };
    events.map(|events| events.iter().map(number).collect())
}

/// A conversation with the URLs, each step at its second: `0a5` event 5 on channel a; `1t0` URL 0 takes,
/// `2y0` it has got them, `3n0` it has not; `h` hurries; `c7`: only URL 7 is left or there. What the URLs take, `-` for nothing; what is
/// given up on failures, as `!1`; and at the end how many wait, and how many were dropped.
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
            name => queue.push(event(name.chars().next().unwrap(), number), settings, now),
        }
    }
    seen.push(format!("{}/{}", queue.len(), queue.take_dropped()));
    assert_eq!(seen.join(" "), expected, "{steps}");
    assert_eq!(queue.bytes, queue.len() * EVENT_OVERHEAD_BYTES);
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
    // What has come meanwhile goes along.
    check("0a1 0t0 0n0 0a2 1t0", "1 1,2 2/0");
    check("0a1 0t0 0n0 1t0 1n0 2t0 3t0 3n0 6t0 7t0", "1 1 - 1 - 1 1/0");
    // After a success the pauses begin anew.
    check("0a1 0t0 0n0 1t0 1y0 1a2 1t0 1n0 2t0", "1 1 2 2 1/0");
    check("0a1 0t0 0n0 0h 0t0", "1 1 1/0");
    let pauses: Vec<u64> = {
        let mut queue = queue(&["*"]);
        queue.push(event('a', 1), &settings(), at(0));
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
fn what_is_too_old_when_a_try_fails_is_given_up() {
    let check = |steps, expected| check(&["*"], &settings(), steps, expected);
    check("0a1 0a2 30a3 59t0 59n0 60t0", "1,2,3 1,2,3 3/0");
    check("0a1 0a2 30a3 60t0 60n0 61t0", "1,2,3 !2 3 1/0");
    // However old, it is tried once, and goes if that works.
    check("0a1 999t0 999y0", "1 0/0");
    check("0a1 0a2 0a3 0a4 99t0 99n0 100t0", "1,2,3 !4 - 0/0");
}

#[test]
fn no_url_holds_up_another() {
    let check = |steps, expected| check(&["*", "a"], &settings(), steps, expected);
    check("0a1 0t0 0t1 0n0 0y1 0a2 0t1 0t0 1t0", "1 1 2 - 1,2 2/0");
    check("0b1 0a2 0t1 0y1 0t0", "2 1,2 2/0");
    // What only the other one wants is skipped.
    check("0b1 0b2 0b3 0b4 0t1 0a5 0t1", "- 5 5/0");
    check("0b1 0t0 0y0 0t1", "1 - 0/0");
    check("0b1 0t0 0y0", "1 1/0");
}

#[test]
fn urls_come_and_go() {
    let check = |steps, expected| check(&["*"], &settings(), steps, expected);
    check("0a1 0c0 0t0", "1 1/0");
    // Who takes another's place gets what that one has not got, or may have.
    check("0a1 0c7 0t7 0y7 0a2 0t7 0t0", "1 2 - 1/0");
    check("0a1 0t0 0c7 0a2 0n0 0t7", "1 gone 1,2 2/0");
    check("0a1 0t0 0y0 0c7 0a2 0t7", "1 2 1/0");
    check("0a1 0t0 0n0 0c0 0t0 1t0", "1 - 1 1/0");
}

#[test]
fn what_nobody_wants_does_not_wait() {
    check(&["a"], &settings(), "0b1 0b2", "0/0");
    check(&[], &settings(), "0a1", "0/0");
}

#[test]
fn at_the_limit_the_oldest_go_for_those_who_still_need_them() {
    let settings = Settings {
        queue_max: 3,
        ..settings()
    };
    let one = |steps, expected| check(&["*"], &settings, steps, expected);
    one("0a1 0a2 0a3 0a4 0a5 0t0", "3,4,5 3/2");
    // What is under way is lost only if it does not arrive.
    one("0a1 0a2 0t0 0a3 0a4 0a5 0y0 0t0", "1,2 3,4,5 3/0");
    one("0a1 0a2 0t0 0a3 0a4 0a5 0n0 1t0", "1,2 !2 3,4,5 3/0");
    one("0a1 0t0 0a2 0a3 0a4 0a5 0y0 0t0", "1 3,4,5 3/1");
    let two = |steps, expected| check(&["*", "a"], &settings, steps, expected);
    two(
        "0a1 0t0 0y0 0a2 0t0 0y0 0a3 0t0 0y0 0a4 0t0 0y0 0t1",
        "1 2 3 4 2,3,4 3/1",
    );
    two("0b1 0b2 0b3 0b4 0b5 0t1 0t0", "- 3,4,5 3/2");
    let bytes = Settings {
        queue_bytes_max: 2 * EVENT_OVERHEAD_BYTES,
        ..settings
    };
    check(&["*"], &bytes, "0a1 0a2 0a3 0t0", "2,3 2/1");
    let bytes = Settings {
        queue_bytes_max: 0,
        ..settings
    };
    check(&["*"], &bytes, "0a1 0a2 0t0", "2 1/1");
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
        let settings = Settings { queue_max: 1_000, ..settings() };
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
                queue.push(event(name, number), &settings, at(now));
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
        prop_assert_eq!((queue.len(), queue.bytes, queue.take_dropped()), (0, 0, 0));
    }
}
