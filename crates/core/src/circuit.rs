//! A circuit breaker: whoever does not answer is left alone for a while.
//!
//! After so many failures in a row the circuit opens: nothing is asked for a pause. Then one try is
//! let through per pause, until one succeeds; that closes it. Says only whether to ask: whoever
//! does ask reports what came of it. The clock is the caller's.

use std::time::Duration;

use crate::moment::Moment;

/// See the module's head.
#[derive(Clone, Debug)]
pub struct Circuit {
    failures_max: u32,
    pause: Duration,
    failures: u32,
    /// When the next try is let through; `None`: closed.
    next_try: Option<Moment>,
}

impl Circuit {
    /// A closed circuit, which opens for `pause` after `failures_max` failures in a row.
    pub fn new(failures_max: u32, pause: Duration) -> Self {
        Self {
            failures_max,
            pause,
            failures: 0,
            next_try: None,
        }
    }

    /// Whether to ask now. `true` from an open circuit is the one try of this pause.
    pub fn may_ask(&mut self, now: Moment) -> bool {
        match self.next_try {
            None => true,
            Some(next) if now >= next => {
                // If this one is never reported, the next pause has its own.
                self.next_try = Some(now + self.pause);
                true
            }
            Some(_) => false,
        }
    }

    /// Whether nothing would be asked now, without being the try of this pause.
    pub fn is_open(&self, now: Moment) -> bool {
        self.next_try.is_some_and(|next| now < next)
    }

    /// There was an answer. Says whether this closed the circuit.
    pub fn succeeded(&mut self) -> bool {
        self.failures = 0;
        self.next_try.take().is_some()
    }

    /// There was none. Says whether this opened the circuit.
    pub fn failed(&mut self, now: Moment) -> bool {
        self.failures = self.failures.saturating_add(1);
        let was_closed = self.next_try.is_none();
        if self.failures < self.failures_max {
            return false;
        }
        // Those who were asked before it opened and fail now say nothing new.
        if was_closed {
            self.next_try = Some(now + self.pause);
        }
        was_closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `f` a failure, `s` a success, `?` whether to ask, each at the second before it; what the
    /// questions were answered.
    #[track_caller]
    fn check(steps: &str, expected: &str) {
        let mut circuit = Circuit::new(3, Duration::from_secs(5));
        let mut answers = String::new();
        for step in steps.split(' ') {
            let (at, what) = step.split_at(step.len() - 1);
            let now = Moment::after_start(Duration::from_secs(at.parse().unwrap()));
            match what {
                "f" => drop(circuit.failed(now)),
                "s" => drop(circuit.succeeded()),
                _ => {
                    let is_open = circuit.is_open(now);
                    let may = circuit.may_ask(now);
                    assert_ne!(is_open, may, "{step}");
                    answers.push(if may { 'y' } else { 'n' });
                }
            }
        }
        assert_eq!(answers, expected, "{steps}");
    }

    #[test]
    fn opens_after_failures_in_a_row_and_closes_after_a_success() {
        check("0f 0f 0?", "y");
        check("0f 0f 0f 0? 4? 5?", "nny");
        check("0f 0f 0s 0f 0f 0?", "y");
        // One try per pause.
        check("0f 0f 0f 5? 5? 9? 10?", "ynny");
        check("0f 0f 0f 5? 6f 7? 10?", "yny");
        check("0f 0f 0f 5? 5s 5? 5?", "yyy");
        // Late failures of before do not put the try off.
        check("0f 0f 0f 4f 5?", "y");
    }
}
