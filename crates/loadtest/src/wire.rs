//! The least that a subscriber and a publisher must know of the wire. Light enough for tens of
//! thousands: one socket and one buffer each.

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Transport;

/// The server under test.
#[derive(Clone, Debug)]
pub struct Target {
    /// `host:port`.
    pub authority: String,
    /// The key for publishing, if the server has one.
    pub key: Option<String>,
}

struct Line {
    socket: TcpStream,
    got: Vec<u8>,
}

impl Line {
    async fn open(target: &Target) -> Result<Self> {
        let socket = TcpStream::connect(&target.authority).await;
        let socket = socket.with_context(|| format!("no server answers at {}", target.authority))?;
        socket.set_nodelay(true)?;
        Ok(Self {
            socket,
            got: Vec::new(),
        })
    }

    async fn more(&mut self) -> Result<bool> {
        Ok(self.socket.read_buf(&mut self.got).await? > 0)
    }

    /// Everything up to and with `end`.
    async fn until(&mut self, end: &[u8]) -> Result<Option<String>> {
        let mut seen = 0_usize;
        loop {
            let from = seen.saturating_sub(end.len());
            let found = self
                .got
                .get(from..)
                .unwrap_or_default()
                .windows(end.len())
                .position(|part| part == end);
            if let Some(at) = found {
                let bytes = self.got.drain(..from + at + end.len()).collect();
                return Ok(Some(String::from_utf8(bytes)?));
            }
            seen = self.got.len();
            if !self.more().await? {
                return Ok(None);
            }
        }
    }
}

fn authorization(target: &Target) -> String {
    target
        .key
        .as_ref()
        .map_or(String::new(), |key| format!("Authorization: Bearer {key}\r\n"))
}

/// Listens to one channel.
pub(crate) struct Subscriber {
    line: Line,
    transport: Transport,
}

impl Subscriber {
    pub(crate) async fn open(target: &Target, channel: &str, transport: Transport) -> Result<Self> {
        let mut line = Line::open(target).await?;
        let (kind, status) = match transport {
            Transport::WebSocket => (
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
                " 101 ",
            ),
            Transport::EventStream => ("Accept: text/event-stream\r\n", " 200 "),
        };
        let head = format!(
            "GET /ch/{channel} HTTP/1.1\r\nHost: {}\r\n{}{kind}\r\n",
            target.authority,
            authorization(target)
        );
        line.socket.write_all(head.as_bytes()).await?;
        let answer = line
            .until(b"\r\n\r\n")
            .await?
            .context("the server closed the connection")?;
        if !answer.lines().next().is_some_and(|first| first.contains(status)) {
            bail!(
                "the server answered {:?}",
                answer.lines().next().unwrap_or_default()
            );
        }
        Ok(Self { line, transport })
    }

    /// The next message; `None` at the end. Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Result<Option<String>> {
        match self.transport {
            Transport::EventStream => loop {
                let Some(block) = self.line.until(b"\n\n").await? else {
                    return Ok(None);
                };
                if let Some(data) = block.lines().find_map(|line| line.strip_prefix("data: ")) {
                    return Ok(Some(data.to_owned()));
                }
            },
            Transport::WebSocket => loop {
                while let Some((len, message)) = frame(&self.line.got) {
                    let message = message.map(<[u8]>::to_vec);
                    self.line.got.drain(..len);
                    match message {
                        Some(bytes) => return Ok(Some(String::from_utf8(bytes)?)),
                        // A ping: any frame answers it as far as the server's patience is concerned.
                        None => self.line.socket.write_all(&[0x8a, 0x80, 0, 0, 0, 0]).await?,
                    }
                }
                if !self.line.more().await? {
                    return Ok(None);
                }
            },
        }
    }
}

/// The first frame in `bytes`: its length, and its payload if it is a message.
fn frame(bytes: &[u8]) -> Option<(usize, Option<&[u8]>)> {
    let (start, len): (usize, usize) = match *bytes.get(1)? {
        126 => (
            4,
            usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)),
        ),
        127 => (
            10,
            usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?,
        ),
        len => (2, usize::from(len)),
    };
    let payload = bytes.get(start..start.checked_add(len)?)?;
    let is_message = matches!(bytes.first()? & 0x0f, 1 | 2);
    Some((start + len, is_message.then_some(payload)))
}

/// Publishes over one connection that stays open.
pub(crate) struct Publisher {
    line: Line,
    head: String,
}

impl Publisher {
    pub(crate) async fn open(target: &Target, channel: &str) -> Result<Self> {
        let head = format!(
            "POST /ch/{channel} HTTP/1.1\r\nHost: {}\r\n{}Content-Type: text/plain\r\nContent-Length: ",
            target.authority,
            authorization(target)
        );
        Ok(Self {
            line: Line::open(target).await?,
            head,
        })
    }

    /// Publishes and waits for the answer. `false`: busy, not accepted.
    pub(crate) async fn publish(&mut self, message: &[u8]) -> Result<bool> {
        let mut request = format!("{}{}\r\n\r\n", self.head, message.len()).into_bytes();
        request.extend_from_slice(message);
        self.line.socket.write_all(&request).await?;
        let head = self
            .line
            .until(b"\r\n\r\n")
            .await?
            .context("the server closed the connection")?;
        let lower = head.to_ascii_lowercase();
        let length = lower
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
        while self.line.got.len() < length {
            if !self.line.more().await? {
                bail!("the server closed the connection");
            }
        }
        let body: Vec<u8> = self.line.got.drain(..length).collect();
        match head.split(' ').nth(1) {
            Some("200") => Ok(true),
            Some("503") => Ok(false),
            status => bail!(
                "the server answered {}: {}",
                status.unwrap_or("nothing"),
                String::from_utf8_lossy(&body).trim()
            ),
        }
    }
}
