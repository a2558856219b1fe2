//! The mailbox of a shard: [`fanfare_core::mailbox`], and the waking of the shard that owns it.

use std::ops::Deref;
use std::sync::Arc;

use fanfare_core::mailbox;
use fanfare_core::publication::Publication;
use tokio::sync::Notify;

/// Publications on their way to a shard. Places are those of [`mailbox::Mailbox`].
#[derive(Debug)]
pub struct Mailbox {
    places: mailbox::Mailbox<Arc<Publication>>,
    /// Woken when the queue was empty and is not any more. The shard takes all that waits each
    /// time that it was woken, and before it sleeps for the first time.
    pub arrived: Notify,
}

impl Mailbox {
    /// An empty mailbox with these bounds.
    pub fn new(publications_max: usize, bytes_max: usize) -> Self {
        Self {
            places: mailbox::Mailbox::new(publications_max, bytes_max),
            arrived: Notify::new(),
        }
    }

    /// Adds a publication for which a place was reserved, and wakes the shard if need be.
    pub fn push(&self, publication: Arc<Publication>) {
        if self.places.push(publication) {
            self.arrived.notify_one();
        }
    }
}

impl Deref for Mailbox {
    type Target = mailbox::Mailbox<Arc<Publication>>;

    fn deref(&self) -> &Self::Target {
        &self.places
    }
}
