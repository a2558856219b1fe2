//! How an app of the engine begins: in memory, or with what an earlier life of the node has written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use fanfare_core::app::AppId;
use fanfare_core::position::Epoch;
use fanfare_core::stream::HistoryRules;
use fanfare_core::stream::app::{AppStreams, Shared};

use crate::clock::Clock;
use crate::config::Config;
use crate::disk::{DiskSettings, FILE_BYTES, Folder, Wanted};
use crate::engine::{App, Mailboxes, MemoryEngine, Once};

/// What all apps of a node begin with.
#[derive(Debug)]
pub(crate) struct Begin {
    epoch: Epoch,
    rules: HistoryRules,
    shards: usize,
    shared: Arc<Shared>,
    once: Once,
    clock: Clock,
    /// If publications are written to disk.
    disk: Option<DiskSettings>,
}

impl Begin {
    /// `epoch` must differ from that of every earlier life of the node.
    pub(crate) fn new(config: &Config, epoch: Epoch, shards: usize, clock: Clock) -> Result<Self> {
        let limits = &config.limits;
        let shared = Shared::new(limits.channels_max, config.history.bytes_max, limits.versions_max);
        Ok(Self {
            epoch,
            rules: config.history_rules()?,
            shards,
            shared: Arc::new(shared),
            once: Once {
                age: limits.idempotency_age,
                keys_max: limits.idempotency_keys_max,
            },
            clock,
            disk: (config.engine == "disk").then(|| config.disk.clone()),
        })
    }

    /// An engine with these apps and the readiness probe's, each with the folder where it is written.
    pub(crate) fn engine(
        &self,
        folders: Vec<(AppId, PathBuf)>,
        mailboxes: &Mailboxes,
    ) -> Result<MemoryEngine> {
        // The probe's own order begins anew with each life.
        let nothing = self.streams(HistoryRules::nothing());
        let mut apps = vec![App::new(AppId::PROBE, nothing, self.once, None)];
        for (app, folder) in &folders {
            apps.push(self.app(*app, folder)?);
        }
        Ok(MemoryEngine::of(
            apps,
            Arc::clone(mailboxes),
            Arc::clone(&self.shared),
        ))
    }

    /// One app, with what was written of it.
    pub(crate) fn app(&self, app: AppId, folder: &Path) -> Result<App> {
        let rules = self.rules.clone();
        let Some(disk) = &self.disk else {
            return Ok(App::new(app, self.streams(rules), self.once, None));
        };
        let opened = Folder::take(folder)?.open(Wanted {
            app,
            epoch: self.epoch,
            rules,
            shards: self.shards,
            shared: Arc::clone(&self.shared),
            sync: disk.sync,
            now: self.clock.now(),
            file_bytes: FILE_BYTES,
        })?;
        let journal = Some(Box::new(opened.journal) as _);
        Ok(App::new(app, opened.streams, self.once, journal))
    }

    fn streams(&self, rules: HistoryRules) -> AppStreams {
        AppStreams::new(self.epoch, self.shards, rules, Arc::clone(&self.shared))
    }
}
