//! The one way in: every publication, from whatever door or command, passes here.

use std::sync::Arc;

use fanfare_core::app::AppId;
use fanfare_core::auth::Policy;
use fanfare_core::disconnect::Refusal;
use fanfare_core::publication::{Draft, EventName};
use fanfare_core::wire::pusher;

use crate::clock::Clock;
use crate::engine::{Drafts, Engine, Receipt, Receipts};
use crate::metrics::Metrics;

/// Hands drafts to the engine and counts what comes of it.
#[derive(Clone)]
pub struct Publisher {
    engine: Arc<dyn Engine>,
    metrics: Arc<Metrics>,
    clock: Clock,
    policy: Policy,
}

impl Publisher {
    /// A publisher for this engine.
    pub fn new(engine: Arc<dyn Engine>, metrics: Arc<Metrics>, clock: Clock, policy: Policy) -> Self {
        Self {
            engine,
            metrics,
            clock,
            policy,
        }
    }

    /// Publishes one draft. When this returns a receipt, the publication is ordered and on its way
    /// to every shard that has listeners.
    pub fn publish(&self, draft: Draft) -> Result<Receipt, Refusal> {
        let receipts = self.publish_all(Drafts::from_iter([draft]), None)?;
        receipts.first().copied().ok_or(Refusal::Overloaded)
    }

    /// Publishes what the server itself says of a channel, to who is here.
    pub(crate) fn announce(&self, mut draft: Draft) -> Result<(), Refusal> {
        self.mark_secret(&mut draft);
        let (app, drafts) = (draft.app, Drafts::from_iter([draft]));
        self.engine
            .publish(app, drafts, None, self.clock.now())
            .map(drop)
            .inspect_err(|refusal| self.metrics.refused(refusal))
    }

    fn mark_secret(&self, draft: &mut Draft) {
        let mut channels = draft.audience.channels().iter();
        draft.is_secret = channels.any(|channel| self.policy.is_private(channel));
    }

    /// Publishes drafts of one app, in order: all or none; and only once under a key `once`.
    pub fn publish_all(&self, mut drafts: Drafts, once: Option<&str>) -> Result<Receipts, Refusal> {
        let Some(app) = drafts.first().map(|draft| draft.app) else {
            return Ok(Receipts::new());
        };
        for draft in &mut drafts {
            let event = draft.event.as_ref().map_or("", EventName::as_str);
            if pusher::is_reserved(event) {
                return Err(Refusal::bad_request(
                    "events that begin with pusher: or pusher_internal: are the server's own",
                ));
            }
            self.mark_secret(draft);
        }
        match self.engine.publish(app, drafts, once, self.clock.now()) {
            Ok(receipts) => {
                if app != AppId::PROBE {
                    for receipt in &receipts {
                        let counter = match receipt {
                            _ if receipt.is_repeat => &self.metrics.repeated,
                            _ if receipt.is_stale => &self.metrics.stale,
                            _ => &self.metrics.published,
                        };
                        counter.add(1);
                    }
                }
                Ok(receipts)
            }
            Err(refusal) => {
                self.metrics.refused(&refusal);
                Err(refusal)
            }
        }
    }
}
