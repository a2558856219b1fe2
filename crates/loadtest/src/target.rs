//! Where a server is and how it is addressed: three URLs with a place for the channel.
//!
//! This is all that the load generator knows of a server. Whoever is measured, the same bytes are
//! sent, and only stamps are looked for in what comes back.

use std::net::{SocketAddr, ToSocketAddrs};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// How subscribers are connected.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// `WebSocket` (RFC 6455).
    #[default]
    #[serde(rename = "websocket")]
    WebSocket,
    /// Server-sent events over HTTP/1.1.
    EventStream,
}

/// How a server wants to be addressed. `{channel}` stands for the channel's name.
#[derive(Clone, Debug)]
pub struct Target {
    /// Address and port.
    pub address: SocketAddr,
    /// What is sent as `Host`.
    pub authority: String,
    /// Path and query of a subscriber's `WebSocket`.
    pub websocket_path: String,
    /// Path and query of an event stream.
    pub stream_path: String,
    /// Path and query of a POST that publishes its body.
    pub publish_path: String,
    /// Sent as `Authorization: Bearer` by publishers.
    pub key: Option<String>,
}

impl Target {
    /// A server that has the plain door's paths at `authority` (`host:port`).
    pub fn plain(authority: &str) -> Result<Self> {
        let address = authority
            .to_socket_addrs()
            .with_context(|| format!("{authority:?} is no host:port"))?
            .next();
        let Some(address) = address else {
            bail!("{authority:?} has no address");
        };
        Ok(Self {
            address,
            authority: authority.to_owned(),
            websocket_path: "/ch/{channel}".to_owned(),
            stream_path: "/ch/{channel}".to_owned(),
            publish_path: "/ch/{channel}".to_owned(),
            key: None,
        })
    }

    /// The request of a subscriber.
    pub(crate) fn subscribe_request(&self, transport: Transport, channel: &str) -> Vec<u8> {
        let authority = &self.authority;
        match transport {
            Transport::WebSocket => format!(
                "GET {} HTTP/1.1\r\nHost: {authority}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                fill(&self.websocket_path, channel)
            ),
            Transport::EventStream => format!(
                "GET {} HTTP/1.1\r\nHost: {authority}\r\nAccept: text/event-stream\r\n\r\n",
                fill(&self.stream_path, channel)
            ),
        }
        .into_bytes()
    }

    /// A POST of `body`, for a connection that is kept.
    pub(crate) fn publish_request(&self, channel: &str, body: &[u8]) -> Vec<u8> {
        let key = self
            .key
            .as_ref()
            .map_or_else(String::new, |key| format!("Authorization: Bearer {key}\r\n"));
        let mut request = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\n{key}Content-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
            fill(&self.publish_path, channel),
            self.authority,
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        request
    }
}

fn fill(path: &str, channel: &str) -> String {
    path.replace("{channel}", channel)
}
