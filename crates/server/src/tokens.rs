//! Tokens on a node: the keys they are checked with, where those come from, and who somebody is.
//!
//! Shards only ever look at keys that are here: nothing on the way of a request waits for the
//! network. A token whose `kid` is unknown is refused at once and asks the fetching thread
//! ([`crate::jwks`]) to look; so a thousand such tokens cost one request a minute.
//!
//! What a token means is decided in [`fanfare_core::auth::token`].

use std::sync::Arc;
use std::time::Duration;

use fanfare_core::auth::token::{LEEWAY_SECONDS, TokenError, TokenRules, Verifier, VerifyingKey};
use fanfare_core::auth::{BadCredential, Credential, Grant, Identity, Policy};
use fanfare_core::disconnect::Refusal;
use fanfare_core::limits::seconds;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::clock::unix_now;
use crate::config::Config;
use crate::outgoing::{Reach, Target};

/// Section `[tokens]`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenSettings {
    /// Files with public keys in PEM (RSA, P-256 or Ed25519) that sign tokens. Default none.
    pub public_keys: Vec<String>,
    /// Where the keys of an identity provider are fetched (a JWK set): https, or http on
    /// loopback. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    /// Least time between two fetches, however many unknown keys are asked for. Default 60s.
    #[serde(with = "seconds")]
    pub jwks_pause: Duration,
    /// Most time between two fetches. Default 1h.
    #[serde(with = "seconds")]
    pub jwks_age_max: Duration,
    /// What a token's `aud` must be or hold. Default: not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// What a token's `iss` must be. Default: not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Whether a token must say when it ends. Default true.
    pub exp_required: bool,
    /// Whether the cookie `fanfare_token` also counts for a POST. Default false.
    pub cookie_post: bool,
}

impl Default for TokenSettings {
    fn default() -> Self {
        Self {
            public_keys: Vec::new(),
            jwks_url: None,
            jwks_pause: Duration::from_mins(1),
            jwks_age_max: Duration::from_hours(1),
            audience: None,
            issuer: None,
            exp_required: true,
            cookie_post: false,
        }
    }
}

impl TokenSettings {
    /// Finds what cannot be used; reads the key files for it.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.read_public_keys()?;
        self.source()?;
        if self.jwks_pause < Duration::from_secs(1) {
            return Err("tokens.jwks_pause must be at least 1s".to_owned());
        }
        if self.jwks_age_max < self.jwks_pause {
            return Err("tokens.jwks_age_max must not be less than tokens.jwks_pause".to_owned());
        }
        Ok(())
    }

    fn read_public_keys(&self) -> Result<Vec<VerifyingKey>, String> {
        let read = |path: &String| {
            let pem = std::fs::read(path)
                .map_err(|error| format!("tokens.public_keys: cannot read {path}: {error}"))?;
            VerifyingKey::from_pem(&pem).map_err(|error| format!("tokens.public_keys: {path} {error}"))
        };
        self.public_keys.iter().map(read).collect()
    }

    fn source(&self) -> Result<Option<Target>, String> {
        let source = self
            .jwks_url
            .as_deref()
            .map(|text| Target::parse(text, Reach::PlainLoopback))
            .transpose();
        source.map_err(|error| format!("tokens.jwks_url: {error}"))
    }
}

/// See the module's head.
pub(crate) struct Tokens {
    verifier: RwLock<Arc<Verifier>>,
    /// Where keys are fetched from, if anywhere.
    pub(crate) source: Option<Target>,
    /// A key was asked for that is not here.
    pub(crate) wanted: Notify,
}

impl Tokens {
    /// The keys of a configuration.
    pub(crate) fn new(config: &Config) -> anyhow::Result<Self> {
        let settings = &config.tokens;
        let secrets = [&config.key, &config.key_previous];
        let mut keys: Vec<VerifyingKey> = secrets
            .into_iter()
            .filter_map(|secret| VerifyingKey::from_secret(secret.as_ref()?))
            .collect();
        keys.extend(settings.read_public_keys().map_err(anyhow::Error::msg)?);
        let source = settings.source().map_err(anyhow::Error::msg)?;
        let rules = TokenRules {
            exp_required: settings.exp_required,
            audience: settings.audience.clone(),
            issuer: settings.issuer.clone(),
            keys_are_fetched: source.is_some(),
        };
        Ok(Self {
            verifier: RwLock::new(Arc::new(Verifier::new(keys, rules))),
            source,
            wanted: Notify::new(),
        })
    }

    /// Puts fetched keys in the place of those before.
    pub(crate) fn replace_fetched(&self, keys: Vec<VerifyingKey>) {
        let verifier = Arc::new(self.verifier.read().with_fetched(keys));
        *self.verifier.write() = verifier;
    }

    /// Whether there is any key to check a credential with.
    pub(crate) fn are_checked(&self, policy: &Policy) -> bool {
        !policy.is_open() || !self.verifier.read().is_empty()
    }

    /// Who brings `shown`.
    pub(crate) fn identify(&self, policy: &Policy, shown: Credential<'_>) -> Result<Identity, BadCredential> {
        let verifier = Arc::clone(&self.verifier.read());
        let identity = policy.identify(shown, &verifier, unix_now().as_secs());
        if identity == Err(BadCredential::Token(TokenError::UnknownKey)) {
            self.wanted.notify_one();
        }
        identity
    }

    /// What the bearer of a fresh token is granted who holds `old`: it must be the same user's.
    pub(crate) fn refresh(old: &Grant, fresh: Identity) -> Result<Grant, Refusal> {
        match fresh {
            Identity::Client(fresh) if fresh.user == old.user => Ok(fresh),
            // Without any key tokens are not looked at.
            Identity::Server => Ok(old.clone()),
            Identity::Client(_) => Err(Refusal::Unauthorized(
                "the fresh token is another user's; connect anew with it".into(),
            )),
        }
    }
}

/// How long a session may live that is opened with this grant; `None`: as long as it likes.
///
/// # Errors
///
/// A session ends when its token does, so with one that has run out none begins. The leeway for
/// clocks is for single requests: here it would let a page come back again and again for a minute.
pub(crate) fn time_left(grant: &Grant) -> Result<Option<Duration>, Refusal> {
    let Some(end) = grant.expires else {
        return Ok(None);
    };
    match Duration::from_secs(end).checked_sub(unix_now()) {
        Some(left) if !left.is_zero() => Ok(Some(left)),
        _ => Err(BadCredential::Token(TokenError::Expired).into()),
    }
}

/// How long a single request may take that was made with this grant; `None`: as long as it likes.
pub(crate) fn time_left_with_leeway(grant: &Grant) -> Option<Duration> {
    let end = grant.expires?.saturating_add(LEEWAY_SECONDS);
    Some(Duration::from_secs(end).saturating_sub(unix_now()))
}
