//! One connection of a check, and what is sent over it: requests, and payloads as text.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::checker::Payload;
use crate::wire::{self, AnswerHead, Dechunker};

/// Bytes read at a time.
const READ_BYTES: usize = 16 << 10;

/// A connection with what has arrived and is not used yet.
pub(crate) struct Line {
    socket: TcpStream,
    pub(super) got: Vec<u8>,
}

impl Line {
    pub(crate) async fn connect(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect(address).await?;
        // A port where nobody listens any more can be given to the very socket that connects to it.
        if socket.local_addr()? == socket.peer_addr()? {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        socket.set_nodelay(true)?;
        let got = Vec::new();
        Ok(Self { socket, got })
    }

    /// However this ends, the other side sees a reset.
    pub(crate) fn end_by_reset(&self) -> io::Result<()> {
        self.socket.set_zero_linger()
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes).await
    }

    /// Waits for more bytes; their end is an error. Nothing is lost when this is dropped.
    pub(crate) async fn more(&mut self) -> io::Result<()> {
        self.got.reserve(READ_BYTES);
        match self.socket.read_buf(&mut self.got).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Takes the head of an answer.
    pub(crate) async fn head(&mut self) -> io::Result<AnswerHead> {
        loop {
            if let Some(head) = wire::answer_head(&self.got) {
                self.got.drain(..head.len);
                return Ok(head);
            }
            self.more().await?;
        }
    }

    /// Takes a whole answer: status and body.
    pub(crate) async fn answer(&mut self) -> io::Result<(u16, Vec<u8>)> {
        loop {
            if let Some((status, len)) = wire::whole_answer(&self.got) {
                let whole: Vec<u8> = self.got.drain(..len).collect();
                let head = wire::answer_head(&whole).map_or((0, false), |head| (head.len, head.chunked));
                let mut body = whole.get(head.0..).unwrap_or_default().to_vec();
                if head.1 {
                    let chunks = std::mem::take(&mut body);
                    Dechunker::default().take(&chunks, &mut body);
                }
                return Ok((status, body));
            }
            self.more().await?;
        }
    }
}

/// The text of a publication. Its length varies, so that frames of each size are cut.
pub(super) fn text_of(payload: Payload) -> String {
    let Payload { publisher, sequence } = payload;
    let filling = ".".repeat(sequence as usize * 7 % 300);
    format!("{publisher} {sequence} {filling}")
}

/// The payload that a text is of, if it is exactly the text of one.
pub(super) fn payload_of(text: &str) -> Option<Payload> {
    let mut words = text.split(' ');
    let payload = Payload {
        publisher: words.next()?.parse().ok()?,
        sequence: words.next()?.parse().ok()?,
    };
    (text_of(payload) == text).then_some(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_was_touched_is_of_no_payload() {
        for sequence in 0..500 {
            let payload = Payload {
                publisher: 3,
                sequence,
            };
            let text = text_of(payload);
            assert_eq!(payload_of(&text), Some(payload));
            assert_eq!(payload_of(&format!("{text}.")), None);
            assert_eq!(payload_of(&text[..text.len() - 1]), None);
        }
        for text in ["", "1", "1 2", "x 0 ", "+1 0 ", "1 0  "] {
            assert_eq!(payload_of(text), None, "{text:?}");
        }
    }
}
