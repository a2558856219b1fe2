//! Frames that wait for one peer.
//!
//! Frames are shared with every other subscriber and never copied. Delivering only appends
//! here; the shard flushes later, once for all that has gathered, so that publications which
//! arrive together leave with one system call.
//!
//! The first frame stands beside the queue and not in it, so that the usual case, one waiting
//! frame, allocates nothing; the queue's memory is given back when it runs empty.
//!
//! This module does not decide what happens at the limit; [`Outbox::push`] only refuses.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};

use bytes::Bytes;
use smallvec::SmallVec;

/// Most frames in one system call. The kernel takes 1,024; beyond some dozens nothing is gained.
pub const SLICES_MAX: usize = 64;

/// A queue that grew beyond this many frames gives its memory back when it runs empty.
const KEPT_CAPACITY: usize = 8;

/// Something that takes several byte strings at once: a socket, or a test's list of numbers.
pub trait WriteVectored {
    /// Writes some of the bytes and says how many, like [`io::Write::write_vectored`].
    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
}

/// How a flush ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Flushed {
    /// Nothing waits any more.
    All,
    /// The socket is full; call again when it is writable.
    Blocked,
}

/// The frame does not fit; nothing was added.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OutboxFull {
    /// What waits already, in bytes.
    pub pending_bytes: usize,
}

/// Frames that wait for one peer, oldest first.
///
/// Invariant: `pending_bytes` is the sum of the frames' lengths minus `front_written`.
/// Invariant: `front` is empty only when nothing waits, and `front_written < front.len()` else.
#[derive(Debug, Default)]
pub struct Outbox {
    front: Bytes,
    rest: VecDeque<Bytes>,
    front_written: usize,
    pending_bytes: usize,
}

impl Outbox {
    /// Adds a frame, unless more than `limit_bytes` would then wait. An empty frame is nothing.
    pub fn push(&mut self, frame: Bytes, limit_bytes: usize) -> Result<(), OutboxFull> {
        let pending_bytes = self.pending_bytes.saturating_add(frame.len());
        if pending_bytes > limit_bytes {
            return Err(OutboxFull {
                pending_bytes: self.pending_bytes,
            });
        }
        if frame.is_empty() {
            return Ok(());
        }
        self.pending_bytes = pending_bytes;
        if self.front.is_empty() {
            self.front = frame;
        } else {
            self.rest.push_back(frame);
        }
        Ok(())
    }

    /// Bytes that wait.
    pub fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.front.is_empty()
    }

    /// Takes the oldest frame whole, for a transport that has no socket of its own.
    /// Not to be mixed with [`Self::flush`].
    pub fn pop(&mut self) -> Option<Bytes> {
        if self.front.is_empty() {
            return None;
        }
        let frame = std::mem::take(&mut self.front);
        self.pending_bytes = self.pending_bytes.saturating_sub(frame.len());
        self.advance();
        Some(frame)
    }

    /// Drops every frame of which nothing was written yet, so that a last frame can follow
    /// without breaking the one that is half out.
    pub fn keep_only_started(&mut self) {
        self.rest = VecDeque::new();
        if self.front_written == 0 {
            self.front = Bytes::new();
        }
        self.pending_bytes = self.front.len().saturating_sub(self.front_written);
    }

    /// Writes until empty or full: one system call for all that waits, in the usual case.
    ///
    /// # Errors
    ///
    /// Any error but `WouldBlock` means that the connection is gone.
    pub fn flush(&mut self, socket: &mut impl WriteVectored) -> io::Result<Flushed> {
        while !self.front.is_empty() {
            let started = self.front.get(self.front_written..).unwrap_or_default();
            let result = if self.rest.is_empty() {
                socket.write_vectored(&[IoSlice::new(started)])
            } else {
                let waiting = self.rest.iter().take(SLICES_MAX - 1);
                let mut slices: SmallVec<[IoSlice<'_>; 16]> = SmallVec::from_iter([IoSlice::new(started)]);
                slices.extend(waiting.map(|frame| IoSlice::new(frame)));
                socket.write_vectored(&slices)
            };
            match result {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => self.consume(written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Flushed::Blocked),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Flushed::All)
    }

    fn consume(&mut self, mut written: usize) {
        if written >= self.pending_bytes {
            // The usual end, and cheaper than frame by frame.
            self.pending_bytes = 0;
            self.front_written = 0;
            self.front = Bytes::new();
            self.rest.clear();
            return self.give_back();
        }
        self.pending_bytes = self.pending_bytes.saturating_sub(written);
        while !self.front.is_empty() {
            let left = self.front.len() - self.front_written;
            if written < left {
                self.front_written += written;
                return;
            }
            written -= left;
            self.front_written = 0;
            self.advance();
        }
    }

    fn advance(&mut self) {
        self.front = self.rest.pop_front().unwrap_or_default();
        if self.front.is_empty() {
            self.give_back();
        }
    }

    fn give_back(&mut self) {
        if self.rest.capacity() > KEPT_CAPACITY {
            self.rest = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A socket that takes these many bytes, one number per call, and is then full.
    struct Takes {
        counts: Vec<usize>,
        got: Vec<u8>,
        calls: usize,
    }

    impl WriteVectored for Takes {
        fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            if self.counts.is_empty() {
                return Err(ErrorKind::WouldBlock.into());
            }
            self.calls += 1;
            let take = self.counts.remove(0);
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            let take = take.min(all.len());
            self.got.extend(&all[..take]);
            Ok(take)
        }
    }

    fn outbox(frames: &[&'static str]) -> Outbox {
        let mut outbox = Outbox::default();
        for frame in frames {
            outbox.push(Bytes::from_static(frame.as_bytes()), 1_000).unwrap();
        }
        outbox
    }

    #[test]
    fn all_that_waits_leaves_with_one_call() {
        let mut socket = Takes {
            counts: vec![1_000],
            got: vec![],
            calls: 0,
        };
        assert_eq!(
            outbox(&["ab", "cde", "f"]).flush(&mut socket).unwrap(),
            Flushed::All
        );
        assert_eq!((socket.got.as_slice(), socket.calls), (&b"abcdef"[..], 1));
    }

    #[test]
    fn every_short_write_continues_where_it_stopped() {
        for first in 1..=10 {
            for second in 1..=10 {
                let mut outbox = outbox(&["abc", "", "d", "efgh", "ij"]);
                let mut socket = Takes {
                    counts: vec![first, second],
                    got: vec![],
                    calls: 0,
                };
                let flushed = outbox.flush(&mut socket).unwrap();
                assert_eq!(outbox.pending_bytes(), 10 - socket.got.len());
                assert_eq!(flushed == Flushed::All, socket.got.len() == 10);
                socket.counts = vec![1_000];
                assert_eq!(outbox.flush(&mut socket).unwrap(), Flushed::All);
                assert_eq!(socket.got, b"abcdefghij", "{first} then {second}");
                assert!(outbox.is_empty() && outbox.pending_bytes() == 0);
            }
        }
    }

    #[test]
    fn more_frames_than_slices_need_more_calls() {
        let mut outbox = outbox(&["x"; SLICES_MAX * 2 + 1]);
        let mut socket = Takes {
            counts: vec![1_000; 9],
            got: vec![],
            calls: 0,
        };
        assert_eq!(outbox.flush(&mut socket).unwrap(), Flushed::All);
        assert_eq!((socket.got.len(), socket.calls), (SLICES_MAX * 2 + 1, 3));
    }

    #[test]
    fn the_limit_counts_bytes_and_refuses_one_more() {
        let mut outbox = Outbox::default();
        outbox.push(Bytes::from_static(b"12345"), 8).unwrap();
        outbox.push(Bytes::from_static(b"678"), 8).unwrap();
        assert_eq!(
            outbox.push(Bytes::from_static(b"9"), 8),
            Err(OutboxFull { pending_bytes: 8 })
        );
        assert_eq!(outbox.pending_bytes(), 8);
    }

    #[test]
    fn a_frame_half_out_is_finished_before_the_last_word() {
        let mut outbox = outbox(&["abc", "def", "ghi"]);
        let mut socket = Takes {
            counts: vec![4],
            got: vec![],
            calls: 0,
        };
        assert_eq!(outbox.flush(&mut socket).unwrap(), Flushed::Blocked);
        outbox.keep_only_started();
        outbox.push(Bytes::from_static(b"BYE"), 1_000).unwrap();
        socket.counts = vec![1_000];
        outbox.flush(&mut socket).unwrap();
        assert_eq!(socket.got, b"abcdefBYE");
    }

    #[test]
    fn popped_frames_are_counted_out() {
        let mut outbox = outbox(&["abc", "de"]);
        assert_eq!(outbox.pop().unwrap(), "abc");
        assert_eq!(outbox.pending_bytes(), 2);
        assert_eq!(outbox.pop().unwrap(), "de");
        assert_eq!(
            (outbox.pop(), outbox.pending_bytes(), outbox.is_empty()),
            (None, 0, true)
        );
    }

    #[test]
    fn an_outbox_that_drained_gives_its_memory_back() {
        let mut outbox = outbox(&["x"; 200]);
        let mut socket = Takes {
            counts: vec![1_000; 9],
            got: vec![],
            calls: 0,
        };
        outbox.flush(&mut socket).unwrap();
        assert!(outbox.rest.capacity() <= KEPT_CAPACITY);
    }
}
