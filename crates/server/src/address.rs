//! Who is at the other end: found once when a connection is accepted, or from what a trusted proxy says,
//! and kept with the connection.
//!
//! | comes                                  | is                                                          |
//! |----------------------------------------|-------------------------------------------------------------|
//! | over TCP                               | the address of its socket                                   |
//! | with `network.proxy_protocol`          | the address in the header, which only trusted proxies send  |
//! | from a trusted proxy                   | for each request, whom `X-Forwarded-For` names              |
//! | over the Unix socket                   | nobody with an address                                      |
//! | from this server's own probe           | always let in                                               |
//!
//! What anybody else says of himself is not looked at. How a chain of proxies is read is decided in
//! [`fanfare_core::address`].

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use fanfare_core::address::{self, Networks};
use fanfare_core::disconnect::Refusal;
use serde::{Deserialize, Serialize};

use crate::door::Asked;

/// Most entries of a list: they are looked at one by one.
const NETWORKS_MAX: usize = 1_000;

/// What stands for the Unix socket among the trusted proxies.
const UNIX: &str = "unix";

/// Section `[network]`. A network is written `192.0.2.0/24` or `2001:db8::/32`; an address is one too.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkSettings {
    /// Networks whose addresses may connect. Default none, which means all.
    pub allow: Vec<String>,
    /// Networks whose addresses may not, whatever `allow` says. Default none.
    pub deny: Vec<String>,
    /// Networks of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed; `unix` means
    /// those on the Unix socket. Default none.
    pub trusted_proxies: Vec<String>,
    /// Networks that are not held to limits per address, such as back ends on other machines, which connect
    /// anew for each message. Default none.
    pub uncounted: Vec<String>,
    /// Whether connections begin with a header of the PROXY protocol, version 2; then they must, and come
    /// from a trusted proxy. Not on the Unix socket. Default false.
    pub proxy_protocol: bool,
}

impl NetworkSettings {
    /// Finds what cannot be used.
    pub(crate) fn check(&self) -> Result<(), String> {
        let rules = self.rules()?;
        if self.proxy_protocol && rules.trusted.is_empty() {
            return Err(
                "network.proxy_protocol needs network.trusted_proxies: whom else should it be believed from?"
                    .to_owned(),
            );
        }
        Ok(())
    }

    pub(crate) fn rules(&self) -> Result<NetworkRules, String> {
        let read = |name: &str, texts: &[String]| {
            if texts.len() > NETWORKS_MAX {
                return Err(format!("network.{name}: at most {NETWORKS_MAX} networks"));
            }
            let texts = texts.iter().map(String::as_str);
            let networks = Networks::new(texts.filter(|text| name != "trusted_proxies" || *text != UNIX));
            networks.map_err(|error| format!("network.{name}: {error}"))
        };
        Ok(NetworkRules {
            allow: read("allow", &self.allow)?,
            deny: read("deny", &self.deny)?,
            trusted: read("trusted_proxies", &self.trusted_proxies)?,
            uncounted: read("uncounted", &self.uncounted)?,
            trusts_unix: self.trusted_proxies.iter().any(|text| text == UNIX),
        })
    }
}

/// The settings, read.
#[derive(Debug)]
pub(crate) struct NetworkRules {
    allow: Networks,
    deny: Networks,
    trusted: Networks,
    uncounted: Networks,
    trusts_unix: bool,
}

impl NetworkRules {
    /// Whether an address may connect. A trusted proxy may unless it is denied: whom it speaks for is
    /// asked too.
    pub(crate) fn admits(&self, source: &Source) -> bool {
        let Some(ip) = source.ip.filter(|_| source.way != Way::Own) else {
            return true;
        };
        let is_allowed = self.allow.is_empty() || source.way == Way::Proxy || self.allow.contains(ip);
        is_allowed && !self.deny.contains(ip)
    }
}

/// How it is known who is at the other end.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Way {
    /// By the socket, or the header of the PROXY protocol.
    #[default]
    Straight,
    /// In the same way, and it is a trusted proxy: what it says of others is believed.
    Proxy,
    /// A trusted proxy has named it in this request.
    Forwarded,
    /// It is this server's own probe.
    Own,
}

/// Who is at the other end. By default nobody with an address.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Source {
    pub(crate) ip: Option<IpAddr>,
    /// 0: not known.
    port: u16,
    pub(crate) way: Way,
    pub(crate) is_unix: bool,
    /// It is not held to limits per address.
    is_uncounted: bool,
    /// A trusted proxy says that it was asked with TLS.
    pub(crate) is_https: bool,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            None if self.is_unix => f.write_str("unix"),
            None => f.write_str("unknown"),
            Some(ip) if self.port == 0 => ip.fmt(f),
            Some(ip) => SocketAddr::new(ip, self.port).fmt(f),
        }
    }
}

impl Source {
    /// Whoever has this address.
    pub(crate) fn at(address: SocketAddr, rules: &NetworkRules) -> Self {
        let ip = address.ip().to_canonical();
        let is_proxy = rules.trusted.contains(ip);
        Self {
            ip: Some(ip),
            port: address.port(),
            way: if is_proxy { Way::Proxy } else { Way::Straight },
            is_uncounted: rules.uncounted.contains(ip),
            ..Self::default()
        }
    }

    /// Whoever has opened the Unix socket.
    pub(crate) fn unix(rules: &NetworkRules) -> Self {
        Self {
            way: if rules.trusts_unix {
                Way::Proxy
            } else {
                Way::Straight
            },
            is_unix: true,
            ..Self::default()
        }
    }

    /// The server itself.
    pub(crate) fn own(address: SocketAddr) -> Self {
        Self {
            ip: Some(address.ip()),
            port: address.port(),
            way: Way::Own,
            ..Self::default()
        }
    }

    /// Who makes a request over this connection.
    pub(crate) fn of_request(self, asked: &Asked<'_>, rules: &NetworkRules) -> Result<Self, Refusal> {
        if self.way != Way::Proxy {
            return Ok(self);
        }
        let is_https = address::is_forwarded_tls(asked.forwarded_proto.iter().copied());
        let own = Self { is_https, ..self };
        let named = address::forwarded(asked.forwarded_for.iter().copied(), &rules.trusted);
        let Some(ip) = named.map_err(|error| Refusal::bad_request(error.to_string()))? else {
            return Ok(own);
        };
        let source = Self {
            ip: Some(ip),
            port: 0,
            is_uncounted: rules.uncounted.contains(ip),
            way: Way::Forwarded,
            ..own
        };
        if rules.admits(&source) {
            Ok(source)
        } else {
            Err(Refusal::NotLetIn)
        }
    }

    /// Whether it is held to what an address may do. Whoever is on this machine need not be, and a proxy
    /// speaks for many.
    pub(crate) fn counts(&self, count_loopback: bool) -> Option<IpAddr> {
        let ip = self.ip.filter(|ip| count_loopback || !ip.is_loopback())?;
        let is_held = matches!(self.way, Way::Straight | Way::Forwarded) && !self.is_uncounted;
        is_held.then_some(ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(allow: &[&str], deny: &[&str]) -> NetworkRules {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let settings = NetworkSettings {
            allow: owned(allow),
            deny: owned(deny),
            trusted_proxies: owned(&["10.0.0.0/8", "unix"]),
            uncounted: Vec::new(),
            proxy_protocol: false,
        };
        settings.rules().unwrap_or_else(|error| panic!("{error}"))
    }

    #[track_caller]
    fn check_admitted(allow: &[&str], deny: &[&str], address: &str, expected: bool) {
        let rules = rules(allow, deny);
        let address = SocketAddr::new(address.parse().unwrap_or_else(|_| panic!("{address}")), 9);
        assert_eq!(
            rules.admits(&Source::at(address, &rules)),
            expected,
            "{address} with {allow:?} and {deny:?}"
        );
        assert!(rules.admits(&Source::own(address)) && rules.admits(&Source::unix(&rules)));
    }

    #[test]
    fn deny_is_stronger_than_allow_and_nothing_listed_means_everybody() {
        check_admitted(&[], &[], "192.0.2.1", true);
        check_admitted(&["192.0.2.0/24"], &[], "192.0.2.1", true);
        check_admitted(&["192.0.2.0/24"], &[], "::ffff:192.0.2.1", true);
        check_admitted(&["192.0.2.0/24"], &[], "192.0.3.1", false);
        check_admitted(&["192.0.2.0/24"], &["192.0.2.1"], "192.0.2.1", false);
        check_admitted(&[], &["192.0.2.0/24"], "192.0.2.1", false);
        check_admitted(&[], &["192.0.2.0/24"], "192.0.3.1", true);
        // A proxy speaks for others, who are asked about themselves.
        check_admitted(&["192.0.2.0/24"], &[], "10.0.0.1", true);
        check_admitted(&["192.0.2.0/24"], &["10.0.0.1"], "10.0.0.1", false);
    }

    /// Who asks over a connection from `peer`, as `address` or the status of a refusal, and what it is
    /// counted as.
    #[track_caller]
    fn check(peer: &str, forwarded: &[&str], expected: &str, counted: Option<&str>) {
        let rules = rules(&[], &["203.0.113.0/24"]);
        let source = match peer.parse() {
            Ok(address) => Source::at(address, &rules),
            Err(_) => Source::unix(&rules),
        };
        let asked = Asked {
            forwarded_for: forwarded.iter().map(|field| field.as_bytes()).collect(),
            ..Asked::default()
        };
        let got = source.of_request(&asked, &rules);
        let shown = match &got {
            Ok(source) => source.to_string(),
            Err(refusal) => refusal.status().to_string(),
        };
        assert_eq!(shown, expected, "{peer} {forwarded:?}");
        let counts = got.ok().and_then(|source| source.counts(false));
        assert_eq!(
            counts.map(|ip| ip.to_string()).as_deref(),
            counted,
            "{peer} {forwarded:?}"
        );
    }

    #[test]
    fn fields_are_believed_from_trusted_proxies_only() {
        check("192.0.2.1:80", &[], "192.0.2.1:80", Some("192.0.2.1"));
        check(
            "192.0.2.1:80",
            &["198.51.100.1"],
            "192.0.2.1:80",
            Some("192.0.2.1"),
        );
        check("192.0.2.1:80", &["nonsense"], "192.0.2.1:80", Some("192.0.2.1"));
        check("10.0.0.1:80", &[], "10.0.0.1:80", None);
        check(
            "10.0.0.1:80",
            &["198.51.100.1"],
            "198.51.100.1",
            Some("198.51.100.1"),
        );
        check("10.0.0.1:80", &["nonsense"], "400", None);
        check("10.0.0.1:80", &["203.0.113.9"], "403", None);
        check("10.0.0.1:80", &["127.0.0.1"], "127.0.0.1", None);
        check("unix", &["198.51.100.1"], "198.51.100.1", Some("198.51.100.1"));
        check("unix", &[], "unix", None);
        check("127.0.0.1:80", &[], "127.0.0.1:80", None);
        check("[::ffff:192.0.2.1]:80", &[], "192.0.2.1:80", Some("192.0.2.1"));
    }
}
