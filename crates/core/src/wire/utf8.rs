//! UTF-8, checked as it arrives.
//!
//! A text message may come in pieces that cut characters in two. The checker keeps the at most
//! three bytes of an unfinished character and fails at the first byte that can no longer be part
//! of valid text, so a bad message is refused before the rest of it was read (RFC 6455 section
//! 8.1; the Autobahn cases 6.4 want exactly this).

use thiserror::Error;

/// The bytes are not UTF-8.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("not valid UTF-8")]
pub struct InvalidUtf8;

/// See the module's head.
#[derive(Clone, Debug, Default)]
pub struct Utf8Checker {
    carry: [u8; 4],
    carried: u8,
}

impl Utf8Checker {
    /// Takes the next bytes of the text.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), InvalidUtf8> {
        while self.carried > 0 {
            let Some((&next, rest)) = bytes.split_first() else {
                return Ok(());
            };
            bytes = rest;
            let filled = usize::from(self.carried) + 1;
            if let Some(place) = self.carry.get_mut(usize::from(self.carried)) {
                *place = next;
            }
            match std::str::from_utf8(self.carry.get(..filled).unwrap_or_default()) {
                Ok(_) => self.carried = 0,
                Err(error) if error.error_len().is_none() => self.carried += 1,
                Err(_) => return Err(InvalidUtf8),
            }
        }
        if simdutf8::basic::from_utf8(bytes).is_ok() {
            return Ok(());
        }
        // Either wrong, or only cut: the slower check knows which.
        match std::str::from_utf8(bytes) {
            Ok(_) => Ok(()),
            Err(error) if error.error_len().is_none() => {
                let tail = bytes.get(error.valid_up_to()..).unwrap_or_default();
                for (place, byte) in self.carry.iter_mut().zip(tail) {
                    *place = *byte;
                    self.carried += 1;
                }
                Ok(())
            }
            Err(_) => Err(InvalidUtf8),
        }
    }

    /// The text ends here.
    pub fn finish(&self) -> Result<(), InvalidUtf8> {
        if self.carried == 0 {
            Ok(())
        } else {
            Err(InvalidUtf8)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Fed byte by byte, the text fails at byte `fails_at`; `None`: it is valid to the end.
    #[track_caller]
    fn check(bytes: &[u8], fails_at: Option<usize>) {
        let mut checker = Utf8Checker::default();
        let failed = bytes.iter().position(|byte| checker.feed(&[*byte]).is_err());
        let failed = failed.or_else(|| checker.finish().is_err().then_some(bytes.len()));
        assert_eq!(failed, fails_at, "{bytes:02x?}");
    }

    #[test]
    fn fails_at_the_first_impossible_byte() {
        check(b"", None);
        check("κόσμε 😀".as_bytes(), None);
        check(b"a\xffb", Some(1));
        check(b"a\xc3", Some(2));
        check(b"\xc3(", Some(1));
        check(b"\xc0\x80", Some(0));
        check(b"\xe0\x80\x80", Some(1));
        check(b"\xed\xa0\x80", Some(1));
        check(b"\xf4\x8f\xbf\xbf", None);
        check(b"\xf4\x90\x80\x80", Some(1));
        check(b"\xf8\x88\x80\x80", Some(0));
        check(b"\x80", Some(0));
    }

    proptest! {
        #[test]
        fn any_cutting_gives_the_answer_of_the_whole(bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0xe2), Just(0x82), Just(0xac), Just(b'a')], 0..40), cut in 0_usize..40) {
            let cut = cut.min(bytes.len());
            let mut checker = Utf8Checker::default();
            let got = checker.feed(&bytes[..cut]).and_then(|()| checker.feed(&bytes[cut..])).and_then(|()| checker.finish());
            prop_assert_eq!(got.is_ok(), std::str::from_utf8(&bytes).is_ok());
        }
    }
}
