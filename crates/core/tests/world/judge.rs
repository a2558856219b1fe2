//! The oracle: what each listener should have seen, from what was published.

use super::listener::{Listener, Shown};
use super::{Published, World, number};

/// What a run has tried, so that a test can tell that it tried anything.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Report {
    pub(crate) published: usize,
    pub(crate) passing: usize,
    pub(crate) heard: usize,
    pub(crate) replayed: usize,
    pub(crate) resumed: usize,
    pub(crate) gaps: usize,
    pub(crate) cut: usize,
    pub(crate) disturbed: usize,
    pub(crate) holes: usize,
    pub(crate) positions: usize,
    pub(crate) cleared: usize,
}

impl Report {
    pub(crate) fn add(&mut self, other: &Self) {
        for (own, more) in self.all().into_iter().zip(other.clone().all()) {
            *own += *more;
        }
    }

    pub(crate) fn all_above_zero(&mut self) -> bool {
        self.all().iter().all(|count| **count > 0)
    }

    fn all(&mut self) -> [&mut usize; 11] {
        [
            &mut self.published,
            &mut self.passing,
            &mut self.heard,
            &mut self.replayed,
            &mut self.resumed,
            &mut self.gaps,
            &mut self.cut,
            &mut self.disturbed,
            &mut self.holes,
            &mut self.positions,
            &mut self.cleared,
        ]
    }
}

impl World {
    /// What is wrong.
    pub(crate) fn judge(mut self) -> (Report, Vec<String>) {
        let mut wrong = Vec::new();
        for (number, listener) in self.listeners.iter().enumerate() {
            let mut say = |text: String| {
                let (kind, channels) = (self.kind(), &listener.channels);
                wrong.push(format!("{kind}: listener {number} of {channels:?} {text}"));
            };
            self.judge_listener(listener, &mut say);
        }
        let mut report = self.report.clone();
        for listener in &self.listeners {
            for shown in &listener.shown {
                report.heard += usize::from(matches!(shown, Shown::Publication(..)));
                report.gaps += usize::from(matches!(shown, Shown::Gap(_)));
            }
        }
        // All go, and nothing of them stays.
        for number in 0..self.listeners.len() {
            self.cut(number);
        }
        let counts = self.streams.counts();
        if counts.listened != 0 {
            wrong.push(format!("nobody listens, and {counts:?}"));
        }
        for shard in &self.shards {
            if shard.hub.topics_len() != 0 {
                wrong.push("the hub remembers somebody".to_owned());
            }
        }
        (report, wrong)
    }

    fn kind(&self) -> &'static str {
        match (self.is_roomy, self.is_lossy) {
            (true, _) => "everything is kept",
            (_, true) => "the line loses",
            _ => "little is kept",
        }
    }

    fn judge_listener(&self, listener: &Listener, say: &mut impl FnMut(String)) {
        let concerns = |published: &Published| {
            let is_for = published.channels.is_empty()
                || published
                    .channels
                    .iter()
                    .any(|channel| listener.channels.contains(channel));
            is_for && !published.is_pusher_only && published.excluded != Some(listener.session)
        };
        // Where it stands: everything that concerns it up to here it has had, or was told of.
        let mut at: Option<u64> = None;
        // Where its connection began: what is passing and came before is not for it, and what a line loses is
        // kept nowhere.
        let mut here_since = 0;
        let missed = |from: u64, to: u64, here_since: u64, say: &mut dyn FnMut(String)| {
            if to <= from {
                return;
            }
            for (offset, published) in self.published.range(from + 1..to) {
                let may_pass = published.is_passing && (self.is_lossy || *offset <= here_since);
                if concerns(published) && !may_pass {
                    say(format!("never saw {offset} {published:?}, but {to}"));
                }
            }
        };
        let mut has_seen = false;
        for shown in &listener.shown {
            has_seen |= !matches!(shown, Shown::Connected(_));
            match shown {
                Shown::Connected(position) => {
                    here_since = number(*position);
                    // As long as it has seen nothing, it begins where the server says.
                    if !has_seen {
                        at = Some(number(*position));
                    }
                }
                Shown::Publication(id, channel, data) => {
                    let offset = number(*id);
                    let seen = at.unwrap_or(0);
                    let Some(published) = self.published.get(&offset) else {
                        say(format!("saw {offset}, which was never published"));
                        continue;
                    };
                    if id.epoch != self.epoch || *data != format!("payload {offset}") {
                        say(format!("saw {data:?} at {id}"));
                    }
                    let is_named = match published.channels.as_slice() {
                        [] => channel == "*",
                        names => {
                            names.iter().find(|name| listener.channels.contains(name))
                                == Some(&channel.as_str())
                        }
                    };
                    if !is_named {
                        say(format!("saw {offset} {published:?} as of {channel}"));
                    }
                    if !concerns(published) {
                        say(format!("saw {offset} {published:?}, which is not for it"));
                    }
                    if offset <= seen {
                        say(format!("saw {offset} when it stood at {seen}"));
                    }
                    missed(seen, offset, here_since, say);
                    at = Some(offset.max(seen));
                }
                Shown::Position(id) => {
                    let (seen, offset) = (at.unwrap_or(0), number(*id));
                    if offset < seen {
                        say(format!(
                            "was told that it stands at {offset}, and it stood at {seen}"
                        ));
                    }
                    missed(seen, offset + 1, here_since, say);
                    at = Some(offset.max(seen));
                }
                Shown::Gap(id) => {
                    let (seen, offset) = (at.unwrap_or(0), number(*id));
                    if offset < seen {
                        say(format!("was told of a gap to {offset}, and it stood at {seen}"));
                    }
                    if self.is_roomy {
                        say(format!(
                            "was told of a gap from {seen} to {offset}, and all is kept"
                        ));
                    }
                    at = Some(offset.max(seen));
                }
            }
        }
        let end = self.published.len() as u64;
        missed(at.unwrap_or(end), end + 1, here_since, say);
    }
}
