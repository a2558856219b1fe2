//! The locks, counters and cells through which threads meet, named in one place.
//!
//! A normal build has those of the standard library. With the feature `loom` or `shuttle` the
//! same names are models of them, whose every step a scheduler decides: so the proofs
//! (`crates/proofs`) run the code that ships, not a copy of it. Whatever two shards share is made
//! of what is here.
//!
//! The standard library's own correctness is assumed. [`OnceLock`] has no model in either tool; the
//! proofs have one made of a model's lock, with the same contract.

use std::fmt;

#[cfg(feature = "loom")]
use loom::sync as provided;
#[cfg(all(feature = "shuttle", not(feature = "loom")))]
use shuttle::sync as provided;
#[cfg(not(any(feature = "loom", feature = "shuttle")))]
use std::sync as provided;

pub use provided::MutexGuard;
pub use provided::atomic::{AtomicU64, AtomicUsize};
#[cfg(not(any(feature = "loom", feature = "shuttle")))]
pub use std::sync::OnceLock;
pub use std::sync::atomic::Ordering;

#[cfg(any(feature = "loom", feature = "shuttle"))]
pub use model::OnceLock;

/// A lock without poison: what a thread that panicked had locked stays usable. A shard that
/// panics ends the node, and until then the others go on.
pub struct Mutex<T>(provided::Mutex<T>);

impl<T> Mutex<T> {
    /// An open lock around `value`.
    pub fn new(value: T) -> Self {
        Self(provided::Mutex::new(value))
    }

    /// Waits for the lock and takes it until the guard is dropped.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the tools do not bring.
#[cfg(any(feature = "loom", feature = "shuttle"))]
mod model {
    /// As [`std::sync::OnceLock`]: the first to ask makes the value, who asks meanwhile waits, and
    /// all get the same. Here every look takes the lock; the real one is spared that by an atomic
    /// flag, whose correctness is the standard library's.
    #[derive(Debug)]
    pub struct OnceLock<T> {
        turn: super::Mutex<()>,
        value: std::sync::OnceLock<T>,
    }

    impl<T> OnceLock<T> {
        /// The value, if it was made.
        pub fn get(&self) -> Option<&T> {
            let _turn = self.turn.lock();
            self.value.get()
        }

        /// The value, made by `make` if nobody has made it before.
        pub fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
            let _turn = self.turn.lock();
            self.value.get_or_init(make)
        }

        /// Makes it `value`, or gives that back because there is one.
        pub fn set(&self, value: T) -> Result<(), T> {
            let _turn = self.turn.lock();
            self.value.set(value)
        }
    }

    impl<T> Default for OnceLock<T> {
        fn default() -> Self {
            Self {
                turn: super::Mutex::new(()),
                value: std::sync::OnceLock::new(),
            }
        }
    }
}
