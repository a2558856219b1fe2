//! A real server on a port of its own, and clients that know only the wire.

#![allow(missing_docs, unreachable_pub)]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

pub mod back_end;
pub mod pusher;
pub mod telling;
pub mod tls;
pub mod token;

/// Longer than anything here takes on a busy machine; only a failing test waits this long.
pub const PATIENCE: Duration = Duration::from_mins(1);

pub const KEY: &str = "a key that is long enough for a test";

pub struct Server {
    child: Child,
    pub address: String,
    logs: Option<std::thread::JoinHandle<String>>,
    /// Where the test connects instead, when all is to be done with TLS: see [`tls`].
    forwarder: Option<tls::Forwarder>,
    logged: Arc<Logged>,
}

/// What a server has logged so far.
#[derive(Default)]
struct Logged {
    bytes: Mutex<Vec<u8>>,
    grown: Condvar,
}

impl Logged {
    fn add(&self, bytes: &[u8]) {
        self.bytes.lock().unwrap().extend(bytes);
        self.grown.notify_all();
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    /// The first line with this in it. What a server has logged is read a little later than what it says.
    fn line_with(&self, part: &str) -> String {
        let find = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            let mut lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            lines.find(|line| line.contains(part)).map(str::to_owned)
        };
        let bytes = self.bytes.lock().unwrap();
        let waited = self
            .grown
            .wait_timeout_while(bytes, PATIENCE, |bytes| find(bytes).is_none());
        let (bytes, _) = waited.unwrap();
        find(&bytes).unwrap_or_else(|| panic!("no {part:?} in {}", String::from_utf8_lossy(&bytes)))
    }
}

pub fn command() -> Command {
    without_settings(Command::new(env!("CARGO_BIN_EXE_fanfare")))
}

/// The same under a limit of the system, as `ulimit` takes it.
pub fn limited(ulimit: &str) -> Command {
    let mut shell = without_settings(Command::new("sh"));
    shell.args(["-c", &format!("ulimit {ulimit} && exec \"$0\"")]);
    shell.arg(env!("CARGO_BIN_EXE_fanfare"));
    shell
}

fn without_settings(mut command: Command) -> Command {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("FANFARE_")) {
        command.env_remove(name);
    }
    command
}

impl Server {
    /// Starts with these settings (`FANFARE_…`), and returns when it is ready.
    pub fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_as(command(), settings)
    }

    /// The same for a process that may have no more than so many files open.
    pub fn start_with_files(files: usize, settings: &[(&str, &str)]) -> Self {
        Self::start_as(limited(&format!("-n {files}")), settings)
    }

    fn start_as(command: Command, settings: &[(&str, &str)]) -> Self {
        if !tls::is_on() {
            let started = Self::spawn(command, settings, 1);
            let address = started.address_of("http");
            return started.into_server(address, None);
        }
        let certificate = tls::Certificate::new(&["localhost"]);
        let own = certificate.settings();
        let mut all: Vec<(&str, &str)> = settings.to_vec();
        let near = all.iter().position(|(name, _)| *name == "FANFARE_LISTEN");
        let near = near.map_or("127.0.0.1:0", |at| all.remove(at).1);
        all.push(("FANFARE_LISTEN", "off"));
        all.extend(own.iter().map(|(name, value)| (*name, value.as_str())));
        let started = Self::spawn(command, &all, 1);
        let far = started.address_of("https").parse().unwrap();
        let forwarder = tls::Forwarder::start(near, far, certificate.trusted());
        started.into_server(forwarder.address.to_string(), Some(forwarder))
    }

    /// Starts the server as it is, and reads so many lines of its standard output.
    pub fn spawn(mut command: Command, settings: &[(&str, &str)], lines: usize) -> Started {
        command
            .env("FANFARE_LISTEN", "127.0.0.1:0")
            .env("FANFARE_SHARDS", "2")
            // A peer of these tests answers no pings, and a slow machine takes its time.
            .env("FANFARE_SESSIONS_PING_INTERVAL", "3600s");
        command
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        // Read all the time, or the server would block on a full pipe.
        let logged = Arc::new(Logged::default());
        let shared = Arc::clone(&logged);
        let logs = std::thread::spawn(move || {
            let mut part = [0; 4_096];
            while let Ok(count @ 1..) = stderr.read(&mut part) {
                shared.add(&part[..count]);
            }
            shared.text()
        });
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let said = stdout.lines().take(lines).map(Result::unwrap).collect();
        Started {
            child,
            said,
            logs,
            logged,
        }
    }

    pub fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.child.id()))
            .unwrap()
            .count()
    }

    /// Descriptors that are open.
    pub fn files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .unwrap()
            .count()
    }

    /// Where metrics are served when there is a key: the log says it before the server is ready.
    pub fn admin_address(&self) -> String {
        let line = self.logged.line_with("metrics are served here");
        let address = line.rsplit_once("address=").unwrap().1;
        address.trim().to_owned()
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// The process of the server.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end; returns the status and all log lines.
    pub fn wait(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        (status, self.logs.take().unwrap().join().unwrap())
    }

    /// Lets it end in an orderly way, and does not stand in the way of what happens meanwhile.
    pub async fn end(self) -> (ExitStatus, String) {
        self.terminate();
        tokio::task::spawn_blocking(|| self.wait()).await.unwrap()
    }

    pub async fn connect(&self) -> Peer {
        let peer = self.knock().await;
        if let Some(forwarder) = &self.forwarder {
            forwarder.joined(&peer.socket).await;
        }
        peer
    }

    /// A connection that the kernel has; the server may not.
    pub async fn knock(&self) -> Peer {
        Peer::to(&self.address).await
    }

    /// Opens a WebSocket; the handshake must succeed.
    pub async fn websocket(&self, path: &str) -> Peer {
        self.websocket_with(path, "").await
    }

    pub async fn websocket_with(&self, path: &str, fields: &str) -> Peer {
        let mut peer = self.connect().await;
        peer.send_head(&handshake(path, fields)).await;
        let head = peer.head().await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        peer
    }

    /// Opens an event stream and reads its first bytes.
    pub async fn stream(&self, path: &str, fields: &str) -> Peer {
        let mut peer = self.connect().await;
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n{fields}\r\n",
            self.address
        );
        peer.send_head(&head).await;
        let head = peer.head().await;
        assert!(
            head.starts_with("HTTP/1.1 200") && head.contains("text/event-stream"),
            "{head}"
        );
        let first = peer.block().await;
        assert!(first.starts_with(":\nretry: "), "{first}");
        peer
    }

    /// One request on a connection of its own: status, head and body.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        fields: &str,
        body: &[u8],
    ) -> (u16, String, String) {
        let mut peer = self.connect().await;
        peer.request(method, path, fields, body).await
    }

    pub async fn post(&self, path: &str, body: &[u8]) -> (u16, String) {
        let (status, _, body) = self.request("POST", path, "", body).await;
        (status, body)
    }

    /// Publishes a message and returns its id.
    pub async fn publish(&self, path: &str, message: &str) -> String {
        let (status, answer) = self.post(path, message.as_bytes()).await;
        assert_eq!(status, 200, "{answer}");
        id_of(&answer)
    }

    /// A channel as JSON, or whatever else is behind a path.
    pub async fn document(&self, path: &str) -> Value {
        let (status, _, body) = self.request("GET", path, "", b"").await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Where the order stands, as a channel's document says it.
    pub async fn next(&self, path: &str) -> String {
        let document = self.document(path).await;
        document["next"].as_str().unwrap().to_owned()
    }

    /// The value of a metric, by its name and labels as printed. What is labelled by a cause is only
    /// there once something was counted; a family that is not there at all is a mistake.
    pub async fn metric(&self, name: &str) -> u64 {
        let (_, _, text) = self.request("GET", "/metrics", "", b"").await;
        let of = |name: &str| {
            let is_it = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' '));
            let line = text.lines().find(is_it)?;
            line.rsplit(' ').next()?.parse().ok()
        };
        let family = name.split('{').next().unwrap();
        assert!(
            text.contains(&format!("# TYPE {family} ")),
            "there is no metric {family}"
        );
        let counted = of(name);
        assert!(counted.is_some() || name != family, "{name} has labels");
        counted.unwrap_or(0)
    }

    /// The value of a metric where there is a key, by its name and labels as printed; `None`: there is none
    /// yet.
    pub async fn admin_metric(&self, name: &str) -> Option<u64> {
        let mut admin = Peer::to(&self.admin_address()).await;
        let (_, _, text) = admin.request("GET", "/metrics", "", b"").await;
        let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
        rest.strip_prefix(' ')?.parse().ok()
    }

    /// The same, where nothing yet is 0.
    pub async fn admin_count(&self, name: &str) -> u64 {
        self.admin_metric(name).await.unwrap_or(0)
    }

    /// What a limit has held back so far.
    pub async fn limited(&self, limit: &str) -> u64 {
        let name = format!("fanfare_limited_total{{limit=\"{limit}\"}}");
        self.admin_count(&name).await
    }

    /// Asks again and again until `name` has reached `value`, which is above 0.
    pub async fn wait_for_metric(&self, name: &str, value: u64) {
        assert!(value > 0, "{name} is never below that");
        let is_reached = |now| now >= value;
        self.wait_for_metric_to(name, is_reached).await;
    }

    /// Asks again and again until the value of `name` is as wanted.
    pub async fn wait_for_metric_to(&self, name: &str, is_so: impl Fn(u64) -> bool) {
        until_so(name, is_so, async || self.metric(name).await).await;
    }

    /// The same of [`Self::admin_count`].
    pub async fn wait_for_admin_count(&self, name: &str, is_so: impl Fn(u64) -> bool) {
        until_so(name, is_so, async || self.admin_count(name).await).await;
    }
}

async fn until_so(name: &str, is_so: impl Fn(u64) -> bool, read: impl AsyncFn() -> u64) {
    let waiting = async {
        while !is_so(read().await) {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    waited.unwrap_or_else(|_| panic!("{name} did not become what it should"));
}

/// A server that has just started.
pub struct Started {
    child: Child,
    /// Its first lines of standard output.
    pub said: Vec<String>,
    logs: std::thread::JoinHandle<String>,
    logged: Arc<Logged>,
}

impl Started {
    /// Where it listens for this scheme.
    pub fn address_of(&self, scheme: &str) -> String {
        let prefix = format!("listening on {scheme}://");
        let address = self
            .said
            .iter()
            .find_map(|line| line.trim().strip_prefix(&prefix));
        address
            .unwrap_or_else(|| panic!("the server said {:?}", self.said))
            .to_owned()
    }

    /// A server that tests reach at `address`.
    pub fn into_server(self, address: String, forwarder: Option<tls::Forwarder>) -> Server {
        Server {
            child: self.child,
            address,
            logs: Some(self.logs),
            logged: self.logged,
            forwarder,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One connection, seen from outside.
pub struct Peer {
    pub socket: TcpStream,
    pub got: Vec<u8>,
    host: String,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Said {
    Text(String),
    Binary(Vec<u8>),
    Ping,
    Pong(Vec<u8>),
    Close(u16, String),
    End,
}

/// The request that asks for a WebSocket, with more fields.
pub fn handshake(path: &str, fields: &str) -> String {
    let host = if fields.contains("Host:") {
        ""
    } else {
        "Host: localhost\r\n"
    };
    format!(
        "GET {path} HTTP/1.1\r\n{host}Upgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{fields}\r\n"
    )
}

/// The field that shows a key or a token.
pub fn bearer(credential: &str) -> String {
    format!("Authorization: Bearer {credential}\r\n")
}

/// The id in the receipt of a publication.
pub fn id_of(receipt: &str) -> String {
    let receipt: Value = serde_json::from_str(receipt).unwrap();
    receipt["id"].as_str().unwrap().to_owned()
}

pub fn text(text: &str) -> Said {
    Said::Text(text.to_owned())
}

/// What others do is waited for with an end, or a test that should fail would hang.
pub async fn in_time<T>(waiting: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    waited.expect("what should come did not come in time")
}

/// A client's frame, masked.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(0x80 | u8::try_from(len).unwrap()),
        len @ 126..=0xffff => {
            bytes.push(0xfe);
            bytes.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
        len => {
            bytes.push(0xff);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    let mask = [9, 8, 7, 6];
    bytes.extend(mask);
    bytes.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    bytes
}

/// A whole frame of the server at the start of `bytes`: its length and what it says.
pub fn parse_frame(bytes: &[u8]) -> Option<(usize, Said)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (start, len) = match second {
        126 => (
            4,
            usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap())),
        ),
        127 => (
            10,
            usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap())).unwrap(),
        ),
        len => (2, usize::from(len)),
    };
    let payload = bytes.get(start..start + len)?;
    let said = match first {
        0x81 => Said::Text(String::from_utf8(payload.to_vec()).unwrap()),
        0x82 => Said::Binary(payload.to_vec()),
        0x89 => Said::Ping,
        0x8a => Said::Pong(payload.to_vec()),
        0x88 if payload.is_empty() => Said::Close(1005, String::new()),
        0x88 => Said::Close(
            u16::from_be_bytes([payload[0], payload[1]]),
            String::from_utf8(payload[2..].to_vec()).unwrap(),
        ),
        other => panic!("the server sent a frame that begins with {other:02x}"),
    };
    Some((start + len, said))
}

impl Peer {
    pub async fn to(address: &str) -> Self {
        Self {
            socket: TcpStream::connect(address).await.unwrap(),
            got: Vec::new(),
            host: address.to_owned(),
        }
    }

    /// A connection from 127.0.0.`last`.
    pub async fn from(last: u8, address: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, last], 0).into()).unwrap();
        Self {
            socket: socket.connect(address.parse().unwrap()).await.unwrap(),
            got: Vec::new(),
            host: address.to_owned(),
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    /// Sends to a peer that may have gone; says whether it has not.
    pub async fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.socket.write_all(bytes).await.is_ok()
    }

    pub async fn send_head(&mut self, head: &str) {
        self.send(head.as_bytes()).await;
    }

    pub async fn say(&mut self, message: &str) {
        self.send(&frame(0x81, message.as_bytes())).await;
    }

    /// Reads more; `false` at the end of the connection.
    pub async fn more(&mut self) -> bool {
        let read = tokio::time::timeout(PATIENCE, self.socket.read_buf(&mut self.got)).await;
        matches!(read.expect("the server said nothing for a minute"), Ok(count) if count > 0)
    }

    /// What the server says next, pings left out.
    pub async fn hear(&mut self) -> Said {
        // What is here already needs no clock: some tests hear millions.
        if let Some(said) = self.said() {
            return said;
        }
        in_time(async {
            loop {
                if !self.more().await {
                    return Said::End;
                }
                if let Some(said) = self.said() {
                    return said;
                }
            }
        })
        .await
    }

    fn said(&mut self) -> Option<Said> {
        while let Some((len, said)) = parse_frame(&self.got) {
            self.got.drain(..len);
            if said != Said::Ping {
                return Some(said);
            }
        }
        None
    }

    async fn until(&mut self, end: &str) -> String {
        if let Some(text) = self.take_until(end) {
            return text;
        }
        in_time(async {
            loop {
                assert!(
                    self.more().await,
                    "the connection ended before {end:?}: {:?}",
                    String::from_utf8_lossy(&self.got)
                );
                if let Some(text) = self.take_until(end) {
                    return text;
                }
            }
        })
        .await
    }

    fn take_until(&mut self, end: &str) -> Option<String> {
        let mut places = self.got.windows(end.len());
        let at = places.position(|part| part == end.as_bytes())?;
        let bytes: Vec<u8> = self.got.drain(..at + end.len()).collect();
        Some(String::from_utf8(bytes).unwrap())
    }

    pub async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// The next event of an event stream that a page would see: comments, and blocks that only say a
    /// position, are left out.
    pub async fn event(&mut self) -> String {
        self.block_with("data:").await
    }

    /// The next block of an event stream with this in it; those before are passed over.
    pub async fn block_with(&mut self, part: &str) -> String {
        while let Some(block) = self.take_until("\n\n") {
            if block.contains(part) {
                return block;
            }
        }
        in_time(async {
            loop {
                let block = self.block().await;
                if block.contains(part) {
                    return block;
                }
            }
        })
        .await
    }

    /// The next block of an event stream, whatever it is.
    pub async fn block(&mut self) -> String {
        self.until("\n\n").await
    }

    /// One request on this connection, which stays open.
    pub async fn request(
        &mut self,
        method: &str,
        path: &str,
        fields: &str,
        body: &[u8],
    ) -> (u16, String, String) {
        let length = if body.is_empty() && method != "POST" {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        let host = if fields.contains("Host:") {
            String::new()
        } else {
            format!("Host: {}\r\n", self.host)
        };
        let mut request = format!("{method} {path} HTTP/1.1\r\n{host}{fields}{length}\r\n").into_bytes();
        request.extend(body);
        // A server that refuses early may close before all was written.
        let _ = self.socket.write_all(&request).await;
        let head = self.head().await;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head.lines().find_map(|line| {
            line.to_lowercase()
                .strip_prefix("content-length: ")
                .map(str::to_owned)
        });
        let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
        while method != "HEAD" && self.got.len() < length {
            assert!(self.more().await, "the body ended early");
        }
        let body = self.got.drain(..length.min(self.got.len())).collect();
        (status, head, String::from_utf8(body).unwrap())
    }
}
