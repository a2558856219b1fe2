//! A WebSocket of the plain door: what is said goes to the channel as it is.
//!
//! Text stays text, binary stays binary, in both directions. The server pings every
//! `ping_interval` and gives up after two intervals without a sign of life (`plain.md` section 3).
//! Whoever may only listen and speaks nevertheless is closed with 4403 and the reason, since a
//! message that silently vanished would be worse.
//!
//! Who came with a token and `meta=1` may send `{"token":"…"}`, a fresh one for the same user, before
//! the old one runs out (`plain.md` section 6). It is answered with silence, or 4401 or 4403.
//!
//! Sizes: an idle session holds no buffer; a message that arrives in pieces is kept in the
//! decoder and nowhere else.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Action;
use crate::auth::Secret;
use crate::disconnect::{Disconnect, Refusal};
use crate::moment::Moment;
use crate::publication::DataKind;
use crate::wire::websocket::{self, DecodeLimits, Decoder, Event, MessageKind};

/// Pings of one read that are answered one by one; beyond, only the newest
/// (`security-baseline.md` section 6.2).
const PONGS_MAX: usize = 50;

/// What all plain `WebSockets` of a node have in common.
#[derive(Clone, Debug)]
pub struct WebSocketSettings {
    /// Time between pings; two of them without a sign of life end the session.
    pub ping_interval: Duration,
    /// Time in which a begun message must be complete.
    pub message_time_max: Duration,
    /// Sizes of what a peer may send.
    pub decode: DecodeLimits,
    /// A text that peers send to keep the line open, and our answer. Not relayed.
    pub heartbeat: Option<(String, String)>,
}

/// See the module's head.
#[derive(Debug)]
pub struct PlainWebSocket {
    settings: Arc<WebSocketSettings>,
    decoder: Decoder,
    heard_at: Moment,
    ping_at: Moment,
    /// When the message that is still incomplete began; `NEVER` when there is none.
    unfinished_since: Moment,
    may_speak: bool,
    /// When the token that let the peer in runs out.
    deadline: Moment,
    refresh: Refresh,
    over: bool,
}

/// Whether a text may be a fresh token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Refresh {
    /// No: the peer came without one, or every text is a message.
    Never,
    /// Yes.
    Possible,
    /// One was handed on, and whether the peer may speak is not known until it is judged.
    Asked,
}

impl PlainWebSocket {
    /// A session whose handshake is done. `first_ping` may be earlier than a whole interval, so
    /// that the pings of sessions that came together spread out.
    pub fn new(settings: Arc<WebSocketSettings>, now: Moment, first_ping: Moment, may_speak: bool) -> Self {
        Self {
            settings,
            decoder: Decoder::default(),
            heard_at: now,
            ping_at: first_ping,
            unfinished_since: Moment::NEVER,
            may_speak,
            deadline: Moment::NEVER,
            refresh: Refresh::Never,
            over: false,
        }
    }

    /// The same for a peer that was let in by a token, which runs out at `deadline`. `meta`: it
    /// speaks JSON, and so may bring a fresh one.
    #[must_use]
    pub fn until(self, deadline: Moment, meta: bool) -> Self {
        let refresh = if meta { Refresh::Possible } else { Refresh::Never };
        Self {
            deadline,
            refresh,
            ..self
        }
    }

    pub(super) fn on_refreshed(&mut self, deadline: Moment, may_speak: bool) {
        self.deadline = deadline;
        self.may_speak = may_speak;
        self.refresh = Refresh::Possible;
    }

    pub(super) fn on_bytes(&mut self, now: Moment, bytes: &mut [u8], actions: &mut Vec<Action>) {
        if self.over {
            return;
        }
        self.heard_at = now;
        let mut input = bytes;
        let mut pongs = Pongs::default();
        while !self.over {
            match self.decoder.decode(&mut input, &self.settings.decode) {
                Ok(None) => break,
                Ok(Some(Event::Message { kind, data })) => self.on_message(kind, data, actions),
                Ok(Some(Event::Ping(data))) => pongs.add(&data),
                Ok(Some(Event::Pong)) => {}
                Ok(Some(Event::Close(close))) => {
                    pongs.send(actions);
                    self.close(Disconnect::ByPeer(close.map(|(code, _)| code)), actions);
                }
                Err(error) => {
                    pongs.send(actions);
                    let why = Disconnect::Protocol {
                        code: error.close_code(),
                        reason: error.reason(),
                    };
                    self.close(why, actions);
                }
            }
        }
        if !self.over {
            pongs.send(actions);
        }
        if !self.decoder.is_unfinished() {
            self.unfinished_since = Moment::NEVER;
        } else if self.unfinished_since == Moment::NEVER {
            self.unfinished_since = now;
        }
    }

    fn on_message(&mut self, kind: MessageKind, data: Bytes, actions: &mut Vec<Action>) {
        let kind = match kind {
            MessageKind::Text => DataKind::Text,
            MessageKind::Binary => DataKind::Binary,
        };
        if let Some((ask, reply)) = &self.settings.heartbeat
            && kind == DataKind::Text
            && data == ask.as_bytes()
        {
            actions.push(Action::Send(websocket::text(reply.as_bytes())));
        } else if let Some(token) = self.fresh_token(kind, &data) {
            self.refresh = Refresh::Asked;
            actions.push(Action::Refresh(token));
        } else if self.may_speak || self.refresh == Refresh::Asked {
            actions.push(Action::Publish { kind, data });
        } else {
            let refusal = Refusal::Forbidden(
                "this channel is listen-only for clients; speak with a POST that carries the key".into(),
            );
            self.close(Disconnect::Refused(refusal), actions);
        }
    }

    /// The token, if this is one in place of a message: an object whose only name is `token`. What
    /// has that form and holds no text is a bad token rather than a message.
    fn fresh_token(&self, kind: DataKind, data: &[u8]) -> Option<Secret> {
        if self.refresh == Refresh::Never
            || kind != DataKind::Text
            || !data.trim_ascii_start().starts_with(b"{")
        {
            return None;
        }
        let members: HashMap<String, serde_json::Value> = serde_json::from_slice(data).ok()?;
        let token = members.get("token").filter(|_| members.len() == 1)?;
        Some(Secret::new(token.as_str().unwrap_or_default()))
    }

    pub(super) fn on_timeout(&mut self, now: Moment, actions: &mut Vec<Action>) {
        if self.over {
            return;
        }
        if now >= self.deadline {
            return self.close(Disconnect::Expired, actions);
        }
        if now >= self.unfinished_since + self.settings.message_time_max {
            let why = Disconnect::Protocol {
                code: 1008,
                reason: "a begun message was not completed in time",
            };
            return self.close(why, actions);
        }
        if now < self.ping_at {
            return;
        }
        let silence = now - self.heard_at;
        if silence >= self.settings.ping_interval.saturating_mul(2) {
            return self.close(Disconnect::Idle(silence), actions);
        }
        self.ping_at = now + self.settings.ping_interval;
        actions.push(Action::Send(websocket::ping(b"")));
    }

    pub(super) fn poll_timeout(&self) -> Moment {
        if self.over {
            return Moment::NEVER;
        }
        self.ping_at
            .min(self.deadline)
            .min(self.unfinished_since + self.settings.message_time_max)
    }

    pub(super) fn close(&mut self, why: Disconnect, actions: &mut Vec<Action>) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let farewell = why.plain_code().map(|code| {
            // RFC 6455 section 7.1.5: a close without a code is answered without one.
            if why == Disconnect::ByPeer(None) {
                websocket::close_without_code()
            } else {
                websocket::close(code, &why.reason())
            }
        });
        actions.push(Action::Close { farewell, why });
    }
}

/// Answers to the pings of one read, gathered so that they leave as one piece.
///
/// RFC 6455 section 5.5.3 allows to answer only the newest of several, but peers count: the first
/// [`PONGS_MAX`] are answered each, and of the others the newest.
#[derive(Debug, Default)]
struct Pongs {
    frames: Vec<u8>,
    count: usize,
    newest: Option<Bytes>,
}

impl Pongs {
    fn add(&mut self, data: &Bytes) {
        let frame = websocket::pong(data);
        if self.count < PONGS_MAX {
            self.count += 1;
            self.frames.extend_from_slice(&frame);
        } else {
            self.newest = Some(frame);
        }
    }

    fn send(&mut self, actions: &mut Vec<Action>) {
        self.frames
            .extend_from_slice(&self.newest.take().unwrap_or_default());
        if !self.frames.is_empty() {
            actions.push(Action::Send(std::mem::take(&mut self.frames).into()));
        }
    }
}

#[cfg(test)]
#[path = "plain_websocket_tests.rs"]
mod tests;
