//! Keys that tokens are checked with. Each is for one algorithm, and knows which.
//!
//! | from                  | algorithm                                                  |
//! |-----------------------|------------------------------------------------------------|
//! | the server's own key  | HS256                                                      |
//! | a public key in PEM   | RS256 (RSA), ES256 (P-256) or EdDSA (Ed25519), by its kind |
//! | a JWK set (RFC 7517)  | the same; what is for something else is left out           |
//!
//! Private keys and certificates are refused: the one has no business here, and of the other only
//! the key would be looked at.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde::Deserialize;
use thiserror::Error;

use crate::auth::Secret;

/// Most keys of one JWK set.
const KEYS_MAX: usize = 100;

/// The uncompressed point of a P-256 key, in bytes.
const P256_BYTES: usize = 65;

/// An Ed25519 key, in bytes.
const ED25519_BYTES: usize = 32;

/// Keys that cannot be used.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum KeyError {
    /// Not a public key in PEM.
    #[error("is not a public key in PEM (\"-----BEGIN PUBLIC KEY-----\")")]
    NotPublic,
    /// A key that we have no algorithm for.
    #[error("is not an RSA, P-256 or Ed25519 key")]
    Kind,
    /// Not a JWK set.
    #[error("the answer is not a JWK set ({{\"keys\":[…]}})")]
    NotASet,
    /// Too many keys.
    #[error("the JWK set has more than {KEYS_MAX} keys")]
    TooMany,
}

/// See the module's head.
#[derive(Clone, Debug)]
pub struct VerifyingKey {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

impl VerifyingKey {
    /// The server's own key. `None` for an empty one, with which anybody could sign.
    pub fn from_secret(secret: &Secret) -> Option<Self> {
        let secret = secret.expose().as_bytes();
        (!secret.is_empty()).then(|| Self {
            id: None,
            algorithm: Algorithm::HS256,
            key: DecodingKey::from_secret(secret),
        })
    }

    /// A public key in PEM, as `openssl pkey -pubout` writes it.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        // The library takes private keys and certificates for their public half.
        if !pem.trim_ascii_start().starts_with(b"-----BEGIN PUBLIC KEY-----") {
            return Err(KeyError::NotPublic);
        }
        let rsa = || Some((Algorithm::RS256, DecodingKey::from_rsa_pem(pem).ok()?));
        let ec = || Some((Algorithm::ES256, DecodingKey::from_ec_pem(pem).ok()?));
        let ed = || Some((Algorithm::EdDSA, DecodingKey::from_ed_pem(pem).ok()?));
        // Each of the specific ones knows its kind; the one for RSA takes what the others left.
        let (algorithm, key) = ed().or_else(ec).or_else(rsa).ok_or(KeyError::NotPublic)?;
        Self {
            id: None,
            algorithm,
            key,
        }
        .checked()
        .ok_or(KeyError::Kind)
    }

    /// The keys of a JWK set that are for signatures we check. Others are left out.
    pub fn from_jwks(json: &[u8]) -> Result<Vec<Self>, KeyError> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set = serde_json::from_slice(json).map_err(|_| KeyError::NotASet)?;
        if set.keys.len() > KEYS_MAX {
            return Err(KeyError::TooMany);
        }
        // One by one: a key of a kind that the library does not know must not cost us the others.
        let keys = set.keys.into_iter();
        Ok(keys
            .filter_map(|key| serde_json::from_value(key).ok().and_then(Self::from_jwk))
            .collect())
    }

    fn from_jwk(jwk: Jwk) -> Option<Self> {
        let common = jwk.common.clone();
        if common
            .public_key_use
            .is_some_and(|used| used != PublicKeyUse::Signature)
        {
            return None;
        }
        let (algorithm, named) = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
                (Algorithm::ES256, KeyAlgorithm::ES256)
            }
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
            }
            // Symmetric ones too: a set that anybody may fetch holds no secret.
            _ => return None,
        };
        if common.key_algorithm.is_some_and(|known| known != named) {
            return None;
        }
        Self {
            id: common.key_id,
            algorithm,
            key: DecodingKey::from_jwk(&jwk).ok()?,
        }
        .checked()
    }

    /// Itself, if its size is what its algorithm needs.
    fn checked(self) -> Option<Self> {
        let wanted = match self.algorithm {
            Algorithm::ES256 => P256_BYTES,
            Algorithm::EdDSA => ED25519_BYTES,
            // 2,048 to 8,192 bits, which the library sees to.
            _ => return Some(self),
        };
        let fits = self
            .key
            .try_get_as_bytes()
            .is_ok_and(|bytes| bytes.len() == wanted);
        fits.then_some(self)
    }

    /// `kid`, if the key has one.
    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The algorithm as `alg` names it.
    pub(super) fn algorithm_name(&self) -> &'static str {
        match self.algorithm {
            Algorithm::HS256 => "HS256",
            Algorithm::RS256 => "RS256",
            Algorithm::ES256 => "ES256",
            _ => "EdDSA",
        }
    }

    /// Whether keys of this algorithm may come out of a JWK set.
    pub(super) fn can_be_fetched(algorithm: &str) -> bool {
        matches!(algorithm, "RS256" | "ES256" | "EdDSA")
    }

    /// Whether `signature` (base64url) is this key's over `signed`. HMACs are compared in constant
    /// time.
    pub(super) fn verifies(&self, signed: &str, signature: &str) -> bool {
        crypto::verify(signature, signed.as_bytes(), &self.key, self.algorithm).unwrap_or(false)
    }
}
