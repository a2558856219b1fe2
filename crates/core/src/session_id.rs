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

    /// An id that can be shown as two numbers ([`Self::socket`]), made of one that was drawn at random.
    /// Each has 53 bits, which every language's numbers hold.
    #[must_use]
    pub fn for_socket(self) -> Self {
        let half = |bits: u128| (bits >> 11) & ((1 << 53) - 1);
        Self((half(self.0 >> 64) << 64) | half(self.0 & u128::from(u64::MAX)))
    }

    /// The id as the protocol of Pusher has it: `81923.4471`.
    pub fn socket(self) -> String {
        format!("{}.{}", self.0 >> 64, self.0 & u128::from(u64::MAX))
    }

    /// Reads what [`Self::socket`] writes. Numbers too large for one of ours are nobody's, and become an
    /// id that no session has.
    pub fn parse_socket(text: &str) -> Option<Self> {
        let (high, low) = text.split_once('.')?;
        let number = |digits: &str| {
            let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| digits.parse().unwrap_or(u64::MAX))
        };
        Some(Self((u128::from(number(high)?) << 64) | u128::from(number(low)?)))
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

    #[track_caller]
    fn check_socket(text: &str, expected: Option<&str>) {
        let id = SessionId::parse_socket(text);
        assert_eq!(id.map(SessionId::socket).as_deref(), expected, "{text}");
    }

    #[test]
    fn a_socket_is_two_numbers() {
        check_socket("81923.4471", Some("81923.4471"));
        check_socket("0.0", Some("0.0"));
        check_socket("007.1", Some("7.1"));
        check_socket("99999999999999999999999.1", Some("18446744073709551615.1"));
        for bad in [
            "", ".", "1.", ".1", "1", "1.2.3", "a.1", "+1.1", "-1.1", "1 .1", "1.1\n",
        ] {
            check_socket(bad, None);
        }
        let drawn = SessionId(u128::MAX).for_socket();
        assert_eq!(drawn.socket(), "9007199254740991.9007199254740991");
        assert_eq!(SessionId::parse_socket(&drawn.socket()), Some(drawn));
        assert_eq!(
            SessionId(0x1234_5678_9abc_def0 << 64).for_socket().socket(),
            "640511947003803.0"
        );
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
