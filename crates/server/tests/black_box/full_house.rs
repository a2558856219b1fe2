//! Every place taken, and every descriptor: who comes too late is told so, who is there notices
//! nothing, and places that become free are given again.

use crate::support::{PATIENCE, Peer, Said, Server, text};

const LIMIT: usize = 60;

/// A metric, asked for on a connection that is there already.
async fn figure(operator: &mut Peer, name: &str) -> u64 {
    let (status, _, text) = operator.request("GET", "/metrics", "", b"").await;
    assert_eq!(status, 200, "{text}");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().unwrap())
}

/// Asks again and again until a metric is as expected.
async fn wait_for(operator: &mut Peer, name: &str, expected: impl Fn(u64) -> bool) {
    let mut last = 0;
    let reached = async {
        loop {
            last = figure(operator, name).await;
            if expected(last) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let reached = tokio::time::timeout(PATIENCE, reached).await;
    assert!(reached.is_ok(), "{name} stays at {last}");
}

const WEBSOCKETS: &str = "fanfare_sessions{transport=\"websocket\"}";
const STREAMS: &str = "fanfare_sessions{transport=\"event_stream\"}";
const FULL: &str = "fanfare_refusals_total{error=\"full\"}";
const ACCEPTED: &str = "fanfare_connections_accepted_total";
const OPEN: &str = "fanfare_connections";

/// Sessions that are open.
async fn sessions(operator: &mut Peer) -> u64 {
    figure(operator, WEBSOCKETS).await + figure(operator, STREAMS).await
}

/// Comes in. The server's own probe may have the last place for a moment: then comes again.
async fn enter(server: &Server, operator: &mut Peer, stream: bool) -> Peer {
    let entered = async {
        loop {
            let (inside, full) = (sessions(operator).await, figure(operator, FULL).await);
            let peer = if stream {
                server.stream("/ch/a", "").await
            } else {
                server.websocket("/ch/a").await
            };
            while figure(operator, FULL).await == full {
                if sessions(operator).await > inside {
                    return peer;
                }
            }
        }
    };
    let entered = tokio::time::timeout(PATIENCE, entered).await;
    entered.expect("neither let in nor refused")
}

/// All hear what is published now.
async fn all_hear(server: &Server, message: &str, websockets: &mut [Peer], streams: &mut [Peer]) {
    // A publisher on a connection of its own is let in, however full the house is.
    let (status, answer) = server.post("/ch/a", message.as_bytes()).await;
    assert_eq!(status, 200, "{answer}");
    let listeners = format!("\"listeners\":{}", websockets.len() + streams.len());
    assert!(answer.contains(&listeners), "{answer} instead of {listeners}");
    for peer in websockets {
        assert_eq!(peer.hear().await, text(message));
    }
    for peer in streams {
        let event = peer.event().await;
        assert!(event.ends_with(&format!("data: {message}\n\n")), "{event}");
    }
}

async fn refused(server: &Server, websockets: usize, streams: usize) {
    for _ in 0..websockets {
        let mut late = server.websocket("/ch/a").await;
        let said = late.hear().await;
        assert!(
            matches!(&said, Said::Close(1013, reason) if reason.contains("no room")),
            "{said:?}"
        );
        assert_eq!(late.hear().await, Said::End);
    }
    for _ in 0..streams {
        let mut late = server.connect().await;
        let host = &server.address;
        let head = format!("GET /ch/a HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n\r\n");
        late.send_head(&head).await;
        while late.more().await {}
        let answer = String::from_utf8(late.got).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let retry = body.strip_prefix(":\nretry: ").unwrap().trim_end();
        assert!(
            (5_000..15_000).contains(&retry.parse::<u32>().unwrap()),
            "{retry}"
        );
    }
}

#[tokio::test]
async fn who_comes_too_late_is_told_so_and_comes_in_when_others_have_left() {
    let limit = LIMIT.to_string();
    let mut server = Server::start(&[("FANFARE_LIMITS_CONNECTIONS_MAX", &limit)]);
    // The operator has one of the places.
    let mut operator = server.connect().await;
    let (mut websockets, mut streams) = (Vec::new(), Vec::new());
    for number in 1..LIMIT {
        let stream = number % 2 == 1;
        let peer = enter(&server, &mut operator, stream).await;
        if stream { &mut streams } else { &mut websockets }.push(peer);
    }
    let full = figure(&mut operator, FULL).await;
    wait_for(&mut operator, OPEN, |open| open == LIMIT as u64).await;
    all_hear(&server, "one", &mut websockets, &mut streams).await;
    refused(&server, 20, 20).await;
    assert_eq!(figure(&mut operator, FULL).await, full + 40);
    all_hear(&server, "two", &mut websockets, &mut streams).await;

    // Those who were told so and do not go yet take no place from who has something to say.
    let mut lingering = Vec::new();
    for _ in 0..100 {
        lingering.push(server.websocket("/ch/a").await);
    }
    all_hear(&server, "three", &mut websockets, &mut streams).await;
    drop(lingering);
    let full = full + 140;
    wait_for(&mut operator, FULL, |count| count == full).await;

    // The server's own probe is let in too: a full house is still ready.
    wait_for(&mut operator, OPEN, |open| open == LIMIT as u64).await;
    let accepted = figure(&mut operator, ACCEPTED).await;
    wait_for(&mut operator, ACCEPTED, |count| count > accepted).await;
    wait_for(&mut operator, OPEN, |open| open == LIMIT as u64).await;
    assert_eq!(figure(&mut operator, FULL).await, full, "the probe was refused");
    assert_eq!(operator.request("GET", "/ready", "", b"").await.0, 200);

    websockets.truncate(19);
    streams.truncate(20);
    wait_for(&mut operator, WEBSOCKETS, |open| open == 19).await;
    wait_for(&mut operator, STREAMS, |open| open == 20).await;
    for _ in 0..10 {
        websockets.push(enter(&server, &mut operator, false).await);
        streams.push(enter(&server, &mut operator, true).await);
    }
    let full = figure(&mut operator, FULL).await;
    all_hear(&server, "four", &mut websockets, &mut streams).await;
    wait_for(&mut operator, OPEN, |open| open == LIMIT as u64).await;
    refused(&server, 1, 1).await;
    assert_eq!(figure(&mut operator, FULL).await, full + 2);
    assert!(server.is_alive());
}

#[tokio::test]
async fn without_descriptors_it_waits_and_goes_on() {
    let files = 256;
    let mut server = Server::start_with_files(files, &[]);
    let mut operator = server.connect().await;
    let mut listener = server.websocket("/ch/a").await;
    let max = figure(&mut operator, "fanfare_connections_max").await;
    assert!(max < files as u64, "{max} places with {files} files");
    // The kernel opens them all; the server has no descriptor for the last.
    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(server.knock().await);
    }
    let exhausted = async {
        while server.files() < files {
            tokio::task::yield_now().await;
        }
    };
    let exhausted = tokio::time::timeout(PATIENCE, exhausted).await;
    assert!(
        exhausted.is_ok(),
        "{} of {files} descriptors in use",
        server.files()
    );
    // Whoever is there is served.
    for _ in 0..20 {
        assert_eq!(operator.request("GET", "/health", "", b"").await.0, 200);
        assert_eq!(operator.request("POST", "/ch/a", "", b"x").await.0, 200);
        assert_eq!(listener.hear().await, text("x"));
    }
    // It looks now and then whether there are descriptors again, and does not turn for nothing:
    // each of two shards has four ticks a second. It is the server's own clock and count, and a
    // busy machine only makes the count smaller.
    let uptime = figure(&mut operator, "fanfare_uptime_seconds").await;
    let turns = figure(&mut operator, "fanfare_turns_total").await;
    wait_for(&mut operator, "fanfare_uptime_seconds", |now| now >= uptime + 3).await;
    let seconds = figure(&mut operator, "fanfare_uptime_seconds").await - uptime + 1;
    let turns = figure(&mut operator, "fanfare_turns_total").await - turns;
    assert!(turns < seconds * 500, "{turns} turns in {seconds} seconds");

    drop(silent);
    let mut late = server.websocket("/ch/a").await;
    assert_eq!(operator.request("POST", "/ch/a", "", b"again").await.0, 200);
    assert_eq!(late.hear().await, text("again"));
    assert_eq!(listener.hear().await, text("again"));
    // What was silent is gone, from the kernel's queue as well.
    wait_for(&mut operator, OPEN, |open| open <= 3).await;
    assert!(server.is_alive());
    server.terminate();
    let (status, logs) = server.wait();
    assert_eq!(status.code(), Some(0), "{logs}");
    let said = logs.matches("cannot accept connections for now").count();
    assert!((1..200).contains(&said), "said {said} times: {logs}");
}
