//! One peer's socket, and its TLS where it has it. Both lanes use this: the shard with a socket that
//! does not block, the HTTP server through [`crate::api`]'s adapter.
//!
//! # Invariants
//!
//! * At most [`PLAINTEXT_MAX`] bytes are handed to TLS at a time, and only when everything that was
//!   encrypted before has left: what waits for a slow reader waits as plain frames in its outbox,
//!   where it is counted and shared.
//! * What a peer sent is decrypted at once. Kept is only what is unfinished: one record, or one
//!   handshake message of at most 64 KiB. An idle connection keeps one buffer of 4 KiB.
//! * A handshake is counted once, as done or as failed with a cause of a closed set.
//!
//! Which certificate a peer gets is not decided here but in [`crate::tls`].

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use fanfare_core::outbox::{Flushed, Outbox, WriteVectored};
use rustls::{AlertDescription, Error, PeerIncompatible, ServerConnection};

use crate::address::Source;
use crate::gate::Ticket;
use crate::metrics::TlsMetrics;

/// Bytes of plain text that TLS is given at a time: those of one record (RFC 8446 section 5.1).
pub(crate) const PLAINTEXT_MAX: usize = 16 << 10;

/// See the module's head.
///
/// The socket is of this type also where it is a Unix socket: what is done with it (receive, send, shut
/// down) is the same system calls, and options of TCP are only tried. Its address is never asked; who is at
/// the other end is [`Line::source`].
pub(crate) struct Line {
    pub(crate) socket: TcpStream,
    pub(crate) tls: Option<Box<Tls>>,
    pub(crate) source: Source,
    /// Its place among the connections of its address.
    pub(crate) ticket: Option<Ticket>,
}

/// The server's end of TLS on one connection.
pub(crate) struct Tls {
    pub(crate) connection: ServerConnection,
    metrics: Arc<TlsMetrics>,
    step: Step,
    /// The handshake waits for a later turn of the shard.
    pub(crate) is_waiting: bool,
}

/// How far a handshake is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// Nothing has come yet.
    Silent,
    Begun,
    Done,
    Failed,
}

/// Why a handshake failed: the label of a metric.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Cause {
    /// Plain HTTP on the port of TLS.
    PlainHttp,
    /// A version that is not spoken here.
    Version,
    /// No cipher suite, group or signature in common.
    Suite,
    /// No protocol in common (ALPN).
    Protocol,
    /// The peer ended it with an alert; most often it does not trust the certificate.
    Alert,
    /// Bytes that are no TLS, or break its rules.
    Bytes,
    /// It took longer than `limits.head_time_max`.
    TooSlow,
    /// Too many at once: `limits.handshakes_max`.
    Full,
    /// The peer went away.
    Lost,
}

impl Cause {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::PlainHttp => "plain_http",
            Self::Version => "version",
            Self::Suite => "suite",
            Self::Protocol => "protocol",
            Self::Alert => "alert",
            Self::Bytes => "bytes",
            Self::TooSlow => "too_slow",
            Self::Full => "full",
            Self::Lost => "lost",
        }
    }

    fn of(error: &Error) -> Self {
        match error {
            Error::PeerIncompatible(
                PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                | PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled,
            )
            | Error::AlertReceived(AlertDescription::ProtocolVersion) => Self::Version,
            Error::PeerIncompatible(_) => Self::Suite,
            Error::NoApplicationProtocol => Self::Protocol,
            Error::AlertReceived(_) => Self::Alert,
            _ => Self::Bytes,
        }
    }
}

/// How a peer's bytes ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// There may be more.
    No,
    /// The peer said that it sends no more (`close_notify`).
    Closed,
    /// What came is no TLS; an alert that says so waits to be written.
    Fault(Error),
}

impl Tls {
    pub(crate) fn new(connection: ServerConnection, metrics: Arc<TlsMetrics>) -> Self {
        Self {
            connection,
            metrics,
            step: Step::Silent,
            is_waiting: false,
        }
    }

    /// Whether the peer has not sent anything yet.
    pub(crate) fn is_silent(&self) -> bool {
        self.step == Step::Silent
    }

    /// Whether the handshake is still to be finished.
    pub(crate) fn is_shaking(&self) -> bool {
        matches!(self.step, Step::Silent | Step::Begun)
    }

    /// Takes bytes of the peer, and appends what they say to `plain`.
    pub(crate) fn decrypt(&mut self, mut bytes: &[u8], plain: &mut Vec<u8>) -> Ended {
        if self.step == Step::Silent {
            self.step = Step::Begun;
        }
        let ended = loop {
            if bytes.is_empty() {
                break Ended::No;
            }
            // Takes 4 KiB at most. An error means more unfinished bytes than a record may have.
            if let Err(error) = self.connection.read_tls(&mut bytes) {
                break Ended::Fault(Error::General(error.to_string()));
            }
            let state = match self.connection.process_new_packets() {
                Ok(state) => state,
                Err(error) => break Ended::Fault(error),
            };
            let start = plain.len();
            plain.resize(start.saturating_add(state.plaintext_bytes_to_read()), 0);
            let read = self
                .connection
                .reader()
                .read(plain.get_mut(start..).unwrap_or_default());
            plain.truncate(start.saturating_add(read.unwrap_or(0)));
            if state.peer_has_closed() {
                break Ended::Closed;
            }
        };
        if self.step == Step::Begun && !self.connection.is_handshaking() {
            self.step = Step::Done;
            self.metrics.done(self.connection.protocol_version());
        }
        // A buffer that grew for a large record shrinks when the next read begins: begin one.
        let _ = self.connection.read_tls(&mut Nothing);
        ended
    }

    /// Encrypts, as much as goes at a time, and writes it as far as the socket takes it; behind what was
    /// encrypted before. `WouldBlock`: that waits still, and nothing was taken. What does not go now
    /// goes before the next, or with [`Self::pump`].
    pub(crate) fn write(&mut self, socket: &mut dyn Write, bytes: &[u8]) -> io::Result<usize> {
        if !self.pump(socket)? {
            return Err(ErrorKind::WouldBlock.into());
        }
        let part = bytes.get(..PLAINTEXT_MAX).unwrap_or(bytes);
        let count = self.connection.writer().write(part)?;
        self.pump(socket)?;
        Ok(count)
    }

    /// Says goodbye: TLS has an end of its own, without which a cut line looks like an end. `false`:
    /// the socket is full.
    pub(crate) fn say_end(&mut self, socket: &mut dyn Write) -> io::Result<bool> {
        if self.step == Step::Done {
            self.connection.send_close_notify();
        }
        self.pump(socket)
    }

    /// Writes what is encrypted, as far as the socket takes it. Says whether all of it went.
    pub(crate) fn pump(&mut self, socket: &mut dyn Write) -> io::Result<bool> {
        while self.connection.wants_write() {
            match self.connection.write_tls(socket) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// The handshake has failed, by a fault of what came. Says why, if it had not ended before.
    pub(crate) fn failed(&mut self, error: &Error) -> Option<Cause> {
        self.gave_up(Cause::of(error))
    }

    /// The handshake has failed for this cause, if it had not ended before.
    pub(crate) fn gave_up(&mut self, cause: Cause) -> Option<Cause> {
        let was = std::mem::replace(&mut self.step, Step::Failed);
        match was {
            Step::Silent | Step::Begun => {
                self.metrics.failed(cause.label());
                Some(cause)
            }
            Step::Done => {
                self.metrics.closed();
                None
            }
            Step::Failed => None,
        }
    }

    /// What was decrypted and not read yet.
    pub(crate) fn take_plain(&mut self, plain: &mut Vec<u8>) {
        // An error only says that there is no more.
        let _ = self.connection.reader().read_to_end(plain);
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        match self.step {
            Step::Done => self.metrics.closed(),
            Step::Begun => self.metrics.failed(Cause::Lost.label()),
            // Who only looks whether the port is open has not begun a handshake.
            Step::Silent | Step::Failed => {}
        }
    }
}

/// Gives nothing to read.
struct Nothing;

impl Read for Nothing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }
}

impl Line {
    /// Writes an outbox until it is empty or the socket is full. `scratch` is room to gather frames
    /// in; what was in it does not matter.
    pub(crate) fn flush(&mut self, outbox: &mut Outbox, scratch: &mut [u8]) -> io::Result<Flushed> {
        let mut socket = &self.socket;
        let Some(tls) = &mut self.tls else {
            return outbox.flush(&mut Plain { socket, scratch });
        };
        if !tls.pump(&mut socket)? {
            return Ok(Flushed::Blocked);
        }
        outbox.flush(&mut Encrypting { socket, tls, scratch })?;
        // What is encrypted and not written yet waits no less than what is in the outbox.
        Ok(if outbox.is_empty() && tls.pump(&mut socket)? {
            Flushed::All
        } else {
            Flushed::Blocked
        })
    }

    /// See [`Tls::say_end`].
    pub(crate) fn say_end(&mut self) -> io::Result<bool> {
        match &mut self.tls {
            Some(tls) => tls.say_end(&mut &self.socket),
            None => Ok(true),
        }
    }
}

/// The socket as an outbox sees it.
struct Plain<'a> {
    socket: &'a TcpStream,
    scratch: &'a mut [u8],
}

/// Frames that have no more bytes together than this are gathered, since `send` of one piece takes
/// the kernel less than `writev` of several, and copying so little takes nearly nothing.
const GATHERED_BYTES_MAX: usize = 4 << 10;

impl WriteVectored for Plain<'_> {
    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if let [one] = slices {
            return self.socket.write(one);
        }
        let len: usize = slices.iter().map(|slice| slice.len()).sum();
        if len > GATHERED_BYTES_MAX.min(self.scratch.len()) {
            return self.socket.write_vectored(slices);
        }
        self.socket.write(gather(slices, self.scratch))
    }
}

/// The same with TLS: all that waits becomes one record, and leaves with one system call.
struct Encrypting<'a> {
    socket: &'a TcpStream,
    tls: &'a mut Tls,
    scratch: &'a mut [u8],
}

impl WriteVectored for Encrypting<'_> {
    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let room = PLAINTEXT_MAX.min(self.scratch.len());
        match slices {
            // While something is read, the room is in use.
            [first, ..] if slices.len() == 1 || room == 0 => self.tls.write(&mut self.socket, first),
            _ => {
                let room = self.scratch.get_mut(..room).unwrap_or_default();
                self.tls.write(&mut self.socket, gather(slices, room))
            }
        }
    }
}

/// As much of the slices as there is room for, one behind the other.
fn gather<'a>(slices: &[IoSlice<'_>], room: &'a mut [u8]) -> &'a [u8] {
    let mut len = 0;
    for slice in slices {
        let here = room.get_mut(len..).unwrap_or_default();
        let count = slice.len().min(here.len());
        let (here, from) = (here.get_mut(..count), slice.get(..count));
        if let (Some(here), Some(from)) = (here, from) {
            here.copy_from_slice(from);
        }
        len += count;
    }
    room.get(..len).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(slices: &[&[u8]], room: usize, expected: &[u8]) {
        let slices: Vec<IoSlice<'_>> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
        assert_eq!(gather(&slices, &mut vec![b'_'; room]), expected);
    }

    #[test]
    fn frames_are_gathered_as_far_as_there_is_room() {
        check(&[b"ab", b"", b"cde"], 9, b"abcde");
        check(&[b"ab", b"cde"], 5, b"abcde");
        check(&[b"ab", b"cde", b"f"], 4, b"abcd");
        check(&[b"ab", b"cde"], 1, b"a");
        check(&[], 4, b"");
        check(&[b"ab"], 0, b"");
    }
}
