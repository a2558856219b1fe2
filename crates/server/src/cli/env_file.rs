//! The `.env` file of a Laravel project, read as Laravel's own reader does (phpdotenv 5, `Lines`, `EntryParser` and
//! `Resolver`): what it says of broadcasting, and nothing else.
//!
//! A mistake in an entry about something else harms nobody here: it is passed over, where Laravel would not start.

use std::collections::HashMap;
use std::path::Path;

/// What the names begin with that are looked at.
const PREFIXES: [&str; 3] = ["PUSHER_", "REVERB_", "BROADCAST_"];

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<Vec<(String, String)>, String> {
    let shown = path.display();
    let bytes = std::fs::read(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    // Some other entry may be in another encoding.
    let text = String::from_utf8_lossy(&bytes);
    let environment = |name: &str| std::env::var(name).ok();
    variables(&text, environment).map_err(|(line, wrong)| format!("{shown}, line {line}: {wrong}"))
}

/// The variables of a text, in its order; or the number of a line, and what is wrong there. Not its words: they may
/// be a secret.
fn variables(
    text: &str,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Vec<(String, String)>, (usize, &'static str)> {
    let mut known: HashMap<String, String> = HashMap::new();
    let mut found = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = (1..).zip(text.lines());
    while let Some((number, line)) = lines.next() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        let name = name.trim();
        let name = name
            .strip_prefix("export")
            .filter(|rest| rest.starts_with([' ', '\t']))
            .unwrap_or(name);
        let name = name.trim().trim_matches(['"', '\'']);
        let is_wanted = PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        let mut value = value.trim().to_owned();
        // What has no end on its line goes on, if it has one at all.
        let (mut longer, mut further) = (value.clone(), lines.clone());
        while is_open(&longer) {
            let Some((_, next)) = further.next() else { break };
            longer.push('\n');
            longer.push_str(next);
        }
        if !is_open(&longer) {
            (value, lines) = (longer, further);
        }
        match value_of(&value, |name| {
            environment(name).or_else(|| known.get(name).cloned())
        }) {
            Ok(value) => {
                if is_wanted {
                    found.push((name.to_owned(), value.clone()));
                }
                known.insert(name.to_owned(), value);
            }
            Err(wrong) if is_wanted => return Err((number, wrong)),
            Err(_) => {}
        }
    }
    Ok(found)
}

/// Whether a value in double quotes has no end yet.
fn is_open(value: &str) -> bool {
    let Some(inner) = value.strip_prefix('"') else {
        return false;
    };
    let mut is_escaped = false;
    !inner.chars().any(|c| {
        let ends = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        ends
    })
}

/// What a value is, without its quotes and comment, and with what names in braces stand for.
fn value_of(text: &str, of: impl Fn(&str) -> Option<String>) -> Result<String, &'static str> {
    enum State {
        Initial,
        Unquoted,
        Single,
        Double,
        Behind,
    }
    let mut value = String::with_capacity(text.len());
    let mut state = State::Initial;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let behind = rest.get(c.len_utf8()..).unwrap_or_default();
        match (&state, c) {
            (State::Initial | State::Unquoted | State::Behind, '#') => return Ok(value),
            (State::Initial, '"') => state = State::Double,
            (State::Initial, '\'') => state = State::Single,
            (State::Double, '"') | (State::Single, '\'') => state = State::Behind,
            (State::Initial | State::Unquoted, c) if c.is_whitespace() => state = State::Behind,
            (State::Behind, c) if c.is_whitespace() => {}
            (State::Behind, _) => return Err("a value with blanks must stand in quotes"),
            (State::Double, '\\') => {
                let Some(escaped) = behind.chars().next() else {
                    break;
                };
                value.push(match escaped {
                    '"' | '\\' | '$' => escaped,
                    'f' => '\u{c}',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'v' => '\u{b}',
                    _ => return Err("an escape that there is not"),
                });
                rest = behind.get(escaped.len_utf8()..).unwrap_or_default();
                continue;
            }
            (State::Initial | State::Unquoted | State::Double, c) => {
                if matches!(state, State::Initial) {
                    state = State::Unquoted;
                }
                if let Some((name, next)) = named(rest) {
                    match of(name) {
                        Some(known) => value.push_str(&known),
                        // As it stands.
                        None => value.extend(["${", name, "}"]),
                    }
                    rest = next;
                    continue;
                }
                value.push(c);
            }
            (State::Single, c) => value.push(c),
        }
        rest = behind;
    }
    match state {
        State::Single | State::Double => Err("a quote without an end"),
        State::Initial | State::Unquoted | State::Behind => Ok(value),
    }
}

/// A name in braces with `$` in front, and what comes behind it.
fn named(text: &str) -> Option<(&str, &str)> {
    let (name, next) = text.strip_prefix("${")?.split_once('}')?;
    let is_name = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.'));
    is_name.then_some((name, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The variables, or the line that is wrong.
    #[track_caller]
    fn check(text: &str, expected: Result<&[(&str, &str)], usize>) {
        let environment = |name: &str| (name == "HOME").then(|| "/srv".to_owned());
        let expected = expected.map(|variables| {
            let owned = variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            owned.collect()
        });
        let found = variables(text, environment).map_err(|(line, _)| line);
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn a_file_as_laravel_reads_it() {
        check("", Ok(&[]));
        check(
            "PUSHER_APP_ID=4711\n# PUSHER_APP_KEY=no\n",
            Ok(&[("PUSHER_APP_ID", "4711")]),
        );
        check(
            "\u{feff}PUSHER_APP_ID=4711\r\nPUSHER_APP_KEY=a\r\n",
            Ok(&[("PUSHER_APP_ID", "4711"), ("PUSHER_APP_KEY", "a")]),
        );
        for line in [
            "export PUSHER_APP_KEY = \"a b\" # c",
            "export\tPUSHER_APP_KEY='a b'",
            "'PUSHER_APP_KEY'=\"a b\"# c",
        ] {
            check(line, Ok(&[("PUSHER_APP_KEY", "a b")]));
        }
        check("PUSHER_APP_KEY=", Ok(&[("PUSHER_APP_KEY", "")]));
        check("EXPORT=1\nexported=2\nPUSHERS=3", Ok(&[]));
        // What says something else may be wrong, and go over several lines.
        let other = "APP_NAME=My Shop\nKEY=\"-----BEGIN\nPUSHER\n-----END\"\nA='\nREVERB_PORT=8080";
        check(other, Ok(&[("REVERB_PORT", "8080")]));
        check(
            "KEY=\"a\nREVERB_APP_KEY=b\n\"\nREVERB_APP_ID=1",
            Ok(&[("REVERB_APP_ID", "1")]),
        );
        check("KEY=\"a\nREVERB_APP_KEY=b", Ok(&[("REVERB_APP_KEY", "b")]));
        check("A=\"x\ny\"\nREVERB_B=\"${A}\"", Ok(&[("REVERB_B", "x\ny")]));
        check("A=1\nREVERB_APP_KEY=a b", Err(2));
        check("REVERB_APP_KEY=\"a", Err(1));
        check(
            "REVERB_APP_KEY=\"a\nb\"\nREVERB_APP_ID=1",
            Ok(&[("REVERB_APP_KEY", "a\nb"), ("REVERB_APP_ID", "1")]),
        );
    }

    #[test]
    fn values_as_laravel_reads_them() {
        for (line, value) in [
            ("abc # don't change", "abc"),
            ("abc  # don't change", "abc"),
            ("ab#cd", "ab"),
            ("\"ab#cd\"", "ab#cd"),
            ("a\\b", "a\\b"),
            ("it's", "it's"),
            ("a\"b", "a\"b"),
            ("\"a\\\"b\\\\c\\td\\n\"", "a\"b\\c\td\n"),
            ("'a\\n\"b'", "a\\n\"b"),
            ("\"\"", ""),
            ("#", ""),
            ("ü", "ü"),
            // Names in braces.
            ("\"${PUSHER_APP_SECRET}\"", "s"),
            ("${PUSHER_APP_SECRET}", "s"),
            ("\"a${PUSHER_APP_SECRET}b${HOME}\"", "asb/srv"),
            ("'${PUSHER_APP_SECRET}'", "${PUSHER_APP_SECRET}"),
            ("\"${UNKNOWN}\"", "${UNKNOWN}"),
            ("\"${APP_NAME}\"", "shop"),
            ("\"${no name}\"", "${no name}"),
            ("\"\\${HOME}\"", "${HOME}"),
            // A dollar alone is a character like any other.
            ("abc$def", "abc$def"),
            ("\"abc$HOME}\"", "abc$HOME}"),
        ] {
            let text = format!("APP_NAME=shop\nPUSHER_APP_SECRET=s\nREVERB_APP_SECRET={line}");
            check(
                &text,
                Ok(&[("PUSHER_APP_SECRET", "s"), ("REVERB_APP_SECRET", value)]),
            );
        }
        // Not what comes later, and the process is stronger.
        check(
            "REVERB_A=${PUSHER_B}\nPUSHER_B=1",
            Ok(&[("REVERB_A", "${PUSHER_B}"), ("PUSHER_B", "1")]),
        );
        check("HOME=x\nREVERB_A=${HOME}", Ok(&[("REVERB_A", "/srv")]));
        check("REVERB_A=\"\\q\"", Err(1));
    }
}
