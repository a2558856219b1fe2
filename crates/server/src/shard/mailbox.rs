//! The one thing that shards share: publications on their way to a shard.
//!
//! Bounded in publications and bytes, counted from the moment a place is reserved until the shard
//! has *delivered* the publication, so a shard that is behind makes the engine refuse new ones
//! instead of collecting them elsewhere.
//!
//! Invariant: publications are taken in the order they were pushed. A push into an empty queue
//! wakes the shard; a push behind others does not need to, since the shard takes all at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fanfare_core::publication::Publication;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// See the module's head.
#[derive(Debug)]
pub struct Mailbox {
    queue: Mutex<Vec<Arc<Publication>>>,
    publications: AtomicUsize,
    bytes: AtomicUsize,
    publications_max: usize,
    bytes_max: usize,
    refused: AtomicUsize,
    /// Woken when the queue was empty and is not any more.
    pub arrived: Notify,
}

impl Mailbox {
    /// An empty mailbox with these bounds.
    pub fn new(publications_max: usize, bytes_max: usize) -> Self {
        Self {
            queue: Mutex::default(),
            publications: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            publications_max,
            bytes_max,
            refused: AtomicUsize::new(0),
            arrived: Notify::new(),
        }
    }

    /// Takes a place for a publication of this size, or says that there is none.
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

    /// Adds a publication for which a place was reserved.
    pub fn push(&self, publication: Arc<Publication>) {
        let mut queue = self.queue.lock();
        queue.push(publication);
        let first = queue.len() == 1;
        drop(queue);
        if first {
            self.arrived.notify_one();
        }
    }

    /// Takes all that waits. `empty` must be empty; its memory is used for what comes next.
    pub fn take(&self, empty: &mut Vec<Arc<Publication>>) {
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
        let mailbox = Mailbox::new(3, 10);
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
}
