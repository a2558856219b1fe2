//! HTTP/1.1 from outside: what is answered, what is refused, and where one request ends and the
//! next begins.
//!
//! Each case holds for the first request of a connection, for one on a connection that has served
//! another, and for one that follows another without waiting; sent whole, cut at every byte, and
//! byte by byte. The situations of h1spec are among them, and pairs where a second request hides in
//! the body of the first for those who read it differently.

use crate::support::telling::{BEFORE, Before, Judge, Telling};
use crate::support::{Said, frame, handshake};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// It goes on as usual, and ends as asked.
const OK: &[u16] = &[200, 204];
/// It is refused, and the connection ends.
const BAD: &[u16] = &[400];

#[tokio::test]
async fn request_lines() {
    let mut judge = Judge::new().await;
    let long = format!("GET /{} HTTP/1.1\r\nH:\r\n\r\n", "a".repeat(60));
    let longer = format!("GET /{} HTTP/1.1\r\nH:\r\n\r\n", "a".repeat(150));
    judge
        .check_all(&[
            ("good", "GET /health HTTP/1.1\r\nH:\r\n\r\n", OK),
            ("a query", "GET /health?a=b&c HTTP/1.1\r\nH:\r\n\r\n", OK),
            (
                "absolute form",
                "GET http://localhost/health HTTP/1.1\r\nH:\r\n\r\n",
                OK,
            ),
            (
                "two hosts",
                "GET http://example.com/health HTTP/1.1\r\nH:\r\n\r\n",
                BAD,
            ),
            ("no host", "GET http:///health HTTP/1.1\r\nH:\r\n\r\n", BAD),
            (
                "another scheme",
                "GET ftp://localhost/ HTTP/1.1\r\nH:\r\n\r\n",
                BAD,
            ),
            ("asterisk", "OPTIONS * HTTP/1.1\r\nH:\r\n\r\n", &[204, 204]),
            ("asterisk of GET", "GET * HTTP/1.1\r\nH:\r\n\r\n", BAD),
            ("no slash", "GET health HTTP/1.1\r\nH:\r\n\r\n", BAD),
            ("CONNECT", "CONNECT localhost:80 HTTP/1.1\r\nH:\r\n\r\n", &[404]),
            ("CONNECT to a path", "CONNECT /health HTTP/1.1\r\nH:\r\n\r\n", BAD),
            ("unknown method", "BREW /ch/a HTTP/1.1\r\nH:\r\n\r\n", &[405, 204]),
            ("small letters", "get /ch/a HTTP/1.1\r\nH:\r\n\r\n", &[405, 204]),
            ("method with a slash", "G/T / HTTP/1.1\r\nH:\r\n\r\n", BAD),
            ("no method", " /health HTTP/1.1\r\nH:\r\n\r\n", BAD),
            ("no target", "GET HTTP/1.1\r\nH:\r\n\r\n", BAD),
            ("two spaces", "GET  /health HTTP/1.1\r\nH:\r\n\r\n", BAD),
            ("a tab", "GET\t/health HTTP/1.1\r\nH:\r\n\r\n", BAD),
            ("a space at the end", "GET /health HTTP/1.1 \r\nH:\r\n\r\n", BAD),
            (
                "an empty line before",
                "\r\nGET /health HTTP/1.1\r\nH:\r\n\r\n",
                BAD,
            ),
            ("garbage before", "\0GET /health HTTP/1.1\r\nH:\r\n\r\n", BAD),
            ("a fragment", "GET /health#a HTTP/1.1\r\nH:\r\n\r\n", BAD),
            ("letters beyond ASCII", "GET /\u{fc} HTTP/1.1\r\nH:\r\n\r\n", BAD),
            ("NUL in the target", "GET /hea\0lth HTTP/1.1\r\nH:\r\n\r\n", BAD),
            ("no version", "GET /health\r\nH:\r\n\r\n", BAD),
            ("HTTP/1.2", "GET /health HTTP/1.2\r\nH:\r\n\r\n", &[505]),
            ("HTTP/2.0", "GET /health HTTP/2.0\r\nH:\r\n\r\n", &[505]),
            ("HTTP/0.9", "GET /health HTTP/0.9\r\nH:\r\n\r\n", &[505]),
            ("http/1.1", "GET /health http/1.1\r\nH:\r\n\r\n", &[505]),
            ("HTTP/1.10", "GET /health HTTP/1.10\r\nH:\r\n\r\n", BAD),
            ("HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[505]),
            ("a TLS hello", "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03", BAD),
            ("target too long", &long, &[414]),
            ("target far too long", &longer, &[414]),
        ])
        .await;
}

#[tokio::test]
async fn fields() {
    let mut judge = Judge::new().await;
    let many = format!("GET /health HTTP/1.1\r\nH:\r\n{}\r\n", "A: b\r\n".repeat(6));
    let too_many = format!("GET /health HTTP/1.1\r\nH:\r\n{}\r\n", "A: b\r\n".repeat(7));
    let large = format!("GET /health HTTP/1.1\r\nH:\r\nA: {}\r\n\r\n", "b".repeat(400));
    judge
        .check_all(&[
            ("no Host", "GET /health HTTP/1.1\r\n\r\n", BAD),
            ("two Hosts", "GET /health HTTP/1.1\r\nH:\r\nH:\r\n\r\n", BAD),
            (
                "a list of Hosts",
                "GET / HTTP/1.1\r\nHost: localhost, a\r\n\r\n",
                BAD,
            ),
            (
                "Host with a path",
                "GET / HTTP/1.1\r\nHost: localhost/a\r\n\r\n",
                BAD,
            ),
            (
                "Host with a user",
                "GET / HTTP/1.1\r\nHost: a@localhost\r\n\r\n",
                BAD,
            ),
            (
                "another Host",
                "GET /health HTTP/1.1\r\nHost: a.example\r\n\r\n",
                &[421, 204],
            ),
            ("an empty value", "GET /health HTTP/1.1\r\nH:\r\nA:\r\n\r\n", OK),
            (
                "white space around a value",
                "GET /health HTTP/1.1\r\nH:\r\nA: \tb \t\r\n\r\n",
                OK,
            ),
            (
                "all signs of a name",
                "GET /health HTTP/1.1\r\nH:\r\n!#$%&'*+-.^_`|~9: b\r\n\r\n",
                OK,
            ),
            (
                "letters beyond ASCII",
                "GET /health HTTP/1.1\r\nH:\r\nA: \u{fc}\r\n\r\n",
                OK,
            ),
            (
                "space before a colon",
                "GET /health HTTP/1.1\r\nH:\r\nA : b\r\n\r\n",
                BAD,
            ),
            (
                "tab before a colon",
                "GET /health HTTP/1.1\r\nH:\r\nA\t: b\r\n\r\n",
                BAD,
            ),
            (
                "space in a name",
                "GET /health HTTP/1.1\r\nH:\r\nA B: c\r\n\r\n",
                BAD,
            ),
            (
                "brackets in a name",
                "GET /health HTTP/1.1\r\nH:\r\nA[]: c\r\n\r\n",
                BAD,
            ),
            ("no name", "GET /health HTTP/1.1\r\nH:\r\n: c\r\n\r\n", BAD),
            ("no colon", "GET /health HTTP/1.1\r\nH:\r\nA\r\n\r\n", BAD),
            (
                "a folded line",
                "GET /health HTTP/1.1\r\nH:\r\nA: b\r\n c\r\n\r\n",
                BAD,
            ),
            (
                "space before the first field",
                "GET /health HTTP/1.1\r\n A: b\r\nH:\r\n\r\n",
                BAD,
            ),
            ("LF alone", "GET /health HTTP/1.1\nHost: localhost\n\n", BAD),
            (
                "LF alone at one line",
                "GET /health HTTP/1.1\r\nH:\r\nA: b\n\r\n",
                BAD,
            ),
            ("LF alone at the end", "GET /health HTTP/1.1\r\nH:\r\n\n", BAD),
            (
                "CR alone",
                "GET /health HTTP/1.1\r\nH:\r\nA: b\rc: d\r\n\r\n",
                BAD,
            ),
            ("CR CR LF", "GET /health HTTP/1.1\r\nH:\r\nA: b\r\r\n\r\n", BAD),
            (
                "NUL in a value",
                "GET /health HTTP/1.1\r\nH:\r\nA: b\0c\r\n\r\n",
                BAD,
            ),
            (
                "DEL in a value",
                "GET /health HTTP/1.1\r\nH:\r\nA: b\x7fc\r\n\r\n",
                BAD,
            ),
            (
                "bell in a value",
                "GET /health HTTP/1.1\r\nH:\r\nA: b\x07c\r\n\r\n",
                BAD,
            ),
            (
                "NUL in a name",
                "GET /health HTTP/1.1\r\nH:\r\nA\0: b\r\n\r\n",
                BAD,
            ),
            ("many fields", &many, OK),
            ("too many fields", &too_many, &[431]),
            ("too large", &large, &[431]),
        ])
        .await;
}

#[tokio::test]
async fn connections() {
    let mut judge = Judge::new().await;
    let get = "GET /health HTTP/1.1\r\nH:\r\n";
    judge
        .check_all(&[
            (
                "three at once",
                &format!("{get}\r\n{get}\r\n{get}\r\n"),
                &[200, 200, 200, 204],
            ),
            (
                "one of them bad",
                &format!("{get}\r\n{get}A : b\r\n\r\n{get}\r\n"),
                &[200, 400],
            ),
            ("HEAD has no body", "HEAD /health HTTP/1.1\r\nH:\r\n\r\n", OK),
            ("close", &format!("{get}Connection: close\r\n\r\n"), &[200]),
            (
                "close in a list",
                &format!("{get}Connection: a, Close\r\n\r\n"),
                &[200],
            ),
            ("HTTP/1.0", "GET /health HTTP/1.0\r\n\r\n", &[200]),
            (
                "HTTP/1.0, keep-alive",
                "GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
                OK,
            ),
            (
                "another upgrade",
                &format!("{get}Upgrade: h2c\r\nConnection: upgrade\r\n\r\n"),
                OK,
            ),
            (
                "a body of GET, unread",
                &format!("{get}Content-Length: 3\r\n\r\nabc"),
                &[200],
            ),
            (
                "a body for an event stream",
                "GET /ch/a HTTP/1.1\r\nH:\r\nAccept: text/event-stream\r\nContent-Length: 3\r\n\r\nabc",
                BAD,
            ),
            (
                "a handshake without Upgrade",
                "GET /ch/a HTTP/1.1\r\nH:\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                &[426],
            ),
            (
                "a handshake of an old version",
                "GET /ch/a HTTP/1.1\r\nH:\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
                 Sec-WebSocket-Version: 8\r\n\r\n",
                &[426],
            ),
            (
                "a handshake without a key",
                "GET /ch/a HTTP/1.1\r\nH:\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
                 Sec-WebSocket-Version: 13\r\n\r\n",
                BAD,
            ),
            (
                "a handshake by POST",
                "POST /ch/a HTTP/1.1\r\nH:\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
                BAD,
            ),
        ])
        .await;
}

#[tokio::test]
async fn lengths() {
    let mut judge = Judge::new().await;
    let hidden = "GET /health HTTP/1.1\r\nA: bcd\r\n\r\n";
    let (large, length) = ("a".repeat(65), hidden.len());
    judge
        .check_posts(&[
            ("good", "Content-Length: 3\r\n\r\nabc", OK),
            ("leading zeros", "Content-Length: 003\r\n\r\nabc", OK),
            ("no length, no body", "\r\n", OK),
            ("empty", "Content-Length: 0\r\n\r\n", OK),
            (
                "a request as message",
                &format!("Content-Length: {length}\r\n\r\n{hidden}"),
                OK,
            ),
            (
                "shorter than what follows",
                "Content-Length: 3\r\n\r\nabc:",
                &[200, 400],
            ),
            (
                "a line end too much",
                "Content-Length: 3\r\n\r\nabc\r\n",
                &[200, 400],
            ),
            ("too large", &format!("Content-Length: 65\r\n\r\n{large}"), &[413]),
            ("huge", "Content-Length: 9999999999999999999\r\n\r\n", &[413]),
            ("overflow", "Content-Length: 18446744073709551619\r\n\r\nabc", BAD),
            ("negative", "Content-Length: -1\r\n\r\nabc", BAD),
            (
                "negative overflow",
                "Content-Length: -18446744073709551613\r\n\r\nabc",
                BAD,
            ),
            ("plus", "Content-Length: +3\r\n\r\nabc", BAD),
            ("hexadecimal", "Content-Length: 0x3\r\n\r\nabc", BAD),
            ("words", "Content-Length: three\r\n\r\nabc", BAD),
            ("nothing", "Content-Length:\r\n\r\nabc", BAD),
            ("two numbers", "Content-Length: 3 3\r\n\r\nabc", BAD),
            ("list", "Content-Length: 3, 3\r\n\r\nabc", BAD),
            ("twice", "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", BAD),
            (
                "two lengths",
                "Content-Length: 3\r\ncontent-length: 4\r\n\r\nabcd",
                BAD,
            ),
            (
                "100-continue",
                "Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
                &[100, 200, 204],
            ),
            (
                "100-continue, refused",
                "Expect: 100-continue\r\nContent-Length: 65\r\n\r\n",
                &[413],
            ),
        ])
        .await;
    judge
        .check_all(&[
            (
                "an unread body",
                "POST /nowhere HTTP/1.1\r\nH:\r\nContent-Length: 3\r\n\r\nabc",
                &[404],
            ),
            (
                "HTTP/1.0",
                "POST /ch/a HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc",
                &[200],
            ),
        ])
        .await;
}

#[tokio::test]
async fn chunks() {
    let mut judge = Judge::new().await;
    let (large, extension) = ("a".repeat(65), "a".repeat(257));
    judge
        .check_chunks(&[
            ("good", "3\r\nabc\r\n0\r\n\r\n", OK),
            ("none", "0\r\n\r\n", OK),
            (
                "several",
                "3\r\nabc\r\n00A\r\n0123456789\r\n1\r\n\n\r\n000\r\n\r\n",
                OK,
            ),
            ("an extension", "3;a=b;c=\"d\"\r\nabc\r\n0\r\n\r\n", OK),
            (
                "trailers",
                "3\r\nabc\r\n0\r\nA: b\r\nContent-Length: 9\r\n\r\n",
                OK,
            ),
            ("too large", &format!("41\r\n{large}\r\n0\r\n\r\n"), &[413]),
            ("0x", "0x3\r\nabc\r\n0\r\n\r\n", BAD),
            ("plus", "+3\r\nabc\r\n0\r\n\r\n", BAD),
            ("minus", "-3\r\nabc\r\n0\r\n\r\n", BAD),
            ("underscore", "0_3\r\nabc\r\n0\r\n\r\n", BAD),
            ("space before a size", " 3\r\nabc\r\n0\r\n\r\n", BAD),
            ("space behind a size", "3 \r\nabc\r\n0\r\n\r\n", BAD),
            ("no size", "\r\nabc\r\n0\r\n\r\n", BAD),
            ("an extension alone", ";a\r\nabc\r\n0\r\n\r\n", BAD),
            ("not hexadecimal", "g\r\nabc\r\n0\r\n\r\n", BAD),
            ("overflow", "10000000000000003\r\nabc\r\n0\r\n\r\n", BAD),
            ("LF behind a size", "3\nabc\r\n0\r\n\r\n", BAD),
            ("LF in an extension", "3;a\nabc\r\n0\r\n\r\n", BAD),
            ("CR in an extension", "3;a\rb\r\nabc\r\n0\r\n\r\n", BAD),
            (
                "a huge extension",
                &format!("3;{extension}\r\nabc\r\n0\r\n\r\n"),
                BAD,
            ),
            ("nothing behind a chunk", "3\r\nabc0\r\n\r\n", BAD),
            ("LF behind a chunk", "3\r\nabc\n0\r\n\r\n", BAD),
            ("longer than its size", "3\r\nabcd\r\n0\r\n\r\n", BAD),
            ("shorter than its size", "3\r\nab\r\n0\r\n\r\n", BAD),
            ("a trailer without a name", "0\r\n: b\r\n\r\n", BAD),
            ("a folded trailer", "0\r\nA: b\r\n c\r\n\r\n", BAD),
            ("space in a trailer", "0\r\nA : b\r\n\r\n", BAD),
            ("LF behind a trailer", "0\r\nA: b\n\r\n", BAD),
            ("NUL in a trailer", "0\r\nA: \0\r\n\r\n", BAD),
            (
                "too many trailers",
                &format!("0\r\n{}\r\n", "A: b\r\n".repeat(8)),
                BAD,
            ),
        ])
        .await;
    judge
        .check_posts(&[
            ("in capitals", "transfer-encoding:\tCHUNKED\r\n\r\n0\r\n\r\n", OK),
            (
                "with a length",
                "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
                BAD,
            ),
            (
                "behind a length",
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                BAD,
            ),
            (
                "length 0",
                "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                BAD,
            ),
            ("identity", "Transfer-Encoding: identity\r\n\r\n0\r\n\r\n", BAD),
            (
                "chunked, identity",
                "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
                BAD,
            ),
            (
                "gzip, chunked",
                "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
                BAD,
            ),
            (
                "twice in a list",
                "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
                BAD,
            ),
            (
                "twice",
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                BAD,
            ),
            (
                "chunked and identity",
                "Transfer-Encoding: chunked\r\nTransfer-encoding: identity\r\n\r\n0\r\n\r\n",
                BAD,
            ),
            ("xchunked", "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", BAD),
            ("quoted", "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", BAD),
            (
                "parameter",
                "Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n",
                BAD,
            ),
            ("nothing", "Transfer-Encoding:\r\n\r\n0\r\n\r\n", BAD),
            (
                "vertical tab",
                "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
                BAD,
            ),
            (
                "space before the colon",
                "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
                BAD,
            ),
            ("folded", "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", BAD),
        ])
        .await;
    judge
        .check_all(&[(
            "HTTP/1.0",
            "POST /ch/a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            BAD,
        )])
        .await;
}

/// Each hides `GET /health` for one of two readers. An answer too many is one that somebody else's
/// request would get, behind a proxy.
#[tokio::test]
async fn smuggling() {
    let mut judge = Judge::new().await;
    let get = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let length = get.len();
    let in_chunk = format!("{length:x}\r\n{get}\r\n0\r\n\r\n");
    let both = |length: usize, body: &str| {
        format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
    };
    judge
        .check_posts(&[
            ("CL.TE", &both(5 + length, &format!("0\r\n\r\n{get}")), BAD),
            ("TE.CL", &both(4, &in_chunk), BAD),
            (
                "CL.0",
                &format!("Content-Length: 0\r\n\r\n{get}"),
                &[200, 200, 204],
            ),
            (
                "0.CL",
                &format!("Content_Length: {length}\r\n\r\n{get}"),
                &[200, 200, 204],
            ),
            (
                "in the body",
                &format!("Content-Length: {length}\r\n\r\n{get}"),
                OK,
            ),
            (
                "in a chunk",
                &format!("Transfer-Encoding: chunked\r\n\r\n{in_chunk}"),
                OK,
            ),
            (
                "CL.CL",
                &format!("Content-Length: 0\r\nContent-Length: {length}\r\n\r\n{get}"),
                BAD,
            ),
            (
                "CL.CL, one with a space",
                &format!("Content-Length: 0\r\nContent-Length : {length}\r\n\r\n{get}"),
                BAD,
            ),
            (
                "a field behind LF",
                &format!("A: b\nContent-Length: {length}\r\n\r\n{get}"),
                BAD,
            ),
            (
                "a field behind CR",
                &format!("A: b\rContent-Length: {length}\r\n\r\n{get}"),
                BAD,
            ),
            (
                "a folded length",
                &format!("A: b\r\n Content-Length: {length}\r\n\r\n{get}"),
                BAD,
            ),
            (
                "TE.TE",
                &format!("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n{get}"),
                BAD,
            ),
            (
                "behind the last chunk",
                &format!("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{get}"),
                &[200, 200, 204],
            ),
            (
                "for trailers",
                &format!("Transfer-Encoding: chunked\r\n\r\n0\r\n{get}"),
                BAD,
            ),
            (
                "behind LF in an extension",
                &format!("Transfer-Encoding: chunked\r\n\r\n1;\n{get}"),
                BAD,
            ),
            (
                "a size that overflows",
                &format!("Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n\r\n{get}"),
                BAD,
            ),
            (
                "a chunk that ends early",
                &format!("Transfer-Encoding: chunked\r\n\r\n3\r\nabcXX0\r\n\r\n{get}"),
                BAD,
            ),
        ])
        .await;
}

/// What follows a handshake at once is a frame and no HTTP, wherever the handshake stands.
#[tokio::test]
async fn a_handshake_ends_the_http() {
    let mut judge = Judge::new().await;
    let handshake = handshake("/ch/a", "");
    let input = [handshake.as_bytes(), &frame(0x89, b"hello")].concat();
    for before in BEFORE {
        let mut tellings = Vec::new();
        for at in 1..=input.len() {
            let mut telling = Telling::begin(&judge.server, before, format!("cut at {at}")).await;
            telling.tell_first(&input[..at]).await;
            tellings.push((telling, at));
        }
        judge.all_is_read().await;
        for (telling, at) in &mut tellings {
            telling.tell(&input[*at..]).await;
        }
        for (telling, _) in tellings {
            let (mut peer, how) = (telling.peer, telling.how);
            if !matches!(before, Before::Nothing) {
                let length = peer.head().await.lines().find_map(|line| {
                    let length = line.strip_prefix("content-length: ")?;
                    length.parse::<usize>().ok()
                });
                let length = length.unwrap();
                while peer.got.len() < length {
                    assert!(peer.more().await, "{before:?}, {how}");
                }
                peer.got.drain(..length);
            }
            let head = peer.head().await;
            assert!(head.starts_with("HTTP/1.1 101"), "{before:?}, {how}: {head}");
            // Those whose handshake was whole at once also hear what the ones behind them publish.
            let said = loop {
                match peer.hear().await {
                    Said::Text(text) if matches!(before, Before::Pipelined(_)) && text == "a" => {}
                    said => break said,
                }
            };
            assert_eq!(said, Said::Pong(b"hello".to_vec()), "{before:?}, {how}");
        }
    }
}

/// A peer that goes on sending can do so, and hears the last answer when it is done. A reset would
/// make its system forget the answer.
#[tokio::test]
async fn the_last_answer_arrives() {
    let judge = Judge::new().await;
    // More than the system would keep for a server that reads nothing.
    let much = vec![b'a'; 8 << 20];
    let post = format!(
        "POST /ch/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
        much.len()
    );
    for (request, status) in [(post.as_str(), "413"), ("G/T / HTTP/1.1\r\n\r\n", "400")] {
        for before in BEFORE {
            let mut telling = Telling::begin(&judge.server, before, "whole".to_owned()).await;
            telling.tell_first(request.as_bytes()).await;
            let sent = telling.peer.socket.write_all(&much).await;
            assert!(sent.is_ok(), "{before:?}, {status}: {sent:?}");
            let mut got = Vec::new();
            let end = telling.peer.socket.read_to_end(&mut got).await;
            let got = String::from_utf8(got).unwrap();
            assert!(got.contains(&format!("HTTP/1.1 {status} ")), "{before:?}: {got}");
            assert!(end.is_ok(), "{before:?}, {status}: {end:?}");
        }
    }
}
