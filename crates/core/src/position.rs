//! Places in the order of an app.
//!
//! Offsets rise with every publication of an app, over all its channels, and are opaque to
//! clients. Within one channel they have holes, so "is this the next one?" cannot be answered
//! by adding 1: each publication carries, for each of its channels, the offset that came before
//! it there ([`Link`]), and [`Position::arrival`] compares. Nothing outside an engine may
//! calculate with an offset (design section 5).
//!
//! The text form of a place, `6f2k-42`, is what clients see as a message's id: the epoch in
//! base 36, a hyphen, the offset in decimal. It is short and holds no `:`, so that as
//! `Last-Event-ID` it never costs a CORS preflight (`plain.md` section 2).

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use thiserror::Error;

/// Place of a publication in the order of its app: rises with every publication, over all
/// channels, so it has holes within one channel and says nothing about what is next.
///
/// Not a byte count and not a time. "Nothing seen yet" is `Option<Offset>::None`, which costs
/// no extra space and sorts below every offset.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Offset(NonZeroU64);

impl Offset {
    /// The offset of an app's first publication.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// The offset with this number; `None` for 0.
    pub fn new(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }

    /// The number, for wire forms and logs.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

/// Identity of one life of an app's order. An order that was lost and began again has another
/// epoch, so offsets of different epochs must never be compared.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Epoch(pub u64);

/// How a publication is tied to the one before it in the same channel. The engine fills it in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Link {
    /// The life of the order that both offsets belong to.
    pub epoch: Epoch,
    /// The offset before this one in the channel, or an upper bound of it when the engine no
    /// longer knows: then a returning subscriber may be told of a gap that is none, but never
    /// the reverse.
    pub previous: Option<Offset>,
    /// The publication's own place.
    pub offset: Offset,
}

/// The last thing a subscriber is known to have seen of a channel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Position {
    /// The life of the order that the offset belongs to.
    pub epoch: Epoch,
    /// `None`: the subscriber was there before the first publication.
    pub offset: Option<Offset>,
}

/// A place to continue from, as a subscriber says it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Since {
    /// An id as this server writes them.
    Position(Position),
    /// Anything else, for instance the id of another server: whatever was missed is not known.
    Unknown,
}

impl Since {
    /// Reads an id, from `since=` or `Last-Event-ID`.
    pub fn parse(text: &str) -> Self {
        text.parse().map_or(Self::Unknown, Self::Position)
    }
}

/// What a publication is to a subscriber at some position.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Arrival {
    /// Seen before: drop it.
    Duplicate,
    /// Exactly what comes next: deliver it.
    Next,
    /// Something in between is missing: repair from history, or tell the subscriber.
    Gap,
}

impl Position {
    /// Compares a live publication with the last one seen.
    #[must_use]
    pub fn arrival(self, link: Link) -> Arrival {
        if link.epoch != self.epoch {
            Arrival::Gap
        } else if Some(link.offset) <= self.offset {
            Arrival::Duplicate
        } else if link.previous <= self.offset {
            // Not `==`: who subscribed at the app's offset 9 has seen a channel that ended at 4.
            Arrival::Next
        } else {
            Arrival::Gap
        }
    }
}

/// The text is not a position: not `epoch-offset`.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("not an id of this server: expected a form like 6f2k-42")]
pub struct PositionError;

const BASE_36: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0_u8; 13];
        let mut at = digits.len();
        let mut rest = self.epoch.0;
        loop {
            at -= 1;
            digits[at] = BASE_36[usize::try_from(rest % 36).unwrap_or(0)];
            rest /= 36;
            if rest == 0 {
                break;
            }
        }
        let epoch = std::str::from_utf8(&digits[at..]).unwrap_or_default();
        write!(f, "{epoch}-{}", self.offset.map_or(0, Offset::get))
    }
}

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let (epoch, offset) = text.split_once('-').ok_or(PositionError)?;
        let plain =
            |part: &str, digit: fn(&u8) -> bool| !part.is_empty() && part.as_bytes().iter().all(digit);
        // `from_str_radix` alone would also take a sign and capitals: one place, two texts.
        if !plain(epoch, |b| b.is_ascii_digit() || b.is_ascii_lowercase())
            || !plain(offset, u8::is_ascii_digit)
        {
            return Err(PositionError);
        }
        Ok(Self {
            epoch: Epoch(u64::from_str_radix(epoch, 36).map_err(|_| PositionError)?),
            offset: Offset::new(offset.parse().map_err(|_| PositionError)?),
        })
    }
}

impl Link {
    /// The position of a subscriber that has just seen this publication: the publication's id.
    pub fn position(self) -> Position {
        Position {
            epoch: self.epoch,
            offset: Some(self.offset),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(seen: (u64, u64), link: (u64, u64, u64), expected: Arrival) {
        let position = Position {
            epoch: Epoch(seen.0),
            offset: Offset::new(seen.1),
        };
        let (epoch, previous, offset) = link;
        let link = Link {
            epoch: Epoch(epoch),
            previous: Offset::new(previous),
            offset: Offset::new(offset).unwrap(),
        };
        assert_eq!(position.arrival(link), expected, "{position:?} {link:?}");
    }

    #[test]
    fn arrival_needs_no_counting() {
        // (epoch, last seen), (epoch, previous in channel, own offset)
        check((7, 0), (7, 0, 1), Arrival::Next);
        check((7, 4), (7, 4, 9), Arrival::Next);
        check((7, 8), (7, 4, 9), Arrival::Next);
        check((7, 9), (7, 4, 9), Arrival::Duplicate);
        check((7, 10), (7, 4, 9), Arrival::Duplicate);
        check((7, 3), (7, 4, 9), Arrival::Gap);
        check((7, 0), (7, 4, 9), Arrival::Gap);
        check((6, 9), (7, 4, 9), Arrival::Gap);
    }

    #[track_caller]
    fn check_text(text: &str, expected: Option<(u64, u64)>) {
        let got: Option<Position> = text.parse().ok();
        assert_eq!(
            got.map(|p| (p.epoch.0, p.offset.map_or(0, Offset::get))),
            expected,
            "{text}"
        );
        if let Some(position) = got {
            assert_eq!(position.to_string(), text);
        }
    }

    #[test]
    fn ids_have_one_text_form() {
        check_text("6f2k-42", Some((299_468, 42)));
        check_text("0-0", Some((0, 0)));
        check_text("3w5e11264sgsf-18446744073709551615", Some((u64::MAX, u64::MAX)));
        for bad in [
            "",
            "-",
            "a-",
            "-1",
            "a-b",
            "A-1",
            "+a-1",
            "a-+1",
            "a-1-2",
            "a:1",
            "a-18446744073709551616",
            "zzzzzzzzzzzzzz-1",
            " a-1",
        ] {
            check_text(bad, None);
        }
    }
}
