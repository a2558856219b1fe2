//! The Pusher door from outside: a browser's session and a back end's requests, made and signed by hand.
//!
//! Nothing here knows the server's own code, so what is wrong there cannot be right here by the same
//! mistake.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used
)]

use std::path::Path;

use aws_lc_rs::hmac;
use md5::{Digest, Md5};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{Peer, Said, Server, handshake};

/// The credentials of an app.
#[derive(Clone, Copy, Debug)]
pub struct App {
    pub id: &'static str,
    pub key: &'static str,
    pub secret: &'static str,
}

/// The app of most tests.
pub const APP: App = App {
    id: "4711",
    key: "demo-key-7f3a",
    secret: "demo-secret-b91c",
};

/// Another one, whose channels are others.
pub const OTHER_APP: App = App {
    id: "4712",
    key: "other-key-11aa",
    secret: "other-secret-22bb",
};

impl App {
    /// A table of TOML for `FANFARE_APPS`, with further settings such as `client_events = "any"`.
    pub fn table(&self, more: &str) -> String {
        let Self { id, key, secret } = self;
        let comma = if more.is_empty() { "" } else { ", " };
        format!("{{ id = \"{id}\", key = \"{key}\", secret = \"{secret}\"{comma}{more} }}")
    }

    /// A server with this app alone.
    pub fn server(&self, more: &str, settings: &[(&str, &str)]) -> Server {
        let apps = format!("[{}]", self.table(more));
        Server::start(&[&[("FANFARE_APPS", apps.as_str())], settings].concat())
    }

    /// The signature of a text: lower-case hexadecimal HMAC-SHA256.
    pub fn sign(&self, text: &[u8]) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.secret.as_bytes());
        hex(hmac::sign(&key, text).as_ref())
    }

    /// What a back end answers to whoever asks for the right to subscribe or sign in: `key:signature`.
    pub fn auth(&self, signed: &str) -> String {
        format!("{}:{}", self.key, self.sign(signed.as_bytes()))
    }

    /// A signed request of the HTTP API: `path` behind `/apps/{id}`, further parameters as they are.
    /// Returns status and body.
    pub async fn request(
        &self,
        server: &Server,
        method: &str,
        path: &str,
        parameters: &[(&str, &str)],
        body: &str,
    ) -> (u16, String) {
        let path = format!("/apps/{}{path}", self.id);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let mut query = vec![
            ("auth_key".to_owned(), self.key.to_owned()),
            ("auth_timestamp".to_owned(), now.unwrap().as_secs().to_string()),
            ("auth_version".to_owned(), "1.0".to_owned()),
        ];
        query.extend(
            parameters
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        if !body.is_empty() {
            query.push(("body_md5".to_owned(), hex(&Md5::digest(body.as_bytes()))));
        }
        query.sort();
        let pairs: Vec<String> = query
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let query = pairs.join("&");
        let signature = self.sign(format!("{method}\n{path}\n{query}").as_bytes());
        let target = format!("{path}?{query}&auth_signature={signature}");
        let kind = "Content-Type: application/json\r\n";
        let (status, _, answer) = server.request(method, &target, kind, body.as_bytes()).await;
        (status, answer)
    }

    /// Publishes an event; `data` is the text that subscribers get.
    pub async fn trigger(&self, server: &Server, channel: &str, event: &str, data: &str) {
        let body = json!({"name": event, "channel": channel, "data": data}).to_string();
        let (status, answer) = self.request(server, "POST", "/events", &[], &body).await;
        assert_eq!((status, answer.as_str()), (200, "{}"));
    }

    /// A GET of the HTTP API that must be answered with 200.
    pub async fn get(&self, server: &Server, path: &str, parameters: &[(&str, &str)]) -> Value {
        let (status, answer) = self.request(server, "GET", path, parameters, "").await;
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str(&answer).unwrap()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a configuration file with these apps, each with further lines of its table.
pub fn write_apps(path: &Path, before: &str, apps: &[(&App, &str)]) {
    let tables = apps.iter().map(|(App { id, key, secret }, more)| {
        format!("[[apps]]\nid = \"{id}\"\nkey = \"{key}\"\nsecret = \"{secret}\"\n{more}\n")
    });
    std::fs::write(path, format!("{before}\n{}", tables.collect::<String>())).unwrap();
}

/// A server with this configuration file.
pub fn start_with(path: &Path) -> Server {
    Server::start(&[("FANFARE_CONFIG", path.to_str().unwrap())])
}

/// Lets a server read its configuration file again.
pub fn hang_up(server: &Server) {
    let pid = Pid::from_raw(i32::try_from(server.pid()).unwrap()).unwrap();
    kill_process(pid, Signal::HUP).unwrap();
}

/// Waits until a signed request of the app is answered so.
pub async fn until(server: &Server, app: App, status: u16) {
    crate::support::in_time(async {
        while app.request(server, "GET", "/connections", &[], "").await.0 != status {}
    })
    .await;
}

/// One connection of a client.
pub struct Session {
    pub peer: Peer,
    pub app: App,
    pub socket_id: String,
}

impl Session {
    /// Connects, and hears that it is.
    pub async fn connect(server: &Server, app: App) -> Self {
        let mut peer = server.connect().await;
        let path = format!("/app/{}?protocol=7&client=js&version=8.6.0&flash=false", app.key);
        peer.send_head(&handshake(&path, "")).await;
        let head = peer.head().await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        let mut session = Self {
            peer,
            app,
            socket_id: String::new(),
        };
        let established = session.heard("pusher:connection_established").await;
        data_of(&established)["socket_id"]
            .as_str()
            .unwrap()
            .clone_into(&mut session.socket_id);
        session
    }

    pub async fn say(&mut self, frame: &Value) {
        self.peer.say(&frame.to_string()).await;
    }

    /// The next event.
    pub async fn hear(&mut self) -> Value {
        match self.peer.hear().await {
            Said::Text(text) => serde_json::from_str(&text).unwrap(),
            other => panic!("no event but {other:?}"),
        }
    }

    /// The next event, which must be this one.
    pub async fn heard(&mut self, event: &str) -> Value {
        let heard = self.hear().await;
        assert_eq!(heard["event"], event, "{heard}");
        heard
    }

    /// The next event of this name; those before are passed over.
    pub async fn until(&mut self, event: &str) -> Value {
        loop {
            let heard = self.hear().await;
            if heard["event"] == event {
                return heard;
            }
        }
    }

    /// What a client sends to subscribe, signed where the channel needs it.
    pub fn subscription(&self, channel: &str, channel_data: Option<&Value>) -> Value {
        let (socket, data) = (&self.socket_id, channel_data.map(Value::to_string));
        let needs_auth = channel.starts_with("private-") || channel.starts_with("presence-");
        let auth = match &data {
            Some(data) => self.app.auth(&format!("{socket}:{channel}:{data}")),
            None if needs_auth => self.app.auth(&format!("{socket}:{channel}")),
            None => String::new(),
        };
        let mut said = json!({"channel": channel, "auth": auth});
        if let Some(data) = data {
            said["channel_data"] = data.into();
        }
        json!({"event": "pusher:subscribe", "data": said})
    }

    /// Subscribes; returns the data of the success: `{}`, or the roster of a presence channel.
    pub async fn subscribe(&mut self, channel: &str) -> Value {
        self.subscribe_with(channel, None).await
    }

    /// Becomes a member of a presence channel; returns the roster.
    pub async fn join(&mut self, channel: &str, user: &str) -> Value {
        let data = json!({"user_id": user, "user_info": {"name": user}});
        self.subscribe_with(channel, Some(&data)).await
    }

    async fn subscribe_with(&mut self, channel: &str, channel_data: Option<&Value>) -> Value {
        let frame = self.subscription(channel, channel_data);
        self.say(&frame).await;
        loop {
            let heard = self.until("pusher_internal:subscription_succeeded").await;
            if heard["channel"] == channel {
                return data_of(&heard);
            }
        }
    }

    pub async fn unsubscribe(&mut self, channel: &str) {
        self.say(&json!({"event": "pusher:unsubscribe", "data": {"channel": channel}}))
            .await;
    }

    /// Signs in as a user, and hears that it worked.
    pub async fn sign_in(&mut self, user: &str) {
        let data = json!({"id": user}).to_string();
        let auth = self.app.auth(&format!("{}::user::{data}", self.socket_id));
        self.say(&json!({"event": "pusher:signin", "data": {"auth": auth, "user_data": data}}))
            .await;
        self.until("pusher:signin_success").await;
    }

    /// Says something to the others of a channel.
    pub async fn client_event(&mut self, channel: &str, event: &str, data: Value) {
        self.say(&json!({"event": event, "channel": channel, "data": data}))
            .await;
    }

    /// All that was said before has been dealt with.
    pub async fn settled(&mut self) {
        self.say(&json!({"event": "pusher:ping", "data": {}})).await;
        self.until("pusher:pong").await;
    }
}

/// The `data` of an event of the protocol: JSON inside a string.
pub fn data_of(event: &Value) -> Value {
    serde_json::from_str(event["data"].as_str().unwrap()).unwrap()
}
