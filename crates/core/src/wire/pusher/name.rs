//! Names of channels as this door takes them.
//!
//! Pusher's own set is letters, digits and `_ - = @ , . ;` (`pusher.md` section 1). Here `/` and `:`
//! belong to it too, since channels of the other doors have them; no library asks for such a name by
//! itself, so nobody notices.

use crate::channel::{ChannelName, OWN_CHANNEL, SERVER_TO_USER};

/// Longest name that this door takes, in bytes, unless the app says less.
pub const NAME_BYTES_MAX: usize = 200;

/// Makes a name of a text that a client or back end has sent.
///
/// # Errors
///
/// A sentence for whoever sent it.
pub fn parse(text: &str, bytes_max: usize) -> Result<ChannelName, String> {
    if text.len() > bytes_max {
        return Err(format!(
            "the name of a channel has at most {bytes_max} characters, this one has {}",
            text.len()
        ));
    }
    let own = text.strip_prefix(SERVER_TO_USER);
    if text.starts_with(OWN_CHANNEL) {
        return Err(format!("this door's name for it begins with {SERVER_TO_USER}"));
    }
    let is_good = match own {
        // Names a user, which may be any text.
        Some(user) => !user.is_empty(),
        None => text.bytes().all(is_allowed),
    };
    if !is_good {
        return Err("the name of a channel has letters, digits and _ - = @ , . ; / : only".to_owned());
    }
    ChannelName::new(text).map_err(|error| error.to_string())
}

fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-=@,.;/:".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        let name = parse(text, 64).ok();
        assert_eq!(name.as_ref().map(ChannelName::as_str), expected, "{text}");
    }

    #[test]
    fn names_of_this_door() {
        let same = |text| check(text, Some(text));
        same("orders");
        same("private-App.Models.User.1");
        same("presence-a_b=c@d,e;f-9");
        same("room/7");
        same("https://example.com/books/1");
        same(&"x".repeat(64));
        check("#server-to-user-42", Some("user/42"));
        check("#server-to-user-ü", Some("user/ü"));
        for bad in [
            "",
            "a b",
            "ü",
            "*",
            "#orders",
            "#server-to-user-",
            "#server-to-user-a\nb",
            "user/42",
            "a\0",
            "<b>",
        ] {
            check(bad, None);
        }
        check(&"x".repeat(65), None);
    }
}
