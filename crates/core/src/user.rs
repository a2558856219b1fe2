//! Users: one name for a person, whatever tab, device and transport she comes by.
//!
//! A user id comes from whoever authenticated her: the `sub` of a token. It is 1 to
//! [`USER_ID_BYTES_MAX`] bytes of UTF-8 and printable like the name of a channel, since it is
//! shown to listeners and stands in the name of her own channel, `user/{id}`.
//!
//! This module does not know what a user may do; see [`crate::auth`].

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use thiserror::Error;

use crate::channel::{ChannelName, OWN_CHANNEL, is_printable};

/// Longest user id, in bytes.
pub const USER_ID_BYTES_MAX: usize = 128;

/// The id of a user. Cheap to clone: the text is shared.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct UserId(Arc<str>);

/// The text cannot be a user id.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("a user id has 1 to {USER_ID_BYTES_MAX} bytes and no control or invisible characters")]
pub struct UserIdError;

impl UserId {
    /// Checks `text` and makes it an id.
    pub fn new(text: &str) -> Result<Self, UserIdError> {
        if !is_printable(text, USER_ID_BYTES_MAX) {
            return Err(UserIdError);
        }
        Ok(Self(text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Her own channel: what is sent to her goes there, and all her connections hear it.
    pub fn channel(&self) -> ChannelName {
        ChannelName::own(&format!("{OWN_CHANNEL}{}", self.as_str()))
    }

    /// Whether `channel` is this user's own, which she may always listen to: exactly `user/{id}`.
    pub fn owns(&self, channel: &str) -> bool {
        channel.strip_prefix(OWN_CHANNEL) == Some(self.as_str())
    }
}

impl Deref for UserId {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, good: bool) {
        assert_eq!(UserId::new(text).is_ok(), good, "{text:?}");
    }

    #[test]
    fn ids_are_printable_text_of_bounded_length() {
        check("42", true);
        check("ann@example.org", true);
        check("a/b", true);
        check("*", true);
        check(&"x".repeat(128), true);
        check(&"x".repeat(129), false);
        check("", false);
        check("4\n2", false);
        check("4\u{200b}2", false);
    }

    #[track_caller]
    fn check_own(user: &str, channel: &str, own: bool) {
        assert_eq!(
            UserId::new(user).unwrap().owns(channel),
            own,
            "{user} over {channel}"
        );
    }

    #[test]
    fn a_user_owns_one_channel() {
        check_own("42", "user/42", true);
        check_own("42", "user/421", false);
        check_own("42", "user/4", false);
        check_own("42", "user/42/x", false);
        check_own("42/x", "user/42/x", true);
        check_own("*", "user/42", false);
        check_own("*", "user/*", true);
        check_own("42", "42", false);
    }
}
