//! The plain door over event streams: the same channels, as `EventSource` reads them.

use crate::support::{Server, id_of};

/// Body and query of a POST, and the block that a listener then reads, its id left out.
#[tokio::test]
async fn publications_become_events() {
    let server = Server::start(&[]);
    let mut raw = server.stream("/ch/a", "").await;
    let mut meta = server.stream("/ch/a?meta=1", "").await;
    let limit = "x".repeat(65_536);
    let cases: [(&str, &[u8], String, &str); 7] = [
        ("", b"hello", "data: hello\n\n".to_owned(), "\"data\":\"hello\"}"),
        ("", b"", "data: \n\n".to_owned(), "\"data\":\"\"}"),
        (
            "",
            b"two\nlines",
            "data: two\ndata: lines\n\n".to_owned(),
            "\"data\":\"two\\nlines\"}",
        ),
        (
            "",
            b"x\n\nid: 7",
            "data: x\ndata: \ndata: id: 7\n\n".to_owned(),
            "\"data\":\"x\\n\\nid: 7\"}",
        ),
        (
            "?event=paid",
            b"7",
            "event: paid\ndata: 7\n\n".to_owned(),
            "\"event\":\"paid\",\"data\":\"7\"}",
        ),
        (
            "",
            b"\xff\0",
            "event: binary\ndata: /wA=\n\n".to_owned(),
            "\"base64\":\"/wA=\"}",
        ),
        ("", limit.as_bytes(), format!("data: {limit}\n\n"), "xxx\"}"),
    ];
    for (query, body, expected, meta_end) in cases {
        let (status, answer) = server.post(&format!("/ch/a{query}"), body).await;
        assert_eq!(status, 200, "{answer}");
        let id = id_of(&answer);
        assert!(raw.event().await == format!("id: {id}\n{expected}"));
        let block = meta.event().await;
        assert!(
            block.starts_with(&format!("id: {id}\ndata: {{\"id\":\"{id}\",\"channel\":\"a\"")),
            "{block}"
        );
        assert!(block.trim_end().ends_with(meta_end), "{block}");
    }
}

#[tokio::test]
async fn a_stream_may_follow_a_request_on_the_same_connection() {
    let server = Server::start(&[]);
    let mut peer = server.connect().await;
    assert_eq!(peer.request("POST", "/ch/a", "", b"before").await.0, 200);
    peer.send_head("GET /ch/a HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
        .await;
    let head = peer.head().await.to_lowercase();
    assert!(
        head.contains("text/event-stream") && head.contains("transfer-encoding: chunked"),
        "{head}"
    );
    server
        .wait_for_metric("fanfare_sessions{transport=\"event_stream\"}", 1)
        .await;
    server.post("/ch/a", b"after").await;
    while !String::from_utf8_lossy(&peer.got).contains("data: after\n\n") {
        assert!(peer.more().await);
    }
    drop(peer);
    // The session ends with its connection.
    server
        .wait_for_metric("fanfare_disconnects_total{reason=\"lost\"}", 1)
        .await;
    assert_eq!(
        server
            .metric("fanfare_sessions{transport=\"event_stream\"}")
            .await,
        0
    );
}

#[tokio::test]
async fn pages_of_allowed_origins_may_read() {
    let server = Server::start(&[]);
    let (status, head, _) = server
        .request("POST", "/ch/a", "Origin: http://localhost:3000\r\n", b"x")
        .await;
    assert!(
        status == 200 && head.contains("access-control-allow-origin: http://localhost:3000"),
        "{head}"
    );
    let (status, head, _) = server.request("OPTIONS", "/ch/a", "Origin: null\r\n", b"").await;
    assert!(
        status == 204 && head.contains("access-control-allow-headers"),
        "{head}"
    );
    let (status, head, _) = server
        .request("POST", "/ch/a", "Origin: https://evil.example\r\n", b"x")
        .await;
    assert!(
        status == 403 && !head.contains("access-control-allow-origin"),
        "{head}"
    );
}
