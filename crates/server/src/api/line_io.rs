//! A line as the HTTP server reads and writes it: TLS under tokio.
//!
//! tokio-rustls does the same for connections whose handshake it has made; these come from a shard,
//! with their handshake done, and may go back there.

use std::io::{self, ErrorKind, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::address::Source;
use crate::gate::Ticket;
use crate::line::{Line, Tls};

/// See the head of this file.
pub(super) struct LineIo {
    socket: TcpStream,
    tls: Option<Box<Tls>>,
    source: Source,
    ticket: Option<Ticket>,
    /// The peer's end was seen: see [`poll_read_tls`].
    is_at_end: bool,
}

impl LineIo {
    pub(super) fn new(line: Line) -> io::Result<Self> {
        Ok(Self {
            socket: TcpStream::from_std(line.socket)?,
            tls: line.tls,
            source: line.source,
            ticket: line.ticket,
            is_at_end: false,
        })
    }

    /// The line, and what was decrypted and not read yet.
    pub(super) fn into_line(self) -> io::Result<(Line, Vec<u8>)> {
        let (socket, mut tls) = (self.socket.into_std()?, self.tls);
        let mut plain = Vec::new();
        if let Some(tls) = &mut tls {
            tls.take_plain(&mut plain);
        }
        let (source, ticket) = (self.source, self.ticket);
        let line = Line {
            socket,
            tls,
            source,
            ticket,
        };
        Ok((line, plain))
    }
}

/// A socket within a poll: what would have to wait is an error that says so.
struct Polled<'a, 'b> {
    socket: &'a mut TcpStream,
    cx: &'a mut Context<'b>,
}

fn or_would_block<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(ErrorKind::WouldBlock.into()),
    }
}

impl Read for Polled<'_, '_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(bytes);
        or_would_block(Pin::new(&mut *self.socket).poll_read(self.cx, &mut buffer))?;
        Ok(buffer.filled().len())
    }
}

impl Write for Polled<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        or_would_block(Pin::new(&mut *self.socket).poll_write(self.cx, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes what is encrypted.
fn poll_pump(tls: &mut Tls, socket: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    if tls.pump(&mut Polled { socket, cx })? {
        Poll::Ready(Ok(()))
    } else {
        Poll::Pending
    }
}

/// Reads what is decrypted.
///
/// The HTTP server gives up a request whose peer has gone. An end can come in one packet with a
/// request, and then only says that it is the last; so the end is told a poll later, and not before
/// what was written has left.
fn poll_read_tls(
    tls: &mut Tls,
    socket: &mut TcpStream,
    is_at_end: &mut bool,
    cx: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    loop {
        match tls.connection.reader().read(buffer.initialize_unfilled()) {
            // The peer said that it sends no more. A line that was cut is an error.
            Ok(0) if !*is_at_end || tls.connection.wants_write() => {
                *is_at_end = true;
                ready!(poll_pump(tls, socket, cx))?;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Ok(count) => {
                buffer.advance(count);
                return Poll::Ready(Ok(()));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
        match tls.connection.read_tls(&mut Polled { socket, cx }) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Poll::Pending,
            Err(error) => return Poll::Ready(Err(error)),
        }
        let processed = tls.connection.process_new_packets();
        // An answer of TLS's own: new keys, or an alert. What cannot leave now does with the next.
        let pumped = poll_pump(tls, socket, cx);
        if let Err(error) = processed {
            let _ = tls.failed(&error);
            return Poll::Ready(Err(io::Error::new(ErrorKind::InvalidData, error)));
        }
        if let Poll::Ready(Err(error)) = pumped {
            return Poll::Ready(Err(error));
        }
    }
}

impl AsyncRead for LineIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match &mut this.tls {
            None => Pin::new(&mut this.socket).poll_read(cx, buffer),
            Some(tls) => poll_read_tls(tls, &mut this.socket, &mut this.is_at_end, cx, buffer),
        }
    }
}

impl AsyncWrite for LineIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let Some(tls) = &mut this.tls else {
            return Pin::new(&mut this.socket).poll_write(cx, bytes);
        };
        let socket = &mut this.socket;
        match tls.write(&mut Polled { socket, cx }, bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Poll::Pending,
            written => Poll::Ready(written),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(tls) = &mut this.tls {
            ready!(poll_pump(tls, &mut this.socket, cx))?;
        }
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(tls) = &mut this.tls {
            let socket = &mut this.socket;
            if !tls.say_end(&mut Polled { socket, cx })? {
                return Poll::Pending;
            }
        }
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.tls.is_none() {
            return Pin::new(&mut this.socket).poll_write_vectored(cx, slices);
        }
        let first = slices.iter().find(|slice| !slice.is_empty());
        Pin::new(this).poll_write(cx, first.map_or(&[], |slice| slice))
    }

    fn is_write_vectored(&self) -> bool {
        // With TLS the pieces are copied anyway, and are better one record than several.
        self.tls.is_none() && self.socket.is_write_vectored()
    }
}
