//! HTTP requests that the server makes itself: to a back end (hooks, webhooks) and for keys (JWK sets).
//!
//! Where to comes from the configuration alone; a request, token or publication can never name a
//! place. Beyond this machine and private networks only over https: what is asked holds cookies,
//! and what is answered decides who may do what. Which addresses may be asked is said by [`Reach`]; a name
//! that stands for another one is refused when it is resolved, and what was resolved is what is connected
//! to.
//!
//! No redirects, no cookies, no proxy of the environment. Every request has an end, every answer a
//! largest size. Certificates are checked against the system's list. Connections are kept for the
//! next request.
//!
//! All of it runs on one thread of its own, so that no shard ever waits.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use fanfare_core::auth::is_loopback_host;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::runtime::Handle;
use tower_service::Service;

use crate::tls;

/// Time to connect, TLS not included: to what is near, and to anywhere.
const CONNECT_TIME_MAX: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// Time for which a connection that nobody uses is kept.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// Connections to one place that are kept although nobody uses them.
const IDLE_CONNECTIONS_MAX: usize = 16;

/// What is said of who asks.
const USER_AGENT: &str = concat!("fanfare/", env!("CARGO_PKG_VERSION"));

/// Bytes of an answer that are read although nobody wants them, so that its connection is good for more, and
/// time for that.
const UNREAD_MAX: (usize, Duration) = (64 << 10, Duration::from_secs(1));

/// Which addresses requests may go to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Reach {
    /// All with TLS, this machine without.
    PlainLoopback,
    /// All with TLS, this machine and private networks without.
    PlainPrivate,
    /// Those that everybody can reach, with TLS.
    Public,
    /// These, and this machine and private networks with TLS or without.
    PublicAndPrivate,
}

impl Reach {
    fn allows(self, address: IpAddr, is_tls: bool) -> bool {
        let address = address.to_canonical();
        let is_near = || address.is_loopback() || is_private(address);
        match (self, is_tls) {
            (Self::PlainLoopback | Self::PlainPrivate, true) => true,
            (Self::PlainLoopback, false) => address.is_loopback(),
            (Self::PlainPrivate | Self::PublicAndPrivate, false) => is_near(),
            (Self::Public, true) => is_public(address),
            (Self::Public, false) => false,
            (Self::PublicAndPrivate, true) => is_public(address) || is_near(),
        }
    }

    /// What is wrong with an address without TLS.
    fn plain_refused(self) -> &'static str {
        match self {
            Self::PlainLoopback => "must be https; http is only for loopback",
            Self::PlainPrivate | Self::PublicAndPrivate => {
                "must be https; http is only for loopback and private networks"
            }
            Self::Public => "must be https",
        }
    }
}

/// RFC 1918, RFC 6598 and RFC 4193. Not link-local addresses, and not the two of private ranges where clouds tell
/// their secrets as they do there.
fn is_private(address: IpAddr) -> bool {
    const SECRETS_V4: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);
    const SECRETS_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    match address {
        IpAddr::V4(SECRETS_V4) | IpAddr::V6(SECRETS_V6) => false,
        IpAddr::V4(v4) => v4.is_private() || matches!(v4.octets(), [100, 64..=127, ..]),
        IpAddr::V6(v6) => Ipv6Addr::is_unique_local(&v6),
    }
}

/// Whether an address is one that everybody on the internet can reach, by IANA's registries of special
/// addresses: of IPv4 all that is not special, of IPv6 global unicast that is not, and what stands for such
/// an address of IPv4 where a network translates (RFC 6052).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !matches!(
            v4.octets(),
            [0 | 10 | 127 | 224..=255, ..]
                | [100, 64..=127, ..]
                | [169, 254, ..]
                | [172, 16..=31, ..]
                | [192, 0, 0 | 2, _]
                | [192, 88, 99, _]
                | [192, 168, ..]
                | [198, 18..=19, ..]
                | [198, 51, 100, _]
                | [203, 0, 113, _]
        ),
        IpAddr::V6(v6) => match v6.segments() {
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
                is_public(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
            }
            // Protocol assignments with Teredo, documentation, 6to4.
            [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x2002, ..] | [0x3fff, 0..=0xfff, ..] => false,
            [first, ..] => first & 0xe000 == 0x2000,
        },
    }
}

/// Where requests go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Target {
    uri: Uri,
    is_tls: bool,
    reach: Reach,
}

impl Target {
    /// Reads an address; the error says what is wrong with it.
    pub(crate) fn parse(text: &str, reach: Reach) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not an address such as https://app.example/path");
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(wrong());
        }
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong()),
        };
        let may_be_asked = match (host.parse::<IpAddr>(), reach) {
            (Ok(address), _) => reach.allows(address, is_tls),
            (Err(_), Reach::PlainLoopback) => is_tls || is_loopback_host(host),
            (Err(_), Reach::Public) => is_tls,
            // What it stands for is looked at whenever it is resolved.
            (Err(_), Reach::PlainPrivate | Reach::PublicAndPrivate) => true,
        };
        match may_be_asked {
            true => Ok(Self { uri, is_tls, reach }),
            false if !is_tls => Err(format!("{text:?} {}", reach.plain_refused())),
            false => Err(format!("{text:?} is no address that everybody can reach")),
        }
    }

    /// What may be shown of it: not its query, which may hold a secret.
    pub(crate) fn shown(&self) -> String {
        let authority = self.uri.authority().map_or("", http::uri::Authority::as_str);
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{authority}{}", self.uri.path())
    }
}

/// Why there is no answer that can be used. The texts are for the log.
#[derive(Debug, Error)]
pub(crate) enum CallError {
    /// Nobody is there to answer, or not in time.
    #[error(transparent)]
    Down(anyhow::Error),
    /// There is an answer, and it is not one.
    #[error(transparent)]
    Unusable(anyhow::Error),
}

/// Asks one place. Clones share its connections.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    client: Client<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>,
    target: Target,
}

impl Caller {
    /// Reads the system's list of authorities if the place needs it.
    pub(crate) fn new(target: &Target) -> Result<Self> {
        let config = if target.is_tls {
            Arc::clone(tls::client::connector(None)?.config())
        } else {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let builder =
                ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
            Arc::new(
                builder
                    .with_root_certificates(RootCertStore::empty())
                    .with_no_client_auth(),
            )
        };
        let mut http = HttpConnector::new_with_resolver(Resolver {
            system: GaiResolver::new(),
            reach: target.reach,
            is_tls: target.is_tls,
        });
        http.enforce_http(false);
        let (near, anywhere) = CONNECT_TIME_MAX;
        http.set_connect_timeout(Some(match target.reach {
            Reach::PlainLoopback | Reach::PlainPrivate => near,
            Reach::Public | Reach::PublicAndPrivate => anywhere,
        }));
        http.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            // A library for PHP knows `X-Pusher-Key` only in this spelling.
            .http1_title_case_headers(true)
            .build(HttpsConnector::from((http, config)));
        Ok(Self {
            client,
            target: target.clone(),
        })
    }

    /// Asks another place, and shares what there is to share with this one; `None` if the rules for the two
    /// are not the same.
    pub(crate) fn to(&self, target: &Target) -> Option<Self> {
        let is_alike = (self.target.is_tls, self.target.reach) == (target.is_tls, target.reach);
        is_alike.then(|| Self {
            client: self.client.clone(),
            target: target.clone(),
        })
    }

    /// What may be shown of where it asks.
    pub(crate) fn shown(&self) -> String {
        self.target.shown()
    }

    /// Sends a request of whose answer only the status matters.
    pub(crate) async fn tell(
        &self,
        request: http::request::Builder,
        body: Bytes,
        time_max: Duration,
    ) -> Result<StatusCode, CallError> {
        let request = self.request(request, body)?;
        let answer = tokio::time::timeout(time_max, self.client.request(request)).await;
        let answer = answer.map_err(|_| CallError::Down(anyhow!("no answer within {time_max:?}")))?;
        let (head, body) = answer
            .map_err(|error| CallError::Down(error.into()))?
            .into_parts();
        let (bytes_max, time_max) = UNREAD_MAX;
        let _ = tokio::time::timeout(time_max, Limited::new(body, bytes_max).collect()).await;
        Ok(head.status)
    }

    fn request(
        &self,
        request: http::request::Builder,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, CallError> {
        request
            .uri(self.target.uri.clone())
            .header(http::header::USER_AGENT, USER_AGENT)
            .body(Full::new(body))
            .map_err(|error| CallError::Unusable(error.into()))
    }

    /// Sends a request, whose address is put in here, and reads the answer.
    pub(crate) async fn call(
        &self,
        request: http::request::Builder,
        body: Bytes,
        time_max: Duration,
        bytes_max: usize,
    ) -> Result<Response<Bytes>, CallError> {
        let request = self.request(request, body)?;
        let answer = tokio::time::timeout(time_max, self.exchange(request, bytes_max)).await;
        answer.unwrap_or_else(|_| Err(CallError::Down(anyhow!("no answer within {time_max:?}"))))
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        bytes_max: usize,
    ) -> Result<Response<Bytes>, CallError> {
        let answer = self.client.request(request).await;
        let (head, body) = answer
            .map_err(|error| CallError::Down(error.into()))?
            .into_parts();
        let body = Limited::new(body, bytes_max).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                CallError::Unusable(anyhow!("the answer is larger than {bytes_max} bytes"))
            } else {
                CallError::Down(anyhow!("the answer could not be read: {error}"))
            }
        })?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
}

/// The system's resolver, without the addresses that must not be asked.
#[derive(Clone, Debug)]
struct Resolver {
    system: GaiResolver,
    reach: Reach,
    is_tls: bool,
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<std::io::Result<()>> {
        self.system.poll_ready(cx)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (resolving, reach, is_tls) = (self.system.call(name), self.reach, self.is_tls);
        Box::pin(async move {
            let found = resolving.await?;
            let allowed: Vec<SocketAddr> = found
                .filter(|address| reach.allows(address.ip(), is_tls))
                .collect();
            if allowed.is_empty() {
                let near = "the name stands for no address that may be asked without https";
                let public = "the name stands for no address that everybody can reach";
                return Err(std::io::Error::other(if is_tls { public } else { near }));
            }
            Ok(allowed.into_iter())
        })
    }
}

/// Starts the thread. It ends with the process.
pub(crate) fn start() -> Result<Handle> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("outgoing".to_owned())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))
        .context("cannot start a thread")?;
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Reach; 4] = [
        Reach::PlainLoopback,
        Reach::PlainPrivate,
        Reach::Public,
        Reach::PublicAndPrivate,
    ];

    /// For each [`Reach`] in turn, whether it is an address that may be asked: `s` with TLS, `p` without, `-`
    /// not.
    #[track_caller]
    fn check(text: &str, expected: &str) {
        let parse = |reach| match Target::parse(text, reach) {
            Ok(target) if target.is_tls => 's',
            Ok(_) => 'p',
            Err(_) => '-',
        };
        assert_eq!(ALL.map(parse).iter().collect::<String>(), expected, "{text}");
    }

    #[test]
    fn addresses() {
        for good in [
            "https://id.example/a?b",
            "https://id.example",
            "https://198.41.0.4/",
            "https://[2001:500:2::c]:8443/",
            // A name that looks like an address is looked at when it is resolved.
            "https://127.1/",
            "https://2130706433/",
        ] {
            check(good, "ssss");
        }
        for near in [
            "https://[::1]:8443/a",
            "https://127.0.0.1/",
            "https://10.1.2.3/a",
            "https://[fd00::1]/",
            "https://[::ffff:192.168.0.1]/",
        ] {
            check(near, "ss-s");
        }
        for far in [
            "https://203.0.113.7/",
            "https://169.254.169.254/",
            "https://[fe80::1]/",
            "https://100.100.100.200/",
            "https://[fd00:ec2::254]/",
        ] {
            check(far, "ss--");
        }
        for near in [
            "http://127.0.0.1:81/a",
            "http://localhost/a",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
        ] {
            check(near, "pp-p");
        }
        for private in [
            "http://10.1.2.3/a",
            "http://172.16.0.1/",
            "http://192.168.1.1:8000/",
            "http://100.64.0.1/",
            "http://[fd00::1]/",
            "http://app/hook",
            "http://127.0.0.1.id.example/a",
        ] {
            check(private, "-p-p");
        }
        for bad in [
            "http://203.0.113.7/a",
            "http://198.41.0.4/a",
            "http://169.254.169.254/latest/",
            "http://[fe80::1]/",
            "http://100.100.100.200/",
            "http://[fd00:ec2::254]/",
            "http://[::ffff:203.0.113.7]/",
            "http://127.0.0.1@id.example/a",
            "https://ann@id.example/a",
            "ftp://id.example/a",
            "file:///etc/passwd",
            "/a",
            "",
        ] {
            check(bad, "----");
        }
    }

    #[test]
    fn what_everybody_can_reach() {
        let check = |text: &str, expected| {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(Reach::Public.allows(address, true), expected, "{text}");
            assert!(!Reach::Public.allows(address, false), "{text}");
        };
        for public in [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.0.1",
            "172.32.0.1",
            "192.167.1.1",
            "223.255.255.255",
            "::ffff:1.1.1.1",
            "2001:500:2::c",
            "2606:4700::1111",
            "64:ff9b::1.1.1.1",
        ] {
            check(public, true);
        }
        for special in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::10.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::1.1.1.1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "fc00::1",
            "fd00::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            check(special, false);
        }
    }

    #[test]
    fn names_are_resolved_to_what_may_be_asked() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let resolve = |reach, is_tls| {
            let mut resolver = Resolver {
                system: GaiResolver::new(),
                reach,
                is_tls,
            };
            let name: Name = "localhost".parse().unwrap();
            runtime
                .block_on(async { resolver.call(name).await })
                .map(Iterator::count)
        };
        for reach in [Reach::PlainLoopback, Reach::PlainPrivate, Reach::PublicAndPrivate] {
            assert!(resolve(reach, false).unwrap() > 0 && resolve(reach, true).unwrap() > 0);
        }
        assert!(resolve(Reach::Public, true).is_err());
        assert!(Reach::PlainPrivate.allows("127.0.0.1".parse().unwrap(), false));
        assert!(!Reach::PlainLoopback.allows("10.0.0.1".parse().unwrap(), false));
    }

    #[test]
    fn what_is_shown_of_a_place_has_no_secret() {
        let shown = |text| Target::parse(text, Reach::Public).unwrap().shown();
        assert_eq!(
            shown("https://app.example:8443/hook?token=secret"),
            "https://app.example:8443/hook"
        );
        assert_eq!(shown("https://app.example"), "https://app.example/");
    }
}
