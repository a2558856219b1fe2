//! Fanfare, the server: it acts on what `fanfare-core` decides.
//!
//! The path of a publication: [`api`] (or a session of a [`shard`]) makes a draft, [`publish`]
//! hands it to the [`engine`], which orders it and pushes it to the mailboxes of the shards that
//! listen; each shard delivers and flushes. ARCHITECTURE.md tells the whole story.

#![forbid(unsafe_code)]

mod address;
pub mod api;
mod apps;
mod begin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod disk;
mod door;
pub mod engine;
mod gate;
mod health;
mod hooks;
mod jwks;
mod line;
mod listen;
mod log_gate;
pub mod logging;
pub mod metrics;
pub mod node;
mod outgoing;
pub mod publish;
mod random;
mod reload;
pub mod shard;
mod tls;
mod tokens;
mod unix;
mod webhooks;
