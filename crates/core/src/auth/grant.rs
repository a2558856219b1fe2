//! What a client brings along: who she is and what she was granted.
//!
//! A grant comes out of a token that was found good ([`super::token`]). It never takes anything
//! away: what everyone may do, she may do too. The rules are in [`super::Policy::permit`].

use crate::channel::{ChannelName, ChannelPattern};
use crate::user::UserId;

/// See the module's head. The default grants nothing: an anonymous client.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Grant {
    /// Who she is, if that is known.
    pub user: Option<UserId>,
    /// Channels that she may listen to besides the public ones and her own.
    pub listen: Vec<ChannelPattern>,
    /// Channels that she may speak on besides those open to talk.
    pub speak: Vec<ChannelPattern>,
    /// When all of this ends, in Unix seconds. `None`: never.
    pub expires: Option<u64>,
}

impl Grant {
    /// The grant of an anonymous client.
    pub const NOTHING: &Self = &Self {
        user: None,
        listen: Vec::new(),
        speak: Vec::new(),
        expires: None,
    };

    /// Whether there is nothing in it, so that a token would be the thing to bring.
    pub fn is_anonymous(&self) -> bool {
        self == Self::NOTHING
    }

    pub(super) fn listens_to(&self, channel: &ChannelName) -> bool {
        super::is_in(&self.listen, channel)
            || self.user.as_ref().is_some_and(|user| user.owns(channel.as_str()))
    }

    pub(super) fn speaks_on(&self, channel: &ChannelName) -> bool {
        super::is_in(&self.speak, channel)
    }
}
