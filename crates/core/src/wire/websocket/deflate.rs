//! permessage-deflate without context takeover (RFC 7692 section 7.2): a message is compressed by
//! itself, and remembers nothing of the one before.
//!
//! That is what makes it fit for broadcasting: the compressed frame of a publication is the same
//! for everybody, so it is made once and shared like any other wire form ([`compressed`]). It
//! also bounds memory: a compressor holds about 210 KB and an inflater about 48 KB, so each
//! thread keeps one of either for all its connections, and begins anew with every message.
//!
//! Going out: small messages, very large ones, and those that would not shrink stay as they are;
//! then the compressed form *is* the plain frame, the same bytes.
//!
//! Coming in, invariants:
//!
//! * the result is bounded while it grows, by [`DecodeLimits::message_bytes_max`] and by the
//!   ratio to what has arrived ([`InflateLimits`]); text is checked as it comes out;
//! * a message that is here whole passes through the thread's inflater. One that arrives in
//!   pieces gets an inflater of its own, but only when [`HELD_BYTES_MAX`] bytes of it are here,
//!   and only until it ends: what a peer makes us hold stays in proportion to what it sent;
//! * the verdict on a message does not depend on how it was cut.
//!
//! Frames, masks and fragments are the decoder's, not this module's. Who may have compression is
//! decided in the handshake ([`super::extension`]).

use std::cell::RefCell;

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{DecodeLimits, MessageKind, ProtocolError};
use crate::wire::utf8::Utf8Checker;

/// RSV1 of a frame's first byte: the message is compressed (section 7.2).
pub(super) const RSV1: u8 = 0x40;

/// Base-2 logarithm of the window that we compress with. Against the largest, 15, messages of
/// 64 KiB become about two percent larger, and those up to 4 KiB the same; it saves a third of the memory, and
/// suits every client that asks for a window of 4 KiB or more.
pub const WINDOW_BITS: u8 = 12;

/// Messages above this are sent as they are: at the usual level compressing one takes about a
/// millisecond, and everyone on the shard waits meanwhile.
pub const COMPRESSED_BYTES_MAX: usize = 256 << 10;

/// Results up to this size are not judged by their ratio. Whoever holds down a key, or sends an
/// empty drawing, means no harm.
pub const RATIO_FLOOR_BYTES: usize = 16 << 10;

/// Bytes of an unfinished compressed message that are kept as they are, before an inflater is made
/// for it.
pub const HELD_BYTES_MAX: usize = 512;

/// What an inflater holds: the window, and its tables.
const INFLATER_BYTES: usize = 48 << 10;

/// Memory that a thread keeps for results, between messages.
const SCRATCH_BYTES_MAX: usize = 256 << 10;

/// Steps of the input after which the ratio is judged. Fixed places, so that cuts do not matter.
const RATIO_STEP_BYTES: usize = 256;

/// Inflated at a time.
const CHUNK_BYTES: usize = 4 << 10;

/// The end of a flush, which is left out on the wire (section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// The tail, and an empty last block: an inflater that says "end" to these, and to no less, stood
/// between two blocks; else the message was cut short.
const TAIL_AND_END: [u8; 6] = [0, 0, 0xff, 0xff, 0x03, 0];

/// How messages are compressed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DeflateSettings {
    /// Smaller messages are sent as they are, in bytes.
    pub bytes_min: usize,
    /// 1, fastest, to 9, smallest.
    pub level: u8,
}

impl Default for DeflateSettings {
    fn default() -> Self {
        Self {
            bytes_min: 512,
            level: 2,
        }
    }
}

/// Bounds of what is inflated, besides the size of a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct InflateLimits {
    /// Most bytes of a result for each compressed byte, above [`RATIO_FLOOR_BYTES`].
    pub ratio_max: usize,
}

/// What a thread has compressed and inflated.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct DeflateCounts {
    /// Frames compressed; each stands for all listeners of its form.
    pub deflated: usize,
    /// Their payloads before, in bytes.
    pub deflated_from_bytes: usize,
    /// Their payloads after, in bytes.
    pub deflated_to_bytes: usize,
    /// Messages inflated.
    pub inflated: usize,
    /// Their payloads as they arrived, in bytes.
    pub inflated_from_bytes: usize,
    /// The messages, in bytes.
    pub inflated_to_bytes: usize,
    /// Messages refused because they were no DEFLATE.
    pub refused_data: usize,
    /// Messages refused because they became too large.
    pub refused_size: usize,
    /// Messages refused for their ratio.
    pub refused_ratio: usize,
}

thread_local! {
    static BENCH: RefCell<Bench> = RefCell::default();
}

/// What the connections of a thread share: one compressor, one inflater, made when first needed.
#[derive(Default)]
struct Bench {
    settings: DeflateSettings,
    compressor: Option<Compress>,
    inflater: Option<Inflater>,
    scratch: Vec<u8>,
    counts: DeflateCounts,
}

/// Says how this thread compresses; without it, by the defaults. Whoever starts a shard calls it
/// there.
pub fn prepare_thread(settings: DeflateSettings) {
    BENCH.with_borrow_mut(|bench| {
        bench.settings = settings;
        bench.compressor = None;
    });
}

/// What this thread has done since this was last called.
pub fn take_counts() -> DeflateCounts {
    BENCH.with_borrow_mut(|bench| std::mem::take(&mut bench.counts))
}

/// The compressed frame for a whole plain one of ours. The same bytes when compressing is not
/// worth it: below the threshold, above [`COMPRESSED_BYTES_MAX`], or when it would not shrink.
pub fn compressed(plain: &Bytes) -> Bytes {
    let made = whole_frame(plain).and_then(|(opcode, payload)| {
        let body = BENCH.with_borrow_mut(|bench| bench.deflate(payload))?;
        Some(super::frame(RSV1 | opcode, &body))
    });
    made.unwrap_or_else(|| plain.clone())
}

/// Opcode and payload of a whole data frame that this server has made.
fn whole_frame(frame: &[u8]) -> Option<(u8, &[u8])> {
    let (first, second) = (*frame.first()?, *frame.get(1)?);
    let head = match second {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    Some((first & 0x0f, frame.get(head..)?))
}

/// More than a message of this length can become, whatever the window: zlib's `deflateBound`, and
/// the end of a flush.
fn compressed_bytes_max(len: usize) -> usize {
    len + len.div_ceil(8) + len.div_ceil(64) + 32
}

impl Bench {
    /// The payload of a compressed frame; `None` when it is not worth it.
    fn deflate(&mut self, payload: &[u8]) -> Option<Vec<u8>> {
        if payload.len() < self.settings.bytes_min || payload.len() > COMPRESSED_BYTES_MAX {
            return None;
        }
        let level = Compression::new(u32::from(self.settings.level));
        let mut compressor = self
            .compressor
            .take()
            .unwrap_or_else(|| Compress::new_with_window_bits(level, false, WINDOW_BITS));
        // Room for all that can come out. A compressor of zlib-rs 0.6.8 that is reset before all of it
        // was taken keeps a hole in its buffer, and panics when the holes have filled it: so one that
        // has not come to the end is never used again.
        let capacity = compressed_bytes_max(payload.len());
        let mut out = Vec::with_capacity(capacity);
        compressor
            .compress_vec(payload, &mut out, FlushCompress::Sync)
            .ok()?;
        if compressor.total_in() != payload.len() as u64 || out.len() >= capacity || !out.ends_with(&TAIL) {
            return None;
        }
        compressor.reset();
        self.compressor = Some(compressor);
        out.truncate(out.len() - TAIL.len());
        if out.len() >= payload.len() {
            return None;
        }
        self.counts.deflated += 1;
        self.counts.deflated_from_bytes += payload.len();
        self.counts.deflated_to_bytes += out.len();
        Some(out)
    }

    fn inflate(
        &mut self,
        payload: &[u8],
        kind: MessageKind,
        limits: &DecodeLimits,
    ) -> Result<Bytes, ProtocolError> {
        let inflater = self.inflater.get_or_insert_with(Inflater::new);
        inflater.reset();
        let mut out = Inflated::new(kind, std::mem::take(&mut self.scratch));
        let result = inflater
            .feed(payload, &mut out, limits)
            .and_then(|()| inflater.finish(&mut out, limits))
            .map(|()| Bytes::copy_from_slice(&out.bytes));
        out.bytes.clear();
        out.bytes.shrink_to(SCRATCH_BYTES_MAX);
        self.scratch = out.bytes;
        self.counts
            .inflated(payload.len(), result.as_ref().map(Bytes::len));
        result
    }
}

impl DeflateCounts {
    fn inflated(&mut self, from_bytes: usize, result: Result<usize, &ProtocolError>) {
        match result {
            Ok(to_bytes) => {
                self.inflated += 1;
                self.inflated_from_bytes += from_bytes;
                self.inflated_to_bytes += to_bytes;
            }
            Err(ProtocolError::TooLarge) => self.refused_size += 1,
            Err(ProtocolError::InflatesTooFar) => self.refused_ratio += 1,
            Err(ProtocolError::BadDeflate) => self.refused_data += 1,
            Err(_) => {}
        }
    }
}

/// Inflates the payload of a message that is here whole.
pub(super) fn inflate(
    payload: &[u8],
    kind: MessageKind,
    limits: &DecodeLimits,
) -> Result<Bytes, ProtocolError> {
    BENCH.with_borrow_mut(|bench| bench.inflate(payload, kind, limits))
}

/// A compressed message that arrives in pieces.
#[derive(Debug)]
pub(super) struct Inflating {
    kind: MessageKind,
    arrived_bytes: usize,
    /// What has arrived, while that is little.
    held: Vec<u8>,
    begun: Option<(Inflater, Inflated)>,
}

impl Inflating {
    pub(super) fn new(kind: MessageKind) -> Self {
        Self {
            kind,
            arrived_bytes: 0,
            held: Vec::new(),
            begun: None,
        }
    }

    /// More of the message's payload has arrived, unmasked.
    pub(super) fn feed(&mut self, bytes: &[u8], limits: &DecodeLimits) -> Result<(), ProtocolError> {
        self.arrived_bytes += bytes.len();
        if self.begun.is_none() && self.arrived_bytes <= HELD_BYTES_MAX {
            self.held.extend_from_slice(bytes);
            return Ok(());
        }
        let kind = self.kind;
        let (inflater, out) = self
            .begun
            .get_or_insert_with(|| (Inflater::new(), Inflated::new(kind, Vec::new())));
        let held = std::mem::take(&mut self.held);
        let result = inflater
            .feed(&held, out, limits)
            .and_then(|()| inflater.feed(bytes, out, limits));
        if let Err(error) = &result {
            count(self.arrived_bytes, Err(error));
        }
        result
    }

    /// The message is complete.
    pub(super) fn finish(mut self, limits: &DecodeLimits) -> Result<Bytes, ProtocolError> {
        let Some((mut inflater, mut out)) = self.begun.take() else {
            return inflate(&self.held, self.kind, limits);
        };
        let result = inflater.finish(&mut out, limits);
        count(self.arrived_bytes, result.as_ref().map(|()| out.bytes.len()));
        result.map(|()| out.bytes.into())
    }

    /// Bytes kept for the message.
    pub(super) fn buffered_bytes(&self) -> usize {
        let begun = self.begun.as_ref();
        self.held.capacity() + begun.map_or(0, |(_, out)| INFLATER_BYTES + out.bytes.capacity())
    }
}

fn count(from_bytes: usize, result: Result<usize, &ProtocolError>) {
    BENCH.with_borrow_mut(|bench| bench.counts.inflated(from_bytes, result));
}

/// What came out so far, checked as it grows.
#[derive(Debug)]
struct Inflated {
    bytes: Vec<u8>,
    /// For text.
    utf8: Option<Utf8Checker>,
}

impl Inflated {
    fn new(kind: MessageKind, bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            utf8: (kind == MessageKind::Text).then(Utf8Checker::default),
        }
    }

    /// Takes the next piece. Of several faults in it the first counts, as if it had come byte by
    /// byte.
    fn push(&mut self, piece: &[u8], bytes_max: usize) -> Result<(), ProtocolError> {
        let room = bytes_max.saturating_sub(self.bytes.len());
        let (fits, beyond) = piece.split_at(room.min(piece.len()));
        if let Some(utf8) = &mut self.utf8 {
            utf8.feed(fits).map_err(|_| ProtocolError::NotUtf8)?;
        }
        if !beyond.is_empty() {
            return Err(ProtocolError::TooLarge);
        }
        self.bytes.extend_from_slice(fits);
        Ok(())
    }
}

#[derive(Debug)]
struct Inflater {
    stream: Decompress,
    /// Compressed bytes of this message.
    taken: usize,
}

impl Inflater {
    fn new() -> Self {
        Self {
            stream: Decompress::new(false),
            taken: 0,
        }
    }

    fn reset(&mut self) {
        self.stream.reset(false);
        self.taken = 0;
    }

    fn feed(
        &mut self,
        mut input: &[u8],
        out: &mut Inflated,
        limits: &DecodeLimits,
    ) -> Result<(), ProtocolError> {
        while !input.is_empty() {
            let step = RATIO_STEP_BYTES - self.taken % RATIO_STEP_BYTES;
            let (piece, rest) = input.split_at(step.min(input.len()));
            input = rest;
            self.taken += piece.len();
            self.inflate(piece, out, limits)?;
            if self.taken.is_multiple_of(RATIO_STEP_BYTES) {
                self.check_ratio(out, limits)?;
            }
        }
        Ok(())
    }

    fn inflate(
        &mut self,
        mut piece: &[u8],
        out: &mut Inflated,
        limits: &DecodeLimits,
    ) -> Result<(), ProtocolError> {
        let mut chunk = [0; CHUNK_BYTES];
        loop {
            let (taken, made) = (self.stream.total_in(), self.stream.total_out());
            let status = self.stream.decompress(piece, &mut chunk, FlushDecompress::Sync);
            let taken = usize::try_from(self.stream.total_in() - taken).unwrap_or(0);
            let made = usize::try_from(self.stream.total_out() - made).unwrap_or(0);
            piece = piece.get(taken..).unwrap_or_default();
            out.push(chunk.get(..made).unwrap_or_default(), limits.message_bytes_max)?;
            match status {
                Err(_) => return Err(ProtocolError::BadDeflate),
                // A block with BFINAL: what follows begins at the next byte, with an empty window
                // (section 7.2.1; section 7.2.3.4 has an example).
                Ok(Status::StreamEnd) => {
                    self.stream.reset(false);
                    if piece.is_empty() {
                        return Ok(());
                    }
                }
                // There may be more where that came from.
                Ok(_) if made == chunk.len() => {}
                Ok(_) if piece.is_empty() => return Ok(()),
                Ok(_) if taken == 0 && made == 0 => return Err(ProtocolError::BadDeflate),
                Ok(_) => {}
            }
        }
    }

    fn check_ratio(&self, out: &Inflated, limits: &DecodeLimits) -> Result<(), ProtocolError> {
        let ratio_max = limits.inflate.map_or(usize::MAX, |inflate| inflate.ratio_max);
        if out.bytes.len() > RATIO_FLOOR_BYTES.max(self.taken.saturating_mul(ratio_max)) {
            return Err(ProtocolError::InflatesTooFar);
        }
        Ok(())
    }

    /// The payload ends here: puts back the tail that the sender left out (section 7.2.2).
    fn finish(&mut self, out: &mut Inflated, limits: &DecodeLimits) -> Result<(), ProtocolError> {
        // Section 7.2.3.6 wants at least one byte, of which nothing depends; some send none.
        if self.taken > 0 {
            let (taken, made) = (self.stream.total_in(), self.stream.total_out());
            let status = self
                .stream
                .decompress(&TAIL_AND_END, &mut [0], FlushDecompress::Sync);
            let is_end = matches!(status, Ok(Status::StreamEnd))
                && self.stream.total_in() - taken == TAIL_AND_END.len() as u64
                && self.stream.total_out() == made;
            if !is_end {
                return Err(ProtocolError::BadDeflate);
            }
        }
        self.check_ratio(out, limits)?;
        match &out.utf8 {
            Some(utf8) => utf8.finish().map_err(|_| ProtocolError::NotUtf8),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "deflate_tests.rs"]
mod tests;
