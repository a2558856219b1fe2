//! Every figure that an operator can read: names, meanings, and how they are counted.
//!
//! Hot counters are plain cells, one set per shard, written by that shard alone and summed when
//! somebody asks, so that counting costs an uncontended increment. Labels come from closed sets;
//! never a channel, user or address. The text format is that of Prometheus.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fanfare_core::disconnect::{Disconnect, Refusal};
use fanfare_core::session::Session;
use fanfare_core::wire::websocket::deflate;
use parking_lot::Mutex;
use rustls::ProtocolVersion;

use crate::engine::JournalCounts;
use crate::node::Node;

/// A number that only rises.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Reads it.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters by a label of a closed set. Written rarely: once per refusal or close.
#[derive(Debug, Default)]
pub struct Labelled(Mutex<Vec<(&'static str, u64)>>);

impl Labelled {
    /// All that were counted.
    pub(crate) fn counts(&self) -> Vec<(&'static str, u64)> {
        self.0.lock().clone()
    }

    pub(crate) fn add(&self, label: &'static str) {
        self.add_many(label, 1);
    }

    pub(crate) fn add_many(&self, label: &'static str, more: u64) {
        let mut counts = self.0.lock();
        match counts.iter_mut().find(|(known, _)| *known == label) {
            Some((_, count)) => *count += more,
            None => counts.push((label, more)),
        }
    }
}

/// The labels of sessions, by transport and door.
const TRANSPORTS: [&str; 4] = ["websocket", "event_stream", "long_poll", "pusher"];

/// The place of a session's transport among [`TRANSPORTS`].
fn transport(session: &Session) -> usize {
    match session {
        Session::PlainWebSocket(_) => 0,
        Session::EventStream(_) => 1,
        Session::LongPoll(_) => 2,
        Session::Pusher(_) => 3,
    }
}

/// What a node counts.
#[derive(Debug)]
pub struct Metrics {
    /// Accepted publications.
    pub published: Counter,
    /// Publications that were not published because their version came too late.
    pub stale: Counter,
    /// Publications that were repeats under the same key.
    pub repeated: Counter,
    refusals: Labelled,
    disconnects: Labelled,
    /// What a limit has held back, by its name.
    limited: Labelled,
    /// Subscriptions to cache channels of which nothing was cached.
    pub(crate) cache_misses: Counter,
    /// TLS, of all shards: counted once per handshake.
    pub(crate) tls: Arc<TlsMetrics>,
    /// Fetches of `tokens.jwks_url`, by outcome.
    jwks_fetches: Labelled,
    /// One set per shard.
    pub shards: Vec<ShardMetrics>,
    start: Instant,
}

/// What a shard counts.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ShardMetrics {
    /// Connections accepted.
    pub accepted: Counter,
    /// Waiting publications that went for a newer one of the same key.
    pub conflated: Counter,
    /// Waiting publications that went because they were the oldest of a slow consumer.
    pub dropped: Counter,
    /// Kept publications given to sessions that came back.
    pub replayed: Counter,
    /// Gaps told to sessions that came back.
    pub gaps: Counter,
    /// Holes in what arrived at the shard, filled from a stream or told.
    pub repairs: Counter,
    /// Publications handed to a session's outbox.
    pub deliveries: Counter,
    /// Bytes written to sockets of sessions.
    pub bytes_out: Counter,
    /// Bytes read from sockets of sessions.
    pub bytes_in: Counter,
    sessions_opened: [Counter; TRANSPORTS.len()],
    sessions_closed: [Counter; TRANSPORTS.len()],
    turns: Counter,
    turn_nanos: Counter,
    turn_nanos_max: AtomicU64,
    disconnects: Labelled,
    deflate: DeflateMetrics,
    /// Ticks of the shard's own clock: stands still when the shard does.
    beats: AtomicU64,
}

/// Compression on a shard; [`deflate::DeflateCounts`] says what each is.
#[derive(Debug, Default)]
struct DeflateMetrics {
    deflated: Counter,
    deflated_from: Counter,
    deflated_to: Counter,
    inflated: Counter,
    inflated_from: Counter,
    inflated_to: Counter,
    refused_data: Counter,
    refused_size: Counter,
    refused_ratio: Counter,
}

/// What is counted of TLS.
#[derive(Debug, Default)]
pub(crate) struct TlsMetrics {
    done_1_2: Counter,
    done_1_3: Counter,
    closed: Counter,
    failed: Labelled,
    /// Handshakes that waited for a later turn: see `HANDSHAKES_PER_TURN`.
    pub(crate) put_off: Counter,
}

impl TlsMetrics {
    pub(crate) fn done(&self, version: Option<ProtocolVersion>) {
        match version {
            Some(ProtocolVersion::TLSv1_2) => self.done_1_2.add(1),
            _ => self.done_1_3.add(1),
        }
    }

    pub(crate) fn closed(&self) {
        self.closed.add(1);
    }

    pub(crate) fn failed(&self, cause: &'static str) {
        self.failed.add(cause);
    }

    fn render(&self, out: &mut Exposition) {
        let (done_1_2, done_1_3) = (self.done_1_2.get(), self.done_1_3.get());
        out.one(
            "fanfare_tls_connections",
            "gauge",
            "Open connections with TLS whose handshake is done.",
            (done_1_2 + done_1_3).saturating_sub(self.closed.get()),
        );
        let name = "fanfare_tls_handshakes_total";
        out.head(name, "counter", "TLS handshakes done, by version.");
        out.line(name, "version", "1.2", done_1_2);
        out.line(name, "version", "1.3", done_1_3);
        let name = "fanfare_tls_handshakes_failed_total";
        out.head(name, "counter", "TLS handshakes that failed, by cause.");
        for (label, count) in self.failed.0.lock().iter() {
            out.line(name, "cause", label, *count);
        }
        out.one(
            "fanfare_tls_handshakes_put_off_total",
            "counter",
            "TLS handshakes that waited for a later turn of their shard.",
            self.put_off.get(),
        );
    }
}

impl ShardMetrics {
    pub(crate) fn opened(&self, session: &Session) {
        self.sessions_opened[transport(session)].add(1);
    }

    pub(crate) fn closed(&self, session: &Session, why: &Disconnect) {
        self.sessions_closed[transport(session)].add(1);
        self.disconnects.add(why.label());
    }

    pub(crate) fn turn(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.turns.add(1);
        self.turn_nanos.0.fetch_add(nanos, Ordering::Relaxed);
        self.turn_nanos_max.fetch_max(nanos, Ordering::Relaxed);
        self.count_deflate();
    }

    /// Fetches what the calling thread, which is this shard's, has compressed and inflated.
    fn count_deflate(&self) {
        let counts = deflate::take_counts();
        if counts == deflate::DeflateCounts::default() {
            return;
        }
        let own = &self.deflate;
        own.deflated.add(counts.deflated);
        own.deflated_from.add(counts.deflated_from_bytes);
        own.deflated_to.add(counts.deflated_to_bytes);
        own.inflated.add(counts.inflated);
        own.inflated_from.add(counts.inflated_from_bytes);
        own.inflated_to.add(counts.inflated_to_bytes);
        own.refused_data.add(counts.refused_data);
        own.refused_size.add(counts.refused_size);
        own.refused_ratio.add(counts.refused_ratio);
    }

    pub(crate) fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// A number that rises as long as the shard runs.
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }
}

impl Metrics {
    /// Zeroes for this many shards.
    pub fn new(shards: usize) -> Self {
        Self {
            published: Counter::default(),
            stale: Counter::default(),
            repeated: Counter::default(),
            refusals: Labelled::default(),
            disconnects: Labelled::default(),
            limited: Labelled::default(),
            cache_misses: Counter::default(),
            tls: Arc::default(),
            jwks_fetches: Labelled::default(),
            shards: (0..shards).map(|_| ShardMetrics::default()).collect(),
            start: Instant::now(),
        }
    }

    pub(crate) fn refused(&self, refusal: &Refusal) {
        self.refusals.add(refusal.word());
        match refusal {
            Refusal::TooFast { limit, .. } => self.limited(limit),
            Refusal::AddressFull => self.limited("connections_per_address"),
            Refusal::NotLetIn => self.limited("network"),
            _ => {}
        }
    }

    /// A limit of this name has held something back.
    pub(crate) fn limited(&self, limit: &'static str) {
        self.limited.add(limit);
    }

    /// The same, so many times.
    pub(crate) fn limited_often(&self, limit: &'static str, count: u64) {
        self.limited.add_many(limit, count);
    }

    /// A subscription over the Pusher door was refused.
    pub(crate) fn denied(&self) {
        self.refusals.add("subscription");
    }

    pub(crate) fn jwks_fetched(&self, well: bool) {
        self.jwks_fetches.add(if well { "ok" } else { "failed" });
    }

    fn sum(&self, read: impl Fn(&ShardMetrics) -> u64) -> u64 {
        self.shards.iter().map(read).sum()
    }

    /// All figures in the text format.
    pub fn render(&self, node: &Node) -> String {
        let mut out = Exposition(String::with_capacity(8 << 10));
        let counts = node.engine.counts();
        let opened = |at: usize| self.sum(|shard| shard.sessions_opened[at].get());
        let closed = |at: usize| self.sum(|shard| shard.sessions_closed[at].get());
        out.head("fanfare_sessions", "gauge", "Open sessions by transport.");
        for (at, name) in TRANSPORTS.into_iter().enumerate() {
            let open = opened(at).saturating_sub(closed(at));
            out.line("fanfare_sessions", "transport", name, open);
        }
        out.head(
            "fanfare_sessions_opened_total",
            "counter",
            "Sessions opened by transport.",
        );
        for (at, name) in TRANSPORTS.into_iter().enumerate() {
            out.line("fanfare_sessions_opened_total", "transport", name, opened(at));
        }
        let (mut owed, mut remembered) = (0, 0);
        for world in node.apps.worlds() {
            owed += world.owed.lock().len();
            remembered += world.returning.lock().len();
        }
        out.one(
            "fanfare_members_untold",
            "gauge",
            "Members of presence channels of whose coming or going the others could not be told yet.",
            owed as u64,
        );
        out.one(
            "fanfare_replay_sessions",
            "gauge",
            "Sessions of the Pusher door that are remembered to be gone on for, open ones included.",
            remembered as u64,
        );
        out.one(
            "fanfare_cache_misses_total",
            "counter",
            "Subscriptions of the Pusher door to cache channels of which nothing was cached.",
            self.cache_misses.get(),
        );
        out.head(
            "fanfare_disconnects_total",
            "counter",
            "Sessions ended, by reason.",
        );
        let mut reasons: Vec<(&'static str, u64)> = self.disconnects.0.lock().clone();
        for shard in &self.shards {
            for (label, count) in shard.disconnects.0.lock().iter() {
                match reasons.iter_mut().find(|(known, _)| known == label) {
                    Some((_, sum)) => *sum += count,
                    None => reasons.push((label, *count)),
                }
            }
        }
        reasons
            .iter()
            .for_each(|(label, count)| out.line("fanfare_disconnects_total", "reason", label, *count));
        out.head(
            "fanfare_refusals_total",
            "counter",
            "Requests and publications refused, by error word.",
        );
        for (label, count) in self.refusals.0.lock().iter() {
            out.line("fanfare_refusals_total", "error", label, *count);
        }
        let name = "fanfare_limited_total";
        let help = "What was refused, dropped or put off because of a limit, by its setting.";
        out.head(name, "counter", help);
        for (label, count) in self.limited.0.lock().iter() {
            out.line(name, "limit", label, *count);
        }
        out.one(
            "fanfare_addresses",
            "gauge",
            "Addresses and users that are told apart for the limits.",
            node.gate.parties() as u64,
        );
        out.head(
            "fanfare_jwks_fetches_total",
            "counter",
            "Fetches of the keys at tokens.jwks_url, by outcome.",
        );
        for (label, count) in self.jwks_fetches.0.lock().iter() {
            out.line("fanfare_jwks_fetches_total", "outcome", label, *count);
        }
        out.one(
            "fanfare_connections_accepted_total",
            "counter",
            "Connections accepted.",
            self.sum(|s| s.accepted.get()),
        );
        out.one(
            "fanfare_connections",
            "gauge",
            "Open connections in the shards' tables and the HTTP server.",
            node.connections() as u64,
        );
        out.one(
            "fanfare_connections_max",
            "gauge",
            "Limit of open connections.",
            node.connections_max as u64,
        );
        out.one(
            "fanfare_channels",
            "gauge",
            "Channels with listeners.",
            counts.listened as u64,
        );
        for (name, kind, help, value) in [
            (
                "fanfare_channels_remembered",
                "gauge",
                "Channels that something is remembered of.",
                counts.channels,
            ),
            (
                "fanfare_history_publications",
                "gauge",
                "Kept publications, counted once per channel.",
                counts.history_entries,
            ),
            (
                "fanfare_history_bytes",
                "gauge",
                "Bytes of kept publications.",
                counts.history_bytes,
            ),
            (
                "fanfare_history_bytes_max",
                "gauge",
                "Limit of the bytes of kept publications.",
                node.config.history.bytes_max,
            ),
            (
                "fanfare_history_evicted_total",
                "counter",
                "Kept publications that went because of that limit.",
                counts.evicted,
            ),
            (
                "fanfare_versions",
                "gauge",
                "Keys of publications whose newest version is remembered.",
                counts.versions,
            ),
            (
                "fanfare_history_unkept_total",
                "counter",
                "Publications not kept because limits.channels_max was reached.",
                counts.unkept,
            ),
        ] {
            out.one(name, kind, help, value as u64);
        }
        if let Some(counts) = node.engine.journal_counts() {
            render_journal(&mut out, &counts);
        }
        out.one(
            "fanfare_replayed_total",
            "counter",
            "Kept publications given to sessions that came back.",
            self.sum(|s| s.replayed.get()),
        );
        out.one(
            "fanfare_gaps_total",
            "counter",
            "Gaps told to sessions that came back.",
            self.sum(|s| s.gaps.get()),
        );
        out.one(
            "fanfare_conflated_total",
            "counter",
            "Publications waiting for a slow consumer that went for a newer one of the same key.",
            self.sum(|s| s.conflated.get()),
        );
        out.one(
            "fanfare_dropped_total",
            "counter",
            "Publications waiting for a slow consumer that went because they were the oldest.",
            self.sum(|s| s.dropped.get()),
        );
        out.one(
            "fanfare_repairs_total",
            "counter",
            "Holes in what arrived at a shard, filled from a stream or told.",
            self.sum(|s| s.repairs.get()),
        );
        out.one(
            "fanfare_users",
            "gauge",
            "Users who are online.",
            node.apps.default.people.lock().len() as u64,
        );
        out.one(
            "fanfare_publications_total",
            "counter",
            "Publications accepted.",
            self.published.get(),
        );
        out.one(
            "fanfare_publications_stale_total",
            "counter",
            "Publications dropped because their version came too late.",
            self.stale.get(),
        );
        out.one(
            "fanfare_publications_repeated_total",
            "counter",
            "Publications that were published before under the same Idempotency-Key.",
            self.repeated.get(),
        );
        out.one(
            "fanfare_deliveries_total",
            "counter",
            "Publications handed to a session.",
            self.sum(|s| s.deliveries.get()),
        );
        out.one(
            "fanfare_bytes_sent_total",
            "counter",
            "Bytes written to sessions on the fast lane.",
            self.sum(|s| s.bytes_out.get()),
        );
        out.one(
            "fanfare_bytes_received_total",
            "counter",
            "Bytes read from sessions.",
            self.sum(|s| s.bytes_in.get()),
        );
        self.render_deflate(&mut out);
        self.tls.render(&mut out);
        node.hooks.render(&mut out, node);
        node.webhooks.render(&mut out);
        out.head(
            "fanfare_mailbox_publications",
            "gauge",
            "Publications waiting for a shard.",
        );
        for (shard, mailbox) in node.mailboxes.iter().enumerate() {
            out.line(
                "fanfare_mailbox_publications",
                "shard",
                &shard.to_string(),
                mailbox.len() as u64,
            );
        }
        out.head(
            "fanfare_mailbox_refused_total",
            "counter",
            "Publications refused because a shard's mailbox was full.",
        );
        for (shard, mailbox) in node.mailboxes.iter().enumerate() {
            out.line(
                "fanfare_mailbox_refused_total",
                "shard",
                &shard.to_string(),
                mailbox.refused() as u64,
            );
        }
        out.one(
            "fanfare_turns_total",
            "counter",
            "Turns of all shards.",
            self.sum(|s| s.turns.get()),
        );
        out.seconds(
            "fanfare_turn_seconds_total",
            "counter",
            "Time spent in turns.",
            self.sum(|s| s.turn_nanos.get()),
        );
        let slowest = self
            .shards
            .iter()
            .map(|s| s.turn_nanos_max.swap(0, Ordering::Relaxed))
            .max()
            .unwrap_or(0);
        out.seconds(
            "fanfare_turn_seconds_max",
            "gauge",
            "Longest turn since this was last read.",
            slowest,
        );
        out.head(
            "fanfare_log_lines_suppressed_total",
            "counter",
            "Log lines of frequent kinds that were only counted.",
        );
        out.line(
            "fanfare_log_lines_suppressed_total",
            "kind",
            "session",
            node.log.suppressed(),
        );
        out.one(
            "fanfare_uptime_seconds",
            "gauge",
            "Seconds since the start.",
            self.start.elapsed().as_secs(),
        );
        out.0
    }
}

impl Metrics {
    fn render_deflate(&self, out: &mut Exposition) {
        let sum = |read: fn(&DeflateMetrics) -> &Counter| self.sum(|shard| read(&shard.deflate).get());
        out.one(
            "fanfare_deflate_frames_total",
            "counter",
            "Frames compressed, each once for all who hear it.",
            sum(|d| &d.deflated),
        );
        out.one(
            "fanfare_deflate_input_bytes_total",
            "counter",
            "Bytes of those frames before compression.",
            sum(|d| &d.deflated_from),
        );
        out.one(
            "fanfare_deflate_output_bytes_total",
            "counter",
            "Bytes of those frames after compression.",
            sum(|d| &d.deflated_to),
        );
        out.one(
            "fanfare_inflate_messages_total",
            "counter",
            "Compressed messages received.",
            sum(|d| &d.inflated),
        );
        out.one(
            "fanfare_inflate_input_bytes_total",
            "counter",
            "Bytes of those messages as they arrived.",
            sum(|d| &d.inflated_from),
        );
        out.one(
            "fanfare_inflate_output_bytes_total",
            "counter",
            "Bytes of those messages.",
            sum(|d| &d.inflated_to),
        );
        let name = "fanfare_inflate_refused_total";
        out.head(name, "counter", "Compressed messages refused, by reason.");
        out.line(name, "reason", "data", sum(|d| &d.refused_data));
        out.line(name, "reason", "size", sum(|d| &d.refused_size));
        out.line(name, "reason", "ratio", sum(|d| &d.refused_ratio));
    }
}

fn render_journal(out: &mut Exposition, counts: &JournalCounts) {
    for (name, kind, help, value) in [
        (
            "fanfare_disk_bytes",
            "gauge",
            "Bytes of the history on disk.",
            counts.bytes,
        ),
        (
            "fanfare_disk_bytes_max",
            "gauge",
            "Limit of the bytes of the history on disk.",
            counts.bytes_max,
        ),
        (
            "fanfare_disk_records",
            "gauge",
            "Records of the history on disk.",
            counts.records,
        ),
        (
            "fanfare_disk_writes_total",
            "counter",
            "Writes to disk; a batch is one.",
            counts.writes,
        ),
        (
            "fanfare_disk_writes_failed_total",
            "counter",
            "Writes to disk that failed: what was published was refused.",
            counts.writes_failed,
        ),
        (
            "fanfare_disk_syncs_total",
            "counter",
            "Times at which the disk was asked to make last what was written.",
            counts.syncs,
        ),
        (
            "fanfare_disk_syncs_failed_total",
            "counter",
            "Of these, the ones that failed.",
            counts.syncs_failed,
        ),
        (
            "fanfare_disk_unreadable_total",
            "counter",
            "Damaged places met in the files of the history.",
            counts.unreadable,
        ),
    ] {
        out.one(name, kind, help, value);
    }
    out.seconds(
        "fanfare_disk_sync_seconds_total",
        "counter",
        "Time that those took.",
        counts.sync_nanos,
    );
}

/// Nanoseconds, written as seconds.
struct Seconds(u64);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

/// Figures in the text format. Writing to a `String` cannot fail.
pub(crate) struct Exposition(String);

impl Exposition {
    pub(crate) fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub(crate) fn line(&mut self, name: &str, label: &str, value: &str, number: u64) {
        self.labelled(name, &[(label, value)], number);
    }

    pub(crate) fn labelled(&mut self, name: &str, labels: &[(&str, &str)], number: u64) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(label, value)| format!("{label}=\"{value}\""))
            .collect();
        let _ = writeln!(self.0, "{name}{{{}}} {number}", labels.join(","));
    }

    pub(crate) fn one(&mut self, name: &str, kind: &str, help: &str, number: u64) {
        self.head(name, kind, help);
        let _ = writeln!(self.0, "{name} {number}");
    }

    fn seconds(&mut self, name: &str, kind: &str, help: &str, nanos: u64) {
        self.head(name, kind, help);
        let _ = writeln!(self.0, "{name} {}", Seconds(nanos));
    }

    pub(crate) fn seconds_of(&mut self, name: &str, label: &str, value: &str, nanos: u64) {
        let _ = writeln!(self.0, "{name}{{{label}=\"{value}\"}} {}", Seconds(nanos));
    }
}
