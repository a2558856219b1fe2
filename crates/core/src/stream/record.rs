//! What is written down of a publication, so that a later life of the node has it: values and
//! their bytes. All numbers are big endian.
//!
//! | Bytes | What |
//! |---|---|
//! | 1 | kind: 1 publication, 2 a channel was emptied |
//! | 8 | offset: the publication's own, or the last one when the channel was emptied |
//!
//! A publication goes on:
//!
//! | Bytes | What |
//! |---|---|
//! | 8 | when it got its place, in milliseconds of the engine's time |
//! | 2 | flags: 1 has data, 2 is text, 4 has an event, 8 has a speaker, 16 is from a session, 32 was carried over, 64 has a key, 128 has a version, 256 expires, 512 is not for a user, 1024 is secret, 2048 is a JSON value |
//! | 1 | channels; 0: an announcement to everyone |
//! | each | 1: length of the name, the name; if carried over, 1: what is left of it there ([`Left`]), and with 1 (kept) 8: `behind` |
//! | 2 + n | the event, if there is one |
//! | 2 + n | the speaker, if known |
//! | 16 | the session, if there is one |
//! | 2 + n | the key, if there is one |
//! | 8 | the version, if there is one |
//! | 8 | when it expires, if it does, in milliseconds of the engine's time |
//! | 2 + n | the user whom it is not for, if there is one |
//! | the rest | the data |
//!
//! A later version of the server may add kinds and flags; what this one does not know it refuses
//! to read ([`RecordError`]), and nothing is guessed. Lengths are checked before anything is taken.
//! This module knows neither files nor checksums.

use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;
use thiserror::Error;

use crate::app::AppId;
use crate::channel::ChannelName;
use crate::moment::Moment;
use crate::position::{Epoch, Offset};
use crate::publication::{
    Audience, CHANNELS_PER_PUBLICATION_MAX, DataKind, Draft, Entry, EventName, PublicationKey,
};
use crate::session_id::SessionId;
use crate::user::UserId;

const PUBLICATION: u8 = 1;
const CLEARED: u8 = 2;

const HAS_DATA: u16 = 1;
const IS_TEXT: u16 = 2;
const HAS_EVENT: u16 = 4;
const HAS_SPEAKER: u16 = 8;
const HAS_SESSION: u16 = 16;
const CARRIED: u16 = 32;
const HAS_KEY: u16 = 64;
const HAS_VERSION: u16 = 128;
const EXPIRES: u16 = 256;
const HAS_EXCEPT: u16 = 512;
const IS_SECRET: u16 = 1_024;
const IS_JSON: u16 = 2_048;
const KNOWN_FLAGS: u16 = 4_095;

/// The bytes are no record that this version can read.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("not a record of this version")]
pub struct RecordError;

/// What is left of a publication in one of its channels, when its record is written anew because
/// others around it have gone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Left {
    /// Nothing that matters: a later record, or the bound for forgotten channels, says more.
    Nothing,
    /// It is kept. What came before in the channel is whole only for who has seen this place.
    Kept {
        /// [`Stream::complete_after`](super::Stream::complete_after) of the channel.
        behind: Option<Offset>,
    },
    /// It is not kept, and nothing was published in the channel before the next record there.
    Place,
}

/// A publication as it is read back.
#[derive(Clone, Debug)]
pub struct Written {
    /// Its place.
    pub offset: Offset,
    /// When it got it.
    pub ordered_at: Moment,
    /// Whether its data was written down.
    pub has_data: bool,
    /// If it was carried over: what is left in each channel, in the order of the audience.
    pub left: Option<SmallVec<[Left; 1]>>,
    /// What was asked for; without data also without event, speaker, and whom it is not for.
    pub draft: Draft,
}

/// One record, as it is read back.
#[derive(Clone, Debug)]
pub enum Record {
    /// Something was published.
    Publication(Box<Written>),
    /// All that was kept of a channel was removed.
    Cleared {
        /// Which.
        channel: ChannelName,
        /// The last place before that.
        offset: Offset,
    },
}

/// Writes a new publication down; without `has_data` only that there was one.
pub fn write_publication(
    out: &mut Vec<u8>,
    offset: Offset,
    ordered_at: Moment,
    draft: &Draft,
    has_data: bool,
) {
    write(out, offset, ordered_at, draft, has_data, None);
}

/// Writes a publication down again, with what is left of it in each of its channels.
pub fn write_carried(out: &mut Vec<u8>, written: &Written, left: &[Left]) {
    let has_data = written.has_data && left.iter().any(|left| matches!(left, Left::Kept { .. }));
    let Written {
        offset,
        ordered_at,
        draft,
        ..
    } = written;
    write(out, *offset, *ordered_at, draft, has_data, Some(left));
}

/// Writes down that a channel was emptied.
pub fn write_cleared(out: &mut Vec<u8>, channel: &ChannelName, offset: Offset) {
    out.push(CLEARED);
    out.extend(offset.get().to_be_bytes());
    write_name(out, channel);
}

fn write(
    out: &mut Vec<u8>,
    offset: Offset,
    ordered_at: Moment,
    draft: &Draft,
    has_data: bool,
    left: Option<&[Left]>,
) {
    // Who is told of a gap there is told no more than that.
    let event = draft.event.as_ref().filter(|_| has_data);
    let speaker = draft.speaker.as_ref().filter(|_| has_data);
    let excluded = draft.excluded.filter(|_| has_data);
    let except = draft.except.as_ref().filter(|_| has_data);
    let channels = draft.audience.channels();
    let expires_at = draft.expires_at(ordered_at);
    out.push(PUBLICATION);
    out.extend(offset.get().to_be_bytes());
    out.extend(ordered_at.as_millis().to_be_bytes());
    let flag = |is_set: bool, flag: u16| if is_set { flag } else { 0 };
    out.extend(
        (flag(has_data, HAS_DATA)
            | flag(draft.kind.is_text(), IS_TEXT)
            | flag(draft.kind == DataKind::Json, IS_JSON)
            | flag(event.is_some(), HAS_EVENT)
            | flag(speaker.is_some(), HAS_SPEAKER)
            | flag(excluded.is_some(), HAS_SESSION)
            | flag(left.is_some(), CARRIED)
            | flag(draft.key.is_some(), HAS_KEY)
            | flag(draft.version.is_some(), HAS_VERSION)
            | flag(expires_at != Moment::NEVER, EXPIRES)
            | flag(except.is_some(), HAS_EXCEPT)
            | flag(draft.is_secret, IS_SECRET))
        .to_be_bytes(),
    );
    out.push(u8::try_from(channels.len()).unwrap_or(u8::MAX));
    let mut left = left.map(|left| left.iter());
    for channel in channels {
        write_name(out, channel);
        if let Some(left) = &mut left {
            write_left(out, left.next().copied().unwrap_or(Left::Nothing));
        }
    }
    if let (Some(left), true) = (&mut left, channels.is_empty()) {
        write_left(out, left.next().copied().unwrap_or(Left::Nothing));
    }
    if let Some(event) = event {
        write_text(out, event.as_str());
    }
    if let Some(speaker) = speaker {
        write_text(out, speaker);
    }
    if let Some(session) = excluded {
        out.extend(session.0.to_be_bytes());
    }
    if let Some(key) = &draft.key {
        write_text(out, key.as_str());
    }
    if let Some(version) = draft.version {
        out.extend(version.to_be_bytes());
    }
    if expires_at != Moment::NEVER {
        out.extend(expires_at.as_millis().to_be_bytes());
    }
    if let Some(except) = except {
        write_text(out, except);
    }
    if has_data {
        out.extend_from_slice(&draft.data);
    }
}

// What is written by these two has at most 200 bytes: the lengths fit.
fn write_text(out: &mut Vec<u8>, text: &str) {
    out.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend(text.as_bytes());
}

fn write_name(out: &mut Vec<u8>, name: &ChannelName) {
    out.push(u8::try_from(name.as_str().len()).unwrap_or(u8::MAX));
    out.extend(name.as_str().as_bytes());
}

fn write_left(out: &mut Vec<u8>, left: Left) {
    match left {
        Left::Nothing => out.push(0),
        Left::Kept { behind } => {
            out.push(1);
            out.extend(behind.map_or(0, Offset::get).to_be_bytes());
        }
        Left::Place => out.push(2),
    }
}

/// Reads one record of an app, which is all of `bytes`.
pub fn read(app: AppId, bytes: &[u8]) -> Result<Record, RecordError> {
    let mut rest = Rest(bytes);
    let kind = rest.byte()?;
    let offset = Offset::new(rest.number()?).ok_or(RecordError)?;
    match kind {
        PUBLICATION => {
            read_publication(app, rest, offset).map(|written| Record::Publication(Box::new(written)))
        }
        CLEARED => {
            let channel = rest.name()?;
            if !rest.0.is_empty() {
                return Err(RecordError);
            }
            Ok(Record::Cleared { channel, offset })
        }
        _ => Err(RecordError),
    }
}

fn read_publication(app: AppId, mut rest: Rest<'_>, offset: Offset) -> Result<Written, RecordError> {
    let ordered_at = rest.moment()?;
    let flags = u16::from_be_bytes(rest.array()?);
    if flags & !KNOWN_FLAGS != 0 {
        return Err(RecordError);
    }
    let has = |flag: u16| flags & flag != 0;
    let count = usize::from(rest.byte()?);
    if count > CHANNELS_PER_PUBLICATION_MAX {
        return Err(RecordError);
    }
    let mut channels = SmallVec::new();
    let mut left = has(CARRIED).then(SmallVec::new);
    for _ in 0..count {
        channels.push(rest.name()?);
        if let Some(left) = &mut left {
            left.push(rest.left()?);
        }
    }
    if let (Some(left), 0) = (&mut left, count) {
        left.push(rest.left()?);
    }
    let event = has(HAS_EVENT).then(|| rest.long_text()).transpose()?;
    let event = event.map(EventName::new).transpose().map_err(|_| RecordError)?;
    let speaker = has(HAS_SPEAKER).then(|| rest.long_text()).transpose()?;
    let speaker = speaker.map(UserId::new).transpose().map_err(|_| RecordError)?;
    let excluded = has(HAS_SESSION).then(|| rest.array()).transpose()?;
    let key = has(HAS_KEY).then(|| rest.long_text()).transpose()?;
    let key = key
        .map(PublicationKey::new)
        .transpose()
        .map_err(|_| RecordError)?;
    let version = has(HAS_VERSION).then(|| rest.number()).transpose()?;
    let expires_at = has(EXPIRES).then(|| rest.moment()).transpose()?;
    let except = has(HAS_EXCEPT).then(|| rest.long_text()).transpose()?;
    let except = except.map(UserId::new).transpose().map_err(|_| RecordError)?;
    let kind = if has(IS_TEXT) {
        // Frames are made of it without another look.
        std::str::from_utf8(rest.0).map_err(|_| RecordError)?;
        if has(IS_JSON) {
            DataKind::Json
        } else {
            DataKind::Text
        }
    } else {
        DataKind::Binary
    };
    if !has(HAS_DATA) && !rest.0.is_empty() {
        return Err(RecordError);
    }
    let audience = if count == 0 {
        Audience::Everyone
    } else {
        Audience::Channels(channels)
    };
    Ok(Written {
        offset,
        ordered_at,
        has_data: has(HAS_DATA),
        left,
        draft: Draft {
            event,
            speaker,
            excluded: excluded.map(|bytes| SessionId(u128::from_be_bytes(bytes))),
            except,
            is_secret: has(IS_SECRET),
            key,
            version,
            ttl: expires_at.map(|at| at - ordered_at),
            // Its own copy: a part of what was read would keep all of that in memory.
            ..Draft::to(app, audience, kind, Bytes::copy_from_slice(rest.0))
        },
    })
}

impl Written {
    /// The entry that it was, in this epoch.
    pub(super) fn into_entry(self, epoch: Epoch) -> Entry {
        Entry {
            draft: self.draft,
            epoch,
            offset: self.offset,
            ordered_at: self.ordered_at,
        }
    }
}

/// What has not been read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], RecordError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(RecordError)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], RecordError> {
        self.take(LENGTH)?.try_into().map_err(|_| RecordError)
    }

    fn byte(&mut self) -> Result<u8, RecordError> {
        self.array().map(|[byte]| byte)
    }

    fn number(&mut self) -> Result<u64, RecordError> {
        self.array().map(u64::from_be_bytes)
    }

    fn text(&mut self, length: usize) -> Result<&'a str, RecordError> {
        std::str::from_utf8(self.take(length)?).map_err(|_| RecordError)
    }

    fn long_text(&mut self) -> Result<&'a str, RecordError> {
        let length = u16::from_be_bytes(self.array()?);
        self.text(usize::from(length))
    }

    fn moment(&mut self) -> Result<Moment, RecordError> {
        Ok(Moment::after_start(Duration::from_millis(self.number()?)))
    }

    fn name(&mut self) -> Result<ChannelName, RecordError> {
        let length = self.byte()?;
        ChannelName::new(self.text(usize::from(length))?).map_err(|_| RecordError)
    }

    fn left(&mut self) -> Result<Left, RecordError> {
        match self.byte()? {
            0 => Ok(Left::Nothing),
            1 => Ok(Left::Kept {
                behind: Offset::new(self.number()?),
            }),
            2 => Ok(Left::Place),
            _ => Err(RecordError),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const APP: AppId = AppId::DEFAULT;

    fn name(text: &str) -> ChannelName {
        ChannelName::new(text).unwrap()
    }

    fn drafts() -> Vec<Draft> {
        let plain = Draft::new(AppId::DEFAULT, name("a"), DataKind::Text, "text".into());
        let mut full = Draft::to(
            AppId::DEFAULT,
            Audience::Channels((0..100).map(|n| name(&format!("{n:0200}"))).collect()),
            DataKind::Binary,
            Bytes::from_static(&[0, 255, 13]),
        );
        full.event = EventName::new("paid").ok();
        full.speaker = UserId::new("anna").ok();
        full.key = PublicationKey::new("EURUSD").ok();
        full.version = Some(u64::MAX);
        full.ttl = Some(Duration::from_secs(9));
        full.except = UserId::new("otto").ok();
        full.is_secret = true;
        full.excluded = Some(SessionId(u128::MAX));
        let mut all = Draft::to(AppId::DEFAULT, Audience::Everyone, DataKind::Text, Bytes::new());
        all.event = EventName::new(&"x".repeat(200)).ok();
        let value = Draft::new(AppId::DEFAULT, name("a"), DataKind::Json, "{}".into());
        vec![plain, full, all, value]
    }

    fn written(bytes: &[u8]) -> Written {
        match read(APP, bytes) {
            Ok(Record::Publication(written)) => *written,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let (offset, at) = (Offset::FIRST, Moment::after_start(Duration::from_secs(1)));
        for draft in drafts() {
            let mut bytes = Vec::new();
            write_publication(&mut bytes, offset, at, &draft, true);
            let back = written(&bytes);
            assert_eq!((back.offset, back.ordered_at, back.has_data), (offset, at, true));
            assert!(back.left.is_none());
            assert_eq!(back.draft, draft);
            bytes.clear();
            write_publication(&mut bytes, offset, at, &draft, false);
            let back = written(&bytes);
            assert!(!back.has_data);
            let rest = Draft {
                key: draft.key.clone(),
                version: draft.version,
                ttl: draft.ttl,
                is_secret: draft.is_secret,
                ..Draft::to(APP, draft.audience, draft.kind, Bytes::new())
            };
            assert_eq!(back.draft, rest);
        }
    }

    #[test]
    fn what_is_carried_over_says_what_is_left() {
        for draft in drafts() {
            let mut bytes = Vec::new();
            write_publication(&mut bytes, Offset::FIRST, Moment::default(), &draft, true);
            let first = written(&bytes);
            let count = draft.audience.channels().len().max(1);
            let kinds = [
                Left::Nothing,
                Left::Place,
                Left::Kept {
                    behind: Some(Offset::FIRST),
                },
            ];
            for wanted in kinds {
                let left = vec![wanted; count];
                bytes.clear();
                write_carried(&mut bytes, &first, &left);
                let back = written(&bytes);
                assert_eq!(back.left.as_deref(), Some(&left[..]));
                assert_eq!(back.has_data, matches!(wanted, Left::Kept { .. }));
                assert_eq!(back.draft.audience, draft.audience);
            }
        }
    }

    #[test]
    fn that_a_channel_was_emptied_is_read_back() {
        let mut bytes = Vec::new();
        write_cleared(&mut bytes, &name("a"), Offset::FIRST);
        let back = read(APP, &bytes);
        assert!(
            matches!(&back, Ok(Record::Cleared { channel, offset: Offset::FIRST }) if channel.as_str() == "a")
        );
        bytes.push(0);
        assert!(read(APP, &bytes).is_err());
    }

    /// Whatever the bytes: an answer, and what is read is what would be written.
    #[test]
    fn no_bytes_do_harm() {
        let mut bytes = Vec::new();
        write_publication(&mut bytes, Offset::FIRST, Moment::default(), &drafts()[1], true);
        for end in 0..bytes.len() - 3 {
            assert!(read(APP, &bytes[..end]).is_err(), "cut at {end}");
        }
        proptest!(ProptestConfig::with_cases(ProptestConfig::default().cases.max(2_000)), |(
            at in 0..bytes.len(), to in any::<u8>(), noise in prop::collection::vec(any::<u8>(), 0..300),
        )| {
            let mut changed = bytes.clone();
            changed[at] = to;
            for bytes in [&changed[..], &noise[..], &[&[1, 0, 0, 0, 0, 0, 0, 0], &noise[..]].concat()] {
                if let Ok(Record::Publication(read)) = read(APP, bytes) && read.left.is_none() {
                    let mut again = Vec::new();
                    write_publication(&mut again, read.offset, read.ordered_at, &read.draft, read.has_data);
                    let expired_before = read.draft.ttl == Some(Duration::ZERO);
                    prop_assert!(!read.has_data || expired_before || again == bytes);
                }
            }
        });
    }
}
