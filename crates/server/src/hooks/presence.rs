//! The hook `on_presence`: the back end is told which users came online or went offline.
//!
//! ```json
//! {"id":"5f0c…-7","reports":[{"user":"42","online":true,"at":"2026-11-27T10:00:00Z"}]}
//! ```
//!
//! In the order in which it happened, at least once: a batch is sent again, under the same `id`,
//! until it is answered with 2xx, and nothing overtakes it. A user who comes back within
//! `sessions.user_grace` makes no report.
//!
//! Bounds: a batch has [`BATCH_MAX`] reports; [`REPORTS_MAX`] wait behind it, then the oldest go, which
//! is counted and logged. What waits when the process ends is lost, but for what can be sent within
//! [`FINISH_MAX`] of an orderly end. After a start nobody is online: who was before comes again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use fanfare_core::people::{REPORTS_MAX, Report};
use http::HeaderMap;
use serde::Serialize;

use crate::clock::timestamp;
use crate::metrics::{Counter, Exposition};
use crate::node::Node;
use crate::outgoing::Caller;
use crate::random::random;

/// The hook's name.
pub(super) const NAME: &str = "on_presence";

/// Reports of one request.
const BATCH_MAX: usize = 100;

/// Time between looks for new reports; what has come in between is one batch.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Time for an answer: nobody waits for it.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Time between a failure and the next try, for the first and for the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Time to send what waits when the node ends.
const FINISH_MAX: Duration = Duration::from_secs(2);

/// Sends the reports of a node.
#[derive(Debug)]
pub(crate) struct Reporter {
    caller: Caller,
    /// A batch is on its way.
    is_sending: AtomicBool,
    sent: Counter,
    failed: Counter,
    dropped: Counter,
}

#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    reports: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct Line<'a> {
    user: &'a str,
    online: bool,
    at: String,
}

impl Reporter {
    pub(super) fn new(caller: Caller) -> Self {
        Self {
            caller,
            is_sending: AtomicBool::new(false),
            sent: Counter::default(),
            failed: Counter::default(),
            dropped: Counter::default(),
        }
    }

    pub(super) fn render(&self, out: &mut Exposition) {
        for (name, help, counter) in [
            (
                "fanfare_presence_reports_sent_total",
                "Reports that the back end took.",
                &self.sent,
            ),
            (
                "fanfare_presence_requests_failed_total",
                "Requests with reports that failed and were sent again.",
                &self.failed,
            ),
            (
                "fanfare_presence_reports_dropped_total",
                "Reports that were dropped because too many waited.",
                &self.dropped,
            ),
        ] {
            out.one(name, "counter", help, counter.get());
        }
    }
}

/// Starts sending, if there is anybody to send to. It ends with the process.
pub(crate) fn start(node: &Arc<Node>) {
    if let (Some(_), Some(outgoing)) = (&node.hooks.presence, &node.outgoing) {
        let node = Arc::clone(node);
        outgoing.spawn(async move {
            if let Some(reporter) = &node.hooks.presence
                && let Err(error) = send_all(&node, reporter).await
            {
                tracing::error!(%error, "no reports of presence are sent");
            }
        });
    }
}

/// Waits until nothing waits to be sent, but not for long.
pub(crate) async fn finish(node: &Node) {
    let Some(reporter) = &node.hooks.presence else {
        return;
    };
    let is_done = async {
        while reporter.is_sending.load(Ordering::Acquire) || node.apps.default.people.lock().reports() > 0 {
            tokio::time::sleep(LOOK_INTERVAL / 10).await;
        }
    };
    if tokio::time::timeout(FINISH_MAX, is_done).await.is_err() {
        tracing::warn!("some reports of presence could not be sent before the end");
    }
}

async fn send_all(node: &Node, reporter: &Reporter) -> Result<()> {
    // So that batches of two lives of a node never have the same id.
    let life = u64::from_ne_bytes(random()?);
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut number = 0_u64;
    loop {
        ticks.tick().await;
        loop {
            let (reports, dropped) = {
                let mut people = node.apps.default.people.lock();
                let taken = people.take_reports(BATCH_MAX);
                reporter.is_sending.store(!taken.0.is_empty(), Ordering::Release);
                taken
            };
            if dropped > 0 {
                reporter.dropped.add(dropped);
                tracing::error!(
                    dropped,
                    most = REPORTS_MAX,
                    "too many reports of presence waited; the oldest are lost, so ask who is online"
                );
            }
            if reports.is_empty() {
                break;
            }
            number += 1;
            send(node, reporter, &format!("{life:016x}-{number}"), &reports).await;
            reporter.sent.add(reports.len());
        }
    }
}

/// Sends one batch until it is taken.
async fn send(node: &Node, reporter: &Reporter, id: &str, reports: &[Report]) {
    let body = Body {
        id,
        reports: reports
            .iter()
            .map(|report| Line {
                user: report.user.as_str(),
                online: report.online,
                at: timestamp(report.at),
            })
            .collect(),
    };
    // Strings and truth values: there is nothing that JSON could not say.
    let body = Bytes::from(serde_json::to_vec(&body).unwrap_or_default());
    let mut pause = PAUSE.0;
    while let Err(error) = send_once(node, reporter, &body).await {
        reporter.failed.add(1);
        let error = format!("{error:#}");
        tracing::warn!(%error, ?pause, "the hook on_presence failed; the reports are sent again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

async fn send_once(node: &Node, reporter: &Reporter, body: &Bytes) -> Result<()> {
    let request = super::post(NAME, &node.config, HeaderMap::new(), body);
    let call = reporter
        .caller
        .call(request, body.clone(), ANSWER_TIME_MAX, ANSWER_BYTES_MAX);
    let answer = call.await?;
    if !answer.status().is_success() {
        bail!("the answer was {}", answer.status());
    }
    Ok(())
}
