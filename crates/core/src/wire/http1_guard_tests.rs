//! Connections as data: what passes, and what becomes of the rest. Each is cut at every byte and
//! fed byte by byte; that must make no difference.

use proptest::prelude::*;

use super::*;

const LIMITS: HeadLimits = HeadLimits {
    head_bytes_max: 600,
    fields_max: 8,
    target_bytes_max: 100,
};

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
const THREE: &str = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";

/// Does what a caller does: keeps what did not pass.
fn feed<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, Next, bool) {
    let mut guard = Guard::new(LIMITS);
    let (mut held, mut passed, mut next) = (Vec::new(), Vec::new(), Next::More);
    for piece in pieces {
        held.extend_from_slice(piece);
        let look = guard.look(&held);
        passed.extend(held.drain(..look.passed));
        next = look.next;
    }
    (passed, next, guard.is_between_requests())
}

/// The cuts of one input: whole, in two at every byte, byte by byte.
fn each_cut(input: &[u8], mut check: impl FnMut((Vec<u8>, Next, bool), &str)) {
    check(feed(std::iter::once(input)), "whole");
    for at in 0..input.len() {
        let (first, second) = input.split_at(at);
        check(feed([first, second].into_iter()), &format!("cut at {at}"));
    }
    check(feed(input.chunks(1)), "byte by byte");
}

/// `good` passes and `rest` does not; what becomes of it.
#[track_caller]
fn check(good: &str, rest: &str, expected: Next) {
    let input = [good, rest].concat();
    each_cut(input.as_bytes(), |(passed, next, _), how| {
        assert_eq!(String::from_utf8_lossy(&passed), good, "{input:?} {how}");
        assert_eq!(next, expected, "{input:?} {how}");
    });
}

/// The whole input passes, and then a further request.
#[track_caller]
fn check_good(input: &str) {
    check(&[input, GET].concat(), "", Next::More);
    let (_, _, between) = feed(std::iter::once(input.as_bytes()));
    assert!(between, "{input:?}");
}

/// A body of chunks of which `good` passes and `bad` does not.
#[track_caller]
fn check_body(good: &str, bad: &str, cause: &'static str) {
    check(
        &[CHUNKED, good].concat(),
        bad,
        Next::BadBody(HeadError::Bad(cause)),
    );
}

/// A head that is refused, also behind a good request.
#[track_caller]
fn check_head(bad: &str, status: u16) {
    for good in ["", GET, THREE, &[CHUNKED, "0\r\n\r\n"].concat()] {
        let input = [good, bad].concat();
        each_cut(input.as_bytes(), |(passed, next, _), how| {
            assert_eq!(String::from_utf8_lossy(&passed), good, "{input:?} {how}");
            match next {
                Next::BadHead(error) => assert_eq!(error.status(), status, "{input:?} {how}"),
                next => panic!("{input:?} {how}: {next:?}"),
            }
        });
    }
}

#[test]
fn bodies_by_length() {
    check_good(GET);
    check_good(THREE);
    check_good("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    check_good("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nGET /");
    check_good("POST / HTTP/1.0\r\nContent-Length: 4\r\n\r\n\r\n\r\n");
    // A head that is not whole yet does not pass, a body that is not whole yet does.
    check(GET, "GET / HTTP/1.1\r\nHost: x\r\n\r", Next::More);
    check(
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc",
        "",
        Next::More,
    );
    let (_, _, between) = feed(std::iter::once(&THREE.as_bytes()[..THREE.len() - 1]));
    assert!(!between);
}

#[test]
fn bodies_in_chunks() {
    for good in [
        "0\r\n\r\n",
        "3\r\nabc\r\n0\r\n\r\n",
        "00000000000000A\r\n0123456789\r\n000\r\n\r\n",
        "1\r\na\r\n2\r\nbc\r\n0\r\n\r\n",
        "3;a=b;c=\"d e\"\r\nabc\r\n0;x\r\n\r\n",
        "2\r\n\r\n\r\n0\r\n\r\n",
        "0\r\nA: b\r\nC:\r\n\r\n",
    ] {
        check_good(&[CHUNKED, good].concat());
    }
    let size = "the size of a chunk is not a hexadecimal number";
    for bad in ["x", "\r\n", ";a", "-1", "+5", " 5", "\t", "\0"] {
        check_body("", bad, size);
        check_body("1\r\na\r\n", bad, size);
    }
    for bad in ["x5\r\n", " \r\n", "\n", "_0", ",5"] {
        check_body("0", bad, size);
    }
    check_body("0123456789abcdef", "0", "the size of a chunk is too large");
    check_body("3\r\nabc", "d\r\n", "a chunk is longer than its size");
    check_body("3\r\nabc", "\n", "a chunk is longer than its size");
    check_body("3\r\nabc\r", "\r\n", "a chunk is longer than its size");
    let line_end = "lines between chunks must end with CRLF";
    check_body("3\r", "abc", line_end);
    check_body("0\r\n\r", "\r", line_end);
    check_body("0\r\nA: b\r", "C", line_end);
    let control = "control character in a chunk extension";
    check_body("3;a", "\n", control);
    check_body("3;", "\0", control);
    check_body("3;", "\u{fc}", control);
}

#[test]
fn trailers() {
    for bad in [" A: b", ":b", "\n", "\0"] {
        check_body("0\r\n", bad, "a trailer is not a field");
    }
    check_body("0\r\nA", " : b", "a trailer is not a field");
    check_body("0\r\nA: b\r\n", " c", "a trailer is not a field");
    check_body("0\r\nGET", " / HTTP/1.1\r\n", "a trailer is not a field");
    check_body("0\r\nA: ", "\n", "control character in a trailer");
    check_body("0\r\nA: ", "\0", "control character in a trailer");
}

#[test]
fn limits_hold_at_the_limit_and_one_beyond() {
    let extension = |len: usize| format!("3;{}", "a".repeat(len));
    check_good(&[CHUNKED, &extension(256), "\r\nabc\r\n0\r\n\r\n"].concat());
    check_body(&extension(256), "a", "the chunk extensions are too large");
    // For the whole body, or many small ones would do.
    let many = [&extension(256), "\r\nabc\r\n0;"].concat();
    check_body(&many, "a", "the chunk extensions are too large");
    let fields = format!("0\r\n{}", "A:\r\n".repeat(8));
    check_good(&[CHUNKED, &fields, "\r\n"].concat());
    check_body(&fields, "A:", "too many trailers");
    let value = usize::from(TRAILERS_BYTES_MAX) - "A:\r\n".len();
    let long = |len: usize| [CHUNKED, "0\r\nA:", &"b".repeat(len), "\r\n\r\n"].concat();
    let look = |input: String| Guard::new(LIMITS).look(input.as_bytes());
    // The end's own line counts for one.
    assert_eq!(look(long(value - 1)).next, Next::More);
    assert_eq!(
        look(long(value)).next,
        Next::BadBody(HeadError::Bad("the trailers are too large"))
    );
}

#[test]
fn later_heads_are_held_to_the_same_rules() {
    check_head("GET / HTTP/1.1\nHost: x\n\n", 400);
    check_head("GET / HTTP/1.1\r\n\r\n", 400);
    check_head("\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", 400);
    check_head("GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n", 400);
    check_head("GET / HTTP/3.0\r\nHost: x\r\n\r\n", 505);
    check_head(
        &format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(100)),
        414,
    );
    check_head(
        &format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(8)),
        431,
    );
    check_head(
        &format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "b".repeat(600)),
        431,
    );
    check_head(
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    );
    // What is left of a body that is longer than announced is no head.
    check_head("abcGET / HTTP/1.1 \r\nHost: x\r\n\r\n", 400);
}

#[test]
fn nothing_passes_behind_a_handshake() {
    let fields = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n";
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let good = format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}{key}\r\n");
    for behind in ["", GET, "\u{1}\u{2}", "\r\n\r\n"] {
        check(&good, behind, Next::Handshake);
        check(&[THREE, &good].concat(), behind, Next::Handshake);
    }
    // Its answer will not be 101, but who sent it may go on as if it were.
    let bad = format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
    check(&bad, GET, Next::Handshake);
    let lost = format!("GET / HTTP/1.1\r\nHost: x\r\n{key}\r\n");
    check(&lost, GET, Next::Handshake);
    check(
        "CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n",
        GET,
        Next::Handshake,
    );
    check_good("GET / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n");
}

/// Pieces from which a connection can be made: good ones and such as nearly are.
fn part() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        GET,
        THREE,
        CHUNKED,
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n\r\n",
        "3\r\nabc\r\n",
        "0\r\n\r\n",
        "0\r\nA: b\r\n\r\n",
        "1b\r\n",
        "a;b=c\r\n",
        "\r\n",
        "\n",
        "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        "Host: x\r\n",
        "GET / HTTP/1.0\r\n",
        "Content-Length: 3\r\n",
        "0",
        " ",
        "\0",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(512)))]

    #[test]
    fn cuts_make_no_difference(
        parts in proptest::collection::vec(part(), 1..12),
        sizes in proptest::collection::vec(1_usize..40, 1..12),
    ) {
        let input = parts.concat().into_bytes();
        let (passed, next, between) = feed(std::iter::once(&input[..]));
        let mut rest = &input[..];
        let mut sizes = sizes.iter().cycle();
        let pieces = std::iter::from_fn(|| {
            let (piece, left) = rest.split_at(rest.len().min(*sizes.next()?));
            rest = left;
            (!piece.is_empty()).then_some(piece)
        });
        let (passed_cut, next_cut, between_cut) = feed(pieces);
        prop_assert_eq!(passed, passed_cut);
        prop_assert_eq!(between, between_cut);
        // Of two faults in one head the first that arrives is named.
        prop_assert_eq!(std::mem::discriminant(&next), std::mem::discriminant(&next_cut));
    }
}
