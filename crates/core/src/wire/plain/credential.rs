//! Where a request to the plain door carries what shows who makes it (`plain.md` section 6).
//!
//! | place                    | may hold              | because                                       |
//! |--------------------------|-----------------------|-----------------------------------------------|
//! | `Authorization: Bearer`  | the key, or a token   | the usual place                               |
//! | `?token=`                | a token               | `EventSource` and `WebSocket` set no fields   |
//! | the cookie [`COOKIE`]    | a token               | a page of the same site need not know of it   |
//!
//! The first of them that is there counts, in this order, and the others are not looked at. A
//! place that is there and empty counts too: whoever meant to be somebody must hear of it.
//!
//! Browsers send cookies along from any page, so whether the cookie may be looked at is decided by
//! the caller, who knows the origin. What is found here must never reach a log line or an error.

use std::borrow::Cow;

use super::request::decode_form;
use crate::auth::Credential;
use crate::disconnect::Refusal;

/// The name of the cookie.
pub const COOKIE: &str = "fanfare_token";

/// The parameter of the query.
const PARAMETER: &str = "token";

/// What a request carries. Holds the text, of which [`Self::credential`] is a view.
#[derive(Clone, Eq, PartialEq)]
pub enum Carried<'a> {
    /// Nothing.
    Nothing,
    /// In the `Authorization` field.
    Bearer(&'a [u8]),
    /// In the query or the cookie.
    Token(Cow<'a, str>),
}

impl<'a> Carried<'a> {
    /// Looks in all places. `cookies` are the `Cookie` fields that may be looked at.
    ///
    /// # Errors
    ///
    /// More than one token in one place, or bytes that are no text: who is meant cannot be known.
    pub fn find(
        authorization: Option<&'a [u8]>,
        query: Option<&'a str>,
        cookies: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Self, Refusal> {
        if let Some(bearer) = authorization.and_then(bearer) {
            return Ok(Self::Bearer(bearer));
        }
        if let Some(token) = in_query(query.unwrap_or_default())? {
            return Ok(Self::Token(token));
        }
        Ok(in_cookies(cookies)?.map_or(Self::Nothing, |token| Self::Token(token.into())))
    }

    /// What was found, to be judged.
    pub fn credential(&self) -> Credential<'_> {
        match self {
            Self::Nothing => Credential::None,
            Self::Bearer(bearer) => Credential::Bearer(bearer),
            Self::Token(token) => Credential::Token(token),
        }
    }
}

/// The token of an `Authorization` field, if it is a bearer token (RFC 6750 section 2.1).
fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    // A field's value has lost the space behind a token that is empty.
    if authorization.eq_ignore_ascii_case(b"bearer") {
        return Some(b"");
    }
    let (scheme, token) = authorization.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| token.trim_ascii())
}

fn in_query(query: &str) -> Result<Option<Cow<'_, str>>, Refusal> {
    let mut found = None;
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if decode_form(name)? == PARAMETER && found.replace(decode_form(value)?).is_some() {
            return Err(two("the query"));
        }
    }
    Ok(found)
}

fn in_cookies<'a>(fields: impl Iterator<Item = &'a [u8]>) -> Result<Option<&'a str>, Refusal> {
    let mut found = None;
    for pair in fields.flat_map(|field| field.split(|&b| b == b';')) {
        let pair = pair.trim_ascii();
        let value = pair
            .strip_prefix(COOKIE.as_bytes())
            .and_then(|rest| rest.strip_prefix(b"="));
        let Some(value) = value else { continue };
        let value = std::str::from_utf8(value)
            .map_err(|_| Refusal::Unauthorized("the cookie fanfare_token holds no token".into()))?;
        if found.replace(value).is_some() {
            return Err(two("the cookie fanfare_token"));
        }
    }
    Ok(found)
}

fn two(place: &str) -> Refusal {
    Refusal::Unauthorized(format!("{place} holds more than one token").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found, as `key x`, `token x` or nothing; or the status of the refusal.
    #[track_caller]
    fn check(authorization: Option<&str>, query: &str, cookies: &[&str], expected: Result<&str, u16>) {
        let cookies = cookies.iter().map(|field| field.as_bytes());
        let found = Carried::find(authorization.map(str::as_bytes), Some(query), cookies);
        let got = found
            .map_err(|refusal| refusal.status())
            .map(|found| match found {
                Carried::Nothing => String::new(),
                Carried::Bearer(bearer) => format!("bearer {}", String::from_utf8_lossy(bearer)),
                Carried::Token(token) => format!("token {token}"),
            });
        assert_eq!(got, expected.map(str::to_owned), "{authorization:?} {query:?}");
    }

    #[test]
    fn bearer_tokens() {
        check(Some("Bearer abc"), "", &[], Ok("bearer abc"));
        check(Some("bearer  abc "), "", &[], Ok("bearer abc"));
        check(Some("Bearer"), "", &[], Ok("bearer "));
        check(Some("Bearer "), "", &[], Ok("bearer "));
        check(Some("Basic abc"), "", &[], Ok(""));
        check(Some("Bearerabc"), "", &[], Ok(""));
        check(Some("Bearé x"), "", &[], Ok(""));
    }

    #[test]
    fn in_the_query() {
        check(None, "token=a.b.c", &[], Ok("token a.b.c"));
        check(None, "meta=1&token=a&x", &[], Ok("token a"));
        check(None, "%74oken=a%2Eb", &[], Ok("token a.b"));
        check(None, "token", &[], Ok("token "));
        check(None, "token=", &[], Ok("token "));
        check(None, "tokens=a&xtoken=b", &[], Ok(""));
        check(None, "token=a&token=a", &[], Err(401));
        check(None, "token=%zz", &[], Err(400));
        check(None, "token=%ff", &[], Err(400));
    }

    #[test]
    fn in_a_cookie() {
        check(None, "", &["fanfare_token=a.b"], Ok("token a.b"));
        check(None, "", &["a=b; fanfare_token=x; c=d"], Ok("token x"));
        check(None, "", &["a=b", "fanfare_token="], Ok("token "));
        check(
            None,
            "",
            &["xfanfare_token=a; fanfare_token2=b; Fanfare_Token=c"],
            Ok(""),
        );
        check(None, "", &["fanfare_token=a; fanfare_token=b"], Err(401));
        check(None, "", &["fanfare_token=a", "fanfare_token=a"], Err(401));
    }

    #[test]
    fn the_first_place_counts() {
        check(Some("Bearer h"), "token=q", &["fanfare_token=c"], Ok("bearer h"));
        check(Some("Basic h"), "token=q", &["fanfare_token=c"], Ok("token q"));
        check(Some("Bearer h"), "token=q&token=r", &[], Ok("bearer h"));
        check(
            None,
            "token=q",
            &["fanfare_token=c; fanfare_token=d"],
            Ok("token q"),
        );
    }
}
