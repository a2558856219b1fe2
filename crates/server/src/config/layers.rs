//! The layers of a configuration, put on top of each other: a file, variables of the environment, flags.
//! What each of them says is checked where it was said, so that a message can name the place.

use serde::Deserialize;

use super::print::distance;
use super::{Config, ConfigError, apps};

/// Where the layers come from. Passed in, so that tests need no environment of their own.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Name and text of the file, if there is one.
    pub file: Option<(String, String)>,
    /// Variables of the environment.
    pub environment: Vec<(String, String)>,
    /// Flags: the key as in the file (`log.format`), and the value.
    pub flags: Vec<(&'static str, String)>,
}

/// Variables that begin with `FANFARE_` and are not settings of the server.
const OTHER_VARIABLES: [&str; 3] = ["FANFARE_CONFIG", "FANFARE_URL", "FANFARE_BIN"];

/// Settings without a default value, which so do not show up in a printed default.
pub(super) const OPTIONAL: [&str; 12] = [
    "apps",
    "unix",
    "key",
    "key_previous",
    "sessions.heartbeat",
    "tokens.jwks_url",
    "tokens.audience",
    "tokens.issuer",
    "hooks.on_connect",
    "hooks.on_message",
    "hooks.on_presence",
    "tls.listen",
];

/// Makes a configuration of its layers. The second part are warnings for the log.
pub fn load(sources: &Sources) -> Result<(Config, Vec<String>), ConfigError> {
    let mut table = toml::Table::new();
    if let Some((name, text)) = &sources.file {
        // Read once into its final form, so that errors point into the file.
        toml::from_str::<Config>(text).map_err(|error| ConfigError(in_file(name, text, &error)))?;
        table = text
            .parse()
            .map_err(|error: toml::de::Error| ConfigError(in_file(name, text, &error)))?;
    }
    let known = keys();
    for (name, value) in &sources.environment {
        let Some(rest) = name.strip_prefix("FANFARE_") else {
            continue;
        };
        if OTHER_VARIABLES.contains(&name.as_str()) {
            continue;
        }
        let key = known.iter().find(|key| variable(key) == *name);
        let key = match (key, rest) {
            (Some(key), _) => key.clone(),
            (None, "LOG") => "log.level".to_owned(),
            (None, _) => {
                let near = known
                    .iter()
                    .map(|key| variable(key))
                    .min_by_key(|known| distance(known, name));
                let near = near.map_or(String::new(), |near| format!("; did you mean {near}?"));
                return Err(ConfigError(format!("{name} is not a setting{near}")));
            }
        };
        set(&mut table, &key, value);
        check_table(&table, name)?;
    }
    from_laravel(&mut table, &sources.environment)?;
    for (key, value) in &sources.flags {
        set(&mut table, key, value);
        check_table(&table, &format!("--{}", key.replace(['.', '_'], "-")))?;
    }
    let config = Config::deserialize(table).map_err(|error| ConfigError(one_line(error.message())))?;
    let warnings = config.check()?;
    Ok((config, warnings))
}

/// What a Laravel project's own variables say, where nothing else does: weaker than the file.
fn from_laravel(table: &mut toml::Table, environment: &[(String, String)]) -> Result<(), ConfigError> {
    if table.contains_key("apps") {
        return Ok(());
    }
    let found = apps::from_environment(environment).map_err(ConfigError)?;
    if found.apps.is_empty() {
        return Ok(());
    }
    let apps = found.apps.iter().map(|app| {
        let mut row = toml::Table::try_from(app).unwrap_or_default();
        // A secret does not print.
        row.insert("secret".to_owned(), app.secret.expose().into());
        toml::Value::Table(row)
    });
    table.insert("apps".to_owned(), toml::Value::Array(apps.collect()));
    if let Some(listen) = found.listen.filter(|_| !table.contains_key("listen")) {
        table.insert("listen".to_owned(), listen.into());
        check_table(table, "REVERB_SERVER_HOST, REVERB_SERVER_PORT")?;
    }
    let has_path = table
        .get("pusher")
        .and_then(toml::Value::as_table)
        .is_some_and(|pusher| pusher.contains_key("path"));
    if let Some(path) = found.path.filter(|_| !has_path) {
        set(table, "pusher.path", &path);
    }
    Ok(())
}

fn check_table(table: &toml::Table, source: &str) -> Result<(), ConfigError> {
    match Config::deserialize(table.clone()) {
        Ok(_) => Ok(()),
        Err(error) => Err(ConfigError(format!("{source}: {}", one_line(error.message())))),
    }
}

fn in_file(name: &str, text: &str, error: &toml::de::Error) -> String {
    let line = error
        .span()
        .map(|span| text.get(..span.start).unwrap_or_default().matches('\n').count() + 1);
    let line = line.map_or(String::new(), |line| format!(", line {line}"));
    let wrong = error.span().and_then(|span| text.get(span)).unwrap_or_default();
    let key = wrong.split(['=', '\n']).next().unwrap_or_default().trim();
    let message = one_line(error.message());
    let near = if message.contains("unknown field") {
        let near = keys().into_iter().min_by_key(|known| {
            let last = known.rsplit('.').next().unwrap_or(known);
            // Of two that are as near, the one outside all sections.
            (distance(last, key), known.contains('.'))
        });
        near.map_or(String::new(), |near| format!("; did you mean `{near}`?"))
    } else {
        String::new()
    };
    format!("{name}{line}: {message}{near}")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The keys of all settings, sections joined by dots.
pub(super) fn keys() -> Vec<String> {
    let mut keys: Vec<String> = OPTIONAL.map(str::to_owned).to_vec();
    let defaults = toml::Table::try_from(Config::default()).unwrap_or_default();
    for (key, value) in &defaults {
        match value {
            toml::Value::Table(section) => keys.extend(section.keys().map(|inner| format!("{key}.{inner}"))),
            _ => keys.push(key.clone()),
        }
    }
    keys
}

/// The variable of a setting: `FANFARE_` and the key in capitals.
pub(super) fn variable(key: &str) -> String {
    format!("FANFARE_{}", key.replace('.', "_").to_uppercase())
}

/// Puts a text into the table, in the form that the setting has by default.
fn set(table: &mut toml::Table, key: &str, text: &str) {
    let defaults = toml::Table::try_from(Config::default()).unwrap_or_default();
    let (section, name) = key
        .split_once('.')
        .map_or((None, key), |(section, name)| (Some(section), name));
    let default = match section {
        Some(section) => defaults.get(section).and_then(|section| section.get(name)),
        None => defaults.get(name),
    };
    let list = || {
        toml::Value::Array(
            text.split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(Into::into)
                .collect(),
        )
    };
    let value = match default {
        Some(toml::Value::Integer(_)) => text
            .parse::<i64>()
            .map_or_else(|_| text.into(), toml::Value::Integer),
        Some(toml::Value::Array(_)) if key == "channels.rules" => inline(text).unwrap_or_else(|| text.into()),
        None if key == "apps" => inline(text).unwrap_or_else(|| text.into()),
        Some(toml::Value::Boolean(_)) => text.parse().map_or_else(|_| text.into(), toml::Value::Boolean),
        Some(toml::Value::Array(_)) => list(),
        None if key == "sessions.heartbeat" => list(),
        _ => text.into(),
    };
    let target = match section {
        None => table,
        Some(section) => {
            let entry = table
                .entry(section)
                .or_insert_with(|| toml::Value::Table(toml::Table::new()));
            match entry {
                toml::Value::Table(inner) => inner,
                _ => return,
            }
        }
    };
    target.insert(name.to_owned(), value);
}

/// A value as TOML writes it in one line, for lists of tables.
fn inline(text: &str) -> Option<toml::Value> {
    let mut table: toml::Table = format!("value = {text}").parse().ok()?;
    table.remove("value")
}
