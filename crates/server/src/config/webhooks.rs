//! Webhooks: whom an app's back end is at, and what it wants to be told. `webhooks` in `[[apps]]`, and what
//! holds for all of them in `[pusher]`.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use fanfare_core::auth::Secret;
use fanfare_core::channel::ChannelPattern;
use fanfare_core::webhook::{EventKind, Filter};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde::{Deserialize, Serialize};

use super::{AppSettings, PusherSection};
use crate::outgoing::{Reach, Target};

/// Most webhooks of one app.
const WEBHOOKS_MAX: usize = 10;

/// Most fields of one webhook.
const FIELDS_MAX: usize = 16;

/// Shortest time for which who has gone may come back: a session that ends leaves its channels one after the
/// other, and its members are to be told of before.
const DELAY_MIN: Duration = Duration::from_millis(10);

/// Fields that a webhook has anyway, or that belong to the connection.
const OWN_FIELDS: [HeaderName; 9] = [
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::HOST,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::USER_AGENT,
];

/// One of an app's `webhooks`: a URL that is told what happens to the app's channels.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookSettings {
    /// Where to: `https`, or with `pusher.webhook_private_networks` also `http` on loopback and private
    /// networks.
    pub url: String,
    /// What it is told. Default all but `client_event` and `subscription_count`, which come as often as
    /// clients speak and come.
    #[serde(default = "default_events")]
    pub events: Vec<EventKind>,
    /// Of which channels: a name, or a beginning of names followed by `*`. Default `*`: all.
    #[serde(default = "all_channels")]
    pub channels: String,
    /// Further fields of the request, for example `Authorization`. Default none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Secret>,
}

fn default_events() -> Vec<EventKind> {
    EventKind::DEFAULT.to_vec()
}

fn all_channels() -> String {
    "*".to_owned()
}

impl PusherSection {
    /// Which addresses webhooks may go to.
    pub(crate) fn webhook_reach(&self) -> Reach {
        if self.webhook_private_networks {
            Reach::PublicAndPrivate
        } else {
            Reach::Public
        }
    }
}

impl WebhookSettings {
    /// What it wants to hear.
    pub(crate) fn filter(&self) -> Result<Filter, String> {
        Ok(Filter {
            kinds: self.events.clone(),
            channels: ChannelPattern::new(&self.channels)
                .map_err(|error| format!("channels: {:?}: {error}", self.channels))?,
        })
    }

    /// Where to.
    pub(crate) fn target(&self, pusher: &PusherSection) -> Result<Target, String> {
        Target::parse(&self.url, pusher.webhook_reach()).map_err(|error| {
            let hint = if pusher.webhook_private_networks {
                ""
            } else {
                " (unless pusher.webhook_private_networks is set when the server starts)"
            };
            format!("{error}{hint}")
        })
    }

    /// Its own fields.
    pub(crate) fn fields(&self) -> Result<HeaderMap, String> {
        if self.headers.len() > FIELDS_MAX {
            return Err(format!("headers: at most {FIELDS_MAX}"));
        }
        let mut fields = HeaderMap::new();
        for (name, value) in &self.headers {
            let wrong = |what| format!("headers: {name:?} {what}");
            let name: HeaderName = name.parse().map_err(|_| wrong("is no name of a field"))?;
            if OWN_FIELDS.contains(&name) || name.as_str().starts_with("x-pusher-") {
                return Err(wrong("is set by the server"));
            }
            let mut value = HeaderValue::from_str(value.expose())
                .map_err(|_| wrong("has a value that no field can have"))?;
            value.set_sensitive(true);
            fields.append(name, value);
        }
        Ok(fields)
    }
}

/// Finds what cannot be used.
pub(super) fn check(apps: &[AppSettings], pusher: &PusherSection) -> Result<(), String> {
    let time = |name: &str, time: Duration, range: RangeInclusive<Duration>| {
        let (least, most) = (range.start(), range.end());
        if range.contains(&time) {
            Ok(())
        } else {
            Err(format!("pusher.{name} must be between {least:?} and {most:?}"))
        }
    };
    let (minute, day) = (Duration::from_mins(1), Duration::from_hours(24));
    time("webhook_delay", pusher.webhook_delay, DELAY_MIN..=minute)?;
    time(
        "webhook_retry_pause",
        pusher.webhook_retry_pause,
        DELAY_MIN..=minute,
    )?;
    time(
        "webhook_retry_for",
        pusher.webhook_retry_for,
        Duration::ZERO..=day,
    )?;
    for (name, number, most) in [
        ("webhook_batch_max", pusher.webhook_batch_max, 1_000),
        ("webhook_queue_max", pusher.webhook_queue_max, 1_000_000),
        (
            "webhook_queue_bytes_max",
            pusher.webhook_queue_bytes_max,
            usize::MAX,
        ),
    ] {
        if number == 0 || number > most {
            return Err(format!("pusher.{name} must be between 1 and {most}"));
        }
    }
    for app in apps {
        let wrong = |error: String| format!("apps: webhooks of {:?}: {error}", app.id);
        if app.webhooks.len() > WEBHOOKS_MAX {
            return Err(wrong(format!("at most {WEBHOOKS_MAX}")));
        }
        for webhook in &app.webhooks {
            webhook.target(pusher).map_err(wrong)?;
            webhook.filter().map_err(wrong)?;
            webhook.fields().map_err(wrong)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with this webhook, as TOML without its URL; `None`: nothing.
    #[track_caller]
    fn check_webhook(url: &str, more: &str, is_private: bool, says: Option<&str>) {
        let text = format!("url = {url:?}\n{more}");
        let read = toml::from_str::<WebhookSettings>(&text).map_err(|error| error.to_string());
        let checked = read.and_then(|webhook| {
            let mut app = AppSettings::sample();
            app.webhooks.push(webhook);
            let pusher = PusherSection {
                webhook_private_networks: is_private,
                ..PusherSection::default()
            };
            check(&[app], &pusher)
        });
        match (checked, says) {
            (Ok(()), None) => {}
            (Err(error), Some(says)) => assert!(error.contains(says), "{error}"),
            (got, _) => panic!("{text}: {got:?}"),
        }
    }

    #[test]
    fn webhooks_that_cannot_be_used() {
        let url = "https://app.example/hook";
        check_webhook(url, "", false, None);
        check_webhook("http://127.0.0.1:8000/hook", "", true, None);
        check_webhook("https://10.0.0.1/hook", "", true, None);
        check_webhook(
            "http://app.example/hook",
            "",
            false,
            Some("must be https (unless pusher.webhook_private"),
        );
        check_webhook(
            "https://10.0.0.1/hook",
            "",
            false,
            Some("no address that everybody can reach"),
        );
        check_webhook(
            "https://169.254.169.254/",
            "",
            true,
            Some("no address that everybody can reach"),
        );
        check_webhook(
            "http://1.1.1.1/hook",
            "",
            true,
            Some("only for loopback and private networks"),
        );
        check_webhook("hook", "", false, Some("is not an address"));
        check_webhook(url, "channels = \"presence-*\"", false, None);
        check_webhook(url, "channels = \"\"", false, Some("channels: \"\""));
        check_webhook(url, "events = [\"client_event\"]", false, None);
        check_webhook(url, "events = [\"client-event\"]", false, Some("unknown variant"));
        check_webhook(url, "headers = { Authorization = \"Bearer x\" }", false, None);
        check_webhook(
            url,
            "headers = { \"a b\" = \"x\" }",
            false,
            Some("is no name of a field"),
        );
        check_webhook(
            url,
            "headers = { a = \"x\\ny\" }",
            false,
            Some("no field can have"),
        );
        for own in ["content-type", "Host", "X-Pusher-Key", "x-pusher-signature"] {
            check_webhook(
                url,
                &format!("headers = {{ {own} = \"x\" }}"),
                false,
                Some("is set by the server"),
            );
        }
        check_webhook(url, "event = []", false, Some("unknown field"));
    }

    #[test]
    fn values_of_fields_do_not_show() {
        let webhook: WebhookSettings =
            toml::from_str("url = \"https://a.example/\"\nheaders = { Authorization = \"Bearer canary\" }")
                .unwrap();
        let shown = format!("{webhook:?} {}", toml::to_string(&webhook).unwrap());
        assert!(!shown.contains("canary"), "{shown}");
        assert!(webhook.fields().unwrap().values().all(HeaderValue::is_sensitive));
    }

    #[track_caller]
    fn check_section(change: impl FnOnce(&mut PusherSection), says: Option<&str>) {
        let mut pusher = PusherSection::default();
        change(&mut pusher);
        assert_eq!(check(&[], &pusher).err().as_deref(), says);
    }

    #[test]
    fn limits_that_cannot_work() {
        check_section(|_| {}, None);
        check_section(
            |pusher| pusher.webhook_delay = Duration::ZERO,
            Some("pusher.webhook_delay must be between 10ms and 60s"),
        );
        check_section(
            |pusher| pusher.webhook_retry_pause = Duration::from_mins(2),
            Some("pusher.webhook_retry_pause must be between 10ms and 60s"),
        );
        check_section(|pusher| pusher.webhook_retry_for = Duration::ZERO, None);
        check_section(
            |pusher| pusher.webhook_batch_max = 0,
            Some("pusher.webhook_batch_max must be between 1 and 1000"),
        );
        check_section(
            |pusher| pusher.webhook_queue_max = 1_000_001,
            Some("pusher.webhook_queue_max must be between 1 and 1000000"),
        );
    }
}
