//! What is broadcast: one publication, and the bytes it becomes on each wire.
//!
//! A [`Draft`] is what a publisher asks for; an engine gives it its place and it becomes an
//! [`Entry`], which never changes again and is what a stream keeps. On its way to the subscribers
//! it is a [`Publication`]: the entry, and the frames made of it, shared by all shards.
//!
//! Invariant: a publication is encoded at most once per wire form and channel, whoever asks
//! first; every other subscriber, on any shard, shares those bytes ([`Publication::encoded`]).
//! A kept entry has no frames, so what a stream costs is what its limits say.
//!
//! This module does not know who listens, nor who may speak.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;
use thiserror::Error;

use crate::app::AppId;
use crate::channel::{ChannelName, is_printable};
use crate::frames::Frames;
use crate::moment::Moment;
use crate::position::{Epoch, Link, Offset, Position};
use crate::session_id::SessionId;
use crate::user::UserId;
use crate::wire;

/// Longest event name, in bytes.
pub const EVENT_NAME_BYTES_MAX: usize = 200;

/// Longest key of a publication, in bytes.
pub const KEY_BYTES_MAX: usize = 200;

/// Most channels that one publication may have.
pub const CHANNELS_PER_PUBLICATION_MAX: usize = 100;

/// Text stays text and binary stays binary, from the speaker to every listener.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum DataKind {
    /// Valid UTF-8.
    Text,
    /// The text of one JSON value, said by somebody whose protocol carries values: whoever listens by
    /// such a protocol gets it as a value again. To everybody else it is text.
    Json,
    /// Any bytes.
    Binary,
}

impl DataKind {
    /// What these bytes are, unless their sender says that they are binary.
    pub fn of(data: &[u8], is_binary: bool) -> Self {
        if is_binary || std::str::from_utf8(data).is_err() {
            Self::Binary
        } else {
            Self::Text
        }
    }

    /// Whether it is valid UTF-8.
    pub fn is_text(self) -> bool {
        match self {
            Self::Text | Self::Json => true,
            Self::Binary => false,
        }
    }
}

/// Whom a publication is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Audience {
    /// The subscribers of these channels; each subscriber hears it once. Never empty.
    Channels(SmallVec<[ChannelName; 1]>),
    /// Every plain session of the app, whatever it listens to: the system announcement `/ch/*`.
    Everyone,
}

impl Audience {
    /// The channels; none for everyone.
    pub fn channels(&self) -> &[ChannelName] {
        match self {
            Self::Channels(channels) => channels,
            Self::Everyone => &[],
        }
    }
}

/// The name of an event: 1 to [`EVENT_NAME_BYTES_MAX`] bytes, printable, so that it can stand
/// in a line of an event stream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EventName(Arc<str>);

/// The text cannot be an event name.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("an event name has 1 to {EVENT_NAME_BYTES_MAX} bytes and no control or invisible characters")]
pub struct EventNameError;

impl EventName {
    /// Checks `text` and makes it a name.
    pub fn new(text: &str) -> Result<Self, EventNameError> {
        if !is_printable(text, EVENT_NAME_BYTES_MAX) {
            return Err(EventNameError);
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a publication is about, within its channel: `EURUSD` on a channel of prices. 1 to
/// [`KEY_BYTES_MAX`] bytes, printable.
///
/// Publications with the same key replace each other where only the newest matters: versions are
/// compared by key, and a slow consumer of such a channel gets the newest of each.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct PublicationKey(Arc<str>);

/// The text cannot be a key.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("a key has 1 to {KEY_BYTES_MAX} bytes and no control or invisible characters")]
pub struct PublicationKeyError;

impl PublicationKey {
    /// Checks `text` and makes it a key.
    pub fn new(text: &str) -> Result<Self, PublicationKeyError> {
        if !is_printable(text, KEY_BYTES_MAX) {
            return Err(PublicationKeyError);
        }
        Ok(Self(text.into()))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a publisher asks for: everything but the place in the order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Draft {
    /// The app whose channels these are.
    pub app: AppId,
    /// For whom.
    pub audience: Audience,
    /// The name of what happened, if the publisher gave one.
    pub event: Option<EventName>,
    /// Whether `data` is text; the maker of the draft has checked it.
    pub kind: DataKind,
    /// The message, byte for byte.
    pub data: Bytes,
    /// The user who speaks, if known.
    pub speaker: Option<UserId>,
    /// The session that must not hear this: normally the speaker's own.
    pub excluded: Option<SessionId>,
    /// The user who must not hear this, on any of her connections.
    pub except: Option<UserId>,
    /// Some channel of it is private: it is never compressed, since the length of what is compressed
    /// tells of its content (the attacks called CRIME and BREACH).
    pub is_secret: bool,
    /// What it is about, within its channel.
    pub key: Option<PublicationKey>,
    /// The version of what it is about. A publication whose version is not above the last one of its
    /// channel and key comes too late and is dropped. Only for one channel.
    pub version: Option<u64>,
    /// Time after which nobody who comes back is given it, though the channel may keep it longer. With
    /// zero it is only for who is here, is not kept at all, and makes no gap.
    pub ttl: Option<Duration>,
    /// Only sessions of the Pusher door are given it: what its protocol says of a channel itself.
    pub is_pusher_only: bool,
    /// A client of the Pusher door says it to the others of its one channel.
    pub is_client_event: bool,
}

impl Draft {
    /// Text or binary to one channel, from nobody in particular.
    pub fn new(app: AppId, channel: ChannelName, kind: DataKind, data: Bytes) -> Self {
        Self::to(
            app,
            Audience::Channels(SmallVec::from_iter([channel])),
            kind,
            data,
        )
    }

    /// Whether it is only for who is here now.
    pub fn is_passing(&self) -> bool {
        self.ttl == Some(Duration::ZERO)
    }

    /// From when on nobody who comes back is given it, if it gets its place then.
    pub(crate) fn expires_at(&self, ordered_at: Moment) -> Moment {
        self.ttl.map_or(Moment::NEVER, |ttl| ordered_at + ttl)
    }

    /// The same to any audience.
    pub fn to(app: AppId, audience: Audience, kind: DataKind, data: Bytes) -> Self {
        Self {
            app,
            audience,
            event: None,
            kind,
            data,
            speaker: None,
            excluded: None,
            except: None,
            is_secret: false,
            key: None,
            version: None,
            ttl: None,
            is_pusher_only: false,
            is_client_event: false,
        }
    }
}

/// What a stream of bytes to one kind of subscriber looks like.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum WireForm {
    /// WebSocket, the message itself.
    WebSocketRaw,
    /// WebSocket, the message in JSON with its id and channel (`meta=1`).
    WebSocketMeta,
    /// Event stream, the message itself.
    EventStreamRaw,
    /// Event stream, the message in JSON with its id and channel (`meta=1`).
    EventStreamMeta,
    /// Like [`Self::WebSocketRaw`], compressed where that is worth it (permessage-deflate).
    WebSocketRawDeflate,
    /// Like [`Self::WebSocketMeta`], compressed where that is worth it (permessage-deflate).
    WebSocketMetaDeflate,
    /// Not the publication, only that there is one: for a long poll, which then reads the stream.
    Notice,
    /// WebSocket, an event of the Pusher protocol.
    Pusher,
    /// Like [`Self::Pusher`], compressed where that is worth it (permessage-deflate).
    PusherDeflate,
}

impl WireForm {
    /// Every form; a form's place here is its index.
    pub const ALL: [Self; 9] = [
        Self::WebSocketRaw,
        Self::WebSocketMeta,
        Self::EventStreamRaw,
        Self::EventStreamMeta,
        Self::WebSocketRawDeflate,
        Self::WebSocketMetaDeflate,
        Self::Notice,
        Self::Pusher,
        Self::PusherDeflate,
    ];
    /// How many forms there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Whether publications arrive as JSON with their id and channel.
    pub fn is_meta(self) -> bool {
        match self {
            Self::WebSocketMeta | Self::WebSocketMetaDeflate | Self::EventStreamMeta => true,
            Self::WebSocketRaw
            | Self::WebSocketRawDeflate
            | Self::EventStreamRaw
            | Self::Notice
            | Self::Pusher
            | Self::PusherDeflate => false,
        }
    }

    /// Whether it belongs to the Pusher door.
    pub fn is_pusher(self) -> bool {
        matches!(self, Self::Pusher | Self::PusherDeflate)
    }

    /// The form of a session that has agreed on permessage-deflate; the others know none.
    #[must_use]
    pub fn deflate(self) -> Self {
        match self {
            Self::WebSocketRaw | Self::WebSocketRawDeflate => Self::WebSocketRawDeflate,
            Self::WebSocketMeta | Self::WebSocketMetaDeflate => Self::WebSocketMetaDeflate,
            Self::Pusher | Self::PusherDeflate => Self::PusherDeflate,
            Self::EventStreamRaw | Self::EventStreamMeta | Self::Notice => self,
        }
    }

    /// The form that a compressed one is made of; `None` if this is none.
    pub fn inflated(self) -> Option<Self> {
        match self {
            Self::WebSocketRawDeflate => Some(Self::WebSocketRaw),
            Self::WebSocketMetaDeflate => Some(Self::WebSocketMeta),
            Self::PusherDeflate => Some(Self::Pusher),
            _ => None,
        }
    }
}

/// One channel of a publication, the publication's tie to the one before it there, and the
/// frames made so far for this channel's subscribers.
#[derive(Debug)]
pub struct Place {
    /// `None` for an announcement to everyone.
    pub channel: Option<ChannelName>,
    /// What came before in this channel.
    pub previous: Option<Offset>,
    encoded: Frames,
}

/// A draft that has its place in the order: what a stream keeps.
#[derive(Debug)]
pub struct Entry {
    /// What was asked for, as it was.
    pub draft: Draft,
    /// The life of the order that the offset belongs to.
    pub epoch: Epoch,
    /// This publication's own place in it.
    pub offset: Offset,
    /// When it got its place, in the engine's time.
    pub ordered_at: Moment,
}

/// Who reads, as far as that decides what is for whom.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Reader<'a> {
    /// The session; `None` for one that hears its own echo.
    pub session: Option<SessionId>,
    /// Its user, if known.
    pub user: Option<&'a UserId>,
}

/// An entry on its way to its subscribers. Shared by all who deliver it.
#[derive(Debug)]
pub struct Publication {
    entry: Arc<Entry>,
    places: SmallVec<[Place; 1]>,
}

impl Deref for Publication {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.entry
    }
}

impl Entry {
    /// Whether this is for a session, or its user, at all.
    pub fn is_for(&self, reader: Reader<'_>) -> bool {
        let Draft { excluded, except, .. } = &self.draft;
        let is_excluded = excluded.is_some() && *excluded == reader.session;
        let is_except = except.is_some() && except.as_ref() == reader.user;
        !is_excluded && !is_except
    }

    /// Position of a subscriber that has just seen this publication: its id.
    pub fn position(&self) -> Position {
        Position {
            epoch: self.epoch,
            offset: Some(self.offset),
        }
    }

    /// Of the channels that somebody listens to, the one that this is shown as: the first of its own.
    pub fn channel_among(&self, heard: &[ChannelName]) -> Option<&ChannelName> {
        self.draft
            .audience
            .channels()
            .iter()
            .find(|name| heard.contains(name))
    }

    /// From when on nobody who comes back is given it.
    pub fn expires_at(&self) -> Moment {
        self.draft.expires_at(self.ordered_at)
    }

    /// Bytes that keeping it costs besides its place in a stream: what its publisher chose.
    pub fn bytes(&self) -> usize {
        let draft = &self.draft;
        let event = draft.event.as_ref().map_or(0, |event| event.as_str().len());
        let speaker = draft.speaker.as_ref().map_or(0, |speaker| speaker.len());
        let key = draft.key.as_ref().map_or(0, |key| key.as_str().len());
        [event, speaker, key]
            .into_iter()
            .fold(draft.data.len(), usize::saturating_add)
    }
}

impl Publication {
    /// Gives `draft` its place. `link` is called once per channel, in order, and must return
    /// the same epoch and offset each time; an announcement calls it once with `None`.
    ///
    /// Only an engine calls this.
    pub fn new(draft: Draft, now: Moment, mut link: impl FnMut(Option<&ChannelName>) -> Link) -> Self {
        let mut last = None;
        let mut place = |channel: Option<&ChannelName>| {
            let link = link(channel);
            last = Some(link);
            Place {
                channel: channel.cloned(),
                previous: link.previous,
                encoded: Frames::default(),
            }
        };
        let places: SmallVec<[Place; 1]> = match &draft.audience {
            Audience::Everyone => SmallVec::from_iter([place(None)]),
            Audience::Channels(channels) => channels.iter().map(|channel| place(Some(channel))).collect(),
        };
        // An audience without channels cannot be built by any parser; such a draft would be
        // heard by nobody, so an arbitrary place does no harm.
        let link = last.unwrap_or(Link {
            epoch: Epoch(0),
            previous: None,
            offset: Offset::FIRST,
        });
        let entry = Entry {
            draft,
            epoch: link.epoch,
            offset: link.offset,
            ordered_at: now,
        };
        Self {
            entry: Arc::new(entry),
            places,
        }
    }

    /// What a stream keeps of it.
    pub fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// The channels of this publication; one place without a channel for an announcement.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// Whether this is for every plain session rather than for channels.
    pub fn is_for_everyone(&self) -> bool {
        self.places.first().is_some_and(|place| place.channel.is_none())
    }

    /// Whether `next` is for the same channels of the same app, and neither is an announcement.
    pub fn has_audience_of(&self, next: &Self) -> bool {
        self.draft.app == next.draft.app
            && self.draft.is_pusher_only == next.draft.is_pusher_only
            && !self.is_for_everyone()
            && self.places.len() == next.places.len()
            && self
                .places
                .iter()
                .zip(&next.places)
                .all(|(own, other)| own.channel == other.channel)
    }

    /// The tie of this publication in one of its channels.
    pub fn link(&self, place: &Place) -> Link {
        Link {
            epoch: self.epoch,
            previous: place.previous,
            offset: self.offset,
        }
    }

    /// The bytes for every subscriber of `place` that speaks `form`. The first caller encodes;
    /// the others, on any shard, share its result.
    pub fn encoded(&self, place: &Place, form: WireForm) -> Bytes {
        place
            .encoded
            .get_or_make(form, || wire::encode(self, place, form))
    }
}
