//! What one subscriber has heard, and whether it is what it should have heard.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::stamp::Stamp;

/// One subscriber's account. Publishers are numbered within the group.
#[derive(Debug)]
pub(crate) struct Tally {
    /// The sequence number to come next, per publisher; `None` before the first of a latecomer.
    next: Vec<Option<u32>>,
    order: DefaultHasher,
    pub(crate) received: u64,
    /// Publications left out between two that came.
    pub(crate) gaps: u64,
    /// Publications that came again, or behind a later one.
    pub(crate) doubles: u64,
}

impl Tally {
    /// `late`: it comes when others are being published to already, so its first publication may
    /// have any number.
    pub(crate) fn new(publishers: usize, late: bool) -> Self {
        Self {
            next: vec![(!late).then_some(0); publishers],
            order: DefaultHasher::new(),
            received: 0,
            gaps: 0,
            doubles: 0,
        }
    }

    /// Enters one publication. Returns whether this subscriber had not heard it before.
    pub(crate) fn enter(&mut self, publisher: usize, stamp: &Stamp) -> bool {
        self.received += 1;
        (stamp.publisher, stamp.sequence).hash(&mut self.order);
        let Some(next) = self.next.get_mut(publisher) else {
            self.doubles += 1;
            return false;
        };
        let expected = next.unwrap_or(stamp.sequence);
        if stamp.sequence < expected {
            self.doubles += 1;
            return false;
        }
        self.gaps += u64::from(stamp.sequence - expected);
        *next = Some(stamp.sequence + 1);
        true
    }

    /// Whether a publication is still to come here.
    pub(crate) fn awaits(&self, publisher: usize, sequence: u32) -> bool {
        let next = self.next.get(publisher).copied().flatten();
        next.is_none_or(|next| next <= sequence)
    }

    /// Equal for two subscribers that heard the same publications in the same order.
    pub(crate) fn order(&self) -> u64 {
        self.order.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(heard: &[(u16, u32)], late: bool) -> Tally {
        let mut tally = Tally::new(2, late);
        for &(publisher, sequence) in heard {
            let stamp = Stamp {
                publisher,
                sequence,
                nanos: 0,
            };
            tally.enter(publisher.into(), &stamp);
        }
        tally
    }

    #[track_caller]
    fn check(heard: &[(u16, u32)], late: bool, gaps: u64, doubles: u64) {
        let tally = tally(heard, late);
        assert_eq!((tally.gaps, tally.doubles), (gaps, doubles), "{heard:?}");
        assert_eq!(tally.received, heard.len() as u64);
    }

    /// A judge must find what is planted.
    #[test]
    fn loss_repetition_exchange_and_strangers_are_found() {
        check(&[(0, 0), (1, 0), (0, 1)], false, 0, 0);
        check(&[(0, 0), (0, 2)], false, 1, 0);
        check(&[(0, 1)], false, 1, 0);
        check(&[(0, 7), (0, 8)], true, 0, 0);
        check(&[(0, 7), (0, 9)], true, 1, 0);
        check(&[(0, 0), (0, 0)], false, 0, 1);
        check(&[(0, 1), (0, 0)], false, 1, 1);
        check(&[(2, 0)], false, 0, 1);
    }

    #[test]
    fn orders_are_compared_over_publishers() {
        let order = |heard: &[(u16, u32)]| tally(heard, false).order();
        assert_eq!(order(&[(0, 0), (1, 0)]), order(&[(0, 0), (1, 0)]));
        assert_ne!(order(&[(0, 0), (1, 0)]), order(&[(1, 0), (0, 0)]));
    }
}
