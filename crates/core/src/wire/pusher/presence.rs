//! Members of presence channels, as the protocol tells of them (`pusher.md` section 6).
//!
//! Ids are strings, and a number that stands for one is the same id. What is shown of a member, her
//! `user_info`, is any JSON value, kept and given on as it was signed; who has none is shown as `null`.

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

use super::quoted;
use crate::user::UserId;

/// What `channel_data` says of a new member, or `user_data` of a user who signs in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Profile {
    /// Who.
    pub user: UserId,
    /// What is shown of her, as JSON, if anything.
    pub info: Option<Box<str>>,
    /// Users whom she watches; only of who signs in.
    pub watchlist: Vec<String>,
}

#[derive(Deserialize)]
struct ChannelData<'a> {
    #[serde(borrow)]
    user_id: Option<&'a RawValue>,
    #[serde(borrow)]
    user_info: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct UserData<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    user_info: Option<&'a RawValue>,
    #[serde(borrow)]
    watchlist: Option<&'a RawValue>,
}

/// Why a profile cannot be used: a sentence for whoever sent it.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum ProfileError {
    /// It is not what it should be.
    #[error("{0}")]
    Malformed(&'static str),
    /// `user_info` is larger than this.
    #[error("user_info is larger than {0} bytes")]
    TooLarge(usize),
}

/// Reads the `channel_data` of a subscription.
pub fn channel_data(text: &str, info_bytes_max: usize) -> Result<Profile, ProfileError> {
    let data: ChannelData<'_> = serde_json::from_str(text)
        .map_err(|_| ProfileError::Malformed("channel_data is not a JSON object"))?;
    let id = data
        .user_id
        .ok_or(ProfileError::Malformed("channel_data has no user_id"))?;
    Ok(Profile {
        user: user(id, true)?,
        info: info(data.user_info, info_bytes_max)?,
        watchlist: Vec::new(),
    })
}

/// Reads the `user_data` of a sign-in: an object whose `id` is a string that is not empty.
pub fn user_data(text: &str, info_bytes_max: usize) -> Result<Profile, ProfileError> {
    let data: UserData<'_> =
        serde_json::from_str(text).map_err(|_| ProfileError::Malformed("user_data is not a JSON object"))?;
    let id = data.id.ok_or(ProfileError::Malformed("user_data has no id"))?;
    let watchlist = match data.watchlist {
        None => Vec::new(),
        Some(list) => serde_json::from_str::<Vec<serde_json::Value>>(list.get())
            .map_err(|_| ProfileError::Malformed("watchlist is not a list of ids"))?
            .into_iter()
            .filter_map(|id| match id {
                serde_json::Value::String(id) => Some(id),
                serde_json::Value::Number(id) => Some(id.to_string()),
                _ => None,
            })
            .collect(),
    };
    Ok(Profile {
        user: user(id, false)?,
        info: info(data.user_info, info_bytes_max)?,
        watchlist,
    })
}

/// An id: a string, or where libraries send such a whole number, which is the same id as its digits.
fn user(raw: &RawValue, or_number: bool) -> Result<UserId, ProfileError> {
    let text: String = match serde_json::from_str(raw.get()) {
        Ok(text) => text,
        Err(_) if or_number && serde_json::from_str::<serde_json::Number>(raw.get()).is_ok() => {
            raw.get().to_owned()
        }
        Err(_) => return Err(ProfileError::Malformed("the id of a user is a string")),
    };
    let wrong = "the id of a user has 1 to 128 bytes and no control or invisible characters";
    UserId::new(&text).map_err(|_| ProfileError::Malformed(wrong))
}

fn info(raw: Option<&RawValue>, bytes_max: usize) -> Result<Option<Box<str>>, ProfileError> {
    let Some(raw) = raw.map(RawValue::get).filter(|raw| *raw != "null") else {
        return Ok(None);
    };
    if raw.len() > bytes_max {
        return Err(ProfileError::TooLarge(bytes_max));
    }
    Ok(Some(raw.into()))
}

/// `data` of a new subscriber of a presence channel: who is there, herself included.
pub fn roster<'a>(members: impl ExactSizeIterator<Item = (&'a UserId, Option<&'a str>)> + Clone) -> String {
    let mut text = format!("{{\"presence\":{{\"count\":{},\"ids\":[", members.len());
    for (place, (user, _)) in members.clone().enumerate() {
        text.push_str(if place == 0 { "" } else { "," });
        text.push_str(&quoted(user));
    }
    text.push_str("],\"hash\":{");
    for (place, (user, info)) in members.enumerate() {
        text.push_str(if place == 0 { "" } else { "," });
        // Writing to a string cannot fail.
        let _ = write!(text, "{}:{}", quoted(user), info.unwrap_or("null"));
    }
    text.push_str("}}}");
    text
}

/// `data` of [`super::MEMBER_ADDED`].
pub fn added(user: &UserId, info: Option<&str>) -> String {
    let info = info.map_or(String::new(), |info| format!(",\"user_info\":{info}"));
    format!("{{\"user_id\":{}{info}}}", quoted(user))
}

/// `data` of [`super::MEMBER_REMOVED`].
pub fn removed(user: &UserId) -> String {
    format!("{{\"user_id\":{}}}", quoted(user))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_channel_data(text: &str, expected: Option<(&str, Option<&str>)>) {
        let profile = channel_data(text, 20).ok();
        let got = profile
            .as_ref()
            .map(|profile| (profile.user.as_str(), profile.info.as_deref()));
        assert_eq!(got, expected, "{text}");
    }

    #[test]
    fn a_member_is_who_was_signed() {
        check_channel_data(r#"{"user_id":"u-17"}"#, Some(("u-17", None)));
        check_channel_data(r#"{"user_id":5,"user_info":true}"#, Some(("5", Some("true"))));
        check_channel_data(
            r#"{"user_id":"5","user_info":{"a": "\u00e9"}}"#,
            Some(("5", Some(r#"{"a": "\u00e9"}"#))),
        );
        check_channel_data(r#"{"user_id":"5","user_info":null}"#, Some(("5", None)));
        check_channel_data(r#"{"user_id":"x","other":[1]}"#, Some(("x", None)));
        for bad in [
            "",
            "5",
            "[]",
            "{}",
            r#"{"user_id":null}"#,
            r#"{"user_id":""}"#,
            r#"{"user_id":{}}"#,
            r#"{"user_id":true}"#,
            r#"{"user_id":"a\nb"}"#,
            r#"{"user_id":"1","user_info":{"a":"123456789012345"}}"#,
        ] {
            check_channel_data(bad, None);
        }
    }

    #[track_caller]
    fn check_user_data(text: &str, expected: Option<(&str, &[&str])>) {
        let profile = user_data(text, 99).ok();
        let watchlist: Option<Vec<&str>> = profile
            .as_ref()
            .map(|profile| profile.watchlist.iter().map(String::as_str).collect());
        let got = profile.as_ref().map(|profile| profile.user.as_str());
        assert_eq!(
            got.zip(watchlist),
            expected.map(|(id, list)| (id, list.to_vec())),
            "{text}"
        );
    }

    #[test]
    fn a_user_signs_in_with_a_string() {
        check_user_data(r#"{"id":"u-17"}"#, Some(("u-17", &[])));
        check_user_data(
            r#"{"id":"1","user_info":{},"watchlist":["a",5,null]}"#,
            Some(("1", &["a", "5"])),
        );
        for bad in [
            "",
            "{}",
            r#"{"id":5}"#,
            r#"{"id":""}"#,
            r#"{"id":"1","watchlist":5}"#,
        ] {
            check_user_data(bad, None);
        }
    }

    #[test]
    fn the_roster_names_everyone_once() {
        let users: Vec<(UserId, Option<&str>)> = [
            ("u-2", Some(r#"{"name":"Ann"}"#)),
            ("u-17", None),
            ("a\"b", Some("true")),
        ]
        .map(|(id, info)| (UserId::new(id).unwrap(), info))
        .to_vec();
        let members = users.iter().map(|(id, info)| (id, *info));
        assert_eq!(
            roster(members),
            r#"{"presence":{"count":3,"ids":["u-2","u-17","a\"b"],"hash":{"u-2":{"name":"Ann"},"u-17":null,"a\"b":true}}}"#
        );
        let nobody: [(&UserId, Option<&str>); 0] = [];
        assert_eq!(
            roster(nobody.into_iter()),
            r#"{"presence":{"count":0,"ids":[],"hash":{}}}"#
        );
        let id = &users[0].0;
        assert_eq!(added(id, Some("{}")), r#"{"user_id":"u-2","user_info":{}}"#);
        assert_eq!(added(id, None), r#"{"user_id":"u-2"}"#);
        assert_eq!(removed(id), r#"{"user_id":"u-2"}"#);
    }
}
