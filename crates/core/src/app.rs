//! Apps: the separate worlds of one server.
//!
//! An app has its own channels, its own order and its own credentials; nothing of one app can
//! be heard, counted or slowed through another. A server started with no configuration has
//! one, [`AppId::DEFAULT`]. [`AppId::PROBE`] carries only the server's own readiness probe, so
//! that the probe never shows in the channels, offsets or figures of a user.

use std::fmt;

/// Names an app within one process: the index of its entry in the configuration.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct AppId(pub u16);

impl AppId {
    /// The app of everyone who does not name one.
    pub const DEFAULT: Self = Self(0);
    /// The app of the readiness probe.
    pub const PROBE: Self = Self(u16::MAX);
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::DEFAULT => f.write_str("default"),
            Self::PROBE => f.write_str("probe"),
            Self(number) => write!(f, "{number}"),
        }
    }
}
