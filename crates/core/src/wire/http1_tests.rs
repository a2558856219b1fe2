//! Heads as data. Each is cut at every byte: the beginning of a good head is "not yet" and never
//! a guess; the beginning of a bad one is "not yet" or already refused.

use super::*;

const LIMITS: HeadLimits = HeadLimits {
    head_bytes_max: 600,
    fields_max: 5,
    target_bytes_max: 100,
};

type Outline<'a> = (&'a str, Option<&'a str>, Option<&'a str>, bool);

/// Method, path, query and whether a body follows; or the status of the refusal.
#[track_caller]
fn check(head: &str, expected: Result<Outline<'_>, u16>) {
    let input = head.as_bytes();
    let got = parse(input, &LIMITS);
    match (&got, expected) {
        (Ok(Some(head)), Ok(expected)) => {
            assert_eq!(
                (head.method, head.path(), head.query(), head.has_body()),
                expected
            );
            let end = head.len;
            assert_eq!(&input[end - 4..end], b"\r\n\r\n");
            for cut in 0..end {
                assert!(matches!(parse(&input[..cut], &LIMITS), Ok(None)), "cut at {cut}");
            }
        }
        (Err(error), Err(status)) => {
            assert_eq!(error.status(), status, "{head:?}");
            for cut in 0..input.len() {
                assert!(
                    !matches!(parse(&input[..cut], &LIMITS), Ok(Some(_))),
                    "cut at {cut}"
                );
            }
        }
        (got, expected) => panic!("{head:?}: {got:?} instead of {expected:?}"),
    }
}

fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n")
}

#[track_caller]
fn check_fields(fields: &str, status: u16) {
    match status {
        200 => check(&get(fields), Ok(("GET", Some("/"), None, false))),
        _ => check(&get(fields), Err(status)),
    }
}

#[test]
fn request_lines() {
    check(
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        Ok(("GET", Some("/"), None, false)),
    );
    check(
        "POST /ch/a?event=x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
        Ok(("POST", Some("/ch/a"), Some("event=x"), true)),
    );
    check("GET / HTTP/1.0\r\n\r\n", Ok(("GET", Some("/"), None, false)));
    check(
        "GET http://h/p?q HTTP/1.1\r\nHost: h\r\n\r\n",
        Ok(("GET", Some("/p"), Some("q"), false)),
    );
    check(
        "GET http://h HTTP/1.1\r\nHost: h\r\n\r\n",
        Ok(("GET", Some("/"), None, false)),
    );
    check(
        "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        Ok(("OPTIONS", None, None, false)),
    );
    check(
        "CONNECT h:80 HTTP/1.1\r\nHost: x\r\n\r\n",
        Ok(("CONNECT", None, None, false)),
    );
    check(
        "GET HTTP://H?q HTTP/1.1\r\nHost: h\r\n\r\n",
        Ok(("GET", Some("/"), Some("q"), false)),
    );
    check(
        "GET /{a|b}?`^ HTTP/1.1\r\nHost: x\r\n\r\n",
        Ok(("GET", Some("/{a|b}"), Some("`^"), false)),
    );
    check(
        "BREW /pot HTTP/1.1\r\nHost: x\r\n\r\n",
        Ok(("BREW", Some("/pot"), None, false)),
    );
    check("GET  / HTTP/1.1\r\nHost: x\r\n\r\n", Err(400));
    check("GET /\r\nHost: x\r\n\r\n", Err(400));
    check("GET / HTTP/2.0\r\nHost: x\r\n\r\n", Err(505));
    check("GET / HTTP/1.2\r\nHost: x\r\n\r\n", Err(505));
    check("GET / HTTP/1.1 \r\nHost: x\r\n\r\n", Err(400));
    check("GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", Err(505));
    check("GET /\u{fc} HTTP/1.1\r\nHost: x\r\n\r\n", Err(400));
    check("GET /#a HTTP/1.1\r\nHost: x\r\n\r\n", Err(400));
    check("\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", Err(400));
    check(" GET / HTTP/1.1\r\nHost: x\r\n\r\n", Err(400));
    check("G\x01T / HTTP/1.1\r\nHost: x\r\n\r\n", Err(400));
    check("\x16\x03\x01\x02\0\x01", Err(400));
    check("\x16", Err(400));
    check("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Err(505));
}

#[test]
fn targets_that_are_read_in_two_ways() {
    for bad in [
        "GET ch/a",
        "GET ?a",
        "GET *",
        "GET h:80",
        "GET ftp://h/",
        "GET http:///a",
        "GET http://",
        "GET http:/h/",
        "GET http://other/",
        "GET http://h:80/",
        "GET http://u@h/",
        "GET http://h\\a/",
        "GET http://[::1/",
        "GET http://h#a",
        "OPTIONS **",
        "CONNECT h",
        "CONNECT /ch/a",
        "CONNECT http://h/",
        "CONNECT h:x",
        "GET /<a>",
        "GET /`",
        "GET /?\"",
        "GET /?a#b",
        "GET /\x7f",
        "GET /\t",
    ] {
        check(&format!("{bad} HTTP/1.1\r\nHost: h\r\n\r\n"), Err(400));
    }
}

#[test]
fn line_ends() {
    check("GET / HTTP/1.1\nHost: x\n\n", Err(400));
    check("GET / HTTP/1.1\r\nHost: x\n\r\n", Err(400));
    check("GET / HTTP/1.1\r\nHost: x\r\n\n", Err(400));
    check("GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n", Err(400));
}

#[test]
fn hosts() {
    check("GET / HTTP/1.1\r\n\r\n", Err(400));
    check("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Err(400));
    check("GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n", Err(400));
    for (host, good) in [
        ("", true),
        ("a", true),
        ("a.b-c_d.", true),
        ("a:80", true),
        ("a:", true),
        ("127.0.0.1:8080", true),
        ("[::1]", true),
        ("[::1]:80", true),
        (":80", false),
        ("a b", false),
        ("a, b", false),
        ("a/b", false),
        ("u@a", false),
        ("a:b", false),
        ("a:1:2", false),
        ("a:123456", false),
        ("a?b", false),
        ("[::1", false),
        ("[::1]a", false),
        ("[a]", false),
        ("http://a", false),
        ("\u{fc}", false),
        ("\"a\"", false),
    ] {
        let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let outline = ("GET", Some("/"), None, false);
        check(&head, if good { Ok(outline) } else { Err(400) });
    }
}

#[test]
fn fields() {
    check_fields("A: b\r\n", 200);
    check_fields("A:b\r\n", 200);
    check_fields("A:\r\n", 200);
    check_fields("A: b\tc\r\n", 200);
    check_fields("A: \u{fc}\r\n", 200);
    check_fields("A : b\r\n", 400);
    check_fields(" A: b\r\n", 400);
    check_fields("A: b\r\n c\r\n", 400);
    check_fields("A b\r\n", 400);
    check_fields(": b\r\n", 400);
    check_fields("A\0: b\r\n", 400);
    check_fields("A: b\0c\r\n", 400);
    check_fields("A: b\x01c\r\n", 400);
    check_fields("A: b\x7fc\r\n", 400);
    check_fields("A(): b\r\n", 400);
}

#[test]
fn lengths_and_smuggling() {
    check_fields("Content-Length: 0\r\n", 200);
    check(
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        Ok(("POST", Some("/"), None, true)),
    );
    check(
        "POST / HTTP/1.1\r\nHost: x\r\ntransfer-encoding: Chunked\r\n\r\n",
        Ok(("POST", Some("/"), None, true)),
    );
    for bad in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        "Content-Length: 3\r\nContent-Length: 4\r\n",
        "Content-Length: 3\r\nContent-Length: 3\r\n",
        "Content-Length: 3, 3\r\n",
        "Content-Length: +3\r\n",
        "Content-Length: -3\r\n",
        "Content-Length: 0x3\r\n",
        "Content-Length: 3 3\r\n",
        "Content-Length:\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
        "Transfer-Encoding: chunked;x\r\n",
    ] {
        check_fields(bad, 400);
    }
    check(
        "POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        Err(400),
    );
}

#[test]
fn limits_hold_at_the_limit_and_one_beyond() {
    let target = |len: usize| format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(len - 1));
    assert!(matches!(parse(target(100).as_bytes(), &LIMITS), Ok(Some(_))));
    check(&target(101), Err(414));
    assert_eq!(
        parse(target(900).as_bytes().get(..300).unwrap(), &LIMITS)
            .unwrap_err()
            .status(),
        414
    );
    // Whether the line has ended already makes no difference.
    let method = format!("{} / HTTP/1.1\r\nHost: x\r\n\r\n", "A".repeat(200));
    check(&method, Err(414));
    check_fields("A: b\r\nA: b\r\nA: b\r\nA: b\r\n", 200);
    check_fields("A: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\n", 431);
    let sized = |len: usize| {
        let empty = get("A: \r\n");
        get(&format!("A: {}\r\n", "b".repeat(len - empty.len())))
    };
    check(&sized(600), Ok(("GET", Some("/"), None, false)));
    check(&sized(601), Err(431));
    assert_eq!(
        parse(&sized(900).as_bytes()[..700], &LIMITS)
            .unwrap_err()
            .status(),
        431
    );
}

#[track_caller]
fn check_upgrade(head: &str, expected: &Upgrade) {
    let limits = HeadLimits {
        fields_max: 20,
        ..LIMITS
    };
    let head = parse(head.as_bytes(), &limits).unwrap().unwrap();
    assert_eq!(&websocket_upgrade(&head), expected, "{head:?}");
}

#[test]
fn websocket_handshakes() {
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let good = format!(
        "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n{key}"
    );
    let yes = Upgrade::Yes {
        accept: "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned(),
    };
    check_upgrade(&get(&good), &yes);
    check_upgrade(&get(&good.replace("websocket\r\nC", "WebSocket\r\nC")), &yes);
    check_upgrade(&get(""), &Upgrade::No);
    check_upgrade(&get("Upgrade: h2c\r\nConnection: Upgrade\r\n"), &Upgrade::No);
    check_upgrade(&get(&good.replace("Upgrade: websocket\r\n", "")), &Upgrade::Lost);
    check_upgrade(
        &get(&good.replace("keep-alive, Upgrade", "close")),
        &Upgrade::Lost,
    );
    check_upgrade(&get(&good.replace(": 13", ": 8")), &Upgrade::OtherVersion);
    let bad_key = Upgrade::Bad("Sec-WebSocket-Key is not the base64 of 16 bytes");
    check_upgrade(&get(&good.replace(key, "")), &bad_key);
    check_upgrade(&get(&good.replace("dGhl", "dGh")), &bad_key);
    check_upgrade(&get(&format!("{good}{key}")), &bad_key);
    let bad_method = Upgrade::Bad("a WebSocket handshake is a GET of HTTP/1.1");
    check_upgrade(&get(&good).replace("GET", "POST"), &bad_method);
    check_upgrade(&get(&good).replace("HTTP/1.1", "HTTP/1.0"), &bad_method);
    check_upgrade(
        &get(&format!("{good}Content-Length: 1\r\n")),
        &Upgrade::Bad("a WebSocket handshake has no body"),
    );
}

#[test]
fn answers_are_whole_and_cannot_be_split() {
    let answer = response(404, &[("A", "b"), ("Evil", "x\r\nSet-Cookie: y")], b"{}");
    assert_eq!(
        answer,
        b"HTTP/1.1 404 Not Found\r\nA: b\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n\
          Content-Length: 2\r\nConnection: close\r\n\r\n{}"
    );
}
