//! The part of the server's shards that the engine sees.

#[path = "../../server/src/shard/mailbox.rs"]
pub mod mailbox;
