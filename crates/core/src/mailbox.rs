//! The one thing that shards share: publications on their way to a shard.
//!
//! Bounded in publications and bytes, counted from the moment a place is reserved until the shard
//! has *delivered* the publication, so a shard that is behind makes the engine refuse new ones
//! instead of collecting them elsewhere.
//!
//! Invariants: publications are taken in the order they were pushed. [`Mailbox::push`] says that
//! the owner must be woken exactly when the queue was empty; a push behind others needs no waking,
//! since the owner takes all at once. An owner that sleeps only after it has taken, until it is
//! woken, so misses nothing. `crates/proofs` tries every order of events.
//!
//! Waking itself is the runtime's and not here. Nor does this know what a publication is: `T` is.

use crate::sync::{AtomicUsize, Mutex, Ordering};

/// See the module's head.
#[derive(Debug)]
pub struct Mailbox<T> {
    queue: Mutex<Vec<T>>,
    publications: AtomicUsize,
    bytes: AtomicUsize,
    publications_max: usize,
    bytes_max: usize,
    refused: AtomicUsize,
}

impl<T> Mailbox<T> {
    /// An empty mailbox with these bounds.
    pub fn new(publications_max: usize, bytes_max: usize) -> Self {
        Self {
            queue: Mutex::new(Vec::new()),
            publications: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            publications_max,
            bytes_max,
            refused: AtomicUsize::new(0),
        }
    }

    /// Takes a place for a publication of this size, or says that there is none.
    ///
    /// Both counters rise before they are compared, so two that reserve at once may both be refused
    /// the last place, but are never both given it.
    pub fn reserve(&self, bytes: usize) -> bool {
        let publications = self.publications.fetch_add(1, Ordering::AcqRel);
        let waiting = self.bytes.fetch_add(bytes, Ordering::AcqRel);
        if publications < self.publications_max && waiting + bytes <= self.bytes_max {
            return true;
        }
        self.release(1, bytes);
        self.refused.fetch_add(1, Ordering::Relaxed);
        false
    }

    /// Gives places back: not used after all, or delivered.
    pub fn release(&self, publications: usize, bytes: usize) {
        self.publications.fetch_sub(publications, Ordering::AcqRel);
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Adds a publication for which a place was reserved. Says whether the owner must be woken.
    #[must_use = "the owner sleeps until it is woken"]
    pub fn push(&self, publication: T) -> bool {
        let mut queue = self.queue.lock();
        queue.push(publication);
        queue.len() == 1
    }

    /// Takes all that waits. `empty` must be empty; its memory is used for what comes next.
    pub fn take(&self, empty: &mut Vec<T>) {
        std::mem::swap(&mut *self.queue.lock(), empty);
    }

    /// Publications reserved, waiting or being delivered.
    pub fn len(&self) -> usize {
        self.publications.load(Ordering::Relaxed)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the publications reserved, waiting or being delivered.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How often a place was refused.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sizes: &[usize], expected: &[bool]) {
        let mailbox = Mailbox::<()>::new(3, 10);
        let got: Vec<bool> = sizes.iter().map(|bytes| mailbox.reserve(*bytes)).collect();
        assert_eq!(got, expected, "{sizes:?}");
        assert_eq!(mailbox.len(), expected.iter().filter(|ok| **ok).count());
        assert_eq!(mailbox.refused(), expected.iter().filter(|ok| !**ok).count());
    }

    #[test]
    fn places_are_bounded_in_number_and_bytes() {
        check(&[1, 1, 1, 1], &[true, true, true, false]);
        check(&[10], &[true]);
        check(&[11], &[false]);
        check(&[5, 6, 5], &[true, false, true]);
        check(&[0, 0, 0, 0], &[true, true, true, false]);
    }

    #[test]
    fn only_the_first_of_a_run_wakes() {
        let mailbox = Mailbox::new(9, 9);
        let mut taken = Vec::new();
        assert_eq!([mailbox.push(1), mailbox.push(2)], [true, false]);
        mailbox.take(&mut taken);
        assert_eq!(taken, [1, 2]);
        taken.clear();
        assert!(mailbox.push(3));
    }
}
