//! Two parsers see the head of a request, ours and hyper's. What ours accepts hyper must accept,
//! and understand in the same way; where ours waits for more, hyper must wait too. What ours
//! refuses never reaches hyper.
//!
//! Heads and whole connections are made from good and nearly good ones by accident, `TEST_HEADS`
//! of them (20,000 if unset). `TEST_SEED` repeats a run. hyper is driven in memory, without a
//! runtime; this file says what a parser that is too lenient would look like, too, and that it is
//! found.

use std::borrow::Cow;
use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use fanfare_core::wire::http1::{self, Framing, HeadError, HeadLimits, RequestHead};
use fanfare_core::wire::http1_guard::{Guard, Next};
use http::request::Parts;
use http::{Request, Response};
use http_body::Body as _;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;

/// The server's defaults.
const LIMITS: HeadLimits = HeadLimits {
    head_bytes_max: 16 << 10,
    fields_max: 100,
    target_bytes_max: 8 << 10,
};

const HEADS: [&str; 24] = [
    "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET /ch/main?meta=1&since=6f2k-42 HTTP/1.1\r\nHost: shop.example:8080\r\nAccept: */*\r\n\r\n",
    "POST /ch/a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    "POST /ch/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "POST /ch/a HTTP/1.1\r\nhost:x\r\ntransfer-encoding:Chunked\r\nTrailer: A\r\n\r\n0\r\nA: b\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 5\r\n\r\nhello",
    "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    "GET / HTTP/1.0\r\n\r\n",
    "POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na",
    "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "GET http://x/p?q HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET http://x HTTP/1.1\r\nHost: X\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
    "CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n",
    "BREW /pot HTTP/1.1\r\nHost: x\r\nX-A: \u{fc}\r\n\r\n",
    "GET /ch/a HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nLast-Event-ID: 6f2k-42\r\n\r\n",
    "GET / HTTP/1.1\nHost: x\n\n",
    "GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
    "GET / HTTP/1.1\r\nHost : x\r\n\r\n",
];

const CHUNKED: &str = "POST /ch/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";

const CHUNKS: [&str; 4] = [
    "5\r\nhello\r\n0\r\n\r\n",
    "1\r\na\r\n00A;b=c\r\n0123456789\r\n0\r\n\r\n",
    "2\r\n\r\n\r\n0\r\nA: b\r\nC:\r\n\r\n",
    "0\r\n\r\n",
];

const TOKENS: [&str; 64] = [
    "\r\n",
    "\n",
    "\r",
    " ",
    "\t",
    ":",
    ": ",
    " :",
    "\0",
    "\x0b",
    "\x7f",
    "\u{80}",
    "\u{fc}",
    ",",
    ";",
    "=",
    "\"",
    "#",
    "?",
    "/",
    "//",
    "://",
    "%",
    "%00",
    "*",
    "@",
    "[",
    "]",
    "[::1]",
    "<",
    "`",
    "{",
    "|",
    "\\",
    "+",
    "-",
    "_",
    "0",
    "00",
    "5",
    "0x5",
    "18446744073709551615",
    "99999999999999999999",
    "GET",
    "GET ",
    "HEAD",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/1.1",
    "HTTP/1.0",
    "HTTP/2.0",
    "Host: x\r\n",
    "Host:\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 0\r\n",
    "content-length: 5 \r\n",
    "Content-Length:\t5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: identity\r\n",
    "Transfer-Encoding: chunked, chunked\r\n",
    "chunked",
    "Connection: close\r\n",
    "Upgrade: websocket\r\n",
    "5\r\nhello\r\n",
    "0\r\n\r\n",
];

/// SplitMix64: small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Less than `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() % end as u64).unwrap()
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a [u8] {
        of[self.below(of.len())].as_bytes()
    }
}

/// One accident.
fn mutate(bytes: &mut Vec<u8>, dice: &mut Dice) {
    let at = dice.below(bytes.len() + 1);
    let end = (at + 1 + dice.below(12)).min(bytes.len());
    match dice.below(8) {
        0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
        1 if at < bytes.len() => bytes[at] = u8::try_from(dice.below(256)).unwrap(),
        2 => drop(bytes.drain(at..end)),
        3 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
        // A whole line twice.
        4 => {
            let lines: Vec<&[u8]> = bytes.split_inclusive(|&b| b == b'\n').collect();
            if !lines.is_empty() {
                let line = lines[dice.below(lines.len())].to_vec();
                let at: usize = lines
                    .iter()
                    .take(dice.below(lines.len()))
                    .map(|line| line.len())
                    .sum();
                bytes.splice(at..at, line);
            }
        }
        5 => {
            let other = dice.one(&HEADS);
            let from = dice.below(other.len());
            bytes.splice(at..end.max(at), other[from..].iter().copied());
        }
        6 => drop(bytes.splice(at..end.max(at), dice.one(&TOKENS).iter().copied())),
        // Where the grammar has something to say about it.
        _ => {
            let edges: Vec<usize> = (0..bytes.len())
                .filter(|&at| b"\r\n :".contains(&bytes[at]))
                .collect();
            if !edges.is_empty() {
                let at = edges[dice.below(edges.len())] + dice.below(2);
                bytes.splice(at..at, dice.one(&TOKENS).iter().copied());
            }
        }
    }
}

/// Memory from which hyper reads, and which never ends: it waits for more at the end.
struct Memory(Bytes);

impl Read for Memory {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.0.is_empty() {
            return Poll::Pending;
        }
        let count = self.0.len().min(buffer.remaining());
        buffer.put_slice(&self.0.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl Write for Memory {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Runs hyper's server over these bytes until it wants more.
fn drive<F>(bytes: Bytes, service: impl Fn(Request<Incoming>) -> F)
where
    F: Future<Output = Result<Response<Empty<Bytes>>, Infallible>>,
{
    let mut builder = Builder::new();
    builder
        .header_read_timeout(None)
        .auto_date_header(false)
        .max_buf_size(LIMITS.head_bytes_max)
        .max_headers(LIMITS.fields_max);
    let mut connection = pin!(builder.serve_connection(Memory(bytes), service_fn(service)));
    let mut cx = Context::from_waker(Waker::noop());
    // It gives the others a turn now and then; nothing else keeps it waiting here.
    for _ in 0..32 {
        if connection.as_mut().poll(&mut cx).is_ready() {
            break;
        }
    }
}

/// The first head, as hyper sees it.
fn theirs(input: &[u8]) -> Option<(Parts, Framing)> {
    let seen = RefCell::new(None);
    drive(Bytes::copy_from_slice(input), |request| {
        let (parts, body) = request.into_parts();
        let framing = match body.size_hint().exact() {
            Some(0) => Framing::Empty,
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        seen.borrow_mut().get_or_insert((parts, framing));
        std::future::ready(Ok(Response::new(Empty::new())))
    });
    seen.into_inner()
}

/// How hyper's view of an accepted head differs from ours.
fn difference(ours: &RequestHead<'_>, (parts, framing): &(Parts, Framing)) -> Option<String> {
    let minor = u8::from(parts.version == http::Version::HTTP_11);
    if (ours.method, ours.version_minor) != (parts.method.as_str(), minor) {
        return Some(format!("{:?} {:?}", parts.method, parts.version));
    }
    let path = parts.uri.path();
    let same_path = match ours.path() {
        Some(ours) => ours == path,
        None => path == "*" || (path.is_empty() && ours.method == "CONNECT"),
    };
    if !same_path || ours.query() != parts.uri.query() {
        return Some(format!("target {:?}", parts.uri));
    }
    let same = ours.fields.iter().all(|(name, _)| {
        let theirs = parts.headers.get_all(*name);
        ours.fields_named(name)
            .eq(theirs.iter().map(http::HeaderValue::as_bytes))
    });
    if !same || ours.fields.len() != parts.headers.len() {
        return Some(format!("fields {:?}", parts.headers));
    }
    (ours.framing != *framing).then(|| format!("{framing:?}"))
}

/// A fault in a parser, for the comparison to find: what it makes of the input before it reads.
type Lenience = fn(&[u8]) -> Cow<'_, [u8]>;

/// No fault.
fn strict(input: &[u8]) -> Cow<'_, [u8]> {
    input.into()
}

/// What is wrong with a parser's view of this head, if anything is.
fn disagreement(input: &[u8], lenience: Lenience) -> Option<String> {
    let read = lenience(input);
    match http1::parse(&read, &LIMITS) {
        Err(HeadError::Bad(_) | HeadError::Version | HeadError::TooLarge | HeadError::TargetTooLong) => None,
        Ok(None) => theirs(input).map(|_| "hyper does not wait".to_owned()),
        Ok(Some(head)) => {
            let Some(seen) = theirs(input) else {
                return Some("hyper does not accept it".to_owned());
            };
            if let Some(difference) = difference(&head, &seen) {
                return Some(format!("hyper sees other things: {difference}"));
            }
            // The same end: all of it is enough, and one byte less is not.
            let (all, less) = (input.get(..head.len)?, input.get(..head.len - 1)?);
            let same_end = theirs(all).is_some() && theirs(less).is_none();
            (!same_end).then(|| "hyper sees another end".to_owned())
        }
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

fn heads() -> u64 {
    setting("TEST_HEADS").unwrap_or(20_000)
}

fn dice(purpose: &str) -> Dice {
    let seed = setting("TEST_SEED").unwrap_or_else(|| RandomState::new().hash_one(0));
    println!("{purpose}: TEST_SEED={seed}");
    Dice(seed)
}

#[test]
fn heads_are_understood_in_the_same_way() {
    let mut dice = dice("heads");
    let (mut accepted, mut waiting) = (0, 0);
    for head in HEADS {
        assert_eq!(disagreement(head.as_bytes(), strict), None, "{head:?}");
    }
    for _ in 0..heads() {
        let mut head = dice.one(&HEADS).to_vec();
        // One accident leaves more heads good than four.
        for _ in 0..=dice.below(4) * dice.below(2) {
            mutate(&mut head, &mut dice);
        }
        match http1::parse(&head, &LIMITS) {
            Ok(Some(_)) => accepted += 1,
            Ok(None) => waiting += 1,
            Err(_) => {}
        }
        let found = disagreement(&head, strict);
        assert_eq!(found, None, "{:?}", String::from_utf8_lossy(&head));
    }
    println!("of {} heads {accepted} accepted, {waiting} not whole", heads());
    // A run in which everything is refused shows nothing.
    assert!(accepted > heads() / 20 && waiting > heads() / 100);
}

#[test]
fn a_parser_that_is_too_lenient_is_found() {
    let faults: [(&str, Lenience); 4] = [
        ("Content-Length wins over Transfer-Encoding", |input| {
            let text = String::from_utf8_lossy(input).into_owned();
            let both = text.contains("Content-Length") && text.contains("Transfer-Encoding");
            let text = if both {
                text.replace("Transfer-Encoding: chunked\r\n", "")
            } else {
                text
            };
            text.into_bytes().into()
        }),
        ("white space before a colon", |input| {
            String::from_utf8_lossy(input)
                .replace(" :", ":")
                .into_bytes()
                .into()
        }),
        ("waits for a byte more", |input| {
            input
                .get(..input.len().saturating_sub(1))
                .unwrap_or_default()
                .into()
        }),
        ("a fragment is a part of the target", |input| {
            String::from_utf8_lossy(input)
                .replace('#', "%23")
                .into_bytes()
                .into()
        }),
    ];
    for (name, fault) in faults {
        let mut dice = dice(name);
        let found = (0..20_000).find_map(|_| {
            let mut head = dice.one(&HEADS).to_vec();
            mutate(&mut head, &mut dice);
            disagreement(&head, fault)
        });
        assert!(found.is_some(), "{name}: nothing found");
    }
}

/// Method, path, body.
type Seen = (String, String, Vec<u8>);

/// Whole requests in what has passed a guard, read in the plainest way, and what is left.
fn requests(mut passed: &[u8]) -> (Vec<Seen>, &[u8]) {
    let mut all = Vec::new();
    while let Some(head) = http1::parse(passed, &LIMITS).unwrap() {
        let mut rest = &passed[head.len..];
        let body = match head.framing {
            Framing::Empty => Some(Vec::new()),
            Framing::Length(length) => {
                let body = usize::try_from(length)
                    .ok()
                    .and_then(|length| rest.split_at_checked(length));
                body.map(|(body, behind)| {
                    rest = behind;
                    body.to_vec()
                })
            }
            Framing::Chunked => chunks(&mut rest),
        };
        let Some(body) = body else { break };
        let path = head.path().unwrap_or_default();
        all.push((head.method.to_owned(), path.to_owned(), body));
        passed = rest;
    }
    (all, passed)
}

/// The body at the start of `rest`, which is moved behind it.
fn chunks(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    let line = |rest: &mut &[u8]| {
        let at = rest.windows(2).position(|pair| pair == b"\r\n")?;
        let (line, behind) = rest.split_at(at);
        *rest = &behind[2..];
        Some(String::from_utf8_lossy(line).into_owned())
    };
    loop {
        let size = line(rest)?;
        let size = usize::from_str_radix(size.split(';').next()?, 16).ok()?;
        if size == 0 {
            while !line(rest)?.is_empty() {}
            return Some(body);
        }
        let (data, behind) = rest.split_at_checked(size)?;
        body.extend_from_slice(data);
        *rest = behind.strip_prefix(b"\r\n")?;
    }
}

/// The same, as hyper sees them.
fn their_requests(passed: &[u8]) -> Vec<Seen> {
    let all = Rc::new(RefCell::new(Vec::new()));
    drive(Bytes::copy_from_slice(passed), |request| {
        let all = Rc::clone(&all);
        async move {
            let (parts, body) = request.into_parts();
            if let Ok(body) = body.collect().await {
                let path = if parts.uri.path() == "*" {
                    ""
                } else {
                    parts.uri.path()
                };
                let body = body.to_bytes().to_vec();
                all.borrow_mut()
                    .push((parts.method.to_string(), path.to_owned(), body));
            }
            let mut answer = Response::new(Empty::new());
            // For hyper a tunnel that is granted ends the HTTP.
            *answer.status_mut() = http::StatusCode::NOT_FOUND;
            Ok(answer)
        }
    });
    all.take()
}

#[test]
fn what_passes_the_guard_has_one_reading() {
    let mut dice = dice("connections");
    let count = heads() / 4;
    let mut seen = 0;
    for _ in 0..count {
        let mut input = Vec::new();
        for _ in 0..=dice.below(3) {
            // Accidents in all of it, or in chunks only, which are rarely hit otherwise.
            let (whole, mut part) = match dice.below(2) {
                0 => (&b""[..], dice.one(&HEADS).to_vec()),
                _ => (CHUNKED.as_bytes(), dice.one(&CHUNKS).to_vec()),
            };
            for _ in 0..dice.below(4).saturating_sub(1) {
                mutate(&mut part, &mut dice);
            }
            input.extend(whole);
            input.extend(part);
        }
        let mut guard = Guard::new(LIMITS);
        let look = guard.look(&input);
        let passed = &input[..look.passed];
        let (ours, rest) = requests(passed);
        // No body that the guard takes for whole is less or more than that.
        let whole = guard.is_between_requests() || matches!(look.next, Next::BadHead(_));
        assert!(
            rest.is_empty() || !whole,
            "{:?}: {rest:?}",
            String::from_utf8_lossy(&input)
        );
        let theirs = their_requests(passed);
        // hyper ends a connection earlier where it is asked to.
        let same = ours.get(..theirs.len()) == Some(&theirs[..])
            && (ours.len() == theirs.len() || may_end(passed, theirs.len()));
        assert!(
            same,
            "{:?}: {ours:?}, hyper {theirs:?}",
            String::from_utf8_lossy(&input)
        );
        seen += theirs.len();
    }
    println!("{seen} requests on {count} connections");
    assert!(seen as u64 > count / 4);
}

/// Whether the last of so many requests ends the connection.
fn may_end(passed: &[u8], count: usize) -> bool {
    let mut rest = passed;
    for at in 1..=count {
        let Ok(Some(head)) = http1::parse(rest, &LIMITS) else {
            return false;
        };
        let keeps = head.list_contains("connection", "keep-alive");
        let closes = head.list_contains("connection", "close");
        if at == count {
            return closes || (head.version_minor == 0 && !keeps);
        }
        rest = &rest[head.len..];
        match head.framing {
            Framing::Empty => {}
            Framing::Length(length) => rest = &rest[usize::try_from(length).unwrap()..],
            Framing::Chunked => drop(chunks(&mut rest)),
        }
    }
    false
}
