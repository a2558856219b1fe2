//! An event stream of the plain door: listening only.
//!
//! First bytes at once, so that the browser knows it is connected; a sign of life every
//! `heartbeat_interval`, so that nothing between closes an idle line; an end after about ten
//! minutes, from which `EventSource` comes back by itself with its last id, so that load spreads
//! and permissions are checked again (`plain.md` section 3).
//!
//! A stream never ends with an error status, since `EventSource` would not come back from that.

use std::sync::Arc;
use std::time::Duration;

use super::Action;
use crate::disconnect::Disconnect;
use crate::moment::Moment;
use crate::wire::sse;

/// What all event streams of a node have in common.
#[derive(Clone, Debug)]
pub struct StreamSettings {
    /// Time between signs of life on a quiet stream.
    pub heartbeat_interval: Duration,
}

/// See the module's head.
#[derive(Debug)]
pub struct EventStream {
    settings: Arc<StreamSettings>,
    heartbeat_at: Moment,
    ends_at: Moment,
    /// When the token that let the peer in runs out.
    deadline: Moment,
    /// What the peer is told to wait when the server itself goes away.
    retry: Duration,
    over: bool,
}

impl EventStream {
    /// A stream whose answer head is on its way. `ends_at` and `retry` are jittered by the caller,
    /// so that streams which came together do not come back together.
    pub fn new(
        settings: Arc<StreamSettings>,
        first_heartbeat: Moment,
        ends_at: Moment,
        retry: Duration,
    ) -> Self {
        Self {
            settings,
            heartbeat_at: first_heartbeat,
            ends_at,
            deadline: Moment::NEVER,
            retry,
            over: false,
        }
    }

    /// The same for a peer that was let in by a token, which runs out at `deadline`.
    #[must_use]
    pub fn until(self, deadline: Moment) -> Self {
        Self { deadline, ..self }
    }

    pub(super) fn on_timeout(&mut self, now: Moment, actions: &mut Vec<Action>) {
        if self.over {
        } else if now >= self.deadline {
            self.close(Disconnect::Expired, actions);
        } else if now >= self.ends_at {
            self.close(Disconnect::Aged, actions);
        } else if now >= self.heartbeat_at {
            self.heartbeat_at = now + self.settings.heartbeat_interval;
            actions.push(Action::SendPosition);
        }
    }

    pub(super) fn poll_timeout(&self) -> Moment {
        if self.over {
            Moment::NEVER
        } else {
            self.heartbeat_at.min(self.ends_at).min(self.deadline)
        }
    }

    pub(super) fn close(&mut self, why: Disconnect, actions: &mut Vec<Action>) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let farewell = (why == Disconnect::Draining).then(|| sse::retry(self.retry));
        actions.push(Action::Close { farewell, why });
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[track_caller]
    fn check_end(deadline: u64, end: u64, why: Disconnect) {
        let settings = Arc::new(StreamSettings {
            heartbeat_interval: Duration::from_secs(25),
        });
        let at = |seconds| Moment::after_start(Duration::from_secs(seconds));
        let stream = EventStream::new(settings, at(20), at(60), Duration::from_secs(2));
        let mut stream = stream.until(at(deadline));
        let mut said = Vec::new();
        for second in 0..=70 {
            let mut actions = Vec::new();
            if at(second) >= stream.poll_timeout() {
                stream.on_timeout(at(second), &mut actions);
            }
            said.extend(actions.into_iter().map(|action| (second, action)));
        }
        let last = Action::Close { farewell: None, why };
        assert_eq!(
            said,
            [
                (20, Action::SendPosition),
                (45, Action::SendPosition),
                (end, last)
            ]
        );
    }

    #[test]
    fn a_quiet_stream_gets_comments_and_then_an_end() {
        check_end(1_000, 60, Disconnect::Aged);
        check_end(50, 50, Disconnect::Expired);
    }

    #[test]
    fn a_stream_that_the_server_ends_says_when_to_come_back() {
        let settings = Arc::new(StreamSettings {
            heartbeat_interval: Duration::from_secs(25),
        });
        let mut stream = EventStream::new(
            settings,
            Moment::NEVER,
            Moment::NEVER,
            Duration::from_millis(2_300),
        );
        let mut actions = Vec::new();
        stream.close(Disconnect::Draining, &mut actions);
        stream.close(Disconnect::Aged, &mut actions);
        let farewell = Some(Bytes::from_static(b"retry: 2300\n\n"));
        assert_eq!(
            actions,
            [Action::Close {
                farewell,
                why: Disconnect::Draining
            }]
        );
    }
}
