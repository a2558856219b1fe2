//! The core's names for what threads share, and a model of the one thing of tokio's that the
//! shipped files use.

pub use fanfare_core::sync::*;
#[cfg(feature = "loom")]
use loom::sync::Condvar;
#[cfg(not(feature = "loom"))]
use shuttle::sync::Condvar;

/// What `tokio::sync::Notify` promises where one task waits: [`Notify::notify_one`] wakes it, or
/// lets its next [`Notify::wait`] return at once; several before that count as one.
#[derive(Debug)]
pub struct Notify {
    permit: Mutex<bool>,
    given: Condvar,
}

impl Notify {
    /// Nothing was notified yet.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self {
            permit: Mutex::new(false),
            given: Condvar::new(),
        }
    }

    /// See the type's head.
    pub fn notify_one(&self) {
        *self.permit.lock() = true;
        self.given.notify_one();
    }

    /// As `notified().await`, for a thread.
    pub fn wait(&self) {
        let mut permit = self.permit.lock();
        while !*permit {
            permit = self
                .given
                .wait(permit)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        *permit = false;
    }
}
