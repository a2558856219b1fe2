//! Why a request is refused, and why a connection ends: the only place that knows the codes.
//!
//! A [`Refusal`] has an HTTP status and a WebSocket close code, because a browser hides the
//! status of a failed handshake: we accept a WebSocket and then close it with a code and a
//! reason that the page can read (`plain.md` section 8). A [`Disconnect`] ends a session that
//! was open. Each protocol that Fanfare speaks adds its own column here.
//!
//! Texts are for the developer at the other end: a cause and what to do, lower case, without
//! full stop, and nothing of the server's inside.

use std::borrow::Cow;
use std::time::Duration;

use thiserror::Error;

/// Why a request, or the opening of a connection, is refused.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum Refusal {
    /// The request itself cannot be used: a bad name, parameter or body.
    #[error("{0}")]
    BadRequest(Cow<'static, str>),
    /// No credential, or one that is not ours.
    #[error("{0}")]
    Unauthorized(Cow<'static, str>),
    /// Known, but not allowed to do this.
    #[error("{0}")]
    Forbidden(Cow<'static, str>),
    /// A page of another site asks.
    #[error("origin {0:?} is not allowed here; list it in `origins` if it is yours")]
    WrongOrigin(String),
    /// The request names a host that this listener does not answer for.
    #[error("this server does not answer for host {0:?}; list it in `hosts` if it is yours")]
    WrongHost(String),
    /// Nothing lives at this path.
    #[error("{0}")]
    NotFound(Cow<'static, str>),
    /// The path is right and the method is not.
    #[error("this path answers {allow}")]
    MethodNotAllowed {
        /// The methods for the `Allow` field.
        allow: &'static str,
    },
    /// The message or body is larger than allowed.
    #[error("{what} is larger than {limit_bytes} bytes")]
    TooLarge {
        /// What was too large.
        what: &'static str,
        /// The limit, in bytes.
        limit_bytes: usize,
    },
    /// The body did not arrive in time.
    #[error("the request body took too long")]
    TooSlow,
    /// A WebSocket handshake that lost its `Upgrade` on the way.
    #[error(
        "a proxy removed the Upgrade header; for nginx add: proxy_http_version 1.1; \
         proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \"upgrade\";"
    )]
    LostUpgrade,
    /// Too much, too fast: a limit of a rate.
    #[error("too fast: try again in {seconds} s ({})", setting(limit))]
    TooFast {
        /// The setting, without its section if that is `limits`.
        limit: &'static str,
        /// When it may be tried again, in seconds.
        seconds: u64,
    },
    /// The address may not connect, and a proxy that is believed has asked for it.
    #[error("this address is not let in here (network.allow, network.deny)")]
    NotLetIn,
    /// The address has as many connections as it may have.
    #[error("too many connections from this address, try again later (limits.connections_per_address)")]
    AddressFull,
    /// This server has as many connections as it may have.
    #[error("no room for more connections, try again later")]
    Full,
    /// A queue on the way to the subscribers is full; nothing was ordered, so nothing is lost.
    #[error("busy: the publication was not accepted, try again")]
    Overloaded,
    /// The publication could not be written to disk; it was not ordered, so nothing is lost.
    #[error("the publication could not be stored and was not accepted, try again")]
    Storage,
    /// The back end was asked whether this is allowed (a hook), and gave no answer that can be used:
    /// that is a no, but one that may be a yes in a moment.
    #[error("the back end did not say whether this is allowed, try again later")]
    HookFailed,
    /// No app has this key.
    #[error("no app with this key exists here (apps in the configuration, or PUSHER_APP_KEY)")]
    NoApp,
    /// The app is turned off.
    #[error("this app is disabled")]
    AppDisabled,
    /// The app has as many connections as it may have.
    #[error("this app has as many connections as it may have (connections_max)")]
    AppFull,
    /// A version of the protocol of Pusher that is not spoken.
    #[error("protocol versions 5, 6 and 7 are spoken here")]
    ProtocolVersion,
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Draining,
}

/// The whole name of a limit's setting.
fn setting(limit: &str) -> String {
    if limit.contains('.') {
        limit.to_owned()
    } else {
        format!("limits.{limit}")
    }
}

impl Refusal {
    /// A [`Self::BadRequest`] with this cause.
    pub fn bad_request(cause: impl Into<Cow<'static, str>>) -> Self {
        Self::BadRequest(cause.into())
    }

    /// A [`Self::TooFast`] that may be tried again after this time.
    pub fn too_fast(limit: &'static str, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Self::TooFast {
            limit,
            seconds: seconds.max(1),
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Self::BadRequest(_) | Self::ProtocolVersion => 400,
            Self::Unauthorized(_) => 401,
            Self::Forbidden(_) | Self::WrongOrigin(_) | Self::NotLetIn | Self::AppDisabled => 403,
            Self::NotFound(_) | Self::NoApp => 404,
            Self::MethodNotAllowed { .. } => 405,
            Self::TooSlow => 408,
            Self::TooLarge { .. } => 413,
            Self::WrongHost(_) => 421,
            Self::LostUpgrade => 426,
            Self::TooFast { .. } | Self::AddressFull => 429,
            Self::Full
            | Self::AppFull
            | Self::Overloaded
            | Self::Storage
            | Self::HookFailed
            | Self::Draining => 503,
        }
    }

    /// The close code that a plain WebSocket is ended with after it was accepted.
    pub fn close_code(&self) -> u16 {
        match self {
            Self::BadRequest(_)
            | Self::ProtocolVersion
            | Self::MethodNotAllowed { .. }
            | Self::LostUpgrade => 4400,
            Self::Unauthorized(_) => 4401,
            Self::Forbidden(_)
            | Self::WrongOrigin(_)
            | Self::WrongHost(_)
            | Self::NotLetIn
            | Self::AppDisabled => 4403,
            Self::NotFound(_) | Self::NoApp => 4404,
            Self::TooSlow => 4408,
            Self::TooLarge { .. } => 1009,
            Self::TooFast { .. } => 1008,
            Self::AddressFull
            | Self::Full
            | Self::AppFull
            | Self::Overloaded
            | Self::Storage
            | Self::HookFailed => 1013,
            Self::Draining => 1012,
        }
    }

    /// The close code of the protocol of Pusher (`pusher.md` section 4.3). Libraries never come back from
    /// the ones below 4100, so those are only for what is final.
    pub fn pusher_code(&self) -> u16 {
        match self {
            Self::NoApp => 4001,
            Self::AppDisabled => 4003,
            Self::AppFull => 4004,
            Self::NotFound(_) => 4005,
            Self::BadRequest(_) | Self::MethodNotAllowed { .. } | Self::LostUpgrade => 4006,
            Self::ProtocolVersion => 4007,
            Self::Unauthorized(_)
            | Self::Forbidden(_)
            | Self::WrongOrigin(_)
            | Self::WrongHost(_)
            | Self::NotLetIn => 4009,
            Self::TooFast { .. }
            | Self::TooLarge { .. }
            | Self::TooSlow
            | Self::AddressFull
            | Self::Full
            | Self::Overloaded
            | Self::Storage
            | Self::HookFailed
            | Self::Draining => 4100,
        }
    }

    /// The word for programs: the `error` of a JSON answer and the label of a metric.
    pub fn word(&self) -> &'static str {
        match self {
            Self::BadRequest(_) => "bad_request",
            Self::Unauthorized(_) => "unauthorized",
            Self::Forbidden(_) => "forbidden",
            Self::WrongOrigin(_) => "wrong_origin",
            Self::WrongHost(_) => "wrong_host",
            Self::NotFound(_) => "not_found",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
            Self::TooLarge { .. } => "too_large",
            Self::TooSlow => "too_slow",
            Self::LostUpgrade => "lost_upgrade",
            Self::TooFast { .. } => "too_fast",
            Self::NotLetIn => "not_let_in",
            Self::AddressFull => "address_full",
            Self::Full => "full",
            Self::Overloaded => "overloaded",
            Self::Storage => "storage",
            Self::HookFailed => "hook_failed",
            Self::NoApp => "no_app",
            Self::AppDisabled => "app_disabled",
            Self::AppFull => "app_full",
            Self::ProtocolVersion => "protocol_version",
            Self::Draining => "draining",
        }
    }

    /// A field that an HTTP answer must have with this, if there is one: when coming back makes
    /// sense, which methods the path answers (RFC 9110 section 10.2.1), how to show who one is
    /// (section 11.6.1).
    pub fn field(&self) -> Option<(&'static str, Cow<'static, str>)> {
        match self {
            Self::TooFast { seconds, .. } => Some(("Retry-After", seconds.to_string().into())),
            Self::Overloaded => Some(("Retry-After", "1".into())),
            Self::Full
            | Self::AppFull
            | Self::AddressFull
            | Self::Storage
            | Self::HookFailed
            | Self::Draining => Some(("Retry-After", "5".into())),
            Self::MethodNotAllowed { allow } => Some(("Allow", (*allow).into())),
            Self::Unauthorized(_) => Some(("WWW-Authenticate", "Bearer".into())),
            _ => None,
        }
    }
}

/// Why a session ends.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum Disconnect {
    /// The peer closed, with this code if it gave one.
    #[error("closed by the peer (code {0:?})")]
    ByPeer(Option<u16>),
    /// The connection ended without a goodbye.
    #[error("connection lost")]
    Lost,
    /// The session was refused when it opened, or for what it then asked.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The peer broke the protocol it had chosen.
    #[error("protocol violation: {reason}")]
    Protocol {
        /// Close code of RFC 6455 section 7.4.1.
        code: u16,
        /// What was wrong.
        reason: &'static str,
    },
    /// The peer did not read fast enough and its outbox reached the limit.
    #[error("slow consumer: {pending_bytes} bytes waiting, limit {limit_bytes}")]
    SlowConsumer {
        /// What waited for the peer, in bytes.
        pending_bytes: usize,
        /// The limit, in bytes.
        limit_bytes: usize,
    },
    /// The peer read nothing for this long although something waited.
    #[error("slow consumer: nothing read for {0:?}")]
    Stalled(Duration),
    /// The peer went on to send more than this limit allows.
    #[error("too fast for too long ({})", setting(.0))]
    TooFast(&'static str),
    /// The peer was silent for two ping intervals.
    #[error("no sign of life for {0:?}")]
    Idle(Duration),
    /// The session reached its greatest age; the peer comes back at once.
    #[error("greatest age of a stream reached")]
    Aged,
    /// The token that let the peer in has run out; with a fresh one it may come back.
    #[error("the token has run out; connect again with a fresh one")]
    Expired,
    /// The app wants to know who everybody is, and the peer has not shown it in time.
    #[error("neither signed in nor subscribed to a channel that needs a signature, within authorize_within")]
    Unauthorized,
    /// The same page has connected anew, and this connection did not answer any more.
    #[error("another connection of the same page has taken this one's place")]
    Superseded,
    /// Something that the session should have heard is gone, and its wire form has no way to say so
    /// but the end.
    #[error("what came after `since` is no longer kept: reload, and connect without it")]
    Gap,
    /// The back end has deleted a channel that the session listened to.
    #[error("the channel was deleted")]
    Deleted,
    /// A long poll was answered.
    #[error("answered")]
    Answered,
    /// This node is going away; come back in a moment.
    #[error("the server is shutting down")]
    Draining,
    /// A fault of ours.
    #[error("internal error")]
    Internal,
}

impl Disconnect {
    /// The close code for a plain WebSocket; `None` when there is nobody left to tell.
    pub fn plain_code(&self) -> Option<u16> {
        match self {
            Self::Lost => None,
            // RFC 6455 section 5.5.1: answer with the code that was received.
            Self::ByPeer(code) => Some(code.unwrap_or(1000)),
            Self::Refused(refusal) => Some(refusal.close_code()),
            Self::Protocol { code, .. } => Some(*code),
            Self::SlowConsumer { .. } | Self::Stalled(_) => Some(4408),
            Self::TooFast(_) => Some(1008),
            Self::Idle(_) | Self::Aged | Self::Superseded => Some(1001),
            Self::Expired | Self::Unauthorized => Some(4401),
            // As HTTP's 416, "range not satisfiable".
            Self::Gap => Some(4416),
            // As HTTP's 410, "gone".
            Self::Deleted => Some(4410),
            Self::Answered => Some(1000),
            Self::Draining => Some(1012),
            Self::Internal => Some(1011),
        }
    }

    /// The close code of the protocol of Pusher; `None` when there is nobody left to tell. Who may come
    /// back at once gets 4200, who had better wait a moment 4100.
    pub fn pusher_code(&self) -> Option<u16> {
        match self {
            Self::Lost => None,
            Self::ByPeer(code) => Some(code.unwrap_or(1000)),
            Self::Refused(refusal) => Some(refusal.pusher_code()),
            Self::Protocol { code, .. } => Some(*code),
            // A library that comes back at once to a server that is just being started anew waits for 15 s.
            Self::SlowConsumer { .. }
            | Self::Stalled(_)
            | Self::TooFast(_)
            | Self::Superseded
            | Self::Draining => Some(4100),
            Self::Idle(_) => Some(4201),
            Self::Aged | Self::Gap | Self::Deleted | Self::Answered => Some(4200),
            Self::Expired | Self::Unauthorized => Some(4009),
            Self::Internal => Some(1011),
        }
    }

    /// The reason for a close frame: for a refusal its own text, else what happened.
    pub fn reason(&self) -> String {
        match self {
            Self::Refused(refusal) => refusal.to_string(),
            Self::Protocol { reason, .. } => (*reason).to_owned(),
            Self::ByPeer(_) => String::new(),
            other => other.to_string(),
        }
    }

    /// The label of metrics and logs: one of a closed set.
    pub fn label(&self) -> &'static str {
        match self {
            Self::ByPeer(_) => "closed_by_peer",
            Self::Lost => "lost",
            Self::Refused(_) => "refused",
            Self::Protocol { .. } => "protocol",
            Self::SlowConsumer { .. } => "slow_consumer",
            Self::Stalled(_) => "stalled",
            Self::TooFast(_) => "too_fast",
            Self::Idle(_) => "idle",
            Self::Aged => "aged",
            Self::Expired => "expired",
            Self::Unauthorized => "unauthorized",
            Self::Superseded => "superseded",
            Self::Gap => "gap",
            Self::Deleted => "deleted",
            Self::Answered => "answered",
            Self::Draining => "draining",
            Self::Internal => "internal",
        }
    }

    /// Whether the operator should see this as a fault rather than as ordinary coming and going.
    pub fn is_fault(&self) -> bool {
        !matches!(
            self,
            Self::ByPeer(_)
                | Self::Lost
                | Self::Aged
                | Self::Expired
                | Self::Unauthorized
                | Self::Superseded
                | Self::Gap
                | Self::Deleted
                | Self::Answered
                | Self::Draining
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(refusal: &Refusal, status: u16, close_code: u16) {
        assert_eq!(
            (refusal.status(), refusal.close_code()),
            (status, close_code),
            "{refusal:?}"
        );
    }

    /// `plain.md` section 8, row by row.
    #[test]
    fn refusals_have_the_documented_codes() {
        check(&Refusal::Unauthorized("".into()), 401, 4401);
        check(&Refusal::Forbidden("".into()), 403, 4403);
        check(&Refusal::NotFound("".into()), 404, 4404);
        check(&Refusal::bad_request(""), 400, 4400);
        check(
            &Refusal::TooLarge {
                what: "message",
                limit_bytes: 1,
            },
            413,
            1009,
        );
        check(&Refusal::Full, 503, 1013);
        check(&Refusal::AddressFull, 429, 1013);
        check(&Refusal::too_fast("connects", Duration::ZERO), 429, 1008);
        check(&Refusal::Storage, 503, 1013);
        check(&Refusal::HookFailed, 503, 1013);
        check(&Refusal::Draining, 503, 1012);
        check(&Refusal::NoApp, 404, 4404);
        check(&Refusal::AppDisabled, 403, 4403);
        check(&Refusal::AppFull, 503, 1013);
        check(&Refusal::ProtocolVersion, 400, 4400);
        assert_eq!(Refusal::LostUpgrade.status(), 426);
    }

    #[track_caller]
    fn check_wait(wait_ms: u64, seconds: &str) {
        let field = Refusal::too_fast("connects", Duration::from_millis(wait_ms)).field();
        assert_eq!(field, Some(("Retry-After", seconds.into())), "{wait_ms}");
    }

    #[test]
    fn who_is_too_fast_is_told_whole_seconds_that_are_enough() {
        check_wait(0, "1");
        check_wait(1, "1");
        check_wait(1_000, "1");
        check_wait(1_001, "2");
        check_wait(60_000, "60");
    }

    #[test]
    fn every_close_code_may_be_sent() {
        let all = [
            Disconnect::ByPeer(None),
            Disconnect::Protocol {
                code: 1007,
                reason: "",
            },
            Disconnect::SlowConsumer {
                pending_bytes: 2,
                limit_bytes: 1,
            },
            Disconnect::Stalled(Duration::from_secs(10)),
            Disconnect::TooFast("messages_per_connection"),
            Disconnect::Idle(Duration::from_secs(50)),
            Disconnect::Aged,
            Disconnect::Expired,
            Disconnect::Unauthorized,
            Disconnect::Superseded,
            Disconnect::Gap,
            Disconnect::Deleted,
            Disconnect::Answered,
            Disconnect::Draining,
            Disconnect::Internal,
        ];
        for why in all {
            for code in [why.plain_code().unwrap(), why.pusher_code().unwrap()] {
                // RFC 6455 section 7.4: 1005, 1006 and 1015 must never be on the wire.
                assert!(
                    (1000..=1003).contains(&code)
                        || (1007..=1014).contains(&code)
                        || (4000..5000).contains(&code),
                    "{why:?}"
                );
            }
        }
    }

    /// `pusher.md` section 4.3: what a library does with a code.
    #[derive(Debug, PartialEq)]
    enum Then {
        GivesUp,
        Waits,
        ComesBackAtOnce,
    }

    #[track_caller]
    fn check_pusher(why: Disconnect, code: u16, then: Then) {
        assert_eq!(why.pusher_code(), Some(code), "{why:?}");
        let does = match code {
            4001..4100 | 4300.. => Then::GivesUp,
            4200..4300 => Then::ComesBackAtOnce,
            _ => Then::Waits,
        };
        assert_eq!(does, then, "{why:?}");
    }

    #[test]
    fn libraries_of_pusher_come_back_from_what_is_not_final() {
        let refused = Disconnect::Refused;
        check_pusher(refused(Refusal::NoApp), 4001, Then::GivesUp);
        check_pusher(refused(Refusal::AppDisabled), 4003, Then::GivesUp);
        check_pusher(refused(Refusal::AppFull), 4004, Then::GivesUp);
        check_pusher(refused(Refusal::ProtocolVersion), 4007, Then::GivesUp);
        check_pusher(refused(Refusal::Forbidden("".into())), 4009, Then::GivesUp);
        check_pusher(Disconnect::Unauthorized, 4009, Then::GivesUp);
        check_pusher(refused(Refusal::Full), 4100, Then::Waits);
        check_pusher(refused(Refusal::Storage), 4100, Then::Waits);
        check_pusher(refused(Refusal::Draining), 4100, Then::Waits);
        check_pusher(refused(Refusal::HookFailed), 4100, Then::Waits);
        check_pusher(Disconnect::Stalled(Duration::ZERO), 4100, Then::Waits);
        check_pusher(Disconnect::TooFast(""), 4100, Then::Waits);
        check_pusher(Disconnect::Internal, 1011, Then::Waits);
        check_pusher(Disconnect::Draining, 4100, Then::Waits);
        check_pusher(Disconnect::Deleted, 4200, Then::ComesBackAtOnce);
        check_pusher(Disconnect::Idle(Duration::ZERO), 4201, Then::ComesBackAtOnce);
    }
}
