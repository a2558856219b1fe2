//! Promise 3: a slow, stalled or hostile connection costs a bounded number of bytes and delays
//! nobody.

use crate::support::{Peer, Said, Server, frame, handshake, text};

#[tokio::test]
async fn a_stalled_reader_is_closed_with_4408_and_nobody_else_notices() {
    let mut server = Server::start(&[("FANFARE_LIMITS_OUTBOX_BYTES_MAX", "200000")]);
    let mut stalled = server.websocket("/ch/a").await;
    let mut good = server.websocket("/ch/a").await;
    let message = "x".repeat(60_000);
    let slow = "fanfare_disconnects_total{reason=\"slow_consumer\"}";
    let mut published = 0;
    let mut publisher = server.connect().await;
    while server.metric(slow).await == 0 {
        let (status, _, answer) = publisher.request("POST", "/ch/a", "", message.as_bytes()).await;
        assert_eq!(status, 200, "{answer}");
        published += 1;
        assert!(good.hear().await == text(&message));
        assert!(published < 2_000, "a reader that does not read is never closed");
    }
    assert_eq!(server.metric(slow).await, 1);
    // When it reads at last, it finds whole messages and then the reason.
    let mut whole = 0;
    let last = loop {
        match stalled.hear().await {
            Said::Text(got) if got == message => whole += 1,
            other => break other,
        }
    };
    assert!(
        matches!(&last, Said::Close(4408, reason) if reason.contains("slow consumer")),
        "{last:?} after {whole}"
    );
    assert!(whole < published);
    good.say("x").await; // a listen-only channel: the server is there to refuse it
    assert!(matches!(good.hear().await, Said::Close(4403, _)));
    assert!(server.is_alive());
}

/// A channel with this rule; a listener that does not read while so many messages of 8 KiB, of three
/// keys, are published.
async fn flooded(slow_consumer: &str, path: &str, count: usize) -> (Server, Peer) {
    let rules = format!("[{{ channels = \"a\", slow_consumer = \"{slow_consumer}\" }}]");
    let server = Server::start(&[
        ("FANFARE_LIMITS_OUTBOX_BYTES_MAX", "200000"),
        ("FANFARE_CHANNELS_RULES", &rules),
    ]);
    let slow = server.websocket(path).await;
    let mut publisher = server.connect().await;
    for n in 0..count {
        let (path, message) = (
            format!("/ch/a?key={}", n % 3),
            format!("{n} {}", "x".repeat(8_192)),
        );
        let (status, _, answer) = publisher.request("POST", &path, "", message.as_bytes()).await;
        assert_eq!(status, 200, "{answer}");
    }
    (server, slow)
}

fn number(message: &str) -> usize {
    message
        .split(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(usize::MAX)
}

#[tokio::test]
async fn where_only_the_newest_counts_a_slow_reader_gets_that_of_each_key() {
    const COUNT: usize = 3_000;
    let (server, mut slow) = flooded("newest", "/ch/a", COUNT).await;
    assert!(server.metric("fanfare_conflated_total").await > 1_000);
    let mut heard = Vec::new();
    while heard.last().is_none_or(|last| *last < COUNT - 1) {
        match slow.hear().await {
            Said::Text(message) => heard.push(number(&message)),
            other => panic!("{other:?}"),
        }
    }
    assert!(
        heard.is_sorted() && heard.len() < COUNT - 1_000,
        "{}",
        heard.len()
    );
    // The last of each key are the last that were published.
    assert!(
        heard.ends_with(&[COUNT - 3, COUNT - 2, COUNT - 1]),
        "{:?}",
        heard.last_chunk::<8>()
    );
}

#[tokio::test]
async fn where_the_oldest_may_go_a_slow_reader_is_told_so() {
    const COUNT: usize = 3_000;
    let (server, mut slow) = flooded("drop_oldest", "/ch/a?meta=1", COUNT).await;
    assert!(server.metric("fanfare_dropped_total").await > 1_000);
    let (mut last, mut is_told) = (None, false);
    while last != Some(COUNT - 1) {
        let Said::Text(text) = slow.hear().await else {
            panic!("it is not closed");
        };
        let Some((_, message)) = text.split_once("\"data\":\"") else {
            assert_eq!(text, r#"{"event":"gap","channel":"a"}"#);
            is_told = true;
            continue;
        };
        let n = number(message);
        assert!(
            is_told || Some(n) == last.map_or(Some(0), |last| Some(last + 1)),
            "{n} after {last:?} and nothing was said"
        );
        assert!(last.is_none_or(|last| n > last));
        (last, is_told) = (Some(n), false);
    }
    // A raw WebSocket has no form for it, and is closed as elsewhere.
    let (_server, mut raw) = flooded("drop_oldest", "/ch/a", COUNT).await;
    let end = loop {
        match raw.hear().await {
            Said::Text(_) => {}
            other => break other,
        }
    };
    assert!(matches!(end, Said::Close(4408, _)), "{end:?}");
}

#[tokio::test]
async fn a_stalled_event_stream_just_ends() {
    let server = Server::start(&[("FANFARE_LIMITS_OUTBOX_BYTES_MAX", "200000")]);
    let mut stalled = server.stream("/ch/a", "").await;
    let slow = "fanfare_disconnects_total{reason=\"slow_consumer\"}";
    let message = vec![b'x'; 60_000];
    let mut published = 0;
    while server.metric(slow).await == 0 {
        assert_eq!(server.post("/ch/a", &message).await.0, 200);
        published += 1;
        assert!(published < 2_000, "a reader that does not read is never ended");
    }
    while stalled.more().await {}
    let whole = stalled.got.windows(2).filter(|pair| pair == b"\n\n").count();
    assert!(
        whole < published && stalled.got.ends_with(b"x\n\n"),
        "{whole} of {published}"
    );
}

#[tokio::test]
async fn a_reader_that_stops_is_closed_after_the_stall_time_though_its_outbox_is_not_full() {
    let server = Server::start(&[
        ("FANFARE_LIMITS_OUTBOX_BYTES_MAX", "50000000"),
        ("FANFARE_LIMITS_OUTBOX_STALL_MAX", "1s"),
    ]);
    let stalled = server.websocket("/ch/a").await;
    let message = vec![b'x'; 60_000];
    for _ in 0..200 {
        assert_eq!(server.post("/ch/a", &message).await.0, 200);
    }
    server
        .wait_for_metric("fanfare_disconnects_total{reason=\"stalled\"}", 1)
        .await;
    drop(stalled);
}

/// Bytes that are no HTTP, almost HTTP, or HTTP that must not be believed: the answer's status, or
/// 0 for an end without one.
#[tokio::test]
async fn the_process_survives_hostile_bytes_with_no_thread_lost() {
    let mut server = Server::start(&[]);
    let threads = server.threads();
    let mut good = server.websocket("/").await;
    let many_fields = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(200));
    let long_target = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(9_000));
    let large_head = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nA: {}\r\n\r\n",
        "b".repeat(20_000)
    );
    let cases: [(&[u8], u16); 14] = [
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", 400),
        (b"\0\0\0\0\0\0\0\0", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: localhost\n\n", 400),
        (b"GET / HTTP/3.0\r\nHost: localhost\r\n\r\n", 505),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /ch/a HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nContent-Length: 5\r\n\r\nhello", 400),
        (many_fields.as_bytes(), 431),
        (long_target.as_bytes(), 414),
        (large_head.as_bytes(), 431),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ];
    for (bytes, status) in cases {
        let mut peer = server.connect().await;
        peer.send(bytes).await;
        let head = peer.head().await;
        let got: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        assert_eq!(
            got,
            status,
            "{:?}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(60)])
        );
        while peer.more().await {}
    }
    // Handshakes cut at every byte, and frames of noise.
    let handshake = handshake("/", "");
    for cut in (0..handshake.len()).step_by(7) {
        let mut peer = server.connect().await;
        peer.send(&handshake.as_bytes()[..cut]).await;
    }
    for seed in 0..64_u8 {
        let mut peer = server.websocket("/").await;
        let noise: Vec<u8> = (0..200_u8)
            .map(|at| at.wrapping_mul(31).wrapping_add(seed.wrapping_mul(77)) | 0x80)
            .collect();
        let _ = tokio::io::AsyncWriteExt::write_all(&mut peer.socket, &noise).await;
        drop(peer);
    }
    let mut other = server.websocket("/").await;
    other.send(&frame(0x81, b"all well")).await;
    // Some of the noise may by chance have been a message.
    while good.hear().await != text("all well") {}
    assert_eq!(server.threads(), threads);
    assert!(server.is_alive());
}

#[tokio::test]
async fn unfinished_heads_do_not_fill_the_house() {
    let server = Server::start(&[("FANFARE_LIMITS_HANDSHAKES_MAX", "2"), ("FANFARE_SHARDS", "1")]);
    let (mut first, mut second) = (server.connect().await, server.connect().await);
    first.send(b"GET / HT").await;
    second.send(b"GET / HT").await;
    // Connections that say all at once come and go without pushing anybody out ...
    for _ in 0..20 {
        assert_eq!(server.request("GET", "/health", "", b"").await.0, 200);
    }
    // ... but the last of these is one too many, until its head is complete: the oldest goes.
    assert!(!first.more().await);
    let mut listener = server.websocket("/").await;
    listener.say("x").await;
}

#[tokio::test]
async fn a_request_head_must_come_in_time() {
    let server = Server::start(&[("FANFARE_LIMITS_HEAD_TIME_MAX", "1s")]);
    let mut peer = server.connect().await;
    peer.send(b"GET / HTTP/1.1\r\nHost: loc").await;
    assert!(peer.head().await.starts_with("HTTP/1.1 408"));
    assert!(!peer.more().await);
}

#[tokio::test]
async fn silent_peers_are_pinged_and_then_dropped() {
    let server = Server::start(&[("FANFARE_SESSIONS_PING_INTERVAL", "1s")]);
    let mut silent = server.websocket("/").await;
    let Said::Close(1001, reason) = silent.hear().await else {
        panic!("not dropped")
    };
    assert!(reason.contains("no sign of life"), "{reason}");
}
