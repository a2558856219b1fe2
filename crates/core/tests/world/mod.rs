//! The world that a seed makes. It does what the server's shards and engine do, in their order of
//! steps (`server/src/shard`, `server/src/engine/memory.rs`), with a listener in place of a socket.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fanfare_core::app::AppId;
use fanfare_core::channel::{ChannelName, ChannelPattern};
use fanfare_core::hub::{Hub, Parcel, Slot, Topic};
use fanfare_core::moment::Moment;
use fanfare_core::position::{Epoch, Offset, Position, Since};
use fanfare_core::publication::{Audience, DataKind, Draft, Publication, Reader, WireForm};
use fanfare_core::session_id::SessionId;
use fanfare_core::stream::app::{AppStreams, Shared};
use fanfare_core::stream::{HistoryLimits, HistoryRules, Replay, Resume};
use fanfare_core::wire::{self, plain, sse};

mod judge;
mod listener;

pub(crate) use judge::Report;
use listener::Listener;

const APP: AppId = AppId::DEFAULT;

/// Of `none/…` nothing is kept.
const CHANNELS: [&str; 5] = ["a", "b", "c", "none/d", "e"];

/// A mistake that somebody could make.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Bug {
    /// The offset is taken under the lock, the push to the shards comes later.
    PushOutsideTheLock,
    /// What was missed is read in one step, listening begins in another.
    ReadThenListen,
    /// The hub is not told where a subscription begins.
    BeginForgotten,
    /// What is missing on a shard is not noticed.
    HoleOverlooked,
    /// What was said is heard by its speaker after coming back.
    ExclusionForgotten,
    /// Of several channels what is whole is given, and then the gap of what is not.
    WholeBesideGap,
    /// The position that a stream says is read after the mailbox was emptied.
    PositionTooLate,
    /// What is only for those who are here is let go where a shard is behind.
    PassingLetGo,
}

impl Bug {
    pub(crate) const ALL: [Self; 8] = [
        Self::PushOutsideTheLock,
        Self::ReadThenListen,
        Self::BeginForgotten,
        Self::HoleOverlooked,
        Self::ExclusionForgotten,
        Self::WholeBesideGap,
        Self::PositionTooLate,
        Self::PassingLetGo,
    ];
}

/// splitmix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `sides` - 1; 0 where there are none.
    fn roll(&mut self, sides: usize) -> usize {
        usize::try_from(self.next() % sides.max(1) as u64).unwrap()
    }

    fn one_in(&mut self, sides: usize) -> bool {
        self.roll(sides) == 0
    }
}

/// One publication, as the oracle knows it.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    /// Empty: to everyone.
    channels: Vec<&'static str>,
    excluded: Option<SessionId>,
    /// Only for who listens at that moment.
    is_passing: bool,
    /// Only for sessions of the Pusher door, of which there are none here.
    is_pusher_only: bool,
}

/// One shard.
struct Shard {
    hub: Hub,
    mailbox: VecDeque<Arc<Publication>>,
    /// What waits for each slot's listener.
    outboxes: BTreeMap<Slot, Vec<u8>>,
    delivered: Option<Position>,
    is_settled: bool,
}

/// See the module's head.
pub(crate) struct World {
    dice: Dice,
    bug: Option<Bug>,
    now: Moment,
    epoch: Epoch,
    streams: AppStreams,
    shards: Vec<Shard>,
    listeners: Vec<Listener>,
    published: BTreeMap<u64, Published>,
    /// Publications whose push to the shards is still to come: a planted bug.
    late: VecDeque<(u64, Arc<Publication>)>,
    /// Nothing is lost on the way, and everything that anybody may come back for is kept.
    is_roomy: bool,
    /// Publications may be lost, doubled and reordered on the way to a shard.
    is_lossy: bool,
    /// Nothing new happens any more.
    is_ending: bool,
    report: Report,
}

impl World {
    pub(crate) fn new(seed: u64, bug: Option<Bug>) -> Self {
        let mut dice = Dice(seed);
        let is_roomy = dice.one_in(3);
        let is_lossy = !is_roomy && dice.one_in(2);
        let kept = if is_roomy { 1_000_000 } else { 1 + dice.roll(20) };
        let age = if is_roomy { 1_000_000 } else { 1 + dice.roll(200) };
        let default = HistoryLimits {
            publications: kept,
            age: Duration::from_secs(age as u64),
            bytes: usize::MAX,
        };
        let none = if is_roomy { default } else { HistoryLimits::NOTHING };
        let rules = HistoryRules {
            default,
            by_pattern: vec![(ChannelPattern::new("none/*").unwrap(), none)],
        };
        let channels_max = if is_roomy {
            99
        } else {
            CHANNELS.len() + dice.roll(3)
        };
        let shared = Shared::new(
            channels_max,
            if dice.one_in(2) || is_roomy {
                usize::MAX
            } else {
                8_000
            },
            100_000,
        );
        let epoch = Epoch(dice.next() >> 24);
        let shards = 1 + dice.roll(3);
        let shard = |_| Shard {
            hub: Hub::default(),
            mailbox: VecDeque::new(),
            outboxes: BTreeMap::new(),
            delivered: None,
            is_settled: false,
        };
        let listeners = 1 + dice.roll(6);
        Self {
            streams: AppStreams::new(epoch, shards, rules, Arc::new(shared)),
            shards: (0..shards).map(shard).collect(),
            listeners: (0..listeners)
                .map(|number| Listener::new(number, is_lossy, &mut dice))
                .collect(),
            published: BTreeMap::new(),
            late: VecDeque::new(),
            now: Moment::default() + Duration::from_secs(1_000),
            epoch,
            is_roomy,
            is_lossy,
            report: Report::default(),
            is_ending: false,
            dice,
            bug,
        }
    }

    /// Some hundred steps, then everybody comes back, and all that waits arrives.
    pub(crate) fn run(&mut self) {
        let steps = 20 + self.dice.roll(200);
        for _ in 0..steps {
            self.step();
        }
        self.is_ending = true;
        self.push_late(usize::MAX);
        for number in 0..self.listeners.len() {
            self.connect(number);
        }
        // On a line that loses, the next publication shows what is missing; let there be one.
        for channel in CHANNELS {
            self.publish(vec![channel], None);
        }
        if !self.is_lossy {
            self.publish(vec![], None);
        }
        self.push_late(usize::MAX);
        for shard in 0..self.shards.len() {
            self.deliver(shard, usize::MAX);
        }
        for number in 0..self.listeners.len() {
            self.read(number, usize::MAX);
        }
    }

    fn step(&mut self) {
        let (number, shard) = (
            self.dice.roll(self.listeners.len()),
            self.dice.roll(self.shards.len()),
        );
        match self.dice.roll(20) {
            0..=5 => {
                // Announcements are one more channel of everybody: not where the line loses.
                let count = self.dice.roll(4).max(usize::from(self.is_lossy));
                let mut channels: Vec<&'static str> = Vec::new();
                for _ in 0..count {
                    let channel = CHANNELS[self.dice.roll(CHANNELS.len())];
                    if !channels.contains(&channel) {
                        channels.push(channel);
                    }
                }
                let speaker = self.dice.one_in(2).then(|| self.listeners[number].session);
                self.publish(channels, speaker);
            }
            6..=8 => self.connect(number),
            9 => {
                let bytes = self.dice.roll(300);
                self.read(number, bytes);
                self.cut(number);
            }
            10..=12 => {
                let count = self.dice.roll(6);
                self.deliver(shard, count);
            }
            13 | 14 => self.deliver(shard, usize::MAX),
            15 | 16 => {
                let bytes = self.dice.roll(400);
                self.read(number, bytes);
            }
            17 => {
                let longest = if self.is_roomy { 20 } else { 150 };
                self.now = self.now + Duration::from_secs(self.dice.roll(longest) as u64);
                self.streams.expire(self.now);
            }
            18 => self.say_position(number),
            _ if self.is_lossy => self.disturb(shard),
            _ if self.is_roomy => {
                let count = self.dice.roll(3);
                self.push_late(count);
            }
            _ => {
                let name = name(CHANNELS[self.dice.roll(CHANNELS.len())]);
                self.streams.clear(&name, self.now);
                self.report.cleared += 1;
            }
        }
    }

    fn publish(&mut self, channels: Vec<&'static str>, excluded: Option<SessionId>) {
        let is_passing = !self.is_ending && self.dice.one_in(4);
        let is_pusher_only = is_passing && self.dice.one_in(2);
        let audience = match channels.as_slice() {
            [] => Audience::Everyone,
            several => Audience::Channels(several.iter().map(|text| name(text)).collect()),
        };
        let next = self.published.len() as u64 + 1;
        let data = format!("payload {next}");
        let mut draft = Draft::to(APP, audience, DataKind::Text, data.into());
        draft.excluded = excluded;
        draft.ttl = is_passing.then_some(Duration::ZERO);
        draft.is_pusher_only = is_pusher_only;
        let reach = self.streams.reach(&draft.audience);
        let publication = Arc::new(self.streams.append(draft, self.now).unwrap());
        assert_eq!(publication.offset.get(), next);
        let published = Published {
            channels,
            excluded,
            is_passing,
            is_pusher_only,
        };
        self.published.insert(next, published);
        self.report.published += 1;
        self.report.passing += usize::from(is_passing);
        if self.bug == Some(Bug::PushOutsideTheLock) && !self.is_ending && self.dice.one_in(3) {
            self.late.push_back((reach.shards, publication));
        } else {
            self.push(reach.shards, &publication);
        }
    }

    fn push(&mut self, shards: u64, publication: &Arc<Publication>) {
        for (index, shard) in self.shards.iter_mut().enumerate() {
            let is_let_go = self.bug == Some(Bug::PassingLetGo)
                && publication.draft.is_passing()
                && !shard.mailbox.is_empty();
            if shards & (1 << index) != 0 && !is_let_go {
                shard.mailbox.push_back(Arc::clone(publication));
            }
        }
    }

    fn push_late(&mut self, count: usize) {
        for _ in 0..count.min(self.late.len()) {
            if let Some((shards, publication)) = self.late.pop_front() {
                self.push(shards, &publication);
            }
        }
    }

    /// The way to a shard loses, doubles or reorders.
    fn disturb(&mut self, shard: usize) {
        let mailbox = &mut self.shards[shard].mailbox;
        if mailbox.is_empty() {
            return;
        }
        self.report.disturbed += 1;
        let (at, with) = (self.dice.roll(mailbox.len()), self.dice.roll(mailbox.len()));
        match self.dice.roll(3) {
            0 => drop(mailbox.remove(at)),
            1 => mailbox.swap(at, with),
            _ => {
                let again = Arc::clone(&mailbox[at]);
                mailbox.insert(with, again);
            }
        }
    }

    /// As `State::deliver` of the server, for at most so many publications.
    fn deliver(&mut self, index: usize, most: usize) {
        let mut settled = self.streams.position();
        let shard = &mut self.shards[index];
        let count = most.min(shard.mailbox.len());
        let taken: Vec<Arc<Publication>> = shard.mailbox.drain(..count).collect();
        let mut rest = &taken[..];
        while !rest.is_empty() {
            let run = Hub::run_len(rest.iter().map(|publication| &**publication));
            let outboxes = &mut shard.outboxes;
            let mut queue = |slot: Slot, parcel: Parcel<'_>| {
                outboxes.get_mut(&slot).unwrap().extend_from_slice(parcel.frame);
            };
            let delivered = shard.hub.deliver(&rest[..run], &mut queue);
            if let Some(missing) = &delivered.missing {
                self.report.holes += 1;
                let channels: Vec<ChannelName> = missing.channel.iter().cloned().collect();
                let resume = Resume::Since(Since::Position(missing.seen));
                let replay = if self.bug == Some(Bug::HoleOverlooked) {
                    let (entries, is_gap) = (Vec::new(), false);
                    let position = missing.before;
                    Replay {
                        entries,
                        is_gap,
                        position,
                    }
                } else {
                    self.streams.read(&channels, resume, Reader::default(), self.now)
                };
                shard
                    .hub
                    .catch_up(missing, &replay, &mut queue, |_| panic!("each has a form"));
            }
            if let Some(last) = rest[..delivered.taken].last() {
                shard.delivered = Some(last.position());
            }
            rest = &rest[delivered.taken..];
        }
        if self.bug == Some(Bug::PositionTooLate) && !self.is_ending && self.dice.one_in(2) {
            self.publish(vec!["a"], None);
            settled = self.streams.position();
        }
        let shard = &mut self.shards[index];
        shard.is_settled = count == taken.len() && shard.mailbox.is_empty();
        shard.is_settled |= self.bug == Some(Bug::PositionTooLate);
        if shard.is_settled
            && shard
                .delivered
                .is_none_or(|delivered| delivered.offset < settled.offset)
        {
            shard.delivered = Some(settled);
        }
    }

    /// As `State::open` of the server.
    fn connect(&mut self, number: usize) {
        if self.listeners[number].place.is_some() {
            return;
        }
        let index = self.dice.roll(self.shards.len());
        let listener = &self.listeners[number];
        let names: Vec<ChannelName> = listener.channels.iter().map(|text| name(text)).collect();
        let resume = match listener.seen {
            None => Resume::Now,
            Some(seen) => Resume::Since(Since::Position(seen)),
        };
        let session = (self.bug != Some(Bug::ExclusionForgotten)).then_some(listener.session);
        let session = Reader { session, user: None };
        let replay = if self.bug == Some(Bug::ReadThenListen) {
            let replay = self.streams.read(&names, resume, session, self.now);
            if !self.is_ending && self.dice.one_in(3) {
                self.publish(vec!["a"], None);
            }
            let listening = self
                .streams
                .subscribe(index, &names, Resume::Now, session, self.now);
            listening.map(|_| replay)
        } else {
            self.streams.subscribe(index, &names, resume, session, self.now)
        };
        let Ok(mut replay) = replay else {
            panic!("there is room for all");
        };
        self.streams.join(index);
        if self.bug == Some(Bug::WholeBesideGap) && replay.is_gap {
            let whole = names.iter().map(|name| {
                self.streams
                    .read(std::slice::from_ref(name), resume, session, self.now)
            });
            replay.entries = whole.flat_map(|whole| whole.entries).collect();
            replay.entries.sort_by_key(|entry| entry.offset);
            replay.entries.dedup_by_key(|entry| entry.offset);
        }
        let listener = &mut self.listeners[number];
        let shard = &mut self.shards[index];
        let slot = Slot::try_from(number).unwrap();
        shard.hub.join(slot, listener.session, APP, listener.form);
        for name in &names {
            let position = (self.bug != Some(Bug::BeginForgotten)).then_some(replay.position);
            shard
                .hub
                .subscribe_after(slot, &Topic::Channel(name.clone()), position);
        }
        let mut past = Vec::new();
        for entry in &replay.entries {
            let channel = entry.channel_among(&names);
            past.extend_from_slice(&wire::encode_entry(entry, channel, listener.form));
        }
        if replay.is_gap {
            past.extend_from_slice(&wire::gap(listener.form, &names, replay.position).unwrap());
        }
        match listener.form {
            WireForm::EventStreamMeta => past.extend_from_slice(&sse::position(replay.position)),
            _ => past.extend_from_slice(&plain::opened(listener.form, replay.position).unwrap()),
        }
        self.report.replayed += replay.entries.len();
        self.report.resumed += usize::from(listener.seen.is_some());
        shard.outboxes.insert(slot, past);
        listener.connected(index, replay.position);
    }

    /// The connection ends; what had not arrived is lost.
    fn cut(&mut self, number: usize) {
        let listener = &mut self.listeners[number];
        let Some(index) = listener.cut() else { return };
        let shard = &mut self.shards[index];
        let slot = Slot::try_from(number).unwrap();
        shard.outboxes.remove(&slot);
        let (streams, now) = (&mut self.streams, self.now);
        shard.hub.leave(slot, |topic| {
            if let Topic::Channel(name) = topic {
                streams.unsubscribe(index, name, now);
            }
        });
        self.streams.leave(index);
        self.report.cut += 1;
    }

    /// So many bytes of what waits for a listener arrive.
    fn read(&mut self, number: usize, most: usize) {
        let listener = &mut self.listeners[number];
        let Some(index) = listener.place else { return };
        let slot = Slot::try_from(number).unwrap();
        let outbox = self.shards[index].outboxes.get_mut(&slot).unwrap();
        let count = most.min(outbox.len());
        let bytes: Vec<u8> = outbox.drain(..count).collect();
        listener.take(&bytes);
    }

    /// An event stream's sign of life, as `Action::SendPosition`.
    fn say_position(&mut self, number: usize) {
        let listener = &self.listeners[number];
        let Some(index) = listener.place else { return };
        // On a line that loses, an engine cannot say what has arrived.
        if listener.form != WireForm::EventStreamMeta || self.is_lossy {
            return;
        }
        // A turn that did not get through its mailbox says no position.
        let most = [usize::MAX, 1][self.dice.roll(2)];
        self.deliver(index, most);
        let shard = &mut self.shards[index];
        let slot = Slot::try_from(number).unwrap();
        if let Some(position) = shard.delivered.filter(|_| shard.is_settled) {
            self.report.positions += 1;
            let outbox = shard.outboxes.get_mut(&slot).unwrap();
            outbox.extend_from_slice(&sse::position(position));
        }
    }
}

fn name(text: &str) -> ChannelName {
    ChannelName::new(text).unwrap()
}

/// Reads an offset's number; 0: none.
fn number(position: Position) -> u64 {
    position.offset.map_or(0, Offset::get)
}
