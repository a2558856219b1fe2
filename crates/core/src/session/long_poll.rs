//! A request of the plain door that waits until there is something new, or for long enough.
//!
//! It hears only *that* something was published. Whoever answers the request then reads the stream,
//! so an answer is exact however many publications arrived and in whatever moment.

use super::Action;
use crate::disconnect::Disconnect;
use crate::moment::Moment;

/// See the module's head.
#[derive(Debug)]
pub struct LongPoll {
    ends_at: Moment,
    over: bool,
}

impl LongPoll {
    /// Waits until `ends_at`.
    pub fn new(ends_at: Moment) -> Self {
        Self { ends_at, over: false }
    }

    pub(super) fn on_timeout(&mut self, now: Moment, actions: &mut Vec<Action>) {
        if now >= self.ends_at {
            self.close(Disconnect::Aged, actions);
        }
    }

    pub(super) fn poll_timeout(&self) -> Moment {
        if self.over { Moment::NEVER } else { self.ends_at }
    }

    pub(super) fn close(&mut self, why: Disconnect, actions: &mut Vec<Action>) {
        if !std::mem::replace(&mut self.over, true) {
            actions.push(Action::Close { farewell: None, why });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_waits_for_its_time_and_ends_once() {
        let at = |seconds| Moment::after_start(Duration::from_secs(seconds));
        let mut poll = LongPoll::new(at(25));
        let mut actions = Vec::new();
        poll.on_timeout(at(24), &mut actions);
        assert_eq!((actions.len(), poll.poll_timeout()), (0, at(25)));
        poll.on_timeout(at(25), &mut actions);
        poll.close(Disconnect::Draining, &mut actions);
        let why = Disconnect::Aged;
        assert_eq!(actions, [Action::Close { farewell: None, why }]);
        assert_eq!(poll.poll_timeout(), Moment::NEVER);
    }
}
