//! TLS in the process: who gets which certificate and version, what happens to peers that speak
//! something else or break off, and how a connection ends.
//!
//! That everything else is the same with TLS as without, the other tests show: they run again with
//! `FANFARE_TEST_TLS=1` (`cargo xtask test --only tls`).

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;

use crate::support::tls::{Certificate, trusting};
use crate::support::{PATIENCE, Peer, Said, Server, command, frame, handshake, parse_frame, text};
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A server with both listeners; `server` is reached without TLS.
struct Both {
    server: Server,
    tls: String,
}

fn start(certificates: &[&Certificate], settings: &[(&str, &str)]) -> Both {
    let list = |path: fn(&Certificate) -> &std::path::Path| -> String {
        let paths = certificates
            .iter()
            .map(|certificate| path(certificate).to_str().unwrap());
        paths.collect::<Vec<_>>().join(",")
    };
    let (certs, keys) = (list(|c| &c.cert), list(|c| &c.key));
    let mut all = vec![
        ("FANFARE_SHARDS", "1"),
        ("FANFARE_TLS_LISTEN", "127.0.0.1:0"),
        ("FANFARE_TLS_CERT", &certs),
        ("FANFARE_TLS_KEY", &keys),
    ];
    all.extend(settings);
    let started = Server::spawn(command(), &all, 2);
    let (plain, tls) = (started.address_of("http"), started.address_of("https"));
    Both {
        server: started.into_server(plain, None),
        tls,
    }
}

type Stream = TlsStream<TcpStream>;

impl Both {
    async fn knock(&self) -> TcpStream {
        TcpStream::connect(&self.tls).await.unwrap()
    }

    async fn connect_as(&self, config: ClientConfig, name: &str) -> std::io::Result<Stream> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, self.knock().await).await
    }

    async fn connect(&self, certificate: &Certificate) -> Stream {
        self.connect_as(certificate.trusted(), "localhost").await.unwrap()
    }

    async fn websocket(&self, certificate: &Certificate, path: &str) -> Stream {
        let mut stream = self.connect(certificate).await;
        stream.write_all(handshake(path, "").as_bytes()).await.unwrap();
        let mut got = Vec::new();
        read_until(&mut stream, &mut got, b"\r\n\r\n").await;
        assert!(
            got.starts_with(b"HTTP/1.1 101"),
            "{}",
            String::from_utf8_lossy(&got)
        );
        stream
    }

    async fn failed(&self, cause: &str, count: u64) {
        let name = format!("fanfare_tls_handshakes_failed_total{{cause=\"{cause}\"}}");
        self.server.wait_for_metric(&name, count).await;
        assert_eq!(self.server.metric(&name).await, count, "{cause}");
    }
}

const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";

async fn read_until(stream: &mut Stream, got: &mut Vec<u8>, end: &[u8]) {
    while !got.windows(end.len()).any(|part| part == end) {
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(got))
            .await
            .unwrap();
        assert!(read.unwrap() > 0, "{}", String::from_utf8_lossy(got));
    }
}

async fn is_healthy(stream: &mut Stream) -> bool {
    stream.write_all(HEALTH).await.unwrap();
    let mut got = Vec::new();
    read_until(stream, &mut got, b"ok\n").await;
    got.starts_with(b"HTTP/1.1 200")
}

#[tokio::test]
async fn versions_and_protocols() {
    let certificate = Certificate::new(&["localhost"]);
    let versions = |list: &[&'static _]| trusting(&[&certificate], list);
    let protocols = |names: &[&str]| {
        let mut config = certificate.trusted();
        config.alpn_protocols = names.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    };
    let both = start(&[&certificate], &[]);
    let (v1_2, v1_3) = (ProtocolVersion::TLSv1_2, ProtocolVersion::TLSv1_3);
    for (config, version, protocol) in [
        (versions(&[&TLS12]), v1_2, None),
        (versions(&[&TLS13]), v1_3, None),
        (versions(&[&TLS12, &TLS13]), v1_3, None),
        (protocols(&["h2", "http/1.1"]), v1_3, Some(&b"http/1.1"[..])),
    ] {
        let mut stream = both.connect_as(config, "localhost").await.unwrap();
        assert!(is_healthy(&mut stream).await);
        let (_, connection) = stream.get_ref();
        let got = (connection.protocol_version(), connection.alpn_protocol());
        assert_eq!(got, (Some(version), protocol));
    }
    assert!(both.connect_as(protocols(&["h2"]), "localhost").await.is_err());
    both.failed("protocol", 1).await;
    let done = "fanfare_tls_handshakes_total{version=\"1.2\"}";
    assert_eq!(both.server.metric(done).await, 1);
    let none = |connections| connections == 0;
    let name = "fanfare_tls_connections";
    both.server.wait_for_metric_to(name, none).await;

    let both = start(&[&certificate], &[("FANFARE_TLS_MIN_VERSION", "1.3")]);
    assert!(both.connect_as(versions(&[&TLS12]), "localhost").await.is_err());
    both.failed("version", 1).await;
    assert!(both.connect_as(versions(&[&TLS13]), "localhost").await.is_ok());
}

#[tokio::test]
async fn a_peer_gets_the_certificate_with_the_name_it_asks_for() {
    let certificates = [
        &["a.test", "127.0.0.1"][..],
        &["b.test", "c.test"],
        &["*.d.test", "b.test"],
    ];
    let certificates = certificates.map(Certificate::new);
    let [first, second, third] = &certificates;
    let both = start(&[first, second, third], &[]);
    for (name, expected) in [
        ("a.test", first),
        ("b.test", second),
        ("C.TEST", second),
        ("x.d.test", third),
        // An address is not asked for by name.
        ("127.0.0.1", first),
    ] {
        let stream = both
            .connect_as(trusting(&[first, second, third], rustls::ALL_VERSIONS), name)
            .await;
        let stream = stream.unwrap_or_else(|error| panic!("{name}: {error}"));
        let shown = stream.get_ref().1.peer_certificates().unwrap();
        assert_eq!(shown, std::slice::from_ref(&expected.der), "{name}");
    }
    // Names that no certificate has get the first, and the peer decides.
    for name in ["other.test", "x.y.d.test"] {
        let error = both.connect_as(first.trusted(), name).await.unwrap_err();
        assert!(error.to_string().contains("not valid for name"), "{error}");
    }
    both.failed("alert", 2).await;
}

#[tokio::test]
async fn who_comes_again_need_not_begin_anew() {
    let certificate = Certificate::new(&["localhost"]);
    let both = start(&[&certificate], &[]);
    for version in [&TLS12, &TLS13] {
        let config = trusting(&[&certificate], &[version]);
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut stream = both.connect_as(config.clone(), "localhost").await.unwrap();
            assert!(is_healthy(&mut stream).await);
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(expected), "{version:?}");
        }
    }
}

/// What comes first on a port, and a part of the answer; then the connection ends.
async fn check_wrong(mut socket: TcpStream, bytes: &[u8], expected: &[u8]) {
    socket.write_all(bytes).await.unwrap();
    let mut got = Vec::new();
    let read = socket.read_to_end(&mut got);
    let _ = tokio::time::timeout(PATIENCE, read)
        .await
        .expect("the connection does not end");
    assert!(
        expected == got || !expected.is_empty() && got.windows(expected.len()).any(|part| part == expected),
        "{:?}: {:?}",
        String::from_utf8_lossy(&bytes[..bytes.len().min(40)]),
        String::from_utf8_lossy(&got)
    );
}

#[tokio::test]
async fn the_wrong_port_says_so_and_nonsense_gets_an_alert() {
    let certificate = Certificate::new(&["localhost"]);
    let mut both = start(&[&certificate], &[]);
    let mut hello = Vec::new();
    client(&certificate).write_tls(&mut hello).unwrap();
    let plain = TcpStream::connect(&both.server.address).await.unwrap();
    check_wrong(plain, &hello, b"HTTP/1.1 400").await;
    let plain = TcpStream::connect(&both.server.address).await.unwrap();
    check_wrong(plain, &hello, b"this is TLS where HTTP is expected").await;
    let http: [&[u8]; 3] = [HEALTH, b"POST / HTTP/1.1\r\n", b"G"];
    for bytes in http {
        check_wrong(both.knock().await, bytes, b"HTTP/1.1 400").await;
        check_wrong(both.knock().await, bytes, b"use https:// or wss://").await;
    }
    both.failed("plain_http", 6).await;
    // An alert is a record of its own kind (0x15), version 3.3, two bytes: fatal.
    let alert = [0x15, 3, 3, 0, 2, 2];
    let mut long = hello.clone();
    long[3..5].copy_from_slice(&[0xff, 0xff]);
    let mut late = hello.clone();
    late.extend([0x17, 3, 3, 0, 4, 1, 2, 3, 4]);
    let nonsense: [(&[u8], &[u8]); 5] = [
        (&[0; 600], &alert),
        (&[0x80, 0x2e, 1, 3, 1, 0, 0x15, 0, 0, 0, 0x10], &alert),
        (&long, &alert),
        // By then an alert is encrypted.
        (&late, &[0x17, 3, 3, 0, 0x13]),
        // A hello of six megabytes is ended without a word.
        (b"\x16\x03\x01\x00\x05hello", b""),
    ];
    for (bytes, expected) in nonsense {
        check_wrong(both.knock().await, bytes, expected).await;
    }
    both.failed("bytes", 5).await;
    assert!(both.server.is_alive());
    assert!(is_healthy(&mut both.connect(&certificate).await).await);
}

fn client(certificate: &Certificate) -> ClientConnection {
    let name = ServerName::try_from("localhost").unwrap();
    ClientConnection::new(Arc::new(certificate.trusted()), name).unwrap()
}

/// A peer whose flights can be cut.
struct Cut {
    socket: TcpStream,
    connection: ClientConnection,
}

impl Cut {
    fn flight(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// Reads until the handshake is done, or something was said.
    async fn read(&mut self, plain: &mut Vec<u8>) {
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(PATIENCE, self.socket.read_buf(&mut bytes)).await;
        assert!(read.unwrap().unwrap() > 0, "the server ended a good handshake");
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            self.connection.read_tls(&mut rest).unwrap();
            self.connection.process_new_packets().unwrap();
            match self.connection.reader().read_to_end(plain) {
                Err(error) if error.kind() != ErrorKind::WouldBlock => panic!("{error}"),
                _ => {}
            }
        }
    }
}

/// Both flights of a peer, each cut at every byte: what is whole in the end is served, and what is
/// not costs nobody anything.
#[tokio::test]
async fn a_handshake_may_arrive_in_pieces() {
    let certificate = Certificate::new(&["localhost"]);
    let mut both = start(&[&certificate], &[("FANFARE_LIMITS_HANDSHAKES_MAX", "10000")]);
    let mut clock = both.server.connect().await;
    let mut whole = Vec::new();
    client(&certificate).write_tls(&mut whole).unwrap();
    let mut peers = Vec::new();
    // Twice, so that there are as many as the second flight has bytes.
    let cuts: Vec<usize> = (1..whole.len()).chain(1..whole.len()).collect();
    for (index, at) in cuts.iter().copied().enumerate() {
        let (socket, connection) = (both.knock().await, client(&certificate));
        socket.set_nodelay(true).unwrap();
        let mut peer = Cut { socket, connection };
        let hello = peer.flight();
        peer.socket.write_all(&hello[..at]).await.unwrap();
        // Every other one breaks off.
        if index % 2 == 0 {
            peers.push((peer, hello, at));
        }
    }
    // The one thread has read what came before this was asked.
    assert_eq!(clock.request("GET", "/health", "", b"").await.0, 200);
    let mut second = Vec::new();
    for (peer, hello, at) in &mut peers {
        peer.socket.write_all(&hello[*at..]).await.unwrap();
        while peer.connection.is_handshaking() {
            peer.read(&mut Vec::new()).await;
        }
        peer.connection.writer().write_all(HEALTH).unwrap();
        second.push(peer.flight());
    }
    for (index, ((peer, ..), flight)) in peers.iter_mut().zip(&second).enumerate() {
        let (first, _) = flight.split_at(index % flight.len());
        peer.socket.write_all(first).await.unwrap();
    }
    assert_eq!(clock.request("GET", "/health", "", b"").await.0, 200);
    for (index, ((peer, ..), flight)) in peers.iter_mut().zip(&second).enumerate() {
        let (_, rest) = flight.split_at(index % flight.len());
        peer.socket.write_all(rest).await.unwrap();
        let mut plain = Vec::new();
        while !plain.ends_with(b"ok\n") {
            peer.read(&mut plain).await;
        }
    }
    assert!(
        peers.len() > second[0].len(),
        "each byte of the second flight was cut at"
    );
    both.failed("lost", (cuts.len() - peers.len()) as u64).await;
    assert!(both.server.is_alive());
}

#[tokio::test]
async fn handshakes_hold_up_nobody_who_is_served() {
    let certificate = Certificate::new(&["localhost"]);
    let both = start(&[&certificate], &[("FANFARE_LIMITS_HANDSHAKES_MAX", "10000")]);
    let mut listener = both.websocket(&certificate, "/ch/a").await;
    let mut publisher = both.connect(&certificate).await;
    // Half a hello each, and no more.
    let mut half_open = Vec::new();
    for _ in 0..500 {
        let mut hello = Vec::new();
        client(&certificate).write_tls(&mut hello).unwrap();
        let mut socket = both.knock().await;
        socket.write_all(&hello[..hello.len() / 2]).await.unwrap();
        half_open.push((socket, hello));
    }
    let mut got = Vec::new();
    for index in 0..20 {
        let body = format!("message {index}");
        let head = format!(
            "POST /ch/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        publisher.write_all(head.as_bytes()).await.unwrap();
        read_until(&mut listener, &mut got, body.as_bytes()).await;
        // And some come in.
        assert!(is_healthy(&mut both.connect(&certificate).await).await);
    }
    // All at once: no more than some are answered in a turn.
    let put_off = "fanfare_tls_handshakes_put_off_total";
    for (socket, hello) in &mut half_open {
        socket.write_all(&hello[hello.len() / 2..]).await.unwrap();
    }
    for (socket, _) in &mut half_open {
        let mut first = [0];
        let read = tokio::time::timeout(PATIENCE, socket.read_exact(&mut first)).await;
        read.unwrap().unwrap();
        assert_eq!(first, [0x16], "a handshake is answered with a handshake");
    }
    assert!(both.server.metric(put_off).await > 0);
    drop(half_open);
    both.failed("lost", 500).await;
}

#[tokio::test]
async fn too_many_unfinished_handshakes_push_out_the_oldest() {
    let certificate = Certificate::new(&["localhost"]);
    let both = start(&[&certificate], &[("FANFARE_LIMITS_HANDSHAKES_MAX", "2")]);
    let mut first = both.knock().await;
    first.write_all(&[0x16]).await.unwrap();
    // It counts as soon as it is accepted; the others behind it come in turn.
    let (_second, _third) = (both.knock().await, both.knock().await);
    let mut bytes = Vec::new();
    let end = tokio::time::timeout(PATIENCE, first.read_to_end(&mut bytes))
        .await
        .unwrap();
    assert!(bytes.is_empty(), "{bytes:?} {end:?}");
    let full = "fanfare_tls_handshakes_failed_total{cause=\"full\"}";
    both.server.wait_for_metric(full, 1).await;
}

#[tokio::test]
async fn a_handshake_has_the_time_of_a_head() {
    let certificate = Certificate::new(&["localhost"]);
    let both = start(&[&certificate], &[("FANFARE_LIMITS_HEAD_TIME_MAX", "1s")]);
    let mut slow = both.knock().await;
    slow.write_all(&[0x16, 3, 1]).await.unwrap();
    // With TLS done, the head may still be missing: that is answered.
    let mut silent = both.connect(&certificate).await;
    let mut got = Vec::new();
    tokio::time::timeout(PATIENCE, slow.read_to_end(&mut got))
        .await
        .unwrap()
        .unwrap();
    assert!(got.is_empty(), "{got:?}");
    both.failed("too_slow", 1).await;
    tokio::time::timeout(PATIENCE, silent.read_to_end(&mut got))
        .await
        .unwrap()
        .unwrap();
    assert!(
        got.starts_with(b"HTTP/1.1 408"),
        "{}",
        String::from_utf8_lossy(&got)
    );
}

/// What a WebSocket says next. An error: the line was cut.
async fn hear(stream: &mut Stream, got: &mut Vec<u8>) -> std::io::Result<Said> {
    loop {
        while let Some((len, said)) = parse_frame(got) {
            got.drain(..len);
            if said != Said::Ping {
                return Ok(said);
            }
        }
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(got)).await;
        if read.expect("the server said nothing for a minute")? == 0 {
            return Ok(Said::End);
        }
    }
}

/// Every way to end in order ends TLS too (RFC 8446 section 6.1): `read` gives 0 and no error.
#[tokio::test]
async fn an_end_in_order_is_said_in_tls() {
    let certificate = Certificate::new(&["localhost"]);
    let both = start(&[&certificate], &[]);
    let close = frame(0x88, &[3, 0xe8]);
    let websocket = handshake("/ch/a", "");
    let behind_request = [HEALTH, websocket.as_bytes()].concat();
    let cases: [(&str, &[u8], &[u8]); 6] = [
        ("a close frame, fast lane", websocket.as_bytes(), &close),
        ("a close frame, slow lane", &behind_request, &close),
        ("a broken frame", websocket.as_bytes(), b"\xff\xff"),
        (
            "an answer that is the last",
            b"",
            b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        ),
        ("a bad head", b"", b"nonsense\r\n\r\n"),
        ("a bad head behind a good one", HEALTH, b"nonsense\r\n\r\n"),
    ];
    for (name, first, then) in cases {
        let mut stream = both.connect(&certificate).await;
        stream.write_all(first).await.unwrap();
        let mut got = Vec::new();
        if first.ends_with(websocket.as_bytes()) {
            read_until(&mut stream, &mut got, b"HTTP/1.1 101").await;
        }
        stream.write_all(then).await.unwrap();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut got)).await;
        assert!(read.unwrap().is_ok(), "{name}: cut off");
    }
    // The peer's own end is answered in kind, and needs no close frame.
    for first in [websocket.as_bytes(), b""] {
        let mut stream = both.connect(&certificate).await;
        stream.write_all(first).await.unwrap();
        stream.shutdown().await.unwrap();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await;
        assert!(read.unwrap().is_ok(), "cut off");
    }
    // With the last words in the same packet they are still answered.
    for (first, last, expected) in [
        (websocket.as_bytes(), &close[..], &[0x88, 2, 3, 0xe8][..]),
        (b"", b"nonsense\r\n\r\n", b"HTTP/1.1 400"),
        (b"", HEALTH, b"ok\n"),
    ] {
        let mut stream = both.connect(&certificate).await;
        stream.write_all(first).await.unwrap();
        let connection = stream.get_mut().1;
        connection.writer().write_all(last).unwrap();
        connection.send_close_notify();
        stream.flush().await.unwrap();
        let mut got = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut got)).await;
        let said = String::from_utf8_lossy(last);
        let read = read.unwrap();
        assert!(
            read.is_ok(),
            "cut off behind {said:?}: {read:?}, got {}",
            String::from_utf8_lossy(&got)
        );
        let found = got.windows(expected.len()).any(|part| part == expected);
        assert!(found, "{}", String::from_utf8_lossy(&got));
    }
    // A line that is cut is lost, and no more than that.
    let stream = both.websocket(&certificate, "/ch/a").await;
    let (mut socket, _) = stream.into_inner();
    let lost = "fanfare_disconnects_total{reason=\"lost\"}";
    let before = both.server.metric(lost).await;
    socket.shutdown().await.unwrap();
    both.server.wait_for_metric(lost, before + 1).await;
    // And when the server goes away.
    let mut listener = both.websocket(&certificate, "/ch/a").await;
    both.server.terminate();
    let mut got = Vec::new();
    assert!(matches!(
        hear(&mut listener, &mut got).await.unwrap(),
        Said::Close(1012, _)
    ));
    assert_eq!(hear(&mut listener, &mut got).await.unwrap(), Said::End);
    assert_eq!(both.server.wait().0.code(), Some(0));
}

#[tokio::test]
async fn it_is_ready_with_and_without_the_plain_port() {
    // The certificate is neither for this address nor valid; the server asks itself all the same.
    let mut parameters = rcgen::CertificateParams::new(vec!["shop.example".to_owned()]).unwrap();
    parameters.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let certificate = Certificate::of(parameters);
    let both = start(&[&certificate], &[]);
    assert_eq!(both.server.request("GET", "/ready", "", b"").await.0, 200);
    let settings = certificate.settings();
    let mut settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, &**value)).collect();
    settings.push(("FANFARE_LISTEN", "off"));
    settings.push(("FANFARE_ADMIN_LISTEN", "127.0.0.1:0"));
    let started = Server::spawn(command(), &settings, 1);
    assert_eq!(
        started.said,
        [format!("listening on https://{}", started.address_of("https"))]
    );
    let address = started.address_of("https");
    let server = started.into_server(address, None);
    server.terminate();
    let (status, logs) = server.wait();
    assert_eq!(status.code(), Some(0), "{logs}");
    assert!(logs.contains("the certificate has expired"), "{logs}");
    for wrong in ["probe has not come back", "not ready"] {
        assert!(!logs.contains(wrong), "{logs}");
    }
}

/// Settings with which the server does not start, and parts of what it says.
#[track_caller]
fn check_refused(cert: &std::path::Path, key: &std::path::Path, parts: &[&str]) {
    let output = command()
        .args(["--listen", "127.0.0.1:0", "--tls-listen", "127.0.0.1:0"])
        .arg("--tls-cert")
        .arg(cert)
        .arg("--tls-key")
        .arg(key)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    for part in parts {
        assert!(said.contains(part), "{said:?} does not say {part:?}");
    }
}

#[test]
fn it_refuses_certificates_that_cannot_be_used() {
    let (one, other) = (Certificate::new(&["a.test"]), Certificate::new(&["b.test"]));
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("no-such.pem");
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let broken = folder.path().join("broken.pem");
    std::fs::write(
        &broken,
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    let name = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    check_refused(&missing, &one.key, &["tls.cert", &name(&missing), "No such file"]);
    check_refused(&one.cert, &missing, &["tls.key", &name(&missing), "No such file"]);
    check_refused(
        &empty,
        &one.key,
        &["tls.cert", &name(&empty), "no certificate in it"],
    );
    check_refused(
        &one.cert,
        &one.cert,
        &["tls.key", &name(&one.cert), "no private key in it"],
    );
    check_refused(&broken, &one.key, &["tls.cert", &name(&broken)]);
    let parts = [
        "tls.key",
        &name(&other.key),
        "is not the key of",
        &name(&one.cert),
    ];
    check_refused(&one.cert, &other.key, &parts);
}

#[test]
fn a_key_that_everyone_can_read_is_a_warning() {
    let certificate = Certificate::new(&["a.test"]);
    let mut mode = std::fs::metadata(&certificate.key).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o644);
    std::fs::set_permissions(&certificate.key, mode).unwrap();
    let output = command()
        .envs(certificate.settings())
        .args(["config", "--show"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("warning: tls.key") && said.contains("can read"),
        "{said}"
    );
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(
        shown.contains("# FANFARE_TLS_KEY") && !shown.contains("BEGIN"),
        "{shown}"
    );
}

#[tokio::test]
async fn the_command_line_makes_a_certificate_and_speaks_tls() {
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("made");
    let path = |name: &str| made.join(name).to_str().unwrap().to_owned();
    let run = |arguments: &[&str]| command().args(arguments).output().unwrap();
    let make = ["dev-cert", "--dir", made.to_str().unwrap(), "shop.test"];
    let output = run(&make);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for part in ["shop.test", "::1", "--tls-cert", "ca.pem"] {
        assert!(said.contains(part), "{said}");
    }
    let mode = std::fs::metadata(path("key.pem")).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
    // A second run leaves the first alone.
    let again = run(&make);
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("is there already"));

    let (cert, key, ca) = (path("cert.pem"), path("key.pem"), path("ca.pem"));
    let settings = [
        ("FANFARE_LISTEN", "off"),
        ("FANFARE_TLS_LISTEN", "127.0.0.1:0"),
        ("FANFARE_TLS_CERT", cert.as_str()),
        ("FANFARE_TLS_KEY", key.as_str()),
    ];
    let started = Server::spawn(command(), &settings, 1);
    let address = started.address_of("https");
    let server = started.into_server(address.clone(), None);
    let port = address.rsplit(':').next().unwrap();
    let mut listener = command()
        .args([
            "listen",
            "a",
            "--count",
            "1",
            "--ca",
            &ca,
            "--server",
            &format!("wss://{address}"),
        ])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let publish = |server: &str, more: &[&str]| {
        let arguments = [&["publish", "a", "hello", "--server", server][..], more].concat();
        run(&arguments)
    };
    let url = format!("https://localhost:{port}");
    // Until the listener is there, nobody hears it.
    let begun = std::time::Instant::now();
    while listener.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < PATIENCE, "it heard nothing");
        let output = publish(&url, &["--ca", &ca]);
        assert!(output.status.success(), "{output:?}");
    }
    let heard = listener.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&heard.stdout), "a hello\n");
    // Without the authority it is a stranger's certificate; without TLS, the wrong port.
    for (output, part) in [
        (publish(&url, &[]), "--ca FILE"),
        (
            publish(&format!("http://{address}"), &[]),
            "use https:// or wss://",
        ),
        (publish(&url, &["--ca", "/no/such.pem"]), "/no/such.pem"),
    ] {
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains(part),
            "{said:?} does not say {part:?}"
        );
    }
    drop(server);
}

/// A WebSocket that begins behind a request goes from the HTTP server back to the shard, with what
/// came behind it, in one record or several.
#[tokio::test]
async fn both_lanes_go_on_in_the_midst_of_a_record() {
    let certificate = Certificate::new(&["localhost"]);
    let both = start(&[&certificate], &[]);
    let mut witness: Peer = both.server.websocket("/").await;
    let big = "y".repeat(40_000);
    let said = [frame(0x81, b"one"), frame(0x81, big.as_bytes())].concat();
    for first in [&b""[..], HEALTH] {
        let bytes = [first, handshake("/", "").as_bytes(), &said].concat();
        for cuts in [
            vec![],
            vec![first.len() + 10],
            vec![bytes.len() - 5],
            vec![bytes.len() - said.len()],
        ] {
            let mut stream = both.connect(&certificate).await;
            let mut at = 0;
            for cut in cuts.into_iter().chain([bytes.len()]) {
                stream.write_all(&bytes[at..cut]).await.unwrap();
                stream.flush().await.unwrap();
                at = cut;
            }
            assert_eq!(witness.hear().await, text("one"));
            assert_eq!(witness.hear().await, text(&big));
        }
    }
}
