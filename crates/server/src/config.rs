//! The configuration: one value, made of four layers, weak to strong: defaults, a TOML file,
//! `FANFARE_*` variables of the environment, flags of the command line.
//!
//! The doc comment of a field is its reference entry. Unknown keys are refused, and so is
//! everything that contradicts itself, before the first socket opens; a message names the key as
//! the operator wrote it, with its line in the file or the name of the variable.
//!
//! Secrets come from the file or the environment, never from a flag: flags are visible to every
//! user of the machine.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use fanfare_core::auth::{OriginRules, Secret};
use fanfare_core::channel::{CACHE_PREFIXES, ChannelName, ChannelPattern};
use fanfare_core::limits::{Limits, seconds};
use fanfare_core::stream::{HistoryLimits, HistoryRules, SlowConsumer};
use fanfare_core::wire::websocket::deflate::DeflateSettings;
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

use crate::address::NetworkSettings;
use crate::disk::DiskSettings;
use crate::hooks::HookSettings;
use crate::tokens::TokenSettings;
use crate::unix;

mod apps;
mod layers;
mod print;
mod webhooks;

pub use apps::{AppSettings, ClientEvents, Profile, PusherSection, ReplayRule};
#[cfg(test)]
use layers::keys;
pub use layers::{Sources, load};
#[cfg(test)]
use print::described;
pub use print::{defaults_as_toml, shown};
use print::{fresh_key, key_needed};
pub use webhooks::WebhookSettings;

/// Most shards of one node: a set of shards is one 64-bit word.
pub const SHARDS_MAX: usize = 64;

/// Most rules for channels: they are asked one after the other, once per new channel.
const RULES_MAX: usize = 64;

/// Bytes kept of a cache channel, at least: one publication as large as it may be.
const CACHE_BYTES: usize = 1 << 20;

/// Exit status for a configuration that cannot be used (`EX_CONFIG` of sysexits).
pub const EXIT_CONFIG: u8 = 78;

/// Shortest key that is accepted beyond loopback, in bytes.
const KEY_BYTES_MIN: usize = 16;

/// Shorter keys can be guessed offline from one captured token.
const KEY_BYTES_WANTED: usize = 32;

/// Most certificates: at a handshake they are looked at one by one.
const CERTIFICATES_MAX: usize = 64;

/// Keys that stand in examples and so in other people's configurations.
const SAMPLE_KEYS: [&str; 8] = [
    "secret",
    "app-secret",
    "changeme",
    "change-me",
    "password",
    "fanfare",
    "!changethismercurehubjwtsecretkey!",
    "your-secret-key-goes-here",
];

/// Everything a node can be told.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address and port for the doors, without TLS, or `off` if `tls.listen` is set. Beyond loopback
    /// a `key` is needed. Default 127.0.0.1:8080.
    #[serde(with = "address_or_off")]
    pub listen: Option<SocketAddr>,

    /// A Unix socket for the doors, besides `listen`: for who is on this machine. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unix: Option<std::path::PathBuf>,

    /// Permissions of that socket, in octal. Default 0660.
    pub unix_mode: String,

    /// Where health, readiness and metrics are served: an address and port, `off`, or `auto`: on
    /// the doors' own port as long as no key is set (development), else on 127.0.0.1, one port
    /// higher. Default auto.
    pub admin_listen: String,

    /// The key: whoever shows it (`Authorization: Bearer …`) is the back end. Without one, the
    /// server only listens on loopback and everyone may publish. At least 16 bytes beyond
    /// loopback. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Secret>,

    /// The key of before, which still counts, so that the key can be changed without a gap.
    /// Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_previous: Option<Secret>,

    /// `memory`, or `disk`, which has what is kept again after a restart. Default memory.
    pub engine: String,

    /// Folder for what the disk engine writes; one process has it at a time. Default fanfare-data.
    pub data_dir: std::path::PathBuf,

    /// Threads that own connections; 0 means one per core. At most 64. Default 0.
    pub shards: usize,

    /// Origins whose pages may connect, besides the server's own: `https://shop.example`,
    /// `https://*.shop.example`, `null`, or `*`. Default none.
    pub origins: Vec<String>,

    /// Host names that the server answers for, besides loopback names; empty beyond loopback means
    /// any. Needed when a proxy passes the public host name to a loopback address. Default none.
    pub hosts: Vec<String>,

    /// The doors with TLS.
    pub tls: Tls,

    /// Which addresses may connect, and whom proxies speak for.
    pub network: NetworkSettings,

    /// Log lines.
    pub log: Log,

    /// Rules for channels by name.
    pub channels: Channels,

    /// What is kept, for those who come back.
    pub history: History,

    /// What the disk engine promises.
    pub disk: DiskSettings,

    /// Timing of sessions.
    pub sessions: Sessions,

    /// Compression of WebSocket messages.
    pub compression: Compression,

    /// What holds for the Pusher door as a whole.
    pub pusher: PusherSection,

    /// Who may use the Pusher door, and within which limits. Default none; on a server without a key, one
    /// for trying it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub apps: Vec<AppSettings>,

    /// Tokens of clients.
    pub tokens: TokenSettings,

    /// What the back end is asked, or told.
    pub hooks: HookSettings,

    /// What connections and publications may cost.
    pub limits: Limits,
}

/// Section `[tls]`: `https://` and `wss://`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Address and port for the doors with TLS, besides `listen`. Beyond loopback a `key` is needed.
    /// Default none: no TLS.
    #[serde(with = "address_or_off", skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// PEM files, each with a certificate and its chain. A peer gets the first that has the name it
    /// asks for, else the first of all. At most 64. Default none.
    pub cert: Vec<String>,
    /// PEM files with the keys of these certificates, in the same order. Default none.
    pub key: Vec<String>,
    /// The oldest version that is spoken: `1.2` or `1.3`. Default 1.2.
    pub min_version: TlsVersion,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum TlsVersion {
    /// RFC 5246.
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    /// RFC 8446.
    #[serde(rename = "1.3")]
    V1_3,
}

/// Section `[log]`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `text` for people or `json` for programs. Default text.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`, or directives such as `info,fanfare=debug`.
    /// Default info.
    pub level: String,
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Section `[channels]`. A pattern is a name, or a beginning of names followed by `*`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Channels {
    /// Channels that clients may only listen to with a token that says so. Default `private/*` and
    /// `user/*`.
    pub private: Vec<String>,
    /// Channels that clients may speak on. Default `main` and `talk/*`.
    pub talk: Vec<String>,
    /// Channels of which clients that may listen may also see who else does. Default none.
    pub presence: Vec<String>,
    /// What is different for some channels. Of what is kept, of replay and of slow readers the first rule holds that
    /// matches a name and says something of it. Default none.
    pub rules: Vec<ChannelRule>,
}

/// One of `[[channels.rules]]`: what is different for the channels that match.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelRule {
    /// A name, or a beginning of names followed by `*`.
    pub channels: String,
    /// Publications kept, instead of `history.publications`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history_publications: Option<usize>,
    /// Time for which they are kept, instead of `history.age`.
    #[serde(default, with = "seconds::optional", skip_serializing_if = "Option::is_none")]
    pub history_age: Option<Duration>,
    /// Bytes kept, instead of `history.bytes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history_bytes: Option<usize>,
    /// Who of the Pusher door is given what she missed when she comes back: `off`, `hint` or `user`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<ReplayRule>,
    /// What happens to a reader who is too slow: `close`, `newest` or `drop_oldest`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_consumer: Option<SlowConsumer>,
}

/// Section `[history]`: how much is kept of a channel, whichever limit is reached first.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct History {
    /// Publications of one channel; 0: nothing is kept. Default 100.
    pub publications: usize,
    /// Time for which they are kept. Default 120s.
    #[serde(with = "seconds")]
    pub age: Duration,
    /// Bytes of one channel; each publication counts with 384 bytes more than its data.
    /// Default 1,048,576.
    pub bytes: usize,
    /// Bytes of all channels together. At the limit the oldest publications go, whatever their
    /// channel, and those who come back for them are told of a gap. Default 268,435,456.
    pub bytes_max: usize,
}

/// Section `[sessions]`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sessions {
    /// Time between pings of a WebSocket, and between comments of an event stream. A WebSocket
    /// that is silent for two of them is closed. Default 25s.
    #[serde(with = "seconds")]
    pub ping_interval: Duration,
    /// Age at which an event stream ends, give or take a fifth; browsers come back by
    /// themselves. Default 600s.
    #[serde(with = "seconds")]
    pub stream_age_max: Duration,
    /// Time after which a long poll is answered although there is nothing new. Default 25s.
    #[serde(with = "seconds")]
    pub poll_wait: Duration,
    /// Time for which a user counts as online after her last connection ended, so that a page reload
    /// makes no noise. Default 5s.
    #[serde(with = "seconds")]
    pub user_grace: Duration,
    /// Most time over which sessions are closed when the server stops. Default 20s.
    #[serde(with = "seconds")]
    pub drain: Duration,
    /// A text that clients send to keep the line open, and the answer, for example
    /// `["ping", "pong"]`. Such a text is not relayed. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<[String; 2]>,
}

/// Section `[compression]`: permessage-deflate (RFC 7692), which browsers always offer. A
/// publication is compressed once, for all its listeners.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Compression {
    /// Whether it is agreed to; never for a session that listens to a private channel. Default
    /// true.
    pub enabled: bool,
    /// Messages smaller than this are sent as they are, in bytes. Default 512.
    pub bytes_min: usize,
    /// 1 (fastest) to 9 (smallest). Default 2.
    pub level: u8,
}

impl Default for Compression {
    fn default() -> Self {
        let deflate = DeflateSettings::default();
        Self {
            enabled: true,
            bytes_min: deflate.bytes_min,
            level: deflate.level,
        }
    }
}

impl Default for History {
    fn default() -> Self {
        let limits = HistoryLimits::default();
        Self {
            publications: limits.publications,
            age: limits.age,
            bytes: limits.bytes,
            bytes_max: 256 << 20,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 8080)),
            unix: None,
            unix_mode: "0660".to_owned(),
            admin_listen: "auto".to_owned(),
            key: None,
            key_previous: None,
            engine: "memory".to_owned(),
            data_dir: "fanfare-data".into(),
            shards: 0,
            origins: Vec::new(),
            hosts: Vec::new(),
            tls: Tls::default(),
            network: NetworkSettings::default(),
            log: Log::default(),
            channels: Channels::default(),
            history: History::default(),
            disk: DiskSettings::default(),
            sessions: Sessions::default(),
            compression: Compression::default(),
            pusher: PusherSection::default(),
            apps: Vec::new(),
            tokens: TokenSettings::default(),
            hooks: HookSettings::default(),
            limits: Limits::default(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: "info".to_owned(),
        }
    }
}

impl Default for Channels {
    fn default() -> Self {
        let owned = |texts: [&str; 2]| texts.map(str::to_owned).to_vec();
        Self {
            private: owned(["private/*", "user/*"]),
            talk: owned(["main", "talk/*"]),
            presence: Vec::new(),
            rules: Vec::new(),
        }
    }
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            ping_interval: Duration::from_secs(25),
            stream_age_max: Duration::from_mins(10),
            poll_wait: Duration::from_secs(25),
            user_grace: Duration::from_secs(5),
            drain: Duration::from_secs(20),
            heartbeat: None,
        }
    }
}

/// Reads `ADDR:PORT`, also with `localhost`.
pub fn parse_address(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix("localhost:") {
        Some(port) => port
            .parse()
            .ok()
            .map(|port| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)),
        None => text.parse().ok(),
    }
}

/// An address and port, or `off`.
mod address_or_off {
    use super::{Deserialize, Deserializer, SocketAddr, parse_address};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SocketAddr>, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "off" {
            return Ok(None);
        }
        parse_address(&text).map(Some).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "{text:?} is not an address and port such as 127.0.0.1:8080 or [::]:8080, nor \"off\""
            ))
        })
    }

    // Serde calls it so.
    #[expect(clippy::ref_option)]
    pub(super) fn serialize<S: serde::Serializer>(
        address: &Option<SocketAddr>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match address {
            Some(address) => serializer.collect_str(address),
            None => serializer.serialize_str("off"),
        }
    }
}

/// A configuration that cannot be used. The text says what to write instead.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{0}")]
pub struct ConfigError(String);

impl Config {
    /// How many shards to start.
    pub fn shard_count(&self) -> usize {
        match self.shards {
            0 => std::thread::available_parallelism()
                .map_or(1, usize::from)
                .min(SHARDS_MAX),
            count => count,
        }
    }

    /// Whether the operator named a listener of his own for health and metrics.
    pub fn admin_is_separate(&self) -> bool {
        !matches!(self.admin_listen.as_str(), "auto" | "off")
    }

    /// Where the doors are: without TLS first.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.listen.into_iter().chain(self.tls.listen)
    }

    /// Whether whoever asks is the back end: nobody has said who it is, neither by a key nor by an app.
    pub fn is_open(&self) -> bool {
        self.key.is_none() && self.apps.is_empty()
    }

    /// Whether only this machine can reach the doors.
    pub fn is_on_loopback(&self) -> bool {
        self.addresses().all(|address| address.ip().is_loopback())
    }

    /// Where health and metrics are served besides the doors' own ports; `doors` is where the first
    /// of those is.
    pub fn admin_address(&self, doors: SocketAddr) -> Option<SocketAddr> {
        match self.admin_listen.as_str() {
            "off" => None,
            "auto" => {
                // A port that the system chose has no meaningful neighbour.
                let port = if self.addresses().next().is_none_or(|address| address.port() == 0) {
                    0
                } else {
                    doors.port().checked_add(1)?
                };
                Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))
            }
            text => parse_address(text),
        }
    }

    /// How much is kept of which channels.
    pub fn history_rules(&self) -> Result<HistoryRules, ConfigError> {
        let default = HistoryLimits {
            publications: self.history.publications,
            age: self.history.age,
            bytes: self.history.bytes,
        };
        let mut by_pattern: Vec<(ChannelPattern, HistoryLimits)> = Vec::new();
        for rule in &self.channels.rules {
            let pattern = ChannelPattern::new(&rule.channels)
                .map_err(|error| ConfigError(format!("channels.rules: {:?}: {error}", rule.channels)))?;
            // A rule about something else says nothing of this.
            let says_nothing = rule.history_publications.is_none()
                && rule.history_age.is_none()
                && rule.history_bytes.is_none();
            if says_nothing {
                continue;
            }
            let limits = HistoryLimits {
                publications: rule.history_publications.unwrap_or(default.publications),
                age: rule.history_age.unwrap_or(default.age),
                bytes: rule.history_bytes.unwrap_or(default.bytes),
            };
            by_pattern.push((pattern, limits));
        }
        // Of a cache channel the last publication is kept for longer, unless a rule says otherwise.
        let cached = HistoryLimits {
            publications: default.publications.max(1),
            age: default.age.max(self.pusher.cache_age),
            bytes: default.bytes.max(CACHE_BYTES),
        };
        for prefix in CACHE_PREFIXES {
            let pattern = ChannelPattern::new(&format!("{prefix}*"));
            by_pattern.extend(pattern.ok().map(|pattern| (pattern, cached)));
        }
        Ok(HistoryRules { default, by_pattern })
    }

    /// How long something published to a channel is kept, if nothing else ends it before.
    pub fn history_age(&self, channel: &ChannelName) -> Duration {
        let rules = self.history_rules().unwrap_or_default();
        rules.limits_of(channel).age
    }

    /// What happens to slow consumers of which channels. The patterns have been checked.
    pub fn slow_consumer_rules(&self) -> Vec<(ChannelPattern, SlowConsumer)> {
        let rule = |rule: &ChannelRule| {
            let pattern = ChannelPattern::new(&rule.channels).ok()?;
            Some((pattern, rule.slow_consumer?))
        };
        let rules: Vec<_> = self.channels.rules.iter().filter_map(rule).collect();
        let is_plain = rules.iter().all(|(_, slow)| *slow == SlowConsumer::Close);
        if is_plain { Vec::new() } else { rules }
    }

    /// Who is given what she missed on which channels. The patterns have been checked.
    pub fn replay_rules(&self) -> Vec<(ChannelPattern, ReplayRule)> {
        let rule = |rule: &ChannelRule| Some((ChannelPattern::new(&rule.channels).ok()?, rule.replay?));
        self.channels.rules.iter().filter_map(rule).collect()
    }

    /// Finds contradictions; returns warnings.
    fn check(&self) -> Result<Vec<String>, ConfigError> {
        let mut warnings = Vec::new();
        let public = self.addresses().find(|address| !address.ip().is_loopback());
        if self.is_open() && public.is_some() {
            return Err(ConfigError(key_needed(public)));
        }
        if self.is_open() && !self.network.trusted_proxies.is_empty() {
            return Err(ConfigError(
                "network.trusted_proxies needs a key or an app: without, whoever the proxies let through could publish"
                    .to_owned(),
            ));
        }
        if self.key.is_none() && self.key_previous.is_some() {
            return Err(ConfigError(
                "key_previous: there is no key that comes after it".to_owned(),
            ));
        }
        for (name, key) in [("key", &self.key), ("key_previous", &self.key_previous)] {
            if let Some(key) = key {
                let length = key.expose().len();
                let sample = SAMPLE_KEYS.contains(&key.expose().to_lowercase().as_str());
                let weak = sample || length < KEY_BYTES_MIN;
                let cause = if sample {
                    "is a sample out of somebody's documentation".to_owned()
                } else {
                    format!("is shorter than {KEY_BYTES_MIN} bytes")
                };
                if weak && public.is_some() {
                    return Err(ConfigError(format!(
                        "the {name} {cause}; a good one for this server: {}",
                        fresh_key()
                    )));
                }
                if weak {
                    warnings.push(format!("the {name} {cause}; this is only accepted on loopback"));
                } else if length < KEY_BYTES_WANTED {
                    warnings.push(format!(
                        "the {name} is shorter than {KEY_BYTES_WANTED} bytes and could be guessed from a captured token"
                    ));
                }
            }
        }
        if !matches!(self.engine.as_str(), "memory" | "disk") {
            let has = "engine: this version has \"memory\" and \"disk\"";
            return Err(ConfigError(format!("{has}, not {:?}", self.engine)));
        }
        if self.shards > SHARDS_MAX {
            return Err(ConfigError(format!(
                "shards: at most {SHARDS_MAX}, not {}",
                self.shards
            )));
        }
        if self.admin_is_separate() && parse_address(&self.admin_listen).is_none() {
            return Err(ConfigError(format!(
                "admin_listen: {:?} is not \"auto\", \"off\" or an address and port",
                self.admin_listen
            )));
        }
        self.check_tls()?;
        self.network.check().map_err(ConfigError)?;
        unix::check(self.unix.as_deref(), &self.unix_mode).map_err(ConfigError)?;
        let admin = self
            .addresses()
            .next()
            .and_then(|doors| self.admin_address(doors));
        if admin.is_some_and(|address| !address.ip().is_loopback()) {
            return Err(ConfigError(
                "admin_listen: only a loopback address; put a proxy that asks for a password in front of it"
                    .to_owned(),
            ));
        }
        OriginRules::new(&self.origins, false).map_err(|error| ConfigError(format!("origins: {error}")))?;
        for (key, patterns) in [
            ("channels.private", &self.channels.private),
            ("channels.talk", &self.channels.talk),
            ("channels.presence", &self.channels.presence),
        ] {
            for pattern in patterns {
                ChannelPattern::new(pattern)
                    .map_err(|error| ConfigError(format!("{key}: {pattern:?}: {error}")))?;
            }
        }
        self.tokens.check().map_err(ConfigError)?;
        self.hooks.check().map_err(ConfigError)?;
        apps::check_path(&self.pusher.path).map_err(ConfigError)?;
        warnings.extend(apps::check(&self.apps, public.is_some()).map_err(ConfigError)?);
        webhooks::check(&self.apps, &self.pusher).map_err(ConfigError)?;
        if self.hooks.is_any() && self.key.is_none() {
            let unasked = if self.is_open() {
                ", and whoever POSTs is the back end, whose words are not looked at"
            } else {
                ""
            };
            warnings.push(format!(
                "there are hooks and no key: they are not signed{unasked}"
            ));
        }
        if self.origins.iter().any(|origin| origin == "*") {
            warnings.push(
                "origins holds \"*\": every page may connect; its cookie fanfare_token is not accepted"
                    .to_owned(),
            );
        }
        self.history_rules()?;
        if self.channels.rules.len() > RULES_MAX {
            return Err(ConfigError(format!("channels.rules: at most {RULES_MAX}")));
        }
        if self.sessions.ping_interval < Duration::from_secs(1) {
            return Err(ConfigError(
                "sessions.ping_interval must be at least 1s".to_owned(),
            ));
        }
        if self.sessions.stream_age_max < Duration::from_secs(1) {
            return Err(ConfigError(
                "sessions.stream_age_max must be at least 1s".to_owned(),
            ));
        }
        if !(1..=9).contains(&self.compression.level) {
            return Err(ConfigError(format!(
                "compression.level: 1 to 9, not {}; compression.enabled = false turns it off",
                self.compression.level
            )));
        }
        self.limits
            .check()
            .map_err(|error| ConfigError(error.to_string()))?;
        Ok(warnings)
    }

    fn check_tls(&self) -> Result<(), ConfigError> {
        let tls = &self.tls;
        let (certs, keys) = (tls.cert.len(), tls.key.len());
        let wrong = match tls.listen {
            None if self.listen.is_none() => "listen is off, so tls.listen must be set: nobody could connect",
            None if certs + keys > 0 => "tls.cert and tls.key need tls.listen, an address and port for TLS",
            Some(_) if certs == 0 => {
                "tls.listen needs tls.cert and tls.key; `fanfare dev-cert` makes them for trying it"
            }
            _ if certs != keys => {
                return Err(ConfigError(format!(
                    "tls.cert names {certs} files and tls.key {keys}; each certificate needs its key, in the \
                     same order"
                )));
            }
            _ if certs > CERTIFICATES_MAX => {
                return Err(ConfigError(format!(
                    "tls.cert: at most {CERTIFICATES_MAX} files, not {certs}"
                )));
            }
            Some(address) if address.port() != 0 && self.listen == Some(address) => {
                "listen and tls.listen are the same address and port"
            }
            _ => return Ok(()),
        };
        Err(ConfigError(wrong.to_owned()))
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
