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
//! Whoever says too much too fast is not heard: the message is dropped, which is told in meta form, and
//! when it goes on the session ends with 1008 (`plain.md` section 8). Pings that come too fast are not
//! answered; a flood of control frames ends the session too.
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
use crate::rate::{Bucket, Excess, Noticed, Rate};
use crate::wire::plain;
use crate::wire::websocket::{self, DecodeLimits, Decoder, Event, MessageKind};

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
    /// How fast a peer may speak.
    pub rates: SpeakRates,
    /// Each message is looked at before the next is read.
    pub is_one_by_one: bool,
}

/// How fast a peer may speak over one connection. The settings of [`crate::limits::Limits`] say more.
#[derive(Clone, Copy, Debug)]
pub struct SpeakRates {
    /// `limits.messages_per_connection`.
    pub messages: Rate,
    /// `limits.messages_excess_max`.
    pub excess_max: Duration,
    /// `limits.pings_per_connection`.
    pub pings: Rate,
    /// `limits.control_frames_per_connection`.
    pub control_frames: Rate,
    /// `limits.token_refreshes_per_connection`.
    pub refreshes: Rate,
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
    /// The peer reads JSON.
    is_meta: bool,
    messages: Bucket,
    excess: Excess,
    pings: Bucket,
    control_frames: Bucket,
    refreshes: Bucket,
    /// When the token that let the peer in runs out.
    deadline: Moment,
    refresh: Refresh,
    life: Life,
}

/// How far a session is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Life {
    Open,
    /// Nothing is read for now.
    Paused,
    Over,
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
            is_meta: false,
            messages: Bucket::default(),
            excess: Excess::default(),
            pings: Bucket::default(),
            control_frames: Bucket::default(),
            refreshes: Bucket::default(),
            deadline: Moment::NEVER,
            refresh: Refresh::Never,
            life: Life::Open,
        }
    }

    /// The same for a peer that reads JSON, or does not.
    #[must_use]
    pub fn meta(self, is_meta: bool) -> Self {
        Self { is_meta, ..self }
    }

    /// The same for a peer that was let in by a token, which runs out at `deadline`. If it speaks JSON it
    /// may bring a fresh one.
    #[must_use]
    pub fn until(self, deadline: Moment) -> Self {
        let refresh = if self.is_meta {
            Refresh::Possible
        } else {
            Refresh::Never
        };
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

    pub(super) fn on_paused(&mut self) {
        if self.life == Life::Open {
            self.life = Life::Paused;
        }
    }

    pub(super) fn on_resumed(&mut self, now: Moment) {
        if self.life == Life::Paused {
            self.life = Life::Open;
        }
        self.heard_at = now;
        if self.unfinished_since != Moment::NEVER {
            self.unfinished_since = now;
        }
    }

    pub(super) fn on_bytes(&mut self, now: Moment, bytes: &mut [u8], actions: &mut Vec<Action>) -> usize {
        if self.life == Life::Over {
            return 0;
        }
        self.heard_at = now;
        let mut input = bytes;
        let mut pongs = Pongs::default();
        while self.life != Life::Over {
            match self.decoder.decode(&mut input, &self.settings.decode) {
                Ok(None) => break,
                Ok(Some(Event::Message { kind, data })) => {
                    self.on_message(now, kind, data, actions);
                    if self.settings.is_one_by_one && matches!(actions.last(), Some(Action::Publish { .. })) {
                        break;
                    }
                }
                Ok(Some(Event::Ping(_) | Event::Pong(_))) if !self.may_control(now) => {
                    pongs.send(actions);
                    let limit = "control_frames_per_connection";
                    actions.push(Action::Limited(limit));
                    self.close(Disconnect::TooFast(limit), actions);
                }
                Ok(Some(Event::Ping(data))) => match self.pings.take(self.settings.rates.pings, 1, now) {
                    Ok(()) => pongs.add(&data),
                    Err(_) => actions.push(Action::Limited("pings_per_connection")),
                },
                Ok(Some(Event::Pong(_))) => {}
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
        if self.life != Life::Over {
            pongs.send(actions);
        }
        if !self.decoder.is_unfinished() {
            self.unfinished_since = Moment::NEVER;
        } else if self.unfinished_since == Moment::NEVER {
            self.unfinished_since = now;
        }
        if self.life == Life::Over { 0 } else { input.len() }
    }

    fn may_control(&mut self, now: Moment) -> bool {
        let rate = self.settings.rates.control_frames;
        self.control_frames.take(rate, 1, now).is_ok()
    }

    pub(super) fn on_too_fast(
        &mut self,
        now: Moment,
        limit: &'static str,
        wait: Duration,
        actions: &mut Vec<Action>,
    ) {
        if self.life == Life::Over {
            return;
        }
        actions.push(Action::Limited(limit));
        match self.excess.notice(now, self.settings.rates.excess_max) {
            Noticed::Tell if self.is_meta => {
                actions.push(Action::Send(plain::error(&Refusal::too_fast(limit, wait))));
            }
            Noticed::Tell | Noticed::Silent => {}
            Noticed::Enough => self.close(Disconnect::TooFast(limit), actions),
        }
    }

    fn on_message(&mut self, now: Moment, kind: MessageKind, data: Bytes, actions: &mut Vec<Action>) {
        let rates = self.settings.rates;
        if let Err(wait) = self.messages.take(rates.messages, 1, now) {
            return self.on_too_fast(now, "messages_per_connection", wait, actions);
        }
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
            match self.refreshes.take(rates.refreshes, 1, now) {
                Ok(()) => {
                    self.refresh = Refresh::Asked;
                    actions.push(Action::Refresh(token));
                }
                Err(wait) => self.on_too_fast(now, "token_refreshes_per_connection", wait, actions),
            }
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
        if self.life == Life::Over {
            return;
        }
        if now >= self.deadline {
            return self.close(Disconnect::Expired, actions);
        }
        if now >= self.incomplete_at() {
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
        if self.life == Life::Open && silence >= self.settings.ping_interval.saturating_mul(2) {
            return self.close(Disconnect::Idle(silence), actions);
        }
        self.ping_at = now + self.settings.ping_interval;
        actions.push(Action::Send(websocket::ping(b"")));
    }

    pub(super) fn poll_timeout(&self) -> Moment {
        if self.life == Life::Over {
            return Moment::NEVER;
        }
        self.ping_at.min(self.deadline).min(self.incomplete_at())
    }

    /// When the message that is still incomplete has taken too long.
    fn incomplete_at(&self) -> Moment {
        if self.life == Life::Paused {
            Moment::NEVER
        } else {
            self.unfinished_since + self.settings.message_time_max
        }
    }

    pub(super) fn close(&mut self, why: Disconnect, actions: &mut Vec<Action>) {
        if std::mem::replace(&mut self.life, Life::Over) == Life::Over {
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
#[derive(Debug, Default)]
pub(super) struct Pongs(Vec<u8>);

impl Pongs {
    pub(super) fn add(&mut self, data: &Bytes) {
        self.0.extend_from_slice(&websocket::pong(data));
    }

    pub(super) fn send(&mut self, actions: &mut Vec<Action>) {
        if !self.0.is_empty() {
            actions.push(Action::Send(std::mem::take(&mut self.0).into()));
        }
    }
}

#[cfg(test)]
#[path = "plain_websocket_tests.rs"]
mod tests;
