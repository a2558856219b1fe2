//! Where a server is and how it is addressed: three URLs with a place for the channel.
//!
//! This is all that the load generator knows of a server. Whoever is measured, the same bytes are
//! sent, and only stamps are looked for in what comes back.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use aws_lc_rs::hmac;
use md5::{Digest, Md5};
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
    /// The Pusher protocol over WebSocket, with one subscription.
    Pusher,
    /// The same, of a presence channel: each as a user of its own.
    PusherMember,
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
    /// Path and query of a connection of the Pusher protocol.
    pub pusher_path: String,
    /// Who signs publications in the manner of Pusher.
    pub signatory: Signatory,
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
            pusher_path: "/app/app-key?protocol=7&client=js&version=8.4.0&flash=false".to_owned(),
            signatory: Signatory::default(),
            publish_path: "/ch/{channel}".to_owned(),
            key: None,
        })
    }

    /// The request of a subscriber.
    pub(crate) fn subscribe_request(&self, transport: Transport, channel: &str) -> Vec<u8> {
        let authority = &self.authority;
        match transport {
            Transport::WebSocket | Transport::Pusher | Transport::PusherMember => format!(
                "GET {} HTTP/1.1\r\nHost: {authority}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                if transport == Transport::WebSocket {
                    fill(&self.websocket_path, channel)
                } else {
                    self.pusher_path.clone()
                }
            ),
            Transport::EventStream => format!(
                "GET {} HTTP/1.1\r\nHost: {authority}\r\nAccept: text/event-stream\r\n\r\n",
                fill(&self.stream_path, channel)
            ),
        }
        .into_bytes()
    }

    /// A trigger of the Pusher protocol with `message` as its data, signed as libraries do.
    pub(crate) fn trigger_request(&self, channel: &str, message: &[u8]) -> Vec<u8> {
        let data = String::from_utf8_lossy(message);
        let body = format!("{{\"name\":\"load\",\"channels\":[\"{channel}\"],\"data\":\"{data}\"}}");
        let Signatory { id, key, secret } = &self.signatory;
        let time = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let md5 = hex(&Md5::digest(body.as_bytes()));
        let query = format!("auth_key={key}&auth_timestamp={time}&auth_version=1.0&body_md5={md5}");
        let signed = format!("POST\n/apps/{id}/events\n{query}");
        let signature = sign(secret, &signed);
        format!(
            "POST /apps/{id}/events?{query}&auth_signature={signature} HTTP/1.1\r\nHost: {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.authority,
            body.len()
        )
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

/// An app's credentials.
#[derive(Clone, Debug)]
pub struct Signatory {
    /// Its id.
    pub id: String,
    /// Its key.
    pub key: String,
    /// Its secret.
    pub secret: String,
}

/// Those of a server that nobody has configured.
impl Default for Signatory {
    fn default() -> Self {
        let [id, key, secret] = ["1", "app-key", "app-secret"].map(str::to_owned);
        Self { id, key, secret }
    }
}

/// What a client of the Pusher protocol says to listen to a public channel.
pub(crate) fn pusher_subscribe(channel: &str) -> String {
    format!("{{\"event\":\"pusher:subscribe\",\"data\":{{\"auth\":\"\",\"channel\":\"{channel}\"}}}}")
}

impl Signatory {
    /// What a client says to be a member of a presence channel, as the user with this number.
    pub(crate) fn subscribe_as_member(&self, socket: &str, channel: &str, user: usize) -> String {
        let member = format!("{{\"user_id\":\"{user}\",\"user_info\":{{\"name\":\"User {user}\"}}}}");
        let signature = sign(&self.secret, &format!("{socket}:{channel}:{member}"));
        serde_json::json!({
            "event": "pusher:subscribe",
            "data": {
                "channel": channel,
                "auth": format!("{}:{signature}", self.key),
                "channel_data": member,
            },
        })
        .to_string()
    }
}

/// The name of a socket, from the frame that tells it.
pub(crate) fn socket_id(frame: &[u8]) -> Option<String> {
    let frame: serde_json::Value = serde_json::from_slice(frame).ok()?;
    let data: serde_json::Value = serde_json::from_str(frame["data"].as_str()?).ok()?;
    Some(data["socket_id"].as_str()?.to_owned())
}

fn sign(secret: &str, text: &str) -> String {
    let secret = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    hex(hmac::sign(&secret, text.as_bytes()).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn fill(path: &str, channel: &str) -> String {
    path.replace("{channel}", channel)
}
