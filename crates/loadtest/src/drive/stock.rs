//! The end of a run: waiting for what is on its way, and taking stock.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Conduct, Drive, GroupState, Progress};
use crate::outcome::GroupOutcome;
use crate::scenario::Group;
use crate::tally::Tally;

impl Drive<'_> {
    /// Waits for answers and deliveries that are still on their way.
    pub(super) fn settle(&mut self, progress: Progress<'_>) -> Result<()> {
        progress("settling", 0);
        let patience = Duration::from_secs_f64(self.scenario.patience_seconds);
        let mut last = (self.received, Instant::now());
        loop {
            let flying = self
                .publishers
                .iter()
                .any(|publisher| publisher.flight.as_ref().is_some_and(|flight| !flight.answered));
            let expected: u64 = self
                .groups
                .iter()
                .map(|group| {
                    group
                        .live
                        .iter()
                        .zip(&group.published)
                        .map(|(live, count)| live * count)
                        .sum::<u64>()
                })
                .sum();
            let heard: u64 = self
                .subscribers
                .iter()
                .filter(|(_, subscriber)| subscriber.conduct == Conduct::Good)
                .map(|(_, subscriber)| subscriber.tally.received)
                .sum();
            if !flying && heard >= expected {
                return Ok(());
            }
            if self.received != last.0 {
                last = (self.received, Instant::now());
            }
            if last.1.elapsed() > patience {
                return Ok(());
            }
            let now = self.nanos();
            self.read_slowly(now);
            self.poll(Duration::from_millis(20))?;
        }
    }

    /// Those that never read do so now, to see whether the server has sent them away.
    pub(super) fn hear_the_stalled(&mut self) {
        let keys: Vec<usize> = self
            .subscribers
            .iter()
            .filter(|(_, subscriber)| matches!(subscriber.conduct, Conduct::Stalled | Conduct::Slow))
            .map(|(key, _)| key)
            .collect();
        for key in keys {
            // A connection that the server keeps open says "would block" in the end.
            while let Some(subscriber) = self.subscribers.get_mut(key) {
                match subscriber.socket.read(&mut self.scratch) {
                    Ok(0) => self.gone(key),
                    Ok(count) => {
                        let bytes = self.scratch[..count].to_vec();
                        self.take(key, &bytes);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => self.end(key, 0),
                    Err(_) => self.gone(key),
                }
            }
        }
    }

    pub(super) fn take_stock(mut self) -> Vec<GroupOutcome> {
        let keys: Vec<usize> = self.subscribers.iter().map(|(key, _)| key).collect();
        let mut there: Vec<Vec<(usize, Tally)>> = self.groups.iter().map(|_| Vec::new()).collect();
        for key in keys {
            let subscriber = self.subscribers.remove(key);
            match subscriber.conduct {
                Conduct::Good => there[subscriber.group].push((subscriber.channel, subscriber.tally)),
                Conduct::Churner => {
                    let state = &mut self.groups[subscriber.group];
                    state.churned += 1;
                    state.churn_faults += subscriber.tally.gaps + subscriber.tally.doubles;
                }
                Conduct::Stalled | Conduct::Slow => {}
            }
        }
        let groups = self.groups.into_iter().zip(&self.scenario.group).zip(there);
        groups
            .map(|((state, group), there)| take_stock_of(state, group, &there))
            .collect()
    }
}

fn take_stock_of(state: GroupState, group: &Group, there: &[(usize, Tally)]) -> GroupOutcome {
    let ends = |conduct: Conduct| -> BTreeMap<u16, u64> {
        let ends = state.ends.iter().filter(|((who, _), _)| *who == conduct as u8);
        ends.map(|((_, code), count)| (*code, *count)).collect()
    };
    let mut orders = vec![None; group.channels];
    let mut outcome = GroupOutcome {
        name: group.name.clone(),
        subscribers: (there.len() + state.finished.len()) as u64,
        publications: state.published.iter().sum(),
        refused: state.refused,
        deliveries: 0,
        missing: 0,
        gaps: 0,
        doubles: 0,
        one_order: true,
        closed: ends(Conduct::Good),
        stalled: ends(Conduct::Stalled),
        slow: ends(Conduct::Slow),
        churned: state.churned,
        churn_faults: state.churn_faults,
        delivery: state.delivery,
        answer: state.answer,
    };
    for (channel, tally) in there {
        let expected = state.published[*channel];
        outcome.missing += expected.saturating_sub(tally.received);
        if tally.received == expected && tally.gaps + tally.doubles == 0 {
            outcome.one_order &= *orders[*channel].get_or_insert(tally.order()) == tally.order();
        }
    }
    for (_, tally) in there.iter().chain(&state.finished) {
        outcome.deliveries += tally.received;
        outcome.gaps += tally.gaps;
        outcome.doubles += tally.doubles;
    }
    outcome
}
