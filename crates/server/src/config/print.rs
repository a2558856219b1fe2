//! What is printed of a configuration: all settings with their defaults, those of one server with
//! their sources, a key for who has none, and which name is near to one that is unknown. The key of a
//! server never is.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::random::random;

use super::Config;
use super::layers::{OPTIONAL, Sources, keys, variable};

/// All settings with their defaults, ready to be saved and changed.
///
/// The comments are those of the reference page, so there is one text for both; a test holds that
/// every setting has its line there.
pub fn defaults_as_toml() -> String {
    let mut out = String::from(
        "# All settings of Fanfare with their defaults.\n\
         # Environment: FANFARE_ and the key in capitals, for example FANFARE_LIMITS_MESSAGE_BYTES_MAX.\n",
    );
    let body = toml::to_string(&Config::default()).unwrap_or_default();
    let mut section = String::new();
    for optional in OPTIONAL.iter().filter(|key| !key.contains('.')) {
        let _ = write!(out, "\n{}# {optional} =\n", comment(optional));
    }
    for line in body.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = format!("{name}.");
        } else if let Some((key, _)) = line.split_once(" = ") {
            out.push('\n');
            out.push_str(&comment(&format!("{section}{key}")));
        }
        out.push_str(line);
        out.push('\n');
        let optional = OPTIONAL.iter().filter_map(|key| key.split_once('.'));
        for (_, key) in optional.filter(|(name, _)| line == format!("[{name}]")) {
            let _ = write!(out, "\n{}# {key} =\n", comment(&format!("{section}{key}")));
        }
    }
    out
}

/// The settings of a configuration, with the source of each that is not a default. The key does
/// not show.
pub fn shown(config: &Config, sources: &Sources) -> String {
    let origins = origins(sources);
    let body = toml::to_string(config).unwrap_or_default();
    let mut section = String::new();
    let mut out = String::new();
    for line in body.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = format!("{name}.");
        }
        out.push_str(line);
        let key = line.split_once(" = ").map(|(key, _)| format!("{section}{key}"));
        if let Some(origin) = key.and_then(|key| origins.get(&key)) {
            let _ = write!(out, "  # {origin}");
        }
        out.push('\n');
    }
    out
}

/// Where the settings of a configuration come from, by key; the strongest layer counts.
fn origins(sources: &Sources) -> BTreeMap<String, String> {
    let mut origins = BTreeMap::new();
    if let Some((name, text)) = &sources.file {
        for (key, value) in text.parse::<toml::Table>().unwrap_or_default() {
            if let toml::Value::Table(inner) = value {
                let keys = inner.keys().map(|inner| format!("{key}.{inner}"));
                origins.extend(keys.map(|key| (key, name.clone())));
            } else {
                origins.insert(key, name.clone());
            }
        }
    }
    for key in keys() {
        let names = [variable(&key), "FANFARE_LOG".to_owned()];
        let names = names
            .get(..1 + usize::from(key == "log.level"))
            .unwrap_or_default();
        let set = |(name, _): &&(String, String)| names.contains(name);
        if let Some((name, _)) = sources.environment.iter().rev().find(set) {
            origins.insert(key, name.clone());
        }
    }
    for (key, _) in &sources.flags {
        let flag = format!("--{}", key.replace(['.', '_'], "-"));
        origins.insert((*key).to_owned(), flag);
    }
    origins
}

/// What the reference page says of a setting, as a comment.
fn comment(key: &str) -> String {
    described(key).map_or(String::new(), |text| format!("# {text}\n"))
}

/// The last column of a setting's row in the reference page. Limits stand there without their
/// section's name.
pub(super) fn described(key: &str) -> Option<&'static str> {
    const PAGE: &str = include_str!("../../../../docs/configuration.md");
    let cell = format!("| `{}` |", key.strip_prefix("limits.").unwrap_or(key));
    let row = PAGE.lines().find(|line| line.starts_with(&cell))?;
    row.trim_end_matches(" |").rsplit(" | ").next()
}

pub(super) fn key_needed(public: Option<SocketAddr>) -> String {
    let key = fresh_key();
    let address = public.map_or(String::new(), |address| address.to_string());
    format!(
        "{address} can be reached from other machines, so a key is needed: whoever knows it may publish.\n\
         Here is a fresh one. Add it to the configuration file:\n\n    key = \"{key}\"\n\n\
         or to the environment:\n\n    FANFARE_KEY={key}"
    )
}

/// 32 random bytes as 64 hexadecimal digits.
pub(super) fn fresh_key() -> String {
    let Ok(bytes) = random::<32>() else {
        return "(no random numbers on this machine)".to_owned();
    };
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Levenshtein distance: how many letters differ.
pub(super) fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let next = (diagonal + usize::from(x != *y))
                .min(row[j] + 1)
                .min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row.last().copied().unwrap_or(0)
}
