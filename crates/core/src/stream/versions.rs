//! The newest version of what a channel's publications are about, by key.
//!
//! Two writers that race, or a retry that comes late, must not overwrite news with the older state.
//! Whoever publishes says the version of what it saw (a row's counter, a time stamp); what is not
//! above the last one is dropped, under the same lock that orders.
//!
//! Bounded: [`KEYS_MAX`] keys per channel, where the key that was written longest ago is forgotten,
//! and by a number of keys over all channels, at which a channel forgets one of its own for each new
//! one, and one that has none to forget remembers nothing.

use std::collections::{BTreeMap, HashMap};

use crate::publication::PublicationKey;

/// Keys whose version one channel remembers.
pub const KEYS_MAX: usize = 1_000;

/// See the module's head. An empty one has allocated nothing.
#[derive(Debug, Default)]
pub struct Versions {
    newest: HashMap<Option<PublicationKey>, (u64, u64)>,
    /// Keys by the time of their last write, oldest first.
    written: BTreeMap<u64, Option<PublicationKey>>,
    writes: u64,
}

impl Versions {
    /// Whether this version of `key` comes too late.
    pub fn is_stale(&self, key: Option<&PublicationKey>, version: u64) -> bool {
        // Without a version nothing is looked up and no key cloned.
        !self.newest.is_empty() && {
            let newest = self.newest.get(&key.cloned());
            newest.is_some_and(|(newest, _)| version <= *newest)
        }
    }

    /// Remembers a version as the newest. `has_room`: whether there may be one more key in all.
    pub fn note(&mut self, key: Option<PublicationKey>, version: u64, has_room: bool) {
        let is_new = !self.newest.contains_key(&key);
        if is_new && (!has_room || self.newest.len() >= KEYS_MAX) {
            let Some((_, oldest)) = self.written.pop_first() else {
                return;
            };
            self.newest.remove(&oldest);
        }
        self.writes += 1;
        let before = self.newest.insert(key.clone(), (version, self.writes));
        if let Some((_, written)) = before {
            self.written.remove(&written);
        }
        self.written.insert(self.writes, key);
    }

    /// How many keys are remembered.
    pub fn len(&self) -> usize {
        self.newest.len()
    }

    /// Whether no version is remembered.
    pub fn is_empty(&self) -> bool {
        self.newest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Option<PublicationKey> {
        PublicationKey::new(text).ok()
    }

    #[test]
    fn what_is_not_above_the_last_one_is_stale() {
        let mut versions = Versions::default();
        // key ("" for none), version, stale?
        for (text, version, expected) in [
            ("", 0, false),
            ("", 0, true),
            ("", 2, false),
            ("", 1, true),
            ("", 2, true),
            ("a", 1, false),
            ("b", 1, false),
            ("a", 1, true),
            ("a", u64::MAX, false),
            ("a", u64::MAX, true),
            ("b", 2, false),
        ] {
            let key = key(text);
            assert_eq!(
                versions.is_stale(key.as_ref(), version),
                expected,
                "{text} {version}"
            );
            if !expected {
                versions.note(key, version, true);
            }
        }
    }

    #[test]
    fn the_key_written_longest_ago_is_forgotten() {
        let mut versions = Versions::default();
        for n in 0..KEYS_MAX {
            versions.note(key(&format!("{n}")), 5, true);
        }
        versions.note(key("0"), 6, true);
        versions.note(key("new"), 5, true);
        assert!(versions.is_stale(key("0").as_ref(), 6), "written lately");
        assert!(!versions.is_stale(key("1").as_ref(), 1), "forgotten");
        assert!(versions.is_stale(key("2").as_ref(), 5));
        assert_eq!((versions.len(), versions.written.len()), (KEYS_MAX, KEYS_MAX));
        // Where there is no room in all, one of its own makes place.
        versions.note(key("other"), 5, false);
        assert_eq!((versions.len(), versions.written.len()), (KEYS_MAX, KEYS_MAX));
        assert!(versions.is_stale(key("other").as_ref(), 5));
        let mut none = Versions::default();
        none.note(key("other"), 5, false);
        assert!(none.is_empty());
    }
}
