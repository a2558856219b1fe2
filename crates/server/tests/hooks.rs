//! The back end decides: who connects (`on_connect`) and what is relayed (`on_message`); and it hears
//! who is online (`on_presence`).

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/back_end.rs"]
mod back_end;
mod support;
#[path = "support/token.rs"]
mod token;

use back_end::{BackEnd, Question};
use serde_json::{Value, json};
use support::{KEY, PATIENCE, Peer, Said, Server, frame, text};
use token::token;

fn with_key() -> String {
    format!("Authorization: Bearer {KEY}\r\n")
}

/// A server with this hook, and the back end that it asks.
async fn start(hook: &str, settings: &[(&str, &str)]) -> (Server, BackEnd) {
    let back_end = BackEnd::start().await;
    let (name, url) = (
        format!("FANFARE_HOOKS_{}", hook.to_uppercase()),
        back_end.url("/hook"),
    );
    let own = [("FANFARE_KEY", KEY), (&name, &url)];
    (Server::start(&[&own, settings].concat()), back_end)
}

async fn metric(server: &Server, line: &str) -> Option<u64> {
    let mut admin = Peer::to(&server.admin_address()).await;
    let (_, _, text) = admin.request("GET", "/metrics", "", b"").await;
    let rest = text.lines().find_map(|own| own.strip_prefix(line))?;
    rest.trim().parse().ok()
}

/// Sends the head of a handshake, without waiting for its answer.
async fn knock(server: &Server, path: &str, fields: &str) -> Peer {
    let mut peer = server.connect().await;
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{fields}\r\n",
        server.address
    );
    peer.send_head(&head).await;
    peer
}

async fn opened(mut peer: Peer) -> Peer {
    let head = peer.head().await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    peer
}

/// Sends a request for an event stream.
async fn ask_for_stream(server: &Server, path: &str, fields: &str) -> Peer {
    let mut peer = server.connect().await;
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n{fields}\r\n",
        server.address
    );
    peer.send_head(&head).await;
    peer
}

async fn post(server: &Server, path: &str, body: &str) -> Value {
    let (status, _, answer) = server.request("POST", path, &with_key(), body.as_bytes()).await;
    assert_eq!(status, 200, "{answer}");
    serde_json::from_str(&answer).unwrap()
}

/// The page that connects, and its cookie.
fn page(server: &Server) -> String {
    format!(
        "Origin: http://{}\r\nCookie: PHPSESSID=abc; theme=dark\r\n",
        server.address
    )
}

#[tokio::test]
async fn the_back_end_is_asked_as_the_browser_would_ask_it() {
    let (server, mut back_end) = start("on_connect", &[]).await;
    let peer = knock(&server, "/ch/private%2F7?meta=1", &page(&server)).await;
    let question = back_end.asked().await;
    assert_eq!(question.line, "POST /hook");
    assert_eq!(question.field("cookie"), Some("PHPSESSID=abc; theme=dark"));
    assert_eq!(
        question.field("origin"),
        Some(format!("http://{}", server.address).as_str())
    );
    assert_eq!(question.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(question.field("fanfare-hook"), Some("on_connect"));
    assert_eq!(question.field("content-type"), Some("application/json"));
    assert!(question.is_signed_with(KEY));
    assert!(!question.is_signed_with("another key that is long enough for it"));
    let expected = json!({"path": "/ch/private%2F7", "channels": ["private/7"], "transport": "websocket",
        "address": "127.0.0.1"});
    assert_eq!(question.json(), expected);
    question.answer(200, r#"{"user":42,"listen":["private/*"],"speak":["private/7"]}"#);
    let mut peer = opened(peer).await;
    // She is who the back end says, hears what it allows, and speaks where it allows.
    assert_eq!(
        post(&server, "/user/42", "for you").await["connections"],
        json!(1)
    );
    assert!(matches!(peer.hear().await, Said::Text(heard) if heard.contains("for you")));
    let other = knock(&server, "/ch/private%2F7", "").await;
    back_end.asked().await.answer(200, r#"{"listen":["private/7"]}"#);
    let mut other = opened(other).await;
    peer.say("hello").await;
    assert_eq!(other.hear().await, text("hello"));
    assert_eq!(
        metric(
            &server,
            "fanfare_hook_requests_total{hook=\"on_connect\",outcome=\"answered\"}"
        )
        .await,
        Some(2)
    );
}

#[tokio::test]
async fn a_page_that_may_not_use_cookies_does_not_get_them_used() {
    let (server, mut back_end) = start("on_connect", &[]).await;
    // No origin: a program; its cookies may be anybody's.
    let peer = knock(&server, "/ch/a", "Cookie: PHPSESSID=abc\r\n").await;
    let question = back_end.asked().await;
    assert_eq!((question.field("cookie"), question.field("origin")), (None, None));
    question.answer(204, "");
    opened(peer).await;
    // Another origin does not even come this far.
    let fields = "Origin: https://evil.example\r\nCookie: PHPSESSID=abc\r\n";
    let mut peer = knock(&server, "/ch/a", fields).await;
    assert!(peer.head().await.starts_with("HTTP/1.1 403"));
    assert!(back_end.is_quiet());
}

/// What comes of an answer: what a WebSocket, an event stream and a GET get. `None`: they are let in.
async fn check(answer: fn(Question), path: &str, expected: Option<(u16, u16)>) {
    let (server, mut back_end) = start("on_connect", &[("FANFARE_HOOKS_TIMEOUT", "200ms")]).await;
    let peer = knock(&server, path, "").await;
    answer(back_end.asked().await);
    // A browser reads no status of a handshake, so it is opened, and then closed.
    let mut peer = opened(peer).await;
    let mut stream = ask_for_stream(&server, path, "").await;
    answer(back_end.asked().await);
    let head = stream.head().await;
    let mut get = server.connect().await;
    let mut asked = async || answer(back_end.asked().await);
    let ((status, _, body), ()) = tokio::join!(get.request("GET", path, "", b""), asked());
    match expected {
        None => {
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            assert!(stream.block().await.starts_with(":\nretry: "));
            assert_eq!(status, 200, "{body}");
            post(&server, path, "hello").await;
            assert_eq!(peer.hear().await, text("hello"));
            assert!(stream.event().await.ends_with("data: hello\n\n"));
        }
        Some((code, expected)) => {
            assert!(
                matches!(peer.hear().await, Said::Close(got, _) if got == code),
                "{code}"
            );
            assert_eq!(status, expected, "{body}");
            if expected == 503 {
                // EventSource gives up for ever when it sees an error status.
                assert!(head.starts_with("HTTP/1.1 200"), "{head}");
                assert!(stream.block().await.starts_with(":\nretry: "));
                assert!(!stream.more().await);
            } else {
                assert!(head.starts_with(&format!("HTTP/1.1 {expected}")), "{head}");
            }
        }
    }
}

#[tokio::test]
async fn yes_is_yes() {
    check(|question| question.answer(200, ""), "/ch/a", None).await;
    check(|question| question.answer(204, ""), "/ch/a", None).await;
    check(
        |question| question.answer(200, r#"{"user":"42","name":"Ann"}"#),
        "/ch/a",
        None,
    )
    .await;
    check(
        |question| question.answer(200, r#"{"user":"42"}"#),
        "/ch/user%2F42",
        None,
    )
    .await;
}

#[tokio::test]
async fn no_is_no() {
    check(|question| question.answer(401, ""), "/ch/a", Some((4401, 401))).await;
    check(|question| question.answer(403, ""), "/ch/a", Some((4403, 403))).await;
    // A yes grants what it names, and private channels must be named.
    check(
        |question| question.answer(200, r#"{"listen":["private/8"]}"#),
        "/ch/private%2F7",
        Some((4403, 403)),
    )
    .await;
    check(
        |question| question.answer(200, ""),
        "/ch/private%2F7",
        Some((4401, 401)),
    )
    .await;
    check(
        |question| question.answer(200, r#"{"user":"42"}"#),
        "/ch/private%2F7",
        Some((4403, 403)),
    )
    .await;
}

#[tokio::test]
async fn no_answer_is_no_but_one_may_come_back() {
    check(|question| question.answer(500, ""), "/ch/a", Some((1013, 503))).await;
    check(|question| question.answer(302, ""), "/ch/a", Some((1013, 503))).await;
    check(
        |question| question.answer(200, "<b>Warning</b>"),
        "/ch/a",
        Some((1013, 503)),
    )
    .await;
    check(
        |question| question.answer(200, &"x".repeat(70_000)),
        "/ch/a",
        Some((1013, 503)),
    )
    .await;
    // The connection ends.
    check(drop, "/ch/a", Some((1013, 503))).await;
    // No answer at all.
    check(std::mem::forget, "/ch/a", Some((1013, 503))).await;
}

#[tokio::test]
async fn what_the_back_end_grants_can_end() {
    let (server, mut back_end) = start("on_connect", &[]).await;
    let peer = knock(&server, "/ch/a", "").await;
    back_end.asked().await.answer(200, r#"{"user":"42","exp":1000}"#);
    let mut peer = opened(peer).await;
    assert!(matches!(peer.hear().await, Said::Close(4401, _)));
}

#[tokio::test]
async fn who_shows_a_token_or_the_key_is_known() {
    let (server, mut back_end) = start("on_connect", &[]).await;
    let mut peer = server
        .websocket(&format!("/ch/a?token={}", token(json!({"sub": "42"}))))
        .await;
    let mut keyed = server.websocket_with("/ch/private%2F7", &with_key()).await;
    post(&server, "/ch/a", "one").await;
    assert_eq!(peer.hear().await, text("one"));
    post(&server, "/ch/private%2F7", "two").await;
    assert_eq!(keyed.hear().await, text("two"));
    // A bad token is refused as ever, not asked about.
    let mut bad = server.websocket("/ch/a?token=a.b.c").await;
    assert!(matches!(bad.hear().await, Said::Close(4401, _)));
    assert!(back_end.is_quiet());
}

#[tokio::test]
async fn a_request_that_is_wrong_anyway_is_not_asked_about() {
    let (server, mut back_end) = start("on_connect", &[]).await;
    let mut bad = server.websocket("/ch/a?last=x").await;
    assert!(matches!(bad.hear().await, Said::Close(4400, _)));
    let mut nowhere = server.websocket("/nowhere").await;
    assert!(matches!(nowhere.hear().await, Said::Close(4404, _)));
    assert!(back_end.is_quiet());
}

#[tokio::test]
async fn only_those_who_asked_wait() {
    let (server, mut back_end) = start("on_connect", &[("FANFARE_SHARDS", "1")]).await;
    let token = token(json!({"sub": "42"}));
    let mut open = server.websocket(&format!("/ch/a?token={token}")).await;
    // What it sends behind its handshake is not lost, nor read before it is let in.
    let mut waiting = knock(&server, "/ch/main", "").await;
    waiting.send(&frame(0x81, b"early")).await;
    let question = back_end.asked().await;
    waiting.send(&frame(0x81, b"later")).await;
    let mut listener = server.websocket(&format!("/ch/main?token={token}")).await;
    post(&server, "/ch/a", "meanwhile").await;
    assert_eq!(open.hear().await, text("meanwhile"));
    // One that goes while it waits is forgotten.
    let gone = knock(&server, "/ch/a", "").await;
    let forgotten = back_end.asked().await;
    drop(gone);
    question.answer(200, "");
    let mut waiting = opened(waiting).await;
    assert_eq!(listener.hear().await, text("early"));
    assert_eq!(listener.hear().await, text("later"));
    post(&server, "/ch/main", "hello").await;
    assert_eq!(waiting.hear().await, text("hello"));
    forgotten.answer(200, r#"{"user":"gone"}"#);
    let gone = async {
        while metric(&server, "fanfare_hook_waiting{hook=\"on_connect\"}").await != Some(0) {}
        while metric(&server, "fanfare_users").await != Some(1) {}
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
}

#[tokio::test]
async fn further_requests_of_a_connection_are_asked_about_too() {
    let (server, mut back_end) = start("on_connect", &[]).await;
    let mut peer = server.connect().await;
    let (status, ..) = peer.request("GET", "/health", "", b"").await;
    assert_eq!(status, 200);
    let head = format!(
        "GET /ch/main HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        server.address
    );
    peer.send_head(&head).await;
    back_end.asked().await.answer(200, r#"{"user":"7"}"#);
    let mut peer = opened(peer).await;
    // The answer of the handshake is out a moment before the session is open.
    peer.say("here").await;
    let here = async { while metric(&server, "fanfare_users").await != Some(1) {} };
    tokio::time::timeout(PATIENCE, here).await.unwrap();
    post(&server, "/user/7", "hello").await;
    assert_eq!(peer.hear().await, text("hello"));
    let mut slow = server.connect().await;
    slow.request("GET", "/health", "", b"").await;
    let head = format!(
        "GET /ch/a HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n\r\n",
        server.address
    );
    slow.send_head(&head).await;
    let question = back_end.asked().await;
    assert_eq!(question.json()["transport"], "event_stream");
    question.answer(403, "");
    assert!(slow.head().await.starts_with("HTTP/1.1 403"));
}

#[tokio::test]
async fn a_back_end_that_fails_is_left_alone_for_a_while() {
    let settings = [
        ("FANFARE_HOOKS_FAILURES_MAX", "2"),
        ("FANFARE_HOOKS_PAUSE", "3600s"),
    ];
    let (server, mut back_end) = start("on_connect", &settings).await;
    for _ in 0..2 {
        let peer = knock(&server, "/ch/a", "").await;
        back_end.asked().await.answer(500, "");
        assert!(matches!(opened(peer).await.hear().await, Said::Close(1013, _)));
    }
    for _ in 0..3 {
        let peer = knock(&server, "/ch/a", "").await;
        assert!(matches!(opened(peer).await.hear().await, Said::Close(1013, _)));
    }
    assert!(back_end.is_quiet());
    assert_eq!(
        metric(&server, "fanfare_hook_circuit_open{hook=\"on_connect\"}").await,
        Some(1)
    );
    assert_eq!(
        metric(
            &server,
            "fanfare_hook_requests_total{hook=\"on_connect\",outcome=\"circuit_open\"}"
        )
        .await,
        Some(3)
    );
}

#[tokio::test]
async fn a_back_end_that_answers_again_is_asked_again() {
    let settings = [
        ("FANFARE_HOOKS_FAILURES_MAX", "1"),
        ("FANFARE_HOOKS_PAUSE", "100ms"),
    ];
    let (server, mut back_end) = start("on_connect", &settings).await;
    let peer = knock(&server, "/ch/a", "").await;
    drop(back_end.asked().await);
    assert!(matches!(opened(peer).await.hear().await, Said::Close(1013, _)));
    let answering = tokio::spawn(async move {
        loop {
            back_end.asked().await.answer(200, "");
        }
    });
    let coming_back = async {
        loop {
            let mut peer = server.websocket("/ch/a").await;
            // Nobody else says anything here.
            peer.send(&frame(0x89, b"x")).await;
            if let Said::Pong(_) = peer.hear().await {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, coming_back).await.unwrap();
    answering.abort();
}

#[tokio::test]
async fn so_many_are_asked_about_at_once_and_so_many_wait() {
    let settings = [
        ("FANFARE_HOOKS_CONCURRENCY", "1"),
        ("FANFARE_HOOKS_WAITING_MAX", "1"),
    ];
    let (server, mut back_end) = start("on_connect", &settings).await;
    let first = knock(&server, "/ch/a", "").await;
    let question = back_end.asked().await;
    let second = knock(&server, "/ch/b", "").await;
    let two_wait =
        async { while metric(&server, "fanfare_hook_waiting{hook=\"on_connect\"}").await != Some(2) {} };
    tokio::time::timeout(PATIENCE, two_wait).await.unwrap();
    let third = knock(&server, "/ch/c", "").await;
    assert!(matches!(opened(third).await.hear().await, Said::Close(1013, _)));
    assert!(back_end.is_quiet());
    question.answer(200, "");
    opened(first).await;
    let question = back_end.asked().await;
    assert_eq!(question.json()["channels"], json!(["b"]));
    question.answer(200, "");
    opened(second).await;
    assert_eq!(
        metric(
            &server,
            "fanfare_hook_requests_total{hook=\"on_connect\",outcome=\"too_many\"}"
        )
        .await,
        Some(1)
    );
}

#[tokio::test]
async fn what_clients_say_is_looked_at_before_anybody_hears_it() {
    let (server, mut back_end) = start("on_message", &[]).await;
    let user = token(json!({"sub": "42"}));
    let mut speaker = server.websocket(&format!("/ch/main?token={user}")).await;
    let mut listener = server.websocket("/ch/main").await;
    // Several at once stay in order, though each is asked about.
    let together: Vec<u8> = ["one", "two", "three", "four"]
        .iter()
        .flat_map(|say| frame(0x81, say.as_bytes()))
        .collect();
    speaker.send(&together).await;
    let question = back_end.asked().await;
    assert!(question.is_signed_with(KEY));
    let expected = json!({"channels": ["main"], "user": "42", "address": "127.0.0.1", "data": "one"});
    assert_eq!(question.json(), expected);
    // The server speaks meanwhile, and is not asked about.
    post(&server, "/ch/main", "from the server").await;
    assert_eq!(listener.hear().await, text("from the server"));
    question.answer(202, "");
    back_end.asked().await.answer(204, "");
    back_end.asked().await.answer(200, "thr*e");
    back_end
        .asked()
        .await
        .answer_with(200, "Content-Type: application/octet-stream\r\n", b"f\xffur");
    for said in [text("one"), text("thr*e"), Said::Binary(b"f\xffur".to_vec())] {
        assert_eq!(listener.hear().await, said);
    }
    // Binary is told as base64.
    speaker.send(&frame(0x82, b"\xff")).await;
    let question = back_end.asked().await;
    assert_eq!(question.json()["base64"], "/w==");
    question.answer(202, "");
    assert_eq!(listener.hear().await, Said::Binary(vec![0xff]));
    assert_eq!(speaker.hear().await, text("from the server"));
}

#[tokio::test]
async fn what_was_said_before_a_goodbye_is_said() {
    let (server, mut back_end) = start("on_message", &[]).await;
    let mut speaker = server.websocket("/ch/main").await;
    let mut listener = server.websocket("/ch/main").await;
    let mut last = [frame(0x81, b"one"), frame(0x81, b"two")].concat();
    last.extend(frame(0x88, &1000_u16.to_be_bytes()));
    speaker.send(&last).await;
    back_end.asked().await.answer(202, "");
    assert_eq!(speaker.hear().await, Said::Close(1000, String::new()));
    back_end.asked().await.answer(202, "");
    assert_eq!(listener.hear().await, text("one"));
    assert_eq!(listener.hear().await, text("two"));
}

#[tokio::test]
async fn what_the_back_end_refuses_or_cannot_judge_is_not_relayed() {
    for (status, code) in [(422, 4403), (403, 4403), (500, 1013), (429, 1013)] {
        let (server, mut back_end) = start("on_message", &[]).await;
        let mut speaker = server.websocket("/ch/main").await;
        let mut listener = server.websocket("/ch/main").await;
        let together = [frame(0x81, b"bad"), frame(0x81, b"worse")].concat();
        speaker.send(&together).await;
        back_end.asked().await.answer(status, "");
        assert!(
            matches!(speaker.hear().await, Said::Close(got, _) if got == code),
            "{status}"
        );
        post(&server, "/ch/main", "end").await;
        assert_eq!(listener.hear().await, text("end"));
        assert!(back_end.is_quiet());
    }
}

#[tokio::test]
async fn what_clients_post_is_looked_at_too() {
    let (server, mut back_end) = start("on_message", &[]).await;
    let mut listener = server.websocket("/ch/main").await;
    let mut asked = async |fields: &str, body: &str, answers: &[(u16, &str)]| {
        let path = if body.contains('\n') { "/ch" } else { "/ch/main" };
        let answering = async {
            for (status, body) in answers {
                back_end.asked().await.answer(*status, body);
            }
        };
        let ((status, _, answer), ()) =
            tokio::join!(server.request("POST", path, fields, body.as_bytes()), answering);
        (status, answer)
    };
    assert_eq!(asked("", "one", &[(202, "")]).await.0, 200);
    assert_eq!(listener.hear().await, text("one"));
    assert_eq!(asked("", "two", &[(200, "zwei")]).await.0, 200);
    assert_eq!(listener.hear().await, text("zwei"));
    assert_eq!(
        asked("", "three", &[(204, "")]).await,
        (200, "{\"dropped\":true}\n".to_owned())
    );
    assert_eq!(asked("", "four", &[(403, "")]).await.0, 403);
    assert_eq!(asked("", "five", &[(500, "")]).await.0, 503);
    // All of a batch or none of it; one answer line for each message.
    let batch = "Content-Type: application/x-ndjson\r\n";
    let lines = "{\"channel\":\"main\",\"data\":\"a\"}\n{\"channel\":\"main\",\"data\":\"b\"}\n";
    let (status, answer) = asked(batch, lines, &[(204, ""), (204, "")]).await;
    assert_eq!(
        (status, answer.as_str()),
        (200, "{\"dropped\":true}\n{\"dropped\":true}\n")
    );
    let (status, _) = asked(batch, lines, &[(403, ""), (202, "")]).await;
    assert_eq!(status, 403);
    let (status, answer) = asked(batch, lines, &[(202, ""), (202, "")]).await;
    assert_eq!((status, answer.matches("\"id\":").count()), (200, 2));
    assert_eq!(listener.hear().await, text("a"));
    assert_eq!(listener.hear().await, text("b"));
}

/// The users of a batch, with + for online.
fn changes(question: &Question) -> Vec<String> {
    let body = question.json();
    let reports = body["reports"].as_array().unwrap();
    reports
        .iter()
        .map(|report| {
            assert!(report["at"].as_str().unwrap().ends_with('Z'), "{report}");
            let sign = if report["online"].as_bool().unwrap() {
                '+'
            } else {
                '-'
            };
            format!("{sign}{}", report["user"].as_str().unwrap())
        })
        .collect()
}

#[tokio::test]
async fn the_back_end_hears_who_comes_and_goes_in_order_and_at_least_once() {
    let (server, mut back_end) = start("on_presence", &[("FANFARE_SESSIONS_USER_GRACE", "200ms")]).await;
    let open = async |user: &str| {
        let token = token(json!({"sub": user}));
        server.websocket(&format!("/ch/a?token={token}")).await
    };
    let first = open("anna").await;
    let question = back_end.asked().await;
    assert!(question.is_signed_with(KEY));
    assert_eq!(question.field("fanfare-hook"), Some("on_presence"));
    assert_eq!(changes(&question), ["+anna"]);
    let id = question.json()["id"].clone();
    // A second tab is no news; others wait behind what was not taken.
    let second = open("anna").await;
    let ben = open("ben").await;
    question.answer(500, "");
    let again = back_end.asked().await;
    assert_eq!(
        (changes(&again), &again.json()["id"]),
        (vec!["+anna".to_owned()], &id)
    );
    drop(again);
    let again = back_end.asked().await;
    assert_eq!(again.json()["id"], id);
    again.answer(200, "");
    let next = back_end.asked().await;
    assert_eq!(changes(&next), ["+ben"]);
    assert_ne!(next.json()["id"], id);
    next.answer(204, "");
    drop((first, ben));
    let question = back_end.asked().await;
    assert_eq!(changes(&question), ["-ben"]);
    question.answer(204, "");
    drop(second);
    let question = back_end.asked().await;
    assert_eq!(changes(&question), ["-anna"]);
    question.answer(204, "");
    let sent = async { while metric(&server, "fanfare_presence_reports_sent_total").await != Some(4) {} };
    tokio::time::timeout(PATIENCE, sent).await.unwrap();
    assert_eq!(
        metric(&server, "fanfare_presence_requests_failed_total").await,
        Some(2)
    );
}

#[tokio::test]
async fn what_was_reported_last_is_sent_before_the_server_ends() {
    let (server, mut back_end) = start("on_presence", &[]).await;
    let token = token(json!({"sub": "anna"}));
    let _open = server.websocket(&format!("/ch/a?token={token}")).await;
    let question = back_end.asked().await;
    server.terminate();
    question.answer(204, "");
    let (status, logs) = tokio::task::spawn_blocking(move || server.wait()).await.unwrap();
    assert!(status.success());
    assert!(!logs.contains("could not be sent"), "{logs}");
}
