//! The options of a check, and how a run names them.

use std::fmt;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// What is done to connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum FaultMode {
    /// Nothing.
    None,
    /// Those of listeners are reset, ended, half closed.
    Cuts,
    /// They are also stalled and sliced, and publishers suffer the same.
    All,
}

/// How a lineage listens.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Way {
    /// WebSocket.
    #[value(name = "websocket")]
    WebSocket,
    /// Server-sent events.
    EventStream,
    /// JSON documents with a cursor.
    LongPoll,
}

/// Options of `fanfare-loadtest check`.
#[derive(Args, Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "switches of a command line")]
pub struct Options {
    /// The server's program. It is started on a free port.
    #[arg(long)]
    pub(super) fanfare: PathBuf,
    /// A setting of the server: `FANFARE_CHANNELS_TALK=a,b` or `channels.talk=a,b`. Repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    pub(super) settings: Vec<(String, String)>,
    /// Repeats a run, as far as real sockets allow. Default: a random one, printed.
    #[arg(long)]
    pub(super) seed: Option<u64>,
    /// How subscribers listen.
    #[arg(long, value_delimiter = ',', default_values = ["websocket", "event-stream", "long-poll"])]
    pub(super) transports: Vec<Way>,
    /// Subscribers of each transport.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=5_000))]
    pub(super) subscribers: u64,
    /// Publications in all.
    #[arg(long, default_value_t = 10_000)]
    pub(super) publications: u64,
    /// Publishers, each of which waits for its answers.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(super) publishers: u32,
    /// Channels.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(super) channels: u64,
    /// Publications a second, of all publishers together, at most.
    #[arg(long, default_value_t = 2_000.0)]
    pub(super) rate: f64,
    /// What is done to connections.
    #[arg(long, value_enum, default_value_t = FaultMode::None)]
    pub(super) faults: FaultMode,
    /// Shortest time from a connect to what is done to it, in milliseconds.
    #[arg(long, default_value_t = 100)]
    pub(super) cut_after: u64,
    /// Longest time from a connect to what is done to it, in milliseconds.
    #[arg(long, default_value_t = 3_000)]
    pub(super) cut_within: u64,
    /// Longest stall, in milliseconds.
    #[arg(long, default_value_t = 5_000)]
    pub(super) stall: u64,
    /// Longest time for which a subscriber stays away after a cut, in milliseconds.
    #[arg(long, default_value_t = 0)]
    pub(super) absence: u64,
    /// A subscriber also stays away after a cut until its channel has had so many publications more.
    #[arg(long, default_value_t = 0)]
    pub(super) absence_publications: u64,
    /// So many times all subscribers reset their connections at once, and come back at once when each
    /// channel has had --absence-publications more.
    #[arg(long, default_value_t = 0)]
    pub(super) storms: u64,
    /// Kill the server so many times and start it again with the same data. The engine must be
    /// chosen with --set.
    #[arg(long, default_value_t = 0)]
    pub(super) kill: u64,
    /// Gap flags that lead to a new epoch are no fault: the engine forgets when it is killed.
    #[arg(long)]
    pub(super) epoch_may_change: bool,
    /// No gap flag is a fault: history can be shorter than an absence.
    #[arg(long)]
    pub(super) window_may_be_exceeded: bool,
    /// It is a fault when there is no gap flag at all; with --absence-publications, when one who comes
    /// back from such an absence hears anything before one.
    #[arg(long)]
    pub(super) expect_gaps: bool,
    /// Publications are said by WebSocket subscribers, who must not hear them.
    #[arg(long)]
    pub(super) talk: bool,
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.fanfare.display())?;
        for (key, value) in self.settings.iter().filter(|(key, _)| key != "FANFARE_KEY") {
            write!(f, " {key}={value}")?;
        }
        let switches = [
            (self.epoch_may_change, "the epoch may change"),
            (self.window_may_be_exceeded, "the window may be exceeded"),
            (self.expect_gaps, "gaps are expected"),
            (self.talk, "subscribers speak"),
        ];
        write!(
            f,
            "\n{} subscribers each by {:?}; {} channels; {} publishers, {} publications, at most {} a second; \
             faults {:?} after {} to {} ms, stalls up to {} ms, absence up to {} ms and {} publications, \
             kills {}, storms {}",
            self.subscribers,
            self.transports,
            self.channels,
            self.publishers,
            self.publications,
            self.rate,
            self.faults,
            self.cut_after,
            self.cut_within,
            self.stall,
            self.absence,
            self.absence_publications,
            self.kill,
            self.storms
        )?;
        for (_, name) in switches.iter().filter(|(on, _)| *on) {
            write!(f, "; {name}")?;
        }
        Ok(())
    }
}

/// `FANFARE_X_Y=value`, or `x.y=value`.
fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    let key = if key.starts_with("FANFARE_") {
        key.to_owned()
    } else {
        format!("FANFARE_{}", key.to_uppercase().replace('.', "_"))
    };
    Ok((key, value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(&str, &str)>) {
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(setting(text).ok(), expected, "{text}");
    }

    #[test]
    fn settings_are_named_as_in_the_file_or_in_the_environment() {
        check("FANFARE_ENGINE=memory", Some(("FANFARE_ENGINE", "memory")));
        check("engine=memory", Some(("FANFARE_ENGINE", "memory")));
        check("channels.talk=a=b", Some(("FANFARE_CHANNELS_TALK", "a=b")));
        check("engine", None);
    }
}
