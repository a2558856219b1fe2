//! Bytes to values and back, for every protocol. Nothing here knows a session, a socket or a
//! clock; every parser gives the same result however its input is cut into pieces.

pub mod http1;
pub mod http1_guard;
pub mod plain;
pub mod proxy;
pub mod sse;
pub mod utf8;
pub mod websocket;
