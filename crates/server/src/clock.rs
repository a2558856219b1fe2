//! The time of the engine: milliseconds of the calendar's time, but never running backwards.
//!
//! It is read from the calendar once, at the start, and from the monotonic clock from then on. So a
//! step of the calendar's clock neither empties a history nor stops its ageing, and times that were
//! written down by an earlier life of the node still mean something.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fanfare_core::moment::Moment;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// See the module's head.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    start_since_epoch: Duration,
}

impl Clock {
    /// A clock that agrees with the calendar now.
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
            start_since_epoch: unix_now(),
        }
    }

    /// Now.
    pub fn now(&self) -> Moment {
        Moment::after_start(self.start_since_epoch + self.start.elapsed())
    }
}

/// The calendar's time now, since 1970: for what others have dated, such as tokens.
pub(crate) fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A time of the engine's clock, in UTC, to the second.
pub(crate) fn timestamp(time: Moment) -> String {
    let seconds = i64::try_from(time.as_millis() / 1_000).unwrap_or(i64::MAX);
    let time = OffsetDateTime::from_unix_timestamp(seconds).ok();
    time.and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_utc_to_the_second() {
        let at = |millis| timestamp(Moment::after_start(Duration::from_millis(millis)));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(1_795_000_000_999), "2026-11-18T11:06:40Z");
    }
}
