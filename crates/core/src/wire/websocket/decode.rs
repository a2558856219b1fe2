//! What a client sends: frames, messages in fragments, control frames between them.
//!
//! | part           | size              | note                                            |
//! |----------------|-------------------|-------------------------------------------------|
//! | flags + opcode | 1 byte            | RSV1 only where permessage-deflate was agreed   |
//! | mask + length  | 1, 3 or 9 bytes   | the mask bit is required (RFC 6455 section 5.1) |
//! | masking key    | 4 bytes           |                                                 |
//!
//! The decoder consumes all it is given and keeps what is unfinished, so a caller reads into one
//! buffer for all connections. While nothing is unfinished it holds no memory: one pointer. What
//! a peer declares is compared with the limits and never allocated; memory grows with what has
//! arrived.
//!
//! Rules are checked in the order the bytes arrive, so a hostile length is refused from the
//! frame's head, and bad text at its first bad byte.
//!
//! # Errors
//!
//! Every [`ProtocolError`] is the peer's fault and ends the connection with its close code.
//! After an error, or a close frame, further input is ignored. "Not enough bytes yet" is no error.

// The input is a slice that moves on; a cursor type of our own would say the same in more words.
#![allow(clippy::mut_mut)]

use bytes::Bytes;
use thiserror::Error;

use super::deflate::{self, InflateLimits, Inflating, RSV1};
use crate::wire::utf8::Utf8Checker;

/// Sizes of what a peer may send.
#[derive(Clone, Copy, Debug)]
pub struct DecodeLimits {
    /// Largest message, in bytes, over all its fragments; of a compressed one, when inflated.
    pub message_bytes_max: usize,
    /// Most fragments of one message.
    pub fragments_max: u32,
    /// Set when permessage-deflate was agreed on: then messages may be compressed.
    pub inflate: Option<InflateLimits>,
}

impl DecodeLimits {
    /// Most payload of a message. Compressed data may be a little longer than what it stands for:
    /// up to nine bits for a byte, and the heads of blocks (RFC 1951 sections 3.2.4 and 3.2.6).
    fn payload_bytes_max(&self, compressed: bool) -> usize {
        let max = self.message_bytes_max;
        if compressed {
            max.saturating_add(max / 8).saturating_add(64)
        } else {
            max
        }
    }
}

/// Text or binary.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MessageKind {
    /// Valid UTF-8.
    Text,
    /// Any bytes.
    Binary,
}

/// What the peer has said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// A whole message, whatever pieces it came in.
    Message {
        /// Text or binary.
        kind: MessageKind,
        /// The unmasked bytes.
        data: Bytes,
    },
    /// To be answered with a pong of the same bytes.
    Ping(Bytes),
    /// A sign of life, with what a ping of ours carried.
    Pong(Bytes),
    /// The peer closes, with code and reason if it gave any.
    Close(Option<(u16, String)>),
}

/// How the peer broke RFC 6455, or a limit.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum ProtocolError {
    /// A reserved bit is set where no agreed extension allows it (section 5.2; RFC 7692 section 6).
    #[error("reserved bits set")]
    ReservedBits,
    /// An opcode that has no meaning (section 5.2).
    #[error("unknown opcode")]
    UnknownOpcode,
    /// A client's frame without a mask (section 5.1).
    #[error("frame not masked")]
    NotMasked,
    /// A length in a longer form than needed, or with its first bit set (section 5.2).
    #[error("bad length encoding")]
    BadLength,
    /// A control frame in fragments or longer than 125 bytes (section 5.5).
    #[error("bad control frame")]
    BadControlFrame,
    /// A continuation of nothing (section 5.4).
    #[error("continuation without a message")]
    LoneContinuation,
    /// A new message inside an unfinished one (section 5.4).
    #[error("message inside an unfinished message")]
    Interleaved,
    /// A close frame with half a code, or a code that must not be sent (section 7.4).
    #[error("bad close code")]
    BadCloseCode,
    /// Text that is not UTF-8 (section 8.1).
    #[error("text is not UTF-8")]
    NotUtf8,
    /// The message exceeds [`DecodeLimits::message_bytes_max`].
    #[error("message too large")]
    TooLarge,
    /// The message exceeds [`DecodeLimits::fragments_max`].
    #[error("too many fragments")]
    TooManyFragments,
    /// What was to be inflated is not DEFLATE (RFC 1951), or ends in the middle.
    #[error("compressed data is broken")]
    BadDeflate,
    /// The message exceeds [`InflateLimits::ratio_max`].
    #[error("compressed message inflates too far")]
    InflatesTooFar,
}

impl ProtocolError {
    /// Code of the close frame (section 7.4.1).
    pub fn close_code(self) -> u16 {
        match self {
            Self::NotUtf8 | Self::BadDeflate => 1007,
            Self::TooManyFragments => 1008,
            Self::TooLarge | Self::InflatesTooFar => 1009,
            _ => 1002,
        }
    }

    /// Reason for the close frame.
    pub fn reason(self) -> &'static str {
        match self {
            Self::ReservedBits => "reserved bits set without an extension that allows it",
            Self::UnknownOpcode => "unknown opcode",
            Self::NotMasked => "client frames must be masked",
            Self::BadLength => "length not in its shortest form",
            Self::BadControlFrame => "control frame fragmented or too long",
            Self::LoneContinuation => "continuation without a message",
            Self::Interleaved => "new message inside an unfinished one",
            Self::BadCloseCode => "close code must not be sent",
            Self::NotUtf8 => "text is not valid UTF-8",
            Self::TooLarge => "message too large",
            Self::TooManyFragments => "too many fragments",
            Self::BadDeflate => "compressed data is not valid DEFLATE",
            Self::InflatesTooFar => "message inflates to too many times its compressed size",
        }
    }
}

const HEAD_BYTES_MAX: usize = 14;
const CONTROL_BYTES_MAX: u64 = 125;

/// See the module's head. One pointer while nothing is unfinished.
#[derive(Debug, Default)]
pub struct Decoder {
    kept: Option<Box<Unfinished>>,
}

#[derive(Debug, Default)]
struct Unfinished {
    /// Bytes of a frame head that was cut.
    head: [u8; HEAD_BYTES_MAX],
    head_len: u8,
    /// The frame whose payload is arriving.
    frame: Option<Frame>,
    /// Payload of the control frame that is arriving.
    control: Vec<u8>,
    /// The message that is arriving, over all fragments so far.
    message: Vec<u8>,
    /// The same, if it is compressed.
    inflating: Option<Box<Inflating>>,
    /// Payload of that message, as declared by its frames so far.
    payload_bytes: usize,
    /// Kind of that message; `None` when none has begun.
    kind: Option<MessageKind>,
    fragments: u32,
    utf8: Utf8Checker,
    /// A close frame was read or an error found: nothing counts any more.
    over: bool,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    fin: bool,
    opcode: Opcode,
    mask: [u8; 4],
    len: usize,
    arrived: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Opcode {
    Continuation,
    Data(MessageKind),
    Close,
    Ping,
    Pong,
}

struct Head {
    fin: bool,
    compressed: bool,
    opcode: Opcode,
    mask: [u8; 4],
    len: u64,
    bytes: usize,
}

impl Decoder {
    /// Reads from the front of `input`, which moves on, until something was said; `None` when
    /// all of `input` is used up. Call it until it returns `None`. `input` is unmasked in place.
    pub fn decode(
        &mut self,
        input: &mut &mut [u8],
        limits: &DecodeLimits,
    ) -> Result<Option<Event>, ProtocolError> {
        if self.kept.is_none()
            && let Some(event) = whole_frame(input, limits)?
        {
            return Ok(Some(event));
        }
        if input.is_empty() {
            return Ok(None);
        }
        let state = self.kept.get_or_insert_default();
        let result = state.step(input, limits);
        match &result {
            Ok(Some(Event::Close(_))) | Err(_) => {
                **state = Unfinished {
                    over: true,
                    ..Unfinished::default()
                };
                *input = &mut [];
            }
            Ok(_) if state.is_idle() => self.kept = None,
            Ok(_) => {}
        }
        result
    }

    /// Whether a frame or message has begun and not ended.
    pub fn is_unfinished(&self) -> bool {
        self.kept.as_ref().is_some_and(|state| !state.over)
    }

    /// Bytes kept for what is unfinished.
    pub fn buffered_bytes(&self) -> usize {
        self.kept.as_ref().map_or(0, |state| {
            let inflating = state.inflating.as_ref();
            state.message.capacity()
                + state.control.capacity()
                + inflating.map_or(0, |inflating| inflating.buffered_bytes())
        })
    }
}

/// The usual case: an unfragmented data frame that is here whole. Nothing is kept for it.
fn whole_frame(input: &mut &mut [u8], limits: &DecodeLimits) -> Result<Option<Event>, ProtocolError> {
    let Some(head) = read_head(input, limits)? else {
        return Ok(None);
    };
    let Opcode::Data(kind) = head.opcode else {
        return Ok(None);
    };
    let len = usize::try_from(head.len).unwrap_or(usize::MAX);
    if len > limits.payload_bytes_max(head.compressed) {
        *input = &mut [];
        return Err(ProtocolError::TooLarge);
    }
    if !head.fin || input.len() - head.bytes < len {
        return Ok(None);
    }
    let (frame, rest) = std::mem::take(input).split_at_mut(head.bytes + len);
    *input = rest;
    let payload = frame.get_mut(head.bytes..).unwrap_or_default();
    unmask(payload, head.mask, 0);
    if head.compressed {
        let inflated = deflate::inflate(payload, kind, limits);
        if inflated.is_err() {
            *input = &mut [];
        }
        return inflated.map(|data| Some(Event::Message { kind, data }));
    }
    if kind == MessageKind::Text && simdutf8::basic::from_utf8(payload).is_err() {
        *input = &mut [];
        return Err(ProtocolError::NotUtf8);
    }
    Ok(Some(Event::Message {
        kind,
        data: Bytes::copy_from_slice(payload),
    }))
}

impl Unfinished {
    fn is_idle(&self) -> bool {
        !self.over && self.frame.is_none() && self.head_len == 0 && self.kind.is_none()
    }

    fn step(&mut self, input: &mut &mut [u8], limits: &DecodeLimits) -> Result<Option<Event>, ProtocolError> {
        while !self.over {
            let Some(frame) = self.frame else {
                if input.is_empty() || !self.take_head(input, limits)? {
                    return Ok(None);
                }
                continue;
            };
            let take = (frame.len - frame.arrived).min(input.len());
            let (bytes, rest) = std::mem::take(input).split_at_mut(take);
            *input = rest;
            unmask(bytes, frame.mask, frame.arrived);
            let control = matches!(frame.opcode, Opcode::Close | Opcode::Ping | Opcode::Pong);
            if control {
                self.control.extend_from_slice(bytes);
            } else if let Some(inflating) = &mut self.inflating {
                inflating.feed(bytes, limits)?;
            } else {
                if self.kind == Some(MessageKind::Text) {
                    self.utf8.feed(bytes).map_err(|_| ProtocolError::NotUtf8)?;
                }
                self.message.extend_from_slice(bytes);
            }
            let arrived = frame.arrived + take;
            if arrived < frame.len {
                self.frame = Some(Frame { arrived, ..frame });
                return Ok(None);
            }
            self.frame = None;
            if control {
                let payload = std::mem::take(&mut self.control);
                return control_event(frame.opcode, payload).map(Some);
            }
            if frame.fin {
                return self.finish_message(limits).map(Some);
            }
        }
        *input = &mut [];
        Ok(None)
    }

    /// Completes the head of the next frame from `input`. `false`: it is still cut.
    fn take_head(&mut self, input: &mut &mut [u8], limits: &DecodeLimits) -> Result<bool, ProtocolError> {
        let kept = usize::from(self.head_len);
        let mut bytes = self.head;
        let mut len = kept;
        for (place, byte) in bytes.iter_mut().skip(kept).zip(input.iter()) {
            *place = *byte;
            len += 1;
        }
        let head = read_head(bytes.get(..len).unwrap_or_default(), limits)?;
        let used = head.as_ref().map_or(len, |head| head.bytes);
        *input = std::mem::take(input).get_mut(used - kept..).unwrap_or_default();
        let Some(head) = head else {
            self.head = bytes;
            self.head_len = u8::try_from(len).unwrap_or(0);
            return Ok(false);
        };
        self.head_len = 0;
        let len = usize::try_from(head.len).map_err(|_| ProtocolError::TooLarge)?;
        match head.opcode {
            Opcode::Data(_) if self.kind.is_some() => return Err(ProtocolError::Interleaved),
            Opcode::Continuation if self.kind.is_none() => return Err(ProtocolError::LoneContinuation),
            Opcode::Data(kind) => {
                self.kind = Some(kind);
                self.fragments = 1;
                self.utf8 = Utf8Checker::default();
                self.payload_bytes = 0;
                self.inflating = head.compressed.then(|| Box::new(Inflating::new(kind)));
            }
            Opcode::Continuation => self.fragments = self.fragments.saturating_add(1),
            Opcode::Close | Opcode::Ping | Opcode::Pong => {}
        }
        if matches!(head.opcode, Opcode::Data(_) | Opcode::Continuation) {
            self.payload_bytes = self.payload_bytes.saturating_add(len);
            if self.payload_bytes > limits.payload_bytes_max(self.inflating.is_some()) {
                return Err(ProtocolError::TooLarge);
            }
            if self.fragments > limits.fragments_max {
                return Err(ProtocolError::TooManyFragments);
            }
        }
        self.frame = Some(Frame {
            fin: head.fin,
            opcode: head.opcode,
            mask: head.mask,
            len,
            arrived: 0,
        });
        Ok(true)
    }

    fn finish_message(&mut self, limits: &DecodeLimits) -> Result<Event, ProtocolError> {
        let kind = self.kind.take().unwrap_or(MessageKind::Binary);
        if let Some(inflating) = self.inflating.take() {
            let data = inflating.finish(limits)?;
            return Ok(Event::Message { kind, data });
        }
        if kind == MessageKind::Text {
            self.utf8.finish().map_err(|_| ProtocolError::NotUtf8)?;
        }
        Ok(Event::Message {
            kind,
            data: std::mem::take(&mut self.message).into(),
        })
    }
}

/// Decodes the frame head at the start of `input`, or `None` when `input` ends inside it.
fn read_head(input: &[u8], limits: &DecodeLimits) -> Result<Option<Head>, ProtocolError> {
    let Some(&first) = input.first() else {
        return Ok(None);
    };
    // RFC 7692 section 6: RSV1 stands on the first frame of a message, and only there.
    let compressed = first & RSV1 != 0;
    let may_be_compressed = limits.inflate.is_some() && matches!(first & 0x0f, 0x1 | 0x2);
    if first & 0x30 != 0 || (compressed && !may_be_compressed) {
        return Err(ProtocolError::ReservedBits);
    }
    let opcode = match first & 0x0f {
        0x0 => Opcode::Continuation,
        0x1 => Opcode::Data(MessageKind::Text),
        0x2 => Opcode::Data(MessageKind::Binary),
        0x8 => Opcode::Close,
        0x9 => Opcode::Ping,
        0xa => Opcode::Pong,
        _ => return Err(ProtocolError::UnknownOpcode),
    };
    let fin = first & 0x80 != 0;
    let is_control = first & 0x08 != 0;
    if is_control && !fin {
        return Err(ProtocolError::BadControlFrame);
    }
    let Some(&second) = input.get(1) else {
        return Ok(None);
    };
    if second & 0x80 == 0 {
        return Err(ProtocolError::NotMasked);
    }
    let (len, len_end) = match second & 0x7f {
        126 => match input.get(2..4) {
            Some(&[a, b]) => (u64::from(u16::from_be_bytes([a, b])), 4),
            _ if is_control => return Err(ProtocolError::BadControlFrame),
            _ => return Ok(None),
        },
        127 => match input.get(2..10).and_then(|bytes| bytes.try_into().ok()) {
            Some(bytes) => (u64::from_be_bytes(bytes), 10),
            None if is_control => return Err(ProtocolError::BadControlFrame),
            None => return Ok(None),
        },
        short => (u64::from(short), 2),
    };
    if is_control && len > CONTROL_BYTES_MAX {
        return Err(ProtocolError::BadControlFrame);
    }
    let shortest = match len_end {
        4 => len >= 126,
        10 => len > u64::from(u16::MAX) && len >> 63 == 0,
        _ => true,
    };
    if !shortest {
        return Err(ProtocolError::BadLength);
    }
    let Some(mask) = input
        .get(len_end..len_end + 4)
        .and_then(|bytes| bytes.try_into().ok())
    else {
        return Ok(None);
    };
    Ok(Some(Head {
        fin,
        compressed,
        opcode,
        mask,
        len,
        bytes: len_end + 4,
    }))
}

fn control_event(opcode: Opcode, payload: Vec<u8>) -> Result<Event, ProtocolError> {
    match opcode {
        Opcode::Ping => Ok(Event::Ping(payload.into())),
        Opcode::Close => match payload.as_slice() {
            [] => Ok(Event::Close(None)),
            [_] => Err(ProtocolError::BadCloseCode),
            [a, b, reason @ ..] => {
                let code = u16::from_be_bytes([*a, *b]);
                if !may_be_sent(code) {
                    return Err(ProtocolError::BadCloseCode);
                }
                let reason = std::str::from_utf8(reason).map_err(|_| ProtocolError::NotUtf8)?;
                Ok(Event::Close(Some((code, reason.to_owned()))))
            }
        },
        Opcode::Pong | Opcode::Continuation | Opcode::Data(_) => Ok(Event::Pong(payload.into())),
    }
}

/// Codes that a peer may put on the wire (section 7.4, and the registry for 1012 to 1014).
fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Section 5.3. `at` is the place of `bytes` in the frame's payload. Eight bytes at a time, which
/// the compiler turns into wider steps.
fn unmask(bytes: &mut [u8], mask: [u8; 4], at: usize) {
    let mut mask = mask;
    mask.rotate_left(at % 4);
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (chunks, tail) = bytes.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
pub(super) mod tests;
