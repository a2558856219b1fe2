//! The publishers' side of a run: closed and open loops, answers, what is under way.

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::epoll;

use super::{Drive, Flight, PUBLISHER, Progress, nanos_of};
use crate::scenario::Until;
use crate::stamp::Stamp;
use crate::wire;

impl Drive<'_> {
    pub(super) fn publish_for(&mut self, seconds: f64, phase: &str, progress: Progress<'_>) -> Result<()> {
        let begun = self.nanos();
        let end = begun + nanos_of(seconds);
        for at in 0..self.publishers.len() {
            let group = &self.scenario.group[self.publishers[at].group];
            if group.rate > 0.0 && self.publishers[at].due < begun {
                // Spread evenly: one after the other, not all at once.
                let step = 1e9 / group.rate;
                self.publishers[at].due = begun + (step * self.publishers[at].index as f64) as u64;
            }
        }
        let mut shown = 0;
        loop {
            let now = self.nanos();
            if now >= end {
                return Ok(());
            }
            let mut wake = end.min(now + 100_000_000);
            for at in 0..self.publishers.len() {
                wake = wake.min(self.go_on(at, now)?);
            }
            wake = wake.min(self.churn(now)?).min(self.read_slowly(now));
            self.poll(Duration::from_nanos(wake.saturating_sub(self.nanos())))?;
            if now - shown > 100_000_000 {
                shown = now;
                progress(phase, (now - begun) * 1_000 / (end - begun).max(1));
            }
        }
    }

    /// Lets a publisher send its next one if it may; says when to look again.
    pub(super) fn go_on(&mut self, at: usize, now: u64) -> Result<u64> {
        let publisher = &mut self.publishers[at];
        let group = &self.scenario.group[publisher.group];
        if publisher.flight.is_some() {
            return Ok(u64::MAX);
        }
        let mut due = now;
        if group.rate > 0.0 {
            if publisher.due > now {
                return Ok(publisher.due);
            }
            due = publisher.due;
            publisher.due += (1e9 / group.rate * group.publishers as f64) as u64;
        }
        let turn = publisher.turn % publisher.channels.len();
        publisher.turn += 1;
        let (channel, count) = &mut publisher.channels[turn];
        let (channel, sequence) = (*channel, *count);
        *count += 1;
        let stamp = Stamp {
            publisher: u16::try_from(self.groups[publisher.group].first_publisher + publisher.index)?,
            sequence,
            nanos: due,
        };
        let body = stamp.message(group.payload);
        publisher.flight = Some(Flight {
            channel,
            sequence,
            due,
            answered: publisher.websocket,
            left: self.groups[publisher.group].live[channel],
            body,
        });
        if publisher.websocket {
            self.groups[publisher.group].published[channel] += 1;
            self.groups[publisher.group].measured_publications += u64::from(self.measuring);
        }
        self.send_flight(at)?;
        self.settle_flight(at);
        Ok(if self.publishers[at].flight.is_some() {
            u64::MAX
        } else {
            now
        })
    }

    pub(super) fn send_flight(&mut self, at: usize) -> Result<()> {
        let publisher = &mut self.publishers[at];
        let Some(flight) = &publisher.flight else {
            return Ok(());
        };
        let channel = self.scenario.group[publisher.group].channel(flight.channel);
        publisher.unsent = if publisher.websocket {
            wire::text(&flight.body)
        } else if self.scenario.group[publisher.group].publish_by_trigger {
            self.target.trigger_request(&channel, &flight.body)
        } else {
            self.target.publish_request(&channel, &flight.body)
        };
        self.write_publisher(at)
    }

    pub(super) fn write_publisher(&mut self, at: usize) -> Result<()> {
        let publisher = &mut self.publishers[at];
        while !publisher.unsent.is_empty() {
            match publisher.socket.write(&publisher.unsent) {
                Ok(count) => drop(publisher.unsent.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.watch_publisher(at, true)?;
                    return Ok(());
                }
                Err(error) => return Err(error).context("a publisher was cut off"),
            }
        }
        Ok(())
    }

    pub(super) fn watch_publisher(&self, at: usize, writable: bool) -> Result<()> {
        let mut flags = epoll::EventFlags::IN;
        if writable {
            flags |= epoll::EventFlags::OUT;
        }
        let data = epoll::EventData::new_u64(PUBLISHER | at as u64);
        Ok(epoll::modify(
            &self.epoll,
            &self.publishers[at].socket,
            data,
            flags,
        )?)
    }

    /// Ends a flight that has come to its end.
    pub(super) fn settle_flight(&mut self, at: usize) {
        let publisher = &mut self.publishers[at];
        let until = self.scenario.group[publisher.group].until;
        let done = |flight: &Flight| flight.answered && (until == Until::Answered || flight.left == 0);
        if publisher.flight.as_ref().is_some_and(done) {
            publisher.flight = None;
        }
    }

    pub(super) fn read_publisher(&mut self, at: usize) -> Result<()> {
        let publisher = &mut self.publishers[at];
        match publisher.socket.read(&mut self.scratch) {
            Ok(0) => bail!("the server closed a publisher's connection"),
            // What a publisher's own WebSocket hears is not looked at.
            Ok(_) if publisher.websocket => return Ok(()),
            Ok(count) => publisher.got.extend_from_slice(&self.scratch[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("a publisher was cut off"),
        }
        while let Some((status, len)) = wire::whole_answer(&self.publishers[at].got) {
            self.publishers[at].got.drain(..len);
            self.answered(at, status)?;
        }
        Ok(())
    }

    pub(super) fn answered(&mut self, at: usize, status: u16) -> Result<()> {
        let now = self.nanos();
        let publisher = &mut self.publishers[at];
        let group = &mut self.groups[publisher.group];
        let Some(flight) = &mut publisher.flight else {
            bail!("an answer to nothing");
        };
        match status {
            200..=204 => {
                flight.answered = true;
                group.published[flight.channel] += 1;
                if self.measuring && flight.due >= self.measured_from {
                    group.measured_publications += 1;
                    group.answer.record(now - flight.due);
                }
                self.settle_flight(at);
            }
            // Refused before it was ordered: the same one again.
            429 | 503 => {
                group.refused += 1;
                self.send_flight(at)?;
            }
            other => bail!("a publication was answered with {other}"),
        }
        Ok(())
    }
}
