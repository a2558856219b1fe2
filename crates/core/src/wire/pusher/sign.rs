//! What is signed, and whether a signature is good (`pusher.md` section 11).
//!
//! Every signature is a lower-case hexadecimal HMAC-SHA256 with the app's secret. What is signed is the
//! text as it was received: nothing is parsed and printed again. Signatures are compared in constant
//! time, and the one that would have been good is told to nobody.

use std::fmt::Write as _;

use aws_lc_rs::hmac;
use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

use crate::auth::Secret;

/// What to sign to subscribe to a channel.
pub fn subscription(socket_id: &str, channel: &str, channel_data: Option<&str>) -> String {
    match channel_data {
        None => format!("{socket_id}:{channel}"),
        Some(data) => format!("{socket_id}:{channel}:{data}"),
    }
}

/// What to sign to be a user.
pub fn user(socket_id: &str, user_data: &str) -> String {
    format!("{socket_id}::user::{user_data}")
}

/// The signature of a text.
pub fn sign(secret: &Secret, text: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
    hex(hmac::sign(&key, text).as_ref())
}

/// Whether this is the signature of a text.
pub fn is_good(secret: &Secret, text: &[u8], signature: &str) -> bool {
    sign(secret, text).as_bytes().ct_eq(signature.as_bytes()).into()
}

/// Why the `auth` of a subscription or sign-in is not good: a sentence for whoever sent it.
///
/// `signed` is what should have been signed.
pub fn check_auth(auth: &str, key: &str, secret: &Secret, signed: &str) -> Result<(), String> {
    if auth.is_empty() {
        return Err("this needs a signature (auth)".to_owned());
    }
    let Some((shown, signature)) = auth.split_once(':') else {
        return Err("auth must be the app's key, a colon and a signature".to_owned());
    };
    if shown != key {
        return Err("invalid key in auth: it is not the key of this app".to_owned());
    }
    if !is_good(secret, signed.as_bytes(), signature) {
        return Err(format!(
            "invalid signature: expected the HMAC SHA256 hex digest of {signed}"
        ));
    }
    Ok(())
}

/// The MD5 of a body, as `body_md5` has it.
pub fn body_md5(body: &[u8]) -> String {
    hex(&Md5::digest(body))
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "demo-key-7f3a";
    const SECRET: &str = "demo-secret-b91c";
    const SOCKET: &str = "81923.4471";

    #[track_caller]
    fn check(signed: &str, signature: &str) {
        let secret = Secret::new(SECRET);
        assert_eq!(sign(&secret, signed.as_bytes()), signature, "{signed}");
        assert_eq!(
            check_auth(&format!("{KEY}:{signature}"), KEY, &secret, signed),
            Ok(())
        );
    }

    /// The worked examples of `pusher.md` section 11, which were made with two other implementations.
    #[test]
    fn known_signatures() {
        let member = r#"{"user_id":"u-17","user_info":{"name":"Mei","role":"editor"}}"#;
        check(
            &subscription(SOCKET, "private-orders.42", None),
            "dd528e5d9d40821a0c5b5d8a67064faf24a57c02c94fdce8b13e87c457fe193d",
        );
        check(
            &subscription(SOCKET, "presence-room.3", Some(member)),
            "c62d68ab4cc29e9326aed8aa954d8424d3c3411abf86fe55d1261e55b90dbc40",
        );
        check(
            &subscription(SOCKET, "private-orders.42", Some(member)),
            "3f18698276c62ad4b7210119c6eec8ce5ce3cd2a623bb3a056337124e628f3ee",
        );
        check(
            &user(
                SOCKET,
                r#"{"id":"u-17","user_info":{"name":"Mei"},"watchlist":["u-2","u-9"]}"#,
            ),
            "0c88e3bfd6715adb7c088093f0b9a66aeb680b58ffcaccdeeb0be355bd3e2d47",
        );
        // A webhook's body (section 13).
        check(
            r#"{"time_ms":1795400000123,"events":[{"name":"channel_occupied","channel":"orders"}]}"#,
            "0164f6cb8a712917ed15ff3b2cc61aa4ad4e1114fc7435cae253f9cf570223fb",
        );
    }

    #[test]
    fn what_is_not_good_is_said_without_the_answer() {
        let secret = Secret::new(SECRET);
        let signed = subscription(SOCKET, "private-orders.42", None);
        let good = sign(&secret, signed.as_bytes());
        for (auth, says) in [
            (String::new(), "needs a signature"),
            (good.clone(), "a colon"),
            (format!("other:{good}"), "invalid key"),
            (format!("{KEY}:{}", &good[1..]), "invalid signature"),
            (format!("{KEY}:{}", good.to_uppercase()), "invalid signature"),
            (format!("{KEY}:"), "invalid signature"),
        ] {
            let error = check_auth(&auth, KEY, &secret, &signed).unwrap_err();
            assert!(error.contains(says) && !error.contains(&good), "{auth}: {error}");
        }
    }

    #[test]
    fn bodies() {
        let body = r#"{"name":"order.updated","channels":["private-orders.42","orders"],"data":"{\"id\":42,\"state\":\"paid\"}","socket_id":"81923.4471","info":"subscription_count"}"#;
        assert_eq!(body_md5(body.as_bytes()), "bcc8811fcc59498cf1d03790c9971c70");
        assert_eq!(body_md5(b""), "d41d8cd98f00b204e9800998ecf8427e");
    }
}
