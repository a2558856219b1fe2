//! A house for the proofs: shards that do what the server's do, without sockets, and what must be
//! true of every listener whatever the order of events was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use fanfare_core::app::AppId;
use fanfare_core::channel::ChannelName;
use fanfare_core::disconnect::Refusal;
use fanfare_core::hub::{Hub, Slot, Topic};
use fanfare_core::moment::Moment;
use fanfare_core::position::{Epoch, Offset, Position, Since};
use fanfare_core::publication::{Audience, DataKind, Draft, Publication, Reader, WireForm};
use fanfare_core::session::SessionId;
use fanfare_core::stream::app::Shared;
use fanfare_core::stream::{HistoryLimits, HistoryRules, Resume};

use crate::engine::{Drafts, Engine, Listening, Mailboxes, MemoryEngine, Once};
use crate::planted::{
    audience_of_an_earlier_moment, joined_later, pushed_outside_the_lock, read_before_listening,
};
use crate::shard::mailbox::Mailbox;

/// The only app.
pub const APP: AppId = AppId::DEFAULT;

/// The life of every order here.
pub const EPOCH: Epoch = Epoch(1);

/// Bytes of every publication.
pub const BYTES: usize = 1;

/// A number in the order; 0 stands before all.
pub type Place = u64;

/// A channel's name.
///
/// # Panics
///
/// If it is none.
pub fn channel(text: &str) -> ChannelName {
    ChannelName::new(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// What stands for an announcement where channels are named.
pub const EVERYONE: &str = "*";

/// The channel of the last publication, which each shard has a listener of.
pub const END: &str = "end";

/// A publication to these channels.
pub fn draft(channels: &[&str]) -> Draft {
    let audience = match channels {
        [EVERYONE] => Audience::Everyone,
        _ => Audience::Channels(channels.iter().map(|text| channel(text)).collect()),
    };
    Draft::to(APP, audience, DataKind::Text, Bytes::from_static(b"x"))
}

/// Publishes to these channels.
pub fn publish(engine: &dyn Engine, channels: &[&str]) -> Result<Place, Refusal> {
    Ok(publish_all(engine, &[channels])?[0])
}

/// Publishes several, all or none, each to its channels. Returns their places.
pub fn publish_all(engine: &dyn Engine, batch: &[&[&str]]) -> Result<Vec<Place>, Refusal> {
    let drafts: Drafts = batch.iter().map(|channels| draft(channels)).collect();
    let receipts = engine.publish(APP, drafts, None, now())?;
    Ok(receipts
        .iter()
        .map(|receipt| place(receipt.position.offset))
        .collect())
}

/// Mailboxes for so many shards.
pub fn mailboxes(shards: usize, publications_max: usize) -> Mailboxes {
    (0..shards)
        .map(|_| Arc::new(Mailbox::new(publications_max, 1 << 20)))
        .collect()
}

/// Makes an engine for these mailboxes.
pub type MakeEngine = fn(&Mailboxes) -> Arc<dyn Engine>;

/// Time stands still: what it does is nobody's race.
fn now() -> Moment {
    Moment::default()
}

/// Publications kept of every channel.
const KEPT: usize = 2;

fn rules() -> Vec<(AppId, HistoryRules)> {
    let default = HistoryLimits {
        publications: KEPT,
        ..HistoryLimits::default()
    };
    let by_pattern = Vec::new();
    vec![(APP, HistoryRules { default, by_pattern })]
}

/// Makes an engine of any module that has one.
macro_rules! engine_of {
    ($($engine:ident)::+) => {
        |mailboxes: &Mailboxes| -> Arc<dyn Engine> {
            let shared = Shared::new(100, usize::MAX, 0);
            let once = Once {
                age: std::time::Duration::ZERO,
                keys_max: 0,
            };
            Arc::new($($engine)::+::new(rules(), EPOCH, Arc::clone(mailboxes), shared, once))
        }
    };
}

/// The engine that ships.
pub fn engine(mailboxes: &Mailboxes) -> Arc<dyn Engine> {
    (engine_of!(MemoryEngine))(mailboxes)
}

/// The engines with a fault: its name, and what the proofs say when they find it.
pub const FAULTY_ENGINES: [(&str, MakeEngine); 4] = [
    (
        "pushed_outside_the_lock",
        engine_of!(pushed_outside_the_lock::MemoryEngine),
    ),
    (
        "audience_of_an_earlier_moment",
        engine_of!(audience_of_an_earlier_moment::MemoryEngine),
    ),
    (
        "read_before_listening",
        engine_of!(read_before_listening::MemoryEngine),
    ),
    ("joined_later", engine_of!(joined_later::MemoryEngine)),
];

fn place(offset: Option<Offset>) -> Place {
    offset.map_or(0, Offset::get)
}

/// The places of the publications in the bytes of an event stream, which say them in their ids.
fn places_in(bytes: &[u8]) -> impl Iterator<Item = Place> {
    bytes.split(|byte| *byte == b'\n').filter_map(|line| {
        let id = std::str::from_utf8(line.strip_prefix(b"id: ")?).ok()?;
        let position: Position = id.parse().ok()?;
        Some(place(position.offset))
    })
}

/// What one listener was told and heard.
#[derive(Clone, Debug)]
pub struct Stay {
    /// What it listened to, and the place behind which it must hear all of it.
    pub channels: Vec<(&'static str, Place)>,
    /// The last place it had seen before it came, if it said so, and whether it was told of a gap.
    pub back: Option<(Place, bool)>,
    /// What it heard.
    pub heard: Vec<Place>,
    /// Where the order stood when it came.
    pub position: Place,
    /// The last publication that its shard had delivered when it left, or that it got on entering.
    pub until: Place,
}

impl Stay {
    /// Whether a publication to `channels` is for it.
    fn is_for(&self, channels: &[&str]) -> bool {
        channels == [EVERYONE] || self.channels.iter().any(|(name, _)| channels.contains(name))
    }
}

/// How a listener enters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Entering {
    /// Interest, the hub with the position that the engine said, live.
    AsShipped,
    /// A fault: what waits is delivered between interest and hub.
    Delivering,
    /// A fault: the hub is not told the position.
    Forgetting,
}

/// One shard: the steps of `State::open`, `deliver` and `leave` of the server, in their order.
pub struct Shard {
    index: usize,
    engine: Arc<dyn Engine>,
    mailbox: Arc<Mailbox>,
    hub: Hub,
    spare: Vec<Arc<Publication>>,
    here: BTreeMap<Slot, Stay>,
    /// Those who have left.
    pub gone: Vec<Stay>,
    /// The last publication delivered here.
    pub delivered: Place,
    /// A publication to the channel `end` was delivered here.
    pub ended: bool,
    /// A fault to plant in how listeners enter.
    pub entering: Entering,
    sessions: u128,
}

impl Shard {
    /// A shard without listeners.
    pub fn new(index: usize, engine: &Arc<dyn Engine>, mailboxes: &Mailboxes) -> Self {
        Self {
            index,
            engine: Arc::clone(engine),
            mailbox: Arc::clone(&mailboxes[index]),
            hub: Hub::default(),
            spare: Vec::new(),
            here: BTreeMap::new(),
            gone: Vec::new(),
            delivered: 0,
            ended: false,
            entering: Entering::AsShipped,
            sessions: 0,
        }
    }

    /// A listener comes: interest first, then the hub, then live.
    ///
    /// # Panics
    ///
    /// If it is refused; there is room for all.
    pub fn enter(&mut self, slot: Slot, names: &[&'static str], seen: Option<Place>) {
        let since = seen.map(|seen| {
            Since::Position(Position {
                epoch: EPOCH,
                offset: Offset::new(seen),
            })
        });
        let listening = Listening {
            shard: self.index,
            channels: &names.iter().map(|name| channel(name)).collect::<Vec<_>>(),
            resume: since.map_or(Resume::Now, Resume::Since),
            reader: Reader::default(),
            is_new: true,
        };
        let replay = self
            .engine
            .subscribe(APP, &listening, now())
            .unwrap_or_else(|refusal| panic!("{names:?}: {refusal}"));
        let position = place(replay.position.offset);
        let begin = seen.filter(|_| !replay.is_gap).unwrap_or(position);
        let channels: Vec<_> = names.iter().map(|name| (*name, begin)).collect();
        if self.entering == Entering::Delivering {
            self.deliver();
        }
        self.sessions += 1;
        self.hub
            .join(slot, SessionId(self.sessions), APP, WireForm::EventStreamRaw);
        for (name, _) in &channels {
            let position = match self.entering {
                Entering::Forgetting => None,
                Entering::AsShipped | Entering::Delivering => Some(replay.position),
            };
            self.hub
                .subscribe_after(slot, &Topic::Channel(channel(name)), position);
        }
        let stay = Stay {
            channels,
            back: seen.map(|seen| (seen, replay.is_gap)),
            position,
            heard: replay.entries.iter().map(|entry| entry.offset.get()).collect(),
            until: Place::MAX,
        };
        self.here.insert(slot, stay);
    }

    /// A listener leaves. Returns the last place it has seen of what it listened to.
    pub fn leave(&mut self, slot: Slot) -> Place {
        let Some(mut stay) = self.here.remove(&slot) else {
            return 0;
        };
        let mut channels = Vec::new();
        self.hub.leave(slot, |topic| {
            if let Topic::Channel(channel) = topic {
                channels.push(channel.clone());
            }
        });
        self.engine.leave(APP, self.index, &channels, now());
        stay.until = self.delivered.max(stay.position);
        let begun = stay.channels.iter().map(|(_, since)| *since).min();
        let seen = stay.heard.last().copied().or(begun).unwrap_or(0);
        self.gone.push(stay);
        seen
    }

    /// Takes all that waits and delivers it, in runs.
    ///
    /// # Panics
    ///
    /// If the order is not that of the offsets.
    pub fn deliver(&mut self) {
        let mut taken = std::mem::take(&mut self.spare);
        self.mailbox.take(&mut taken);
        let mut rest = &taken[..];
        while !rest.is_empty() {
            let (run, behind) = rest.split_at(Hub::run_len(rest.iter().map(|publication| &**publication)));
            for publication in run {
                let at = publication.offset.get();
                assert!(
                    self.delivered < at,
                    "should have heard {at} before {}",
                    self.delivered
                );
                self.delivered = at;
                self.ended |= publication
                    .places()
                    .iter()
                    .any(|place| place.channel.as_ref().is_some_and(|name| name.as_str() == END));
            }
            let here = &mut self.here;
            let delivered = self.hub.deliver(run, |slot, bytes| {
                if let Some(stay) = here.get_mut(&slot) {
                    stay.heard.extend(places_in(bytes.frame));
                }
            });
            assert_eq!(delivered.missing, None, "should have heard what came before");
            self.mailbox.release(run.len(), run.len() * BYTES);
            rest = behind;
        }
        taken.clear();
        self.spare = taken;
    }

    /// Sleeps until the mailbox wakes it, then delivers.
    pub fn sleep_then_deliver(&mut self) {
        self.mailbox.arrived.wait();
        self.deliver();
    }

    /// Whether a listener here should still hear something, where all publications up to this place
    /// are to the one channel that it entered.
    pub fn lacks(&self, slot: Slot, last: Place) -> bool {
        self.here.get(&slot).is_some_and(|stay| {
            let since = stay.channels.first().map_or(0, |(_, since)| *since);
            (stay.heard.len() as Place) < last - since
        })
    }

    /// All leave; returns what each of the shard's listeners was told and heard.
    pub fn close(mut self) -> Vec<Stay> {
        let slots: Vec<Slot> = self.here.keys().copied().collect();
        for slot in slots {
            self.leave(slot);
        }
        self.gone
    }
}

/// What was accepted: the place and the channels of each.
pub type Accepted = BTreeMap<Place, &'static [&'static str]>;

/// Every listener heard exactly what was published to its channels from the moment that it was
/// told of until its shard let it go, in order and once; who came back and had missed something
/// was told so.
///
/// # Panics
///
/// If it is not so.
pub fn judge(accepted: &Accepted, stays: &[Stay]) {
    // What was refused has left no hole.
    assert!(
        accepted.keys().copied().eq(1..=accepted.len() as u64),
        "{accepted:?}"
    );
    for stay in stays {
        let expected: BTreeSet<Place> = accepted
            .iter()
            .filter(|(at, channels)| {
                let begins = stay.channels.iter().map(|(_, since)| since).min();
                **at <= stay.until && Some(*at) > begins && stay.is_for(channels)
            })
            .map(|(at, _)| *at)
            .collect();
        assert!(
            stay.heard.iter().eq(expected.iter()),
            "{stay:?} should have heard {expected:?} of {accepted:?}"
        );
        let Some((seen, is_gap)) = stay.back else {
            continue;
        };
        // More than is kept was missed of one of its channels, or of announcements, and only then it is
        // told so.
        let channels = stay.channels.iter().map(|(name, _)| name).chain([&EVERYONE]);
        let is_short = channels.into_iter().any(|name| {
            let missed = accepted
                .iter()
                .filter(|(at, channels)| seen < **at && **at <= stay.position && channels.contains(name));
            missed.count() > KEPT
        });
        assert_eq!(is_gap, is_short, "{stay:?} was told wrongly in {accepted:?}");
    }
}

/// The house is empty: nobody is counted, nothing waits.
///
/// # Panics
///
/// If it is not so.
pub fn empty(engine: &dyn Engine, mailboxes: &Mailboxes, channels: &[&str]) {
    for name in channels {
        assert_eq!(engine.listeners(APP, &[channel(name)]), 0, "listeners of {name}");
    }
    assert_eq!(engine.counts().listened, 0);
    for mailbox in mailboxes.iter() {
        assert_eq!((mailbox.len(), mailbox.bytes()), (0, 0));
    }
}
