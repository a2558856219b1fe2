//! How often something may happen: rates, and buckets that hold somebody to one.
//!
//! A bucket is one number, the moment at which it is full again (the generic cell rate algorithm, ITU-T
//! I.371 annex A), so it costs eight bytes, needs no filling, and the one that nobody has used yet is
//! zero. The rate it is held to comes with each call, since thousands of buckets share one.
//!
//! Time is an argument. Its unit is that of [`Moment`], a millisecond; within one, as much is given as the
//! burst allows.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::moment::Moment;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// So many per unit of time, and so many at once. Written `50/s burst 200`, `20/m`, `1/h burst 3`, or
/// `off`; without a burst it is what one unit of time brings.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    /// 0: no limit.
    count: u32,
    per_seconds: u32,
    burst: u32,
}

/// A text that is no rate.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{0:?} is not a rate such as \"50/s burst 200\", \"20/m\" or \"off\"")]
pub struct RateError(String);

impl Rate {
    /// No limit.
    pub const OFF: Self = Self {
        count: 0,
        per_seconds: 1,
        burst: 0,
    };

    /// `count` in a second, and at most `burst` at once.
    pub const fn per_second(count: u32, burst: u32) -> Self {
        Self {
            count,
            per_seconds: 1,
            burst,
        }
    }

    /// `count` in a minute, and at most `burst` at once.
    pub const fn per_minute(count: u32, burst: u32) -> Self {
        Self {
            count,
            per_seconds: 60,
            burst,
        }
    }

    /// Whether there is no limit.
    pub fn is_off(self) -> bool {
        self.count == 0
    }

    /// So many times as often, and as many at once.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Self {
            count: self.count.saturating_mul(times),
            burst: self.burst.saturating_mul(times),
            ..self
        }
    }

    /// How many may come at once.
    pub fn burst(self) -> u64 {
        self.burst.into()
    }

    /// Nanoseconds that `count` of them take.
    fn nanos(self, count: u64) -> u64 {
        let per = u64::from(self.per_seconds).saturating_mul(NANOS_PER_SECOND);
        let each = per.checked_div(self.count.into()).unwrap_or(0);
        each.saturating_mul(count)
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let wrong = || RateError(text.chars().take(64).collect());
        if text.trim() == "off" {
            return Ok(Self::OFF);
        }
        let (rate, burst) = match text.split_once("burst") {
            Some((rate, burst)) => (rate, Some(burst)),
            None => (text, None),
        };
        let (count, unit) = rate.trim().split_once('/').ok_or_else(wrong)?;
        let per_seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            _ => return Err(wrong()),
        };
        let number = |text: &str| text.trim().parse().ok().filter(|number| *number > 0);
        let count = number(count).ok_or_else(wrong)?;
        let burst = burst.map_or(Some(count), number).ok_or_else(wrong)?;
        Ok(Self {
            count,
            per_seconds,
            burst,
        })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per_seconds {
            1 => "s",
            60 => "m",
            _ => "h",
        };
        match self.count {
            0 => f.write_str("off"),
            count if count == self.burst => write!(f, "{count}/{unit}"),
            count => write!(f, "{count}/{unit} burst {}", self.burst),
        }
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

fn nanos(now: Moment) -> u64 {
    now.as_millis().saturating_mul(1_000_000)
}

/// What somebody has left of a [`Rate`]. Begins full.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Bucket {
    /// In nanoseconds of the driver's time.
    full_at: u64,
}

impl Bucket {
    /// Takes `count` if they are there; what is more than the burst is given to a full bucket.
    ///
    /// # Errors
    ///
    /// Takes nothing, and says after what time they will be there.
    pub fn take(&mut self, rate: Rate, count: u64, now: Moment) -> Result<(), Duration> {
        let wait = self.wait_for(rate, count, now);
        if !wait.is_zero() {
            return Err(wait);
        }
        self.charge(rate, count, now);
        Ok(())
    }

    /// Takes `count` whether they are there or not: what is lacking has to come in first.
    pub fn charge(&mut self, rate: Rate, count: u64, now: Moment) {
        if !rate.is_off() {
            self.full_at = self.full_at.max(nanos(now)).saturating_add(rate.nanos(count));
        }
    }

    /// Time after which `count` will be there; zero if they are.
    pub fn wait_for(&self, rate: Rate, count: u64, now: Moment) -> Duration {
        if rate.is_off() {
            return Duration::ZERO;
        }
        let missing = self.full_at.saturating_sub(nanos(now));
        let wanted = rate.nanos(count.min(rate.burst()));
        let room = rate.nanos(rate.burst());
        Duration::from_nanos(missing.saturating_add(wanted).saturating_sub(room))
    }

    /// Whether nothing of it is in use.
    pub fn is_full(&self, now: Moment) -> bool {
        self.full_at <= nanos(now)
    }
}

/// Time without any excess after which a new one begins.
const EXCESS_PAUSE: Duration = Duration::from_secs(3);

/// Least time between two notices of one excess.
const EXCESS_NOTICE: Duration = Duration::from_secs(1);

/// For how long somebody has been doing too much. Begins calm.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Excess {
    since: Moment,
    noticed: Moment,
}

/// What is to be done about one thing too many.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Noticed {
    /// Nothing more than not to do it.
    Silent,
    /// Say so.
    Tell,
    /// It has gone on for too long.
    Enough,
}

impl Excess {
    /// One more was too many. What goes on for `time_max` is enough.
    pub fn notice(&mut self, now: Moment, time_max: Duration) -> Noticed {
        if now - self.noticed > EXCESS_PAUSE {
            self.since = now;
        } else if now - self.noticed < EXCESS_NOTICE && now - self.since < time_max {
            return Noticed::Silent;
        }
        self.noticed = now;
        if now - self.since >= time_max {
            Noticed::Enough
        } else {
            Noticed::Tell
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::after_start(Duration::from_millis(1_000_000 + ms))
    }

    /// `0:3` at 0 ms three are wanted and given; `0:3!1500` they are refused, and would be there 1.5 s
    /// later; `0:3~` they are taken in any case.
    #[track_caller]
    fn check(rate: &str, steps: &str) {
        let rate: Rate = rate.parse().unwrap();
        let mut bucket = Bucket::default();
        for step in steps.split(' ') {
            let (ms, rest) = step.split_once(':').unwrap();
            let now = at(ms.parse().unwrap());
            if let Some(count) = rest.strip_suffix('~') {
                bucket.charge(rate, count.parse().unwrap(), now);
                continue;
            }
            let (count, wait) = rest.split_once('!').unwrap_or((rest, ""));
            let got = bucket.take(rate, count.parse().unwrap(), now);
            let expected = match wait {
                "" => Ok(()),
                ms => Err(Duration::from_millis(ms.parse().unwrap())),
            };
            assert_eq!(got, expected, "{step} of {steps}");
        }
    }

    #[test]
    fn a_bucket_gives_its_burst_at_once_and_then_its_rate() {
        check("2/s burst 3", "0:1 0:1 0:1 0:1!500 499:1!1 500:1 500:1!500");
        check("2/s burst 3", "0:3 0:1!500 60000:3 60000:1!500");
        check("1/m", "0:1 0:1!60000 59000:1!1000 60000:1");
        check("1/h burst 2", "0:2 3599000:1!1000 3600000:1 3600000:1!3600000");
        check("10000/s burst 20000", "0:20000 0:10!1 1:10 2:10 2:10!1");
        check("off", "0:999999 0:999999");
    }

    #[test]
    fn what_is_more_than_the_burst_needs_a_full_bucket_and_is_paid_back() {
        check("1/s burst 2", "0:5 0:1!4000 4000:1 4000:1!1000");
        check("1/s burst 2", "0:1 0:5!1000 1000:5");
        check("1/s burst 2", "0:5~ 0:1!4000 0:1~ 0:1!5000 5000:1");
    }

    #[test]
    fn numbers_that_nobody_reaches_do_not_wrap() {
        check("1/h burst 4000000000", "0:4000000000");
        check("1/h burst 4000000000", "0:18446744073709551615~ 0:1");
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(Rate::per_second(1, 1), 1, Moment::NEVER), Ok(()));
    }

    #[test]
    fn a_bucket_is_full_when_all_has_come_in() {
        let rate = Rate::per_second(1, 10);
        let mut bucket = Bucket::default();
        assert!(bucket.is_full(at(0)));
        bucket.charge(rate, 2, at(0));
        assert!(!bucket.is_full(at(1_999)) && bucket.is_full(at(2_000)));
        bucket.charge(Rate::OFF, 99, at(2_000));
        assert!(bucket.is_full(at(2_000)));
    }

    #[track_caller]
    fn check_text(text: &str, printed: Option<&str>) {
        let rate = text.parse::<Rate>().ok();
        assert_eq!(rate.map(|rate| rate.to_string()).as_deref(), printed, "{text}");
    }

    #[test]
    fn rates_are_written_like_they_are_said() {
        check_text("50/s burst 200", Some("50/s burst 200"));
        check_text(" 20/m ", Some("20/m"));
        check_text("20/m burst 20", Some("20/m"));
        check_text("1/h burst 3", Some("1/h burst 3"));
        check_text("off", Some("off"));
        for bad in [
            "",
            "50",
            "50/",
            "/s",
            "0/s",
            "5/s burst",
            "5/s burst 0",
            "5/d",
            "-1/s",
            "5/s burst x",
            "5000000000/s",
            "5 per second",
        ] {
            check_text(bad, None);
        }
    }

    /// Milliseconds at which one was too many, and what came of each: `.`, `t` or `e`.
    #[track_caller]
    fn check_excess(time_max: u64, at_ms: &[u64], expected: &str) {
        let mut excess = Excess::default();
        let notice = |ms: &u64| match excess.notice(at(*ms), Duration::from_millis(time_max)) {
            Noticed::Silent => '.',
            Noticed::Tell => 't',
            Noticed::Enough => 'e',
        };
        let got: String = at_ms.iter().map(notice).collect();
        assert_eq!(got, expected, "{at_ms:?}");
    }

    #[test]
    fn an_excess_is_told_once_a_second_and_ends_when_it_goes_on() {
        check_excess(10_000, &[0, 1, 999, 1_000, 1_001, 2_500], "t..t.t");
        check_excess(2_000, &[0, 1_000, 1_999, 2_000], "tt.e");
        // A pause, and it is another excess.
        check_excess(2_000, &[0, 1_000, 4_001, 5_001, 6_001], "tttte");
        check_excess(0, &[0], "e");
    }
}
