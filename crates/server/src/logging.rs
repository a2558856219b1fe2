//! Log lines: on standard error, as text or JSON.
//!
//! A line is one event, whatever a peer put into a field: tracing-subscriber escapes the escape
//! sequences of terminals, but not line breaks, so text fields go through [`write_field`]. JSON
//! escapes by itself.

use std::io::IsTerminal;

use fanfare_core::channel::is_unprintable;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::format::{self, Writer};

use crate::config::{Log, LogFormat};

/// Longest field of a text line, in bytes. Messages are our own words, and are not cut.
const FIELD_BYTES_MAX: usize = 256;

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
        LogFormat::Text => {
            let fields = format::debug_fn(|writer, field, value| write_field(writer, field.name(), value));
            let lines = lines.with_ansi(std::io::stderr().is_terminal());
            lines.fmt_fields(fields.delimited(" ")).try_init()
        }
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    if let (Ok(()), Some(error)) = (started, bad) {
        tracing::warn!(%error, "log.level cannot be read, using info");
    }
}

/// Writes a field so that it stays on its line and cannot drive a terminal.
fn write_field(writer: &mut Writer<'_>, name: &str, value: &dyn std::fmt::Debug) -> std::fmt::Result {
    let text = format!("{value:?}");
    let shown = if name == "message" {
        text.as_str()
    } else {
        write!(writer, "{name}=")?;
        text.get(..text.floor_char_boundary(FIELD_BYTES_MAX))
            .unwrap_or_default()
    };
    for c in shown.chars() {
        if is_unprintable(c) {
            write!(writer, "{}", c.escape_default())?;
        } else {
            writer.write_char(c)?;
        }
    }
    if shown.len() < text.len() {
        writer.write_char('…')?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, value: &str, expected: &str) {
        let mut line = String::new();
        write_field(&mut Writer::new(&mut line), name, &format_args!("{value}")).unwrap();
        assert_eq!(line, expected);
    }

    #[test]
    fn a_field_stays_on_its_line() {
        check("message", "ready", "ready");
        check("reason", "a b", "reason=a b");
        check(
            "reason",
            "x\n2026 INFO forged\r",
            "reason=x\\n2026 INFO forged\\r",
        );
        check("message", "a\u{1b}[2J\0\u{202e}", "a\\u{1b}[2J\\u{0}\\u{202e}");
        check("reason", "größer", "reason=größer");
    }

    #[test]
    fn fields_are_cut_and_messages_are_not() {
        let long = "y".repeat(1_000);
        check("reason", &long, &format!("reason={}…", "y".repeat(256)));
        check("message", &long, &long);
        let wide = "ü".repeat(200);
        check(
            "reason",
            &format!("x{wide}"),
            &format!("reason=x{}…", "ü".repeat(127)),
        );
    }
}
