//! The back end decides who connects (`on_connect`).

use crate::support::back_end::{BackEnd, Question, asked, metric, post, start, wait_until, with_key};
use crate::support::token::{now, token};
use crate::support::{KEY, PATIENCE, Peer, Said, Server, frame, handshake, text, tls};
use serde_json::json;

/// Sends the head of a handshake, without waiting for its answer.
async fn knock(server: &Server, path: &str, fields: &str) -> Peer {
    let mut peer = server.connect().await;
    let head = handshake(path, &format!("Host: {}\r\n{fields}", server.address));
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
    assert_eq!(asked(&server, "on_connect").await, 1);
}

/// What comes of an answer: what a WebSocket, an event stream and a GET get. `None`: they are let in.
async fn check(answer: fn(Question), path: &str, expected: Option<(u16, u16)>) {
    check_with(&[], answer, path, expected).await;
}

async fn check_with(
    settings: &[(&str, &str)],
    answer: fn(Question),
    path: &str,
    expected: Option<(u16, u16)>,
) {
    let (server, mut back_end) = start("on_connect", settings).await;
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
    check(|question| question.answer(503, ""), "/ch/a", Some((1013, 503))).await;
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
    let hurry = [("FANFARE_HOOKS_TIMEOUT", "200ms")];
    check_with(&hurry, std::mem::forget, "/ch/a", Some((1013, 503))).await;
}

#[tokio::test]
async fn what_the_back_end_grants_can_end() {
    check(
        |question| question.answer(200, r#"{"user":"42","exp":1000}"#),
        "/ch/a",
        Some((4401, 401)),
    )
    .await;
    // On an open connection too.
    let (server, mut back_end) = start("on_connect", &[]).await;
    let peer = knock(&server, "/ch/a", "").await;
    let soon = json!({"user": "42", "exp": now() + 2}).to_string();
    back_end.asked().await.answer(200, &soon);
    let mut peer = opened(peer).await;
    assert!(matches!(peer.hear().await, Said::Close(4401, _)));
}

#[tokio::test]
async fn who_is_sent_away_while_the_back_end_is_asked_does_not_come_in() {
    let (server, mut back_end) = start("on_connect", &[]).await;
    let mut peer = knock(&server, "/ch/a", "").await;
    let question = back_end.asked().await;
    let away = server.request("DELETE", "/user/42", &with_key(), b"").await;
    assert_eq!(away.0, 200);
    question.answer(200, r#"{"user":"42"}"#);
    peer = opened(peer).await;
    assert!(matches!(peer.hear().await, Said::Close(4401, _)));
    // Whoever is asked about later is welcome.
    let peer = knock(&server, "/ch/a", "").await;
    back_end.asked().await.answer(200, r#"{"user":"42"}"#);
    let mut peer = opened(peer).await;
    post(&server, "/user/42", "hello").await;
    assert_eq!(peer.hear().await, text("hello"));
}

#[tokio::test]
async fn cookies_count_for_a_post_only_if_the_site_wants_that() {
    for cookie_post in ["true", "false"] {
        let settings = [("FANFARE_TOKENS_COOKIE_POST", cookie_post)];
        let (server, mut back_end) = start("on_connect", &settings).await;
        let own = page(&server);
        let same = "Cookie: PHPSESSID=abc\r\nSec-Fetch-Site: same-origin\r\n";
        let speak = r#"{"user":"42","speak":["orders"]}"#;
        let wants = cookie_post == "true";
        for fields in [own.as_str(), same] {
            let answering = async {
                if wants {
                    let question = back_end.asked().await;
                    assert_eq!(question.json()["transport"], "post");
                    question.answer(200, speak);
                }
            };
            let request = server.request("POST", "/ch/orders", fields, b"x");
            let ((status, ..), ()) = tokio::join!(request, answering);
            assert_eq!(status, if wants { 200 } else { 403 }, "{fields}");
        }
        // Cookies that may be anybody's are not looked at.
        for fields in [
            "Cookie: PHPSESSID=abc\r\n",
            "Cookie: PHPSESSID=abc\r\nSec-Fetch-Site: cross-site\r\n",
        ] {
            let (status, ..) = server.request("POST", "/ch/orders", fields, b"x").await;
            assert_eq!(status, 403, "{fields}");
        }
        let evil = "Cookie: PHPSESSID=abc\r\nOrigin: https://evil.example\r\n";
        assert_eq!(server.request("POST", "/ch/orders", evil, b"x").await.0, 403);
        assert_eq!(asked(&server, "on_connect").await, if wants { 2 } else { 0 });
    }
}

#[tokio::test]
async fn without_a_key_everybody_who_listens_is_asked_about() {
    let back_end = BackEnd::start().await;
    let hook = back_end.url("/hook");
    let server = Server::start(&[("FANFARE_HOOKS_ON_CONNECT", &hook)]);
    let mut back_end = back_end;
    // A token says nothing where there is no key to check it with.
    for path in ["/ch/private%2F7", "/ch/private%2F7?token=a.b.c"] {
        let peer = knock(&server, path, "").await;
        let question = back_end.asked().await;
        assert_eq!(question.field("fanfare-signature"), None);
        question.answer(200, r#"{"user":"42"}"#);
        assert!(matches!(opened(peer).await.hear().await, Said::Close(4403, _)));
    }
}

#[tokio::test]
async fn who_shows_a_token_or_the_key_is_known() {
    let (server, _back_end) = start("on_connect", &[]).await;
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
    assert_eq!(asked(&server, "on_connect").await, 0);
}

#[tokio::test]
async fn a_request_that_is_wrong_anyway_is_not_asked_about() {
    let (server, _back_end) = start("on_connect", &[]).await;
    let mut bad = server.websocket("/ch/a?last=x").await;
    assert!(matches!(bad.hear().await, Said::Close(4400, _)));
    let mut nowhere = server.websocket("/nowhere").await;
    assert!(matches!(nowhere.hear().await, Said::Close(4404, _)));
}

#[tokio::test]
async fn whoever_is_not_known_yet_says_no_more_than_a_little() {
    if tls::is_on() {
        // A record holds less, and no more is read.
        return;
    }
    let (server, _back_end) = start("on_connect", &[]).await;
    let mut talkative = server.connect().await;
    let head = handshake("/ch/a", &format!("Host: {}\r\n", server.address));
    talkative
        .send(&[head.as_bytes(), &vec![0; 17_000]].concat())
        .await;
    assert!(talkative.head().await.starts_with("HTTP/1.1 400"));
    assert_eq!(asked(&server, "on_connect").await, 0);
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
    // One that goes while it waits is forgotten, and never seen.
    let gone = knock(&server, "/ch/a", "").await;
    let forgotten = back_end.asked().await;
    drop(gone);
    wait_until(&server, "fanfare_hook_waiting{hook=\"on_connect\"}", 1).await;
    forgotten.answer(200, r#"{"user":"gone"}"#);
    question.answer(200, "");
    let mut waiting = opened(waiting).await;
    assert_eq!(listener.hear().await, text("early"));
    assert_eq!(listener.hear().await, text("later"));
    post(&server, "/ch/main", "hello").await;
    assert_eq!(waiting.hear().await, text("hello"));
    let path = "fanfare_hook_requests_total{hook=\"on_connect\",outcome=\"given_up\"}";
    assert_eq!(metric(&server, path).await, Some(1));
    assert_eq!(metric(&server, "fanfare_users").await, Some(1));
}

#[tokio::test]
async fn further_requests_of_a_connection_are_asked_about_too() {
    let (server, mut back_end) = start("on_connect", &[]).await;
    let mut peer = server.connect().await;
    let (status, ..) = peer.request("GET", "/health", "", b"").await;
    assert_eq!(status, 200);
    let head = handshake("/ch/main", &format!("Host: {}\r\n", server.address));
    peer.send_head(&head).await;
    back_end.asked().await.answer(200, r#"{"user":"7"}"#);
    let mut peer = opened(peer).await;
    // The answer of the handshake is out a moment before the session is open.
    wait_until(&server, "fanfare_users", 1).await;
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
async fn a_back_end_that_is_down_is_left_alone_for_a_while() {
    let settings = [
        ("FANFARE_HOOKS_FAILURES_MAX", "2"),
        ("FANFARE_HOOKS_PAUSE", "3600s"),
    ];
    let (server, mut back_end) = start("on_connect", &settings).await;
    let knocks = async |server: &Server| {
        let peer = knock(server, "/ch/a", "").await;
        opened(peer).await.hear().await
    };
    // An answer that cannot be used may be a peer's doing, which must not cost others anything.
    for status in [400, 429, 500, 302] {
        let (said, ()) = tokio::join!(knocks(&server), async {
            back_end.asked().await.answer(status, "");
        });
        assert!(matches!(said, Said::Close(1013, _)), "{status}");
    }
    let open = "fanfare_hook_circuit_open{hook=\"on_connect\"}";
    assert_eq!(metric(&server, open).await, Some(0));
    for status in [503, 502] {
        let (said, ()) = tokio::join!(knocks(&server), async {
            back_end.asked().await.answer(status, "");
        });
        assert!(matches!(said, Said::Close(1013, _)), "{status}");
    }
    for _ in 0..3 {
        assert!(matches!(knocks(&server).await, Said::Close(1013, _)));
    }
    assert_eq!(asked(&server, "on_connect").await, 6);
    assert_eq!(metric(&server, open).await, Some(1));
    let left_alone = "fanfare_hook_requests_total{hook=\"on_connect\",outcome=\"circuit_open\"}";
    assert_eq!(metric(&server, left_alone).await, Some(3));
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
