//! `fanfare dev-cert`: a certificate for trying TLS on one's own machine.
//!
//! An authority is made, signs one certificate, and its key is thrown away: whoever trusts it trusts
//! that certificate and nothing else, ever. The price: a certificate for other names is a new
//! authority, to be trusted anew.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// Names that every development machine has.
const OWN_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Days for which the certificate holds. Some systems take no more than 398.
const DAYS: u64 = 397;

const DAY: Duration = Duration::from_hours(24);

#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  fanfare dev-cert shop.test 192.168.1.20")]
pub(super) struct Args {
    /// The folder to write to.
    #[arg(long, default_value = "dev-cert")]
    dir: PathBuf,
    /// Host names and addresses, besides localhost, 127.0.0.1 and ::1.
    names: Vec<String>,
}

/// Three PEM texts.
struct Made {
    ca: String,
    cert: String,
    key: String,
}

pub(super) fn run(args: Args) -> Result<()> {
    let names: Vec<String> = OWN_NAMES
        .map(str::to_owned)
        .into_iter()
        .chain(args.names)
        .collect();
    let made = make(&names, SystemTime::now())?;
    std::fs::create_dir_all(&args.dir).with_context(|| format!("cannot make {}", args.dir.display()))?;
    let path = |name: &str| args.dir.join(name);
    let (ca, cert, key) = (path("ca.pem"), path("cert.pem"), path("key.pem"));
    if let Some(there) = [&ca, &cert, &key].into_iter().find(|path| path.exists()) {
        bail!(
            "{} is there already; remove it, or name another folder with --dir",
            there.display()
        );
    }
    write(&ca, &made.ca, 0o644)?;
    write(&cert, &made.cert, 0o644)?;
    write(&key, &made.key, 0o600)?;
    let (ca, cert, key) = (ca.display(), cert.display(), key.display());
    super::print(&format!(
        "Made for {DAYS} days, for {}:\n\
         \x20 {ca}    the authority: trust this one; its key is not kept\n\
         \x20 {cert}  the certificate\n\
         \x20 {key}   its key\n\
         \n\
         Start the server with them:\n\
         \x20 fanfare --tls-listen 127.0.0.1:8443 --tls-cert {cert} --tls-key {key}\n\
         or in the configuration file:\n\
         \x20 [tls]\n\
         \x20 listen = \"127.0.0.1:8443\"\n\
         \x20 cert = [\"{cert}\"]\n\
         \x20 key = [\"{key}\"]\n\
         \n\
         Use it without trusting it everywhere:\n\
         \x20 fanfare listen orders --server https://localhost:8443 --ca {ca}\n\
         \x20 curl --cacert {ca} https://localhost:8443/health\n\
         \n\
         Trust it in a browser:\n\
         \x20 Firefox         Settings, Privacy & Security, View Certificates, Authorities, Import\n\
         \x20 Chrome, Linux   certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n fanfare -i {ca}\n\
         \x20 macOS           security add-trusted-cert -r trustRoot -k ~/Library/Keychains/login.keychain-db {ca}\n\
         \x20 Windows         certutil -user -addstore Root {ca}\n",
        names.join(", "),
    ))
}

fn make(names: &[String], now: SystemTime) -> Result<Made> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let called = format!("Fanfare, for development: {}", names.join(" "));
    // 64 letters is what the standard allows (RFC 5280, ub-common-name).
    let called: String = called.chars().take(64).collect();
    authority.distinguished_name.push(DnType::CommonName, called);
    let mut certificate =
        CertificateParams::new(names).with_context(|| format!("not names: {}", names.join(", ")))?;
    certificate
        .distinguished_name
        .push(DnType::CommonName, "localhost");
    certificate.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    certificate.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    certificate.use_authority_key_identifier_extension = true;
    for parameters in [&mut authority, &mut certificate] {
        // Clocks differ.
        parameters.not_before = (now - DAY).into();
        parameters.not_after = (now + DAY * u32::try_from(DAYS).unwrap_or(1)).into();
    }
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let certificate = certificate.signed_by(&key, &authority)?;
    Ok(Made {
        ca: authority.pem(),
        cert: certificate.pem(),
        key: key.serialize_pem(),
    })
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}
