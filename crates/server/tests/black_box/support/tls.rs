//! TLS around a test's sockets, so that the tests of the plain wire hold for the encrypted one.
//!
//! With `FANFARE_TEST_TLS=1` a test's server speaks TLS only. A [`Forwarder`] in the test's process
//! takes the test's connections, and makes one with TLS of each. It passes on what a socket can say:
//! bytes, the end of one direction, a reset, and that nobody reads. An end of the server without
//! TLS's own (`close_notify`) becomes a reset, so a test sees the difference.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use socket2::SockRef;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

/// Whether the tests of this process are run with TLS.
pub fn is_on() -> bool {
    std::env::var("FANFARE_TEST_TLS").is_ok_and(|value| value == "1")
}

/// A certificate that signs itself, and its key, as files.
pub struct Certificate {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub der: CertificateDer<'static>,
    _folder: TempDir,
}

impl Certificate {
    pub fn new(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        Self::of(rcgen::CertificateParams::new(names).unwrap())
    }

    pub fn of(parameters: rcgen::CertificateParams) -> Self {
        let pair = rcgen::KeyPair::generate().unwrap();
        let made = parameters.self_signed(&pair).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        std::fs::write(&cert, made.pem()).unwrap();
        std::fs::write(&key, pair.serialize_pem()).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&key, mode).unwrap();
        let der = made.der().clone();
        Self {
            cert,
            key,
            der,
            _folder: folder,
        }
    }

    /// The settings of a server that has this certificate, and listens with TLS at any port.
    pub fn settings(&self) -> [(&'static str, String); 3] {
        [
            ("FANFARE_TLS_LISTEN", "127.0.0.1:0".to_owned()),
            ("FANFARE_TLS_CERT", self.cert.to_str().unwrap().to_owned()),
            ("FANFARE_TLS_KEY", self.key.to_str().unwrap().to_owned()),
        ]
    }

    /// The configuration of a peer that trusts it.
    pub fn trusted(&self) -> ClientConfig {
        trusting(&[self], rustls::ALL_VERSIONS)
    }
}

/// The configuration of a peer that trusts these, and speaks these versions.
pub fn trusting(
    certificates: &[&Certificate],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.der.clone()).unwrap();
    }
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// Bytes that the kernel may hold on each side of a forwarder: a reader that does not read is to be
/// felt at the server.
const KERNEL_BYTES: u32 = 64 << 10;

/// See the module's head. Ends with its last connection.
pub struct Forwarder {
    pub address: SocketAddr,
    joined: Arc<Joined>,
    stop: watch::Sender<bool>,
    closed: mpsc::Receiver<()>,
}

/// Ports of the test's connections whose way to the server is made, or has failed.
#[derive(Default)]
struct Joined {
    ports: Mutex<HashSet<u16>>,
    changed: Notify,
}

impl Joined {
    fn enter(&self, port: u16) {
        self.ports.lock().unwrap().insert(port);
        self.changed.notify_waiters();
    }
}

impl Forwarder {
    /// Forwards from `listen` to the server at `server`.
    pub fn start(listen: &str, server: SocketAddr, config: ClientConfig) -> Self {
        let listener = std::net::TcpListener::bind(listen).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let joined = Arc::new(Joined::default());
        let (stop, stopped) = watch::channel(false);
        let (closing, closed) = mpsc::channel();
        let entered = Arc::clone(&joined);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(forward_all(
                listener,
                server,
                TlsConnector::from(Arc::new(config)),
                entered,
                stopped,
                closing,
            ));
        });
        Self {
            address,
            joined,
            stop,
            closed,
        }
    }

    /// Waits until a connection to here is one to the server.
    pub async fn joined(&self, socket: &TcpStream) {
        let port = socket.local_addr().unwrap().port();
        loop {
            let changed = self.joined.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.joined.ports.lock().unwrap().remove(&port) {
                return;
            }
            changed.await;
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        // Its port is free when this returns.
        let _ = self.closed.recv();
    }
}

async fn forward_all(
    listener: std::net::TcpListener,
    server: SocketAddr,
    connector: TlsConnector,
    joined: Arc<Joined>,
    mut stopped: watch::Receiver<bool>,
    closing: mpsc::Sender<()>,
) {
    let listener = TcpListener::from_std(listener).unwrap();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((near, peer)) = accepted else { continue };
                // One after the other, so that the server sees them in the test's order.
                let socket = TcpSocket::new_v4().unwrap();
                socket.set_recv_buffer_size(KERNEL_BYTES).unwrap();
                let Ok(far) = socket.connect(server).await else {
                    joined.enter(peer.port());
                    will_reset(&near);
                    continue;
                };
                let (connector, joined) = (connector.clone(), Arc::clone(&joined));
                connections.spawn(async move {
                    forward(near, far, connector, || joined.enter(peer.port())).await;
                });
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            _ = stopped.wait_for(|stop| *stop) => break,
        }
    }
    drop(listener);
    drop(closing);
    while connections.join_next().await.is_some() {}
}

/// A socket that is dropped after this is reset.
fn will_reset(socket: &TcpStream) {
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// How one direction ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    /// In order, and the other side was told so.
    Told,
    /// The sender was reset, or cut its TLS off.
    Reset,
    /// The receiver takes nothing any more.
    NotTaken,
}

async fn pass(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> End {
    let mut bytes = vec![0; 16 << 10];
    loop {
        match from.read(&mut bytes).await {
            Ok(0) => {
                let _ = to.shutdown().await;
                return End::Told;
            }
            Ok(count) => {
                if to.write_all(&bytes[..count]).await.is_err() || to.flush().await.is_err() {
                    return End::NotTaken;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return End::Reset,
        }
    }
}

/// Resolves when the test has gone without a word.
async fn left(near: &TcpStream) {
    if near.peek(&mut [0]).await.is_ok_and(|count| count > 0) {
        std::future::pending::<()>().await;
    }
}

async fn forward(mut near: TcpStream, far: TcpStream, connector: TlsConnector, joined: impl FnOnce()) {
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    let _ = SockRef::from(&near).set_send_buffer_size(KERNEL_BYTES as usize);
    let name = ServerName::try_from("localhost").unwrap();
    let far = tokio::select! {
        far = connector.connect(name, far) => far,
        () = left(&near) => return joined(),
    };
    joined();
    let Ok(far) = far else { return will_reset(&near) };
    let (mut near_read, mut near_write) = near.split();
    let (mut far_read, mut far_write) = tokio::io::split(far);
    let (mut up, mut down) = (None, None);
    {
        let mut passing_up = std::pin::pin!(pass(&mut near_read, &mut far_write));
        let mut passing_down = std::pin::pin!(pass(&mut far_read, &mut near_write));
        while !matches!(
            (up, down),
            (Some(End::Reset), _) | (_, Some(End::Reset | End::NotTaken)) | (Some(_), Some(_))
        ) {
            tokio::select! {
                end = &mut passing_up, if up.is_none() => up = Some(end),
                end = &mut passing_down, if down.is_none() => down = Some(end),
            }
        }
    }
    let far = far_read.unsplit(far_write);
    if up == Some(End::Reset) || down == Some(End::NotTaken) {
        will_reset(far.get_ref().0);
    }
    if down == Some(End::Reset) || up == Some(End::NotTaken) {
        will_reset(&near);
    }
}
