//! What Fanfare decides, without doing anything.
//!
//! Ordering, fan-out, sessions and wire forms, as plain values and state machines. There is no
//! socket, clock, runtime or source of randomness in this crate; they come in as arguments, and
//! the manifest shows that none could come in otherwise. So everything here can be tested by
//! saying what happens and comparing what comes out.
//!
//! | to find                                   | look in                    |
//! |-------------------------------------------|----------------------------|
//! | what is broadcast, and its frames         | [`publication`]            |
//! | order: offsets, epochs, ids               | [`position`]               |
//! | what is kept, gaps, the order of an app   | [`stream`]                 |
//! | who listens to what                       | [`hub`]                    |
//! | what waits for a shard                    | [`mailbox`]                |
//! | what waits for a slow reader              | [`outbox`]                 |
//! | which users are here, and where           | [`people`]                 |
//! | what the back end of an app is told       | [`webhook`]                |
//! | what threads share, and its models        | [`sync`], [`frames`]       |
//! | one connection's protocol                 | [`session`]                |
//! | the name of a session                     | [`session_id`]             |
//! | bytes on the wire                         | [`wire`]                   |
//! | who may do what, tokens, origins, keys    | [`auth`]                   |
//! | who a person is                           | [`user`]                   |
//! | every refusal and close code              | [`disconnect`]             |
//! | repeats of a publication                  | [`idempotency`]            |
//! | addresses, what each may do               | [`address`]                |
//! | how often something may happen            | [`rate`]                   |
//! | who does not answer is left alone         | [`circuit`]                |
//! | every limit and its default               | [`limits`]                 |
//!
//! Imports go one way: `session` and `hub` use `wire`, `publication` and `position`; `wire`
//! never sees `session` or `hub`, and `session` never sees `hub`.

#![forbid(unsafe_code)]

pub mod address;
pub mod app;
pub mod auth;
pub mod channel;
pub mod circuit;
pub mod disconnect;
pub mod frames;
pub mod hub;
pub mod idempotency;
pub mod limits;
pub mod mailbox;
pub mod moment;
pub mod outbox;
pub mod people;
pub mod position;
pub mod publication;
pub mod rate;
pub mod returning;
pub mod session;
pub mod session_id;
pub mod stream;
pub mod sync;
pub mod user;
pub mod webhook;
pub mod wire;
