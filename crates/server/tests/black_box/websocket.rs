//! The plain door over WebSocket: what one says, the others hear, as it was said.

use crate::support::{KEY, Said, Server, bearer, frame, handshake, text};

#[tokio::test]
async fn everyone_hears_everyone_else_but_not_himself() {
    let server = Server::start(&[]);
    let (mut a, mut b, mut c) = (
        server.websocket("/").await,
        server.websocket("/ch/main").await,
        server.websocket("/").await,
    );
    a.say("from a").await;
    assert_eq!((b.hear().await, c.hear().await), (text("from a"), text("from a")));
    b.say("from b").await;
    assert_eq!((a.hear().await, c.hear().await), (text("from b"), text("from b")));
}

#[tokio::test]
async fn with_echo_one_hears_oneself() {
    let server = Server::start(&[]);
    let mut a = server.websocket("/?echo=1").await;
    a.say("x").await;
    assert_eq!(a.hear().await, text("x"));
}

/// Frames that a client sends, and what another client hears.
#[tokio::test]
async fn messages_arrive_as_they_were_said() {
    let server = Server::start(&[]);
    let (mut a, mut b) = (server.websocket("/").await, server.websocket("/").await);
    let limit = 65_536;
    let cases: Vec<(Vec<Vec<u8>>, Said)> = vec![
        (vec![frame(0x81, b"")], text("")),
        (vec![frame(0x82, b"")], Said::Binary(vec![])),
        (vec![frame(0x81, "žluťoučký 😀".as_bytes())], text("žluťoučký 😀")),
        (
            vec![frame(0x82, b"\xff\xfe\0")],
            Said::Binary(vec![0xff, 0xfe, 0]),
        ),
        (
            vec![
                frame(0x01, b"in "),
                frame(0x00, b"three "),
                frame(0x80, b"pieces"),
            ],
            text("in three pieces"),
        ),
        (
            vec![
                frame(0x02, b"\x01"),
                frame(0x89, b"ping between"),
                frame(0x80, b"\x02"),
            ],
            Said::Binary(vec![1, 2]),
        ),
        (vec![frame(0x81, &vec![b'x'; limit])], text(&"x".repeat(limit))),
        (vec![frame(0x82, &vec![7; limit])], Said::Binary(vec![7; limit])),
    ];
    for (frames, expected) in cases {
        for frame in &frames {
            a.send(frame).await;
        }
        assert!(
            b.hear().await == expected,
            "{:?}",
            frames.first().map(|frame| &frame[..2])
        );
    }
    // The same, a byte at a time.
    for byte in frame(0x81, b"drip") {
        a.send(&[byte]).await;
    }
    assert_eq!(b.hear().await, text("drip"));
    assert_eq!(a.hear().await, Said::Pong(b"ping between".to_vec()));
}

/// What ends a connection, with the close code and a part of the reason. Another one lives on.
#[tokio::test]
async fn broken_frames_end_their_sender_only() {
    let server = Server::start(&[]);
    let (mut bystander, mut speaker) = (server.websocket("/").await, server.websocket("/").await);
    let too_large = frame(0x82, &vec![0; 65_537]);
    let cases: [(&[u8], u16, &str); 9] = [
        (&too_large, 1009, "large"),
        (
            &[0x82, 0xff, 0x7f, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4],
            1009,
            "large",
        ),
        (&frame(0x81, b"\xff"), 1007, "UTF-8"),
        (&frame(0x81, b"\xf4\x90"), 1007, "UTF-8"),
        (b"\x81\x05hello", 1002, "masked"),
        (&frame(0xc1, b"x"), 1002, "reserved"),
        (&frame(0x83, b"x"), 1002, "opcode"),
        (&frame(0x80, b"x"), 1002, "continuation"),
        (&frame(0x88, b"\x03\xed"), 1002, "close code"),
    ];
    for (bytes, code, part) in cases {
        let mut peer = server.websocket("/").await;
        peer.send(bytes).await;
        let Said::Close(got, reason) = peer.hear().await else {
            panic!("no close frame for {bytes:02x?}")
        };
        assert_eq!(got, code, "{reason}");
        assert!(reason.contains(part), "{reason:?} does not say {part:?}");
        assert_eq!(peer.hear().await, Said::End);
    }
    speaker.say("still here").await;
    assert_eq!(bystander.hear().await, text("still here"));
}

#[tokio::test]
async fn a_close_is_answered_in_kind() {
    let server = Server::start(&[]);
    for (payload, expected) in [(&b""[..], 1005), (b"\x03\xe8bye", 1000), (b"\x0f\xa1", 4001)] {
        let mut peer = server.websocket("/").await;
        peer.send(&frame(0x88, payload)).await;
        assert_eq!(peer.hear().await, Said::Close(expected, String::new()));
        assert_eq!(peer.hear().await, Said::End);
    }
}

/// Path, fields, and the code and reason with which the accepted connection is closed.
async fn check_refused(server: &Server, path: &str, fields: &str, code: u16, part: &str) {
    let mut peer = server.websocket_with(path, fields).await;
    let Said::Close(got, reason) = peer.hear().await else {
        panic!("{path} was not closed")
    };
    assert_eq!(got, code, "{path}: {reason}");
    assert!(reason.contains(part), "{path}: {reason:?} does not say {part:?}");
    assert_eq!(peer.hear().await, Said::End);
}

#[tokio::test]
async fn refusals_can_be_read_by_a_browser() {
    let server = Server::start(&[("FANFARE_KEY", KEY), ("FANFARE_LIMITS_SUBSCRIPTIONS_MAX", "2")]);
    check_refused(&server, "/nowhere", "", 4404, "/ch/{name}").await;
    check_refused(&server, "/ch", "", 4400, "name a channel").await;
    check_refused(&server, "/ch/*", "", 4400, "only be published to").await;
    check_refused(&server, "/ch/a%00", "", 4400, "control").await;
    check_refused(&server, "/ch/%ff", "", 4400, "UTF-8").await;
    check_refused(&server, "/ch?name=a&name=b&name=c", "", 4400, "at most 2").await;
    check_refused(&server, "/ch/a?meta=maybe", "", 4400, "meta").await;
    check_refused(&server, "/ch/private/7", "", 4401, "private").await;
    check_refused(&server, "/ch/private/7", &bearer("wrong"), 4401, "key").await;
    let mut insider = server.websocket_with("/ch/private/7", &bearer(KEY)).await;
    let (status, _, _) = server
        .request("POST", "/ch/private/7", &bearer(KEY), b"secret")
        .await;
    assert_eq!((status, insider.hear().await), (200, text("secret")));
    // Listening is allowed and speaking is not.
    let mut listener = server.websocket("/ch/orders").await;
    listener.say("forged").await;
    let Said::Close(4403, reason) = listener.hear().await else {
        panic!("not refused")
    };
    assert!(reason.contains("listen-only"), "{reason}");
}

#[tokio::test]
async fn no_room_is_said_and_not_just_done() {
    let server = Server::start(&[("FANFARE_LIMITS_CONNECTIONS_MAX", "3")]);
    let mut inside = Vec::new();
    for _ in 0..3 {
        inside.push(server.websocket("/").await);
    }
    // A connection counts as soon as it is accepted, so these find the house full.
    let mut late = server.websocket("/").await;
    let Said::Close(1013, _) = late.hear().await else {
        panic!("let in")
    };
    let mut stream = server.stream("/ch/a", "").await;
    assert!(!stream.more().await);
    inside[0].say("we are all here").await;
    assert_eq!(inside[1].hear().await, text("we are all here"));
}

#[tokio::test]
async fn several_channels_are_told_apart_and_heard_once() {
    let server = Server::start(&[]);
    let mut peer = server.websocket("/ch?name=a&name=b").await;
    server.post("/ch/b", b"to b").await;
    server.post("/ch?name=a&name=b", b"to both").await;
    server.post("/ch/c", b"to c").await;
    server.post("/ch/*", b"to all").await;
    for (channel, data) in [("b", "to b"), ("a", "to both"), ("*", "to all")] {
        let Said::Text(json) = peer.hear().await else {
            panic!("no text")
        };
        assert!(
            json.contains(&format!("\"channel\":\"{channel}\",\"data\":\"{data}\"")),
            "{json}"
        );
    }
}

#[tokio::test]
async fn origins_and_hosts_are_refused_in_the_handshake() {
    let server = Server::start(&[]);
    let cases = [
        ("Origin: http://localhost:3000\r\n", 101),
        ("Origin: null\r\n", 101),
        ("Origin: https://evil.example\r\n", 403),
        ("Origin: http://localhost.evil.example\r\n", 403),
        ("Origin: null\r\nOrigin: null\r\n", 403),
        ("Host: rebound.example\r\n", 421),
    ];
    for (fields, expected) in cases {
        let mut peer = server.connect().await;
        peer.send_head(&handshake("/", fields)).await;
        let head = peer.head().await;
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        assert_eq!(status, expected, "{fields}");
    }
}

#[tokio::test]
async fn a_handshake_that_lost_its_upgrade_is_told_what_to_add() {
    let server = Server::start(&[]);
    let (status, _, body) = server
        .request(
            "GET",
            "/",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n",
            b"",
        )
        .await;
    assert_eq!(status, 426);
    assert!(body.contains("proxy_set_header Upgrade"), "{body}");
}

#[tokio::test]
async fn a_websocket_may_follow_a_request_on_the_same_connection() {
    let server = Server::start(&[]);
    let mut peer = server.connect().await;
    assert_eq!(peer.request("GET", "/health", "", b"").await.0, 200);
    let head = handshake("/ch/main", "");
    // With a first frame right behind the request, as an eager client may send it.
    peer.send(&[head.as_bytes(), &frame(0x89, b"early")].concat())
        .await;
    assert!(peer.head().await.starts_with("HTTP/1.1 101"));
    assert_eq!(peer.hear().await, Said::Pong(b"early".to_vec()));
    server.post("/ch/main", b"hello").await;
    assert_eq!(peer.hear().await, text("hello"));
}

#[tokio::test]
async fn a_heartbeat_text_is_answered_and_not_relayed() {
    let server = Server::start(&[("FANFARE_SESSIONS_HEARTBEAT", "ping,pong")]);
    let (mut a, mut b) = (server.websocket("/").await, server.websocket("/").await);
    a.say("ping").await;
    assert_eq!(a.hear().await, text("pong"));
    a.say("after").await;
    assert_eq!(b.hear().await, text("after"));
}
