//! Addresses: which belong together and what each may do, which networks are listed, and whom a chain of
//! proxies speaks for.

use std::net::{IpAddr, SocketAddr};

use ipnet::{IpNet, Ipv4Net};
use thiserror::Error;

use crate::app::AppId;
use crate::user::UserId;

mod table;

pub use table::{Entered, Entry, Parties, PartyRules, Seat};

/// Whom limits are for: an address, or a user. What counts as one address is one of IPv4, or the first 64
/// bits of one of IPv6, of which every household has as many as it likes.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Party {
    /// An address of IPv4, also one that is written as one of IPv6.
    V4(u32),
    /// The upper half of an address of IPv6.
    V6(u64),
    /// Somebody who has shown who she is, to one app.
    User(AppId, UserId),
}

impl From<IpAddr> for Party {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

/// An entry of a list of networks that cannot be used.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{0:?} is not a network such as 192.0.2.0/24 or 2001:db8::/32, nor an address")]
pub struct NetworkError(String);

/// A list of networks.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// Reads networks, and single addresses.
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, NetworkError> {
        let read = |text: &str| {
            let address = text.parse::<IpAddr>().map(IpNet::from);
            let net = address.or_else(|_| text.parse::<IpNet>());
            net.map(canonical).map_err(|_| NetworkError(text.to_owned()))
        };
        texts.into_iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// Whether none is listed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many are listed.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether an address is in one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|net| net.contains(&address))
    }
}

/// A network of IPv4 that is written as one of IPv6 (`::ffff:192.0.2.0/120`) as what it is, since
/// addresses are looked at as what they are.
fn canonical(net: IpNet) -> IpNet {
    let (IpAddr::V4(address), Some(length)) =
        (net.network().to_canonical(), net.prefix_len().checked_sub(96))
    else {
        return net;
    };
    match net {
        IpNet::V4(_) => net,
        IpNet::V6(_) => Ipv4Net::new(address, length).map_or(net, IpNet::V4),
    }
}

/// What stands in `X-Forwarded-For` where the address of whoever asks must be.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("X-Forwarded-For holds something that is no address")]
pub struct ForwardedError;

/// For whom a trusted proxy asks: the last address in the `X-Forwarded-For` fields that is not of a
/// trusted proxy itself, or the first of all if there is none. What stands further left was written by
/// whoever asks, and means nothing. `None`: the proxy asks for itself.
pub fn forwarded<'a>(
    fields: impl DoubleEndedIterator<Item = &'a [u8]>,
    trusted: &Networks,
) -> Result<Option<IpAddr>, ForwardedError> {
    let hops = fields
        .rev()
        .filter(|field| !field.trim_ascii().is_empty())
        .flat_map(|field| field.rsplit(|&b| b == b','));
    let mut nearest = None;
    for hop in hops {
        let address = hop_address(hop).ok_or(ForwardedError)?;
        nearest = Some(address);
        if !trusted.contains(address) {
            break;
        }
    }
    Ok(nearest)
}

/// `192.0.2.7`, `192.0.2.7:4711`, `2001:db8::7`, `[2001:db8::7]` or `[2001:db8::7]:4711`.
fn hop_address(hop: &[u8]) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop).ok()?.trim();
    let bare = hop.strip_prefix('[').and_then(|hop| hop.strip_suffix(']'));
    let address = match bare {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().ok().map(IpAddr::V6),
        None => hop.parse::<IpAddr>().ok(),
    };
    let with_port = || hop.parse::<SocketAddr>().ok().map(|address| address.ip());
    address.or_else(with_port).map(|address| address.to_canonical())
}

/// Whether the last proxy says, in its `X-Forwarded-Proto` fields, that it was asked with TLS.
pub fn is_forwarded_tls<'a>(mut fields: impl DoubleEndedIterator<Item = &'a [u8]>) -> bool {
    let last = fields.next_back();
    let last = last.and_then(|field| field.rsplit(|&b| b == b',').next());
    let scheme = last.map(<[u8]>::trim_ascii).unwrap_or_default();
    scheme.eq_ignore_ascii_case(b"https") || scheme.eq_ignore_ascii_case(b"wss")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_alike(a: &str, b: &str, expected: bool) {
        let of = |text: &str| Party::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(of(a) == of(b), expected, "{a} and {b}");
    }

    #[test]
    fn a_household_of_ipv6_is_one_address() {
        check_alike("192.0.2.1", "192.0.2.1", true);
        check_alike("192.0.2.1", "192.0.2.2", false);
        check_alike("192.0.2.1", "::ffff:192.0.2.1", true);
        check_alike("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", true);
        check_alike("2001:db8:0:1::1", "2001:db8:0:2::1", false);
        check_alike("::192.0.2.1", "192.0.2.1", false);
    }

    #[track_caller]
    fn check_in(networks: &[&str], address: &str, expected: bool) {
        let networks = Networks::new(networks.iter().copied()).unwrap();
        assert_eq!(
            networks.contains(address.parse().unwrap()),
            expected,
            "{address} in {networks:?}"
        );
    }

    #[test]
    fn networks_hold_their_addresses_however_they_are_written() {
        let some = ["192.0.2.0/24", "10.1.2.3", "2001:db8::/32", "::1"];
        for (address, expected) in [
            ("192.0.2.0", true),
            ("192.0.2.255", true),
            ("192.0.3.0", false),
            ("::ffff:192.0.2.9", true),
            ("10.1.2.3", true),
            ("10.1.2.4", false),
            ("2001:db8:ffff::1", true),
            ("2001:db9::1", false),
            ("::1", true),
        ] {
            check_in(&some, address, expected);
        }
        // A network of IPv4 that is written as one of IPv6.
        for mapped in ["::ffff:192.0.2.0/120", "::ffff:192.0.2.9", "::ffff:0:0/96"] {
            check_in(&[mapped], "192.0.2.9", true);
            check_in(&[mapped], "::ffff:192.0.2.9", true);
            check_in(&[mapped], "2001:db8::1", false);
        }
        check_in(&["::ffff:192.0.2.0/120"], "192.0.3.1", false);
        check_in(&["::/0"], "2001:db8::1", true);
        check_in(&["::/0"], "192.0.2.1", false);
        check_in(&["0.0.0.0/0"], "192.0.2.1", true);
        check_in(&["0.0.0.0/0"], "2001:db8::1", false);
        check_in(&[], "192.0.2.1", false);
    }

    #[test]
    fn what_is_no_network_is_named() {
        for bad in [
            "",
            "192.0.2.0/33",
            "192.0.2",
            "shop.example",
            "2001:db8::/129",
            "unix",
        ] {
            let error = Networks::new([bad]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{bad:?}")), "{error}");
        }
    }

    #[track_caller]
    fn check(fields: &[&str], expected: Result<Option<&str>, ()>) {
        let trusted = Networks::new(["10.0.0.0/8", "2001:db8:1::/48"]).unwrap();
        let got = forwarded(fields.iter().map(|field| field.as_bytes()), &trusted);
        let expected = expected.map(|address| address.map(|text| text.parse().unwrap()));
        assert_eq!(got.map_err(drop), expected, "{fields:?}");
    }

    #[test]
    fn the_first_hop_from_the_right_that_is_not_ours_is_who_asks() {
        check(&[], Ok(None));
        check(&[""], Ok(None));
        check(&["192.0.2.7"], Ok(Some("192.0.2.7")));
        check(&["192.0.2.7, 10.0.0.2, 10.0.0.3"], Ok(Some("192.0.2.7")));
        check(&["192.0.2.7", "10.0.0.2", " 10.0.0.3 "], Ok(Some("192.0.2.7")));
        // Whoever asks may write what he likes.
        check(&["127.0.0.1, 10.0.0.9, 192.0.2.7"], Ok(Some("192.0.2.7")));
        check(&["<script>, 192.0.2.7,10.0.0.2"], Ok(Some("192.0.2.7")));
        check(&["\u{fffd},,, ,192.0.2.7"], Ok(Some("192.0.2.7")));
        // All are ours: the one that is furthest away.
        check(&["10.0.0.4, 10.0.0.2"], Ok(Some("10.0.0.4")));
        for with_port in ["192.0.2.7:4711", "::ffff:192.0.2.7"] {
            check(&[with_port], Ok(Some("192.0.2.7")));
        }
        for v6 in ["2001:db8::7", "[2001:db8::7]", "[2001:db8::7]:4711"] {
            check(&[&format!("{v6}, 2001:db8:1::1")], Ok(Some("2001:db8::7")));
        }
    }

    #[test]
    fn what_is_no_address_is_refused_where_it_counts() {
        for bad in [
            "unknown",
            "192.0.2.7, unknown",
            "192.0.2.7,",
            "192.0.2.7, bad, 10.0.0.2",
            "192.0.2.7:99999",
            "[192.0.2.7]",
            "192.0.2.07",
            "192.0.2.7 192.0.2.8",
        ] {
            check(&[bad], Err(()));
        }
    }

    #[track_caller]
    fn check_tls(fields: &[&str], expected: bool) {
        let got = is_forwarded_tls(fields.iter().map(|field| field.as_bytes()));
        assert_eq!(got, expected, "{fields:?}");
    }

    #[test]
    fn the_last_proxy_says_how_it_was_asked() {
        check_tls(&[], false);
        check_tls(&["https"], true);
        check_tls(&[" HTTPS "], true);
        check_tls(&["http, https"], true);
        check_tls(&["https, http"], false);
        check_tls(&["http", "wss"], true);
        check_tls(&["https", "http"], false);
        check_tls(&["httpss"], false);
    }
}
