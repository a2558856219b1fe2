//! The address of a peer is that of its socket, or what a trusted proxy says, and nothing else.
//!
//! Peers come from 127.0.0.2 and so on, all of which are this machine: the limits count loopback here.
//! Not run with TLS around every socket, since its forwarder has an address of its own.

use std::net::SocketAddr;

use crate::support::tls::Certificate;
use crate::support::{KEY, PATIENCE, Peer, Server, bearer, command, in_time, text};
use fanfare_core::wire::proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Whether a peer is served: the status of an answer to a request, or `None` if there is none.
async fn status(peer: &mut Peer, fields: &str) -> Option<u16> {
    let request = format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
    // The other side may have closed already.
    let _ = peer.socket.write_all(request.as_bytes()).await;
    while !peer.got.windows(4).any(|part| part == b"\r\n\r\n") {
        let more = tokio::time::timeout(PATIENCE, peer.socket.read_buf(&mut peer.got));
        if !matches!(more.await.unwrap(), Ok(1..)) {
            return None;
        }
    }
    let status = std::str::from_utf8(&peer.got[9..12]).unwrap().parse().unwrap();
    peer.got.clear();
    Some(status)
}

fn start(settings: &[(&str, &str)]) -> Server {
    Server::start(&[&[("FANFARE_KEY", KEY)], settings].concat())
}

#[tokio::test]
async fn networks_are_allowed_and_denied_when_they_connect() {
    let server = start(&[
        ("FANFARE_NETWORK_ALLOW", "127.0.0.2,127.0.0.8/29"),
        ("FANFARE_NETWORK_DENY", "127.0.0.9"),
    ]);
    for (last, expected) in [
        (2, Some(200)),
        (3, None),
        (8, Some(200)),
        (9, None),
        (15, Some(200)),
        (16, None),
    ] {
        let mut peer = Peer::from(last, &server.address).await;
        assert_eq!(status(&mut peer, "").await, expected, "127.0.0.{last}");
    }
    assert_eq!(server.limited("network").await, 3);
    // The node's own probe comes in nevertheless.
    let mut inside = Peer::from(2, &server.address).await;
    assert_eq!(inside.request("GET", "/ready", "", b"").await.0, 200);
    server.terminate();
    let (_, log) = server.wait();
    assert!(log.contains("peer=127.0.0.3:"), "{log}");
}

#[tokio::test]
async fn fields_of_others_than_trusted_proxies_mean_nothing() {
    let server = start(&[
        ("FANFARE_NETWORK_TRUSTED_PROXIES", "127.0.0.2,127.0.0.3"),
        ("FANFARE_NETWORK_DENY", "203.0.113.0/24,127.0.0.9"),
    ]);
    let bad = "X-Forwarded-For: 203.0.113.7\r\n";
    for (last, fields, expected) in [
        (2, "", Some(200)),
        (2, bad, Some(403)),
        (4, bad, Some(200)),
        // Further right is somebody who is let in, and whom the proxies have seen.
        (2, "X-Forwarded-For: 203.0.113.7, 198.51.100.1\r\n", Some(200)),
        (
            2,
            "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-For: 198.51.100.1, 127.0.0.3\r\n",
            Some(200),
        ),
        (
            2,
            "X-Forwarded-For: 198.51.100.1, 203.0.113.7, 127.0.0.3\r\n",
            Some(403),
        ),
        (2, "X-Forwarded-For: unknown\r\n", Some(400)),
        (4, "X-Forwarded-For: unknown\r\n", Some(200)),
        (2, "X-Forwarded-For: [2001:db8::1]:4711\r\n", Some(200)),
        (2, "x-forwarded-for:\r\n", Some(200)),
        // A denied proxy is denied.
        (9, "X-Forwarded-For: 198.51.100.1\r\n", None),
    ] {
        let mut peer = Peer::from(last, &server.address).await;
        assert_eq!(
            status(&mut peer, fields).await,
            expected,
            "127.0.0.{last} with {fields:?}"
        );
    }
    // Each request of a connection has its own.
    let mut shared = Peer::from(2, &server.address).await;
    for (fields, expected) in [("", 200), (bad, 403)] {
        let (status, _, _) = shared.request("GET", "/health", fields, b"").await;
        assert_eq!(status, expected, "{fields:?}");
    }
}

#[tokio::test]
async fn sessions_have_the_address_of_who_asks_in_both_lanes() {
    let server = start(&[("FANFARE_NETWORK_TRUSTED_PROXIES", "127.0.0.1")]);
    let fields = "X-Forwarded-For: 198.51.100.1\r\n";
    let fast = server.websocket_with("/ch/a", fields).await;
    let stream = server.stream("/ch/b", fields).await;
    let mut slow = server.connect().await;
    slow.request("GET", "/health", "", b"").await;
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let fields = format!("X-Forwarded-For: 198.51.100.2\r\n{upgrade}");
    assert_eq!(slow.request("GET", "/ch/c", &fields, b"").await.0, 101);
    let own = Peer::from(7, &server.address).await;
    let mut own = websocket(own).await;
    server.request("POST", "/ch/d", &bearer(KEY), b"hello").await;
    assert_eq!(own.hear().await, text("hello"));
    // The answer of a handshake is out a moment before its session is open.
    let opened = "fanfare_sessions_opened_total{transport=\"websocket\"}";
    in_time(async { while server.admin_metric(opened).await != Some(3) {} }).await;
    drop((fast, stream, slow, own));
    server.terminate();
    let (_, log) = server.wait();
    for (channel, peer) in [
        ("a", "198.51.100.1"),
        ("b", "198.51.100.1"),
        ("c", "198.51.100.2"),
        ("d", "127.0.0.7:"),
    ] {
        let opened = format!("channels=[\"{channel}\"]");
        let line = log.lines().find(|line| line.contains(&opened));
        assert!(
            line.unwrap().contains(&format!("peer={peer}")),
            "{channel} {peer}: {log}"
        );
    }
}

async fn websocket(mut peer: Peer) -> Peer {
    let head = "GET /ch/d HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    peer.send_head(head).await;
    assert!(peer.head().await.starts_with("HTTP/1.1 101"));
    peer
}

#[tokio::test]
async fn limits_are_those_of_the_socket_where_there_is_no_proxy() {
    let server = start(&[
        ("FANFARE_LIMITS_COUNT_LOOPBACK", "true"),
        ("FANFARE_LIMITS_CONNECTIONS_PER_ADDRESS", "2"),
    ]);
    let mut first = Peer::from(2, &server.address).await;
    assert_eq!(first.request("GET", "/health", "", b"").await.0, 200);
    // Connections count, whatever they are for; and a field does not make another of it.
    let _second = websocket(Peer::from(2, &server.address).await).await;
    let mut third = Peer::from(2, &server.address).await;
    assert_eq!(
        status(&mut third, "X-Forwarded-For: 198.51.100.1\r\n").await,
        Some(429)
    );
    let mut other = Peer::from(3, &server.address).await;
    assert_eq!(status(&mut other, "").await, Some(200));
    // Who goes makes room, also where the HTTP server had the connection.
    drop(first);
    let served = async {
        loop {
            let mut again = Peer::from(2, &server.address).await;
            if status(&mut again, "").await == Some(200) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, served).await.unwrap();
}

#[tokio::test]
async fn who_connects_much_too_fast_gets_no_answer() {
    let server = start(&[
        ("FANFARE_LIMITS_COUNT_LOOPBACK", "true"),
        ("FANFARE_LIMITS_CONNECTS_PER_ADDRESS", "1/h burst 2"),
    ]);
    let mut answers = Vec::new();
    for _ in 0..24 {
        let mut peer = Peer::from(2, &server.address).await;
        answers.push(status(&mut peer, "").await);
    }
    // Ten times as many as are let in are told why they are not.
    let told = |answer: &Option<u16>| *answer == Some(429);
    assert_eq!(answers[..2], [Some(200); 2]);
    assert!(answers[2..22].iter().all(told), "{answers:?}");
    assert_eq!(answers[22..], [None; 2]);
    assert_eq!(server.limited("connects_per_address").await, 22);
    let mut other = Peer::from(3, &server.address).await;
    assert_eq!(status(&mut other, "").await, Some(200));
}

#[tokio::test]
async fn the_origin_of_a_page_without_tls_is_another_where_a_proxy_says_that_it_was_asked_with_tls() {
    let server = start(&[
        ("FANFARE_HOSTS", "shop.example"),
        ("FANFARE_NETWORK_TRUSTED_PROXIES", "127.0.0.2"),
    ]);
    for (last, scheme, proto, expected) in [
        (2, "https", "https", 200),
        (2, "http", "https", 403),
        (2, "http", "http", 200),
        // Of others it is not believed.
        (3, "http", "https", 200),
    ] {
        let mut peer = Peer::from(last, &server.address).await;
        let fields = format!(
            "Host: shop.example\r\nOrigin: {scheme}://shop.example\r\nX-Forwarded-Proto: {proto}\r\n"
        );
        let (status, _, _) = peer.request("GET", "/ch/main", &fields, b"").await;
        assert_eq!(status, expected, "127.0.0.{last}: {scheme} page, {proto} proxy");
    }
}

/// A header of the PROXY protocol for this address.
fn header(address: &str) -> Vec<u8> {
    let address: SocketAddr = address.parse().unwrap();
    let SocketAddr::V4(address) = address else {
        panic!()
    };
    let mut bytes = proxy::LOCAL[..12].to_vec();
    bytes.extend([0x21, 0x11, 0, 12]);
    bytes.extend(address.ip().octets());
    bytes.extend([127, 0, 0, 1]);
    bytes.extend(address.port().to_be_bytes());
    bytes.extend([0, 80]);
    bytes
}

const PROXIED: [(&str, &str); 4] = [
    ("FANFARE_KEY", KEY),
    ("FANFARE_NETWORK_PROXY_PROTOCOL", "true"),
    ("FANFARE_NETWORK_TRUSTED_PROXIES", "127.0.0.2,198.51.100.9"),
    ("FANFARE_NETWORK_DENY", "203.0.113.0/24"),
];

#[tokio::test]
async fn with_the_proxy_protocol_a_header_of_a_trusted_proxy_comes_first() {
    let server = Server::start(&PROXIED);
    let good = header("198.51.100.1:4711");
    let forwarded = "X-Forwarded-For: 203.0.113.7\r\n";
    for (last, bytes, fields, expected) in [
        (2, good.clone(), "", Some(200)),
        (2, proxy::LOCAL.to_vec(), "", Some(200)),
        (2, header("203.0.113.7:4711"), "", None),
        // Nobody else may, whatever it sends.
        (3, good.clone(), "", None),
        (3, proxy::LOCAL.to_vec(), "", None),
        (3, Vec::new(), "", None),
        // It is needed, and in version 2.
        (2, Vec::new(), "", None),
        (
            2,
            b"PROXY TCP4 198.51.100.1 127.0.0.1 4711 80\r\n".to_vec(),
            "",
            None,
        ),
        (2, [good.clone(), good.clone()].concat(), "", Some(400)),
        // Whom it names says nothing more, unless that is a trusted proxy too.
        (2, good.clone(), forwarded, Some(200)),
        (2, header("198.51.100.9:4711"), forwarded, Some(403)),
        (2, proxy::LOCAL.to_vec(), forwarded, Some(403)),
    ] {
        let mut peer = Peer::from(last, &server.address).await;
        let _ = peer.socket.write_all(&bytes).await;
        assert_eq!(
            status(&mut peer, fields).await,
            expected,
            "127.0.0.{last} with {bytes:02x?} {fields:?}"
        );
    }
    // Whatever way it is cut.
    for cut in 1..good.len() {
        let mut peer = Peer::from(2, &server.address).await;
        peer.socket.set_nodelay(true).unwrap();
        peer.send(&good[..cut]).await;
        tokio::task::yield_now().await;
        peer.send(&good[cut..]).await;
        assert_eq!(status(&mut peer, "").await, Some(200), "cut at {cut}");
    }
    assert_eq!(server.limited("proxy_protocol").await, 2);
    // Four when they connected, two when a proxy asked for them.
    assert_eq!(server.limited("network").await, 6);
    let mut peer = Peer::from(2, &server.address).await;
    peer.send(&good).await;
    drop(websocket(peer).await);
    server.terminate();
    let (_, log) = server.wait();
    assert!(log.contains("peer=198.51.100.1:4711"), "{log}");
}

#[tokio::test]
async fn the_header_comes_before_tls() {
    let certificate = Certificate::new(&["localhost"]);
    let own = certificate.settings();
    let mut settings: Vec<(&str, &str)> = PROXIED.to_vec();
    settings.extend(own.iter().map(|(name, value)| (*name, value.as_str())));
    let started = Server::spawn(command(), &settings, 2);
    let address = started.address_of("https");
    let _server = started.into_server(address.clone(), None);
    let mut socket = Peer::from(2, &address).await.socket;
    socket.write_all(&header("198.51.100.1:4711")).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(certificate.trusted()));
    let name = "localhost".try_into().unwrap();
    let mut stream = connector.connect(name, socket).await.unwrap();
    let request = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.unwrap();
    assert!(
        got.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&got)
    );
}

/// Requests on connections of their own from 127.0.0.`last`; their statuses.
async fn statuses(server: &Server, last: u8, fields: &str, count: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..count {
        let mut peer = Peer::from(last, &server.address).await;
        statuses.push(peer.request("POST", "/ch/main", fields, b"x").await.0);
    }
    statuses
}

#[tokio::test]
async fn a_back_end_on_another_machine_may_connect_for_each_message() {
    let server = start(&[
        ("FANFARE_LIMITS_COUNT_LOOPBACK", "true"),
        ("FANFARE_LIMITS_CONNECTS_PER_ADDRESS", "1/h burst 2"),
        ("FANFARE_NETWORK_UNCOUNTED", "127.0.0.6"),
    ]);
    assert_eq!(statuses(&server, 5, "", 4).await, [200, 200, 429, 429]);
    assert_eq!(statuses(&server, 7, &bearer(KEY), 9).await, [200; 9]);
    assert_eq!(statuses(&server, 6, "", 40).await, [200; 40]);
    // A key that is none is not the key.
    assert_eq!(statuses(&server, 8, &bearer("x"), 4).await, [401, 401, 429, 429]);
}
