//! Every limit of the server: what it bounds, its default, and what happens there.
//!
//! The doc comment of a field is its reference entry; `fanfare config` prints them with the
//! defaults. Sizes are bytes, times are written like `25s`. Relations between limits are
//! checked once, by [`Limits::check`], before the first socket opens.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::rate::Rate;

/// What connections and publications may cost. Section `[limits]` of the configuration.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Open connections of this node. 0 means: as many as the process may have open files,
    /// less 5 % (at least 64) kept back. At the limit a WebSocket is accepted and closed with
    /// 1013, an event stream is told to come back later, anything else gets 503. Default 0.
    pub connections_max: usize,

    /// Connections that have not yet sent a whole request head. 0 means a tenth of
    /// `connections_max`, at least 256. At the limit the oldest of them is closed. Default 0.
    pub handshakes_max: usize,

    /// Largest message, in bytes, whether a client's frame or the body of a POST. One byte more
    /// is answered 1009 or 413. Default 65,536.
    pub message_bytes_max: usize,

    /// Largest body of an HTTP request, in bytes; only a batch needs more than one message.
    /// Answered 413. Default 1,048,576.
    pub body_bytes_max: usize,

    /// Lines in one batch (NDJSON). Answered 413. Default 1,000.
    pub batch_lines_max: usize,

    /// Time in which the body of a request must have arrived. Answered 408. Default 30s.
    #[serde(with = "seconds")]
    pub body_time_max: Duration,

    /// Fragments of one WebSocket message. Answered 1008. Default 1,024.
    pub fragments_max: u32,

    /// Time in which a begun WebSocket message must be complete. Answered 1008. Default 30s.
    #[serde(with = "seconds")]
    pub message_time_max: Duration,

    /// Bytes that one byte of a compressed WebSocket message may become, in a message of more than
    /// 16,384 bytes. DEFLATE can reach about 1,030, so more means: no limit. Answered 1009.
    /// Default 250.
    pub inflate_ratio_max: usize,

    /// Channels that one connection may listen to. Answered 4400 or 400. Default 200.
    pub subscriptions_max: usize,

    /// Connections of one address; an address of IPv6 counts with all that share its first 64 bits. One
    /// more is answered 1013 or 429, an event stream is told to come back later. Default 1,000.
    pub connections_per_address: usize,

    /// New connections of one address. Answered 429 in the handshake; where even that is too much, the
    /// connection is closed. Default 20/s burst 100.
    pub connects_per_address: Rate,

    /// New WebSockets and event streams of the node. Beyond that nobody is accepted until there is room
    /// again. Default 1000/s burst 2000.
    pub connects: Rate,

    /// Whether connections from this machine (loopback) count for the limits per address. Default
    /// false.
    pub count_loopback: bool,

    /// Addresses, and users who speak, that are told apart. With more, new ones count as one. 0 means twice
    /// as many as `connections_max`, and at least 100,000. Default 0.
    pub addresses_max: usize,

    /// Failed attempts of one address to show a key or token. Then none is looked at for
    /// `auth_failures_pause`: 429. Default 20/m.
    pub auth_failures_per_address: Rate,

    /// Time for which none is looked at. Default 60s.
    #[serde(with = "seconds")]
    pub auth_failures_pause: Duration,

    /// Messages over one connection. More are dropped, which a session with `meta=1` is told; see
    /// `messages_excess_max`. Default 50/s burst 200.
    pub messages_per_connection: Rate,

    /// Messages of one user over all connections and by POST; by POST also of an address of which no
    /// user is known. More are dropped in the same way; a POST is answered 429. Default 100/s burst 400.
    pub messages_per_user: Rate,

    /// Time for which a connection may go on to send more than that, before it is closed with 1008.
    /// Default 10s.
    #[serde(with = "seconds")]
    pub messages_excess_max: Duration,

    /// Bytes that are read from one connection of a session. More wait with the peer. Default 262144/s
    /// burst 1048576.
    pub bytes_per_connection: Rate,

    /// Pings over one connection that are answered. Default 10/s burst 50.
    pub pings_per_connection: Rate,

    /// Pings and pongs over one connection. More are answered 1008. Default 100/s burst 500.
    pub control_frames_per_connection: Rate,

    /// Fresh tokens over one connection. More are dropped like messages. Default 6/m burst 10.
    pub token_refreshes_per_connection: Rate,

    /// Publications by the back end. Answered 429. Default 10000/s burst 20000.
    pub publications_per_key: Rate,

    /// Connections of one user. One more closes her oldest with 4403. Default 100.
    pub connections_per_user: usize,

    /// Bytes that may wait for one slow reader before it is closed with 4408 (an event stream
    /// just ends). Publications are shared, so the usual cost of a waiting frame is one pointer.
    /// Must be at least `message_bytes_max` plus 1,024. Default 1,048,576.
    pub outbox_bytes_max: usize,

    /// Time for which a reader may read nothing although something waits, before it is closed
    /// like one whose outbox is full. Default 10s.
    #[serde(with = "seconds")]
    pub outbox_stall_max: Duration,

    /// Publications that may wait for one shard. At the limit publishing is refused with 503
    /// *before* it gets its place in the order, so nobody has a gap. Default 8,192.
    pub mailbox_publications_max: usize,

    /// Bytes of publications that may wait for one shard; the same answer. Default 67,108,864.
    pub mailbox_bytes_max: usize,

    /// Channels that have listeners, over all connections. Answered 4400 or 400.
    /// Default 1,000,000.
    pub channels_max: usize,

    /// `Idempotency-Key`s that are remembered with their answers; then the oldest is forgotten, and a
    /// repeat of it is published again. Default 100,000.
    pub idempotency_keys_max: usize,

    /// Time for which they are. Default 120s.
    #[serde(with = "seconds")]
    pub idempotency_age: Duration,

    /// Keys of publications whose newest version is remembered, over all channels; then a channel
    /// forgets the one that was written longest ago. Default 100,000.
    pub versions_max: usize,

    /// Size of a request head, in bytes. Answered 431. Default 16,384.
    pub head_bytes_max: usize,

    /// Fields of a request head. Answered 431. Default 100.
    pub head_fields_max: usize,

    /// Size of a request target (path and query), in bytes. Answered 414. Default 8,192.
    pub target_bytes_max: usize,

    /// Time in which a whole request head must have arrived, counted from the connect and not
    /// from the last byte. The connection is closed. Default 10s.
    #[serde(with = "seconds")]
    pub head_time_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 0,
            handshakes_max: 0,
            message_bytes_max: 64 << 10,
            body_bytes_max: 1 << 20,
            batch_lines_max: 1_000,
            body_time_max: Duration::from_secs(30),
            fragments_max: 1_024,
            message_time_max: Duration::from_secs(30),
            inflate_ratio_max: 250,
            subscriptions_max: 200,
            connections_per_address: 1_000,
            connects_per_address: Rate::per_second(20, 100),
            connects: Rate::per_second(1_000, 2_000),
            count_loopback: false,
            addresses_max: 0,
            auth_failures_per_address: Rate::per_minute(20, 20),
            auth_failures_pause: Duration::from_mins(1),
            messages_per_connection: Rate::per_second(50, 200),
            messages_per_user: Rate::per_second(100, 400),
            messages_excess_max: Duration::from_secs(10),
            bytes_per_connection: Rate::per_second(256 << 10, 1 << 20),
            pings_per_connection: Rate::per_second(10, 50),
            control_frames_per_connection: Rate::per_second(100, 500),
            token_refreshes_per_connection: Rate::per_minute(6, 10),
            publications_per_key: Rate::per_second(10_000, 20_000),
            connections_per_user: 100,
            outbox_bytes_max: 1 << 20,
            outbox_stall_max: Duration::from_secs(10),
            mailbox_publications_max: 8_192,
            mailbox_bytes_max: 64 << 20,
            channels_max: 1_000_000,
            idempotency_keys_max: 100_000,
            idempotency_age: Duration::from_mins(2),
            versions_max: 100_000,
            head_bytes_max: 16 << 10,
            head_fields_max: 100,
            target_bytes_max: 8 << 10,
            head_time_max: Duration::from_secs(10),
        }
    }
}

/// Room in an outbox for what a message grows by on the wire: frame head, id, event, channel.
pub const WIRE_OVERHEAD_BYTES: usize = 1_024;

/// Limits that cannot hold together.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum LimitsError {
    /// A limit of nothing would refuse everything.
    #[error("limits.{key} must be greater than zero")]
    Zero {
        /// The key as written in the file.
        key: &'static str,
    },
    /// A message of the allowed size could never be delivered.
    #[error(
        "limits.outbox_bytes_max ({outbox}) must be at least limits.message_bytes_max ({message}) plus \
         {WIRE_OVERHEAD_BYTES}: a message of the allowed size could never be delivered"
    )]
    OutboxTooSmall {
        /// The outbox limit, in bytes.
        outbox: usize,
        /// The message limit, in bytes.
        message: usize,
    },
    /// A message of the allowed size could never be posted.
    #[error("limits.body_bytes_max ({body}) is smaller than limits.message_bytes_max ({message})")]
    BodyTooSmall {
        /// The body limit, in bytes.
        body: usize,
        /// The message limit, in bytes.
        message: usize,
    },
    /// A message of the allowed size could never be queued.
    #[error("limits.mailbox_bytes_max ({mailbox}) is smaller than limits.message_bytes_max ({message})")]
    MailboxTooSmall {
        /// The mailbox limit, in bytes.
        mailbox: usize,
        /// The message limit, in bytes.
        message: usize,
    },
}

impl Limits {
    /// Finds contradictions.
    pub fn check(&self) -> Result<(), LimitsError> {
        let positive = [
            ("message_bytes_max", self.message_bytes_max),
            ("body_bytes_max", self.body_bytes_max),
            ("batch_lines_max", self.batch_lines_max),
            ("fragments_max", self.fragments_max as usize),
            ("inflate_ratio_max", self.inflate_ratio_max),
            ("subscriptions_max", self.subscriptions_max),
            ("connections_per_user", self.connections_per_user),
            ("connections_per_address", self.connections_per_address),
            ("mailbox_publications_max", self.mailbox_publications_max),
            ("channels_max", self.channels_max),
            ("head_bytes_max", self.head_bytes_max),
            ("head_fields_max", self.head_fields_max),
            ("target_bytes_max", self.target_bytes_max),
            ("head_time_max", usize::from(!self.head_time_max.is_zero())),
            ("body_time_max", usize::from(!self.body_time_max.is_zero())),
            ("message_time_max", usize::from(!self.message_time_max.is_zero())),
            ("outbox_stall_max", usize::from(!self.outbox_stall_max.is_zero())),
        ];
        if let Some((key, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return Err(LimitsError::Zero { key });
        }
        let message = self.message_bytes_max;
        if self.outbox_bytes_max < message.saturating_add(WIRE_OVERHEAD_BYTES) {
            return Err(LimitsError::OutboxTooSmall {
                outbox: self.outbox_bytes_max,
                message,
            });
        }
        if self.body_bytes_max < message {
            return Err(LimitsError::BodyTooSmall {
                body: self.body_bytes_max,
                message,
            });
        }
        if self.mailbox_bytes_max < message {
            return Err(LimitsError::MailboxTooSmall {
                mailbox: self.mailbox_bytes_max,
                message,
            });
        }
        Ok(())
    }
}

/// Times in configuration files: `25s`, `500ms`, `2m`, or a bare number of seconds.
pub mod seconds {
    use std::time::Duration;

    use serde::de::{Error, Unexpected};
    use serde::{Deserialize, Deserializer, Serializer};

    /// Reads `25s`, `500ms`, `2m`, `1h` or a whole number of seconds.
    pub fn parse(text: &str) -> Option<Duration> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().ok()?;
        match unit {
            "ms" => Some(Duration::from_millis(number)),
            "" | "s" => Some(Duration::from_secs(number)),
            "m" => number.checked_mul(60).map(Duration::from_secs),
            "h" => number.checked_mul(3_600).map(Duration::from_secs),
            _ => None,
        }
    }

    /// Writes the shortest form that [`parse`] reads back.
    pub fn format(duration: Duration) -> String {
        if duration.subsec_millis() == 0 {
            format!("{}s", duration.as_secs())
        } else {
            format!("{}ms", duration.as_millis())
        }
    }

    /// For serde's `with`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Seconds(u64),
            Text(String),
        }
        let form = Form::deserialize(deserializer)
            .map_err(|_| D::Error::custom("expected a time such as \"25s\", \"500ms\" or \"2m\""))?;
        match form {
            Form::Seconds(seconds) => Ok(Duration::from_secs(seconds)),
            Form::Text(text) => parse(&text).ok_or_else(|| {
                D::Error::invalid_value(
                    Unexpected::Str(&text),
                    &"a time such as \"25s\", \"500ms\" or \"2m\"",
                )
            }),
        }
    }

    /// The same for a time that may be missing.
    pub mod optional {
        use super::{Deserializer, Duration, Serializer};

        /// For serde's `with`.
        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
            super::deserialize(deserializer).map(Some)
        }

        /// For serde's `with`.
        pub fn serialize<S: Serializer>(
            duration: &Option<Duration>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            match duration {
                Some(duration) => super::serialize(duration, serializer),
                None => serializer.serialize_none(),
            }
        }
    }

    /// For serde's `with`.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format(*duration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: impl FnOnce(&mut Limits), expected: Result<(), &str>) {
        let mut limits = Limits::default();
        change(&mut limits);
        let got = limits.check().map_err(|error| error.to_string());
        match (got, expected) {
            (Ok(()), Ok(())) => {}
            (Err(text), Err(part)) => assert!(text.contains(part), "{text}"),
            (got, expected) => panic!("{got:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn contradictions_name_the_key() {
        check(|_| {}, Ok(()));
        check(|l| l.message_bytes_max = 0, Err("limits.message_bytes_max"));
        check(
            |l| l.outbox_bytes_max = l.message_bytes_max,
            Err("limits.outbox_bytes_max"),
        );
        check(|l| l.outbox_bytes_max = l.message_bytes_max + 1_024, Ok(()));
        check(
            |l| l.body_bytes_max = l.message_bytes_max - 1,
            Err("limits.body_bytes_max"),
        );
        check(|l| l.mailbox_bytes_max = 1, Err("limits.mailbox_bytes_max"));
        check(|l| l.head_time_max = Duration::ZERO, Err("limits.head_time_max"));
    }

    #[track_caller]
    fn check_time(text: &str, expected_ms: Option<u64>) {
        assert_eq!(
            seconds::parse(text),
            expected_ms.map(Duration::from_millis),
            "{text}"
        );
    }

    #[test]
    fn times_have_units() {
        check_time("25s", Some(25_000));
        check_time("25", Some(25_000));
        check_time("500ms", Some(500));
        check_time("2m", Some(120_000));
        check_time("1h", Some(3_600_000));
        for bad in [
            "",
            "s",
            "1d",
            "-1s",
            "1.5s",
            "99999999999999999999s",
            "999999999999999999h",
        ] {
            check_time(bad, None);
        }
    }
}
