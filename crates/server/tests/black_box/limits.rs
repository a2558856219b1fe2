//! Nobody gets more than his share: each limit of an address, a user, a connection and the key, with the
//! attempt that goes beyond it, the answer, and the metric.
//!
//! Limits are tiny and per hour, so that what happens is decided by counting and not by the clock.

use crate::support::token::token;
use crate::support::{KEY, PATIENCE, Peer, Said, Server, bearer, frame, text};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A server behind a trusted proxy, which is the test: so an address is whatever it says.
fn start(settings: &[(&str, &str)]) -> Server {
    let own = [
        ("FANFARE_KEY", KEY),
        ("FANFARE_NETWORK_TRUSTED_PROXIES", "127.0.0.1"),
        ("FANFARE_CHANNELS_TALK", "talk,also"),
    ];
    Server::start(&[own.as_slice(), settings].concat())
}

fn from(address: &str) -> String {
    format!("X-Forwarded-For: {address}\r\n")
}

async fn wait_until_limited(server: &Server, limit: &str, count: u64) {
    let reached = async {
        while server.limited(limit).await < count {
            tokio::task::yield_now().await;
        }
    };
    let reached = tokio::time::timeout(PATIENCE, reached).await;
    reached.unwrap_or_else(|_| panic!("{limit} was not counted"));
}

/// The answer to a handshake, whatever it is: status and head.
async fn handshake(server: &Server, path: &str, fields: &str) -> (u16, String, Peer) {
    let mut peer = server.connect().await;
    peer.send_head(&format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{fields}\r\n"
    ))
    .await;
    let head = peer.head().await;
    (head[9..12].parse().unwrap(), head, peer)
}

/// Whether an event stream is told to come back rather than served: it ends after its first words.
async fn stream_ends(server: &Server, path: &str, fields: &str) -> bool {
    let mut stream = server.stream(path, fields).await;
    let listening = async {
        while !stream.got.windows(5).any(|part| part == b"data:") {
            if !stream.more().await {
                return true;
            }
        }
        false
    };
    let publishing = async {
        // Who is served hears this.
        server.request("POST", path, &bearer(KEY), b"hello").await;
    };
    tokio::join!(listening, publishing).0
}

fn has_retry_after(head: &str) -> bool {
    let head = head.to_lowercase();
    let field = head.lines().find_map(|line| line.strip_prefix("retry-after: "));
    field.is_some_and(|seconds| seconds.parse::<u64>().is_ok_and(|seconds| seconds >= 1))
}

#[tokio::test]
async fn an_address_has_so_many_connections() {
    let server = start(&[("FANFARE_LIMITS_CONNECTIONS_PER_ADDRESS", "2")]);
    let limit = "connections_per_address";
    let (a, b) = (from("192.0.2.1"), from("192.0.2.2"));
    let mut first = server.websocket_with("/ch/talk", &a).await;
    let mut second = server.stream("/ch/talk", &a).await;
    let (status, _, mut third) = handshake(&server, "/ch/talk", &a).await;
    assert_eq!(status, 101);
    assert!(matches!(third.hear().await, Said::Close(1013, reason) if reason.contains(limit)));
    assert!(stream_ends(&server, "/ch/x", &a).await);
    let (status, head, _) = server.request("GET", "/ch/talk?since=0-0&wait=9", &a, b"").await;
    assert_eq!(status, 200, "a gap is answered at once: {head}");
    let (_, _, document) = server.request("GET", "/ch/talk", &a, b"").await;
    let document: Value = serde_json::from_str(&document).unwrap();
    let waiting = format!("/ch/talk?since={}", document["next"].as_str().unwrap());
    let (status, head, body) = server.request("GET", &waiting, &a, b"").await;
    assert_eq!(status, 429, "{body}");
    assert!(has_retry_after(&head) && body.contains("address_full"));
    // Others are not concerned.
    let mut other = server.websocket_with("/ch/talk", &b).await;
    other.say("hello").await;
    assert_eq!(first.hear().await, text("hello"));
    assert!(second.event().await.contains("hello"));
    wait_until_limited(&server, limit, 3).await;
    // Who goes makes room.
    drop(first);
    let reopened = async {
        loop {
            let (_, _, mut peer) = handshake(&server, "/ch/talk?echo=1", &a).await;
            peer.say("in again").await;
            if peer.hear().await == text("in again") {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, reopened).await.unwrap();
}

#[tokio::test]
async fn a_household_of_ipv6_is_one_address() {
    let server = start(&[("FANFARE_LIMITS_CONNECTIONS_PER_ADDRESS", "1")]);
    let _first = server.websocket_with("/ch/talk", &from("2001:db8:1:1::1")).await;
    let (_, _, mut same) = handshake(&server, "/ch/talk", &from("[2001:db8:1:1:9::2]:4711")).await;
    assert!(matches!(same.hear().await, Said::Close(1013, _)));
    let mut other = server
        .websocket_with("/ch/talk?echo=1", &from("2001:db8:1:2::1"))
        .await;
    other.say("in").await;
    assert_eq!(other.hear().await, text("in"));
}

#[tokio::test]
async fn an_address_connects_so_fast() {
    let server = start(&[("FANFARE_LIMITS_CONNECTS_PER_ADDRESS", "1/h burst 3")]);
    let limit = "connects_per_address";
    let a = from("192.0.2.1");
    for _ in 0..3 {
        server.websocket_with("/ch/talk", &a).await;
    }
    let (status, head, mut refused) = handshake(&server, "/ch/talk", &a).await;
    assert_eq!(status, 429, "{head}");
    assert!(has_retry_after(&head), "{head}");
    while refused.more().await {}
    let body = String::from_utf8(refused.got).unwrap();
    assert!(body.contains("too_fast") && body.contains(limit), "{body}");
    // A browser never comes back to an event stream that was answered 429.
    assert!(stream_ends(&server, "/ch/x", &a).await);
    // Requests that are no connections of the address are none.
    for _ in 0..5 {
        assert_eq!(server.request("GET", "/ch/talk", &a, b"").await.0, 200);
    }
    // The same on a connection that has served requests before.
    let mut reused = server.connect().await;
    assert_eq!(reused.request("GET", "/ch/talk", &a, b"").await.0, 200);
    let fields = format!(
        "{a}Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    );
    let (status, head, _) = reused.request("GET", "/ch/talk", &fields, b"").await;
    assert_eq!(status, 429);
    assert!(has_retry_after(&head), "{head}");
    server.websocket_with("/ch/talk", &from("192.0.2.2")).await;
    wait_until_limited(&server, limit, 3).await;
}

#[tokio::test]
async fn too_many_addresses_are_one() {
    let server = start(&[
        ("FANFARE_LIMITS_ADDRESSES_MAX", "1"),
        ("FANFARE_LIMITS_CONNECTIONS_PER_ADDRESS", "1"),
    ]);
    let _first = server.websocket_with("/ch/talk", &from("192.0.2.1")).await;
    let _second = server.websocket_with("/ch/talk", &from("192.0.2.2")).await;
    let (_, _, mut third) = handshake(&server, "/ch/talk", &from("192.0.2.3")).await;
    assert!(matches!(third.hear().await, Said::Close(1013, _)));
    wait_until_limited(&server, "addresses_max", 2).await;
}

#[tokio::test]
async fn a_node_opens_so_many_sessions_and_the_others_wait() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("fanfare.sock");
    let server = start(&[
        ("FANFARE_LIMITS_CONNECTS", "1/h burst 3"),
        ("FANFARE_UNIX", socket.to_str().unwrap()),
        ("FANFARE_SHARDS", "1"),
    ]);
    // Whoever only asks something does not count.
    for _ in 0..5 {
        assert_eq!(server.request("GET", "/health", "", b"").await.0, 200);
    }
    for _ in 0..3 {
        server.websocket("/ch/talk").await;
    }
    let mut waiting = server.knock().await;
    waiting
        .send_head("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    wait_until_limited(&server, "connects", 1).await;
    // The Unix socket does not wait.
    let mut back_end = tokio::net::UnixStream::connect(&socket).await.unwrap();
    back_end
        .write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut answer = [0; 12];
    back_end.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    assert!(waiting.socket.try_read(&mut [0]).is_err());
}

/// Messages over one WebSocket: three, and no more for an hour.
const MESSAGES: (&str, &str) = ("FANFARE_LIMITS_MESSAGES_PER_CONNECTION", "1/h burst 3");

#[tokio::test]
async fn a_connection_says_so_much_and_the_rest_is_dropped() {
    let server = start(&[MESSAGES]);
    let mut listener = server.websocket("/ch/talk").await;
    let mut raw = server.websocket("/ch/talk").await;
    let mut meta = server.websocket("/ch/also?meta=1").await;
    for number in 1..=5 {
        raw.say(&number.to_string()).await;
        meta.say(&number.to_string()).await;
    }
    let Said::Text(told) = meta.hear().await else {
        panic!("nothing was told");
    };
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(
        (&told["event"], &told["error"]),
        (&json!("error"), &json!("too_fast"))
    );
    assert!(
        told["message"]
            .as_str()
            .unwrap()
            .contains("messages_per_connection")
    );
    wait_until_limited(&server, "messages_per_connection", 4).await;
    // Both are still there, and the raw one was told nothing.
    server
        .request("POST", "/ch?name=talk&name=also", &bearer(KEY), b"end")
        .await;
    for expected in ["1", "2", "3", "end"] {
        assert_eq!(listener.hear().await, text(expected));
    }
    assert_eq!(raw.hear().await, text("end"));
    assert!(matches!(meta.hear().await, Said::Text(heard) if heard.contains("\"end\"")));
}

#[tokio::test]
async fn who_goes_on_to_say_too_much_is_sent_away() {
    let server = start(&[MESSAGES, ("FANFARE_LIMITS_MESSAGES_EXCESS_MAX", "0s")]);
    for path in ["/ch/talk", "/ch/talk?meta=1"] {
        let mut peer = server.websocket(path).await;
        for _ in 0..4 {
            peer.say("x").await;
        }
        let said = peer.hear().await;
        assert!(
            matches!(&said, Said::Close(1008, reason) if reason.contains("messages_per_connection")),
            "{said:?}"
        );
    }
    let mut admin = Peer::to(&server.admin_address()).await;
    let (_, _, metrics) = admin.request("GET", "/metrics", "", b"").await;
    assert!(
        metrics.contains("fanfare_disconnects_total{reason=\"too_fast\"} 2"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_user_says_so_much_over_all_her_connections_and_by_post() {
    let server = start(&[("FANFARE_LIMITS_MESSAGES_PER_USER", "1/h burst 3")]);
    let limit = "messages_per_user";
    let (anna, ben) = (token(json!({"sub": "anna"})), token(json!({"sub": "ben"})));
    let mut listener = server.websocket("/ch/talk").await;
    let mut tab = server.websocket(&format!("/ch/talk?token={anna}")).await;
    let mut phone = server
        .websocket(&format!("/ch/talk?meta=1&echo=1&token={anna}"))
        .await;
    tab.say("1").await;
    assert_eq!(listener.hear().await, text("1"));
    phone.say("2").await;
    assert_eq!(listener.hear().await, text("2"));
    let post = format!("/ch/talk?token={anna}");
    assert_eq!(server.post(&post, b"3").await.0, 200);
    let (status, head, body) = server.request("POST", &post, "", b"4").await;
    assert_eq!(status, 429, "{body}");
    assert!(has_retry_after(&head) && body.contains(limit), "{head}{body}");
    phone.say("5").await;
    let told = async {
        loop {
            match phone.hear().await {
                Said::Text(told) if told.contains("\"error\"") => return told,
                Said::Text(_) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    assert!(told.await.contains(limit));
    // Somebody else is somebody else, whatever the address.
    assert_eq!(
        server.post(&format!("/ch/talk?token={ben}"), b"of ben").await.0,
        200
    );
    for expected in ["3", "of ben"] {
        assert_eq!(listener.hear().await, text(expected));
    }
    assert_eq!(server.limited(limit).await, 2);
}

#[tokio::test]
async fn an_address_of_no_user_posts_so_much() {
    let server = start(&[("FANFARE_LIMITS_MESSAGES_PER_USER", "1/h burst 2")]);
    let (a, b) = (from("192.0.2.1"), from("192.0.2.2"));
    let post = async |fields: &str| server.request("POST", "/ch/talk", fields, b"x").await.0;
    assert_eq!((post(&a).await, post(&a).await, post(&a).await), (200, 200, 429));
    assert_eq!(post(&b).await, 200);
    // A batch counts with all its messages, and is refused as a whole.
    let ndjson = format!("{b}Content-Type: application/x-ndjson\r\n");
    let batch = b"{\"channel\":\"talk\",\"data\":\"1\"}\n{\"channel\":\"talk\",\"data\":\"2\"}";
    assert_eq!(server.request("POST", "/ch", &ndjson, batch).await.0, 429);
    assert_eq!((post(&b).await, post(&b).await), (200, 429));
    // This machine is not held to it, nor is the key.
    for fields in [String::new(), format!("{a}{}", bearer(KEY))] {
        for _ in 0..4 {
            assert_eq!(post(&fields).await, 200, "{fields}");
        }
    }
    assert_eq!(server.limited("messages_per_user").await, 3);
}

#[tokio::test]
async fn loopback_counts_if_that_is_wanted() {
    let server = Server::start(&[
        ("FANFARE_KEY", KEY),
        ("FANFARE_LIMITS_COUNT_LOOPBACK", "true"),
        ("FANFARE_LIMITS_MESSAGES_PER_USER", "1/h burst 1"),
    ]);
    assert_eq!(server.post("/ch/main", b"x").await.0, 200);
    assert_eq!(server.post("/ch/main", b"x").await.0, 429);
}

#[tokio::test]
async fn the_key_publishes_so_much() {
    let server = start(&[("FANFARE_LIMITS_PUBLICATIONS_PER_KEY", "1/h burst 3")]);
    let mut listener = server.websocket("/ch/orders").await;
    let ndjson = format!("{}Content-Type: application/x-ndjson\r\n", bearer(KEY));
    let batch = b"{\"channel\":\"orders\",\"data\":\"1\"}\n{\"channel\":\"orders\",\"data\":\"2\"}";
    assert_eq!(server.request("POST", "/ch", &ndjson, batch).await.0, 200);
    let (status, head, body) = server.request("POST", "/ch", &ndjson, batch).await;
    assert_eq!(status, 429, "{body}");
    assert!(
        has_retry_after(&head) && body.contains("publications_per_key"),
        "{head}{body}"
    );
    let post = async |path: &str| server.request("POST", path, &bearer(KEY), b"3").await.0;
    assert_eq!((post("/ch/orders").await, post("/ch/orders").await), (200, 429));
    assert_eq!(post("/user/anna").await, 429);
    for expected in ["1", "2", "3"] {
        assert_eq!(listener.hear().await, text(expected));
    }
    assert_eq!(server.limited("publications_per_key").await, 3);
}

#[tokio::test]
async fn who_guesses_is_not_looked_at_for_a_while() {
    let server = start(&[
        ("FANFARE_LIMITS_AUTH_FAILURES_PER_ADDRESS", "1/h burst 3"),
        ("FANFARE_LIMITS_AUTH_FAILURES_PAUSE", "1h"),
    ]);
    let limit = "auth_failures_per_address";
    let good = token(json!({"sub": "anna", "speak": ["orders"]}));
    let (a, b) = (from("192.0.2.1"), from("192.0.2.2"));
    let post = async |from: &str, shown: &str| {
        let fields = format!("{from}Authorization: Bearer {shown}\r\n");
        server.request("POST", "/ch/orders", &fields, b"x").await
    };
    // A token that has run out is no guess.
    for _ in 0..9 {
        let old = token(json!({"sub": "anna", "exp": 1_000_000_000}));
        assert_eq!(post(&a, &old).await.0, 401);
    }
    for guess in ["guess", "a.b.c", "another guess"] {
        assert_eq!(post(&a, guess).await.0, 401, "{guess}");
    }
    for shown in ["guess", &good, KEY] {
        let (status, head, body) = post(&a, shown).await;
        assert_eq!(status, 429, "{body}");
        assert!(has_retry_after(&head) && body.contains(limit), "{head}{body}");
    }
    let (status, head, _) = handshake(&server, &format!("/ch/talk?token={good}"), &a).await;
    assert_eq!(status, 429, "{head}");
    assert!(stream_ends(&server, &format!("/ch/talk?token={good}"), &a).await);
    // Who shows nothing is let in, and elsewhere nothing has happened.
    server.websocket_with("/ch/talk", &a).await;
    for (shown, expected) in [(&*good, 200), (KEY, 200), ("guess", 401)] {
        assert_eq!(post(&b, shown).await.0, expected, "{shown}");
    }
    wait_until_limited(&server, limit, 5).await;
}

#[tokio::test]
async fn fresh_tokens_come_so_fast() {
    let server = start(&[("FANFARE_LIMITS_TOKEN_REFRESHES_PER_CONNECTION", "1/h burst 2")]);
    let anna = token(json!({"sub": "anna"}));
    let mut tab = server.websocket(&format!("/ch/talk?meta=1&token={anna}")).await;
    for _ in 0..3 {
        tab.say(&json!({"token": anna}).to_string()).await;
    }
    let told = tab.hear().await;
    assert!(
        matches!(&told, Said::Text(told) if told.contains("token_refreshes_per_connection")),
        "{told:?}"
    );
    assert_eq!(server.limited("token_refreshes_per_connection").await, 1);
}

#[tokio::test]
async fn pings_are_answered_so_fast_and_a_flood_ends_the_connection() {
    let server = start(&[
        ("FANFARE_LIMITS_PINGS_PER_CONNECTION", "1/h burst 2"),
        ("FANFARE_LIMITS_CONTROL_FRAMES_PER_CONNECTION", "1/h burst 5"),
    ]);
    let mut peer = server.websocket("/ch/talk?echo=1").await;
    for number in 0..4_u8 {
        peer.send(&frame(0x89, &[number])).await;
    }
    // A pong counts as well.
    peer.send(&frame(0x8a, b"")).await;
    peer.say("still here").await;
    for expected in [Said::Pong(vec![0]), Said::Pong(vec![1]), text("still here")] {
        assert_eq!(peer.hear().await, expected);
    }
    peer.send(&frame(0x89, b"")).await;
    let said = peer.hear().await;
    let limit = "control_frames_per_connection";
    assert!(
        matches!(&said, Said::Close(1008, reason) if reason.contains(limit)),
        "{said:?}"
    );
    assert_eq!(server.limited("pings_per_connection").await, 2);
    assert_eq!(server.limited(limit).await, 1);
}

#[tokio::test]
async fn bytes_that_come_too_fast_wait_and_none_is_lost() {
    // A burst is spent by the first message; what comes behind it waits for a second or two.
    let server = start(&[("FANFARE_LIMITS_BYTES_PER_CONNECTION", "60000/s burst 1000")]);
    let mut peer = server.websocket("/ch/talk?echo=1").await;
    let long = "x".repeat(50_000);
    let mut bytes = Vec::new();
    for number in 0..3 {
        bytes.extend(frame(0x81, format!("{number}{long}").as_bytes()));
    }
    peer.send(&bytes).await;
    for number in 0..3 {
        assert_eq!(peer.hear().await, text(&format!("{number}{long}")));
    }
    // Each read that went beyond is counted; that it goes on was seen.
    assert!(server.limited("bytes_per_connection").await >= 1);
    // Whoever waits hears nevertheless, and is told when the house closes.
    peer.send(&bytes).await;
    server.request("POST", "/ch/talk", &bearer(KEY), b"hello").await;
    let heard = async { while peer.hear().await != text("hello") {} };
    tokio::time::timeout(PATIENCE, heard).await.unwrap();
}

#[tokio::test]
async fn who_is_gone_while_nothing_is_read_is_gone() {
    let server = start(&[("FANFARE_LIMITS_BYTES_PER_CONNECTION", "1/h burst 1")]);
    let mut peer = server.websocket("/ch/talk").await;
    peer.say("hello").await;
    wait_until_limited(&server, "bytes_per_connection", 1).await;
    // What waits unread is thrown away with the socket, which so ends with a reset.
    peer.say("not read").await;
    let linger = socket2::SockRef::from(&peer.socket);
    linger.set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(peer);
    let gone = async {
        loop {
            let mut admin = Peer::to(&server.admin_address()).await;
            let (_, _, metrics) = admin.request("GET", "/metrics", "", b"").await;
            if metrics.contains("fanfare_disconnects_total{reason=\"lost\"} 1") {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
}
