//! Secrets stay secret: keys and tokens that can be recognised go through every way in, good and
//! bad, with every log line switched on. None may show up in the log, the metrics, an answer to
//! somebody, or a printed configuration.

use crate::support::back_end::BackEnd;
use crate::support::token::{claims, now, signed};
use crate::support::{Peer, Said, Server, bearer, command, frame};
use serde_json::json;

const KEY: &str = "canary-key-of-more-than-thirty-two-bytes";
const OLD_KEY: &str = "canary-key-of-before-and-thirty-two-bytes";
const WRONG_KEY: &str = "canary-key-that-is-not-the-servers-at-all";

/// What must not be found: the keys, and of each token its claims and its signature.
struct Canaries(Vec<String>);

impl Canaries {
    fn add(&mut self, token: &str) -> String {
        let parts = token.split('.').skip(1).filter(|part| !part.is_empty());
        self.0.extend(parts.map(str::to_owned));
        token.to_owned()
    }

    #[track_caller]
    fn check(&self, place: &str, text: &str) {
        for canary in &self.0 {
            assert!(!text.contains(canary), "{place} holds {canary}:\n{text}");
        }
    }
}

/// One request, with all that is answered.
async fn ask(server: &Server, request: &str, answers: &mut String) {
    let mut peer: Peer = server.connect().await;
    peer.send_head(request).await;
    // A stream or WebSocket goes on, so the head and what came with it is enough.
    let head = peer.head().await;
    // Where an answer is a page, the URL it came by goes nowhere else.
    let says_so = head.to_lowercase().contains("referrer-policy: no-referrer\r\n");
    assert!(says_so || head.starts_with("HTTP/1.1 101"), "{request}\n{head}");
    answers.push_str(&head);
    answers.push_str(&String::from_utf8_lossy(&peer.got));
    if head.starts_with("HTTP/1.1 101") {
        peer.send(&frame(0x81, b"hello")).await;
        peer.send(&frame(0x89, b"p")).await;
        if let Said::Close(_, reason) = peer.hear().await {
            answers.push_str(&reason);
        }
    } else if request.starts_with("HEAD ") {
        // Announces a body and has none.
    } else if let Some(length) = head.to_lowercase().split("content-length: ").nth(1) {
        let length: usize = length.split('\r').next().unwrap().parse().unwrap();
        while peer.got.len() < length && peer.more().await {}
        answers.push_str(&String::from_utf8_lossy(&peer.got));
    }
}

#[tokio::test]
async fn nothing_that_was_shown_is_put_out_again() {
    let mut canaries = Canaries([KEY, OLD_KEY, WRONG_KEY].map(str::to_owned).to_vec());
    let mut back_end = BackEnd::start().await;
    let hook = back_end.url("/hook?canary-of-the-hook");
    let answering = tokio::spawn(async move {
        loop {
            let question = back_end.asked().await;
            let status = if question.field("cookie").is_some() {
                202
            } else {
                500
            };
            question.answer(status, "");
        }
    });
    let server = Server::start(&[
        ("FANFARE_HOOKS_ON_CONNECT", &hook),
        ("FANFARE_HOOKS_ON_MESSAGE", &hook),
        ("FANFARE_HOOKS_FAILURES_MAX", "10000"),
        ("FANFARE_KEY", KEY),
        ("FANFARE_KEY_PREVIOUS", OLD_KEY),
        ("FANFARE_LOG_LEVEL", "trace"),
        ("FANFARE_LIMITS_TARGET_BYTES_MAX", "2000"),
        // Nobody answers there; what is asked for must not be told either.
        (
            "FANFARE_TOKENS_JWKS_URL",
            "http://127.0.0.1:1/keys?canary-of-the-address",
        ),
    ]);
    canaries.0.push("canary-of-the-address".to_owned());
    canaries.0.push("canary-of-the-hook".to_owned());
    canaries.0.push("canary-session".to_owned());
    let expired = json!({"sub": "canary-expired", "exp": now() - 3_600});
    let tokens = [
        signed(
            KEY,
            &claims(json!({"sub": "canary-good", "listen": ["*"], "speak": ["*"]})),
        ),
        signed(KEY, &expired),
        signed(WRONG_KEY, &claims(json!({"sub": "canary-forged"}))),
        signed(KEY, &claims(json!({"sub": ["canary-list"]}))),
        signed(KEY, &json!({"sub": "canary-endless"})),
        "canary-word.canary-claims.canary-signature".to_owned(),
        // Too long for a token, and too long for a target.
        format!("a.{}.canary-b", "canary-long".repeat(100)),
        format!("a.{}.canary-c", "canary-longer".repeat(1_000)),
    ];
    let mut shown: Vec<String> = tokens.iter().map(|token| canaries.add(token)).collect();
    shown.extend([KEY, OLD_KEY, WRONG_KEY].map(str::to_owned));

    let host = &server.address;
    let mut answers = String::new();
    for token in &shown {
        let places = [
            (String::new(), bearer(token)),
            (format!("?token={token}"), String::new()),
            (format!("?a=%zz&token={token}"), String::new()),
            (format!("?token={token}&token={token}"), String::new()),
            (
                String::new(),
                format!("Cookie: fanfare_token={token}\r\nSec-Fetch-Site: same-origin\r\n"),
            ),
            (
                String::new(),
                format!("Cookie: fanfare_token={token}\r\nOrigin: https://evil.example\r\n"),
            ),
            (
                String::new(),
                format!("Cookie: PHPSESSID=canary-session\r\nOrigin: http://{host}\r\n"),
            ),
            (String::new(), "Cookie: PHPSESSID=canary-session\r\n".to_owned()),
        ];
        let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let ndjson = "Content-Type: application/x-ndjson\r\nContent-Length: 29\r\n";
        let ways = [
            ("GET", "/ch/private%2F7", upgrade, ""),
            ("GET", "/ch/private%2F7", "Accept: text/event-stream\r\n", ""),
            ("GET", "/ch/private%2F7", "", ""),
            (
                "GET",
                "/ch/main",
                "Upgrade: websocket\r\nConnection: Upgrade\r\n",
                "",
            ),
            (
                "GET",
                "/ch/main",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
                "",
            ),
            ("GET", "/nowhere", "", ""),
            ("GET", "/ch/main", "Broken : x\r\n", ""),
            ("GET", "/ch/main", "Host: two\r\n", ""),
            ("HEAD", "/ch/main", "", ""),
            ("OPTIONS", "/ch/main", "", ""),
            ("PATCH", "/ch/main", "", ""),
            ("POST", "/ch/orders", "Content-Length: 5\r\n", "hello"),
            ("POST", "/ch/*", "Content-Length: 5\r\n", "hello"),
            ("POST", "/ch", ndjson, "{\"channel\":\"main\",\"data\":\"x\"}"),
            ("POST", "/ch", ndjson, "{\"channel\":\"main\",\"data\":false"),
        ];
        for (method, path, fields, body) in ways {
            for (query, credential) in &places {
                let request = format!(
                    "{method} {path}{query} HTTP/1.1\r\nHost: {host}\r\n{credential}{fields}\r\n{body}"
                );
                ask(&server, &request, &mut answers).await;
            }
        }
    }
    // Fresh tokens on an open connection, good and bad.
    for fresh in &shown {
        let path = format!("/?meta=1&token={}", shown[0]);
        let mut peer = server.websocket(&path).await;
        peer.say(&json!({"token": fresh}).to_string()).await;
        peer.send(&frame(0x89, b"p")).await;
        if let Said::Close(_, reason) = peer.hear().await {
            answers.push_str(&reason);
        }
    }
    assert!(
        answers.contains("HTTP/1.1 200")
            && answers.contains("HTTP/1.1 401")
            && answers.contains("HTTP/1.1 414")
    );
    canaries.check("an answer", &answers);

    let mut metrics = Peer::to(&server.admin_address()).await;
    let (status, _, figures) = metrics.request("GET", "/metrics", "", b"").await;
    assert!(status == 200 && figures.contains("fanfare_refusals_total{error=\"unauthorized\"}"));
    assert!(figures.contains("fanfare_hook_requests_total{hook=\"on_connect\",outcome=\"answered\"}"));
    canaries.check("the metrics", &figures);
    answering.abort();

    server.terminate();
    let (_, log) = server.wait();
    assert!(log.contains("DEBUG") && log.contains("session opened") && log.contains("refused"));
    assert!(log.contains("the hook gave no answer"));
    canaries.check("the log", &log);

    let settings = [("FANFARE_KEY", KEY), ("FANFARE_KEY_PREVIOUS", OLD_KEY)];
    let printed = command()
        .args(["config", "--show"])
        .envs(settings)
        .output()
        .unwrap();
    let printed = format!("{printed:?}");
    assert!(printed.contains("***"), "{printed}");
    canaries.check("the printed configuration", &printed);
}
