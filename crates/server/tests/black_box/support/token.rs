//! Tokens, made as a site's back end would: by a library, from claims.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::support::KEY;

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Claims that are good for an hour, and these.
pub fn claims(more: Value) -> Value {
    let mut claims = json!({"exp": now() + 3_600});
    claims
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    claims
}

/// Exactly these claims, signed with this key.
pub fn signed(key: &str, claims: &Value) -> String {
    let key = EncodingKey::from_secret(key.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key).unwrap()
}

/// A token of the server's key that is good for an hour.
pub fn token(more: Value) -> String {
    signed(KEY, &claims(more))
}
