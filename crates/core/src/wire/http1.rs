//! Heads of HTTP/1 requests (RFC 9112), read strictly.
//!
//! The shard reads the first head of a connection itself, and hands everything that is not a
//! stream on to the HTTP server, bytes included. Two parsers then see the same head and must not
//! disagree: what is only almost right is answered 400 here and never passed on
//! (`security-baseline.md` section 9). That is: line ends are CRLF; no folded lines, no space
//! before a colon, no control characters; exactly one `Host`; one length at most, and never both
//! `Content-Length` and `Transfer-Encoding`.
//!
//! An empty line before the request is refused, though RFC 9112 section 2.2 lets a server skip
//! one: no client of today sends it.
//!
//! This module keeps nothing: it looks at all bytes that have arrived so far, and "not complete
//! yet" is `Ok(None)`.

use smallvec::SmallVec;
use thiserror::Error;

use super::websocket;

/// Sizes of a request head.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Whole head, in bytes.
    pub head_bytes_max: usize,
    /// Number of fields, at most [`FIELDS_MAX`].
    pub fields_max: usize,
    /// Request target, in bytes.
    pub target_bytes_max: usize,
}

/// Room for fields on the stack.
pub const FIELDS_MAX: usize = 128;

/// Why a head is refused.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum HeadError {
    /// The head breaks RFC 9112, or is only almost right.
    #[error("bad request: {0}")]
    Bad(&'static str),
    /// The request target is too long.
    #[error("request target too long")]
    TargetTooLong,
    /// The head is too large or has too many fields.
    #[error("request head too large")]
    TooLarge,
    /// Not HTTP/1.0 or HTTP/1.1.
    #[error("HTTP version not supported")]
    Version,
}

impl HeadError {
    /// The status of the answer, after which the connection is closed.
    pub fn status(self) -> u16 {
        match self {
            Self::Bad(_) => 400,
            Self::TargetTooLong => 414,
            Self::TooLarge => 431,
            Self::Version => 505,
        }
    }
}

/// A whole request head.
#[derive(Clone, Debug)]
pub struct RequestHead<'a> {
    /// The method, as sent.
    pub method: &'a str,
    /// The request target, as sent.
    pub target: &'a str,
    /// 0 or 1.
    pub version_minor: u8,
    /// The fields in order; values without surrounding white space.
    pub fields: SmallVec<[(&'a str, &'a [u8]); 24]>,
    /// Length of the head in the input, in bytes.
    pub len: usize,
}

/// Reads a head from the start of `input`; `None` while it is incomplete.
pub fn parse<'a>(input: &'a [u8], limits: &HeadLimits) -> Result<Option<RequestHead<'a>>, HeadError> {
    check_lines(input, limits)?;
    let mut headers = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let fields_max = limits.fields_max.min(FIELDS_MAX);
    let mut request = httparse::Request::new(headers.get_mut(..fields_max).unwrap_or_default());
    let len = match request.parse(input) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if input.len() > limits.head_bytes_max => {
            return Err(HeadError::TooLarge);
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLarge),
        Err(httparse::Error::Version) => return Err(HeadError::Version),
        Err(_) => return Err(HeadError::Bad("the request head is not HTTP/1")),
    };
    if len > limits.head_bytes_max {
        return Err(HeadError::TooLarge);
    }
    let (Some(method), Some(target), Some(version_minor)) = (request.method, request.path, request.version)
    else {
        return Err(HeadError::Bad("the request head is not HTTP/1"));
    };
    if target.len() > limits.target_bytes_max {
        return Err(HeadError::TargetTooLong);
    }
    let fields = request
        .headers
        .iter()
        .map(|field| (field.name, field.value))
        .collect();
    let head = RequestHead {
        method,
        target,
        version_minor,
        fields,
        len,
    };
    head.check()?;
    Ok(Some(head))
}

/// What httparse lets pass: bare line feeds, and heads whose first line never ends.
fn check_lines(input: &[u8], limits: &HeadLimits) -> Result<(), HeadError> {
    if input.first().is_some_and(|&b| b == b'\r' || b == b'\n') {
        return Err(HeadError::Bad("empty line before the request"));
    }
    let mut previous = 0;
    let mut line_start = 0;
    for (at, &byte) in input.iter().enumerate().take(limits.head_bytes_max) {
        if byte == b'\n' {
            if previous != b'\r' {
                return Err(HeadError::Bad("lines must end with CRLF"));
            }
            if at == line_start + 1 {
                return Ok(());
            }
            line_start = at + 1;
        }
        previous = byte;
    }
    // The method and version take some bytes beside the target.
    if line_start == 0 && input.len() > limits.target_bytes_max.saturating_add(64) {
        return Err(HeadError::TargetTooLong);
    }
    Ok(())
}

impl<'a> RequestHead<'a> {
    fn check(&self) -> Result<(), HeadError> {
        let hosts = self.fields_named("host").count();
        if hosts > 1 || (hosts == 0 && self.version_minor == 1) {
            return Err(HeadError::Bad("exactly one Host field is needed"));
        }
        if !self.target.is_ascii() || self.target.bytes().any(|b| b.is_ascii_control() || b == b'#') {
            return Err(HeadError::Bad(
                "the request target holds characters that must be percent-encoded",
            ));
        }
        for (_, value) in &self.fields {
            if value.iter().any(|&b| (b < 0x20 && b != b'\t') || b == 0x7f) {
                return Err(HeadError::Bad("control character in a field"));
            }
        }
        let lengths = self.fields_named("content-length").count();
        let mut encodings = self.fields_named("transfer-encoding");
        if let Some(encoding) = encodings.next() {
            if lengths > 0 {
                return Err(HeadError::Bad("both Content-Length and Transfer-Encoding"));
            }
            if self.version_minor == 0
                || encodings.next().is_some()
                || !encoding.eq_ignore_ascii_case(b"chunked")
            {
                return Err(HeadError::Bad(
                    "Transfer-Encoding must be exactly chunked, on HTTP/1.1",
                ));
            }
        }
        if lengths > 1 {
            return Err(HeadError::Bad("more than one Content-Length"));
        }
        if let Some(length) = self.field("content-length") {
            let digits = !length.is_empty() && length.len() <= 19 && length.iter().all(u8::is_ascii_digit);
            if !digits {
                return Err(HeadError::Bad("Content-Length is not a number"));
            }
        }
        Ok(())
    }

    /// The value of a field; the first, where it may be repeated.
    pub fn field(&self, name: &str) -> Option<&'a [u8]> {
        self.fields_named(name).next()
    }

    /// The value of a field as text.
    pub fn field_str(&self, name: &str) -> Option<&'a str> {
        self.field(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// All values of a field.
    pub fn fields_named<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'a [u8]> + 's {
        self.fields
            .iter()
            .filter(move |(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| *value)
    }

    /// Whether a comma-separated list field holds `token`, in any case.
    pub fn list_contains(&self, name: &str, token: &str) -> bool {
        self.fields_named(name)
            .flat_map(|value| value.split(|&b| b == b','))
            .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    }

    /// The path of the target; `None` for `*` and for the form of CONNECT.
    pub fn path(&self) -> Option<&'a str> {
        let target = self.origin_form()?;
        Some(target.split_once('?').map_or(target, |(path, _)| path))
    }

    /// The query of the target, without its `?`.
    pub fn query(&self) -> Option<&'a str> {
        self.origin_form()?.split_once('?').map(|(_, query)| query)
    }

    fn origin_form(&self) -> Option<&'a str> {
        if self.target.starts_with('/') {
            return Some(self.target);
        }
        let (_, rest) = self.target.split_once("://")?;
        Some(
            rest.find(['/', '?'])
                .map_or("/", |at| rest.get(at..).unwrap_or("/")),
        )
    }

    /// Whether a body follows the head.
    pub fn has_body(&self) -> bool {
        self.field("transfer-encoding").is_some()
            || self
                .field("content-length")
                .is_some_and(|length| length.iter().any(|&b| b != b'0'))
    }
}

/// What a head has to do with `WebSockets`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Upgrade {
    /// Nothing.
    No,
    /// A handshake; answer 101 with this `Sec-WebSocket-Accept`.
    Yes {
        /// See [`websocket::accept_key`].
        accept: String,
    },
    /// A handshake that lost its `Upgrade` on the way: 426.
    Lost,
    /// A handshake of another version: 426 with `Sec-WebSocket-Version: 13`.
    OtherVersion,
    /// A handshake that breaks RFC 6455 section 4.1: 400.
    Bad(&'static str),
}

/// Looks for a WebSocket handshake (RFC 6455 section 4.2.1).
pub fn websocket_upgrade(head: &RequestHead<'_>) -> Upgrade {
    let asks = head.list_contains("upgrade", "websocket");
    let key = head.field_str("sec-websocket-key");
    if !asks || !head.list_contains("connection", "upgrade") {
        return if key.is_some() { Upgrade::Lost } else { Upgrade::No };
    }
    if head.method != "GET" || head.version_minor != 1 {
        return Upgrade::Bad("a WebSocket handshake is a GET of HTTP/1.1");
    }
    if head.field("sec-websocket-version") != Some(b"13") {
        return Upgrade::OtherVersion;
    }
    if head.has_body() {
        return Upgrade::Bad("a WebSocket handshake has no body");
    }
    match key {
        Some(key) if head.fields_named("sec-websocket-key").count() == 1 && websocket::is_valid_key(key) => {
            Upgrade::Yes {
                accept: websocket::accept_key(key),
            }
        }
        _ => Upgrade::Bad("Sec-WebSocket-Key is not the base64 of 16 bytes"),
    }
}

/// The answer to a handshake, with the extensions that were agreed on, if any.
pub fn switching_protocols(accept: &str, extensions: Option<&str>) -> Vec<u8> {
    let mut head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n"
    );
    if let Some(extensions) = extensions {
        head.push_str("Sec-WebSocket-Extensions: ");
        head.push_str(extensions);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// A small whole answer, after which the connection is closed. Fields with a line end in them are
/// left out.
pub fn response(status: u16, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut out = format!("HTTP/1.1 {status} {}\r\n", reason_phrase(status)).into_bytes();
    for (name, value) in fields
        .iter()
        .filter(|(_, value)| !value.bytes().any(|b| b.is_ascii_control()))
    {
        out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    out.extend_from_slice(format!("Content-Length: {}\r\nConnection: close\r\n\r\n", body.len()).as_bytes());
    out.extend_from_slice(body);
    out
}

/// RFC 9110 section 15.
fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        421 => "Misdirected Request",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

#[cfg(test)]
#[path = "http1_tests.rs"]
mod tests;
