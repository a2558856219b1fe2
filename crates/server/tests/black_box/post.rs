//! Speaking by POST: who may, what is answered, and what is refused.

use crate::support::{KEY, Said, Server, bearer, text};

/// One request: method, path, fields, body; status and a part of the answer.
async fn check(
    server: &Server,
    method: &str,
    path: &str,
    fields: &str,
    body: &[u8],
    status: u16,
    part: &str,
) {
    let (got, head, answer) = server.request(method, path, fields, body).await;
    assert_eq!(got, status, "{method} {path}: {answer}");
    assert!(
        answer.contains(part) || head.contains(part),
        "{method} {path}: {head}{answer:?} does not say {part:?}"
    );
}

#[tokio::test]
async fn answers_and_refusals() {
    let server = Server::start(&[]);
    let nd = "Content-Type: application/x-ndjson\r\n";
    check(&server, "POST", "/ch/a", "", b"x", 200, "\"listeners\":0").await;
    check(&server, "POST", "/", "", b"x", 200, "\"id\":").await;
    check(&server, "POST", "/ch/*", "", b"x", 200, "\"id\":").await;
    check(&server, "POST", "/ch/a", "", &vec![b'x'; 65_536], 200, "\"id\":").await;
    check(
        &server,
        "POST",
        "/ch/a",
        "",
        &vec![b'x'; 65_537],
        413,
        "65536 bytes",
    )
    .await;
    check(&server, "POST", "/ch", "", b"x", 400, "name a channel").await;
    check(
        &server,
        "POST",
        "/ch",
        nd,
        b"{\"channel\":\"a\",\"data\":\"x\"}\n{\"channel\":\"b\",\"base64\":\"/w==\"}",
        200,
        "\n{\"id\":",
    )
    .await;
    check(
        &server,
        "POST",
        "/ch",
        nd,
        b"{\"channel\":\"a\",\"data\":\"x\"}\nnot json",
        400,
        "line 2",
    )
    .await;
    check(&server, "POST", "/ch/a?event=", "", b"x", 400, "event").await;
    check(&server, "POST", "/ch/%zz", "", b"x", 400, "bad_request").await;
    check(&server, "POST", "/nowhere", "", b"x", 404, "not_found").await;
    check(&server, "PATCH", "/ch/a", "", b"", 405, "allow: GET, POST").await;
    check(
        &server,
        "GET",
        "/ch/a",
        "",
        b"",
        200,
        "{\"channel\":\"a\",\"listeners\":0,\"next\":",
    )
    .await;
    check(&server, "GET", "/ch/a?last=x", "", b"", 400, "whole number").await;
    check(&server, "GET", "/nowhere", "", b"", 404, "not_found").await;
    check(&server, "HEAD", "/health", "", b"", 200, "").await;
    check(&server, "GET", "/health", "", b"", 200, "ok\n").await;
    check(&server, "GET", "/ready", "", b"", 200, "ready\n").await;
    check(
        &server,
        "GET",
        "/",
        "Accept: text/html\r\n",
        b"",
        200,
        "content-security-policy",
    )
    .await;
    check(&server, "GET", "/fanfare.js", "", b"", 200, "Fanfare").await;
}

#[tokio::test]
async fn with_a_key_only_the_server_speaks_everywhere() {
    let server = Server::start(&[("FANFARE_KEY", KEY)]);
    let with_key = bearer(KEY);
    check(&server, "POST", "/ch/orders", &with_key, b"x", 200, "\"id\":").await;
    check(&server, "POST", "/ch/*", &with_key, b"x", 200, "\"id\":").await;
    check(&server, "POST", "/ch/orders", "", b"x", 403, "not open to talk").await;
    check(&server, "POST", "/ch/*", "", b"x", 403, "needs the key").await;
    check(&server, "POST", "/ch/main", "", b"x", 200, "\"id\":").await;
    check(&server, "POST", "/ch/talk/7", "", b"x", 200, "\"id\":").await;
    check(
        &server,
        "POST",
        "/ch/orders",
        &bearer("nonsense"),
        b"x",
        401,
        "unauthorized",
    )
    .await;
    check(&server, "GET", "/ch/private/1", "", b"", 401, "private").await;
    // What the operator asks is not answered on the doors' port any more.
    check(&server, "GET", "/metrics", "", b"", 404, "not_found").await;
}

#[tokio::test]
async fn a_batch_is_all_or_nothing() {
    let server = Server::start(&[("FANFARE_KEY", KEY)]);
    let mut listener = server.websocket("/").await;
    let batch = b"{\"channel\":\"main\",\"data\":\"half\"}\n{\"channel\":\"orders\",\"data\":\"forbidden\"}";
    check(
        &server,
        "POST",
        "/ch",
        "Content-Type: application/x-ndjson\r\n",
        batch,
        403,
        "orders",
    )
    .await;
    server.post("/ch/main", b"next").await;
    assert_eq!(listener.hear().await, text("next"));
}

#[tokio::test]
async fn text_and_binary_are_told_apart() {
    let server = Server::start(&[]);
    let mut listener = server.websocket("/ch/a").await;
    let cases: [(&str, &[u8], Said); 4] = [
        (
            "Content-Type: application/x-www-form-urlencoded\r\n",
            b"a=b&c",
            text("a=b&c"),
        ),
        ("", b"\xff", Said::Binary(vec![0xff])),
        (
            "Content-Type: application/octet-stream\r\n",
            b"text",
            Said::Binary(b"text".to_vec()),
        ),
        (
            "Content-Type: Application/Octet-Stream; x=y\r\n",
            b"",
            Said::Binary(vec![]),
        ),
    ];
    for (fields, body, expected) in cases {
        check(&server, "POST", "/ch/a", fields, body, 200, "\"listeners\":1").await;
        assert_eq!(listener.hear().await, expected, "{fields}");
    }
}

#[tokio::test]
async fn a_full_mailbox_answers_503_before_ordering() {
    let server = Server::start(&[
        ("FANFARE_LIMITS_MAILBOX_BYTES_MAX", "65536"),
        ("FANFARE_LIMITS_MAILBOX_PUBLICATIONS_MAX", "2"),
    ]);
    let mut listener = server.websocket("/ch/a").await;
    let line = "{\"channel\":\"a\",\"data\":\"x\"}\n";
    let nd = "Content-Type: application/x-ndjson\r\n";
    check(
        &server,
        "POST",
        "/ch",
        nd,
        line.repeat(3).as_bytes(),
        503,
        "retry-after: 1",
    )
    .await;
    let (_, answer) = server.post("/ch/a", b"fits").await;
    assert!(
        answer.contains("-1\""),
        "the refused ones were given no offset: {answer}"
    );
    assert_eq!(listener.hear().await, text("fits"));
}
