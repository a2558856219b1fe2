//! Log lines: on standard error, as text or JSON.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Starts logging for the process. A level that cannot be read is taken as `info`, and said so.
pub fn start(log: &Log) {
    let (filter, bad) = match EnvFilter::try_new(&log.level) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    let started = match log.format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    if let (Ok(()), Some(error)) = (started, bad) {
        tracing::warn!(%error, "log.level cannot be read, using info");
    }
}
