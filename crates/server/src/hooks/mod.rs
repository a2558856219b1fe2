//! Hooks: what the server asks a back end, or tells it, over HTTP (`plain.md` section 6).
//!
//! | hook          | asks or tells                                   | module       |
//! |---------------|--------------------------------------------------|--------------|
//! | `on_connect`  | who connects, and what she may do                | [`connect`]  |
//! | `on_message`  | whether a client's message is relayed, and how   | [`message`]  |
//! | `on_presence` | tells which users came online or went offline    | [`presence`] |
//!
//! All are a POST with a JSON body. If the server has a key, it is signed with it, and with the key
//! of before ([`SIGNATURE_FIELD`]), so that the back end can tell the server from anybody else who
//! knows the address.
//!
//! What always holds of a hook that asks ([`Hook::ask`]):
//!
//! * No usable answer means no. Nobody waits for longer than [`WAIT_MAX`] and `hooks.timeout`.
//! * At most `hooks.concurrency` questions are with the back end, and `hooks.waiting_max` wait;
//!   beyond that who asks is told to come back.
//! * If nobody is there to answer so many times in a row (`hooks.failures_max`), nothing is asked for
//!   `hooks.pause`. An answer that cannot be used is no such failure: what a peer sends must not be
//!   able to bring it about, or one could lock all out.
//! * Only those who asked wait; shards do not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use aws_lc_rs::hmac;
use bytes::Bytes;
use fanfare_core::auth::Secret;
use fanfare_core::circuit::Circuit;
use fanfare_core::disconnect::Refusal;
use fanfare_core::limits::seconds;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, oneshot};

use crate::clock::unix_now;
use crate::config::Config;
use crate::log_gate::Kind;
use crate::metrics::{Counter, Exposition, Labelled};
use crate::node::Node;
use crate::outgoing::{CallError, Caller, Reach, Target};

pub(crate) mod connect;
pub(crate) mod message;
pub(crate) mod presence;

/// Says that the server with the key asks: `t=<Unix time>,v1=<hex>`, the HMAC-SHA256 of the time as
/// it stands there, a dot, and the body; and `,v1=<hex>` once more with the key of before.
pub(crate) const SIGNATURE_FIELD: &str = "fanfare-signature";

/// Says which hook this is.
const NAME_FIELD: &str = "fanfare-hook";

/// Most time that a question waits until the back end has room for it.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Most time until there is an answer.
pub(crate) fn time_max(settings: &HookSettings) -> Duration {
    WAIT_MAX + settings.timeout
}

/// Section `[hooks]`: addresses of the back end that are asked, or told. `https`, or `http` on
/// loopback and private networks.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct HookSettings {
    /// Who connects, asked for everybody who shows neither key nor token. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_connect: Option<String>,
    /// Whether a client's message is relayed, and in which words. Default none: as it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_message: Option<String>,
    /// Told which users came online or went offline. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_presence: Option<String>,
    /// Time for an answer; without one in time it is a no. Default 2s.
    #[serde(with = "seconds")]
    pub timeout: Duration,
    /// Questions of one hook that are asked at once; others wait. Default 64.
    pub concurrency: usize,
    /// Questions of one hook that wait, for at most 10 s. Beyond that whoever asks is told to come
    /// back. Default 10,000.
    pub waiting_max: usize,
    /// Failures in a row after which nothing is asked for `hooks.pause`. Default 10.
    pub failures_max: u32,
    /// Default 5s.
    #[serde(with = "seconds")]
    pub pause: Duration,
}

impl Default for HookSettings {
    fn default() -> Self {
        Self {
            on_connect: None,
            on_message: None,
            on_presence: None,
            timeout: Duration::from_secs(2),
            concurrency: 64,
            waiting_max: 10_000,
            failures_max: 10,
            pause: Duration::from_secs(5),
        }
    }
}

impl HookSettings {
    /// Whether there is any hook.
    pub(crate) fn is_any(&self) -> bool {
        self.named().iter().any(|(_, address)| address.is_some())
    }

    /// Finds what cannot be used.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (name, address) in self.named() {
            if let Some(address) = address {
                Target::parse(address, Reach::PlainPrivate)
                    .map_err(|error| format!("hooks.{name}: {error}"))?;
            }
        }
        if self.timeout < Duration::from_millis(100) || self.timeout > Duration::from_secs(30) {
            return Err("hooks.timeout must be between 100ms and 30s".to_owned());
        }
        for (name, number) in [
            ("concurrency", self.concurrency),
            ("failures_max", self.failures_max as usize),
        ] {
            if !(1..=10_000).contains(&number) {
                return Err(format!("hooks.{name} must be between 1 and 10,000"));
            }
        }
        if self.waiting_max > 1_000_000 {
            return Err("hooks.waiting_max must not be more than 1,000,000".to_owned());
        }
        Ok(())
    }

    fn named(&self) -> [(&'static str, Option<&String>); 3] {
        [
            (connect::NAME, self.on_connect.as_ref()),
            (message::NAME, self.on_message.as_ref()),
            (presence::NAME, self.on_presence.as_ref()),
        ]
    }
}

/// The hooks of a node.
#[derive(Debug)]
pub(crate) struct Hooks {
    pub(crate) connect: Option<Arc<Hook>>,
    pub(crate) message: Option<Arc<Hook>>,
    pub(crate) presence: Option<presence::Reporter>,
}

impl Hooks {
    /// Those of a configuration that was checked.
    pub(crate) fn new(settings: &HookSettings) -> Result<Self> {
        let caller = |name: &'static str, address: &Option<String>| -> Result<Option<Caller>> {
            let Some(address) = address else { return Ok(None) };
            let target = Target::parse(address, Reach::PlainPrivate).map_err(anyhow::Error::msg)?;
            Caller::new(&target)
                .with_context(|| format!("hooks.{name}"))
                .map(Some)
        };
        let hook = |name, address: &Option<String>| -> Result<Option<Arc<Hook>>> {
            let hook = caller(name, address)?.map(|caller| Hook::new(name, caller, settings));
            Ok(hook.map(Arc::new))
        };
        Ok(Self {
            connect: hook(connect::NAME, &settings.on_connect)?,
            message: hook(message::NAME, &settings.on_message)?,
            presence: caller(presence::NAME, &settings.on_presence)?.map(presence::Reporter::new),
        })
    }

    /// Writes what is counted.
    pub(crate) fn render(&self, out: &mut Exposition, node: &Node) {
        let asking: Vec<&Arc<Hook>> = [&self.connect, &self.message].into_iter().flatten().collect();
        let name = "fanfare_hook_requests_total";
        out.head(name, "counter", "Questions of hooks, by outcome.");
        for hook in &asking {
            for (outcome, count) in hook.outcomes.counts() {
                out.labelled(name, &[("hook", hook.name), ("outcome", outcome)], count);
            }
        }
        let name = "fanfare_hook_seconds_total";
        out.head(name, "counter", "Time for which hooks were asked.");
        for hook in &asking {
            out.seconds_of(name, "hook", hook.name, hook.nanos.get());
        }
        let name = "fanfare_hook_waiting";
        out.head(name, "gauge", "Questions of hooks that wait or are asked.");
        for hook in &asking {
            out.line(
                name,
                "hook",
                hook.name,
                hook.waiting.load(Ordering::Relaxed) as u64,
            );
        }
        let name = "fanfare_hook_circuit_open";
        out.head(
            name,
            "gauge",
            "1 while nothing is asked because there was no answer.",
        );
        for hook in &asking {
            let is_open = hook.circuit.lock().is_open(node.clock.now());
            out.line(name, "hook", hook.name, u64::from(is_open));
        }
        if let Some(presence) = &self.presence {
            presence.render(out);
            out.one(
                "fanfare_presence_reports_waiting",
                "gauge",
                "Reports that wait to be sent.",
                node.apps.default.people.lock().reports() as u64,
            );
        }
    }
}

/// A hook that asks. See the module's head.
#[derive(Debug)]
pub(crate) struct Hook {
    name: &'static str,
    caller: Caller,
    /// Questions that may be with the back end.
    places: Semaphore,
    /// Questions that wait or are with the back end.
    waiting: AtomicUsize,
    circuit: Mutex<Circuit>,
    outcomes: Labelled,
    nanos: Counter,
}

impl Hook {
    fn new(name: &'static str, caller: Caller, settings: &HookSettings) -> Self {
        Self {
            name,
            caller,
            places: Semaphore::new(settings.concurrency),
            waiting: AtomicUsize::new(0),
            circuit: Mutex::new(Circuit::new(settings.failures_max, settings.pause)),
            outcomes: Labelled::default(),
            nanos: Counter::default(),
        }
    }

    /// Asks, and reads the answer with `read`, whose error means that it cannot be used.
    ///
    /// # Errors
    ///
    /// [`Refusal::HookFailed`] if there is no usable answer.
    async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        node: &Arc<Node>,
        question: Question,
        read: fn(Response<Bytes>) -> Result<T>,
    ) -> Result<T, Refusal> {
        let settings = &node.config.hooks;
        let Some(outgoing) = &node.outgoing else {
            return Err(Refusal::HookFailed);
        };
        if self.circuit.lock().is_open(node.clock.now()) {
            self.outcomes.add("circuit_open");
            return Err(Refusal::HookFailed);
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= settings.waiting_max + settings.concurrency {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.outcomes.add("too_many");
            return Err(Refusal::HookFailed);
        }
        let (mut done, answer) = oneshot::channel();
        let (hook, node) = (Arc::clone(self), Arc::clone(node));
        outgoing.spawn(async move {
            let asking = async {
                let place = tokio::time::timeout(WAIT_MAX, hook.places.acquire()).await;
                match place {
                    Ok(Ok(_place)) => Some(hook.ask_now(&node, question, read).await),
                    _ => None,
                }
            };
            let answer = tokio::select! {
                answer = asking => answer,
                // Whoever asked has gone; nobody needs the answer.
                () = done.closed() => None,
            };
            let answer = answer.unwrap_or_else(|| {
                hook.outcomes.add("given_up");
                Err(Refusal::HookFailed)
            });
            hook.waiting.fetch_sub(1, Ordering::Relaxed);
            let _ = done.send(answer);
        });
        answer.await.unwrap_or(Err(Refusal::HookFailed))
    }

    async fn ask_now<T>(
        &self,
        node: &Node,
        question: Question,
        read: fn(Response<Bytes>) -> Result<T>,
    ) -> Result<T, Refusal> {
        if !self.circuit.lock().may_ask(node.clock.now()) {
            self.outcomes.add("circuit_open");
            return Err(Refusal::HookFailed);
        }
        let begun = Instant::now();
        let timeout = node.config.hooks.timeout;
        let request = post(self.name, &node.config, question.fields, &question.body);
        let answer = self
            .caller
            .call(request, question.body, timeout, question.answer_bytes_max);
        let answer = answer.await.and_then(|answer| {
            // What a proxy says whose back end is not there, or a back end that is going away.
            if matches!(answer.status().as_u16(), 502..=504) {
                return Err(CallError::Down(anyhow!("the answer was {}", answer.status())));
            }
            read(answer).map_err(CallError::Unusable)
        });
        let took = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.nanos.add(usize::try_from(took).unwrap_or(usize::MAX));
        self.outcomes.add(match &answer {
            Ok(_) => "answered",
            Err(CallError::Unusable(_)) => "unusable",
            Err(CallError::Down(_)) => "failed",
        });
        self.judge(node, matches!(answer, Err(CallError::Down(_))));
        answer.map_err(|error| {
            let reason = format!("{:#}", anyhow::Error::new(error));
            node.log.say(
                Kind::Error,
                || tracing::warn!(hook = self.name, %reason, "the hook gave no answer that can be used: no"),
            );
            Refusal::HookFailed
        })
    }

    /// Tells the circuit breaker whether nobody was there to answer.
    fn judge(&self, node: &Node, is_down: bool) {
        let mut circuit = self.circuit.lock();
        if is_down && circuit.failed(node.clock.now()) {
            let pause = node.config.hooks.pause;
            tracing::error!(
                hook = self.name,
                ?pause,
                "the hook has failed too often in a row: nothing is asked for a while, and all is refused"
            );
        } else if !is_down && circuit.succeeded() {
            tracing::info!(hook = self.name, "the hook answers again");
        }
    }
}

/// What a hook asks.
struct Question {
    body: Bytes,
    /// Besides those that every question has.
    fields: HeaderMap,
    /// Largest answer, in bytes.
    answer_bytes_max: usize,
}

/// A request to a hook, all but its address and body.
fn post(name: &'static str, config: &Config, fields: HeaderMap, body: &[u8]) -> http::request::Builder {
    let mut request = Request::builder().method(Method::POST);
    if let Some(all) = request.headers_mut() {
        *all = fields;
        all.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        all.insert(NAME_FIELD, HeaderValue::from_static(name));
        let keys = [&config.key, &config.key_previous].into_iter().flatten();
        let signature = signature(keys, unix_now().as_secs(), body);
        if let Some(signature) = signature.and_then(|text| HeaderValue::from_str(&text).ok()) {
            all.insert(SIGNATURE_FIELD, signature);
        }
    }
    request
}

/// See [`SIGNATURE_FIELD`]. `None` without any key.
fn signature<'a>(keys: impl Iterator<Item = &'a Secret>, now: u64, body: &[u8]) -> Option<String> {
    let sign = |key: &Secret| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose().as_bytes());
        let mut mac = hmac::Context::with_key(&key);
        mac.update(format!("{now}.").as_bytes());
        mac.update(body);
        let hex: String = mac
            .sign()
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!(",v1={hex}")
    };
    let signatures: String = keys.map(sign).collect();
    (!signatures.is_empty()).then(|| format!("t={now}{signatures}"))
}

/// An answer that is neither a yes nor a no.
fn unusable<T>(answer: &Response<Bytes>) -> Result<T> {
    bail!("the answer was {}", answer.status())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_can_be_checked_with_one_line_of_php() {
        // php -r 'echo hash_hmac("sha256", "1700000000.{\"a\":1}", "0123456789abcdef0123456789abcdef");'
        let hex = "f05f2539e3ae1c49aec5f8cfdad75ef6b06480b133973ffbb7ec9e18827af177";
        let key = Secret::new("0123456789abcdef0123456789abcdef");
        let sign = |keys: &[&Secret]| signature(keys.iter().copied(), 1_700_000_000, b"{\"a\":1}");
        assert_eq!(sign(&[]), None);
        assert_eq!(sign(&[&key]), Some(format!("t=1700000000,v1={hex}")));
        let two = sign(&[&Secret::new("another"), &key]).unwrap();
        assert!(
            two.ends_with(&format!(",v1={hex}")) && two.len() == 12 + 2 * 68,
            "{two}"
        );
    }

    #[track_caller]
    fn check(settings: HookSettings, expected: Option<&str>) {
        assert_eq!(settings.check().err().as_deref(), expected);
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let default = HookSettings::default;
        let address = |text: &str| Some(text.to_owned());
        check(default(), None);
        check(
            HookSettings {
                on_connect: address("http://127.0.0.1:8000/hook"),
                ..default()
            },
            None,
        );
        check(
            HookSettings {
                on_message: address("http://203.0.113.7/hook"),
                ..default()
            },
            Some(
                "hooks.on_message: \"http://203.0.113.7/hook\" must be https; http is only for loopback and \
                 private networks",
            ),
        );
        check(
            HookSettings {
                timeout: Duration::ZERO,
                ..default()
            },
            Some("hooks.timeout must be between 100ms and 30s"),
        );
        check(
            HookSettings {
                concurrency: 0,
                ..default()
            },
            Some("hooks.concurrency must be between 1 and 10,000"),
        );
    }
}
