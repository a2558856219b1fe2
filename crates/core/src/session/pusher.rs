//! A WebSocket of the Pusher door (`pusher.md` sections 3 and 4).
//!
//! What the peer says is read here and handed on; who may subscribe, and who is who, is decided by
//! whoever carries the actions out. Nothing that a peer says ends the session but broken frames, too
//! much of it, and silence: a wrong message is answered with an error, and the next one is read.
//!
//! # Being alive
//!
//! Libraries ping after `activity_timeout` of silence. Whatever arrives is a sign of life. After
//! `activity_timeout` and [`ASK_LATER`] without one the server asks, since a page in the background may
//! be too slow to ask by itself, and after [`PONG_TIME`] more the session ends with 4201, which
//! libraries come back from at once.
//!
//! # What was received
//!
//! For replay (`pusher.md` has none) the server needs to know what has arrived. Browsers answer pings of
//! the WebSocket protocol by themselves, in order with what was sent, and no page sees them: a ping
//! with a number, [`Session::ask_receipt`](super::Session::ask_receipt), comes back when all before it
//! has arrived.
//!
//! Sizes: an idle session holds no buffer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::plain_websocket::Pongs;
use super::{Action, SpeakRates};
use crate::disconnect::{Disconnect, Refusal};
use crate::moment::Moment;
use crate::rate::{Bucket, Excess, Noticed, Rate};
use crate::wire::pusher;
use crate::wire::pusher::frame::{self, ClientFrame, FrameError};
use crate::wire::websocket::{self, DecodeLimits, Decoder, Event, MessageKind};

/// Time for the answer to a ping of the server.
const PONG_TIME: Duration = Duration::from_secs(30);

/// Time that a library has more than the silence after which it is to ask.
const ASK_LATER: Duration = Duration::from_secs(15);

/// What all sessions of an app have in common.
#[derive(Clone, Debug)]
pub struct PusherSettings {
    /// Time of silence after which a sign of life is asked for.
    pub activity_timeout: Duration,
    /// Time in which a begun message must be complete.
    pub message_time_max: Duration,
    /// Sizes of what a peer may send.
    pub decode: DecodeLimits,
    /// How fast a peer may speak.
    pub rates: SpeakRates,
    /// How fast it may subscribe and unsubscribe, which libraries do for all their channels at once and does
    /// not count as speaking.
    pub subscriptions: Rate,
    /// Time in which a peer must show who it is ([`super::Session::on_authorized`]); `None`: it need not.
    pub authorize_within: Option<Duration>,
}

/// See the module's head.
#[derive(Debug)]
pub struct Pusher {
    settings: Arc<PusherSettings>,
    decoder: Decoder,
    heard_at: Moment,
    /// When the last ping that was not answered yet was sent; `NEVER`: there is none.
    asked_at: Moment,
    /// When the message that is still incomplete began; `NEVER` when there is none.
    unfinished_since: Moment,
    /// When it must have shown who it is; `NEVER`: it has, or need not.
    authorize_by: Moment,
    messages: Bucket,
    subscriptions: Bucket,
    excess: Excess,
    pings: Bucket,
    control_frames: Bucket,
    /// The last receipt that was asked for, and whether it is still to come.
    receipt: u64,
    is_asked: bool,
    /// Nothing is read for now.
    is_paused: bool,
    is_over: bool,
}

impl Pusher {
    /// A session whose handshake is done.
    pub fn new(settings: Arc<PusherSettings>, now: Moment) -> Self {
        let authorize_by = settings.authorize_within.map_or(Moment::NEVER, |time| now + time);
        Self {
            settings,
            decoder: Decoder::default(),
            heard_at: now,
            asked_at: Moment::NEVER,
            unfinished_since: Moment::NEVER,
            authorize_by,
            messages: Bucket::default(),
            subscriptions: Bucket::default(),
            excess: Excess::default(),
            pings: Bucket::default(),
            control_frames: Bucket::default(),
            receipt: 0,
            is_asked: false,
            is_paused: false,
            is_over: false,
        }
    }

    /// The first frame, which names the session.
    pub fn established(&self, socket_id: &str) -> Bytes {
        pusher::established(socket_id, self.settings.activity_timeout.as_secs())
    }

    pub(super) fn on_authorized(&mut self) {
        self.authorize_by = Moment::NEVER;
    }

    pub(super) fn on_paused(&mut self) {
        self.is_paused = true;
    }

    pub(super) fn on_resumed(&mut self, now: Moment) {
        self.is_paused = false;
        self.heard_at = now;
        if self.unfinished_since != Moment::NEVER {
            self.unfinished_since = now;
        }
    }

    pub(super) fn on_bytes(&mut self, now: Moment, bytes: &mut [u8], actions: &mut Vec<Action>) -> usize {
        if self.is_over {
            return 0;
        }
        self.heard_at = now;
        self.asked_at = Moment::NEVER;
        let mut input = bytes;
        let mut pongs = Pongs::default();
        while !self.is_over {
            match self.decoder.decode(&mut input, &self.settings.decode) {
                Ok(None) => break,
                Ok(Some(Event::Message { kind, data })) => {
                    let is_ours = self.on_message(now, kind, &data, actions);
                    // What is carried out may change what the next message means.
                    if is_ours {
                        break;
                    }
                }
                Ok(Some(Event::Pong(data))) if self.is_receipt(&data) => {
                    self.is_asked = false;
                    actions.push(Action::Received(self.receipt));
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
        if self.is_over {
            return 0;
        }
        pongs.send(actions);
        if !self.decoder.is_unfinished() {
            self.unfinished_since = Moment::NEVER;
        } else if self.unfinished_since == Moment::NEVER {
            self.unfinished_since = now;
        }
        input.len()
    }

    fn is_receipt(&self, data: &[u8]) -> bool {
        self.is_asked && data == self.receipt.to_be_bytes()
    }

    /// Bytes after which the peer says by itself that it has everything before them, with a number
    /// that comes back in [`Action::Received`]. `None` as long as the answer before is missing.
    pub(super) fn ask_receipt(&mut self) -> Option<(u64, Bytes)> {
        if self.is_over || std::mem::replace(&mut self.is_asked, true) {
            return None;
        }
        self.receipt = self.receipt.wrapping_add(1);
        Some((self.receipt, websocket::ping(&self.receipt.to_be_bytes())))
    }

    fn may_control(&mut self, now: Moment) -> bool {
        let rate = self.settings.rates.control_frames;
        self.control_frames.take(rate, 1, now).is_ok()
    }

    /// Says whether somebody else has to do something about it first.
    fn on_message(
        &mut self,
        now: Moment,
        kind: MessageKind,
        data: &Bytes,
        actions: &mut Vec<Action>,
    ) -> bool {
        let text = std::str::from_utf8(data).ok();
        let text = text.filter(|_| kind == MessageKind::Text);
        let frame = text.map_or_else(
            || {
                Err(FrameError {
                    message: "this protocol is text: binary messages have no meaning".into(),
                    channel: None,
                    is_subscribe: false,
                })
            },
            frame::parse,
        );
        if let Ok(ClientFrame::Subscribe { channel, .. }) = &frame {
            if let Err(wait) = self.subscriptions.take(self.settings.subscriptions, 1, now) {
                let message = Refusal::too_fast("apps.subscriptions_max", wait).to_string();
                let kind = pusher::SubscriptionErrorKind::Limit;
                let refused = pusher::subscription_error(channel, kind, 4301, &message);
                actions.push(Action::Send(refused));
                actions.push(Action::Limited("apps.subscriptions_max"));
                return false;
            }
        } else if let Ok(ClientFrame::Unsubscribe { .. }) = &frame {
            // Always done: there is no way to say that it was not, and what was subscribed to is bounded.
        } else if let Err(wait) = self.messages.take(self.settings.rates.messages, 1, now) {
            self.on_too_fast(now, "messages_per_connection", wait, actions);
            return false;
        }
        match frame {
            Ok(ClientFrame::Ping) => actions.push(Action::Send(pusher::pong())),
            Ok(ClientFrame::Pong) => {}
            Ok(frame) => {
                actions.push(Action::Frame(Box::new(frame)));
                return true;
            }
            Err(error) => {
                actions.push(Action::Limited("pusher_frames"));
                actions.push(Action::Send(match (error.is_subscribe, &error.channel) {
                    (true, Some(channel)) => pusher::subscription_error(
                        channel,
                        pusher::SubscriptionErrorKind::Auth,
                        400,
                        &error.message,
                    ),
                    (_, channel) => pusher::error(None, &error.message, channel.as_deref()),
                }));
            }
        }
        false
    }

    pub(super) fn on_too_fast(
        &mut self,
        now: Moment,
        limit: &'static str,
        wait: Duration,
        actions: &mut Vec<Action>,
    ) {
        if self.is_over {
            return;
        }
        actions.push(Action::Limited(limit));
        match self.excess.notice(now, self.settings.rates.excess_max) {
            Noticed::Tell => {
                let message = Refusal::too_fast(limit, wait).to_string();
                // An event, not a close: as a close code libraries would take it for final.
                actions.push(Action::Send(pusher::error(Some(4301), &message, None)));
            }
            Noticed::Silent => {}
            Noticed::Enough => self.close(Disconnect::TooFast(limit), actions),
        }
    }

    pub(super) fn on_timeout(&mut self, now: Moment, actions: &mut Vec<Action>) {
        if self.is_over {
            return;
        }
        if now >= self.authorize_by {
            return self.close(Disconnect::Unauthorized, actions);
        }
        if now >= self.incomplete_at() {
            let why = Disconnect::Protocol {
                code: 1008,
                reason: "a begun message was not completed in time",
            };
            return self.close(why, actions);
        }
        if self.asked_at == Moment::NEVER {
            if now >= self.ask_at() && !self.is_paused {
                self.asked_at = now;
                actions.push(Action::Send(pusher::ping()));
            }
        } else if now >= self.asked_at + PONG_TIME {
            self.close(Disconnect::Idle(now - self.heard_at), actions);
        }
    }

    pub(super) fn poll_timeout(&self) -> Moment {
        if self.is_over {
            return Moment::NEVER;
        }
        let alive_at = if self.asked_at == Moment::NEVER {
            if self.is_paused {
                Moment::NEVER
            } else {
                self.ask_at()
            }
        } else {
            self.asked_at + PONG_TIME
        };
        alive_at.min(self.authorize_by).min(self.incomplete_at())
    }

    fn ask_at(&self) -> Moment {
        self.heard_at + self.settings.activity_timeout + ASK_LATER
    }

    fn incomplete_at(&self) -> Moment {
        if self.is_paused {
            return Moment::NEVER;
        }
        self.unfinished_since + self.settings.message_time_max
    }

    pub(super) fn close(&mut self, why: Disconnect, actions: &mut Vec<Action>) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let farewell = why.pusher_code().map(|code| {
            if why == Disconnect::ByPeer(None) {
                return websocket::close_without_code();
            }
            let reason = why.reason();
            let close = websocket::close(code, &reason);
            // From 4000 on libraries show the error of this protocol.
            if code < 4000 {
                return close;
            }
            [pusher::error(Some(code), &reason, None), close].concat().into()
        });
        actions.push(Action::Close { farewell, why });
    }
}

#[cfg(test)]
#[path = "pusher_tests.rs"]
mod tests;
