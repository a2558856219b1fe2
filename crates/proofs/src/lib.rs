//! Proofs of what Fanfare's threads share. Empty in a normal build; `cargo xtask test --only proofs`
//! builds it with the feature `loom` (every order of events of a small case, by loom) and with
//! the feature `shuttle` (a great many orders of a large one, by shuttle).
//!
//! What is tried is the code that ships: `fanfare_core` itself, whose locks and counters are then
//! models (`fanfare_core::sync`), and the files of the server that have no runtime in them, as
//! modules of this crate. What is *not* tried: tokio (its `Notify` is taken at its word, see
//! [`sync::Notify`]), the standard library, the sockets, and the loop of `shard/turn.rs`, of which
//! [`house::Shard`] repeats the few steps that matter here.
//!
//! [`planted`] has the same files with mistakes in them, which the proofs must find.

#![cfg(any(feature = "loom", feature = "shuttle"))]
// The server's files stand where more of them is private.
#![allow(unreachable_pub, dead_code)]

/// What the server's files call tokio is this crate: see [`sync::Notify`].
extern crate self as tokio;

pub use fanfare_core::publication;

#[path = "../../server/src/engine/mod.rs"]
pub mod engine;
pub mod house;
pub mod post;
pub mod report;
pub mod shard;
pub mod sync;

/// Shipped files with one mistake each, made by `build.rs`.
#[allow(missing_docs, unused_mut)]
pub mod planted {
    use crate::engine::{Drafts, Engine, Listening, Mailboxes, Once, Receipt, Receipts, Witness, journal};

    macro_rules! planted {
        ($($name:ident)*) => {
            $(pub mod $name {
                include!(concat!(env!("OUT_DIR"), "/", stringify!($name), ".rs"));
            })*
        };
    }

    planted!(wake_before_push wake_judged_after_unlock room_judged_before_counting);
    planted!(pushed_outside_the_lock audience_of_an_earlier_moment read_before_listening joined_later);
    planted!(looked_before_making);
}
