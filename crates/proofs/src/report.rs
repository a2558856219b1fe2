//! What the proofs say: how much was tried, and after how much a planted fault was found.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Whether to try more than what every change is tried with: `FANFARE_PROOFS=full`.
pub fn full() -> bool {
    std::env::var("FANFARE_PROOFS").is_ok_and(|asked| asked == "full")
}

/// Counts executions. The standard library's own: not part of what is tried.
#[derive(Clone, Debug, Default)]
pub struct Tried(Arc<AtomicUsize>);

impl Tried {
    /// One more execution begins.
    pub fn one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Writes a line that the test runner does not keep for itself.
    pub fn say(&self, what: &str) {
        let _ = writeln!(
            std::io::stdout(),
            "{what}: {} orders",
            self.0.load(Ordering::Relaxed)
        );
    }
}

/// Runs a proof of something with a fault, which must end in a panic that says `expected`.
///
/// # Panics
///
/// If the fault is not found, or another one is.
pub fn finds(fault: &str, expected: &str, proof: impl FnOnce(&Tried)) {
    let tried = Tried::default();
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| proof(&tried))) else {
        panic!("{fault}: not found")
    };
    let said = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or_default();
    assert!(said.contains(expected), "{fault}: found something else: {said}");
    tried.say(&format!("planted {fault} found after"));
}
