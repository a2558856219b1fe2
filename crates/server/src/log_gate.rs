//! Lines that one peer or another can cause at any rate: some are written, the rest are counted.
//!
//! Each kind has a bucket of [`BURST`] lines that fills with [`PER_SECOND`]. What was left out is
//! said with the next line of the kind that is written, and in a metric.

use std::time::Instant;

use parking_lot::Mutex;

/// Lines of one kind that may be written at once.
const BURST: u32 = 50;

/// Lines of one kind per second, in the long run.
const PER_SECOND: u32 = 10;

/// Kinds of frequent lines.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Open,
    Close,
    Error,
    Refused,
    Accept,
    Handshake,
}

#[derive(Debug)]
struct Bucket {
    tokens: u32,
    filled: Instant,
    left_out: u64,
    left_out_total: u64,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct LogGate {
    buckets: [Mutex<Bucket>; 6],
}

impl LogGate {
    pub(crate) fn new() -> Self {
        let bucket = |_| {
            Mutex::new(Bucket {
                tokens: BURST,
                filled: Instant::now(),
                left_out: 0,
                left_out_total: 0,
            })
        };
        Self {
            buckets: std::array::from_fn(bucket),
        }
    }

    /// Calls `write` unless there were too many lines of this kind.
    pub(crate) fn say(&self, kind: Kind, write: impl FnOnce()) {
        let Some(bucket) = self.buckets.get(kind as usize) else {
            return;
        };
        let left_out = bucket.lock().take(Instant::now());
        let Some(left_out) = left_out else { return };
        if left_out > 0 {
            tracing::info!(?kind, left_out, "lines of this kind were left out");
        }
        write();
    }

    /// Lines left out since the start.
    pub(crate) fn suppressed(&self) -> u64 {
        self.buckets
            .iter()
            .map(|bucket| bucket.lock().left_out_total)
            .sum()
    }
}

impl Bucket {
    /// Takes a line's place; `Some` with the number of lines left out before it.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let seconds = u32::try_from(now.saturating_duration_since(self.filled).as_secs()).unwrap_or(u32::MAX);
        if seconds > 0 {
            self.tokens = self
                .tokens
                .saturating_add(seconds.saturating_mul(PER_SECOND))
                .min(BURST);
            self.filled = now;
        }
        if self.tokens == 0 {
            self.left_out += 1;
            self.left_out_total += 1;
            return None;
        }
        self.tokens -= 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_storm_is_counted_and_a_trickle_is_written() {
        let start = Instant::now();
        let mut bucket = Bucket {
            tokens: BURST,
            filled: start,
            left_out: 0,
            left_out_total: 0,
        };
        let written = (0..1_000).filter(|_| bucket.take(start).is_some()).count();
        assert_eq!((written, bucket.left_out), (50, 950));
        assert_eq!(bucket.take(start + Duration::from_secs(1)), Some(950));
        let written = (0..1_000)
            .filter(|_| bucket.take(start + Duration::from_secs(1)).is_some())
            .count();
        assert_eq!(written, 9);
    }
}
