//! Frames that wait for one peer.
//!
//! Frames are shared with every other subscriber and never copied. Delivering only appends
//! here; the shard flushes later, once for all that has gathered, so that publications which
//! arrive together leave with one system call.
//!
//! The first frame stands beside the queue and not in it, so that the usual case, one waiting
//! frame, allocates nothing; the queue's memory is given back when it runs empty.
//!
//! Frames of some channels may be dropped again before they leave ([`Tag`]): where only the newest of
//! each key matters, or where the oldest may go. Which channels those are is decided elsewhere; and
//! at the limit [`Outbox::push`] only refuses.
//!
//! The first frame is never dropped: it may be half out.

use std::collections::{HashSet, VecDeque};
use std::io::{self, ErrorKind, IoSlice};

use bytes::Bytes;
use smallvec::SmallVec;

/// Most frames in one system call. The kernel takes 1,024; beyond some dozens nothing is gained.
pub const SLICES_MAX: usize = 64;

/// A queue that grew beyond this many frames gives its memory back when it runs empty.
const KEPT_CAPACITY: usize = 8;

/// Bytes that wait before frames of the same key begin to replace each other. A peer that reads has
/// less than this waiting nearly always.
pub const CONFLATION_BYTES: usize = 16 << 10;

/// What may happen to a frame while it waits.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Tag(u64);

impl Tag {
    /// It must be delivered.
    pub const MUST: Self = Self(0);
    const NEWEST: u64 = 1 << 63;
    const OLDEST: u64 = 1 << 62;

    /// It goes when a later one with the same `what` (a channel and key, hashed) waits too.
    pub fn newest(what: u64) -> Self {
        Self(what & !Self::OLDEST | Self::NEWEST)
    }

    /// It may go, oldest first, when there is no room for a later one of the same `channel`.
    pub fn oldest(channel: u32) -> Self {
        Self(u64::from(channel) | Self::OLDEST)
    }

    fn is_newest(self) -> bool {
        self.0 & Self::NEWEST != 0
    }

    fn is_oldest(self) -> bool {
        self.0 & (Self::NEWEST | Self::OLDEST) == Self::OLDEST
    }
}

/// Frames that were dropped to make room.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Dropped {
    /// Replaced by a later one of the same key.
    pub conflated: usize,
    /// Oldest of their channel.
    pub oldest: usize,
}

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
/// Invariant: `beyond_bytes` is 0 when nothing waits.
/// Invariant: where there are tags, there is one for each frame of `rest`, in the same order.
#[derive(Debug, Default)]
pub struct Outbox {
    front: Bytes,
    rest: VecDeque<Bytes>,
    front_written: usize,
    pending_bytes: usize,
    /// Bytes that may wait beyond the limit: see [`Outbox::push_beyond`].
    beyond_bytes: usize,
    /// Only where a frame that may be dropped waits, which few sessions ever have.
    tags: Option<Box<Tags>>,
}

#[derive(Debug)]
struct Tags {
    of_rest: VecDeque<Tag>,
    /// Frames of the same key replace each other when more than this waits.
    conflate_at: usize,
}

impl Outbox {
    /// Adds a frame, unless more than `limit_bytes` would then wait. An empty frame is nothing.
    pub fn push(&mut self, frame: Bytes, limit_bytes: usize) -> Result<(), OutboxFull> {
        let pending_bytes = self.pending_bytes.saturating_add(frame.len());
        // The second is looked at only where the first is so.
        if pending_bytes > limit_bytes && pending_bytes > limit_bytes.saturating_add(self.beyond_bytes) {
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
            if let Some(tags) = &mut self.tags {
                tags.of_rest.push_back(Tag::MUST);
            }
        }
        Ok(())
    }

    /// Adds a frame whose size is the server's doing and bounded elsewhere, whatever waits: until as many
    /// bytes have left, that much more may wait.
    pub fn push_beyond(&mut self, frame: Bytes) {
        self.beyond_bytes = self.beyond_bytes.saturating_add(frame.len());
        // Nothing is too much for this limit.
        let _ = self.push(frame, usize::MAX);
    }

    /// Whether something of that kind still waits, as far as that can be told.
    pub fn is_beyond(&self) -> bool {
        self.beyond_bytes > 0
    }

    /// Adds a frame that may be dropped while it waits, or in whose favour others may be. `marker`
    /// makes what stands where oldest frames were dropped; without one they are not.
    pub fn push_tagged(
        &mut self,
        frame: Bytes,
        tag: Tag,
        limit_bytes: usize,
        marker: impl FnOnce() -> Option<Bytes>,
    ) -> Result<Dropped, OutboxFull> {
        let mut dropped = Dropped::default();
        if tag.is_oldest() && self.pending_bytes.saturating_add(frame.len()) > limit_bytes {
            // A quarter at once, so that the next ones have room.
            let wanted = (limit_bytes / 4).max(frame.len());
            dropped.oldest = marker().map_or(0, |marker| self.drop_oldest(tag, wanted, marker));
        }
        self.push(frame, limit_bytes)?;
        if self.rest.is_empty() {
            return Ok(dropped);
        }
        let len = self.rest.len();
        let tags = self.tags.get_or_insert_with(|| {
            Box::new(Tags {
                of_rest: std::iter::repeat_n(Tag::MUST, len).collect(),
                conflate_at: CONFLATION_BYTES,
            })
        });
        if let Some(last) = tags.of_rest.back_mut() {
            *last = tag;
        }
        if tag.is_newest() && self.pending_bytes > tags.conflate_at {
            dropped.conflated = self.conflate();
        }
        Ok(dropped)
    }

    /// Keeps the newest frame of each key. Looks at all that waits, and is done again only when that
    /// has doubled, so a frame is looked at a bounded number of times.
    fn conflate(&mut self) -> usize {
        let Some(tags) = &mut self.tags else { return 0 };
        let mut seen = HashSet::new();
        let mut keep: VecDeque<bool> = VecDeque::with_capacity(tags.of_rest.len());
        for tag in tags.of_rest.iter().rev() {
            keep.push_front(!tag.is_newest() || seen.insert(*tag));
        }
        let before = self.rest.len();
        let mut freed = 0;
        let mut kept = keep.iter();
        self.rest.retain(|frame| {
            let stays = kept.next().copied().unwrap_or(true);
            freed += if stays { 0 } else { frame.len() };
            stays
        });
        let mut kept = keep.iter();
        tags.of_rest.retain(|_| kept.next().copied().unwrap_or(true));
        self.pending_bytes = self.pending_bytes.saturating_sub(freed);
        tags.conflate_at = self.pending_bytes.saturating_mul(2).max(CONFLATION_BYTES);
        before - self.rest.len()
    }

    /// Drops frames with this tag, oldest first, until so many bytes are free, and puts `marker` where
    /// the first of them stood.
    fn drop_oldest(&mut self, tag: Tag, bytes: usize, marker: Bytes) -> usize {
        let Some(tags) = &mut self.tags else { return 0 };
        let wanted = bytes.saturating_add(marker.len());
        let (mut freed, mut count, mut first) = (0, 0, None);
        let mut place = 0;
        while freed < wanted && place < self.rest.len() {
            if tags.of_rest.get(place) != Some(&tag) {
                place += 1;
                continue;
            }
            tags.of_rest.remove(place);
            freed += self.rest.remove(place).map_or(0, |frame| frame.len());
            count += 1;
            first.get_or_insert(place);
        }
        if let Some(first) = first {
            self.pending_bytes = self
                .pending_bytes
                .saturating_sub(freed)
                .saturating_add(marker.len());
            self.rest.insert(first, marker);
            tags.of_rest.insert(first, tag);
        }
        count
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
        self.beyond_bytes = self.beyond_bytes.saturating_sub(frame.len());
        self.advance();
        Some(frame)
    }

    /// Drops every frame of which nothing was written yet, so that a last frame can follow
    /// without breaking the one that is half out.
    pub fn keep_only_started(&mut self) {
        self.rest = VecDeque::new();
        self.tags = None;
        if self.front_written == 0 {
            self.front = Bytes::new();
        }
        self.pending_bytes = self.front.len().saturating_sub(self.front_written);
        self.beyond_bytes = 0;
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
            self.beyond_bytes = 0;
            self.pending_bytes = 0;
            self.front_written = 0;
            self.front = Bytes::new();
            if self.rest.is_empty() {
                return;
            }
            self.rest.clear();
            self.tags = None;
            return self.give_back();
        }
        self.beyond_bytes = self.beyond_bytes.saturating_sub(written);
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
        if let Some(tags) = &mut self.tags {
            tags.of_rest.pop_front();
        }
        if self.front.is_empty() {
            self.tags = None;
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
    use proptest::prelude::*;

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

    /// What waits after frames of 4 KiB were pushed: `a1` is channel and key a, number 1, whose newest
    /// counts; `O1` is of a channel whose oldest may go; `!1` must be delivered. The limit is 32 KiB;
    /// `gap` stands where oldest were dropped.
    #[track_caller]
    fn check_tagged(pushed: &[&str], expected: &str) {
        let limit = 32 << 10;
        let frame = |text: &str| {
            let mut bytes = text.as_bytes().to_vec();
            bytes.resize(4 << 10, b'.');
            Bytes::from(bytes)
        };
        let mut outbox = Outbox::default();
        let mut dropped = 0;
        for text in pushed {
            let tag = match text.as_bytes()[0] {
                b'!' => Tag::MUST,
                b'O' => Tag::oldest(7),
                key => Tag::newest(u64::from(key)),
            };
            let marker = || Some(Bytes::from_static(b"gap."));
            let Ok(more) = outbox.push_tagged(frame(text), tag, limit, marker) else {
                assert_eq!(expected, "full");
                return;
            };
            dropped += more.conflated + more.oldest;
        }
        let (total, mut left) = (outbox.pending_bytes(), 0);
        let mut waiting = Vec::new();
        while let Some(frame) = outbox.pop() {
            left += frame.len();
            waiting.push(String::from_utf8_lossy(&frame).trim_end_matches('.').to_owned());
        }
        assert_eq!(waiting.join(" "), expected, "{pushed:?}");
        assert_eq!(total, left, "{pushed:?}");
        let markers = usize::from(expected.contains("gap"));
        // A marker that is dropped again, for a newer one, counts too.
        assert!(dropped + waiting.len() >= pushed.len() + markers, "{pushed:?}");
        assert!(outbox.tags.is_none());
    }

    #[test]
    fn only_the_newest_of_each_key_waits_for_a_slow_peer() {
        // Up to 16 KiB all wait.
        check_tagged(&["a1", "a2", "b1", "a3"], "a1 a2 b1 a3");
        check_tagged(&["a1", "a2", "b1", "a3", "a4"], "a1 b1 a4");
        check_tagged(&["a1", "!1", "a2", "!2", "a3"], "a1 !1 !2 a3");
        // Not again before it has doubled.
        check_tagged(&["a1", "a2", "b1", "a3", "a4", "a5"], "a1 b1 a4 a5");
        let many: Vec<String> = (0..500)
            .map(|n| format!("{}{n}", if n % 2 == 0 { "a" } else { "b" }))
            .collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        check_tagged(&many, "a0 b495 a496 b497 a498 b499");
        // Keys that are all different do not fit.
        check_tagged(&["a1", "b1", "c1", "d1", "e1", "f1", "g1", "h1", "i1"], "full");
    }

    #[test]
    fn the_oldest_of_a_channel_go_and_it_is_said_where() {
        check_tagged(
            &["O1", "O2", "O3", "O4", "O5", "O6", "O7", "O8"],
            "O1 O2 O3 O4 O5 O6 O7 O8",
        );
        // The first may be half out; a quarter of the limit goes at once.
        check_tagged(
            &["O1", "O2", "O3", "O4", "O5", "O6", "O7", "O8", "O9"],
            "O1 gap O5 O6 O7 O8 O9",
        );
        check_tagged(
            &["O1", "!1", "O2", "!2", "O3", "!3", "O4", "O5", "O6"],
            "O1 !1 gap !2 !3 O5 O6",
        );
        check_tagged(&["!1", "!2", "!3", "!4", "!5", "!6", "!7", "!8", "O1"], "full");
        check_tagged(
            &["O1", "O2", "O3", "O4", "O5", "O6", "O7", "O8", "O9", "Oa", "Ob"],
            "O1 gap O7 O8 O9 Oa Ob",
        );
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// Bytes, and which tag.
        Push(usize, u8),
        /// How much the socket takes, call by call.
        Flush(Vec<usize>),
        KeepOnlyStarted,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            12 => (0_usize..9_000, 0_u8..6).prop_map(|(len, tag)| Step::Push(len, tag)),
            3 => prop::collection::vec(1_usize..20_000, 0..4).prop_map(Step::Flush),
            1 => Just(Step::KeepOnlyStarted),
        ];
        prop::collection::vec(step, 1..80)
    }

    proptest! {
        #[test]
        fn what_is_counted_is_what_waits(steps in steps()) {
            const LIMIT: usize = 60_000;
            let marker = Bytes::from_static(b"gap");
            let mut outbox = Outbox::default();
            for step in steps {
                match step {
                    Step::Push(len, tag) => {
                        let frame = Bytes::from(vec![b'x'; len]);
                        let fits = outbox.pending_bytes() + len <= LIMIT;
                        let pushed = match tag {
                            0 => outbox.push(frame, LIMIT).is_ok(),
                            1 => outbox.push_tagged(frame, Tag::MUST, LIMIT, || None).is_ok(),
                            2 => outbox.push_tagged(frame, Tag::oldest(7), LIMIT, || Some(marker.clone())).is_ok(),
                            key => outbox.push_tagged(frame, Tag::newest(key.into()), LIMIT, || None).is_ok(),
                        };
                        // Only where oldest ones may go is there room for more.
                        prop_assert!(pushed == fits || (pushed && tag == 2));
                    }
                    Step::Flush(counts) => {
                        let mut socket = Takes { counts, got: vec![], calls: 0 };
                        let before = outbox.pending_bytes();
                        let flushed = outbox.flush(&mut socket).unwrap();
                        prop_assert_eq!(before - outbox.pending_bytes(), socket.got.len());
                        prop_assert_eq!(flushed == Flushed::All, outbox.is_empty());
                    }
                    Step::KeepOnlyStarted => outbox.keep_only_started(),
                }
                let rest: usize = outbox.rest.iter().map(Bytes::len).sum();
                prop_assert_eq!(outbox.pending_bytes(), outbox.front.len() - outbox.front_written + rest);
                prop_assert!(outbox.pending_bytes() <= LIMIT + marker.len());
                prop_assert_eq!(outbox.is_empty(), outbox.pending_bytes() == 0);
                if let Some(tags) = &outbox.tags {
                    prop_assert_eq!(tags.of_rest.len(), outbox.rest.len());
                }
            }
        }
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
