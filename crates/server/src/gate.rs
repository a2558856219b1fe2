//! The limits that connections of a node share: per address, per user, per key, and of the node.
//!
//! What an address may do is decided in [`fanfare_core::address`]; here are the lock and the settings.
//! Limits of one connection alone are in its session and its shard.
//!
//! # Invariants
//!
//! * A connection that is counted holds a [`Ticket`]; dropping the last clone gives its place back,
//!   whichever way it ends.
//! * Nothing is done under the lock but to look and count. At most [`EXPIRED_PER_STEP`] entries are looked
//!   at in one go.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fanfare_core::address::{Entered, Parties, Party, PartyRules, Seat};
use fanfare_core::app::AppId;
use fanfare_core::auth::{BadCredential, Credential};
use fanfare_core::disconnect::Refusal;
use fanfare_core::limits::Limits;
use fanfare_core::moment::Moment;
use fanfare_core::rate::{Bucket, Rate};
use fanfare_core::user::UserId;
use parking_lot::Mutex;

use crate::address::{NetworkRules, Source};

/// Parties told apart, at least, unless `limits.addresses_max` says otherwise.
const ADDRESSES_MIN: usize = 100_000;

/// Connections that come too fast and are told so, for each that may come. Telling them is cheap, and a
/// back end that forgot to keep its connections should hear what is wrong.
const REFUSALS_PER_CONNECT: u32 = 10;

/// Entries looked at in one go, whether they can go.
const EXPIRED_PER_STEP: usize = 1_000;

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) network: NetworkRules,
    /// Whether connections over TCP begin with a header of the PROXY protocol.
    pub(crate) proxy_protocol: bool,
    parties: Mutex<Parties>,
    connects: Mutex<Bucket>,
    publications: Mutex<Bucket>,
    connects_rate: Rate,
    publications_rate: Rate,
    count_loopback: bool,
    /// Where the server's own probe comes from.
    probe: Mutex<Option<SocketAddr>>,
}

/// An open connection, as it is counted among those of its address.
#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    _seated: Arc<Seated>,
}

#[derive(Debug)]
struct Seated {
    gate: Arc<Gate>,
    seat: Seat,
}

impl Drop for Seated {
    fn drop(&mut self) {
        self.gate.parties.lock().leave(&self.seat);
    }
}

/// What was found of a connection when it came; said when it has asked for something.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Admission {
    #[default]
    Welcome,
    /// Its address opens connections too fast; after this time one more will do.
    TooFast(Duration),
    /// Its address has too many.
    Full,
}

impl Admission {
    pub(crate) fn check(self) -> Result<(), Refusal> {
        match self {
            Self::Welcome => Ok(()),
            Self::TooFast(wait) => Err(Refusal::too_fast("connects_per_address", wait)),
            Self::Full => Err(Refusal::AddressFull),
        }
    }
}

/// A connection that is not worth an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Flood;

impl Gate {
    /// The limits of a node; `has_key`: without one nothing is published by a key.
    pub(crate) fn new(
        network: NetworkRules,
        proxy_protocol: bool,
        has_key: bool,
        connections_max: usize,
        limits: &Limits,
    ) -> Arc<Self> {
        let addresses_max = match limits.addresses_max {
            0 => connections_max.saturating_mul(2).max(ADDRESSES_MIN),
            limit => limit,
        };
        let parties = Parties::new(PartyRules {
            connections_max: limits.connections_per_address,
            connects: limits.connects_per_address,
            refusals: limits.connects_per_address.times(REFUSALS_PER_CONNECT),
            messages: limits.messages_per_user,
            failures: limits.auth_failures_per_address,
            failures_pause: limits.auth_failures_pause,
            parties_max: addresses_max,
        });
        Arc::new(Self {
            network,
            proxy_protocol,
            parties: Mutex::new(parties),
            connects: Mutex::default(),
            publications: Mutex::default(),
            connects_rate: limits.connects,
            publications_rate: if has_key {
                limits.publications_per_key
            } else {
                Rate::OFF
            },
            count_loopback: limits.count_loopback,
            probe: Mutex::new(None),
        })
    }

    /// Who has connected from this address.
    pub(crate) fn source(&self, address: SocketAddr) -> Source {
        if *self.probe.lock() == Some(address) {
            return Source::own(address);
        }
        Source::at(address, &self.network)
    }

    /// From here the server's own probe is about to connect.
    pub(crate) fn expect_probe(&self, address: Option<SocketAddr>) {
        *self.probe.lock() = address;
    }

    /// For how long no further connection may be accepted.
    pub(crate) fn accept_wait(&self, now: Moment) -> Duration {
        self.connects.lock().wait_for(self.connects_rate, 1, now)
    }

    /// A session was opened. Only these count: whoever is turned away, or only asks something, costs
    /// little, and could make all others wait.
    pub(crate) fn opened(&self, now: Moment) {
        self.connects.lock().charge(self.connects_rate, 1, now);
    }

    /// A new connection. Who has no address to be held to is welcome.
    pub(crate) fn enter(
        self: &Arc<Self>,
        source: &Source,
        now: Moment,
    ) -> Result<(Admission, Option<Ticket>), Flood> {
        let Some(ip) = source.counts(self.count_loopback) else {
            return Ok((Admission::Welcome, None));
        };
        let entered = self.parties.lock().enter(ip.into(), true, now);
        match entered {
            Entered::In(seat) => Ok((Admission::Welcome, Some(self.ticket(seat)))),
            Entered::Full => Ok((Admission::Full, None)),
            Entered::TooFast(wait) => Ok((Admission::TooFast(wait), None)),
            Entered::Flood => Err(Flood),
        }
    }

    /// A request that waits on a connection which stands for many: it counts among those that are open.
    pub(crate) fn wait(self: &Arc<Self>, source: &Source, now: Moment) -> Result<Option<Ticket>, Refusal> {
        let Some(ip) = source.counts(self.count_loopback) else {
            return Ok(None);
        };
        let entered = self.parties.lock().enter(ip.into(), false, now);
        match entered {
            Entered::In(seat) => Ok(Some(self.ticket(seat))),
            _ => Err(Refusal::AddressFull),
        }
    }

    fn ticket(self: &Arc<Self>, seat: Seat) -> Ticket {
        let gate = Arc::clone(self);
        Ticket {
            _seated: Arc::new(Seated { gate, seat }),
        }
    }

    /// Whether what this source shows is looked at. Before any signature is checked.
    pub(crate) fn may_show(
        &self,
        source: &Source,
        shown: &Credential<'_>,
        now: Moment,
    ) -> Result<(), Refusal> {
        let counted = source.counts(self.count_loopback);
        let Some(ip) = counted.filter(|_| *shown != Credential::None) else {
            return Ok(());
        };
        match self.parties.lock().barred(&ip.into(), now) {
            None => Ok(()),
            Some(wait) => Err(Refusal::too_fast("auth_failures_per_address", wait)),
        }
    }

    /// What this source has shown is not good.
    pub(crate) fn failed(&self, source: &Source, bad: BadCredential, now: Moment) {
        if !bad.is_guess() {
            return;
        }
        if let Some(ip) = source.counts(self.count_loopback) {
            self.parties.lock().fail(ip.into(), now);
        }
    }

    /// Whether what this source has signed is looked at.
    pub(crate) fn may_sign(&self, source: &Source, now: Moment) -> Result<(), Refusal> {
        self.may_show(source, &Credential::Token(""), now)
    }

    /// What this source has signed is not good.
    pub(crate) fn signed_badly(&self, source: &Source, now: Moment) {
        self.failed(source, BadCredential::Key, now);
    }

    /// Somebody says something: a user, over whatever connection, or an address.
    pub(crate) fn speak(
        &self,
        app: AppId,
        user: Option<&UserId>,
        source: &Source,
        count: usize,
        now: Moment,
    ) -> Result<(), Refusal> {
        let address = || source.counts(self.count_loopback).map(Party::from);
        let Some(party) = user.cloned().map(|user| Party::User(app, user)).or_else(address) else {
            return Ok(());
        };
        let spoken = self.parties.lock().speak(party, count as u64, now);
        spoken.map_err(|wait| Refusal::too_fast("messages_per_user", wait))
    }

    /// The back end publishes.
    pub(crate) fn publish(&self, count: usize, now: Moment) -> Result<(), Refusal> {
        let mut publications = self.publications.lock();
        let taken = publications.take(self.publications_rate, count as u64, now);
        taken.map_err(|wait| Refusal::too_fast("publications_per_key", wait))
    }

    /// Forgets who is idle. Says how often parties had to share one entry since the last time.
    pub(crate) fn expire(&self, now: Moment) -> u64 {
        let mut parties = self.parties.lock();
        parties.expire(EXPIRED_PER_STEP, now);
        parties.take_overflows()
    }

    /// How many are told apart now.
    pub(crate) fn parties(&self) -> usize {
        self.parties.lock().len()
    }
}
