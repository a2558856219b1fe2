//! WebSocket frames (RFC 6455), the server's side.
//!
//! [`Decoder`] turns bytes into [`Event`]s; this file makes the frames that a server sends and
//! the handshake's answer. One extension: permessage-deflate ([`extension`] agrees on it,
//! [`deflate`] does it). No socket, no clock.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sha1::{Digest, Sha1};

mod decode;
pub mod deflate;
pub mod extension;

pub use decode::{DecodeLimits, Decoder, Event, MessageKind, ProtocolError};

/// Longest reason in a close frame, in bytes: 125 of a control frame less the code's two.
pub const CLOSE_REASON_BYTES_MAX: usize = 123;

const FIN: u8 = 0x80;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// A whole message in one frame; the shortest of the three length forms (section 5.2).
fn frame(opcode: u8, payload: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(payload.len() + 10);
    out.push(FIN | opcode);
    match payload.len() {
        len @ 0..=125 => out.push(u8::try_from(len).unwrap_or(0)),
        len => {
            if let Ok(len) = u16::try_from(len) {
                out.push(126);
                out.extend(len.to_be_bytes());
            } else {
                out.push(127);
                out.extend((len as u64).to_be_bytes());
            }
        }
    }
    out.extend_from_slice(payload);
    out.into()
}

/// A text message. The caller vouches for the UTF-8.
pub fn text(payload: &[u8]) -> Bytes {
    frame(TEXT, payload)
}

/// A binary message.
pub fn binary(payload: &[u8]) -> Bytes {
    frame(BINARY, payload)
}

/// A ping; more than 125 bytes would be no control frame and are cut.
pub fn ping(payload: &[u8]) -> Bytes {
    frame(PING, payload.get(..payload.len().min(125)).unwrap_or_default())
}

/// The answer to a ping with this payload.
pub fn pong(payload: &[u8]) -> Bytes {
    frame(PONG, payload.get(..payload.len().min(125)).unwrap_or_default())
}

/// A close frame; the reason is cut between characters to what fits.
pub fn close(code: u16, reason: &str) -> Bytes {
    let end = (0..=reason.len().min(CLOSE_REASON_BYTES_MAX))
        .rev()
        .find(|&end| reason.is_char_boundary(end));
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(reason.as_bytes().get(..end.unwrap_or(0)).unwrap_or_default());
    frame(CLOSE, &payload)
}

/// The answer to a close frame that had no code (section 7.1.5).
pub fn close_without_code() -> Bytes {
    frame(CLOSE, b"")
}

/// `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (section 4.2.2).
pub fn accept_key(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.finalize())
}

/// Whether a `Sec-WebSocket-Key` is the base64 of 16 bytes, as section 4.1 demands.
pub fn is_valid_key(key: &str) -> bool {
    STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(len: usize, head: &[u8]) {
        let frame = binary(&vec![7; len]);
        assert_eq!(frame.get(..head.len()), Some(head));
        assert_eq!(frame.len(), head.len() + len);
    }

    #[test]
    fn the_shortest_length_form_is_used() {
        check(0, &[0x82, 0]);
        check(125, &[0x82, 125]);
        check(126, &[0x82, 126, 0, 126]);
        check(65_535, &[0x82, 126, 0xff, 0xff]);
        check(65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn close_reasons_are_cut_between_characters() {
        assert_eq!(close(1000, "bye"), &b"\x88\x05\x03\xe8bye"[..]);
        assert_eq!(close(1000, &"x".repeat(200)).len(), 127);
        let cut = close(1000, &"ü".repeat(100));
        assert_eq!(cut.len(), 2 + 2 + 122);
        assert!(std::str::from_utf8(&cut[4..]).is_ok());
    }

    /// The example of RFC 6455 section 1.3.
    #[test]
    fn the_handshake_of_the_rfc() {
        assert_eq!(
            accept_key("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        assert!(is_valid_key("dGhlIHNhbXBsZSBub25jZQ=="));
        assert!(!is_valid_key("dGhlIHNhbXBsZSBub25jZQ"));
        assert!(!is_valid_key("c2hvcnQ="));
        assert!(!is_valid_key(""));
    }
}
