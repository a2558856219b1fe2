//! What a request about people asks for: `/user/…`, and `/ch/{channel}/user/{id}`.
//!
//! In a channel's path the last `/user/` before decoding is the one that counts, so a channel whose
//! name has a slash in it is written with `%2F`, or just so: `/ch/room/7/user/42`.
//!
//! This module does not decide whether the answer is yes; see [`crate::auth`].

use crate::channel::ChannelName;
use crate::disconnect::Refusal;
use crate::user::UserId;

use super::request::{decode, pairs};

/// Users that one request may ask about.
pub const USERS_PER_REQUEST_MAX: usize = 100;

/// Whom a request is about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PersonRequest {
    /// `/user/{id}`: one.
    One {
        /// Who.
        user: UserId,
        /// `connection=`: only this one of her connections.
        connection: Option<String>,
    },
    /// `/user?id=…&id=…`: several.
    Several(Vec<UserId>),
    /// `/ch/{channel}/user/{id}`: one, in a channel. Only for methods that say nothing to a channel.
    InChannel {
        /// Where.
        channel: ChannelName,
        /// Who.
        user: UserId,
    },
}

impl PersonRequest {
    /// Reads a path and a query. `None`: it is not about people.
    pub fn parse(path: &str, query: Option<&str>) -> Option<Result<Self, Refusal>> {
        let query = query.unwrap_or_default();
        if let Some(id) = path.strip_prefix("/user/") {
            return Some(Self::one(id, query));
        }
        if path == "/user" {
            return Some(Self::several(query));
        }
        let (channel, id) = path.strip_prefix("/ch/")?.rsplit_once("/user/")?;
        Some(Self::in_channel(channel, id))
    }

    fn one(id: &str, query: &str) -> Result<Self, Refusal> {
        let mut connection = None;
        for pair in pairs(query) {
            let (key, value) = pair?;
            if key == "connection" {
                connection = Some(value.into_owned());
            }
        }
        let user = user(&decode(id)?)?;
        Ok(Self::One { user, connection })
    }

    fn several(query: &str) -> Result<Self, Refusal> {
        let mut users = Vec::new();
        for pair in pairs(query) {
            let (key, value) = pair?;
            if key == "id" {
                users.push(user(&value)?);
            }
        }
        match users.len() {
            0 => Err(Refusal::bad_request(
                "name a user: /user/{id}, or /user?id=…&id=…",
            )),
            1..=USERS_PER_REQUEST_MAX => Ok(Self::Several(users)),
            _ => Err(Refusal::bad_request(format!(
                "at most {USERS_PER_REQUEST_MAX} users at once"
            ))),
        }
    }

    fn in_channel(channel: &str, id: &str) -> Result<Self, Refusal> {
        let channel =
            ChannelName::new(&decode(channel)?).map_err(|error| Refusal::bad_request(error.to_string()))?;
        let user = user(&decode(id)?)?;
        Ok(Self::InChannel { channel, user })
    }
}

fn user(id: &str) -> Result<UserId, Refusal> {
    UserId::new(id).map_err(|error| Refusal::bad_request(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(target: &str, expected: Option<&str>) {
        let (path, query) = target
            .split_once('?')
            .map_or((target, None), |(path, query)| (path, Some(query)));
        let got = PersonRequest::parse(path, query).map(|request| match request {
            Ok(PersonRequest::One { user, connection }) => format!("{user} {connection:?}"),
            Ok(PersonRequest::Several(users)) => format!("{users:?}"),
            Ok(PersonRequest::InChannel { channel, user }) => format!("{user} in {channel}"),
            Err(refusal) => refusal.status().to_string(),
        });
        assert_eq!(got.as_deref(), expected, "{target}");
    }

    #[test]
    fn paths_about_people() {
        check("/user/42", Some("42 None"));
        check("/user/a%2Fb?connection=x", Some("a/b Some(\"x\")"));
        check("/user/a/b", Some("a/b None"));
        check("/user?id=42&id=4+3", Some("[\"42\", \"4 3\"]"));
        check("/ch/room/user/42", Some("42 in room"));
        check("/ch/room/7/user/42", Some("42 in room/7"));
        check("/ch/room%2F7/user/42", Some("42 in room/7"));
        check("/ch/user/user/user/7", Some("7 in user/user"));
        for refused in [
            "/user/",
            "/user",
            "/user?id=",
            "/user/%ff",
            "/user/%0a",
            "/ch/*/user/42",
            "/ch/a/user/",
        ] {
            check(refused, Some("400"));
        }
        check(&format!("/user/{}", "x".repeat(129)), Some("400"));
        check(&format!("/user?{}", "id=x&".repeat(101)), Some("400"));
        for other in ["/users/42", "/ch/room", "/ch/room/users/42", "/"] {
            check(other, None);
        }
    }
}
