//! What happens, at which second, and what is told of it, at which second.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::app::AppId;
use crate::channel::ChannelPattern;
use crate::position::{Epoch, Offset};
use crate::publication::{DataKind, Draft, Entry};

const DELAY: u64 = 3;

const HOOK: HookId = HookId(1);

const ALL: [EventKind; 7] = [
    EventKind::ChannelOccupied,
    EventKind::ChannelVacated,
    EventKind::MemberAdded,
    EventKind::MemberRemoved,
    EventKind::ClientEvent,
    EventKind::CacheMiss,
    EventKind::SubscriptionCount,
];

/// All but how many listen, which would be in everything.
const USUAL: &[EventKind] = ALL.split_at(6).0;

fn at(seconds: u64) -> Moment {
    Moment::after_start(Duration::from_secs(seconds))
}

fn settings(queue_max: usize) -> Settings {
    Settings {
        delay: Duration::from_secs(DELAY),
        queue_max,
        queue_bytes_max: usize::MAX,
        batch_max: usize::MAX,
        retry_for: Duration::from_mins(5),
        retry_pause: Duration::from_secs(1),
    }
}

fn filter(kinds: &[EventKind], channels: &str) -> Filter {
    Filter {
        kinds: kinds.to_vec(),
        channels: ChannelPattern::new(channels).unwrap(),
    }
}

/// `a` is that channel, `p` the presence channel of this name, `c` the cache channel, `u` a user's own.
fn channel(letter: char) -> ChannelName {
    let name = match letter {
        'p' | 'q' => format!("presence-{letter}"),
        'c' | 'd' => format!("cache-{letter}"),
        'u' => "user/u".to_owned(),
        _ => letter.to_string(),
    };
    ChannelName::new(&name).unwrap()
}

fn letter(channel: &ChannelName) -> char {
    channel.as_str().chars().last().unwrap()
}

fn published(channel: ChannelName, is_client_event: bool) -> Arc<Entry> {
    let mut draft = Draft::new(AppId::DEFAULT, channel, DataKind::Text, "hello".into());
    draft.is_client_event = is_client_event;
    draft.ttl = is_client_event.then_some(Duration::ZERO);
    Arc::new(Entry {
        draft,
        epoch: Epoch(1),
        offset: Offset::FIRST,
        ordered_at: Moment::default(),
    })
}

/// An agenda with one URL, and how many listen to which channel.
struct World {
    agenda: Agenda,
    listeners: HashMap<char, usize>,
}

impl World {
    fn new(filter: Filter, settings: Settings) -> Self {
        let mut agenda = Agenda::new(settings);
        agenda.configure(vec![(HOOK, filter)]);
        Self {
            agenda,
            listeners: HashMap::new(),
        }
    }

    /// `+` and `-`: a listener more or fewer; `<7` and `>7`: member 7 comes or goes; `?`: nothing is
    /// cached; `!`: something is; `"`: a client speaks; `.`: only time passes; `+150`: so many more.
    fn step(&mut self, name: char, what: &str, now: Moment) {
        let (op, rest) = what.split_at(1);
        let happening = match op {
            "+" | "-" => {
                let count = rest.parse().unwrap_or(1);
                for _ in 0..count {
                    let count = self.listeners.entry(name).or_default();
                    let before = *count;
                    *count = if op == "+" { before + 1 } else { before - 1 };
                    let happening = Happening::Listeners {
                        channel: channel(name),
                        before,
                        after: *count,
                    };
                    self.agenda.happened(happening, now);
                }
                return;
            }
            "<" | ">" => {
                let user = UserId::new(rest).unwrap();
                return self.agenda.member(&channel(name), &user, op == "<", now);
            }
            "?" => Happening::NothingCached(channel(name)),
            "!" => Happening::Published(published(channel(name), false)),
            "\"" => Happening::Published(published(channel(name), true)),
            _ => {
                self.agenda.expire(now);
                return;
            }
        };
        self.agenda.happened(happening, now);
    }

    /// What is told now, in the words of [`Self::step`], `+` for occupied, `-` for vacated.
    fn told(&mut self, now: Moment) -> Vec<String> {
        let events = self.agenda.take(HOOK, now).unwrap_or_default();
        self.agenda.delivered(HOOK);
        events.iter().map(|event| shown(event)).collect()
    }
}

fn shown(event: &Event) -> String {
    let what = match &event.what {
        What::Occupied => "+".to_owned(),
        What::Vacated => "-".to_owned(),
        What::Added(user) => format!("<{user}"),
        What::Removed(user) => format!(">{user}"),
        What::Said(_) => "\"".to_owned(),
        What::Missed => "?".to_owned(),
        What::Count(count) => format!("={count}"),
    };
    format!("{}{what}", letter(&event.channel))
}

/// `12a+`: at 12 s a listener of channel a comes. What is told, and when, in the same way.
#[track_caller]
fn check_with(filter: Filter, settings: Settings, steps: &str, expected: &str) {
    let mut world = World::new(filter, settings);
    let mut told = Vec::new();
    for step in steps.split_whitespace() {
        let digits = step.find(|c: char| !c.is_ascii_digit()).unwrap();
        let (time, what) = step.split_at(digits);
        let now = at(time.parse().unwrap());
        let name = what.chars().next().unwrap();
        world.step(name, &what[1..], now);
        told.extend(world.told(now).into_iter().map(|event| format!("{time}{event}")));
    }
    assert_eq!(told.join(" "), expected, "{steps}");
}

#[track_caller]
fn check(steps: &str, expected: &str) {
    check_with(filter(USUAL, "*"), settings(99), steps, expected);
}

#[test]
fn the_first_listener_and_the_last_one_are_told_of() {
    check("0a+", "0a+");
    check("0a+ 1a+ 2a- 9a.", "0a+");
    check("0a+ 1a+ 2a- 3a- 5a. 6a.", "0a+ 6a-");
    check("0a+ 0b+ 1a- 1b- 4a.", "0a+ 0b+ 4a- 4b-");
    // What is said to one user is nothing of a back end's.
    check("0u+ 1u- 9u.", "");
}

#[test]
fn who_comes_back_in_time_has_never_been_away() {
    check("0a+ 1a- 3a+ 9a.", "0a+");
    check("0a+ 1a- 4a+ 9a.", "0a+ 4a- 4a+");
    check("0a+ 1a- 3a+ 3a- 5a. 6a.", "0a+ 6a-");
    check("0a+ 1a- 2a+ 2a- 3a+ 3a- 4a+ 9a.", "0a+");
    check("0p+ 0p<7 1p>7 2p<7 9p.", "0p+ 0p<7");
    check("0p+ 0p<7 1p>7 4p<7 9p.", "0p+ 0p<7 4p>7 4p<7");
    // One who has not come back while others did.
    check("0p+ 0p<7 0p<8 1p>7 1p>8 2p<8 4p.", "0p+ 0p<7 0p<8 4p>7");
}

#[test]
fn members_go_before_their_channel_does() {
    // As it happens when a session ends: the listener goes first.
    check("0p+ 0p<7 1p- 1p>7 4p.", "0p+ 0p<7 4p>7 4p-");
    // Also where her own time has not come quite yet.
    check(
        "0p+ 0p<8 0p<7 1p- 2p>8 2p>7 4p. 5p.",
        "0p+ 0p<8 0p<7 4p>8 4p>7 4p-",
    );
    check(
        "0p+ 0q+ 0p<7 0q<7 1p- 1q- 1p>7 1q>7 4p.",
        "0p+ 0q+ 0p<7 0q<7 4p>7 4p- 4q>7 4q-",
    );
}

#[test]
fn what_clients_say_has_its_place_among_the_rest() {
    check("0p+ 0p<7 1p\" 2p- 2p>7 5p.", "0p+ 0p<7 1p\" 5p>7 5p-");
}

#[test]
fn a_cache_miss_is_told_once_until_something_is_cached() {
    check("0c+ 0c? 1c+ 1c? 2c?", "0c+ 0c?");
    check("0c+ 0c? 1c! 2c?", "0c+ 0c? 2c?");
    // What a client says is not cached.
    check("0c+ 0c? 1c\" 2c?", "0c+ 0c? 1c\"");
    check("0c+ 0c? 1c- 3c+ 3c?", "0c+ 0c?");
    check("0c+ 0c? 1c- 4c+ 4c?", "0c+ 0c? 4c- 4c+ 4c?");
    check("0c+ 0c? 0d+ 0d?", "0c+ 0c? 0d+ 0d?");
    // Vacated need not be wanted for that.
    let only = filter(&[EventKind::CacheMiss], "*");
    check_with(only.clone(), settings(9), "0c+ 0c? 1c? 2c- 5c+ 5c?", "0c? 5c?");
    check_with(only, settings(9), "0c+ 0c? 1c- 2c+ 2c?", "0c?");
}

#[test]
fn how_many_listen_is_told_as_subscribers_are_told() {
    let counts = || filter(&[EventKind::SubscriptionCount], "*");
    check_with(counts(), settings(999), "0a+ 1a+ 2a- 3a-", "0a=1 1a=2 2a=1 3a=0");
    check_with(counts(), settings(999), "0p+ 1p- 0u+", "");
    check_with(counts(), settings(999), "0a+98 1a+ 2a+ 3a+ 4a+", &{
        let first: Vec<String> = (1..=98).map(|count| format!("0a={count}")).collect();
        format!("{} 1a=99 2a=100", first.join(" "))
    });
    let quiet = |steps: &str, expected: &str| {
        let mut world = World::new(counts(), settings(999));
        world.step('a', "+150", at(0));
        world.told(at(0));
        let mut told = Vec::new();
        for step in steps.split(' ') {
            let now = at(step[..1].parse().unwrap());
            world.step('a', &step[2..], now);
            told.extend(
                world
                    .told(now)
                    .into_iter()
                    .map(|event| format!("{}{event}", &step[..1])),
            );
        }
        assert_eq!(told.join(" "), expected, "{steps}");
    };
    quiet("1a+ 4a+ 5a.", "5a=152");
    quiet("5a. 6a+ 9a.", "5a=150");
    quiet("1a-49 2a- 3a+ 5a. 8a.", "2a=100 8a=101");
    quiet("1a-50 5a. 9a.", "1a=100");
}

#[test]
fn only_what_is_wanted_is_told() {
    let only = |kinds: &[EventKind], channels: &str, expected: &str| {
        let steps = "0p+ 0p<7 0a+ 1p\" 2p- 2p>7 2a- 6a.";
        check_with(filter(kinds, channels), settings(99), steps, expected);
    };
    only(USUAL, "*", "0p+ 0p<7 0a+ 1p\" 6p>7 6p- 6a-");
    only(&EventKind::DEFAULT, "*", "0p+ 0p<7 0a+ 6p>7 6p- 6a-");
    only(USUAL, "presence-*", "0p+ 0p<7 1p\" 6p>7 6p-");
    only(USUAL, "a", "0a+ 6a-");
    only(&[EventKind::ChannelVacated], "*", "6p- 6a-");
    only(&[EventKind::MemberRemoved], "*", "6p>7");
    only(&[EventKind::ClientEvent], "a", "");
    only(&[], "*", "");
}

#[test]
fn too_many_who_may_come_back_are_told_of_early() {
    check_with(
        filter(USUAL, "*"),
        settings(2),
        "0p+ 0p<1 0p<2 0p<3 1p>1 1p>2 1p>3 2p<1 4p.",
        "0p+ 0p<1 0p<2 0p<3 1p>1 2p<1 4p>2 4p>3",
    );
}

#[test]
fn what_was_missed_is_forgotten_with_whoever_wants_to_know() {
    let mut world = World::new(filter(USUAL, "*"), settings(9));
    world.step('c', "+", at(0));
    world.step('c', "?", at(0));
    assert_eq!(world.told(at(0)), ["c+", "c?"]);
    world.agenda.configure(Vec::new());
    assert!(world.agenda.missed.is_empty());
    world.step('c', "?", at(1));
    world.agenda.configure(vec![(HOOK, filter(USUAL, "*"))]);
    world.step('c', "?", at(2));
    assert_eq!(world.told(at(2)), ["c?"]);
}

#[test]
fn a_miss_that_was_lost_is_told_again() {
    let mut world = World::new(filter(USUAL, "*"), settings(9));
    for step in ["+", "?"] {
        world.step('c', step, at(0));
    }
    let fail = |world: &mut World, time| {
        let events = world.agenda.take(HOOK, at(time)).unwrap();
        world.agenda.failed(HOOK, at(time)).unwrap();
        events.iter().map(|event| shown(event)).collect::<Vec<_>>()
    };
    assert_eq!(fail(&mut world, 0), ["c+", "c?"]);
    world.step('c', "?", at(1));
    assert_eq!(fail(&mut world, 400), ["c+"]);
    assert_eq!(fail(&mut world, 500), ["c?"]);
    world.step('c', "?", at(501));
    assert_eq!(fail(&mut world, 900), ["c?"]);
    world.step('c', "?", at(901));
    assert_eq!(world.told(at(999)), ["c?"]);
    world.step('c', "?", at(1_000));
    assert!(world.told(at(1_000)).is_empty());
}

#[test]
fn what_nobody_wanted_for_a_while_is_not_told_of_later() {
    let mut world = World::new(filter(&ALL, "*"), settings(999));
    for (name, step) in [
        ('a', "+"),
        ('p', "+"),
        ('p', "<7"),
        ('b', "+101"),
        ('a', "-"),
        ('p', ">7"),
    ] {
        world.step(name, step, at(0));
    }
    world.told(at(0));
    world.agenda.configure(Vec::new());
    for (name, step) in [('a', "+"), ('p', "<7"), ('b', "+")] {
        world.step(name, step, at(1));
    }
    world.agenda.configure(vec![(HOOK, filter(&ALL, "*"))]);
    world.step('a', ".", at(99));
    assert!(world.told(at(99)).is_empty());
}

#[test]
fn at_the_end_nobody_comes_back() {
    let mut world = World::new(filter(&ALL, "*"), settings(999));
    world.step('p', "+", at(0));
    world.step('p', "<7", at(0));
    world.step('p', "-", at(1));
    world.step('p', ">7", at(1));
    world.step('a', "+101", at(1));
    world.told(at(1));
    assert_eq!((world.agenda.leaving(), world.agenda.waiting()), (2, 0));
    world.agenda.finish();
    assert_eq!(world.told(at(1)), ["p>7", "p-", "a=101"]);
    assert_eq!((world.agenda.leaving(), world.agenda.waiting()), (0, 0));
}

#[test]
fn much_that_is_due_at_once_is_told_in_steps() {
    let mut world = World::new(filter(USUAL, "*"), settings(10 * STEP));
    for number in 0..=STEP {
        world.step('p', &format!("<{number}"), at(0));
        world.step('p', &format!(">{number}"), at(0));
    }
    world.told(at(0));
    assert!(world.agenda.expire(at(DELAY)));
    assert_eq!(world.told(at(DELAY)).len(), STEP);
    // Whose time is over is told of before she comes back, whoever has looked.
    world.step('p', &format!("<{STEP}"), at(DELAY));
    assert_eq!(world.told(at(DELAY)), [format!("p>{STEP}"), format!("p<{STEP}")]);
    assert!(!world.agenda.expire(at(DELAY)));
}

proptest! {
    /// Whoever comes and goes when: what is told of a channel, and of a member of it, alternates, and the
    /// last of it is how it is, once nobody may come back any more; also where the limit cuts the delay
    /// short, as long as nothing is lost by it.
    #[test]
    fn what_is_told_alternates_and_ends_in_the_truth(
        steps in prop::collection::vec((0_u64..3, 0_usize..6, any::<bool>()), 0..120),
        queue_max in 4_usize..10,
    ) {
        // Two channels with two members each; and a listener with each member.
        let mut world = World::new(filter(USUAL, "*"), settings(queue_max));
        let mut here = [[false; 3]; 2];
        let mut last: HashMap<String, bool> = HashMap::new();
        let mut now = 0;
        let mut hear = |world: &mut World, now: u64| {
            let told = world.told(at(now));
            if world.agenda.take_dropped() != Dropped::default() {
                return false;
            }
            for event in told {
                let comes = event.contains(['+', '<']);
                let who = event.replace(['+', '<', '-', '>'], ":");
                let before = last.insert(who.clone(), comes).unwrap_or(false);
                assert_ne!(before, comes, "{who} twice");
            }
            true
        };
        for (wait, who, comes) in steps {
            now += wait;
            let (room, member) = (who % 2, who / 2);
            if std::mem::replace(&mut here[room][member], comes) == comes {
                world.step('p', ".", at(now));
            } else {
                let name = ['p', 'q'][room];
                // In both orders, as sessions of the doors come.
                let mut parts = [if comes { "+".to_owned() } else { "-".to_owned() }, format!("{}{member}", if comes { '<' } else { '>' })];
                if wait == 1 {
                    parts.reverse();
                }
                for part in parts {
                    world.step(name, &part, at(now));
                    prop_assume!(hear(&mut world, now));
                }
            }
            prop_assume!(hear(&mut world, now));
        }
        now += DELAY;
        while world.agenda.expire(at(now)) {}
        prop_assume!(hear(&mut world, now));
        for (room, members) in here.iter().enumerate() {
            let name = ['p', 'q'][room];
            let is_occupied = members.contains(&true);
            prop_assert_eq!(last.get(&format!("{name}:")).copied().unwrap_or(false), is_occupied);
            for (member, is_here) in members.iter().enumerate() {
                prop_assert_eq!(last.get(&format!("{name}:{member}")).copied().unwrap_or(false), *is_here);
            }
        }
        prop_assert_eq!(world.agenda.leaving(), 0);
    }
}
