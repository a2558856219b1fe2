//! Names of channels, and patterns over them.
//!
//! A name is what a publisher speaks to and a subscriber listens to. It is 1 to
//! [`CHANNEL_NAME_BYTES_MAX`] bytes of UTF-8 after percent-decoding, without control
//! characters and without the invisible format characters that make two names look alike
//! (`plain.md` section 1, `security-baseline.md` section 6.2). `/` is an ordinary character.
//!
//! `*` alone is no channel: it addresses everyone and can only be spoken to, so the parser of
//! requests turns it into [`crate::publication::Audience::Everyone`] before a name is made.
//!
//! Pusher's conventions hold on every door: the beginning of a name says what the channel is
//! ([`Kind`]), and `#server-to-user-42` is another spelling of a user's own channel, `user/42`. A name
//! is made in one form only, so the two can never be told apart, nor mean two things.
//!
//! This module does not know who may use a name; see [`crate::auth`].

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// Longest channel name, in bytes after percent-decoding.
pub const CHANNEL_NAME_BYTES_MAX: usize = 200;

/// What the name of a user's own channel begins with.
pub(crate) const OWN_CHANNEL: &str = "user/";

/// The same in the protocol of Pusher.
pub const SERVER_TO_USER: &str = "#server-to-user-";

/// What a channel is by the beginning of its name (`pusher.md` section 5.1). Everything but
/// [`Self::Public`] is private.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Anything else.
    Public,
    /// `private-`.
    Private,
    /// `private-encrypted-`: what is said there only its listeners can read.
    Encrypted,
    /// `presence-`: its members see each other.
    Presence,
    /// `user/`, or `#server-to-user-`: a user's own.
    Own,
}

/// The name of a channel. Cheap to clone: the text is shared.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ChannelName(Arc<str>);

/// Why a text is not the name of a channel.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum ChannelNameError {
    /// The name has no bytes.
    #[error("a channel name must not be empty")]
    Empty,
    /// The name is longer than [`CHANNEL_NAME_BYTES_MAX`].
    #[error("a channel name has at most {CHANNEL_NAME_BYTES_MAX} bytes, this one has {0}")]
    TooLong(usize),
    /// The name holds a control or invisible format character.
    #[error("a channel name must not hold control or invisible characters (found U+{0:04X})")]
    Unprintable(u32),
    /// The bytes are not UTF-8.
    #[error("a channel name must be UTF-8")]
    NotUtf8,
    /// `*` stands for everyone and names no channel.
    #[error("\"*\" addresses everyone; it can be published to, but not listened to")]
    Everyone,
}

impl ChannelName {
    /// Checks `text` and makes it a name.
    pub fn new(text: &str) -> Result<Self, ChannelNameError> {
        if text.is_empty() {
            return Err(ChannelNameError::Empty);
        }
        if text.len() > CHANNEL_NAME_BYTES_MAX {
            return Err(ChannelNameError::TooLong(text.len()));
        }
        if let Some(bad) = text.chars().find(|&c| is_unprintable(c)) {
            return Err(ChannelNameError::Unprintable(bad.into()));
        }
        if text == "*" {
            return Err(ChannelNameError::Everyone);
        }
        Ok(match text.strip_prefix(SERVER_TO_USER) {
            Some("") | None => Self(text.into()),
            Some(user) => Self(format!("{OWN_CHANNEL}{user}").into()),
        })
    }

    /// What the channel is by its name.
    pub fn kind(&self) -> Kind {
        let begins = |prefix: &str| self.0.starts_with(prefix);
        if begins("private-encrypted-") {
            Kind::Encrypted
        } else if begins("private-") {
            Kind::Private
        } else if begins("presence-") {
            Kind::Presence
        } else if begins(OWN_CHANNEL) || begins(SERVER_TO_USER) {
            Kind::Own
        } else {
            Kind::Public
        }
    }

    /// Whether a new subscriber is given the last publication: `cache-` behind whatever says the kind.
    pub fn is_cache(&self) -> bool {
        CACHE_PREFIXES.iter().any(|prefix| self.0.starts_with(prefix))
    }

    /// A name that is made of a checked user id, which is shorter and as printable.
    pub(crate) fn own(text: &str) -> Self {
        debug_assert!(Self::new(text).is_ok());
        Self(text.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What the names of cache channels begin with (`pusher.md` section 7).
pub const CACHE_PREFIXES: [&str; 4] = [
    "cache-",
    "private-cache-",
    "private-encrypted-cache-",
    "presence-cache-",
];

/// Control characters, and format characters that change how text looks without being seen
/// (zero-width, direction marks, byte order mark, soft hyphen, tags).
///
/// The same rule holds for event names, since both end up in lines of an event stream.
pub fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Whether a text is 1 to `bytes_max` bytes, and printable like the name of a channel.
pub(crate) fn is_printable(text: &str, bytes_max: usize) -> bool {
    (1..=bytes_max).contains(&text.len()) && !text.chars().any(is_unprintable)
}

impl fmt::Debug for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Borrow<str> for ChannelName {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

/// A set of channel names: one exact name, or all names that begin with a prefix.
///
/// Written `orders` or `room/*`. The star is only special at the end, so matching is one
/// comparison; `*` alone matches every name.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ChannelPattern {
    stem: Box<str>,
    open: bool,
}

impl ChannelPattern {
    /// Reads a pattern as written in a configuration or token.
    pub fn new(text: &str) -> Result<Self, ChannelNameError> {
        if text == "*" {
            return Ok(Self {
                stem: "".into(),
                open: true,
            });
        }
        ChannelName::new(text)?;
        Ok(match text.strip_suffix('*') {
            Some(stem) => Self {
                stem: stem.into(),
                open: true,
            },
            None => Self {
                stem: text.into(),
                open: false,
            },
        })
    }

    /// The set of this one name, whatever it ends with.
    pub fn exactly(name: &ChannelName) -> Self {
        Self {
            stem: name.as_str().into(),
            open: false,
        }
    }

    /// Whether `name` belongs to the set.
    pub fn matches(&self, name: &str) -> bool {
        if self.open {
            name.starts_with(&*self.stem)
        } else {
            name == &*self.stem
        }
    }
}

impl fmt::Display for ChannelPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.stem, if self.open { "*" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<(), ChannelNameError>) {
        assert_eq!(
            ChannelName::new(text).map(|name| assert_eq!(name.as_str(), text)),
            expected
        );
    }

    #[test]
    fn names_are_printable_text_of_bounded_length() {
        check("orders", Ok(()));
        check("room/7", Ok(()));
        check("übergrößen 你好", Ok(()));
        check("<img src=x onerror=alert(1)>", Ok(()));
        check(&"x".repeat(200), Ok(()));
        check(&"x".repeat(201), Err(ChannelNameError::TooLong(201)));
        check("", Err(ChannelNameError::Empty));
        check("a\nb", Err(ChannelNameError::Unprintable(10)));
        check("a\0", Err(ChannelNameError::Unprintable(0)));
        check("a\u{200b}b", Err(ChannelNameError::Unprintable(0x200b)));
        check("\u{feff}main", Err(ChannelNameError::Unprintable(0xfeff)));
        check("*", Err(ChannelNameError::Everyone));
        check("**", Ok(()));
    }

    #[track_caller]
    fn check_kind(text: &str, kind: Kind, is_cache: bool, shown: &str) {
        let name = ChannelName::new(text).unwrap();
        assert_eq!(
            (name.kind(), name.is_cache(), name.as_str()),
            (kind, is_cache, shown)
        );
    }

    #[test]
    fn the_beginning_of_a_name_says_what_a_channel_is() {
        let same = |text, kind, is_cache| check_kind(text, kind, is_cache, text);
        same("orders", Kind::Public, false);
        same("privates", Kind::Public, false);
        same("cache-price", Kind::Public, true);
        same("private-orders.42", Kind::Private, false);
        same("private-cache-price", Kind::Private, true);
        same("private-encrypted-vault", Kind::Encrypted, false);
        same("private-encrypted-cache-vault", Kind::Encrypted, true);
        same("presence-room.3", Kind::Presence, false);
        same("presence-cache-room.3", Kind::Presence, true);
        same("user/42", Kind::Own, false);
        same("#server-to-user-", Kind::Own, false);
        check_kind("#server-to-user-42", Kind::Own, false, "user/42");
        check_kind("#server-to-user-a/b", Kind::Own, false, "user/a/b");
        same("#server-to-users", Kind::Public, false);
    }

    #[track_caller]
    fn check_pattern(pattern: &str, name: &str, expected: bool) {
        let pattern = ChannelPattern::new(pattern).unwrap();
        assert_eq!(pattern.matches(name), expected, "{pattern} over {name}");
    }

    #[test]
    fn a_star_is_special_only_at_the_end() {
        check_pattern("main", "main", true);
        check_pattern("main", "main2", false);
        check_pattern("talk/*", "talk/a", true);
        check_pattern("talk/*", "talk/", true);
        check_pattern("talk/*", "talk", false);
        check_pattern("a*b", "axb", false);
        check_pattern("a*b", "a*b", true);
        check_pattern("*", "anything/at all", true);
        let star = ChannelPattern::exactly(&ChannelName::new("talk/*").unwrap());
        assert!(star.matches("talk/*") && !star.matches("talk/a"));
    }
}
