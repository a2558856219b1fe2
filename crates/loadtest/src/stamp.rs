//! The mark that every published message begins with, and that subscribers look for.
//!
//! 32 ASCII bytes, `#pppp.ssssssss.nnnnnnnnnnnnnnnn#` in hexadecimal: which publisher, which of its
//! publications to this channel, and when it was due, in nanoseconds since the run began. No
//! character of it is changed by JSON, event streams or WebSockets, so it is found again in
//! whatever a server wraps around a message.

/// Length of a stamp.
pub const STAMP_BYTES: usize = 32;

/// See the module's head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stamp {
    /// Which publisher, over all groups of a scenario.
    pub publisher: u16,
    /// Counts this publisher's publications to the channel, from 0.
    pub sequence: u32,
    /// When it was due: in an open loop that is not when it was sent.
    pub nanos: u64,
}

impl Stamp {
    /// A message of `len` bytes (at least [`STAMP_BYTES`]) that begins with this stamp.
    pub fn message(&self, len: usize) -> Vec<u8> {
        let mut message = format!(
            "#{:04x}.{:08x}.{:016x}#",
            self.publisher, self.sequence, self.nanos
        )
        .into_bytes();
        message.resize(len.max(STAMP_BYTES), b'.');
        message
    }

    /// The first stamp in `text`.
    pub fn find(text: &[u8]) -> Option<Self> {
        memchr::memchr_iter(b'#', text).find_map(|start| {
            let stamp = text.get(start..start + STAMP_BYTES)?;
            let whole = stamp[5] == b'.' && stamp[14] == b'.' && stamp[31] == b'#';
            if !whole {
                return None;
            }
            Some(Self {
                publisher: u16::try_from(number(&stamp[1..5])?).ok()?,
                sequence: u32::try_from(number(&stamp[6..14])?).ok()?,
                nanos: number(&stamp[15..31])?,
            })
        })
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |sum: u64, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(sum << 4 | u64::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(u16, u32, u64)>) {
        let found = Stamp::find(text.as_bytes()).map(|stamp| (stamp.publisher, stamp.sequence, stamp.nanos));
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn stamps_are_found_in_whatever_surrounds_them() {
        check("#0001.00000002.00000000000000ff#", Some((1, 2, 255)));
        check(
            "data: {\"d\":\"#000f.0000000a.0000000000000000#....\"}",
            Some((15, 10, 0)),
        );
        check("## #0001.00000002.00000000000000ff#", Some((1, 2, 255)));
        check("#0001.00000002.00000000000000f#", None);
        check("#000g.00000002.00000000000000ff#", None);
        check("", None);
    }

    #[test]
    fn messages_have_the_asked_size() {
        let stamp = Stamp {
            publisher: 65_535,
            sequence: u32::MAX,
            nanos: u64::MAX,
        };
        for len in [0, STAMP_BYTES, 100] {
            let message = stamp.message(len);
            assert_eq!(message.len(), len.max(STAMP_BYTES));
            assert_eq!(Stamp::find(&message), Some(stamp));
        }
    }
}
