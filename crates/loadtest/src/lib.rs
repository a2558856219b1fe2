//! A load generator for broadcast servers, and a judge of what they deliver.
//!
//! It opens subscribers, publishes stamped messages, and finds out how many arrived, when, in
//! which order, and what that cost the server. It is blind to which server it drives: a
//! [`Target`] says where and under which paths, nothing else differs.
//!
//! * [`Scenario`]: what to do, read from a TOML file;
//! * [`run`]: does it, on one thread;
//! * [`Outcome`]: what came of it;
//! * [`suite`]: all scenarios against several servers in turn, and the report;
//! * [`floor`]: the cheapest servers that can be, to compare with;
//! * [`checker`]: finds every deviation from the promised order and completeness in what
//!   subscribers heard, over all their connections;
//! * [`proxy`]: treats connections badly, the same way for the same seed;
//! * [`check`]: drives a server through the proxy and has the checker judge it;
//! * [`churn`]: sessions come and go, and nothing of them may be left behind.
//!
//! It shares no code with the server, since a judge that did would share its mistakes.

// Counts become figures for people: what `f64` cannot hold exactly does not matter there.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
// Indices are those of this crate's own tables; a wrong one is a defect that shall be seen.
#![allow(clippy::indexing_slicing)]

pub mod check;
pub mod checker;
pub mod churn;
mod drive;
pub mod floor;
mod outcome;
pub mod process;
pub mod proxy;
pub mod random;
mod scenario;
pub mod servers;
mod stamp;
pub mod suite;
pub mod svg;
mod tally;
mod target;
mod wire;

pub use drive::{Progress, run};
pub use outcome::{Connecting, GroupOutcome, Outcome, Publishing, Times};
pub use scenario::{Goal, Group, Scenario, Until};
pub use stamp::{STAMP_BYTES, Stamp};
pub use target::{Target, Transport};
