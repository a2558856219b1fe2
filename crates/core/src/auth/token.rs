//! Tokens: JSON Web Tokens (RFC 7519, 7515), and who they say somebody is.
//!
//! A token is judged in the order of RFC 8725: its size, its form, its header, its signature, and
//! only then what it claims. What always holds:
//!
//! * The algorithm is that of the *key*; the header only says which keys to try. So there is no
//!   `none`, a public key is never the secret of an HMAC, and an HMAC key checks nothing else.
//! * Nothing in a token leads anywhere: `kid` selects among the keys that are here, and a header
//!   with `jku`, `jwk`, `x5u`, `x5c`, or anything that must be understood (`crit`), is refused.
//! * A claim that we know and that has another form than expected refuses the whole token, and so
//!   does a name that stands twice in an object.
//!
//! | claim               | is                                                                   |
//! |---------------------|----------------------------------------------------------------------|
//! | `sub`               | the user's id, a string                                              |
//! | `listen`, `speak`   | lists of channel names or patterns (`room/*`), at most 200 each      |
//! | `mercure.subscribe` | counts as `listen`, but as Mercure means it: a name, or `*` for all  |
//! | `exp`, `nbf`        | Unix time in seconds, with [`LEEWAY_SECONDS`] for clocks that differ |
//! | `aud`, `iss`        | compared with the settings, where they are set                       |
//!
//! The signatures are those of the library `jsonwebtoken`. Time is an argument, and fetching keys
//! is the server's business: this module holds keys and knows no network.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use thiserror::Error;

use super::{Grant, Secret};
use crate::channel::{ChannelName, ChannelPattern};
use crate::user::UserId;

mod key;

pub use key::{KeyError, VerifyingKey};

/// Largest token, in bytes; larger ones are not even decoded.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;

/// Most entries of `listen`, `speak` or `mercure.subscribe`.
pub const GRANT_PATTERNS_MAX: usize = 200;

/// Most keys that one token is tried against: those of its algorithm, and of its `kid` if it has one.
pub const KEYS_TRIED_MAX: usize = 8;

/// How far the clock of whoever made a token may be away from ours, in seconds.
pub const LEEWAY_SECONDS: u64 = 60;

/// Header parameters that would have us take a key from the token, or from where it says.
const LEADING_AWAY: [&str; 4] = ["jku", "jwk", "x5u", "x5c"];

/// Why a token is not accepted. The texts are for the developer at the other end.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum TokenError {
    /// Larger than [`TOKEN_BYTES_MAX`].
    #[error("the token is larger than {TOKEN_BYTES_MAX} bytes")]
    TooLarge,
    /// Not `header.claims.signature`, each in base64url without padding.
    #[error("what was shown is not a token; one looks like header.claims.signature, in base64url")]
    Malformed,
    /// The header is not a JSON object of unique names with `alg` and perhaps `kid`, both text.
    #[error("the token's header is not a JSON object with the algorithm in \"alg\"")]
    Header,
    /// The header holds something that we will not follow.
    #[error("the token's header holds {0:?}, which is not accepted here")]
    HeaderParameter(&'static str),
    /// There is no key for the algorithm that the header names.
    #[error("this server has no key for the token's algorithm (\"alg\" in its header)")]
    Algorithm,
    /// No key has this `kid`, but one may be on its way.
    #[error(
        "this server does not know the token's key (\"kid\" in its header) yet; it is looking for new keys, \
         so try again in a minute"
    )]
    UnknownKey,
    /// The signature is not one of our keys'.
    #[error("the token's signature does not match: it was made with another key, or the token was changed")]
    Signature,
    /// The claims are not a JSON object of unique names.
    #[error("the token's claims are not a JSON object in which each name stands once")]
    Claims,
    /// A claim has another form than expected.
    #[error("the token's claim {name:?} must be {expected}")]
    Claim {
        /// The claim's name.
        name: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// A list is too long.
    #[error("the token's claim {0:?} has more than {GRANT_PATTERNS_MAX} entries")]
    TooMany(&'static str),
    /// No `exp`, although this server wants one.
    #[error("the token has no \"exp\": say when it ends, in Unix seconds (setting tokens.exp_required)")]
    NoExpiry,
    /// `exp` has passed.
    #[error("the token has run out (\"exp\")")]
    Expired,
    /// `nbf` has not come.
    #[error("the token is not valid yet (\"nbf\")")]
    NotYet,
    /// `aud` is not us.
    #[error("the token is for somebody else: \"aud\" does not name this server (setting tokens.audience)")]
    Audience,
    /// `iss` is not whom we trust.
    #[error("the token is from somebody else: \"iss\" is not the setting tokens.issuer")]
    Issuer,
}

/// What tokens must say, besides being signed.
#[derive(Clone, Debug, Default)]
pub struct TokenRules {
    /// A token must have `exp`.
    pub exp_required: bool,
    /// What `aud` must be or hold.
    pub audience: Option<String>,
    /// What `iss` must be.
    pub issuer: Option<String>,
    /// Keys are fetched from elsewhere, so that an unknown `kid` may become known.
    pub keys_are_fetched: bool,
}

/// Keys, and the rules that hold for tokens signed with them.
#[derive(Clone, Debug, Default)]
pub struct Verifier {
    own: Vec<VerifyingKey>,
    fetched: Vec<VerifyingKey>,
    rules: TokenRules,
}

impl Verifier {
    /// A verifier with keys of the configuration.
    pub fn new(keys: Vec<VerifyingKey>, rules: TokenRules) -> Self {
        Self {
            own: keys,
            fetched: Vec::new(),
            rules,
        }
    }

    /// The same with these keys from elsewhere instead of those it had.
    #[must_use]
    pub fn with_fetched(&self, keys: Vec<VerifyingKey>) -> Self {
        Self {
            fetched: keys,
            ..self.clone()
        }
    }

    /// Whether no token can ever be good here, so that nobody would bring one.
    pub fn is_empty(&self) -> bool {
        self.own.is_empty() && self.fetched.is_empty() && !self.rules.keys_are_fetched
    }

    /// What `token` grants at `now`, in Unix seconds.
    ///
    /// # Errors
    ///
    /// [`TokenError::UnknownKey`] is the one that looking for new keys may mend.
    pub fn verify(&self, token: &str, now: u64) -> Result<Grant, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLarge);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        if claims.contains('.') {
            return Err(TokenError::Malformed);
        }
        let header = decode(header)?;
        let header = Header::read(&header)?;
        self.check_signature(&header, signed, signature)?;
        let claims = decode(claims)?;
        self.read_claims(&claims, now)
    }

    fn check_signature(&self, header: &Header, signed: &str, signature: &str) -> Result<(), TokenError> {
        let keys = || {
            let all = self.own.iter().chain(&self.fetched);
            all.filter(|key| key.algorithm_name() == header.algorithm)
        };
        let fits = |key: &&VerifyingKey| match (key.id(), &header.key_id) {
            (Some(own), Some(wanted)) => own == wanted,
            (None, _) | (_, None) => true,
        };
        let good = keys()
            .filter(fits)
            .take(KEYS_TRIED_MAX)
            .any(|key| key.verifies(signed, signature));
        if good {
            return Ok(());
        }
        let wanted = header.key_id.as_deref();
        let is_known = match wanted {
            Some(_) => keys().any(|key| key.id() == wanted),
            None => keys().next().is_some(),
        };
        if self.rules.keys_are_fetched && !is_known && VerifyingKey::can_be_fetched(&header.algorithm) {
            Err(TokenError::UnknownKey)
        } else if keys().next().is_none() {
            Err(TokenError::Algorithm)
        } else {
            Err(TokenError::Signature)
        }
    }

    fn read_claims(&self, claims: &[u8], now: u64) -> Result<Grant, TokenError> {
        let claims = Object::parse(claims).ok_or(TokenError::Claims)?;
        let expires = claims.time("exp")?;
        match expires {
            None if self.rules.exp_required => return Err(TokenError::NoExpiry),
            Some(end) if now >= end.saturating_add(LEEWAY_SECONDS) => return Err(TokenError::Expired),
            _ => {}
        }
        if claims
            .time("nbf")?
            .is_some_and(|begin| begin > now.saturating_add(LEEWAY_SECONDS))
        {
            return Err(TokenError::NotYet);
        }
        let issuer: Option<String> = claims.get("iss", "text")?;
        if self.rules.issuer.is_some() && issuer != self.rules.issuer {
            return Err(TokenError::Issuer);
        }
        let audience: Option<OneOrMany> = claims.get("aud", "text or a list of texts")?;
        if let Some(own) = &self.rules.audience
            && !audience.is_some_and(|audience| audience.holds(own))
        {
            return Err(TokenError::Audience);
        }
        let user = match claims.get::<String>("sub", SUB)? {
            None => None,
            Some(id) => Some(UserId::new(&id).map_err(|_| TokenError::Claim {
                name: "sub",
                expected: SUB,
            })?),
        };
        let mut listen = claims.patterns("listen")?;
        if let Some(mercure) = claims.0.get("mercure") {
            listen.extend(mercure_topics(mercure.get().as_bytes())?);
        }
        Ok(Grant {
            user,
            listen,
            speak: claims.patterns("speak")?,
            expires,
        })
    }
}

const SUB: &str = "the user's id as text of 1 to 128 bytes, such as \"42\"";
const PATTERNS: &str = "a list of channel names, or beginnings of names that end with *";
const TOPICS: &str = "an object whose \"subscribe\" is a list of texts";

/// What Mercure's claim lets its bearer hear. There a star stands for everything when it is
/// alone, and for itself elsewhere; a template (`{id}`) names no channel of ours.
fn mercure_topics(claim: &[u8]) -> Result<Vec<ChannelPattern>, TokenError> {
    let wrong = TokenError::Claim {
        name: "mercure",
        expected: TOPICS,
    };
    let claim = Object::parse(claim).ok_or(wrong)?;
    let topics: Vec<String> = claim
        .get("subscribe", TOPICS)
        .map_err(|_| wrong)?
        .unwrap_or_default();
    if topics.len() > GRANT_PATTERNS_MAX {
        return Err(TokenError::TooMany("mercure"));
    }
    let pattern = |topic: &String| match topic.as_str() {
        "*" => ChannelPattern::new("*").ok(),
        name if name.contains('{') => None,
        name => ChannelName::new(name)
            .ok()
            .map(|name| ChannelPattern::exactly(&name)),
    };
    Ok(topics.iter().filter_map(pattern).collect())
}

fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed)
}

/// What a header says that matters.
struct Header {
    algorithm: String,
    key_id: Option<String>,
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, TokenError> {
        let header = Object::parse(bytes).ok_or(TokenError::Header)?;
        // RFC 7515 section 4.1.11: whoever does not understand all of `crit` must refuse, and we
        // understand no extension.
        let refused = LEADING_AWAY.into_iter().chain(["crit"]);
        if let Some(name) = refused.into_iter().find(|name| header.0.contains_key(*name)) {
            return Err(TokenError::HeaderParameter(name));
        }
        let text = |name| header.get::<String>(name, "").map_err(|_| TokenError::Header);
        Ok(Self {
            algorithm: text("alg")?.ok_or(TokenError::Header)?,
            key_id: text("kid")?,
        })
    }
}

/// A JSON object in which each name stands once; the values as they were written.
pub(super) struct Object<'a>(BTreeMap<String, &'a RawValue>);

impl<'a> Object<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        serde_json::from_str(std::str::from_utf8(bytes).ok()?).ok()
    }

    /// The value of a claim, if there is one.
    pub(super) fn get<T: DeserializeOwned>(
        &self,
        name: &'static str,
        expected: &'static str,
    ) -> Result<Option<T>, TokenError> {
        self.0
            .get(name)
            .map(|value| serde_json::from_str(value.get()))
            .transpose()
            .map_err(|_| TokenError::Claim { name, expected })
    }

    /// RFC 7519 section 2: seconds, and there may be a fraction, which does not matter here.
    pub(super) fn time(&self, name: &'static str) -> Result<Option<u64>, TokenError> {
        let expected = "a Unix time in seconds, as a number";
        let Some(number) = self.get::<serde_json::Number>(name, expected)? else {
            return Ok(None);
        };
        let fraction = || {
            let seconds = std::time::Duration::try_from_secs_f64(number.as_f64()?).ok()?;
            Some(seconds.as_secs())
        };
        match number.as_u64().or_else(fraction) {
            Some(seconds) => Ok(Some(seconds)),
            None => Err(TokenError::Claim { name, expected }),
        }
    }

    pub(super) fn patterns(&self, name: &'static str) -> Result<Vec<ChannelPattern>, TokenError> {
        let texts: Vec<String> = self.get(name, PATTERNS)?.unwrap_or_default();
        if texts.len() > GRANT_PATTERNS_MAX {
            return Err(TokenError::TooMany(name));
        }
        let wrong = |_| TokenError::Claim {
            name,
            expected: PATTERNS,
        };
        texts
            .iter()
            .map(|text| ChannelPattern::new(text).map_err(wrong))
            .collect()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Unique;

        impl<'de> Visitor<'de> for Unique {
            type Value = BTreeMap<String, &'de RawValue>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    if members.insert(name, value).is_some() {
                        return Err(A::Error::custom("a name stands twice"));
                    }
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(Unique).map(Object)
    }
}

/// `aud`: RFC 7519 section 4.1.3.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn holds(&self, wanted: &str) -> bool {
        match self {
            Self::One(text) => text == wanted,
            Self::Many(texts) => texts.iter().any(|text| text == wanted),
        }
    }
}

/// A token with these claims (a JSON object), signed with HS256 and the server's key.
///
/// # Errors
///
/// The library could not sign; it has no reason to.
pub fn sign(claims: &str, key: &Secret) -> Result<String, jsonwebtoken::errors::Error> {
    let [header, claims] =
        [r#"{"alg":"HS256","typ":"JWT"}"#, claims].map(|part| URL_SAFE_NO_PAD.encode(part));
    let signed = format!("{header}.{claims}");
    let key = EncodingKey::from_secret(key.expose().as_bytes());
    let signature = crypto::sign(signed.as_bytes(), &key, Algorithm::HS256)?;
    Ok(format!("{signed}.{signature}"))
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
