//! Bytes to values and back, for every protocol. Nothing here knows a session, a socket or a
//! clock; every parser gives the same result however its input is cut into pieces.
//!
//! This file chooses who makes the frames of a wire form. The compressed forms are made of the
//! plain ones, and are the same bytes where compressing is not worth it.

use bytes::Bytes;

use crate::channel::ChannelName;
use crate::position::Position;
use crate::publication::{Entry, Place, Publication, WireForm};

pub mod http1;
pub mod http1_guard;
pub mod plain;
pub mod proxy;
pub mod pusher;
pub mod sse;
pub mod utf8;
pub mod websocket;

/// The bytes of a publication for the subscribers of `place` that speak `form`.
pub fn encode(publication: &Publication, place: &Place, form: WireForm) -> Bytes {
    match form.inflated() {
        Some(plain) if publication.draft.is_secret => publication.encoded(place, plain),
        Some(plain) => websocket::deflate::compressed(&publication.encoded(place, plain)),
        None => encode_entry(publication, place.channel.as_ref(), form),
    }
}

/// The bytes of an entry for a subscriber of `channel` (`None`: an announcement), never compressed:
/// a session that has agreed on compression reads plain frames too.
pub fn encode_entry(entry: &Entry, channel: Option<&ChannelName>, form: WireForm) -> Bytes {
    if form.is_pusher() {
        pusher::encode_entry(entry, channel)
    } else {
        plain::encode_entry(entry, channel, form)
    }
}

/// Tells a listener that something it had not seen of these channels is gone (of announcements, if
/// there are none). `now` becomes its position. One frame for all of them: who has read it knows
/// everything, and who has not still has its old position.
///
/// `None` for forms that cannot say it.
pub fn gap(form: WireForm, channels: &[ChannelName], now: Position) -> Option<Bytes> {
    if form.is_pusher() {
        Some(pusher::gap(channels))
    } else {
        plain::gap(form, channels, now)
    }
}

/// Tells a slow listener that waiting messages of a channel were dropped: a gap without an id, since
/// messages of other channels that are older may still come behind it.
pub fn dropped(form: WireForm, channel: &ChannelName) -> Option<Bytes> {
    if form.is_pusher() {
        Some(pusher::gap(std::slice::from_ref(channel)))
    } else {
        plain::dropped(form, channel)
    }
}
