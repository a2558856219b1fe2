//! What a back end says of who connects: the body of its answer to the hook `on_connect`
//! (`plain.md` section 6).
//!
//! | member            | is                                                              |
//! |-------------------|-----------------------------------------------------------------|
//! | `user`            | the user's id, text or a whole number; missing or null: nobody  |
//! | `listen`, `speak` | lists of channel names or patterns, as in a token               |
//! | `exp`             | Unix time in seconds at which all of this ends; missing: never  |
//!
//! An empty body says nothing of her: she may do what everyone may. Other members are not looked
//! at. A member that we know and that has another form than expected makes the whole answer
//! unusable, and so does a name that stands twice.

use serde::Deserialize;
use thiserror::Error;

use super::Grant;
use super::token::{GRANT_PATTERNS_MAX, Object, TokenError};
use crate::user::UserId;

const USER: &str = "the user's id, text of 1 to 128 bytes or a whole number";

/// Why an answer cannot be used. The texts are for the operator.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum AnswerError {
    /// It is neither empty nor a JSON object.
    #[error("the answer's body is neither empty nor a JSON object in which each name stands once")]
    NotAnObject,
    /// A member has another form than expected.
    #[error("the answer's {name:?} must be {expected}")]
    Member {
        /// The member's name.
        name: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// A list is too long.
    #[error("the answer's {0:?} has more than {GRANT_PATTERNS_MAX} entries")]
    TooMany(&'static str),
}

impl From<TokenError> for AnswerError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Claim { name, expected } => Self::Member { name, expected },
            TokenError::TooMany(name) => Self::TooMany(name),
            _ => Self::NotAnObject,
        }
    }
}

/// Some languages have numbers for ids, and say so in JSON.
#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Text(String),
    Number(i64),
    Nobody(()),
}

impl Grant {
    /// What the body of an answer grants.
    pub fn told(body: &[u8]) -> Result<Self, AnswerError> {
        if body.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        let members = Object::parse(body).ok_or(AnswerError::NotAnObject)?;
        let id = match members.get::<Id>("user", USER)? {
            Some(Id::Text(text)) => Some(text),
            Some(Id::Number(number)) => Some(number.to_string()),
            Some(Id::Nobody(())) | None => None,
        };
        let wrong = |_| AnswerError::Member {
            name: "user",
            expected: USER,
        };
        Ok(Self {
            user: id.map(|id| UserId::new(&id).map_err(wrong)).transpose()?,
            listen: members.patterns("listen")?,
            speak: members.patterns("speak")?,
            expires: members.time("exp")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::ChannelPattern;

    /// User, `listen`, `speak` and `exp`.
    type Told<'a> = (Option<&'a str>, &'a [&'a str], &'a [&'a str], Option<u64>);

    #[track_caller]
    fn check(body: &str, expected: Result<Told<'_>, &str>) {
        let patterns = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| ChannelPattern::new(text).unwrap())
                .collect()
        };
        let expected = expected.map(|(user, listen, speak, expires)| Grant {
            user: user.map(|id| UserId::new(id).unwrap()),
            listen: patterns(listen),
            speak: patterns(speak),
            expires,
        });
        let got = Grant::told(body.as_bytes()).map_err(|error| error.to_string());
        assert_eq!(got, expected.map_err(str::to_owned), "{body}");
    }

    #[test]
    fn answers_say_who_somebody_is() {
        check("", Ok((None, &[], &[], None)));
        check(" \r\n", Ok((None, &[], &[], None)));
        check("{}", Ok((None, &[], &[], None)));
        check(r#"{"user":"42"}"#, Ok((Some("42"), &[], &[], None)));
        check(r#"{"user":42,"name":"Ann"}"#, Ok((Some("42"), &[], &[], None)));
        check(r#"{"user":null}"#, Ok((None, &[], &[], None)));
        check(
            r#"{"user":"a","listen":["room/*","x"],"speak":["room/7"],"exp":9}"#,
            Ok((Some("a"), &["room/*", "x"], &["room/7"], Some(9))),
        );
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        let object = "the answer's body is neither empty nor a JSON object in which each name stands once";
        check("ok", Err(object));
        check("[]", Err(object));
        check(r#"{"user":"1","user":"2"}"#, Err(object));
        check("<b>Warning</b>: session_start()", Err(object));
        let user = format!("the answer's \"user\" must be {USER}");
        check(r#"{"user":""}"#, Err(&user));
        check(r#"{"user":4.2}"#, Err(&user));
        check(r#"{"user":["42"]}"#, Err(&user));
        let listen =
            "the answer's \"listen\" must be a list of channel names, or beginnings of names that end with *";
        check(r#"{"listen":"room/7"}"#, Err(listen));
        check(r#"{"listen":[""]}"#, Err(listen));
        let many = format!("{{\"speak\":[{}\"x\"]}}", "\"x\",".repeat(GRANT_PATTERNS_MAX));
        check(&many, Err("the answer's \"speak\" has more than 200 entries"));
    }
}
