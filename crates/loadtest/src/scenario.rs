//! What to do to a server: scenarios, as data.
//!
//! A scenario is a TOML file: some groups of subscribers with the publishers that speak to them,
//! for how long, and what to look at afterwards.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::stamp::STAMP_BYTES;
use crate::target::Transport;

/// See the module's head.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// A headline.
    pub title: String,
    /// What it shows, in a sentence or two.
    #[serde(default)]
    pub about: String,
    /// Which servers a suite shows it to, by name; the first is the one under test.
    #[serde(default)]
    pub servers: Vec<String>,
    /// How often a suite repeats it; the median counts.
    #[serde(default = "one")]
    pub rounds: usize,
    /// Publishing that is not measured yet.
    #[serde(default = "one_second")]
    pub warmup_seconds: f64,
    /// Publishing that is measured. With 0, connections are opened and looked at, no more.
    #[serde(default)]
    pub seconds: f64,
    /// Quiet time after the last connect, before memory is read.
    #[serde(default = "one_second")]
    pub idle_seconds: f64,
    /// A phase without any progress for this long is given up; what is missing then is missing.
    #[serde(default = "ten_seconds")]
    pub patience_seconds: f64,
    /// Settings of the server under test, where it needs other ones than usual.
    #[serde(default)]
    pub settings: Vec<(String, String)>,
    /// What must come out.
    #[serde(default)]
    pub goal: Vec<Goal>,
    /// The load.
    #[serde(default)]
    pub group: Vec<Group>,
}

/// A figure to reach.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Goal {
    /// Which figure of an [`crate::Outcome`], by the name that [`crate::Outcome::figure`] knows.
    pub figure: String,
    /// The server whose figure is the unit; without one the figure itself counts.
    pub relative_to: Option<String>,
    /// Fine when not above.
    pub at_most: Option<f64>,
    /// Fine when not below.
    pub at_least: Option<f64>,
}

/// When a publisher goes on to its next publication.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Until {
    /// When the server has answered and every subscriber has heard the last one: as many
    /// publications as there are publishers are under way at any time (a closed loop).
    #[default]
    Heard,
    /// When the server has answered.
    Answered,
}

/// Some channels, their subscribers and their publishers.
#[expect(
    clippy::struct_excessive_bools,
    reason = "switches of a scenario, each on or off"
)]
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Begins the names of the channels.
    pub name: String,
    /// How many channels.
    #[serde(default = "one")]
    pub channels: usize,
    /// Well-behaved subscribers of each channel.
    #[serde(default)]
    pub subscribers: usize,
    /// How they are connected.
    #[serde(default)]
    pub transport: Transport,
    /// Subscribers of the first channel, in addition, that never read.
    #[serde(default)]
    pub stalled: usize,
    /// Subscribers of the first channel, in addition, that read slowly.
    #[serde(default)]
    pub slow: usize,
    /// How slowly.
    #[serde(default = "kibibyte")]
    pub slow_bytes_per_second: usize,
    /// Subscribers of the first channel, in addition, that come and go.
    #[serde(default)]
    pub churners: usize,
    /// How many of them leave, and come again, per second.
    #[serde(default)]
    pub churn_per_second: f64,
    /// Publishers, each over a connection of its own with one publication under way.
    #[serde(default)]
    pub publishers: usize,
    /// When the next one follows.
    #[serde(default)]
    pub until: Until,
    /// Publications per second of all publishers together, whatever the server does (an open
    /// loop: lateness counts from when each was due). 0: as `until` says.
    #[serde(default)]
    pub rate: f64,
    /// Bytes of a message.
    #[serde(default = "payload")]
    pub payload: usize,
    /// Run by a thread of its own, so that what it measures does not wait for the load generator's
    /// work with other groups. At least one group must not be apart.
    #[serde(default)]
    pub apart: bool,
    /// These attempts meet a full house: they do not need open files of their own.
    #[serde(default)]
    pub is_refused: bool,
    /// Publish over a `WebSocket` instead of POST; needs a channel on which clients may talk.
    #[serde(default)]
    pub publish_by_websocket: bool,
    /// Publish by signed triggers of the Pusher protocol instead of POST.
    #[serde(default)]
    pub publish_by_trigger: bool,
}

fn one() -> usize {
    1
}

fn one_second() -> f64 {
    1.0
}

fn ten_seconds() -> f64 {
    10.0
}

fn kibibyte() -> usize {
    1_024
}

fn payload() -> usize {
    128
}

impl Default for Group {
    fn default() -> Self {
        Self {
            name: "load".to_owned(),
            channels: 1,
            subscribers: 0,
            transport: Transport::WebSocket,
            stalled: 0,
            slow: 0,
            slow_bytes_per_second: kibibyte(),
            churners: 0,
            churn_per_second: 0.0,
            publishers: 0,
            until: Until::Heard,
            rate: 0.0,
            payload: payload(),
            apart: false,
            is_refused: false,
            publish_by_websocket: false,
            publish_by_trigger: false,
        }
    }
}

impl Group {
    /// All connections that subscribers need.
    pub fn connections(&self) -> usize {
        self.channels * self.subscribers + self.stalled + self.slow + self.churners
    }

    /// The name of a channel.
    pub(crate) fn channel(&self, index: usize) -> String {
        if self.channels == 1 {
            self.name.clone()
        } else {
            format!("{}-{index}", self.name)
        }
    }
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            title: String::new(),
            about: String::new(),
            servers: Vec::new(),
            rounds: one(),
            warmup_seconds: one_second(),
            seconds: 0.0,
            idle_seconds: one_second(),
            patience_seconds: ten_seconds(),
            settings: Vec::new(),
            goal: Vec::new(),
            group: Vec::new(),
        }
    }
}

impl Scenario {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("no scenario {}", path.display()))?;
        let scenario: Self =
            toml::from_str(&text).with_context(|| format!("{} is no scenario", path.display()))?;
        scenario
            .check()
            .with_context(|| format!("in {}", path.display()))?;
        Ok(scenario)
    }

    /// Refuses what cannot be run or would measure nothing.
    pub fn check(&self) -> Result<()> {
        if self.group.iter().all(|group| group.apart) {
            bail!("a scenario needs a group that is not apart");
        }
        for group in &self.group {
            let name = &group.name;
            if group.channels == 0 || group.connections() + group.publishers == 0 {
                bail!("group {name:?} has nobody in it");
            }
            if group.payload < STAMP_BYTES {
                bail!("group {name:?}: a message has at least {STAMP_BYTES} bytes");
            }
            if group.publishers > group.channels && !group.publishers.is_multiple_of(group.channels) {
                bail!("group {name:?}: publishers must divide evenly among channels");
            }
            if (group.churners > 0) != (group.churn_per_second > 0.0) {
                bail!("group {name:?}: churners and churn_per_second go together");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<usize, &str>) {
        let scenario = toml::from_str::<Scenario>(text).map_err(anyhow::Error::from);
        let connections = scenario.and_then(|scenario| {
            scenario.check()?;
            Ok(scenario.group.iter().map(Group::connections).sum::<usize>())
        });
        match (connections, expected) {
            (Ok(count), Ok(expected)) => assert_eq!(count, expected, "{text}"),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (other, _) => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn scenarios_that_measure_nothing_are_refused() {
        check(
            "title = 't'\n[[group]]\nname = 'a'\nsubscribers = 3\nchannels = 2\nstalled = 1",
            Ok(7),
        );
        check("title = 't'", Err("needs a group"));
        check("title = 't'\n[[group]]\nname = 'a'", Err("nobody in it"));
        check(
            "title = 't'\n[[group]]\nname = 'a'\nsubscribers = 1\npayload = 31",
            Err("at least 32"),
        );
        check(
            "title = 't'\n[[group]]\nname = 'a'\npublishers = 3\nchannels = 2",
            Err("evenly"),
        );
        check(
            "title = 't'\n[[group]]\nname = 'a'\nchurners = 3",
            Err("go together"),
        );
        check("title = 't'\nsubscriber = 3", Err("unknown field"));
    }
}
