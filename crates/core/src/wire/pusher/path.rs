//! Paths of this door's `WebSockets`: `/app/{key}` behind the prefix of the door, and what the query says.
//!
//! Between prefix and `/app/` there may be `/resume/{hint}`: a text that a page has drawn for itself, so that
//! its connections can be told to belong together. It is 16 to 64 letters, digits, `_` and `-`.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::disconnect::Refusal;

/// Versions of the protocol that are spoken.
const PROTOCOLS: [&str; 3] = ["5", "6", "7"];

/// What the path and query of a handshake say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Knocking<'a> {
    /// The app's key, not looked at yet.
    pub key: Cow<'a, str>,
    /// See the module's head.
    pub hint: Option<&'a str>,
}

/// Reads a path, from which the prefix has been taken. `None`: it is none of this door's.
pub fn parse(path: &str) -> Option<Result<Knocking<'_>, Refusal>> {
    let is_ours = path.starts_with("/app/") || path.starts_with("/resume/");
    let wrong = "the path is /app/ and a key, or before that /resume/ and a hint of 16 to 64 letters, digits, _ and -";
    is_ours.then(|| read(path).ok_or_else(|| Refusal::NotFound(wrong.into())))
}

fn read(path: &str) -> Option<Knocking<'_>> {
    let (hint, rest) = match path.strip_prefix("/resume/") {
        None => (None, path),
        Some(rest) => {
            let (hint, _) = rest.split_once('/')?;
            (Some(hint), rest.get(hint.len()..)?)
        }
    };
    if !hint.is_none_or(is_hint) {
        return None;
    }
    let key = rest.strip_prefix("/app/")?;
    if key.is_empty() || key.contains('/') {
        return None;
    }
    let key = percent_decode_str(key).decode_utf8().ok()?;
    Some(Knocking { key, hint })
}

fn is_hint(text: &str) -> bool {
    (16..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// Whether the query asks for a version that is spoken. One that is not said is the newest: other servers
/// take it so, and clients of today all say it.
pub fn check_protocol(query: Option<&str>) -> Result<(), Refusal> {
    let mut pairs = query.unwrap_or_default().split('&');
    match pairs.find_map(|pair| pair.strip_prefix("protocol=")) {
        None | Some("") => Ok(()),
        Some(version) if PROTOCOLS.contains(&version) => Ok(()),
        Some(_) => Err(Refusal::ProtocolVersion),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, expected: Option<(&str, Option<&str>)>) {
        let found = parse(path).and_then(Result::ok);
        let found = found.as_ref().map(|found| (&*found.key, found.hint));
        assert_eq!(found, expected, "{path}");
    }

    #[test]
    fn paths() {
        check("/app/demo-key", Some(("demo-key", None)));
        check("/app/a%20b", Some(("a b", None)));
        check(
            "/resume/0123456789abcdef/app/demo-key",
            Some(("demo-key", Some("0123456789abcdef"))),
        );
        for path in [
            "/app/",
            "/app",
            "/app/a/b",
            "/apps/a",
            "/resume/short/app/a",
            "/resume/0123456789abcde!/app/a",
            "/resume/0123456789abcdef/apps/a",
            "/x/app/a",
            "",
        ] {
            check(path, None);
        }
        let refused = |path| parse(path).map(|found| found.is_err());
        assert_eq!(refused("/app/"), Some(true));
        assert_eq!(refused("/app/a/b"), Some(true));
        assert_eq!(refused("/resume/short/app/a"), Some(true));
        assert_eq!(refused("/apps/a"), None);
        assert_eq!(refused("/app"), None);
    }

    #[test]
    fn versions() {
        for (query, good) in [
            (None, true),
            (Some(""), true),
            (Some("protocol=7&client=js&version=8.6.0&flash=false"), true),
            (Some("client=js&protocol=5"), true),
            (Some("protocol=6"), true),
            (Some("protocol="), true),
            (Some("protocol=4"), false),
            (Some("protocol=99"), false),
            (Some("protocol=x"), false),
        ] {
            assert_eq!(check_protocol(query).is_ok(), good, "{query:?}");
        }
    }
}
