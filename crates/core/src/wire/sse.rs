//! Event streams, as `EventSource` reads them (WHATWG HTML, section "Server-sent events").
//!
//! `data` is split on CRLF, CR and LF, and each line gets its own field, so nothing in a message
//! can end an event or begin another field. The format cannot carry a carriage return: whatever
//! line ends a message has, the reader gets LF. `data: ` is written with its space, so that a
//! message which begins with one keeps it.

use bytes::Bytes;
use std::time::Duration;
use thiserror::Error;

/// A comment: ignored by readers, but traffic for whatever closes idle lines in between.
pub const HEARTBEAT: &[u8] = b":\n\n";

/// An id or event name with a line end or NUL in it, which the format cannot carry.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("an id or event name must not hold CR, LF or NUL")]
pub struct FieldError;

/// Appends one event. An empty message is still dispatched, as an empty string.
pub fn event(
    out: &mut Vec<u8>,
    id: Option<&str>,
    event: Option<&str>,
    data: &[u8],
) -> Result<(), FieldError> {
    let broken = |text: &str| text.bytes().any(|b| matches!(b, b'\r' | b'\n' | 0));
    if id.is_some_and(broken) || event.is_some_and(broken) {
        return Err(FieldError);
    }
    for (name, value) in [("id: ", id), ("event: ", event)] {
        if let Some(value) = value {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(value.as_bytes());
            out.push(b'\n');
        }
    }
    out.extend_from_slice(b"data: ");
    let mut bytes = data.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\r' | b'\n' => {
                if byte == b'\r' {
                    bytes.next_if_eq(&b'\n');
                }
                out.extend_from_slice(b"\ndata: ");
            }
            _ => out.push(byte),
        }
    }
    out.extend_from_slice(b"\n\n");
    Ok(())
}

/// How long the reader shall wait before it connects again.
pub fn retry(delay: Duration) -> Bytes {
    format!("retry: {}\n\n", delay.as_millis()).into()
}

/// The first bytes of a stream: something to read at once, and the waiting time.
pub fn prologue(delay: Duration) -> Bytes {
    format!(":\nretry: {}\n\n", delay.as_millis()).into()
}

/// Moves a reader's last id forward without an event: an event without data is not dispatched,
/// but its id counts (WHATWG HTML, "dispatch the event", steps 1 and 2). So a reader that
/// comes back from a quiet channel says a fresh id instead of an ancient one.
pub fn position(id: impl std::fmt::Display) -> Bytes {
    format!("id: {id}\n\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Default, Eq, PartialEq)]
    struct Dispatched {
        id: String,
        event: String,
        data: String,
    }

    /// The reader of the standard, for one line at a time.
    fn read(stream: &[u8]) -> Vec<Dispatched> {
        let text = String::from_utf8(stream.to_vec())
            .unwrap()
            .replace("\r\n", "\n")
            .replace('\r', "\n");
        let (mut events, mut id, mut event, mut data) =
            (Vec::new(), String::new(), String::new(), String::new());
        for line in text.split('\n') {
            if line.is_empty() {
                if !data.is_empty() {
                    data.pop();
                    events.push(Dispatched {
                        id: id.clone(),
                        event: event.clone(),
                        data: data.clone(),
                    });
                }
                event.clear();
                data.clear();
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "id" if !value.contains('\0') => value.clone_into(&mut id),
                "event" => value.clone_into(&mut event),
                "data" => {
                    data.push_str(value);
                    data.push('\n');
                }
                _ => {}
            }
        }
        events
    }

    #[track_caller]
    fn check(id: Option<&str>, name: Option<&str>, data: &str, expected: &str) {
        let mut out = Vec::new();
        event(&mut out, id, name, data.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn lines_become_fields() {
        check(Some("1"), Some("paid"), "x", "id: 1\nevent: paid\ndata: x\n\n");
        check(None, None, "", "data: \n\n");
        check(None, None, " x", "data:  x\n\n");
        check(
            None,
            None,
            "a\nb\r\nc\rd",
            "data: a\ndata: b\ndata: c\ndata: d\n\n",
        );
        check(None, None, "a\n\nid: 7", "data: a\ndata: \ndata: id: 7\n\n");
        check(None, None, "\r\n", "data: \ndata: \n\n");
    }

    #[test]
    fn no_field_can_break_out_of_its_line() {
        for bad in ["a\nb", "a\rb", "a\0b"] {
            assert_eq!(event(&mut Vec::new(), Some(bad), None, b""), Err(FieldError));
            assert_eq!(event(&mut Vec::new(), None, Some(bad), b""), Err(FieldError));
        }
    }

    proptest! {
        #[test]
        fn a_reader_gets_what_was_written(data in "[a-c:\\r\\n \u{feff}é]{0,40}", name in "[a-z]{1,5}") {
            let mut out = HEARTBEAT.to_vec();
            event(&mut out, Some("9"), Some(&name), data.as_bytes()).unwrap();
            let data = data.replace("\r\n", "\n").replace('\r', "\n");
            prop_assert_eq!(read(&out), vec![Dispatched { id: "9".to_owned(), event: name, data }]);
        }
    }
}
