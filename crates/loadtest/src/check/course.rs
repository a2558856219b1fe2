//! What all tasks of a check share, and what they measure on the way.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::checker::{Answer, Channel, History, Payload, Position};
use crate::outcome::Times;

/// How far a run is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    /// Listeners listen, behind the proxy if it does anything.
    Faulty,
    /// They have all reset their connections, and wait to come back.
    Away,
    /// Nothing is done to them any more, and they catch up.
    Calm,
    Over,
}

/// What was accepted on a channel.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Accepted {
    pub(super) count: u64,
    pub(super) last: Option<Position>,
}

pub(super) struct Course {
    /// Name, without anything that a URL would encode, and number in the history.
    pub(super) channels: Vec<(String, Channel)>,
    pub(super) accepted: Vec<watch::Sender<Accepted>>,
    pub(super) history: RefCell<History>,
    /// Where the server is now.
    pub(super) server: Cell<SocketAddr>,
    pub(super) proxy: SocketAddr,
    /// The proxy would do nothing, so nobody goes through it.
    pub(super) is_faultless: bool,
    /// Listeners end their connections by a reset.
    pub(super) resets: bool,
    pub(super) key: Option<String>,
    pub(super) rate: f64,
    pub(super) absence: Duration,
    /// Publications of its channel for which a listener stays away after a cut.
    pub(super) absence_publications: u64,
    /// After such an absence it must be told of a gap.
    pub(super) must_be_told: bool,
    pub(super) stage: watch::Sender<Stage>,
    /// The last place that each lineage knows.
    pub(super) cursors: RefCell<Vec<Position>>,
    /// Lineages that were connected since the beginning, or since all had to come back.
    pub(super) opened: RefCell<HashSet<usize>>,
    pub(super) publications: u64,
    pub(super) begun: Cell<u64>,
    /// When each publication was sent, by publisher and sequence.
    pub(super) sent: RefCell<Vec<Vec<Instant>>>,
    pub(super) figures: RefCell<Figures>,
}

impl Course {
    pub(super) fn name(&self, channel: usize) -> &str {
        &self.channels[channel].0
    }

    pub(super) fn opened(&self, number: usize) {
        self.opened.borrow_mut().insert(number);
    }

    /// The number of the next publication, while some are left.
    pub(super) fn next_publication(&self) -> Option<u64> {
        let turn = self.begun.get();
        (turn < self.publications).then(|| {
            self.begun.set(turn + 1);
            turn
        })
    }

    /// A publication is sent now. Those of one publisher come in their order.
    pub(super) fn sends(&self, payload: Payload) {
        let (mut sent, publisher) = (self.sent.borrow_mut(), payload.publisher as usize);
        if sent.len() <= publisher {
            sent.resize_with(publisher + 1, Vec::new);
        }
        sent[publisher].push(Instant::now());
    }

    fn since_sent(&self, payload: Payload) -> Option<u64> {
        let sent = self.sent.borrow();
        let at = sent
            .get(payload.publisher as usize)?
            .get(payload.sequence as usize)?;
        Some(at.elapsed().as_nanos() as u64)
    }

    /// Notes an answer, and what it says of the channel.
    pub(super) fn answered(&self, payload: Payload, channel: usize, answer: Answer) {
        self.history.borrow_mut().answered(payload, answer);
        let Answer::Accepted(position) = answer else {
            return;
        };
        if let Some(nanos) = self.since_sent(payload) {
            self.figures.borrow_mut().answers.record(nanos);
        }
        self.accepted[channel].send_modify(|accepted| {
            accepted.count += 1;
            // Answers of several publishers overtake each other.
            let is_newer = |last: Position| last.epoch != position.epoch || last.offset < position.offset;
            if accepted.last.is_none_or(is_newer) {
                accepted.last = Some(position);
            }
        });
    }

    /// A listener hears a publication.
    pub(super) fn delivered(&self, payload: Payload) {
        if let Some(nanos) = self.since_sent(payload) {
            self.figures.borrow_mut().delivery.record(nanos);
        }
    }
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Figures {
    /// From sending to hearing; what is heard late because it was missed is among it.
    pub delivery: Times,
    /// From sending to the answer.
    pub answers: Times,
    /// The same for somebody who does nothing else, while all have to come back.
    pub answers_meanwhile: Times,
    /// Each time that all had to come back: until the last was there and had what was accepted before.
    pub back: Vec<Duration>,
    /// Resident memory of the server before they left, in bytes.
    pub memory_before: Option<u64>,
    /// The most at any time, in bytes.
    pub memory_peak: Option<u64>,
}

impl Figures {
    pub(super) fn new() -> Self {
        Self {
            delivery: Times::new(),
            answers: Times::new(),
            answers_meanwhile: Times::new(),
            back: Vec::new(),
            memory_before: None,
            memory_peak: None,
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = [
            ("from sending to hearing", &self.delivery),
            ("from sending to the answer", &self.answers),
            (
                "the same to a bystander while all came back",
                &self.answers_meanwhile,
            ),
        ];
        for (name, times) in lines.iter().filter(|(_, times)| times.count() > 0) {
            let [half, most, max] = [times.at(0.5), times.at(0.99), times.max()].map(|at| at as f64 / 1e3);
            writeln!(f, "{name}: p50 {half:.1} ms, p99 {most:.1} ms, max {max:.1} ms")?;
        }
        if let Some(longest) = self.back.iter().max() {
            let times = self.back.len();
            writeln!(
                f,
                "all came back {times} times, within {:.1} s at most",
                longest.as_secs_f64()
            )?;
        }
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        if let Some(peak) = self.memory_peak {
            write!(f, "memory of the server: at most {:.1} MiB", mebibytes(peak))?;
            match self.memory_before {
                Some(before) => writeln!(f, ", {:.1} MiB before they left", mebibytes(before))?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}
