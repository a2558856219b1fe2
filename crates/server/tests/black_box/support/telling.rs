//! A request told to a server in every way: whole, cut at every byte and byte by byte, as the first
//! of its connection and behind others. The answers must be the same.

use tokio::io::AsyncWriteExt;

use crate::support::{Peer, Server};

/// Limits that short requests reach.
pub const SETTINGS: [(&str, &str); 7] = [
    ("FANFARE_SHARDS", "1"),
    ("FANFARE_LIMITS_HEAD_BYTES_MAX", "400"),
    ("FANFARE_LIMITS_HEAD_FIELDS_MAX", "7"),
    ("FANFARE_LIMITS_TARGET_BYTES_MAX", "60"),
    ("FANFARE_LIMITS_MESSAGE_BYTES_MAX", "64"),
    ("FANFARE_LIMITS_BODY_BYTES_MAX", "128"),
    ("FANFARE_LIMITS_HANDSHAKES_MAX", "4000"),
];

/// Follows each case. It is answered 204 if the connection is still open and in step, and ends it.
pub const LAST: &str = "OPTIONS /last HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// Goes before a case: nothing, a request that is answered first, one that is not waited for.
#[derive(Clone, Copy, Debug)]
pub enum Before {
    Nothing,
    Answered(&'static str),
    Pipelined(&'static str),
}

pub const BEFORE: [Before; 3] = [
    Before::Nothing,
    Before::Answered("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    Before::Pipelined(
        "POST /ch/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    ),
];

/// What a client hears: status and body of each answer until the connection ends.
type Heard = Vec<(u16, String)>;

/// Splits what was heard. `head_at` is the answer without a body, though it says how long it
/// would be.
fn split(mut bytes: &[u8], head_at: Option<usize>) -> Heard {
    let mut heard = Heard::new();
    while !bytes.is_empty() {
        let at = bytes.windows(4).position(|part| part == b"\r\n\r\n");
        let at = at.unwrap_or_else(|| panic!("half an answer: {:?}", String::from_utf8_lossy(bytes)));
        let head = String::from_utf8_lossy(&bytes[..at]).to_lowercase();
        bytes = &bytes[at + 4..];
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status: {head:?}"));
        let field = |name: &str| {
            let prefix = format!("{name}: ");
            head.lines().find_map(|line| line.strip_prefix(&prefix))
        };
        let length = field("content-length").map_or(0, |length| length.parse().unwrap());
        let length = if head_at == Some(heard.len()) { 0 } else { length };
        let body = String::from_utf8_lossy(&bytes[..length]).into_owned();
        bytes = &bytes[length..];
        // Every message has another id.
        let body = if body.starts_with("{\"id\"") {
            "id".to_owned()
        } else {
            body
        };
        if status >= 400 {
            assert_eq!(field("content-type"), Some("application/json"), "{head}");
        }
        heard.push((status, body));
    }
    heard
}

/// A connection that is told a case in pieces.
pub struct Telling {
    pub peer: Peer,
    before: Before,
    pub how: String,
}

impl Telling {
    pub async fn begin(server: &Server, before: Before, how: String) -> Self {
        let mut peer = server.connect().await;
        peer.socket.set_nodelay(true).unwrap();
        if let Before::Answered(request) = before {
            peer.send_head(request).await;
        }
        Self { peer, before, how }
    }

    /// The server may have answered and gone already.
    pub async fn tell(&mut self, piece: &[u8]) {
        let _ = self.peer.socket.write_all(piece).await;
    }

    /// The first piece, behind what goes before.
    pub async fn tell_first(&mut self, piece: &[u8]) {
        match self.before {
            Before::Nothing => self.tell(piece).await,
            Before::Answered(_) => {
                while !self.peer.got.ends_with(b"ok\n") {
                    assert!(self.peer.more().await);
                }
                self.tell(piece).await;
            }
            Before::Pipelined(request) => self.tell(&[request.as_bytes(), piece].concat()).await,
        }
    }

    pub async fn end(mut self, name: &str, input: &[u8], expected: &[u16], first: &mut Option<Heard>) {
        while self.peer.more().await {}
        let at = usize::from(!matches!(self.before, Before::Nothing));
        let head_at = input.starts_with(b"HEAD ").then_some(at);
        let heard = split(&self.peer.got, head_at);
        let how = format!("{name}, {:?}, {}: {heard:?}", self.before, self.how);
        assert!(heard[..at].iter().all(|(status, _)| *status == 200), "{how}");
        let heard = heard[at..].to_vec();
        let statuses: Vec<u16> = heard.iter().map(|(status, _)| *status).collect();
        assert_eq!(statuses, expected, "{how}");
        // The same words too, on whichever way.
        assert_eq!(&heard, first.get_or_insert_with(|| heard.clone()), "{how}");
    }
}

/// The server with one shard, and a connection that tells when it has read all that was sent
/// before.
pub struct Judge {
    pub server: Server,
    clock: Peer,
}

impl Judge {
    pub async fn new() -> Self {
        let server = Server::start(&SETTINGS);
        let clock = server.connect().await;
        Self { server, clock }
    }

    /// The one thread reads what came first first; the second answer is for what was woken by it.
    pub async fn all_is_read(&mut self) {
        for _ in 0..2 {
            let (status, ..) = self.clock.request("GET", "/health", "", b"").await;
            assert_eq!(status, 200);
        }
    }

    /// Tells `input` in every way; the statuses of the answers, 204 for [`LAST`] among them.
    pub async fn check(&mut self, name: &str, input: &[u8], expected: &[u16]) {
        let mut first = None;
        let cuts = (1..input.len()).map(|at| (format!("cut at {at}"), at));
        let cuts: Vec<_> = std::iter::once(("whole".to_owned(), input.len()))
            .chain(cuts)
            .collect();
        for before in BEFORE {
            let mut tellings = Vec::new();
            for (how, at) in &cuts {
                tellings.push((Telling::begin(&self.server, before, how.clone()).await, *at));
            }
            let mut slow = Telling::begin(&self.server, before, "byte by byte".to_owned()).await;
            for (telling, at) in &mut tellings {
                telling.tell_first(&input[..*at]).await;
            }
            slow.tell_first(&input[..1]).await;
            self.all_is_read().await;
            for (telling, at) in &mut tellings {
                let rest = [&input[*at..], LAST.as_bytes()].concat();
                telling.tell(&rest).await;
            }
            for byte in input[1..].chunks(1) {
                slow.tell(byte).await;
                self.all_is_read().await;
            }
            slow.tell(LAST.as_bytes()).await;
            for (telling, _) in tellings {
                telling.end(name, input, expected, &mut first).await;
            }
            slow.end(name, input, expected, &mut first).await;
        }
    }

    /// Requests with `Host: localhost` in place of `H:`.
    pub async fn check_all(&mut self, cases: &[(&str, &str, &[u16])]) {
        for (name, input, expected) in cases {
            let input = input.replace("H:\r\n", "Host: localhost\r\n");
            self.check(name, input.as_bytes(), expected).await;
        }
    }

    /// Fields of a POST and what follows them.
    pub async fn check_posts(&mut self, cases: &[(&str, &str, &[u16])]) {
        for (name, rest, expected) in cases {
            let input = format!("POST /ch/a HTTP/1.1\r\nHost: localhost\r\n{rest}");
            self.check(name, input.as_bytes(), expected).await;
        }
    }

    /// Bodies of a POST with chunks.
    pub async fn check_chunks(&mut self, cases: &[(&str, &str, &[u16])]) {
        for (name, body, expected) in cases {
            let head = "POST /ch/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
            self.check(name, format!("{head}{body}").as_bytes(), expected)
                .await;
        }
    }
}
