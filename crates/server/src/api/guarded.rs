//! A socket from which the HTTP server reads only what is good HTTP.
//!
//! The bytes that the shard has read already come first, then the socket's own; all of them go
//! through a [`Guard`]. What always holds:
//!
//! - What arrives whole is read straight into the HTTP server's buffer and looked at there. Only
//!   what may not pass yet is kept here: at most one unfinished head, and one read beyond it.
//! - In place of a head that is refused comes [`STAND_IN`], a request that nobody else can send.
//!   The service answers it in its turn with what [`BadHead`] says, and the connection ends.
//! - A body that is refused ends with an error, which the service answers with 400.
//! - Behind a handshake nothing is read any more; [`Guarded::into_parts`] gives what came.
//! - Where the peer may still be sending, the socket is closed only when it has read our answer
//!   and closed too, or a second has passed: its system would throw the answer away otherwise.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use fanfare_core::wire::http1::{HeadError, HeadLimits};
use fanfare_core::wire::http1_guard::{Guard, Next};
use http::request::Parts;
use http::{Version, header};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::line_io::LineIo;

/// Stands for a refused head. A request of HTTP/1.1 without `Host` never passes the guard, so
/// whoever sees one knows who made it.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n";

/// Read at once while a head is unfinished.
const READ_BYTES: usize = 4_096;

/// Time for which a peer that still sends may take to read the last answer and go.
const LINGER: Duration = Duration::from_secs(1);

/// Why the head for which [`STAND_IN`] stands is refused. The HTTP server wants what it reads
/// from to be `Send`, though nothing here leaves its thread.
#[derive(Clone, Debug, Default)]
pub(super) struct BadHead(Arc<OnceLock<HeadError>>);

impl BadHead {
    /// The fault of the head for which this request stands, if it does.
    pub(super) fn behind(&self, head: &Parts) -> Option<HeadError> {
        let is_ours = head.version == Version::HTTP_11 && !head.headers.contains_key(header::HOST);
        let error = || self.0.get().copied();
        is_ours.then(|| error().unwrap_or(HeadError::Bad("exactly one Host field is needed")))
    }
}

/// See the head of this file.
pub(super) struct Guarded {
    socket: LineIo,
    guard: Guard,
    bad_head: BadHead,
    /// Bytes that have arrived and not been passed on, from `passed` on.
    held: Vec<u8>,
    passed: usize,
    /// Those of `held` before here may pass.
    ready: usize,
    /// What becomes of the others.
    next: Next,
    /// [`STAND_IN`] was given.
    is_over: bool,
    linger: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Guarded {
    /// A socket from which `early` was read already.
    pub(super) fn new(early: Vec<u8>, socket: LineIo, limits: HeadLimits) -> Self {
        let mut guarded = Self {
            socket,
            guard: Guard::new(limits),
            bad_head: BadHead::default(),
            held: early,
            passed: 0,
            ready: 0,
            next: Next::More,
            is_over: false,
            linger: None,
        };
        guarded.look();
        guarded
    }

    pub(super) fn bad_head(&self) -> BadHead {
        self.bad_head.clone()
    }

    /// The socket, and what came behind a handshake.
    pub(super) fn into_parts(self) -> (LineIo, Vec<u8>) {
        let behind = self.held.get(self.passed..).unwrap_or_default().to_vec();
        (self.socket, behind)
    }

    /// Looks at what is held.
    fn look(&mut self) {
        let look = self.guard.look(self.held.get(self.ready..).unwrap_or_default());
        self.ready += look.passed;
        self.next = look.next;
    }

    /// Gives what may pass of that which is held.
    fn give(&mut self, buffer: &mut ReadBuf<'_>) {
        let count = (self.ready - self.passed).min(buffer.remaining());
        let end = self.passed + count;
        buffer.put_slice(self.held.get(self.passed..end).unwrap_or_default());
        self.passed = end;
        if self.passed == self.held.len() {
            // An idle connection holds no buffer.
            (self.held, self.passed, self.ready) = (Vec::new(), 0, 0);
        }
    }

    /// Reads into the HTTP server's own buffer, and takes back what may not pass yet.
    fn read_through(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<Progress>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buffer))?;
        let arrived = buffer.filled().get(before..).unwrap_or_default();
        if arrived.is_empty() {
            return Poll::Ready(Ok(Progress::Read));
        }
        let look = self.guard.look(arrived);
        self.next = look.next;
        self.held = arrived.get(look.passed..).unwrap_or_default().to_vec();
        buffer.set_filled(before + look.passed);
        Poll::Ready(Ok(if look.passed == 0 {
            Progress::None
        } else {
            Progress::Read
        }))
    }

    /// Reads more of an unfinished head.
    fn read_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Progress>> {
        let mut bytes = [0; READ_BYTES];
        let mut buffer = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer))?;
        if buffer.filled().is_empty() {
            return Poll::Ready(Ok(Progress::Read));
        }
        self.held.drain(..self.passed);
        self.ready -= self.passed;
        self.passed = 0;
        self.held.extend_from_slice(buffer.filled());
        self.look();
        Poll::Ready(Ok(Progress::None))
    }
}

/// Whether the HTTP server has got something, be it the end.
enum Progress {
    Read,
    None,
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.ready > self.passed {
                self.give(buffer);
                return Poll::Ready(Ok(()));
            }
            let progress = match self.next {
                Next::More if self.held.is_empty() => ready!(self.read_through(cx, buffer))?,
                Next::More => ready!(self.read_held(cx))?,
                Next::BadHead(error) if !self.is_over => {
                    let _ = self.bad_head.0.set(error);
                    self.is_over = true;
                    (self.held, self.passed, self.ready) = (STAND_IN.to_vec(), 0, STAND_IN.len());
                    Progress::None
                }
                Next::BadBody(error) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                }
                // The answer to the last request takes the socket, or closes it.
                Next::BadHead(_) | Next::Handshake => return Poll::Pending,
            };
            if let Progress::Read = progress {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.socket).poll_shutdown(cx))?;
            if this.guard.is_between_requests() && this.held.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
        let linger = this
            .linger
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        if linger.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        loop {
            let mut bytes = [0; READ_BYTES];
            let mut buffer = ReadBuf::new(&mut bytes);
            match ready!(Pin::new(&mut this.socket).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                _ => return Poll::Ready(Ok(())),
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}
