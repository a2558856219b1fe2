//! What an engine asks an app's streams before it orders: nothing here changes them.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::AppStreams;
use crate::channel::ChannelName;
use crate::position::Offset;
use crate::publication::{Audience, Draft, PublicationKey};

impl AppStreams {
    /// The place that the next publication gets. `None` when the order of this epoch has no place
    /// left, after 2^64 publications.
    pub fn next(&self) -> Option<Offset> {
        match self.last {
            None => Some(Offset::FIRST),
            Some(last) => Offset::new(last.get().checked_add(1)?),
        }
    }

    /// Whether anything of a publication for these is kept.
    pub fn keeps(&self, audience: &Audience) -> bool {
        match audience {
            Audience::Everyone => self.keeps_by(self.table.everyone.rule),
            Audience::Channels(names) => names.iter().any(|name| {
                let known = self.channel(name).map(|channel| channel.rule);
                self.keeps_by(known.unwrap_or_else(|| self.rules.rule_of(name)))
            }),
        }
    }

    /// Whether a draft comes too late: its version is not above the last one of its channel and key.
    pub fn is_stale(&self, draft: &Draft) -> bool {
        let Some(version) = draft.version else {
            return false;
        };
        let mut channels = draft
            .audience
            .channels()
            .iter()
            .filter_map(|name| self.channel(name));
        channels.any(|channel| channel.versions.is_stale(draft.key.as_ref(), version))
    }

    /// The same for each of some drafts that come one after the other: whether it comes too late
    /// behind those before it.
    pub fn are_stale(&self, drafts: &[Draft]) -> SmallVec<[bool; 1]> {
        if let [only] = drafts {
            return SmallVec::from_iter([self.is_stale(only)]);
        }
        let mut newest: HashMap<(&ChannelName, Option<&PublicationKey>), u64> = HashMap::new();
        let mut stale = SmallVec::with_capacity(drafts.len());
        for draft in drafts {
            let names = draft.audience.channels();
            let versions = draft.version.map(|version| (version, draft.key.as_ref()));
            let late = versions.is_some_and(|(version, key)| {
                let before = names.iter().filter_map(|name| newest.get(&(name, key)));
                before.max().is_some_and(|before| version <= *before)
            });
            let late = late || self.is_stale(draft);
            if let (Some((version, key)), false) = (versions, late) {
                newest.extend(names.iter().map(|name| ((name, key), version)));
            }
            stale.push(late);
        }
        stale
    }
}
