//! The bytes of an HTTP/1 connection, held to the rules of [`http1::parse`] from first to last.
//!
//! A shard reads the first head of a connection strictly; all later ones only the HTTP server
//! would see, which lets more pass than we want. So its input goes through a [`Guard`]: that reads
//! each head, follows the body by its length or its chunks, and finds the next head. What always
//! holds:
//!
//! - Bytes pass in order and unchanged, and only when they are known to be good. A head passes
//!   whole or not at all; a body passes as it comes, without being copied.
//! - Nothing passes after the first fault, or after a handshake: what follows that is not HTTP.
//! - How the input is cut makes no difference to what passes and what is refused.
//!
//! The guard keeps no bytes: the caller does, and at most one unfinished head of them. It does not
//! look into bodies, does not know how large one may be, and does not answer.

use super::http1::{self, Framing, HeadError, HeadLimits, Upgrade};

/// Bytes of all chunk extensions of a body. Nobody uses them but those who smuggle.
pub const CHUNK_EXTENSIONS_BYTES_MAX: u16 = 256;

/// Bytes of all trailers of a body. The HTTP server would take 16,384; we use none of them.
pub const TRAILERS_BYTES_MAX: u16 = 4_096;

/// As many digits as a `u64` has.
const CHUNK_SIZE_DIGITS_MAX: u8 = 16;

/// Watches the input of one connection.
#[derive(Clone, Debug)]
pub struct Guard {
    limits: HeadLimits,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Head,
    /// So many bytes of the body are left; never none.
    Length(u64),
    Chunked(Chunked),
    Over(Next),
}

/// What [`Guard::look`] found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Look {
    /// So many bytes from the start may pass.
    pub passed: usize,
    /// What becomes of the others.
    pub next: Next,
}

/// What becomes of the bytes that did not pass.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// They are the beginning of a head, if there are any: show them again together with more.
    More,
    /// The last head that passed asks, rightly or wrongly, that the connection become something
    /// else: a WebSocket, a tunnel. What follows is not HTTP, so it must become that or be closed.
    Handshake,
    /// A head is refused, and the connection must be closed.
    BadHead(HeadError),
    /// A body is refused, and the connection must be closed. Its request has passed.
    BadBody(HeadError),
}

impl Guard {
    /// At the start of a connection.
    pub fn new(limits: HeadLimits) -> Self {
        Self {
            limits,
            stage: Stage::Head,
        }
    }

    /// Whether all that passed were whole requests, and nothing is wrong.
    pub fn is_between_requests(&self) -> bool {
        self.stage == Stage::Head
    }

    /// Looks at what has arrived: the bytes that did not pass last time, and more.
    pub fn look(&mut self, input: &[u8]) -> Look {
        let mut passed = 0;
        loop {
            let rest = input.get(passed..).unwrap_or_default();
            let next = match &mut self.stage {
                Stage::Over(next) => Some(*next),
                _ if rest.is_empty() => Some(Next::More),
                Stage::Head => match http1::parse(rest, &self.limits) {
                    Ok(None) => Some(Next::More),
                    Ok(Some(head)) => {
                        passed += head.len;
                        let upgrades = http1::websocket_upgrade(&head) != Upgrade::No;
                        self.stage = if upgrades || head.method == "CONNECT" {
                            Stage::Over(Next::Handshake)
                        } else {
                            match head.framing {
                                Framing::Empty => Stage::Head,
                                Framing::Length(length) => Stage::Length(length),
                                Framing::Chunked => Stage::Chunked(Chunked::new()),
                            }
                        };
                        None
                    }
                    Err(error) => Some(Next::BadHead(error)),
                },
                Stage::Length(left) => {
                    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    passed += count;
                    *left -= count as u64;
                    if *left == 0 {
                        self.stage = Stage::Head;
                    }
                    None
                }
                Stage::Chunked(chunked) => {
                    let (count, end) = chunked.look(rest, &self.limits);
                    passed += count;
                    match end {
                        Ok(false) => None,
                        Ok(true) => {
                            self.stage = Stage::Head;
                            None
                        }
                        Err(cause) => Some(Next::BadBody(HeadError::Bad(cause))),
                    }
                }
            };
            if let Some(next) = next {
                if next != Next::More {
                    self.stage = Stage::Over(next);
                }
                return Look { passed, next };
            }
        }
    }
}

/// A place in a chunked body (RFC 9112 section 7.1), without the white space around sizes that
/// the grammar puts up with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Chunked {
    at: At,
    /// Of the chunk: what its digits say so far, then what is left of its data.
    size: u64,
    extension_bytes: u16,
    trailer_bytes: u16,
    trailer_fields: u16,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum At {
    /// In the size, after so many digits.
    Size(u8),
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// Where a trailer or the end must begin.
    Line,
    /// In the name of a trailer, which has begun.
    Name,
    Value,
    ValueLf,
    EndLf,
}

impl Chunked {
    fn new() -> Self {
        Self {
            at: At::Size(0),
            size: 0,
            extension_bytes: 0,
            trailer_bytes: 0,
            trailer_fields: 0,
        }
    }

    /// How many bytes are good, and whether the body ends with them.
    fn look(&mut self, input: &[u8], limits: &HeadLimits) -> (usize, Result<bool, &'static str>) {
        let mut passed = 0;
        while let Some(&byte) = input.get(passed) {
            if self.at == At::Data {
                let left = input.len() - passed;
                let count = usize::try_from(self.size).unwrap_or(usize::MAX).min(left);
                passed += count;
                self.size -= count as u64;
                if self.size == 0 {
                    self.at = At::DataCr;
                }
                continue;
            }
            if self.at == At::EndLf && byte == b'\n' {
                return (passed + 1, Ok(true));
            }
            match self.step(byte, limits) {
                Ok(at) => self.at = at,
                Err(cause) => return (passed, Err(cause)),
            }
            passed += 1;
        }
        (passed, Ok(false))
    }

    /// One byte that is not data.
    fn step(&mut self, byte: u8, limits: &HeadLimits) -> Result<At, &'static str> {
        const LINE_END: &str = "lines between chunks must end with CRLF";
        const NO_FIELD: &str = "a trailer is not a field";
        if matches!(self.at, At::Line | At::Name | At::Value | At::ValueLf) {
            self.trailer_bytes += 1;
            if self.trailer_bytes > TRAILERS_BYTES_MAX {
                return Err("the trailers are too large");
            }
        }
        match self.at {
            At::Size(digits) => match byte {
                b'\r' if digits > 0 => Ok(At::SizeLf),
                b';' if digits > 0 => Ok(At::Extension),
                _ if !byte.is_ascii_hexdigit() => Err("the size of a chunk is not a hexadecimal number"),
                _ if digits == CHUNK_SIZE_DIGITS_MAX => Err("the size of a chunk is too large"),
                _ => {
                    let digit = char::from(byte).to_digit(16).unwrap_or(0);
                    self.size = (self.size << 4) | u64::from(digit);
                    Ok(At::Size(digits + 1))
                }
            },
            At::Extension => match byte {
                b'\r' => Ok(At::SizeLf),
                b'\t' | b' '..=b'~' => {
                    self.extension_bytes += 1;
                    if self.extension_bytes > CHUNK_EXTENSIONS_BYTES_MAX {
                        return Err("the chunk extensions are too large");
                    }
                    Ok(At::Extension)
                }
                _ => Err("control character in a chunk extension"),
            },
            At::SizeLf if byte != b'\n' => Err(LINE_END),
            At::SizeLf => Ok(if self.size == 0 { At::Line } else { At::Data }),
            // The caller takes data by itself.
            At::Data => Ok(At::Data),
            At::DataCr if byte == b'\r' => Ok(At::DataLf),
            At::DataLf if byte == b'\n' => Ok(At::Size(0)),
            At::DataCr | At::DataLf => Err("a chunk is longer than its size"),
            At::Line => match byte {
                b'\r' => Ok(At::EndLf),
                _ if is_token(byte) => {
                    self.trailer_fields += 1;
                    if usize::from(self.trailer_fields) > limits.fields_max {
                        return Err("too many trailers");
                    }
                    Ok(At::Name)
                }
                _ => Err(NO_FIELD),
            },
            At::Name => match byte {
                b':' => Ok(At::Value),
                _ if is_token(byte) => Ok(At::Name),
                _ => Err(NO_FIELD),
            },
            At::Value => match byte {
                b'\r' => Ok(At::ValueLf),
                b'\t' | b' '..=b'~' | 0x80.. => Ok(At::Value),
                _ => Err("control character in a trailer"),
            },
            At::ValueLf if byte == b'\n' => Ok(At::Line),
            // The end itself is the caller's.
            At::ValueLf | At::EndLf => Err(LINE_END),
        }
    }
}

/// A character of a name (RFC 9110 section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
#[path = "http1_guard_tests.rs"]
mod tests;
