//! Time as an argument.
//!
//! Core reads no clock. Whoever drives it says what time it is, as milliseconds since some
//! start of its own, and gets back the time at which it wants to be called again. So a test
//! owns the clock, and a session spends eight bytes on a point in time.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point in time: milliseconds since some start of the driver's choice, for instance 1970. Monotonic:
/// it does not follow when the calendar is set anew.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Moment(u64);

impl Moment {
    /// Further away than any process lives: "never".
    pub const NEVER: Self = Self(u64::MAX);

    /// The moment this long after the driver's start.
    pub fn after_start(elapsed: Duration) -> Self {
        Self(millis(elapsed))
    }

    /// Milliseconds since the driver's start.
    pub fn as_millis(self) -> u64 {
        self.0
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }
}

impl Sub for Moment {
    type Output = Duration;

    /// Zero when `earlier` is in fact later.
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}
