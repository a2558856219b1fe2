//! The subscribers' side of a run: reading, finding stamps, entering them in the books.

use std::io::{ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::time::Duration;

use anyhow::Result;
use rustix::event::epoll;

use super::{
    Conduct, Drive, GroupState, NO_CODE, PUBLISHER, Publisher, SCRATCH_BYTES, SLOW_TICK, Subscriber, nanos_of,
};
use crate::stamp::Stamp;
use crate::target::{self, Transport};
use crate::wire::{self, Dechunker, Frame};

impl Drive<'_> {
    pub(super) fn poll(&mut self, timeout: Duration) -> Result<()> {
        let mut buffer = [MaybeUninit::<epoll::Event>::uninit(); 1_024];
        let timeout = rustix::time::Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let events = match epoll::wait(&self.epoll, &mut buffer, Some(&timeout)) {
            Ok((events, _)) => events,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for event in events {
            let (data, flags) = (event.data.u64(), event.flags);
            if data & PUBLISHER != 0 {
                let at = usize::try_from(data & !PUBLISHER)?;
                if flags.contains(epoll::EventFlags::OUT) {
                    self.watch_publisher(at, false)?;
                    self.write_publisher(at)?;
                }
                self.read_publisher(at)?;
            } else {
                self.read_subscriber(usize::try_from(data)?, SCRATCH_BYTES);
            }
        }
        Ok(())
    }

    pub(super) fn read_subscriber(&mut self, key: usize, most: usize) {
        let Some(subscriber) = self.subscribers.get_mut(key) else {
            return;
        };
        let mut scratch = std::mem::take(&mut self.scratch);
        match subscriber.socket.read(&mut scratch[..most]) {
            Ok(0) => self.gone(key),
            Ok(count) => self.take(key, &scratch[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.gone(key),
        }
        self.scratch = scratch;
    }

    /// Bytes have come for a subscriber.
    pub(super) fn take(&mut self, key: usize, bytes: &[u8]) {
        let subscriber = &mut self.subscribers[key];
        let mut joined = std::mem::take(&mut subscriber.partial);
        let mut input = bytes;
        let behind_head;
        if !subscriber.answered {
            joined.extend_from_slice(bytes);
            let Some(head) = wire::answer_head(&joined) else {
                subscriber.partial = joined;
                return;
            };
            if head.status != 101 && head.status != 200 {
                self.handshakes -= 1;
                *self.refused.entry(head.status).or_default() += 1;
                self.drop_subscriber(key);
                return;
            }
            behind_head = joined.split_off(head.len);
            joined.clear();
            input = &behind_head;
            self.subscribers[key].answered = true;
            match self.transport(key) {
                Transport::Pusher => self.subscribe(key, None),
                // It must be told its name before it can sign with it.
                Transport::PusherMember => {}
                Transport::WebSocket | Transport::EventStream => self.enter(key, head.chunked),
            }
        }
        if let Some(dechunker) = &mut self.subscribers[key].dechunker {
            dechunker.take(input, &mut joined);
            input = &[];
        }
        if joined.is_empty() {
            let used = self.parse(key, input);
            if let (Some(subscriber), Some(rest)) = (self.subscribers.get_mut(key), input.get(used..))
                && !rest.is_empty()
            {
                subscriber.partial = rest.to_vec();
            }
        } else {
            joined.extend_from_slice(input);
            let used = self.parse(key, &joined);
            joined.drain(..used);
            if let Some(subscriber) = self.subscribers.get_mut(key)
                && !joined.is_empty()
            {
                subscriber.partial = joined;
            }
        }
    }

    fn transport(&self, key: usize) -> Transport {
        self.scenario.group[self.subscribers[key].group].transport
    }

    /// Says what it wants to listen to, where the path does not: as a member, a user of its own, who is told the name
    /// of her socket.
    fn subscribe(&mut self, key: usize, member: Option<&str>) {
        let subscriber = &mut self.subscribers[key];
        let channel = self.scenario.group[subscriber.group].channel(subscriber.channel);
        let wish = match member {
            None => target::pusher_subscribe(&channel),
            Some(socket) => self.target.signatory.subscribe_as_member(socket, &channel, key),
        };
        // A few bytes on a fresh connection: there is room.
        let _ = subscriber.socket.write(&wire::text(wish.as_bytes()));
    }

    /// A subscriber's handshake is answered well, and it listens.
    pub(super) fn enter(&mut self, key: usize, chunked: bool) {
        self.handshakes -= 1;
        let subscriber = &mut self.subscribers[key];
        subscriber.open = true;
        subscriber.dechunker = chunked.then(Dechunker::default);
        let group = &mut self.groups[subscriber.group];
        match subscriber.conduct {
            Conduct::Good => group.live[subscriber.channel] += 1,
            // They do not look at their sockets any more.
            Conduct::Stalled | Conduct::Slow => {
                let _ = epoll::delete(&self.epoll, &subscriber.socket);
            }
            Conduct::Churner => {}
        }
    }

    /// Takes whole frames or lines; says how many bytes that was.
    pub(super) fn parse(&mut self, key: usize, input: &[u8]) -> usize {
        let now = self.nanos();
        let subscriber = &mut self.subscribers[key];
        let transport = self.scenario.group[subscriber.group].transport;
        let (websocket, is_member) = (
            transport != Transport::EventStream,
            transport == Transport::PusherMember,
        );
        let mut hearing = Hearing {
            groups: &mut self.groups,
            publishers: &mut self.publishers,
            received: &mut self.received,
            measured_from: if self.measuring {
                self.measured_from
            } else {
                u64::MAX
            },
            now,
        };
        let mut settled = Vec::new();
        let mut enters = false;
        let mut socket = None;
        let used = if websocket {
            let mut at = 0;
            while let Some((frame, len)) = wire::frame(input.get(at..).unwrap_or_default()) {
                at += len;
                match frame {
                    // Only of the Pusher protocol: the others listen from their answer on.
                    Frame::Data(message) if !subscriber.open && !enters => {
                        enters = memchr::memmem::find(message, b"subscription_succeeded").is_some();
                        if is_member && socket.is_none() {
                            socket = target::socket_id(message);
                        }
                    }
                    Frame::Data(message) => settled.extend(hearing.hear(subscriber, message)),
                    Frame::Ping(payload) => drop(subscriber.socket.write(&wire::pong(payload))),
                    Frame::Close(code) => subscriber.close_code = Some(code),
                    Frame::Pong(_) | Frame::Other => {}
                }
            }
            at
        } else {
            wire::lines(input, |line| {
                if line.starts_with(b"data:") {
                    settled.extend(hearing.hear(subscriber, line));
                }
            })
        };
        if enters {
            self.enter(key, false);
        }
        if let Some(socket) = socket {
            self.subscribe(key, Some(&socket));
        }
        for at in settled {
            self.settle_flight(at);
        }
        used
    }

    /// The server has ended a subscriber's connection.
    pub(super) fn gone(&mut self, key: usize) {
        let subscriber = &self.subscribers[key];
        if !subscriber.open {
            self.handshakes -= 1;
            *self.refused.entry(NO_CODE).or_default() += 1;
            return self.drop_subscriber(key);
        }
        let code = subscriber.close_code.unwrap_or(NO_CODE);
        let counted: u64 = subscriber.tally.received;
        // Sent away right behind the handshake: that is a refusal, told in the way of WebSockets.
        if self.publishers.is_empty() && counted == 0 && subscriber.conduct == Conduct::Good {
            *self.refused.entry(code).or_default() += 1;
            self.groups[subscriber.group].live[subscriber.channel] -= 1;
            return self.drop_subscriber(key);
        }
        self.end(key, code);
    }

    /// Enters a subscriber's end in the books.
    pub(super) fn end(&mut self, key: usize, code: u16) {
        let subscriber = &self.subscribers[key];
        let (group, channel) = (subscriber.group, subscriber.channel);
        let state = &mut self.groups[group];
        *state.ends.entry((subscriber.conduct as u8, code)).or_default() += 1;
        let mut settled = Vec::new();
        if subscriber.conduct == Conduct::Good {
            state.live[channel] -= 1;
            for (at, publisher) in self.publishers.iter_mut().enumerate() {
                let Some(flight) = &mut publisher.flight else {
                    continue;
                };
                let awaited = publisher.group == group
                    && flight.channel == channel
                    && subscriber.tally.awaits(publisher.index, flight.sequence);
                if awaited {
                    flight.left = flight.left.saturating_sub(1);
                    settled.push(at);
                }
            }
        }
        for at in settled {
            self.settle_flight(at);
        }
        self.drop_subscriber(key);
    }

    pub(super) fn drop_subscriber(&mut self, key: usize) {
        let subscriber = self.subscribers.remove(key);
        let state = &mut self.groups[subscriber.group];
        match subscriber.conduct {
            Conduct::Good if subscriber.open => state.finished.push((subscriber.channel, subscriber.tally)),
            Conduct::Churner => {
                state.churned += 1;
                state.churn_faults += subscriber.tally.gaps + subscriber.tally.doubles;
                state.churners.retain(|other| *other != key);
            }
            _ => {}
        }
    }

    pub(super) fn churn(&mut self, now: u64) -> Result<u64> {
        let mut wake = u64::MAX;
        for index in 0..self.groups.len() {
            let group = &self.scenario.group[index];
            if group.churners == 0 {
                continue;
            }
            let step = nanos_of(1.0 / group.churn_per_second);
            if self.groups[index].churn_due == 0 {
                self.groups[index].churn_due = now + step;
            }
            while self.groups[index].churn_due <= now {
                self.groups[index].churn_due += step;
                let oldest = self.groups[index].churners.front().copied();
                // One whose handshake is not answered yet stays; its turn comes.
                if let Some(key) = oldest
                    && self.subscribers[key].open
                {
                    self.drop_subscriber(key);
                    self.open(index, 0, Conduct::Churner, true)?;
                }
            }
            wake = wake.min(self.groups[index].churn_due);
        }
        Ok(wake)
    }

    pub(super) fn read_slowly(&mut self, now: u64) -> u64 {
        if self.scenario.group.iter().all(|group| group.slow == 0) {
            return u64::MAX;
        }
        if now >= self.slow_due {
            self.slow_due = now + nanos_of(SLOW_TICK.as_secs_f64());
            let slow: Vec<(usize, usize)> = self
                .subscribers
                .iter()
                .filter(|(_, subscriber)| subscriber.conduct == Conduct::Slow)
                .map(|(key, subscriber)| {
                    (
                        key,
                        self.scenario.group[subscriber.group].slow_bytes_per_second / 4,
                    )
                })
                .collect();
            for (key, most) in slow {
                self.read_subscriber(key, most.clamp(1, SCRATCH_BYTES));
            }
        }
        self.slow_due
    }
}

/// What hearing a message changes, apart from the subscriber itself.
struct Hearing<'a> {
    groups: &'a mut [GroupState],
    publishers: &'a mut [Publisher],
    received: &'a mut u64,
    measured_from: u64,
    now: u64,
}

impl Hearing<'_> {
    /// Enters a message; names the publisher whose publication everybody has now heard.
    pub(super) fn hear(&mut self, subscriber: &mut Subscriber, message: &[u8]) -> Option<usize> {
        let stamp = Stamp::find(message)?;
        let group = &mut self.groups[subscriber.group];
        let at = usize::from(stamp.publisher);
        let first = subscriber
            .tally
            .enter(at.wrapping_sub(group.first_publisher), &stamp);
        if subscriber.conduct != Conduct::Good {
            return None;
        }
        *self.received += 1;
        if stamp.nanos >= self.measured_from {
            group.measured_deliveries += 1;
            group.delivery.record(self.now.saturating_sub(stamp.nanos));
        }
        let flight = self.publishers.get_mut(at)?.flight.as_mut()?;
        if first && flight.sequence == stamp.sequence && flight.channel == subscriber.channel {
            flight.left = flight.left.saturating_sub(1);
            return (flight.left == 0).then_some(at);
        }
        None
    }
}
