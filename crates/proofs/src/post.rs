//! What mailboxes promise, for the one that ships and for those with a fault.

use std::sync::Arc;

use fanfare_core::position::{Link, Offset};
use fanfare_core::publication::Publication;

use crate::house::{EPOCH, draft};
use crate::{planted, shard};

/// A shard's mailbox with its waking.
pub trait Post: Send + Sync + 'static {
    /// An empty one with these bounds.
    fn with_bounds(publications: usize, bytes: usize) -> Self;
    /// Takes a place.
    fn reserve(&self, bytes: usize) -> bool;
    /// Gives a place back.
    fn release(&self, bytes: usize);
    /// Adds a publication.
    fn push(&self, publication: Arc<Publication>);
    /// Waits until the owner is woken.
    fn sleep(&self);
    /// Takes all.
    fn take(&self, empty: &mut Vec<Arc<Publication>>);
    /// Publications and bytes that are counted.
    fn counted(&self) -> (usize, usize);
}

macro_rules! post {
    ($($mailbox:ty)*) => {
        $(impl Post for $mailbox {
            fn with_bounds(publications: usize, bytes: usize) -> Self {
                Self::new(publications, bytes)
            }
            fn reserve(&self, bytes: usize) -> bool {
                (**self).reserve(bytes)
            }
            fn release(&self, bytes: usize) {
                (**self).release(1, bytes);
            }
            fn push(&self, publication: Arc<Publication>) {
                self.push(publication);
            }
            fn sleep(&self) {
                self.arrived.wait();
            }
            fn take(&self, empty: &mut Vec<Arc<Publication>>) {
                (**self).take(empty);
            }
            fn counted(&self) -> (usize, usize) {
                (self.len(), self.bytes())
            }
        })*
    };
}

post!(shard::mailbox::Mailbox);
post!(planted::wake_before_push::Mailbox planted::wake_judged_after_unlock::Mailbox);
post!(planted::room_judged_before_counting::Mailbox);

/// A publication with this place.
///
/// # Panics
///
/// If the place is 0.
pub fn letter(place: u64) -> Arc<Publication> {
    let Some(offset) = Offset::new(place) else {
        panic!("0 is no place")
    };
    Arc::new(Publication::new(
        draft(&["a"]),
        fanfare_core::moment::Moment::default(),
        |_| Link {
            epoch: EPOCH,
            previous: None,
            offset,
        },
    ))
}
