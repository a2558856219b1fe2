//! HTTP requests that the server makes itself: to a back end (hooks) and for keys (JWK sets).
//!
//! Where to comes from the configuration alone; a request, token or publication can never name a
//! place. Beyond this machine and private networks only over https: what is asked holds cookies,
//! and what is answered decides who may do what. A name that stands for an address elsewhere is
//! refused when it is resolved.
//!
//! No redirects, no cookies, no proxy of the environment. Every request has an end, every answer a
//! largest size. Certificates are checked against the system's list. Connections are kept for the
//! next request.
//!
//! All of it runs on one thread of its own, so that no shard ever waits.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use fanfare_core::auth::is_loopback_host;
use http::{Request, Response, Uri};
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

/// Time to connect, TLS not included.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);

/// Time for which a connection that nobody uses is kept.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// Connections to one place that are kept although nobody uses them.
const IDLE_CONNECTIONS_MAX: usize = 16;

/// What is said of who asks.
const USER_AGENT: &str = concat!("fanfare/", env!("CARGO_PKG_VERSION"));

/// Where requests may go without TLS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PlainTo {
    /// To this machine.
    Loopback,
    /// To this machine and to private networks.
    Private,
}

impl PlainTo {
    fn allows(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_loopback() || (self == Self::Private && is_private(address))
    }
}

/// RFC 1918, RFC 6598 and RFC 4193. Not link-local addresses: clouds tell their secrets there.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private() || matches!(v4.octets(), [100, 64..=127, ..]),
        IpAddr::V6(v6) => Ipv6Addr::is_unique_local(&v6),
    }
}

/// Where requests go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Target {
    uri: Uri,
    is_tls: bool,
    plain_to: PlainTo,
}

impl Target {
    /// Reads an address; the error says what is wrong with it.
    pub(crate) fn parse(text: &str, plain_to: PlainTo) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not an address such as https://app.example/path");
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(wrong());
        }
        let may_be_plain = match (host.parse::<IpAddr>(), plain_to) {
            (Ok(address), _) => plain_to.allows(address),
            (Err(_), PlainTo::Loopback) => is_loopback_host(host),
            // What it stands for is looked at whenever it is resolved.
            (Err(_), PlainTo::Private) => true,
        };
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if may_be_plain => false,
            Some("http") if plain_to == PlainTo::Loopback => {
                return Err(format!("{text:?} must be https; http is only for loopback"));
            }
            Some("http") => {
                return Err(format!(
                    "{text:?} must be https; http is only for loopback and private networks"
                ));
            }
            _ => return Err(wrong()),
        };
        Ok(Self {
            uri,
            is_tls,
            plain_to,
        })
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
    uri: Uri,
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
            only: (!target.is_tls).then_some(target.plain_to),
        });
        http.enforce_http(false);
        http.set_connect_timeout(Some(CONNECT_TIME_MAX));
        http.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build(HttpsConnector::from((http, config)));
        Ok(Self {
            client,
            uri: target.uri.clone(),
        })
    }

    /// Sends a request, whose address is put in here, and reads the answer.
    pub(crate) async fn call(
        &self,
        request: http::request::Builder,
        body: Bytes,
        time_max: Duration,
        bytes_max: usize,
    ) -> Result<Response<Bytes>, CallError> {
        let request = request
            .uri(self.uri.clone())
            .header(http::header::USER_AGENT, USER_AGENT)
            .body(Full::new(body))
            .map_err(|error| CallError::Unusable(error.into()))?;
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
    only: Option<PlainTo>,
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<std::io::Result<()>> {
        self.system.poll_ready(cx)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (resolving, only) = (self.system.call(name), self.only);
        Box::pin(async move {
            let found = resolving.await?;
            let allowed: Vec<SocketAddr> = found
                .filter(|address| only.is_none_or(|plain_to| plain_to.allows(address.ip())))
                .collect();
            if allowed.is_empty() {
                return Err(std::io::Error::other(
                    "the name stands for no address that may be asked without https",
                ));
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

    /// Whether it is an address that may be asked, and whether with TLS.
    #[track_caller]
    fn check(text: &str, loopback: Option<bool>, private: Option<bool>) {
        let parse = |plain_to| Target::parse(text, plain_to).ok().map(|target| target.is_tls);
        assert_eq!(
            (parse(PlainTo::Loopback), parse(PlainTo::Private)),
            (loopback, private),
            "{text}"
        );
    }

    #[test]
    fn addresses() {
        for good in [
            "https://id.example/a?b",
            "https://id.example",
            "https://[::1]:8443/a",
            "https://203.0.113.7/",
        ] {
            check(good, Some(true), Some(true));
        }
        for near in [
            "http://127.0.0.1:81/a",
            "http://localhost/a",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
        ] {
            check(near, Some(false), Some(false));
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
            check(private, None, Some(false));
        }
        for bad in [
            "http://203.0.113.7/a",
            "http://169.254.169.254/latest/",
            "http://[fe80::1]/",
            "http://[::ffff:203.0.113.7]/",
            "http://127.0.0.1@id.example/a",
            "https://ann@id.example/a",
            "ftp://id.example/a",
            "file:///etc/passwd",
            "/a",
            "",
        ] {
            check(bad, None, None);
        }
    }

    #[test]
    fn names_are_resolved_to_what_may_be_asked() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let resolve = |only| {
            let mut resolver = Resolver {
                system: GaiResolver::new(),
                only,
            };
            let name: Name = "localhost".parse().unwrap();
            runtime
                .block_on(async { resolver.call(name).await })
                .map(Iterator::count)
        };
        assert!(resolve(Some(PlainTo::Loopback)).unwrap() > 0);
        assert!(resolve(None).unwrap() > 0);
        assert!(PlainTo::Private.allows("127.0.0.1".parse().unwrap()));
        assert!(!PlainTo::Loopback.allows("10.0.0.1".parse().unwrap()));
    }
}
