//! The listening sockets of a node: one per shard and port, the Unix socket, and the operator's.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::node::Node;
use crate::shard::{Listener, ListenerKind};
use crate::unix::{self, SocketFile};

/// Pending connections that the kernel holds per listener.
const BACKLOG: i32 = 4_096;

/// Where this node listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Port {
    pub(crate) address: SocketAddr,
    pub(crate) is_tls: bool,
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.address)
    }
}

/// What is listening.
pub(crate) struct Listening {
    /// The listeners of each shard.
    pub(crate) shards: Vec<Vec<Listener>>,
    /// Where the doors are, over TCP.
    pub(crate) ports: Vec<Port>,
    /// The file of the Unix socket, if there is one.
    pub(crate) socket_file: Option<SocketFile>,
}

/// Opens the listeners of the doors.
pub(crate) fn open(node: &Node) -> Result<Listening> {
    let count = node.mailboxes.len();
    let mut shards: Vec<Vec<Listener>> = (0..count).map(|_| Vec::new()).collect();
    let mut ports = Vec::new();
    let places = [
        (node.config.listen, ListenerKind::Plain, "listen"),
        (node.config.tls.listen, ListenerKind::Tls, "tls.listen"),
    ];
    for (address, kind, setting) in places {
        let Some(address) = address else { continue };
        let (sockets, address) = bind_all(address, count, setting)?;
        for (shard, socket) in shards.iter_mut().zip(sockets) {
            let socket = socket.into();
            shard.push(Listener { socket, kind });
        }
        let is_tls = kind == ListenerKind::Tls;
        ports.push(Port { address, is_tls });
    }
    let Some(path) = &node.config.unix else {
        return Ok(Listening {
            shards,
            ports,
            socket_file: None,
        });
    };
    // It has one queue, which all shards share.
    let (socket, file) = unix::listen(path, &node.config.unix_mode, BACKLOG)?;
    for shard in &mut shards {
        let (socket, kind) = (socket.try_clone()?, ListenerKind::Unix);
        shard.push(Listener { socket, kind });
    }
    Ok(Listening {
        shards,
        ports,
        socket_file: Some(file),
    })
}

/// One listening socket per shard on the same address. The kernel spreads connections over them.
fn bind_all(address: SocketAddr, count: usize, setting: &str) -> Result<(Vec<TcpListener>, SocketAddr)> {
    // Sockets that share a port would also share it with another fanfare of the same user, which
    // is never meant: a first socket that does not share finds out.
    if address.port() != 0 {
        let probe = socket(address, false)?;
        bind(&probe, address, setting)?;
    }
    let first = socket(address, true)?;
    bind(&first, address, setting)?;
    let address = first
        .local_addr()?
        .as_socket()
        .context("the listening address is no address of the internet")?;
    let mut sockets = vec![first];
    for _ in 1..count {
        let socket = socket(address, true)?;
        bind(&socket, address, setting)?;
        sockets.push(socket);
    }
    for socket in &sockets {
        socket
            .listen(BACKLOG)
            .with_context(|| format!("cannot listen on {address}"))?;
    }
    Ok((sockets.into_iter().map(TcpListener::from).collect(), address))
}

pub(crate) fn bind_admin(address: SocketAddr) -> Result<TcpListener> {
    let (mut listeners, address) = bind_all(address, 1, "admin_listen")?;
    tracing::info!(%address, "health, readiness and metrics are served here");
    listeners.pop().context("no listener")
}

fn bind(socket: &Socket, address: SocketAddr, setting: &str) -> Result<()> {
    socket.bind(&address.into()).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "{setting}: {address} is in use by another program; stop it, or choose another port with --{} {}:PORT",
            setting.replace(['_', '.'], "-"),
            address.ip()
        ),
        std::io::ErrorKind::PermissionDenied => {
            anyhow::anyhow!("{setting}: no right to listen on {address}; ports below 1024 need CAP_NET_BIND_SERVICE")
        }
        std::io::ErrorKind::AddrNotAvailable => {
            anyhow::anyhow!("{setting}: {address} is not an address of this machine")
        }
        _ => anyhow::Error::new(error).context(format!("cannot listen on {address}")),
    })
}

/// A socket whose options every accepted connection inherits, so that connecting costs no further
/// system calls for them.
fn socket(address: SocketAddr, share_port: bool) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(share_port)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_mins(1))
        .with_interval(Duration::from_secs(10));
    socket.set_tcp_keepalive(&keepalive)?;
    let options = SockRef::from(&socket);
    // What a stalled peer can pin outside our own accounts.
    options.set_tcp_notsent_lowat(64 << 10)?;
    options.set_tcp_user_timeout(Some(Duration::from_secs(30)))?;
    Ok(socket)
}
