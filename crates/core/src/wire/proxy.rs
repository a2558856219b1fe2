//! The PROXY protocol, version 2, the receiver's side: a proxy that passes bytes on without reading them
//! says in front of them for whom it does so (haproxy's `proxy-protocol.txt`, section 2.2).
//!
//! Whom to believe is not decided here. Version 1, a line of text, is not spoken: it has no end that can
//! be known before it is there. Extensions (TLVs) are passed over.
//!
//! This module keeps nothing: it looks at all bytes that have arrived so far, and refuses what is wrong
//! with the first byte that shows it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;

/// Longest header that is read, in bytes. One with all extensions that are known has less.
pub const HEADER_BYTES_MAX: usize = 1_024;

/// What every header begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family and protocol, length.
const FIXED_BYTES: usize = 16;

/// The header of a proxy that speaks for itself, such as to see whether we are there.
pub const LOCAL: [u8; FIXED_BYTES] = *b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// For whom a connection is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Proxied {
    /// For the proxy itself, or for somebody of whom it cannot say anything.
    Local,
    /// For whoever has this address.
    For(SocketAddr),
}

/// Why a header is refused.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum ProxyError {
    /// What came begins in another way; most often a proxy that is not told to send the header, or to
    /// send it in version 1.
    #[error("no header of the PROXY protocol, version 2")]
    Missing,
    /// A version, command, family or protocol that is not known, or is not TCP.
    #[error("a header of the PROXY protocol with an unknown version, command or address family")]
    Unknown,
    /// The length is less than the addresses need, or more than [`HEADER_BYTES_MAX`].
    #[error("a header of the PROXY protocol with a wrong length")]
    Length,
}

/// Reads a header from the start of `input`: for whom the connection is, and how long the header was.
/// `None` while it is incomplete.
pub fn parse(input: &[u8]) -> Result<Option<(Proxied, usize)>, ProxyError> {
    let signed = input.len().min(SIGNATURE.len());
    if input.get(..signed) != SIGNATURE.get(..signed) {
        return Err(ProxyError::Missing);
    }
    let rest = input.get(SIGNATURE.len()..).unwrap_or_default();
    let is_proxied = match rest.first() {
        None => return Ok(None),
        Some(0x20) => false,
        Some(0x21) => true,
        Some(_) => return Err(ProxyError::Unknown),
    };
    // Whom a proxy speaks for when it does so for itself is not said, whatever else stands there.
    let address_bytes = match rest.get(1) {
        None => return Ok(None),
        Some(_) if !is_proxied => 0,
        Some(0x00) => 0,
        Some(0x11) => 12,
        Some(0x21) => 36,
        Some(_) => return Err(ProxyError::Unknown),
    };
    let Some(&[high, low]) = rest.get(2..4) else {
        return Ok(None);
    };
    let len = FIXED_BYTES.saturating_add(u16::from_be_bytes([high, low]).into());
    if len < FIXED_BYTES + address_bytes || len > HEADER_BYTES_MAX {
        return Err(ProxyError::Length);
    }
    let Some(body) = input.get(FIXED_BYTES..len) else {
        return Ok(None);
    };
    Ok(Some((source(body, address_bytes), len)))
}

/// The first of the addresses, which is that of who connected to the proxy.
fn source(body: &[u8], address_bytes: usize) -> Proxied {
    let port = |at: usize| {
        let bytes = body.get(at..).and_then(|rest| rest.first_chunk());
        u16::from_be_bytes(bytes.copied().unwrap_or_default())
    };
    match address_bytes {
        12 => {
            let ip: [u8; 4] = body.first_chunk().copied().unwrap_or_default();
            Proxied::For((Ipv4Addr::from(ip), port(8)).into())
        }
        36 => {
            let ip: [u8; 16] = body.first_chunk().copied().unwrap_or_default();
            Proxied::For((Ipv6Addr::from(ip), port(32)).into())
        }
        _ => Proxied::Local,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, len: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend(len.to_be_bytes());
        bytes.extend(body);
        bytes
    }

    /// Whatever is cut off, it is incomplete; whatever follows, it is not read.
    #[track_caller]
    fn check(bytes: &[u8], expected: Proxied) {
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes[..cut]), Ok(None), "cut at {cut}");
        }
        assert_eq!(parse(bytes), Ok(Some((expected, bytes.len()))));
        assert_eq!(
            parse(&[bytes, b"GET / HTTP/1.1"].concat()),
            Ok(Some((expected, bytes.len())))
        );
    }

    /// Refused with the byte at `at`, whatever follows, and not before.
    #[track_caller]
    fn check_refused(bytes: &[u8], at: usize, expected: ProxyError) {
        for cut in 0..=at {
            assert_eq!(parse(&bytes[..cut]), Ok(None), "cut at {cut}");
        }
        for cut in at + 1..=bytes.len() {
            assert_eq!(parse(&bytes[..cut]), Err(expected), "cut at {cut}");
        }
    }

    const V4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x1f, 0x90, 0, 80];

    fn v6() -> Vec<u8> {
        let mut body = "2001:db8::7".parse::<Ipv6Addr>().unwrap().octets().to_vec();
        body.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        body.extend([0x1f, 0x90, 0, 80]);
        body
    }

    #[test]
    fn addresses_of_both_families_are_read() {
        check(
            &header(0x21, 0x11, 12, &V4),
            Proxied::For("192.0.2.7:8080".parse().unwrap()),
        );
        check(
            &header(0x21, 0x21, 36, &v6()),
            Proxied::For("[2001:db8::7]:8080".parse().unwrap()),
        );
    }

    #[test]
    fn extensions_are_passed_over() {
        let mut body = V4.to_vec();
        body.extend([0x03, 0, 4, 1, 2, 3, 4, 0x04, 0, 0]);
        check(
            &header(0x21, 0x11, 22, &body),
            Proxied::For("192.0.2.7:8080".parse().unwrap()),
        );
    }

    #[test]
    fn who_speaks_for_himself_names_nobody() {
        check(&LOCAL, Proxied::Local);
        check(&header(0x20, 0x11, 12, &V4), Proxied::Local);
        check(&header(0x20, 0x77, 0, b""), Proxied::Local);
        check(&header(0x21, 0x00, 0, b""), Proxied::Local);
        check(&header(0x21, 0x00, 3, b"abc"), Proxied::Local);
    }

    #[test]
    fn what_is_wrong_is_refused_with_the_byte_that_shows_it() {
        check_refused(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0, ProxyError::Missing);
        check_refused(
            b"PROXY TCP4 192.0.2.7 10.0.0.1 8080 80\r\n",
            0,
            ProxyError::Missing,
        );
        check_refused(b"\r\n\r\n\0\r\nQUIT\r\x21\x11", 11, ProxyError::Missing);
        check_refused(&header(0x11, 0x11, 12, &V4), 12, ProxyError::Unknown);
        check_refused(&header(0x22, 0x11, 12, &V4), 12, ProxyError::Unknown);
        // UDP, and sockets of a file system.
        check_refused(&header(0x21, 0x12, 12, &V4), 13, ProxyError::Unknown);
        check_refused(&header(0x21, 0x31, 216, &[0; 216]), 13, ProxyError::Unknown);
        check_refused(&header(0x21, 0x11, 11, &V4[..11]), 15, ProxyError::Length);
        check_refused(&header(0x21, 0x21, 35, &v6()[..35]), 15, ProxyError::Length);
        check_refused(&header(0x21, 0x11, 0xffff, &V4), 15, ProxyError::Length);
        let most = u16::try_from(HEADER_BYTES_MAX - FIXED_BYTES).unwrap();
        let body = vec![0; most.into()];
        check(
            &header(0x21, 0x11, most, &body),
            Proxied::For("0.0.0.0:0".parse().unwrap()),
        );
        check_refused(&header(0x21, 0x11, most + 1, &body), 15, ProxyError::Length);
    }
}
