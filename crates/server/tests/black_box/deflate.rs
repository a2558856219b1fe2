//! permessage-deflate (RFC 7692): who agreed on it and who did not hear the same, and what a
//! compressed frame can do to others is nothing.

use crate::support::{KEY, Peer, Said, Server, bearer, frame, handshake, text};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// The extensions that an answered handshake names.
fn agreed(head: &str) -> Option<String> {
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    let mut found = lines.filter(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-extensions"));
    let value = found.next().map(|(_, value)| value.to_owned());
    assert!(found.next().is_none());
    value
}

/// The two ways to a session: as the first request of a connection, and as a later one.
#[derive(Clone, Copy, Debug)]
enum Lane {
    Fast,
    Slow,
}

const LANES: [Lane; 2] = [Lane::Fast, Lane::Slow];

async fn open(server: &Server, lane: Lane, path: &str, fields: &str) -> (Peer, Option<String>) {
    let mut peer = server.connect().await;
    if let Lane::Slow = lane {
        assert_eq!(peer.request("GET", "/health", "", b"").await.0, 200);
    }
    peer.send_head(&handshake(path, fields)).await;
    let agreed = agreed(&peer.head().await);
    // On the slow lane the session opens when the answer has left; it listens when it has answered.
    peer.send(&frame(0x89, b"there?")).await;
    assert_eq!(peer.hear().await, Said::Pong(b"there?".to_vec()));
    (peer, agreed)
}

fn deflate(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() * 2 + 100);
    let mut stream = Compress::new(Compression::new(6), false);
    stream.compress_vec(data, &mut out, FlushCompress::Sync).unwrap();
    out.truncate(out.len() - 4);
    out
}

fn inflate(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 << 20);
    let tail = [payload, &[0, 0, 0xff, 0xff]].concat();
    Decompress::new(false)
        .decompress_vec(&tail, &mut out, FlushDecompress::Sync)
        .unwrap();
    out
}

/// Hears the next message, which may be compressed; says whether it was.
async fn hear(peer: &mut Peer) -> (Said, bool) {
    loop {
        if let Some(&first) = peer.got.first()
            && first & 0x40 != 0
        {
            let (len, head) = match peer.got.get(1).copied() {
                Some(126) if peer.got.len() >= 4 => {
                    (usize::from(u16::from_be_bytes([peer.got[2], peer.got[3]])), 4)
                }
                Some(len @ 0..=125) => (usize::from(len), 2),
                _ => (usize::MAX / 2, 0),
            };
            if peer.got.len() >= head + len {
                let frame: Vec<u8> = peer.got.drain(..head + len).collect();
                let data = inflate(&frame[head..]);
                let said = match first {
                    0xc1 => Said::Text(String::from_utf8(data).unwrap()),
                    0xc2 => Said::Binary(data),
                    _ => panic!("a compressed frame that begins with {first:02x}"),
                };
                return (said, true);
            }
            assert!(peer.more().await, "the connection ended inside a frame");
        } else if peer.got.is_empty() {
            assert!(peer.more().await, "the connection ended");
        } else {
            return (peer.hear().await, false);
        }
    }
}

fn long(word: &str) -> String {
    (0..100).fold(String::new(), |all, number| all + word + &number.to_string())
}

#[tokio::test]
async fn both_lanes_agree_on_the_same() {
    let server = Server::start(&[]);
    let cases = [
        ("", None),
        ("Sec-WebSocket-Extensions: mux\r\n", None),
        (OFFER, Some(ANSWER.to_owned())),
        (
            "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9, permessage-deflate\r\n",
            Some(ANSWER.to_owned()),
        ),
        (
            "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=8\r\n",
            None,
        ),
        (
            "Sec-WebSocket-Extensions: mux\r\nsec-websocket-extensions: permessage-deflate; server_max_window_bits=\"15\"\r\n",
            Some(format!("{ANSWER}; server_max_window_bits=15")),
        ),
    ];
    for lane in LANES {
        for (fields, expected) in &cases {
            let (mut peer, agreed) = open(&server, lane, "/ch/a?echo=1", fields).await;
            assert_eq!(&agreed, expected, "{lane:?}: {fields}");
            // What was agreed on is what is done.
            server.post("/ch/a", long("hello").as_bytes()).await;
            assert_eq!(hear(&mut peer).await, (text(&long("hello")), expected.is_some()));
        }
    }
}

#[tokio::test]
async fn who_agreed_and_who_did_not_hear_the_same() {
    for lane in LANES {
        let server = Server::start(&[]);
        let (mut tight, _) = open(&server, lane, "/", OFFER).await;
        let (mut other, _) = open(&server, lane, "/", OFFER).await;
        let (mut meta, _) = open(&server, lane, "/?meta=1", OFFER).await;
        let (mut loose, _) = open(&server, lane, "/", "").await;
        let mut stream = server.stream("/ch/main", "").await;
        let message = long("order ");
        // Compressed from one, in the form of each to the others.
        tight.send(&frame(0xc1, &deflate(message.as_bytes()))).await;
        assert_eq!(hear(&mut other).await, (text(&message), true));
        assert_eq!(hear(&mut loose).await, (text(&message), false));
        assert!(stream.event().await.ends_with(&format!("\ndata: {message}\n\n")));
        let (Said::Text(json), true) = hear(&mut meta).await else {
            panic!("not compressed")
        };
        assert!(json.contains(&format!("\"data\":\"{message}\"")), "{json}");
        // And from one who does not compress.
        loose.say(&message).await;
        assert_eq!(hear(&mut tight).await, (text(&message), true));
        assert_eq!(hear(&mut other).await, (text(&message), true));
        // Two publications in two compressed forms, on however many shards.
        server.wait_for_metric("fanfare_deflate_frames_total", 4).await;
        // Short ones stay as they are, also when they came compressed; binary stays binary.
        tight.send(&frame(0xc1, &deflate(b"short"))).await;
        assert_eq!(hear(&mut other).await, (text("short"), false));
        assert_eq!(hear(&mut loose).await, (text("short"), false));
        other.send(&frame(0xc2, &deflate(&[7; 900]))).await;
        assert_eq!(hear(&mut tight).await, (Said::Binary(vec![7; 900]), true));
        assert_eq!(hear(&mut loose).await, (Said::Binary(vec![7; 900]), false));
        let (status, _) = server.post("/ch/*", message.as_bytes()).await;
        assert_eq!(status, 200);
        assert_eq!(hear(&mut tight).await, (text(&message), true));
        assert_eq!(hear(&mut loose).await, (text(&message), false));
        // Four publications of some size, each compressed once per form.
        server.wait_for_metric("fanfare_deflate_frames_total", 8).await;
        assert_eq!(server.metric("fanfare_deflate_frames_total").await, 8);
        let before = server.metric("fanfare_deflate_input_bytes_total").await;
        let after = server.metric("fanfare_deflate_output_bytes_total").await;
        assert!(before > 4_000 && after < before / 2, "{before} became {after}");
        server.wait_for_metric("fanfare_inflate_messages_total", 3).await;
        let bytes = (message.len() + "short".len() + 900) as u64;
        assert_eq!(server.metric("fanfare_inflate_output_bytes_total").await, bytes);
    }
}

/// Frames that a client may send, and what another one hears.
#[tokio::test]
async fn compressed_messages_arrive_however_they_come() {
    let server = Server::start(&[]);
    let (mut a, _) = open(&server, Lane::Fast, "/", OFFER).await;
    let mut b = server.websocket("/").await;
    let message = long("žluťoučký ");
    let payload = deflate(message.as_bytes());
    let cases: Vec<(Vec<Vec<u8>>, Said)> = vec![
        (vec![frame(0xc1, b"")], text("")),
        (vec![frame(0xc1, b"\0")], text("")),
        (vec![frame(0x81, b"plain")], text("plain")),
        (
            vec![
                frame(0x41, &payload[..100]),
                frame(0x89, b"ping between"),
                frame(0x00, b""),
                frame(0x80, &payload[100..]),
            ],
            text(&message),
        ),
    ];
    for (frames, expected) in cases {
        for frame in &frames {
            a.send(frame).await;
        }
        assert_eq!(b.hear().await, expected);
    }
    // A byte at a time, long enough for an inflater of its own.
    let mixed: String = (0..2_000_u32)
        .map(|n| format!("{:x} ", n.wrapping_mul(2_654_435_761)))
        .collect();
    for byte in frame(0xc1, &deflate(mixed.as_bytes())) {
        a.send(&[byte]).await;
    }
    assert_eq!(b.hear().await, text(&mixed));
    // Right behind the handshake, as an eager client may send it.
    for lane in LANES {
        let mut eager = server.connect().await;
        if let Lane::Slow = lane {
            eager.request("GET", "/health", "", b"").await;
        }
        let early = frame(0xc1, &deflate(b"early"));
        eager
            .send(&[handshake("/", OFFER).as_bytes(), &early].concat())
            .await;
        assert_eq!(agreed(&eager.head().await).as_deref(), Some(ANSWER));
        assert_eq!(b.hear().await, text("early"));
    }
}

/// What ends a connection, with the close code and a part of the reason. Others live on.
#[tokio::test]
async fn what_cannot_be_inflated_ends_its_sender_only() {
    let server = Server::start(&[]);
    let (mut bystander, _) = open(&server, Lane::Fast, "/", OFFER).await;
    let hello = deflate(b"hello");
    let bomb = deflate(&vec![b'x'; 60_000]);
    let mut noise = 88_172_645_463_325_252_u64;
    let large: String = std::iter::repeat_with(|| {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        format!("{noise:x}")
    })
    .take(4_200)
    .collect();
    let cases: [(&str, Vec<u8>, u16, &str); 9] = [
        (OFFER, frame(0xc1, b"\x07\0"), 1007, "DEFLATE"),
        (OFFER, frame(0xc1, &hello[..3]), 1007, "DEFLATE"),
        (OFFER, frame(0xc1, &deflate(b"a\xff")), 1007, "UTF-8"),
        (OFFER, frame(0xc1, &bomb), 1009, "many times"),
        (OFFER, frame(0xc1, &deflate(large.as_bytes())), 1009, "large"),
        (OFFER, frame(0xc9, b""), 1002, "reserved"),
        (
            OFFER,
            [frame(0x41, &hello), frame(0xc0, b"")].concat(),
            1002,
            "reserved",
        ),
        (OFFER, frame(0xe1, &hello), 1002, "reserved"),
        ("", frame(0xc1, &hello), 1002, "reserved"),
    ];
    for lane in LANES {
        for (fields, bytes, code, part) in &cases {
            let (mut peer, _) = open(&server, lane, "/", fields).await;
            peer.send(bytes).await;
            let Said::Close(got, reason) = peer.hear().await else {
                panic!("no close frame")
            };
            assert_eq!(got, *code, "{reason}");
            assert!(reason.contains(part), "{reason:?} does not say {part:?}");
            assert_eq!(peer.hear().await, Said::End);
        }
    }
    for (reason, count) in [("data", 4), ("ratio", 2), ("size", 2)] {
        let name = format!("fanfare_inflate_refused_total{{reason=\"{reason}\"}}");
        server.wait_for_metric(&name, count).await;
        assert_eq!(server.metric(&name).await, count);
    }
    let (mut speaker, _) = open(&server, Lane::Fast, "/", OFFER).await;
    speaker.send(&frame(0xc1, &hello)).await;
    assert_eq!(hear(&mut bystander).await, (text("hello"), false));
}

#[tokio::test]
async fn the_ratio_can_be_allowed() {
    let server = Server::start(&[("FANFARE_LIMITS_INFLATE_RATIO_MAX", "1032")]);
    let (mut a, _) = open(&server, Lane::Fast, "/", OFFER).await;
    let mut b = server.websocket("/").await;
    a.send(&frame(0xc2, &deflate(&vec![9; 65_536]))).await;
    assert!(b.hear().await == Said::Binary(vec![9; 65_536]));
}

#[tokio::test]
async fn it_can_be_turned_off_and_tuned() {
    let off = Server::start(&[("FANFARE_COMPRESSION_ENABLED", "false")]);
    for lane in LANES {
        let (mut peer, agreed) = open(&off, lane, "/ch/a", OFFER).await;
        assert_eq!(agreed, None);
        off.post("/ch/a", long("hello").as_bytes()).await;
        assert_eq!(hear(&mut peer).await, (text(&long("hello")), false));
    }
    let small = Server::start(&[
        ("FANFARE_COMPRESSION_BYTES_MIN", "40"),
        ("FANFARE_COMPRESSION_LEVEL", "9"),
    ]);
    let (mut peer, _) = open(&small, Lane::Fast, "/ch/a", OFFER).await;
    for (count, compressed) in [(39, false), (40, true)] {
        let message = "x".repeat(count);
        small.post("/ch/a", message.as_bytes()).await;
        assert_eq!(hear(&mut peer).await, (text(&message), compressed));
    }
}

#[tokio::test]
async fn private_channels_are_never_compressed() {
    let server = Server::start(&[("FANFARE_KEY", KEY)]);
    let key = bearer(KEY);
    for lane in LANES {
        for path in ["/ch/private/7", "/ch?name=a&name=private/7"] {
            let fields = format!("{OFFER}{key}");
            let (mut peer, agreed) = open(&server, lane, path, &fields).await;
            // What is said elsewhere may be compressed; what is secret is not, whoever hears it.
            assert!(agreed.is_some(), "{path}");
            let message = long("secret");
            server
                .request("POST", "/ch/private/7", &key, message.as_bytes())
                .await;
            let (Said::Text(heard), false) = hear(&mut peer).await else {
                panic!("compressed")
            };
            assert!(heard.contains(&message));
        }
    }
}
