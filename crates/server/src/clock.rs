//! The time of the engine: milliseconds of the calendar's time, but never running backwards.
//!
//! It is read from the calendar once, at the start, and from the monotonic clock from then on. So a
//! step of the calendar's clock neither empties a history nor stops its ageing, and times that were
//! written down by an earlier life of the node still mean something.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fanfare_core::moment::Moment;

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
