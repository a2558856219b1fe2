//! The `.env` file of a Laravel project, as Laravel reads it: what it says of broadcasting, and nothing else.
//!
//! Lines are read one by one, so that a mistake in one that says something else harms nobody here. `${NAME}` is
//! the variable of the process, or what the file has said of it before; a `$` without braces is itself, other
//! than in a shell and in dotenvy, which reads the rest.

use std::collections::HashMap;
use std::path::Path;

/// What the names begin with that are looked at.
const PREFIXES: [&str; 3] = ["PUSHER_", "REVERB_", "BROADCAST_"];

/// What stands for `${` and `}` while a line is read; neither is in any file that people write.
const OPEN: char = '\u{e000}';
const CLOSE: char = '\u{e001}';

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<Vec<(String, String)>, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    let environment = |name: &str| std::env::var(name).ok();
    variables(&text, environment).map_err(|line| format!("{shown}, line {line}: not NAME=value"))
}

/// The variables of a text, in its order; or the number of the line that is wrong. Its own words would show the
/// line, and so perhaps a secret.
fn variables(
    text: &str,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Vec<(String, String)>, usize> {
    let mut known: HashMap<String, String> = HashMap::new();
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        let line = line.strip_prefix("export ").map_or(line, str::trim_start);
        let is_wanted = PREFIXES.iter().any(|prefix| line.starts_with(prefix));
        for variable in dotenvy::from_read_iter(marked(line).as_bytes()) {
            match variable {
                Ok((name, value)) => {
                    let value = filled(&value, |name| {
                        environment(name).or_else(|| known.get(name).cloned())
                    });
                    if is_wanted {
                        found.push((name.clone(), value.clone()));
                    }
                    known.insert(name, value);
                }
                Err(_) if is_wanted => return Err(number),
                Err(_) => break,
            }
        }
    }
    Ok(found)
}

/// A line in which no `$` is left that dotenvy would read in its own way.
fn marked(line: &str) -> String {
    let mut marked = String::with_capacity(line.len());
    let (mut quote, mut is_named) = (None, false);
    let mut rest = line.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\\' if quote != Some('\'') => {
                marked.push(c);
                marked.extend(rest.next());
            }
            '$' if quote != Some('\'') && rest.peek() == Some(&'{') => {
                rest.next();
                marked.push(OPEN);
                is_named = true;
            }
            '}' if is_named => {
                marked.push(CLOSE);
                is_named = false;
            }
            '$' if quote != Some('\'') => marked.push_str("\\$"),
            '"' | '\'' => {
                match quote {
                    None => quote = Some(c),
                    Some(open) if open == c => quote = None,
                    Some(_) => {}
                }
                marked.push(c);
            }
            c => marked.push(c),
        }
    }
    marked
}

/// A value with what its names stand for; what is not known is nothing.
fn filled(value: &str, of: impl Fn(&str) -> Option<String>) -> String {
    let mut parts = value.split(OPEN);
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, behind) = part.split_once(CLOSE).unwrap_or((part, ""));
        filled.push_str(&of(name).unwrap_or_default());
        filled.push_str(behind);
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&[(&str, &str)], usize>) {
        let environment = |name: &str| (name == "HOME").then(|| "/srv".to_owned());
        let expected = expected.map(|variables| {
            let owned = variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            owned.collect()
        });
        assert_eq!(variables(text, environment), expected, "{text}");
    }

    #[test]
    fn a_file_as_laravel_reads_it() {
        check("", Ok(&[]));
        check(
            "PUSHER_APP_ID=4711\n# PUSHER_APP_KEY=no\n",
            Ok(&[("PUSHER_APP_ID", "4711")]),
        );
        check(
            "export PUSHER_APP_KEY = \"a b\" # c",
            Ok(&[("PUSHER_APP_KEY", "a b")]),
        );
        // What says something else may be wrong.
        check(
            "APP_NAME=My Shop\nREVERB_PORT=8080",
            Ok(&[("REVERB_PORT", "8080")]),
        );
        check("APP_KEY=x\nOTHER=y", Ok(&[]));
        check("A=1\nREVERB_APP_KEY=a b", Err(2));
        check("PUSHER_APP_KEY=", Ok(&[("PUSHER_APP_KEY", "")]));
    }

    #[test]
    fn names_in_braces_stand_for_what_is_known() {
        let secret = ("PUSHER_APP_SECRET", "s");
        for (line, value) in [
            ("\"${PUSHER_APP_SECRET}\"", "s"),
            ("${PUSHER_APP_SECRET}", "s"),
            ("\"a${PUSHER_APP_SECRET}b${HOME}\"", "asb/srv"),
            ("'${PUSHER_APP_SECRET}'", "${PUSHER_APP_SECRET}"),
            ("\"${UNKNOWN}\"", ""),
            ("\"${APP_NAME}\"", "shop"),
            // A dollar alone is a character like any other.
            ("abc$def", "abc$def"),
            ("\"abc$PUSHER_APP_SECRET\"", "abc$PUSHER_APP_SECRET"),
            ("\"a\\$b\"", "a$b"),
            ("\"a}b\"", "a}b"),
        ] {
            let text = format!("APP_NAME=shop\nPUSHER_APP_SECRET=s\nREVERB_APP_SECRET={line}");
            check(&text, Ok(&[secret, ("REVERB_APP_SECRET", value)]));
        }
        // Not what comes later, and the process is stronger.
        check(
            "REVERB_A=${PUSHER_B}\nPUSHER_B=1",
            Ok(&[("REVERB_A", ""), ("PUSHER_B", "1")]),
        );
        check("HOME=x\nREVERB_A=${HOME}", Ok(&[("REVERB_A", "/srv")]));
    }
}
