//! Heads of HTTP/1 requests (RFC 9112), read strictly.
//!
//! The shard reads the first head of a connection itself, and hands everything that is not a
//! stream on to the HTTP server, bytes included. Two parsers then see the same head and must not
//! disagree: what is only almost right is answered 400 here and never passed on
//! (`security-baseline.md` section 9). That is: line ends are CRLF; no folded lines, no space
//! before a colon, no control characters; exactly one `Host`, which can be one; a target in one of
//! the four forms of RFC 9112 section 3.2, which agrees with `Host` where it names a host itself;
//! one length at most, and never both `Content-Length` and `Transfer-Encoding`. Further heads of a
//! connection are held to the same by [`super::http1_guard`].
//!
//! What this accepts hyper accepts too and understands in the same way; the test
//! `http1_differential` of the server compares them.
//!
//! An empty line before the request is refused, though RFC 9112 section 2.2 lets a server skip
//! one: no client of today sends it.
//!
//! This module keeps nothing: it looks at all bytes that have arrived so far, and "not complete
//! yet" is `Ok(None)`.

use std::mem::MaybeUninit;

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

/// Longest target and longest name of a field, in bytes, whatever the limits say: the HTTP
/// server's types hold no more.
const PART_BYTES_MAX: usize = 65_534;

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

/// Names and values; a request of today has up to 20.
pub type Fields<'a> = SmallVec<[(&'a str, &'a [u8]); 24]>;

/// How the end of a request's body is known (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Framing {
    /// There is no body.
    Empty,
    /// So many bytes, at least one.
    Length(u64),
    /// Chunks.
    Chunked,
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
    pub fields: Fields<'a>,
    /// What follows the head.
    pub framing: Framing,
    /// Length of the head in the input, in bytes.
    pub len: usize,
}

/// What begins a TLS handshake (RFC 8446 section 5.1), and no request.
const TLS_HANDSHAKE: u8 = 0x16;

/// Reads a head from the start of `input`; `None` while it is incomplete.
pub fn parse<'a>(input: &'a [u8], limits: &HeadLimits) -> Result<Option<RequestHead<'a>>, HeadError> {
    if input.first() == Some(&TLS_HANDSHAKE) {
        return Err(HeadError::Bad(
            "this is TLS where HTTP is expected: use http:// or ws:// here",
        ));
    }
    check_lines(input, limits)?;
    // To fill 4 KiB for a few fields would cost a tenth of all this.
    let mut headers = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let fields_max = limits.fields_max.min(FIELDS_MAX);
    let headers = headers.get_mut(..fields_max).unwrap_or_default();
    let mut request = httparse::Request::new(&mut []);
    let len = match request.parse_with_uninit_headers(input, headers) {
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
    if target.len() > limits.target_bytes_max.min(PART_BYTES_MAX) {
        return Err(HeadError::TargetTooLong);
    }
    let fields: Fields<'_> = request
        .headers
        .iter()
        .map(|field| (field.name, field.value))
        .collect();
    let framing = Framing::of(version_minor, &fields)?;
    let head = RequestHead {
        method,
        target,
        version_minor,
        fields,
        framing,
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
    // The method and version take some bytes beside the target.
    let first_line_max = limits.target_bytes_max.saturating_add(64);
    let mut line_start = 0;
    let seen = input.get(..limits.head_bytes_max).unwrap_or(input);
    for at in memchr::memchr_iter(b'\n', seen) {
        let line = seen.get(line_start..at).unwrap_or_default();
        if line.last() != Some(&b'\r') {
            return Err(HeadError::Bad("lines must end with CRLF"));
        }
        if line_start == 0 && at > first_line_max {
            return Err(HeadError::TargetTooLong);
        }
        if line == b"\r" {
            return Ok(());
        }
        line_start = at + 1;
    }
    if line_start == 0 && input.len() > first_line_max {
        return Err(HeadError::TargetTooLong);
    }
    Ok(())
}

impl Framing {
    /// What the fields say; anything that two readers could understand differently is refused.
    pub fn of(version_minor: u8, fields: &[(&str, &[u8])]) -> Result<Self, HeadError> {
        let (mut length, mut encoding) = (None, None);
        for (name, value) in fields {
            // Most names differ in their length already.
            let seen = match name.len() {
                14 if name.eq_ignore_ascii_case("content-length") => length.replace(*value),
                17 if name.eq_ignore_ascii_case("transfer-encoding") => encoding.replace(*value),
                _ => None,
            };
            if seen.is_some() {
                return Err(HeadError::Bad(
                    "more than one Content-Length or Transfer-Encoding",
                ));
            }
        }
        match (length, encoding) {
            (None, None) => Ok(Self::Empty),
            (Some(_), Some(_)) => Err(HeadError::Bad("both Content-Length and Transfer-Encoding")),
            (None, Some(encoding)) if version_minor == 1 && encoding.eq_ignore_ascii_case(b"chunked") => {
                Ok(Self::Chunked)
            }
            (None, Some(_)) => Err(HeadError::Bad(
                "Transfer-Encoding must be exactly chunked, on HTTP/1.1",
            )),
            (Some(length), None) => {
                let digits = length.len() <= 19 && length.iter().all(u8::is_ascii_digit);
                let number = digits.then(|| std::str::from_utf8(length).ok()?.parse().ok());
                match number.flatten() {
                    None => Err(HeadError::Bad("Content-Length is not a number")),
                    Some(0) => Ok(Self::Empty),
                    Some(length) => Ok(Self::Length(length)),
                }
            }
        }
    }
}

/// Whether this can be the value of `Host`, or the authority of a target: a name or an address,
/// and perhaps a port (RFC 9110 section 7.2). It may be empty, as `Host` may.
fn is_host(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else {
        return false;
    };
    let (is_name, port) = if let Some(rest) = host.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once(']') else {
            return false;
        };
        let port = if rest.is_empty() {
            Some("")
        } else {
            rest.strip_prefix(':')
        };
        (address.parse::<std::net::Ipv6Addr>().is_ok(), port)
    } else {
        let (name, port) = host.split_once(':').unwrap_or((host, ""));
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+;=".contains(&b);
        (
            name.bytes().all(fits) && (!name.is_empty() || host.is_empty()),
            Some(port),
        )
    };
    is_name && port.is_some_and(|port| port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit()))
}

impl<'a> RequestHead<'a> {
    fn check(&self) -> Result<(), HeadError> {
        let mut hosts = self.fields_named("host");
        let host = hosts.next();
        if hosts.next().is_some() || (host.is_none() && self.version_minor == 1) {
            return Err(HeadError::Bad("exactly one Host field is needed"));
        }
        if !host.is_none_or(is_host) {
            return Err(HeadError::Bad("Host is not the name of a host"));
        }
        self.check_target(host)?;
        for (name, value) in &self.fields {
            if name.len() > PART_BYTES_MAX {
                return Err(HeadError::TooLarge);
            }
            // Without a way out in the midst, so that the compiler can look at many bytes at once.
            let is_control = |&b: &u8| (b < 0x20 && b != b'\t') || b == 0x7f;
            if value.iter().fold(false, |found, b| found | is_control(b)) {
                return Err(HeadError::Bad("control character in a field"));
            }
        }
        Ok(())
    }

    /// The four forms of a target. The HTTP server would take some others for an authority, and
    /// drop what follows a `#`.
    fn check_target(&self, host: Option<&[u8]>) -> Result<(), HeadError> {
        let path_end = self.target.find('?').unwrap_or(self.target.len());
        let is_bad = |(at, b): (usize, u8)| {
            !b.is_ascii_graphic() || b"\"#<>".contains(&b) || (b == b'`' && at < path_end)
        };
        if self.target.bytes().enumerate().any(is_bad) {
            return Err(HeadError::Bad(
                "the request target holds characters that must be percent-encoded",
            ));
        }
        if self.method == "CONNECT" {
            return match self.target.split_once(':') {
                Some(_) if is_host(self.target.as_bytes()) => Ok(()),
                _ => Err(HeadError::Bad("CONNECT needs a host and a port")),
            };
        }
        if self.target.starts_with('/') || (self.target == "*" && self.method == "OPTIONS") {
            return Ok(());
        }
        // The HTTP server hears the target, the rules for hosts hear `Host`.
        match self.absolute_form() {
            Some((authority, _)) if authority.is_empty() || !is_host(authority.as_bytes()) => {
                Err(HeadError::Bad("the request target names no host"))
            }
            Some((authority, _))
                if host.is_some_and(|host| !host.eq_ignore_ascii_case(authority.as_bytes())) =>
            {
                Err(HeadError::Bad("Host and the request target name two hosts"))
            }
            Some(_) => Ok(()),
            None => Err(HeadError::Bad("the request target is no path and no URL")),
        }
    }

    /// Authority and the rest of `http://host/path`.
    fn absolute_form(&self) -> Option<(&'a str, &'a str)> {
        let (scheme, rest) = self.target.split_once("://")?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return None;
        }
        Some(rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len())))
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
        let path = target.split_once('?').map_or(target, |(path, _)| path);
        Some(if path.is_empty() { "/" } else { path })
    }

    /// The query of the target, without its `?`.
    pub fn query(&self) -> Option<&'a str> {
        self.origin_form()?.split_once('?').map(|(_, query)| query)
    }

    fn origin_form(&self) -> Option<&'a str> {
        if self.target.starts_with('/') {
            return Some(self.target);
        }
        self.absolute_form().map(|(_, rest)| rest)
    }

    /// Whether a body follows the head.
    pub fn has_body(&self) -> bool {
        self.framing != Framing::Empty
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
    let length = body.len();
    out.extend_from_slice(
        format!(
            "X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n"
        )
        .as_bytes(),
    );
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
