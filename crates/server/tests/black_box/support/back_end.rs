//! A back end whose answers the test gives itself, one by one.

use std::collections::HashMap;

use aws_lc_rs::hmac;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

use crate::support::{KEY, PATIENCE, Server, bearer};

pub struct BackEnd {
    pub address: String,
    questions: mpsc::UnboundedReceiver<Question>,
}

/// Something that was asked. Dropped without an answer, its connection ends.
pub struct Question {
    /// Method and path.
    pub line: String,
    /// The lines before the body, as they came.
    pub head: String,
    /// Names in lower case.
    pub fields: HashMap<String, String>,
    pub text: String,
    reply: oneshot::Sender<Vec<u8>>,
}

impl BackEnd {
    pub async fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    /// The same, where the test chooses.
    pub fn on(listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap().to_string();
        let (asked, questions) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, asked.clone()));
            }
        });
        Self { address, questions }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What is asked next, however long that takes; ends with the test.
    pub async fn asked_ever(&mut self) -> Question {
        match self.questions.recv().await {
            Some(question) => question,
            None => std::future::pending().await,
        }
    }

    /// What is asked next.
    pub async fn asked(&mut self) -> Question {
        let asked = tokio::time::timeout(PATIENCE, self.questions.recv()).await;
        asked.expect("nothing was asked for a minute").unwrap()
    }
}

impl Question {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    pub fn answer(self, status: u16, body: &str) {
        self.answer_with(status, "", body.as_bytes());
    }

    pub fn answer_with(self, status: u16, fields: &str, body: &[u8]) {
        let head = format!(
            "HTTP/1.1 {status} Whatever\r\n{fields}Content-Length: {}\r\n\r\n",
            body.len()
        );
        let bodiless = status == 204;
        let head = if bodiless {
            format!("HTTP/1.1 {status} Whatever\r\n{fields}\r\n")
        } else {
            head
        };
        let _ = self.reply.send([head.as_bytes(), body].concat());
    }

    /// Whether whoever asks has shown that it has the key.
    pub fn is_signed_with(&self, key: &str) -> bool {
        let Some((time, shown)) = self
            .field("fanfare-signature")
            .and_then(|field| field.strip_prefix("t="))
            .and_then(|field| field.split_once(",v1="))
        else {
            return false;
        };
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
        let own = hmac::sign(&key, format!("{time}.{}", self.text).as_bytes());
        let own: String = own.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        own == shown
    }
}

async fn serve(mut socket: TcpStream, asked: mpsc::UnboundedSender<Question>) {
    let mut got = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = got.windows(4).position(|part| part == b"\r\n\r\n") {
                break at + 4;
            }
            if !matches!(socket.read_buf(&mut got).await, Ok(1..)) {
                return;
            }
        };
        let head: Vec<u8> = got.drain(..end).collect();
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let line = lines.next().unwrap().replace(" HTTP/1.1", "");
        let fields: HashMap<String, String> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let length: usize = fields["content-length"].parse().unwrap();
        while got.len() < length {
            if !matches!(socket.read_buf(&mut got).await, Ok(1..)) {
                return;
            }
        }
        let text = String::from_utf8(got.drain(..length).collect()).unwrap();
        let (reply, answer) = oneshot::channel();
        let question = Question {
            line,
            head: head.clone(),
            fields,
            text,
            reply,
        };
        if asked.send(question).is_err() {
            return;
        }
        let Ok(answer) = answer.await else { return };
        if socket.write_all(&answer).await.is_err() {
            return;
        }
    }
}

pub fn with_key() -> String {
    bearer(KEY)
}

/// A server with this hook, and the back end that it asks.
pub async fn start(hook: &str, settings: &[(&str, &str)]) -> (Server, BackEnd) {
    let back_end = BackEnd::start().await;
    let (name, url) = (
        format!("FANFARE_HOOKS_{}", hook.to_uppercase()),
        back_end.url("/hook"),
    );
    let own = [("FANFARE_KEY", KEY), (&name, &url)];
    (Server::start(&[&own, settings].concat()), back_end)
}

pub async fn metric(server: &Server, line: &str) -> Option<u64> {
    server.admin_metric(line).await
}

/// How many questions have reached the back end, or should have.
pub async fn asked(server: &Server, hook: &str) -> u64 {
    let mut sum = 0;
    for outcome in ["answered", "unusable", "failed"] {
        let line = format!("fanfare_hook_requests_total{{hook=\"{hook}\",outcome=\"{outcome}\"}}");
        sum += metric(server, &line).await.unwrap_or(0);
    }
    sum
}

/// Asks again and again until a metric has this value.
pub async fn wait_until(server: &Server, line: &str, value: u64) {
    let reached = async { while metric(server, line).await != Some(value) {} };
    let reached = tokio::time::timeout(PATIENCE, reached).await;
    reached.unwrap_or_else(|_| panic!("{line} did not become {value}"));
}

pub async fn post(server: &Server, path: &str, body: &str) -> Value {
    let (status, _, answer) = server.request("POST", path, &with_key(), body.as_bytes()).await;
    assert_eq!(status, 200, "{answer}");
    serde_json::from_str(&answer).unwrap()
}
