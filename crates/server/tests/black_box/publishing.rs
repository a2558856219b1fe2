//! A publisher may repeat itself, come late, and say how long its message is worth something.

use crate::support::{Server, text};

/// Status, and the JSON of each line of the answer.
async fn post(server: &Server, path: &str, fields: &str, body: &str) -> (u16, Vec<serde_json::Value>) {
    let (status, _, answer) = server.request("POST", path, fields, body.as_bytes()).await;
    let lines = answer.lines().map(|line| serde_json::from_str(line).unwrap());
    (status, lines.collect())
}

#[tokio::test]
async fn a_repeat_with_the_same_key_is_answered_and_not_published_again() {
    let server = Server::start(&[("FANFARE_LIMITS_IDEMPOTENCY_KEYS_MAX", "2")]);
    let mut listener = server.websocket("/ch/a").await;
    let first = post(&server, "/ch/a", "Idempotency-Key: k1\r\n", "one").await;
    assert_eq!(
        post(&server, "/ch/a", "Idempotency-Key: k1\r\n", "one").await,
        first
    );
    // Another key, and no key, are other messages.
    let second = post(&server, "/ch/a", "Idempotency-Key: k2\r\n", "two").await;
    let third = post(&server, "/ch/a", "", "three").await;
    assert!(second.1[0]["id"] != first.1[0]["id"] && third.1[0]["id"] != second.1[0]["id"]);
    // A whole batch counts as one.
    let batch = "{\"channel\":\"a\",\"data\":\"four\"}\n{\"channel\":\"a\",\"data\":\"five\"}";
    let fields = "Content-Type: application/x-ndjson\r\nIdempotency-Key: k3\r\n";
    let answer = post(&server, "/ch", fields, batch).await;
    assert_eq!(answer.1.len(), 2);
    assert_eq!(post(&server, "/ch", fields, batch).await, answer);
    // Two keys are remembered, and k1 was the oldest.
    assert_ne!(
        post(&server, "/ch/a", "Idempotency-Key: k1\r\n", "six").await,
        first
    );
    for expected in ["one", "two", "three", "four", "five", "six"] {
        assert_eq!(listener.hear().await, text(expected));
    }
    let long = format!("Idempotency-Key: {}\r\n", "k".repeat(201));
    assert_eq!(post(&server, "/ch/a", &long, "x").await.0, 400);
    assert_eq!(post(&server, "/ch/a", "Idempotency-Key: \r\n", "x").await.0, 400);
}

/// Many at once with one key: one of them publishes, and all hear the same answer.
#[tokio::test]
async fn repeats_at_the_same_time_are_one() {
    let server = Server::start(&[]);
    let attempts = (0..16).map(|_| post(&server, "/ch/a", "Idempotency-Key: k\r\n", "x"));
    let answers = futures_util::future::join_all(attempts).await;
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!(server.metric("fanfare_publications_total").await, 1);
}

#[tokio::test]
async fn a_version_that_is_not_newer_is_dropped() {
    let server = Server::start(&[]);
    let mut listener = server.websocket("/ch/a").await;
    let mut last = serde_json::Value::Null;
    // Query, whether it comes too late.
    for (query, is_late) in [
        ("version=5", false),
        ("version=4", true),
        ("version=5", true),
        ("version=6", false),
        ("version=1&key=eurusd", false),
        ("version=1&key=eurusd", true),
        ("version=2&key=eurusd", false),
        ("key=eurusd", false),
        ("", false),
    ] {
        let (status, answer) = post(&server, &format!("/ch/a?{query}"), "", query).await;
        assert_eq!((status, answer[0]["stale"] == true), (200, is_late), "{query}");
        if is_late {
            assert_eq!(answer[0]["id"], last, "{query}");
        } else {
            assert_eq!(listener.hear().await, text(query));
            last = answer[0]["id"].clone();
        }
    }
    assert_eq!(server.metric("fanfare_publications_stale_total").await, 3);
    let batch =
        "{\"channel\":\"b\",\"data\":\"x\",\"version\":2}\n{\"channel\":\"b\",\"data\":\"x\",\"version\":1}";
    let (_, answer) = post(&server, "/ch", "Content-Type: application/x-ndjson\r\n", batch).await;
    assert!(
        answer[0]["stale"].is_null() && answer[1]["stale"] == true,
        "{answer:?}"
    );
    assert_eq!(post(&server, "/ch?name=a&name=b&version=9", "", "x").await.0, 400);
    assert_eq!(post(&server, "/ch/*?version=9", "", "x").await.0, 400);
}

#[tokio::test]
async fn what_is_worth_nothing_any_more_is_not_given_to_those_who_come_back() {
    let server = Server::start(&[]);
    let mut listener = server.websocket("/ch/a").await;
    post(&server, "/ch/a?ttl=0", "", "gone").await;
    post(&server, "/ch/a?ttl=3600", "", "stays").await;
    // Who listens hears both.
    assert_eq!(listener.hear().await, text("gone"));
    assert_eq!(listener.hear().await, text("stays"));
    let mut late = server.websocket("/ch/a?last=9").await;
    assert_eq!(late.hear().await, text("stays"));
}
