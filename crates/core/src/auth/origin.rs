//! Which pages may talk to us, and which host names we answer for.
//!
//! Browsers send cookies with a WebSocket handshake from any page and do not apply CORS to it;
//! the `Origin` field is the only barrier (RFC 6455 section 10.2). `Host` is the barrier against
//! DNS rebinding, which passes any rule that compares the origin with the host
//! (`security-baseline.md` section 5).
//!
//! | case                                     | answer                                         |
//! |------------------------------------------|------------------------------------------------|
//! | no `Origin`                              | a program: allowed                             |
//! | same host as asked for                   | allowed; only `https` where a trusted proxy    |
//! |                                          | says that it was asked so                      |
//! | listed, or within a listed wildcard      | allowed                                        |
//! | development: a loopback host, or `null`  | allowed (the page opened from disk)            |
//! | anything else, two fields, unparsable    | refused                                        |

use std::net::IpAddr;

use thiserror::Error;

use crate::disconnect::Refusal;

/// What a request says of where it was sent to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SentTo<'a> {
    /// Its `Host`.
    pub host: Option<&'a str>,
    /// A trusted proxy says that the browser used TLS; else it is not known.
    pub is_https: bool,
}

/// An entry of `origins` or `hosts` that cannot be used.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error(
    "{0:?} is not an origin; write it like \"https://shop.example\", \"https://*.shop.example\" or \"null\""
)]
pub struct OriginError(pub String);

/// Scheme, host and port, lower case, with the scheme's own port filled in.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

/// Splits `host:port` or `[v6]:port`; the host comes back without brackets and in lower case.
fn split_authority(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        (
            host,
            if rest.is_empty() {
                None
            } else {
                Some(rest.strip_prefix(':')?)
            },
        )
    } else {
        match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        }
    };
    let is_v6 = authority.starts_with('[');
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._*".contains(&b) || (is_v6 && b == b':');
    if host.is_empty() || host.len() > 253 || !host.bytes().all(fits) {
        return None;
    }
    let port = match port {
        None => None,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().ok()?),
        Some(_) => return None,
    };
    Some((host.to_ascii_lowercase(), port))
}

impl Origin {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let own_port = match scheme.as_str() {
            "http" | "ws" => 80,
            "https" | "wss" => 443,
            // Pages of browser extensions and app shells have origins of their own schemes.
            _ if !scheme.is_empty()
                && scheme
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) =>
            {
                0
            }
            _ => return None,
        };
        let (host, port) = split_authority(authority)?;
        Some(Self {
            scheme,
            host,
            port: port.unwrap_or(own_port),
        })
    }
}

/// Whether a host name or address always means this machine.
pub fn is_loopback_host(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host == "localhost"
        || host.ends_with(".localhost")
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Which origins may open connections and send requests.
#[derive(Clone, Debug, Default)]
pub struct OriginRules {
    listed: Vec<Origin>,
    null: bool,
    any: bool,
    development: bool,
}

impl OriginRules {
    /// Rules from the `origins` setting. `development`: no key is set, and the listener is on
    /// loopback.
    pub fn new(listed: &[String], development: bool) -> Result<Self, OriginError> {
        let mut rules = Self {
            development,
            null: development,
            ..Self::default()
        };
        for text in listed {
            match text.as_str() {
                "null" => rules.null = true,
                "*" => rules.any = true,
                _ => {
                    let origin = Origin::parse(text).ok_or_else(|| OriginError(text.clone()))?;
                    let stars = origin.host.matches('*').count();
                    if stars > 1 || (stars == 1 && !origin.host.starts_with("*.")) {
                        return Err(OriginError(text.clone()));
                    }
                    rules.listed.push(origin);
                }
            }
        }
        Ok(rules)
    }

    /// Judges the `Origin` fields of a request. Returns the origin to name in `Access-Control-Allow-Origin`, if there was one.
    pub fn check<'a>(
        &self,
        origins: impl Iterator<Item = &'a [u8]>,
        sent_to: SentTo<'_>,
    ) -> Result<Option<&'a str>, Refusal> {
        let mut origins = origins;
        let Some(raw) = origins.next() else {
            return Ok(None);
        };
        let refused = || {
            Refusal::WrongOrigin(
                String::from_utf8_lossy(raw.get(..raw.len().min(256)).unwrap_or_default()).into_owned(),
            )
        };
        let text = std::str::from_utf8(raw).map_err(|_| refused())?;
        if origins.next().is_some() {
            return Err(refused());
        }
        let allowed = if text == "null" {
            self.null
        } else {
            self.allows(text, sent_to)
        };
        if allowed { Ok(Some(text)) } else { Err(refused()) }
    }

    /// Whether an allowed origin is one that somebody named, or this server's own: not any page
    /// that `*` lets in, and not `null`, which a sandboxed frame of any page sends.
    pub fn is_named(&self, origin: &[u8], sent_to: SentTo<'_>) -> bool {
        let origin = std::str::from_utf8(origin).ok().and_then(Self::parse);
        origin.is_some_and(|origin| self.names(&origin, sent_to))
    }

    fn allows(&self, text: &str, sent_to: SentTo<'_>) -> bool {
        Self::parse(text).is_some_and(|origin| self.any || self.names(&origin, sent_to))
    }

    /// The origin of a page, which holds no star.
    fn parse(text: &str) -> Option<Origin> {
        Origin::parse(text).filter(|origin| !origin.host.contains('*'))
    }

    fn names(&self, origin: &Origin, sent_to: SentTo<'_>) -> bool {
        if self.listed.iter().any(|listed| covers(listed, origin)) {
            return true;
        }
        if self.development && is_loopback_host(&origin.host) {
            return true;
        }
        // The scheme that the browser used is not known without a proxy that says so, and the port is
        // compared only when the host that was asked for names one.
        let may_be_http = !sent_to.is_https;
        let fits = origin.scheme == "https" || (origin.scheme == "http" && may_be_http);
        let is_usual = origin.port == 443 || (origin.port == 80 && may_be_http);
        sent_to
            .host
            .and_then(split_authority)
            .is_some_and(|(asked, port)| {
                fits && asked == origin.host && port.map_or(is_usual, |port| port == origin.port)
            })
    }
}

fn covers(listed: &Origin, origin: &Origin) -> bool {
    if listed.scheme != origin.scheme || listed.port != origin.port {
        return false;
    }
    match listed.host.strip_prefix('*') {
        // `*.shop.example`: one or more whole labels, not the bare name.
        Some(suffix) => origin
            .host
            .strip_suffix(suffix)
            .is_some_and(|labels| !labels.is_empty()),
        None => listed.host == origin.host,
    }
}

/// Which `Host` values are answered.
#[derive(Clone, Debug, Default)]
pub struct HostRules {
    /// Only loopback names and listed ones are answered.
    strict: bool,
    listed: Vec<String>,
}

impl HostRules {
    /// Rules from the `hosts` setting. `on_loopback`: the listener's address is loopback, where a
    /// foreign name means that a page of another site was re-bound to this machine.
    pub fn new(listed: &[String], on_loopback: bool) -> Self {
        let listed: Vec<String> = listed.iter().map(|host| host.to_ascii_lowercase()).collect();
        Self {
            strict: on_loopback || !listed.is_empty(),
            listed,
        }
    }

    /// Judges the `Host` of a request.
    pub fn check(&self, host: Option<&str>) -> Result<(), Refusal> {
        // HTTP/1.0 has no Host, and no browser speaks it.
        let Some(host) = host else { return Ok(()) };
        let cut: String = host.chars().take(256).collect();
        let Some((name, _)) = split_authority(host) else {
            return Err(Refusal::WrongHost(cut));
        };
        if !self.strict || is_loopback_host(&name) || self.listed.contains(&name) {
            Ok(())
        } else {
            Err(Refusal::WrongHost(cut))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(host: &str) -> SentTo<'_> {
        SentTo {
            host: Some(host),
            is_https: false,
        }
    }

    #[track_caller]
    fn check(listed: &[&str], development: bool, origin: &str, host: &str, expected: bool) {
        let listed: Vec<String> = listed.iter().map(|text| (*text).to_owned()).collect();
        let rules = OriginRules::new(&listed, development).unwrap();
        let got = rules.check(std::iter::once(origin.as_bytes()), to(host));
        assert_eq!(
            got.is_ok(),
            expected,
            "{origin} at {host} with {listed:?}, development {development}"
        );
    }

    #[test]
    fn the_same_host_is_allowed() {
        check(&[], false, "https://shop.example", "shop.example", true);
        check(&[], false, "http://shop.example:8080", "shop.example:8080", true);
        check(&[], false, "https://SHOP.example", "shop.EXAMPLE", true);
        check(&[], false, "https://shop.example:444", "shop.example", false);
        check(&[], false, "http://shop.example:8081", "shop.example:8080", false);
        check(&[], false, "https://other.example", "shop.example", false);
        check(&[], false, "https://shop.example.org", "shop.example", false);
        check(&[], false, "null", "shop.example", false);
        check(&[], false, "ftp://shop.example", "shop.example", false);
    }

    #[track_caller]
    fn check_https(origin: &str, host: &str, expected: bool) {
        let rules = OriginRules::new(&[], false).unwrap();
        let sent_to = SentTo {
            host: Some(host),
            is_https: true,
        };
        let got = rules.check(std::iter::once(origin.as_bytes()), sent_to);
        assert_eq!(got.is_ok(), expected, "{origin} at {host}");
        assert_eq!(
            rules.is_named(origin.as_bytes(), sent_to),
            expected,
            "{origin} at {host}"
        );
    }

    #[test]
    fn a_page_without_tls_is_not_the_same_host_as_one_with_it_where_that_is_known() {
        check_https("https://shop.example", "shop.example", true);
        check_https("https://shop.example:8443", "shop.example:8443", true);
        check_https("https://shop.example:8443", "shop.example", false);
        check_https("http://shop.example", "shop.example", false);
        check_https("http://shop.example:443", "shop.example", false);
        check_https("http://shop.example:8443", "shop.example:8443", false);
    }

    #[test]
    fn listed_origins_are_exact_and_wildcards_match_whole_labels() {
        let listed = ["https://a.example", "https://*.b.example"];
        check(&listed, false, "https://a.example", "api", true);
        check(&listed, false, "https://a.example:443", "api", true);
        check(&listed, false, "http://a.example", "api", false);
        check(&listed, false, "https://x.b.example", "api", true);
        check(&listed, false, "https://y.x.b.example", "api", true);
        check(&listed, false, "https://b.example", "api", false);
        check(&listed, false, "https://evilb.example", "api", false);
        check(&listed, false, "https://x.b.example.org", "api", false);
        check(&listed, false, "https://x.b.example@evil.org", "api", false);
        check(&listed, false, "https://*.b.example", "api", false);
        check(&["null"], false, "null", "api", true);
        check(&["*"], false, "https://any.example", "api", true);
    }

    #[test]
    fn development_knows_loopback_pages_and_pages_from_disk_only() {
        check(&[], true, "null", "localhost:8080", true);
        check(&[], true, "http://localhost:3000", "localhost:8080", true);
        check(&[], true, "http://127.0.0.1", "localhost:8080", true);
        check(&[], true, "http://[::1]:5173", "localhost:8080", true);
        check(&[], true, "http://app.localhost", "localhost:8080", true);
        check(&[], true, "https://public.example", "localhost:8080", false);
        check(
            &[],
            true,
            "http://localhost.evil.example",
            "localhost:8080",
            false,
        );
        check(
            &[],
            true,
            "http://127.0.0.1.evil.example",
            "localhost:8080",
            false,
        );
        check(&[], true, "file://", "localhost:8080", false);
        check(&[], true, "", "localhost:8080", false);
    }

    #[test]
    fn programs_have_no_origin_and_nobody_has_two() {
        let rules = OriginRules::new(&[], true).unwrap();
        assert_eq!(rules.check(std::iter::empty(), to("localhost")), Ok(None));
        let two = [&b"http://localhost"[..], b"http://localhost"];
        assert!(rules.check(two.into_iter(), to("localhost")).is_err());
        assert!(
            rules
                .check(std::iter::once(&b"http://\xff"[..]), to("localhost"))
                .is_err()
        );
    }

    #[track_caller]
    fn check_named(listed: &[&str], development: bool, origin: &[u8], host: &str, expected: bool) {
        let listed: Vec<String> = listed.iter().map(|text| (*text).to_owned()).collect();
        let rules = OriginRules::new(&listed, development).unwrap();
        let shown = String::from_utf8_lossy(origin);
        assert_eq!(
            rules.is_named(origin, to(host)),
            expected,
            "{shown} by {listed:?}"
        );
    }

    #[test]
    fn who_is_let_in_by_a_star_was_not_named() {
        let own = "shop.example";
        check_named(&[], false, b"https://shop.example", own, true);
        check_named(&["*"], false, b"https://shop.example", own, true);
        check_named(&["*"], false, b"https://evil.example", own, false);
        check_named(&["null", "*"], false, b"null", own, false);
        check_named(&[], true, b"null", "localhost", false);
        check_named(&[], true, b"http://localhost:3000", "localhost:8080", true);
        check_named(&["https://*.a.example"], false, b"https://b.a.example", own, true);
        check_named(
            &["https://*.a.example"],
            false,
            b"https://*.a.example",
            own,
            false,
        );
        check_named(&["*"], false, b"https://\xff", own, false);
    }

    #[test]
    fn unusable_entries_are_refused_at_start() {
        for bad in [
            "shop.example",
            "https://",
            "https://*shop.example",
            "https://a.*.example",
            "https://a b",
        ] {
            assert!(OriginRules::new(&[bad.to_owned()], false).is_err(), "{bad}");
        }
    }

    #[track_caller]
    fn check_host(listed: &[&str], on_loopback: bool, host: Option<&str>, expected: bool) {
        let listed: Vec<String> = listed.iter().map(|text| (*text).to_owned()).collect();
        assert_eq!(
            HostRules::new(&listed, on_loopback).check(host).is_ok(),
            expected,
            "{host:?}"
        );
    }

    #[test]
    fn a_loopback_listener_answers_for_loopback_names() {
        check_host(&[], true, Some("localhost:8080"), true);
        check_host(&[], true, Some("LOCALHOST"), true);
        check_host(&[], true, Some("127.0.0.1:8080"), true);
        check_host(&[], true, Some("[::1]:8080"), true);
        check_host(&[], true, None, true);
        check_host(&[], true, Some("rebound.example:8080"), false);
        check_host(&["shop.example"], true, Some("shop.example"), true);
        check_host(&[], true, Some(""), false);
        check_host(&[], true, Some("localhost:x"), false);
        check_host(&[], false, Some("anything.example"), true);
        check_host(&["shop.example"], false, Some("other.example"), false);
    }
}
