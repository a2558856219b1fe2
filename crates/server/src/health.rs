//! Is this node alive, and does it do its work? `/health` and `/ready` say so in one word.
//!
//! Readiness is shown, not believed: a session of the node's own connects through the listening
//! port like anybody, a publication is sent, and it must come back through that socket; through
//! each port that there is, with TLS or without, and through the Unix socket. The probe has an app of
//! its own, so nothing of it is seen in the channels or figures of users.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanfare_core::app::AppId;
use fanfare_core::channel::ChannelName;
use fanfare_core::publication::{DataKind, Draft};
use fanfare_core::wire::proxy;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::listen::Port;
use crate::node::Node;
use crate::tls::{self, Acceptor};

/// Time between probes of a node that works.
const INTERVAL: Duration = Duration::from_secs(5);

/// Time between probes until the first has come back.
const FIRST_INTERVAL: Duration = Duration::from_millis(5);

/// Probes until it is said that the node does not get ready.
const FIRST_TRIES_MAX: u32 = 200;

/// Time for a probe to come back.
const PROBE_MAX: Duration = Duration::from_secs(2);

/// Probes until the end of the process.
pub(crate) async fn probe(node: Arc<Node>, ports: Vec<Port>) {
    let own = node.tls.as_ref().map(Acceptor::own);
    let connector = own.map(tls::client::probe).and_then(|made| {
        made.inspect_err(|error| tracing::error!(%error, "no TLS for the probe"))
            .ok()
    });
    let mut beats: Vec<u64> = Vec::new();
    let mut tries = 0_u32;
    loop {
        let probed = tokio::time::timeout(PROBE_MAX, all(&node, &ports, connector.as_ref())).await;
        let mut outcome = probed.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        let came_back = outcome.is_ok();
        // One connection tests one shard; that the others live shows in their clocks.
        let now: Vec<u64> = node
            .metrics
            .shards
            .iter()
            .map(crate::metrics::ShardMetrics::beats)
            .collect();
        let alive = beats.is_empty() || now.iter().zip(&beats).all(|(now, before)| now > before);
        tries = tries.saturating_add(1);
        if came_back {
            beats = now;
            if !alive {
                outcome = Err(std::io::Error::other("a shard stands still"));
            }
        }
        if came_back || tries > FIRST_TRIES_MAX {
            node.set_ready(outcome);
            tokio::time::sleep(INTERVAL).await;
        } else {
            tokio::time::sleep(FIRST_INTERVAL).await;
        }
    }
}

/// An address that the listener can be reached at from here.
fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

/// Comes in by every port, one after the other.
async fn all(node: &Node, ports: &[Port], connector: Option<&TlsConnector>) -> std::io::Result<()> {
    for port in ports {
        let address = SocketAddr::new(reachable(port.address.ip()), port.address.port());
        let socket = connect(node, address).await?;
        if !port.is_tls {
            once(node, socket).await?;
            continue;
        }
        let connector = connector.ok_or_else(|| std::io::Error::other("no TLS for the probe"))?;
        let name = address.ip().into();
        once(node, connector.connect(name, socket).await?).await?;
    }
    node.gate.expect_probe(None);
    if let Some(path) = &node.config.unix {
        once(node, UnixStream::connect(path).await?).await?;
    }
    Ok(())
}

/// Connects from an address that the limits and rules for addresses let through.
async fn connect(node: &Node, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = match address.ip() {
        IpAddr::V4(_) => TcpSocket::new_v4()?,
        IpAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.bind(SocketAddr::new(address.ip(), 0))?;
    node.gate.expect_probe(Some(socket.local_addr()?));
    let mut socket = socket.connect(address).await?;
    if node.gate.proxy_protocol {
        socket.write_all(&proxy::LOCAL).await?;
    }
    Ok(socket)
}

async fn once(node: &Node, mut socket: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        node.probe_path(),
        // A host that the rules accept, whatever address this is.
        node.config.hosts.first().map_or("localhost", String::as_str),
    );
    socket.write_all(request.as_bytes()).await?;
    let mut got = Vec::new();
    read_until(&mut socket, &mut got, b"\r\n\r\n").await?;
    if !got.starts_with(b"HTTP/1.1 101") {
        return Err(std::io::Error::other("the probe was not let in"));
    }
    let channel = ChannelName::new("probe").map_err(std::io::Error::other)?;
    let token = Bytes::from(format!("probe {:p}", &raw const got));
    let draft = Draft::new(AppId::PROBE, channel, DataKind::Text, token.clone());
    node.publisher.publish(draft).map_err(std::io::Error::other)?;
    read_until(&mut socket, &mut got, &token).await
}

async fn read_until(
    socket: &mut (impl AsyncRead + Unpin),
    got: &mut Vec<u8>,
    end: &[u8],
) -> std::io::Result<()> {
    while !got.windows(end.len()).any(|part| part == end) {
        if socket.read_buf(got).await? == 0 || got.len() > 4_096 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}
