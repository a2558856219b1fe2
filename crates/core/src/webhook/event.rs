//! What an app's back end can be told, and what one of its URLs wants to hear.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::channel::{ChannelName, ChannelPattern};
use crate::publication::Entry;
use crate::user::UserId;

/// Kinds of events, by the names that the protocol has for them (`pusher.md` section 13).
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// Somebody listens to a channel that nobody listened to.
    ChannelOccupied,
    /// Nobody listens to a channel any more.
    ChannelVacated,
    /// A user is there on a presence channel.
    MemberAdded,
    /// She has gone from there.
    MemberRemoved,
    /// A client has said something to the others of a channel.
    ClientEvent,
    /// Somebody came to a cache channel of which nothing is kept.
    CacheMiss,
    /// Another number of sessions listens to a channel.
    SubscriptionCount,
}

impl EventKind {
    /// What a URL hears that does not say what it wants: all but what comes as often as clients speak,
    /// and with every subscription.
    pub const DEFAULT: [Self; 5] = [
        Self::ChannelOccupied,
        Self::ChannelVacated,
        Self::MemberAdded,
        Self::MemberRemoved,
        Self::CacheMiss,
    ];

    /// Its name in a request.
    pub fn name(self) -> &'static str {
        match self {
            Self::ChannelOccupied => "channel_occupied",
            Self::ChannelVacated => "channel_vacated",
            Self::MemberAdded => "member_added",
            Self::MemberRemoved => "member_removed",
            Self::ClientEvent => "client_event",
            Self::CacheMiss => "cache_miss",
            Self::SubscriptionCount => "subscription_count",
        }
    }
}

/// One thing that a back end is told. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Event {
    /// The channel that it is about.
    pub channel: ChannelName,
    /// What happened there.
    pub what: What,
}

/// See [`EventKind`].
#[derive(Clone, Debug)]
pub enum What {
    /// [`EventKind::ChannelOccupied`]
    Occupied,
    /// [`EventKind::ChannelVacated`]
    Vacated,
    /// [`EventKind::MemberAdded`]
    Added(UserId),
    /// [`EventKind::MemberRemoved`]
    Removed(UserId),
    /// [`EventKind::ClientEvent`]: what was published.
    Said(Arc<Entry>),
    /// [`EventKind::CacheMiss`]
    Missed,
    /// [`EventKind::SubscriptionCount`]
    Count(usize),
}

/// What an event costs in memory besides what a client has said in it, in bytes: an upper bound.
pub const EVENT_OVERHEAD_BYTES: usize = 512;

impl Event {
    /// Of which kind it is.
    pub fn kind(&self) -> EventKind {
        match &self.what {
            What::Occupied => EventKind::ChannelOccupied,
            What::Vacated => EventKind::ChannelVacated,
            What::Added(_) => EventKind::MemberAdded,
            What::Removed(_) => EventKind::MemberRemoved,
            What::Said(_) => EventKind::ClientEvent,
            What::Missed => EventKind::CacheMiss,
            What::Count(_) => EventKind::SubscriptionCount,
        }
    }

    /// What it costs in memory, in bytes.
    pub fn cost(&self) -> usize {
        let said = match &self.what {
            What::Said(entry) => entry.bytes(),
            _ => 0,
        };
        said.saturating_add(EVENT_OVERHEAD_BYTES)
    }
}

/// What one URL wants to hear.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    /// Events of these kinds,
    pub kinds: Vec<EventKind>,
    /// on these channels.
    pub channels: ChannelPattern,
}

impl Filter {
    /// Whether it wants any of these kinds, of this channel.
    pub fn wants(&self, kinds: &[EventKind], channel: &ChannelName) -> bool {
        kinds.iter().any(|kind| self.kinds.contains(kind)) && self.channels.matches(channel.as_str())
    }
}
