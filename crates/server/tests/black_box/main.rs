//! Promises of the server, over real sockets: a file per promise, named after it, and a line here.
//!
//! All are one program, since each program would have the whole server compiled into it once more.
//! So they share a process: nothing here changes its environment, folder or limits, or counts its own
//! threads or descriptors; what a test wants of that kind it asks of a server, which is a process of its
//! own ([`support::limited`]).

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

mod addresses;
mod canaries;
mod deflate;
mod disk;
mod event_stream;
mod full_house;
mod hooks;
mod hooks_message;
mod http1;
mod http1_differential;
mod life;
mod limits;
mod no_one_slows_another;
mod order;
mod people;
mod permission;
mod post;
mod publishing;
mod pusher_fuzz;
mod pusher_presence;
mod pusher_reload;
mod pusher_replay;
mod pusher_sessions;
mod pusher_webhooks;
mod pusher_webhooks_reload;
mod resume;
mod tls;
mod tokens;
mod unix;
mod websocket;
