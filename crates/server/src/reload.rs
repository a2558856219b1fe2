//! Apps that come, go and change while the node runs: when it gets SIGHUP, and when a file of its
//! configuration is another one than before.
//!
//! A file counts as changed when it has looked the same twice, a second apart: who writes it in two steps is
//! not taken at half of his word.
//!
//! Only `apps` are taken anew. What else has changed is said and waits for the next start, so that a
//! reload never does half of something. A configuration that cannot be used changes nothing.
//!
//! Sessions stay, but for those of an app that is gone (4001) or disabled (4003). What an app's settings
//! say holds from then on, also for sessions that are open; what was agreed on at their beginning stays.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fanfare_core::disconnect::{Disconnect, Refusal};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::Config;
use crate::node::Node;
use crate::shard::What;

/// Time between looks at the files.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A configuration with warnings, or a sentence about what is wrong with it.
pub(crate) type Loaded = Result<(Config, Vec<String>), String>;

/// Where a configuration comes from once more.
pub(crate) struct Source {
    /// Reads and checks it; with warnings, or a sentence.
    pub(crate) load: Box<dyn Fn() -> Loaded + Send>,
    /// The files that it is made of.
    pub(crate) files: Vec<PathBuf>,
}

/// What a file looked like.
type Look = Option<(SystemTime, u64)>;

fn look(files: &[PathBuf]) -> Vec<Look> {
    let look = |file: &PathBuf| {
        let data = std::fs::metadata(file).ok()?;
        Some((data.modified().ok()?, data.len()))
    };
    files.iter().map(look).collect()
}

/// Waits for signals and for files that change, and reloads.
pub(crate) async fn run(node: Arc<Node>, source: Source) {
    let Ok(mut hangups) = signal(SignalKind::hangup()) else {
        return;
    };
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut seen = look(&source.files);
    let mut changed = None;
    loop {
        let cause = tokio::select! {
            _ = hangups.recv() => "SIGHUP",
            _ = ticks.tick() => {
                let now = look(&source.files);
                if now == seen {
                    changed = None;
                    continue;
                }
                // Somebody may be in the midst of writing it.
                if changed.as_ref() != Some(&now) {
                    changed = Some(now);
                    continue;
                }
                seen = now;
                "a file has changed"
            }
        };
        match (source.load)() {
            Ok((config, warnings)) => {
                warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                apply(&node, &config, cause);
            }
            Err(error) => {
                tracing::error!(%error, cause, "the configuration cannot be used; nothing has changed");
            }
        }
    }
}

fn apply(node: &Arc<Node>, config: &Config, cause: &str) {
    let mut other = config.clone();
    other.apps.clone_from(&node.config.apps);
    if other != node.config {
        tracing::warn!("settings besides apps have changed: they hold from the next start on");
    }
    if node.config.is_open() != config.is_open() {
        return tracing::error!(
            "apps cannot come to a server that began without any, nor can the last one go: who may do what on \
             the other doors depends on it. Start it anew"
        );
    }
    let changes = match node.apps.replace(node, config) {
        Ok(changes) => changes,
        Err(error) => return tracing::error!(%error, "the apps cannot be used; nothing has changed"),
    };
    if !changes.closed.is_empty() {
        let why = |(app, refusal): &(_, Refusal)| (*app, Disconnect::Refused(refusal.clone()));
        for commands in &node.commands {
            commands.send_anyway(What::CloseApps(changes.closed.iter().map(why).collect()));
        }
    }
    let gone = |refusal: &Refusal| changes.closed.iter().filter(|(_, why)| why == refusal).count();
    tracing::info!(
        cause,
        apps = config.apps.len(),
        added = changes.added,
        changed = changes.changed,
        removed = gone(&Refusal::NoApp),
        disabled = gone(&Refusal::AppDisabled),
        "apps reloaded"
    );
}
