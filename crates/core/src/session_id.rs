//! The name of a session: who shall not hear what it said itself.

use std::fmt;

/// Names a session, for logs and for excluding it from what it said itself.
///
/// Drawn at random by the server, so that it cannot be guessed; shown as 22 letters and digits.
// Aligned like other numbers: every kept entry may have one, and would be rounded up to 16 bytes.
#[repr(C, packed(8))]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct SessionId(pub u128);

impl SessionId {
    /// Reads an id that a listener gives itself, to be the same over all its connections: 32
    /// hexadecimal digits, hyphens between them as in a UUID. It should be random: who knows it can
    /// make this listener not hear something.
    pub fn parse(text: &str) -> Option<Self> {
        let mut digits = 0;
        let mut number: u128 = 0;
        for c in text.chars().filter(|&c| c != '-') {
            number = number.checked_mul(16)? | u128::from(c.to_digit(16)?);
            digits += 1;
        }
        (digits == 32 && text.len() <= 36).then_some(Self(number))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let mut text = [b'0'; 22];
        let mut rest = self.0;
        for digit in text.iter_mut().rev() {
            *digit = DIGITS[usize::try_from(rest % 62).unwrap_or(0)];
            rest /= 62;
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<u128>) {
        assert_eq!(SessionId::parse(text), expected.map(SessionId), "{text}");
    }

    #[test]
    fn a_listener_names_itself_by_32_digits() {
        check("00000000000000000000000000000000", Some(0));
        check(
            "0123456789abcdef0123456789ABCDEF",
            Some(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
        );
        check("ffffffff-ffff-ffff-ffff-ffffffffffff", Some(u128::MAX));
        check("", None);
        check("1", None);
        check("0000000000000000000000000000000", None);
        check("000000000000000000000000000000000", None);
        check("0000000000000000000000000000000g", None);
        check("0-0-0-0-00000000-0000-0000-0000-000000000000", None);
    }
}
