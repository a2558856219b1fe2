//! Apps: who may use the Pusher door, and within which limits. `[[apps]]` in the file, or the variables
//! that Laravel projects have anyway.

use std::collections::HashSet;
use std::time::Duration;

use fanfare_core::auth::{OriginRules, Secret};
use fanfare_core::limits::seconds;
use fanfare_core::rate::Rate;
use serde::{Deserialize, Serialize};

use super::webhooks::WebhookSettings;

/// Most apps of one node.
const APPS_MAX: usize = 10_000;

/// Longest id, key or secret, in bytes.
const CREDENTIAL_BYTES_MAX: usize = 200;

/// Shortest secret that is accepted beyond loopback, in bytes.
const SECRET_BYTES_MIN: usize = 16;

/// Secrets that stand in documentation: other people's and ours.
const SAMPLE_SECRETS: [&str; 6] = [
    "app-secret",
    "secret",
    "my-app-secret",
    "demo-secret",
    "demo-secret-b91c",
    "other-secret-22bb",
];

/// One of `[[apps]]`: credentials of the Pusher door, and what its users may do. The first app shares
/// its channels with the other doors; each further one is a world of its own.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AppSettings {
    /// The app's id, which stands in the path of requests. A number, since one library insists on it.
    pub id: String,
    /// The app's key, which is public.
    pub key: String,
    /// The app's secret, with which requests and subscriptions are signed.
    pub secret: Secret,
    /// Whether it is there. If not, connections end with 4003 and requests with 403. Default true.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// `open`, or `hosted`: where nothing else is set, the limits of Pusher's own service. Default open.
    #[serde(default)]
    pub profile: Profile,
    /// Origins whose pages may connect, as in `origins`. Default `*`: any.
    #[serde(default = "any_origin")]
    pub origins: Vec<String>,
    /// Where clients may speak to each other: `off`, `private` (private and presence channels) or `any`.
    /// Default private.
    #[serde(default)]
    pub client_events: ClientEvents,
    /// Whether subscribers are told how many they are. Default false.
    #[serde(default)]
    pub subscription_counts: bool,
    /// Whether users who sign in are told which of those on their watchlist are online. Default true.
    #[serde(default = "yes")]
    pub watchlist: bool,
    /// Time of silence after which clients ask for a sign of life. Default 120s.
    #[serde(default = "activity_timeout", with = "seconds")]
    pub activity_timeout: Duration,
    /// Time in which a connection must have signed in or subscribed with a signature; 0: it need not.
    /// Default 0.
    #[serde(default, with = "seconds")]
    pub authorize_within: Duration,
    /// Connections of this app; 0: as many as the node has room for. Default 0.
    #[serde(default)]
    pub connections_max: usize,
    /// Bytes of an event's data, also of a client's. Default 102,400; hosted 10,240.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_bytes_max: Option<usize>,
    /// Events of one batch. Default 10.
    #[serde(default = "batch_max")]
    pub batch_max: usize,
    /// Channels of one event, at most 100. Default 100.
    #[serde(default = "channels_per_event_max")]
    pub channels_per_event_max: usize,
    /// Bytes of a channel's name. Default 200; hosted 164.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel_name_bytes_max: Option<usize>,
    /// Members of a presence channel. Default 10,000; hosted 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub members_max: Option<usize>,
    /// Bytes of what is shown of a member. Default 2,048; hosted 1,024.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_info_bytes_max: Option<usize>,
    /// Users on one watchlist. Default 100.
    #[serde(default = "watchlist_max")]
    pub watchlist_max: usize,
    /// Channels that one connection listens to. Default 1,000.
    #[serde(default = "subscriptions_max")]
    pub subscriptions_max: usize,
    /// Client events of one connection. Default `10/s burst 20`; hosted `10/s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_events_per_connection: Option<Rate>,
    /// Events that the back end may publish. Default off.
    #[serde(default = "no_rate")]
    pub events: Rate,
    /// URLs that are told what happens to its channels, at most 10. Default none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub webhooks: Vec<WebhookSettings>,
}

/// Where defaults come from.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Fanfare's own.
    #[default]
    Open,
    /// Those of Pusher's own service, so that what works here works there.
    Hosted,
}

/// Where clients may speak to each other.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientEvents {
    /// Nowhere.
    Off,
    /// On private and presence channels, but not on encrypted ones: what they say could not be encrypted
    /// with the channel's key by the server's rules.
    #[default]
    Private,
    /// On any channel that they listen to.
    Any,
}

/// Section `[pusher]`: what holds for the door as a whole.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PusherSection {
    /// What stands before `/app/…` and `/apps/…` in paths, for example `/ws`. Default none.
    pub path: String,
    /// Time for which the last publication of a cache channel is kept for new subscribers. Default 1800s.
    #[serde(with = "seconds")]
    pub cache_age: Duration,
    /// Time for which a session that was cut can be gone on for. Default 120s.
    #[serde(with = "seconds")]
    pub replay_age: Duration,
    /// Sessions of each app that are remembered for that, open ones included. Default 100,000.
    pub replay_sessions_max: usize,
    /// Time for which nobody is told that the last listener of a channel, or a member, has gone: she may
    /// come back. Default 3s.
    #[serde(with = "seconds")]
    pub webhook_delay: Duration,
    /// Events of one request. Default 20.
    pub webhook_batch_max: usize,
    /// Events that wait to be sent to one URL; at the limit the oldest go. Default 10,000.
    pub webhook_queue_max: usize,
    /// What these may take, in bytes. Default 16,777,216.
    pub webhook_queue_bytes_max: usize,
    /// Time after its first try at which an event that is not taken is given up. Default 300s.
    #[serde(with = "seconds")]
    pub webhook_retry_for: Duration,
    /// Time until a request that has failed is made again; it doubles up to 30s. Default 1s.
    #[serde(with = "seconds")]
    pub webhook_retry_pause: Duration,
    /// Whether webhooks may go to this machine and to private networks, and there without TLS. Default
    /// false.
    pub webhook_private_networks: bool,
}

/// Who of the Pusher door is given what she missed when she comes back.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplayRule {
    /// Nobody.
    Off,
    /// Whose page connects with a hint in the path.
    #[default]
    Hint,
    /// Also whoever has shown who she is: by signing in, or as a member.
    User,
}

impl Default for PusherSection {
    fn default() -> Self {
        Self {
            path: String::new(),
            cache_age: Duration::from_mins(30),
            replay_age: Duration::from_mins(2),
            replay_sessions_max: 100_000,
            webhook_delay: Duration::from_secs(3),
            webhook_batch_max: 20,
            webhook_queue_max: 10_000,
            webhook_queue_bytes_max: 16 << 20,
            webhook_retry_for: Duration::from_mins(5),
            webhook_retry_pause: Duration::from_secs(1),
            webhook_private_networks: false,
        }
    }
}

fn yes() -> bool {
    true
}

fn any_origin() -> Vec<String> {
    vec!["*".to_owned()]
}

fn activity_timeout() -> Duration {
    Duration::from_mins(2)
}

fn batch_max() -> usize {
    10
}

fn channels_per_event_max() -> usize {
    fanfare_core::publication::CHANNELS_PER_PUBLICATION_MAX
}

fn watchlist_max() -> usize {
    100
}

fn subscriptions_max() -> usize {
    1_000
}

fn no_rate() -> Rate {
    Rate::OFF
}

impl AppSettings {
    /// An app with these credentials, and defaults.
    pub fn new(id: &str, key: &str, secret: Secret) -> Self {
        Self {
            id: id.to_owned(),
            key: key.to_owned(),
            secret,
            enabled: true,
            profile: Profile::Open,
            origins: any_origin(),
            client_events: ClientEvents::default(),
            subscription_counts: false,
            watchlist: true,
            activity_timeout: activity_timeout(),
            authorize_within: Duration::ZERO,
            connections_max: 0,
            data_bytes_max: None,
            batch_max: batch_max(),
            channels_per_event_max: channels_per_event_max(),
            channel_name_bytes_max: None,
            members_max: None,
            user_info_bytes_max: None,
            watchlist_max: watchlist_max(),
            subscriptions_max: subscriptions_max(),
            client_events_per_connection: None,
            events: Rate::OFF,
            webhooks: Vec::new(),
        }
    }

    /// The app of a server that nobody has configured: for trying things on this machine.
    pub fn sample() -> Self {
        Self::new("1", "app-key", Secret::new("app-secret"))
    }

    fn by_profile<T>(&self, set: Option<T>, open: T, hosted: T) -> T {
        set.unwrap_or(match self.profile {
            Profile::Open => open,
            Profile::Hosted => hosted,
        })
    }

    /// Bytes of an event's data.
    pub fn data_bytes_max(&self) -> usize {
        self.by_profile(self.data_bytes_max, 102_400, 10_240)
    }

    /// Bytes of a channel's name.
    pub fn channel_name_bytes_max(&self) -> usize {
        let max = fanfare_core::wire::pusher::name::NAME_BYTES_MAX;
        self.by_profile(self.channel_name_bytes_max, max, 164).min(max)
    }

    /// Members of a presence channel.
    pub fn members_max(&self) -> usize {
        self.by_profile(self.members_max, 10_000, 100)
    }

    /// Bytes of what is shown of a member.
    pub fn user_info_bytes_max(&self) -> usize {
        self.by_profile(self.user_info_bytes_max, 2_048, 1_024)
    }

    /// Client events of one connection.
    pub fn client_events_per_connection(&self) -> Rate {
        let open = Rate::per_second(10, 20);
        self.by_profile(self.client_events_per_connection, open, Rate::per_second(10, 10))
    }
}

/// Finds contradictions in a list of apps; returns warnings.
pub(super) fn check(apps: &[AppSettings], is_public: bool) -> Result<Vec<String>, String> {
    let mut warnings = Vec::new();
    let (mut ids, mut keys) = (HashSet::new(), HashSet::new());
    if apps.len() > APPS_MAX {
        return Err(format!("apps: at most {APPS_MAX}"));
    }
    for app in apps {
        let id = &app.id;
        for (what, text) in [("id", &app.id), ("key", &app.key)] {
            let is_good = (1..=CREDENTIAL_BYTES_MAX).contains(&text.len())
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic() && !b"/?#%:&=".contains(&byte));
            if !is_good {
                return Err(format!(
                    "apps: {what} {text:?}: 1 to {CREDENTIAL_BYTES_MAX} visible characters, without / ? # % : & ="
                ));
            }
        }
        if !ids.insert(id) {
            return Err(format!("apps: two have the id {id:?}"));
        }
        if !keys.insert(&app.key) {
            return Err(format!("apps: two have the key {:?}", app.key));
        }
        let secret = app.secret.expose();
        if secret.is_empty() || secret.len() > CREDENTIAL_BYTES_MAX {
            return Err(format!(
                "apps: the secret of {id:?} has 1 to {CREDENTIAL_BYTES_MAX} bytes"
            ));
        }
        let is_weak = secret.len() < SECRET_BYTES_MIN || SAMPLE_SECRETS.contains(&secret);
        if is_weak && is_public {
            return Err(format!(
                "apps: the secret of {id:?} is a sample or shorter than {SECRET_BYTES_MIN} bytes; a good one: {}",
                super::fresh_key()
            ));
        }
        if is_weak {
            warnings.push(format!(
                "the secret of app {id:?} is a sample or shorter than {SECRET_BYTES_MIN} bytes; this is only \
                 accepted on loopback"
            ));
        }
        if !id.bytes().all(|byte| byte.is_ascii_digit()) {
            warnings.push(format!(
                "the id of app {id:?} is no number, which Pusher's library for Python does not accept"
            ));
        }
        OriginRules::new(&app.origins, false).map_err(|error| format!("apps: origins of {id:?}: {error}"))?;
        if app.activity_timeout < Duration::from_secs(1) {
            return Err(format!("apps: activity_timeout of {id:?} must be at least 1s"));
        }
        if !(1..=channels_per_event_max()).contains(&app.channels_per_event_max) {
            return Err(format!(
                "apps: channels_per_event_max of {id:?}: 1 to {}",
                channels_per_event_max()
            ));
        }
    }
    Ok(warnings)
}

/// Checks `pusher.path`.
pub(super) fn check_path(path: &str) -> Result<(), String> {
    let is_good = path.is_empty()
        || (path.starts_with('/')
            && !path.ends_with('/')
            && path
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && !b"?#%".contains(&byte)));
    if is_good {
        Ok(())
    } else {
        Err(format!("pusher.path: {path:?} is not a path such as \"/ws\""))
    }
}

/// What the variables of a Laravel project say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct FromEnvironment {
    /// Its apps: at most one of each set of variables.
    pub(super) apps: Vec<AppSettings>,
    /// `REVERB_SERVER_HOST` and `REVERB_SERVER_PORT`.
    pub(super) listen: Option<String>,
    /// `REVERB_SERVER_PATH`.
    pub(super) path: Option<String>,
}

/// Reads `PUSHER_APP_ID`, `_KEY` and `_SECRET`, and the same of `REVERB_`, with what goes with them.
/// Empty values are as good as none, for that is how a fresh project has them.
pub(super) fn from_environment(variables: &[(String, String)]) -> Result<FromEnvironment, String> {
    let get = |name: &str| {
        let found = variables.iter().rev().find(|(own, _)| own == name);
        // What Laravel takes for nothing.
        let nothing = ["", "null", "(null)", "empty", "(empty)"];
        found
            .map(|(_, value)| value.as_str())
            .filter(|value| !nothing.iter().any(|word| value.trim().eq_ignore_ascii_case(word)))
    };
    let mut found = FromEnvironment::default();
    // The one that the project uses comes first, since the first shares its channels with other doors.
    let used = get("BROADCAST_CONNECTION").or_else(|| get("BROADCAST_DRIVER"));
    let order = if used == Some("reverb") {
        ["REVERB", "PUSHER"]
    } else {
        ["PUSHER", "REVERB"]
    };
    for set in order {
        let name = |what: &str| format!("{set}_APP_{what}");
        let [id, key, secret] = ["ID", "KEY", "SECRET"].map(|what| (name(what), get(&name(what))));
        let (id, key, secret) = match (id, key, secret) {
            ((_, None), (_, None), (_, None)) => continue,
            ((_, Some(id)), (_, Some(key)), (_, Some(secret))) => (id, key, secret),
            (id, key, secret) => {
                let missing = [id, key, secret].into_iter().find(|(_, value)| value.is_none());
                let missing = missing.map_or_else(String::new, |(name, _)| name);
                return Err(format!(
                    "{missing} is missing: an app has an id, a key and a secret (or none of {set}_APP_…)"
                ));
            }
        };
        if found.apps.iter().any(|app| app.id == id && app.key == key) {
            continue;
        }
        let mut app = AppSettings::new(id, key, Secret::new(secret));
        if let Some(origins) = get(&format!("{set}_ALLOWED_ORIGINS")) {
            let origins = origins
                .split(',')
                .map(str::trim)
                .filter(|origin| !origin.is_empty());
            app.origins = origins.map(str::to_owned).collect();
        }
        let wrong = |name: &str, value: &str| format!("{name}: {value:?} is not a number");
        if let Some(value) = get(&name("ACTIVITY_TIMEOUT")) {
            let seconds = value
                .trim()
                .parse()
                .map_err(|_| wrong(&name("ACTIVITY_TIMEOUT"), value))?;
            app.activity_timeout = Duration::from_secs(seconds);
        }
        if let Some(value) = get(&name("MAX_CONNECTIONS")) {
            app.connections_max = value
                .trim()
                .parse()
                .map_err(|_| wrong(&name("MAX_CONNECTIONS"), value))?;
        }
        found.apps.push(app);
    }
    if !found.apps.is_empty() {
        let host = get("REVERB_SERVER_HOST");
        let port = get("REVERB_SERVER_PORT");
        if host.is_some() || port.is_some() {
            found.listen = Some(format!(
                "{}:{}",
                host.unwrap_or("127.0.0.1"),
                port.unwrap_or("8080")
            ));
        }
        found.path = get("REVERB_SERVER_PATH").map(|path| {
            let path = path.trim_matches('/');
            if path.is_empty() {
                String::new()
            } else {
                format!("/{path}")
            }
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ids and keys of apps, and where to listen.
    type Found<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>);

    #[track_caller]
    fn check_environment(variables: &[(&str, &str)], expected: Result<Found<'_>, &str>) {
        let variables: Vec<(String, String)> = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        match (from_environment(&variables), expected) {
            (Ok(found), Ok((apps, listen))) => {
                let got: Vec<(&str, &str)> = found
                    .apps
                    .iter()
                    .map(|app| (app.id.as_str(), app.key.as_str()))
                    .collect();
                assert_eq!((got.as_slice(), found.listen.as_deref()), (apps, listen));
            }
            (Err(error), Err(says)) => assert!(error.contains(says), "{error}"),
            (got, _) => panic!("{got:?}"),
        }
    }

    #[test]
    fn the_variables_of_a_laravel_project() {
        let pusher = [
            ("PUSHER_APP_ID", "1"),
            ("PUSHER_APP_KEY", "a"),
            ("PUSHER_APP_SECRET", "s"),
        ];
        let reverb = [
            ("REVERB_APP_ID", "2"),
            ("REVERB_APP_KEY", "b"),
            ("REVERB_APP_SECRET", "t"),
        ];
        check_environment(&[], Ok((&[], None)));
        check_environment(&[("REVERB_SERVER_PORT", "9000")], Ok((&[], None)));
        check_environment(&pusher, Ok((&[("1", "a")], None)));
        check_environment(&reverb, Ok((&[("2", "b")], None)));
        let both = [&pusher[..], &reverb[..]].concat();
        check_environment(&both, Ok((&[("1", "a"), ("2", "b")], None)));
        let with = |more: &[(&'static str, &'static str)]| [&both[..], more].concat();
        check_environment(
            &with(&[("BROADCAST_CONNECTION", "reverb")]),
            Ok((&[("2", "b"), ("1", "a")], None)),
        );
        check_environment(
            &with(&[("REVERB_SERVER_PORT", "9000")]),
            Ok((&[("1", "a"), ("2", "b")], Some("127.0.0.1:9000"))),
        );
        check_environment(
            &with(&[("REVERB_SERVER_HOST", "0.0.0.0")]),
            Ok((&[("1", "a"), ("2", "b")], Some("0.0.0.0:8080"))),
        );
        // Blanks of a secret belong to it.
        let spaced = [
            ("PUSHER_APP_ID", "1"),
            ("PUSHER_APP_KEY", "a"),
            ("PUSHER_APP_SECRET", " s "),
        ];
        let environment = spaced.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(
            from_environment(&environment).unwrap().apps[0].secret.expose(),
            " s "
        );
        let nothing = [
            ("PUSHER_APP_ID", "null"),
            ("PUSHER_APP_KEY", "(empty)"),
            ("PUSHER_APP_SECRET", "NULL"),
        ];
        check_environment(&nothing, Ok((&[], None)));
        // A fresh project has them all, and empty.
        check_environment(
            &[
                ("PUSHER_APP_ID", ""),
                ("PUSHER_APP_KEY", ""),
                ("PUSHER_APP_SECRET", ""),
            ],
            Ok((&[], None)),
        );
        check_environment(&pusher[..2], Err("PUSHER_APP_SECRET is missing"));
        check_environment(
            &with(&[("PUSHER_APP_MAX_CONNECTIONS", "many")]),
            Err("PUSHER_APP_MAX_CONNECTIONS: \"many\" is not a number"),
        );
    }

    #[track_caller]
    fn check_apps(change: impl FnOnce(&mut AppSettings), is_public: bool, says: Option<&str>) {
        let mut app = AppSettings::new("1", "key", Secret::new("0123456789abcdef"));
        change(&mut app);
        let other = AppSettings::new("2", "other", Secret::new("0123456789abcdef"));
        let got = check(&[other, app], is_public).err();
        assert_eq!(got.is_some(), says.is_some(), "{got:?}");
        assert!(
            got.unwrap_or_default().contains(says.unwrap_or_default()),
            "{says:?}"
        );
    }

    #[test]
    fn apps_that_cannot_be_used() {
        check_apps(|_| {}, true, None);
        check_apps(|app| app.id = "2".to_owned(), false, Some("two have the id"));
        check_apps(
            |app| app.key = "other".to_owned(),
            false,
            Some("two have the key"),
        );
        check_apps(|app| app.id = "a/b".to_owned(), false, Some("id \"a/b\""));
        check_apps(|app| app.key = String::new(), false, Some("key \"\""));
        check_apps(|app| app.secret = Secret::new(""), false, Some("the secret of"));
        check_apps(|app| app.secret = Secret::new("short"), false, None);
        check_apps(|app| app.secret = Secret::new("short"), true, Some("a good one"));
        check_apps(
            |app| app.origins = vec!["x".to_owned()],
            false,
            Some("origins of"),
        );
        check_apps(
            |app| app.activity_timeout = Duration::ZERO,
            false,
            Some("activity_timeout"),
        );
        check_apps(
            |app| app.channels_per_event_max = 101,
            false,
            Some("channels_per_event_max"),
        );
    }

    #[test]
    fn a_profile_says_what_is_not_said() {
        let mut app = AppSettings::sample();
        assert_eq!((app.data_bytes_max(), app.members_max()), (102_400, 10_000));
        app.profile = Profile::Hosted;
        assert_eq!(
            (app.data_bytes_max(), app.channel_name_bytes_max()),
            (10_240, 164)
        );
        app.members_max = Some(500);
        assert_eq!(app.members_max(), 500);
    }

    #[test]
    fn paths_before_the_door() {
        for (path, good) in [
            ("", true),
            ("/ws", true),
            ("/a/b", true),
            ("ws", false),
            ("/ws/", false),
            ("/a b", false),
        ] {
            assert_eq!(check_path(path).is_ok(), good, "{path}");
        }
    }
}
