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
//! This module does not know who may use a name; see [`crate::auth`].

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// Longest channel name, in bytes after percent-decoding.
pub const CHANNEL_NAME_BYTES_MAX: usize = 200;

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
        Ok(Self(text.into()))
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
