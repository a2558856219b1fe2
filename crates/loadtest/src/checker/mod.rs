//! Judges what subscribers heard of what publishers sent (the promises "order" and "no silent
//! loss").
//!
//! A [`History`] is written down while something runs: publishers say what they sent and what they
//! were answered, subscribers what they heard, by lineage: one logical subscriber over all of its
//! connections. [`History::judge`] then finds every deviation. What holds of a history without one:
//!
//! * a publication that was accepted, or that anyone heard, was heard exactly once by each lineage
//!   of its channel whose stretch it lies in: after where the lineage began, up to where it ended,
//!   without what its gap flags cover;
//! * within an epoch the offsets of a lineage rise, and it changes to another epoch only with a
//!   flag;
//! * a payload has one place and a place one payload, whoever is asked;
//! * the accepted publications of one publisher, which waits for each answer, have rising places;
//! * nothing was heard that was not sent, was refused, was sent to another channel, or was said by
//!   the lineage itself;
//! * there are no flags but those that [`FlagsAllowed`] admits;
//! * who was away for longer than anything is kept is told of a gap before it hears anything;
//! * every lineage came as far as the last accepted publication of its channel.
//!
//! Places are compared by epoch in the order in which the history first saw them, then by offset;
//! so epochs must be written down as they happen. There is no I/O here and no clock. Memory: 16
//! bytes per delivery, about 24 MB for 150 subscribers of 10,000 publications.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

mod judge;

pub use judge::{FINDINGS_PER_FAULT_MAX, Fault, Finding, Report, Summary};

/// A place as servers write it, `6f2k-42`: the epoch in base 36, a hyphen, the offset.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Position {
    /// Which life of the order.
    pub epoch: u64,
    /// Rises with every publication of an app; 0 before the first.
    pub offset: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut digits, mut rest) = (Vec::new(), self.epoch);
        loop {
            digits.push(char::from_digit((rest % 36) as u32, 36).unwrap_or('?'));
            rest /= 36;
            if rest == 0 {
                break;
            }
        }
        let epoch: String = digits.iter().rev().collect();
        write!(f, "{epoch}-{}", self.offset)
    }
}

impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = |text: &str| {
            let (epoch, offset) = text.split_once('-')?;
            Some(Self {
                epoch: u64::from_str_radix(epoch, 36).ok()?,
                offset: offset.parse().ok()?,
            })
        };
        read(text).ok_or_else(|| format!("{text:?} is no id"))
    }
}

/// What a publication is known by: who sent it, and which of the sender's it is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Payload {
    /// The publisher, over the whole history.
    pub publisher: u32,
    /// Counts the publisher's publications in the order in which it sent them, over all channels.
    pub sequence: u32,
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.publisher, self.sequence)
    }
}

/// What a publisher was told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    /// It is ordered, at this place.
    Accepted(Position),
    /// It is ordered, but the way it was sent has no answer that says where.
    Taken,
    /// It is not, and never will be.
    Refused,
    /// Nothing: the connection broke or the answer was late. It may be ordered once, or not.
    Unknown,
}

/// Which gap flags are no fault.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FlagsAllowed {
    /// None: the history window was never exceeded, and no epoch lost.
    Never,
    /// Those that lead to another epoch: the order was lost, but no window was exceeded.
    WithNewEpoch,
    /// All: the window can have been exceeded.
    Always,
}

/// Number of a channel in a history. Channels of several apps are several channels.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Channel(usize);

/// Number of a lineage in a history.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lineage(usize);

/// A [`Position`] whose epoch is numbered by when it was first seen, so that places can be compared.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Place {
    epoch: u32,
    offset: u64,
}

/// The number of a payload that is none of this history's.
const STRANGE: u32 = u32::MAX;

struct Sent {
    payload: Payload,
    /// `None`: heard, but never sent.
    channel: Option<usize>,
    /// The lineage over whose connection it was said.
    speaker: Option<usize>,
    answer: Answer,
    /// The place of [`Answer::Accepted`].
    place: Option<Place>,
}

/// A delivery, kept small: there are millions.
#[derive(Clone, Copy)]
struct Heard {
    offset: u64,
    epoch: u32,
    /// Index into [`History::sent`], or [`STRANGE`].
    payload: u32,
}

impl Heard {
    fn place(self) -> Place {
        Place {
            epoch: self.epoch,
            offset: self.offset,
        }
    }
}

/// A flag, between two deliveries.
#[derive(Clone, Copy)]
struct Gap {
    /// How many deliveries came before it.
    behind: usize,
    /// What counts as seen from then on; `None`: the next delivery goes on after whatever was missed.
    to: Option<Place>,
}

struct Follower {
    name: String,
    channel: usize,
    begin: Place,
    heard: Vec<Heard>,
    gaps: Vec<Gap>,
    /// How many deliveries and flags came before each absence that must be followed by a flag.
    absences: Vec<(usize, usize)>,
    cuts: u64,
    end: Option<Place>,
}

/// What was sent, answered and heard.
#[derive(Default)]
pub struct History {
    channels: Vec<String>,
    epochs: Vec<u64>,
    sent: Vec<Sent>,
    index: HashMap<Payload, u32>,
    followers: Vec<Follower>,
    broken: Vec<(Option<usize>, String)>,
}

impl History {
    /// Adds a channel. `name` is for people.
    pub fn channel(&mut self, name: &str) -> Channel {
        self.channels.push(name.to_owned());
        Channel(self.channels.len() - 1)
    }

    /// A publication is about to be sent; over the connection of `speaker`, who must not hear it.
    pub fn invoke(&mut self, payload: Payload, channel: Channel, speaker: Option<Lineage>) {
        let at = self.number(payload);
        let sent = &mut self.sent[at as usize];
        sent.channel = Some(channel.0);
        sent.speaker = speaker.map(|lineage| lineage.0);
    }

    /// What came of it. Without an answer it counts as [`Answer::Unknown`].
    pub fn answered(&mut self, payload: Payload, answer: Answer) {
        let place = match answer {
            Answer::Accepted(position) => Some(self.place(position)),
            _ => None,
        };
        let at = self.number(payload);
        let sent = &mut self.sent[at as usize];
        sent.answer = answer;
        sent.place = place;
    }

    /// Adds a lineage of a channel that wants everything after `begin`. `name` is for people.
    pub fn lineage(&mut self, name: &str, channel: Channel, begin: Position) -> Lineage {
        let begin = self.place(begin);
        self.followers.push(Follower {
            name: name.to_owned(),
            channel: channel.0,
            begin,
            heard: Vec::new(),
            gaps: Vec::new(),
            absences: Vec::new(),
            cuts: 0,
            end: None,
        });
        Lineage(self.followers.len() - 1)
    }

    /// A lineage heard something; `None`: it is nothing that this history's publishers send.
    pub fn heard(&mut self, lineage: Lineage, at: Position, payload: Option<Payload>) {
        let Place { epoch, offset } = self.place(at);
        let payload = payload.map_or(STRANGE, |payload| self.number(payload));
        self.followers[lineage.0].heard.push(Heard {
            offset,
            epoch,
            payload,
        });
    }

    /// A lineage was told that it missed something, and that it goes on after `to`. Where that was
    /// not said, the flag covers everything before the next delivery.
    pub fn gap(&mut self, lineage: Lineage, to: Option<Position>) {
        let to = to.map(|to| self.place(to));
        let follower = &mut self.followers[lineage.0];
        let behind = follower.heard.len();
        follower.gaps.push(Gap { behind, to });
    }

    /// A lineage was away for longer than anything is kept: what it is told next must be a flag.
    pub fn absent(&mut self, lineage: Lineage) {
        let follower = &mut self.followers[lineage.0];
        follower
            .absences
            .push((follower.heard.len(), follower.gaps.len()));
    }

    /// A lineage lost its connection.
    pub fn cut(&mut self, lineage: Lineage) {
        self.followers[lineage.0].cuts += 1;
    }

    /// A lineage stops listening; what it believes to have seen ends here. Without this it ends
    /// with what it heard last.
    pub fn end(&mut self, lineage: Lineage, at: Position) {
        self.followers[lineage.0].end = Some(self.place(at));
    }

    /// Somebody was sent what the protocol does not have.
    pub fn broken(&mut self, lineage: Option<Lineage>, what: String) {
        self.broken.push((lineage.map(|lineage| lineage.0), what));
    }

    fn number(&mut self, payload: Payload) -> u32 {
        *self.index.entry(payload).or_insert_with(|| {
            self.sent.push(Sent {
                payload,
                channel: None,
                speaker: None,
                answer: Answer::Unknown,
                place: None,
            });
            (self.sent.len() - 1) as u32
        })
    }

    fn place(&mut self, position: Position) -> Place {
        // Looked at from the end: nearly always it is the newest.
        let known = self.epochs.iter().rposition(|epoch| *epoch == position.epoch);
        let epoch = known.unwrap_or_else(|| {
            self.epochs.push(position.epoch);
            self.epochs.len() - 1
        });
        Place {
            epoch: epoch as u32,
            offset: position.offset,
        }
    }

    fn position(&self, place: Place) -> Position {
        Position {
            epoch: self.epochs[place.epoch as usize],
            offset: place.offset,
        }
    }
}
