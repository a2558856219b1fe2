//! What the fuzzing client's verdicts mean for us. Nothing here starts a process.
//!
//! The fuzzing client says two things of each case: how the messages went (`behavior`) and how the
//! connection ended (`behaviorClose`). What must be said depends on the [`Profile`].

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

/// Which cases are run against which settings.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Profile {
    /// RFC 6455, with limits that no case reaches.
    Raised,
    /// The same cases with default limits: what is too large must be refused with its code.
    Defaults,
    /// Compression (RFC 7692), with limits that no case reaches.
    Compression,
}

/// Groups of RFC 6455.
const RFC_6455: [&str; 9] = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"];

/// Groups of RFC 7692.
const RFC_7692: [&str; 2] = ["12.*", "13.*"];

/// Cases whose outcome the RFC leaves open: a message too large for the rest of the connection and
/// a close in the middle of it (7.1.6), and close codes that nobody has defined (7.13).
const OPEN: [&str; 3] = ["7.1.6", "7.13.1", "7.13.2"];

/// Cases that send a good message and a broken frame at once. The connection fails as the broken
/// frame arrives, and with it the way back for the good message, which the channel has ordered and
/// all others have got. Which of these lines it hits depends on how the bytes were cut on the way.
const ECHO_LOST: [&str; 10] = [
    "3.2", "3.3", "3.4", "4.1.3", "4.1.4", "4.1.5", "4.2.3", "4.2.4", "4.2.5", "5.15",
];

/// One line of the fuzzing client's report.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Case {
    /// How the messages went.
    pub(crate) behavior: String,
    /// How the connection ended.
    pub(crate) close: String,
    /// The close code that we sent.
    pub(crate) code: Option<u64>,
}

/// All cases by their number.
pub(crate) type Report = BTreeMap<String, Case>;

impl Profile {
    /// Patterns of the cases to run.
    pub(crate) fn groups(self) -> &'static [&'static str] {
        match self {
            Self::Raised | Self::Defaults => &RFC_6455,
            Self::Compression => &RFC_7692,
        }
    }

    /// How many cases these are; fewer would mean that some did not run.
    fn count(self) -> usize {
        match self {
            Self::Raised | Self::Defaults => 301,
            Self::Compression => 216,
        }
    }

    /// Whether this outcome of a case is as it must be.
    fn accepts(self, name: &str, case: &Case) -> bool {
        let ended_well = case.close == "OK";
        let is_good = match case.behavior.as_str() {
            "OK" => ended_well,
            // Not group 6.4: bad text must fail at its first bad byte, and not at its end.
            "NON-STRICT" => ended_well && ECHO_LOST.contains(&name),
            "INFORMATIONAL" => OPEN.contains(&name) && (ended_well || case.close == "INFORMATIONAL"),
            // An offer that we need not agree to: context takeover, a smaller window.
            "UNIMPLEMENTED" => ended_well && self == Self::Compression,
            _ => false,
        };
        // A limit held: the fuzzing client did not get its message back, but a reason.
        is_good || (self == Self::Defaults && matches!(case.code, Some(1008 | 1009)))
    }
}

/// Reads the fuzzing client's `index.json`.
pub(crate) fn read(index: &str) -> Result<Report> {
    let index: Value = serde_json::from_str(index)?;
    let agents = index.as_object().context("the report is not an object")?;
    let cases = agents.values().filter_map(Value::as_object).flatten();
    let text = |case: &Value, key: &str| case[key].as_str().unwrap_or_default().to_owned();
    Ok(cases
        .map(|(name, case)| {
            let case = Case {
                behavior: text(case, "behavior"),
                close: text(case, "behaviorClose"),
                code: case["remoteCloseCode"].as_u64(),
            };
            (name.clone(), case)
        })
        .collect())
}

/// What is wrong with a report, a line each.
pub(crate) fn faults(profile: Profile, report: &Report) -> Vec<String> {
    let mut faults: Vec<String> = report
        .iter()
        .filter(|(name, case)| !profile.accepts(name, case))
        .map(|(name, case)| {
            let code = case.code.map_or("none".to_owned(), |code| code.to_string());
            format!(
                "case {name}: {}, close {}, code {code}",
                case.behavior, case.close
            )
        })
        .collect();
    if report.len() != profile.count() {
        faults.push(format!("{} cases instead of {}", report.len(), profile.count()));
    }
    faults
}

/// How often each behavior occurs, most frequent first.
pub(crate) fn summary(report: &Report) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for case in report.values() {
        *counts.entry(&case.behavior).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    let counts: Vec<String> = counts
        .into_iter()
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    counts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(profile: Profile, name: &str, line: (&str, &str, u64), accepted: bool) {
        let case = Case {
            behavior: line.0.to_owned(),
            close: line.1.to_owned(),
            code: Some(line.2),
        };
        assert_eq!(
            profile.accepts(name, &case),
            accepted,
            "{profile:?} {name} {line:?}"
        );
    }

    #[test]
    fn what_each_profile_accepts() {
        use Profile::{Compression, Defaults, Raised};
        check(Raised, "1.1.1", ("OK", "OK", 1000), true);
        check(Raised, "1.1.1", ("OK", "UNCLEAN", 1000), false);
        check(Raised, "1.1.1", ("OK", "WRONG CODE", 1002), false);
        check(Raised, "9.1.6", ("FAILED", "FAILED", 1009), false);
        check(Raised, "1.1.1", ("ERROR", "OK", 1000), false);
        check(Raised, "3.2", ("NON-STRICT", "OK", 1002), true);
        check(Raised, "6.4.1", ("NON-STRICT", "OK", 1007), false);
        check(Raised, "7.1.6", ("INFORMATIONAL", "INFORMATIONAL", 1000), true);
        check(Raised, "7.1.5", ("INFORMATIONAL", "INFORMATIONAL", 1000), false);
        check(Raised, "1.1.1", ("UNIMPLEMENTED", "OK", 1000), false);
        check(Defaults, "9.1.6", ("FAILED", "FAILED", 1009), true);
        check(Defaults, "9.3.1", ("FAILED", "FAILED", 1008), true);
        check(Defaults, "9.1.6", ("FAILED", "FAILED", 1002), false);
        check(Defaults, "6.4.1", ("NON-STRICT", "OK", 1007), false);
        check(Compression, "12.1.1", ("UNIMPLEMENTED", "OK", 1000), true);
        check(Compression, "12.1.1", ("OK", "OK", 1000), true);
        check(Compression, "12.1.1", ("FAILED", "OK", 1009), false);
        check(Compression, "12.1.1", ("ERROR", "FAILED", 1000), false);
    }

    #[test]
    fn reports_are_counted() {
        let index = r#"{"127.0.0.1:1":{
            "1.1.1":{"behavior":"OK","behaviorClose":"OK","remoteCloseCode":1000,"duration":1},
            "1.1.2":{"behavior":"FAILED","behaviorClose":"OK","remoteCloseCode":null}}}"#;
        let report = read(index).unwrap_or_default();
        assert_eq!(summary(&report), "1 FAILED, 1 OK");
        assert_eq!(
            faults(Profile::Raised, &report),
            [
                "case 1.1.2: FAILED, close OK, code none",
                "2 cases instead of 301"
            ]
        );
        assert!(read("no").is_err());
        assert!(read("[]").is_err());
    }
}
