//! TLS in the process: which certificates there are, and which one a peer gets.
//!
//! rustls with aws-lc-rs, its default suites, TLS 1.3 and 1.2. Resumption is by tickets, whose keys
//! change by themselves every six hours; nothing is kept per peer. No early data, which could be
//! replayed, and no certificates of clients.
//!
//! The certificates stand behind a lock, so that new ones can take their place while connections
//! live on; nothing does that yet. What a connection does with TLS is in [`crate::line`].

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use parking_lot::RwLock;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, RootCertStore, ServerConfig, ServerConnection};

use crate::config::{self, TlsVersion};

pub(crate) mod client;

/// Protocols that are offered, best first (ALPN). HTTP/2 will stand before this one.
const PROTOCOLS: [&[u8]; 1] = [b"http/1.1"];

/// What every listener with TLS shares.
#[derive(Debug)]
pub(crate) struct Acceptor {
    config: Arc<ServerConfig>,
    certificates: Arc<Certificates>,
}

impl Acceptor {
    /// Reads what the settings name. The second part are warnings for the log.
    ///
    /// # Errors
    ///
    /// Name the setting, the file and the cause.
    pub(crate) fn load(settings: &config::Tls) -> Result<(Self, Vec<String>)> {
        let mut warnings = Vec::new();
        let pairs = settings.cert.iter().zip(&settings.key);
        let keys = pairs.map(|(cert, key)| load_pair(cert, key, &mut warnings));
        let certificates = Arc::new(Certificates(RwLock::new(keys.collect::<Result<_>>()?)));
        let versions: &[_] = match settings.min_version {
            TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            TlsVersion::V1_3 => &[&rustls::version::TLS13],
        };
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&certificates) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        config.ticketer = aws_lc_rs::Ticketer::new()?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let config = Arc::new(config);
        Ok((Self { config, certificates }, warnings))
    }

    /// A connection that has got nothing yet.
    pub(crate) fn accept(&self) -> Result<ServerConnection, Error> {
        ServerConnection::new(Arc::clone(&self.config))
    }

    /// The certificates that this server shows, without their chains.
    pub(crate) fn own(&self) -> Vec<CertificateDer<'static>> {
        let keys = self.certificates.0.read();
        keys.iter().filter_map(|key| key.cert.first().cloned()).collect()
    }
}

/// Certificates with their keys, in the order of the settings. Never empty.
#[derive(Debug)]
struct Certificates(RwLock<Vec<Arc<CertifiedKey>>>);

impl ResolvesServerCert for Certificates {
    /// The first that has the name which the peer asks for, else the first of all.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let keys = self.0.read();
        let name = hello
            .server_name()
            .filter(|_| keys.len() > 1)
            .and_then(|name| ServerName::try_from(name).ok());
        let named = name.and_then(|name| keys.iter().find(|key| is_for(key, &name)));
        named.or(keys.first()).cloned()
    }
}

fn is_for(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    key.end_entity_cert()
        .and_then(ParsedCertificate::try_from)
        .and_then(|certificate| verify_server_name(&certificate, name))
        .is_ok()
}

fn load_pair(cert: &str, key: &str, warnings: &mut Vec<String>) -> Result<Arc<CertifiedKey>> {
    let chain = read_certificates(cert).map_err(|cause| anyhow!("tls.cert: {cause:#}"))?;
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| anyhow!("tls.key: {key}: {}", in_words(&error, "no private key in it")))?;
    let others = std::fs::metadata(key).map_or(0, |file| file.permissions().mode() & 0o007);
    if others != 0 {
        warnings.push(format!(
            "tls.key: every user of this machine can read {key}; chmod 600 mends it"
        ));
    }
    let certified = CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider());
    let certified = certified.map_err(|error| match error {
        Error::InconsistentKeys(_) => anyhow!("tls.key: {key} is not the key of the certificate in {cert}"),
        Error::InvalidCertificate(cause) => {
            anyhow!("tls.cert: {cert}: the certificate cannot be read: {cause:?}")
        }
        other => anyhow!("tls.key: {key}: {other}"),
    })?;
    if let Some(cause) = out_of_date(&certified) {
        warnings.push(format!("tls.cert: {cert}: the certificate {cause}"));
    }
    Ok(Arc::new(certified))
}

/// The certificates in a PEM file, in their order.
pub(crate) fn read_certificates(path: impl AsRef<Path>) -> Result<Vec<CertificateDer<'static>>> {
    let name = path.as_ref().display().to_string();
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| anyhow!("{name}: {}", in_words(&error, "no certificate in it")))?;
    if found.is_empty() {
        bail!("{name}: no certificate in it");
    }
    Ok(found)
}

fn in_words(error: &rustls::pki_types::pem::Error, nothing: &str) -> String {
    match error {
        rustls::pki_types::pem::Error::Io(error) => format!("cannot be read: {error}"),
        rustls::pki_types::pem::Error::NoItemsFound => nothing.to_owned(),
        other => format!("is no PEM file: {other}"),
    }
}

/// What is wrong with the days for which a certificate holds.
///
/// The verifier looks at them before anything else, so it is asked, with the certificate as its own
/// anchor; whatever else it finds does not matter here.
fn out_of_date(key: &CertifiedKey) -> Option<&'static str> {
    let certificate = key.end_entity_cert().ok()?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).ok()?;
    let verified = verify_server_cert_signed_by_trust_anchor(
        &ParsedCertificate::try_from(certificate).ok()?,
        &roots,
        &[],
        UnixTime::now(),
        aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .all,
    );
    match verified {
        Err(Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => Some("has expired"),
        Err(Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        )) => Some("does not hold yet"),
        _ => None,
    }
}
