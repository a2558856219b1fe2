//! Whole sessions of whatever anybody may say through the Pusher door: each is answered or ended in a way that its
//! library knows, nobody else is disturbed, and nothing of it stays.
//!
//! A seed decides what is said. `FANFARE_FUZZ_SESSIONS` says how many sessions are tried, `FANFARE_FUZZ_SEED` where
//! they begin.

use std::collections::BTreeSet;

use fanfare_loadtest::random::Random;
use serde_json::{Value, json};

use crate::support::pusher::{APP, App, Session};
use crate::support::{Said, Server, frame, in_time};

const SESSIONS: u64 = 150;
const FRAMES: usize = 40;

/// What a library knows to do something with, and what the protocol of WebSockets says itself.
const CLOSE_CODES: [u16; 8] = [1002, 1003, 1007, 1008, 1009, 4005, 4009, 4100];

/// Decides what is said.
struct Dice(Random);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        usize::try_from(self.0.below(sides as u64)).unwrap()
    }

    fn one_of<T: Clone>(&mut self, things: &[T]) -> T {
        things[self.roll(things.len())].clone()
    }

    fn one_in(&mut self, sides: usize) -> bool {
        self.roll(sides) == 0
    }

    fn channel(&mut self) -> String {
        let long = "x".repeat(300);
        self.one_of(&[
            "orders",
            "private-orders",
            "presence-room",
            "private-encrypted-orders",
            "cache-orders",
            "private-cache-orders",
            "presence-cache-room",
            "#server-to-user-anna",
            "#server-to-user-ben",
            "user/anna",
            "room/1",
            "*",
            "",
            "not a name",
            "käse",
            &long,
        ])
        .to_owned()
    }

    fn person(&mut self) -> Value {
        let long = "x".repeat(3_000);
        self.one_of(&[
            json!({"user_id": "anna", "id": "anna"}),
            json!({"user_id": "ben", "user_info": {"name": "Ben"}, "id": "ben", "watchlist": ["anna", "ben", "", 7]}),
            json!({"user_id": 7, "id": 7}),
            json!({"user_id": "", "id": ""}),
            json!({"user_id": "anna", "user_info": long, "id": "anna", "user_info_too": long}),
            json!({"user_id": null, "id": {"a": []}}),
            json!([]),
            json!("anna"),
        ])
    }

    /// `key:signature` of what is to be signed, most often a good one.
    fn auth(&mut self, signed: &str) -> Value {
        let good = APP.auth(signed);
        let other = App {
            secret: "another",
            ..APP
        };
        match self.roll(8) {
            0 => json!(other.auth(signed)),
            1 => json!(good.get(..good.len() - 1)),
            2 => self.one_of(&[
                json!(""),
                json!(":"),
                json!(null),
                json!(5),
                json!("a:b:c"),
                json!(["x"]),
            ]),
            _ => json!(good),
        }
    }

    /// A frame as a client makes it.
    fn frame(&mut self, socket: &str) -> Value {
        let channel = self.channel();
        let person = self.person().to_string();
        let mut said = match self.roll(10) {
            0..=3 => {
                let has_data = self.one_in(2) || channel.starts_with("presence-");
                let signed = if has_data {
                    format!("{socket}:{channel}:{person}")
                } else {
                    format!("{socket}:{channel}")
                };
                let auth = self.auth(&signed);
                let mut data = json!({"channel": channel, "auth": auth});
                if has_data {
                    data["channel_data"] = person.into();
                }
                json!({"event": "pusher:subscribe", "data": data})
            }
            4 => json!({"event": "pusher:unsubscribe", "data": {"channel": channel}}),
            5 => {
                let auth = self.auth(&format!("{socket}::user::{person}"));
                json!({"event": "pusher:signin", "data": {"auth": auth, "user_data": person}})
            }
            6 | 7 => {
                let event = self.one_of(&[
                    "client-typing",
                    "client-",
                    "typing",
                    "pusher:x",
                    "pusher_internal:y",
                    "",
                ]);
                let data = self.one_of(&[
                    json!({"a": 1}),
                    json!("text"),
                    json!(null),
                    json!([1e300]),
                    json!("\u{0}"),
                ]);
                json!({"event": event, "channel": channel, "data": data})
            }
            8 => json!({"event": "pusher:ping", "data": {}}),
            _ => self.one_of(&[
                json!({"event": "pusher:pong"}),
                json!({"event": 5}),
                json!([]),
                json!("x"),
                json!({}),
            ]),
        };
        // Old libraries send the data as text.
        if self.one_in(4) && said["data"].is_object() {
            said["data"] = said["data"].to_string().into();
        }
        said
    }

    /// The same on the wire, now and then as nobody makes it.
    fn bytes(&mut self, socket: &str) -> Vec<u8> {
        let mut text = self.frame(socket).to_string();
        if self.one_in(4) {
            // Somewhere between two characters.
            let places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
            let at = self.one_of(&places);
            match self.roll(3) {
                0 => text.truncate(at),
                1 => text.insert_str(at, ["\"", "{", "\\", "]", "\u{0}", "é", "0"][self.roll(7)]),
                _ => drop(text.remove(at)),
            }
        }
        match self.roll(60) {
            0 => frame(0x82, text.as_bytes()),
            1 => frame(0x81, &[text.as_bytes(), b"\xff"].concat()),
            2 => frame(self.one_of(&[0x83, 0xc1, 0x80, 0x09]), text.as_bytes()),
            3 => frame(0x88, &[0x03, 0xe8]),
            4 => frame(0x81, &[b"[".repeat(5_000), text.into_bytes()].concat()),
            5 => frame(0x89, b"ping"),
            6 | 7 => {
                let (first, rest) = text.as_bytes().split_at(text.len() / 2);
                [frame(0x01, first), frame(0x8a, b""), frame(0x80, rest)].concat()
            }
            _ => frame(0x81, text.as_bytes()),
        }
    }
}

/// One session from its beginning to its end; which events and codes it was told.
async fn run(server: &Server, seed: u64, told: &mut BTreeSet<String>) {
    let mut dice = Dice(Random::new(seed));
    let mut session = Session::connect(server, APP).await;
    let socket = session.socket_id.clone();
    let mut bytes: Vec<u8> = Vec::new();
    for _ in 0..FRAMES {
        bytes.extend(dice.bytes(&socket));
    }
    bytes.extend(frame(
        0x81,
        session.subscription("end", None).to_string().as_bytes(),
    ));
    for part in bytes.chunks(1 + dice.roll(4_000)) {
        // It may have ended already.
        if !session.peer.try_send(part).await {
            break;
        }
    }
    loop {
        match session.peer.hear().await {
            Said::Text(text) => {
                let event: Value = serde_json::from_str(&text)
                    .unwrap_or_else(|error| panic!("FANFARE_FUZZ_SEED={seed}: {error}: {text}"));
                let name = event["event"]
                    .as_str()
                    .unwrap_or_else(|| panic!("FANFARE_FUZZ_SEED={seed}: {text}"));
                let is_error = name == "pusher:error" || name == "pusher:subscription_error";
                let fault = is_error && text.contains("internal");
                assert!(!fault && text.len() < 20_000, "FANFARE_FUZZ_SEED={seed}: {text}");
                told.insert(name.to_owned());
                if event["channel"] == "end" {
                    break;
                }
            }
            Said::Pong(_) => {}
            Said::Close(1000 | 1005, _) | Said::End => break,
            Said::Close(code, reason) => {
                assert!(
                    CLOSE_CODES.contains(&code),
                    "FANFARE_FUZZ_SEED={seed}: {code} {reason}"
                );
                told.insert(code.to_string());
                break;
            }
            other => panic!("FANFARE_FUZZ_SEED={seed}: {other:?}"),
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test]
async fn whatever_is_said_nobody_else_is_disturbed_and_nothing_stays() {
    let more = "client_events = \"any\", subscription_counts = true";
    let server = APP.server(more, &[("FANFARE_LIMITS_AUTH_FAILURES_PER_ADDRESS", "off")]);
    let mut bystander = Session::connect(&server, APP).await;
    bystander.subscribe("private-bystander").await;
    bystander.until("pusher_internal:subscription_count").await;
    let mut told = BTreeSet::new();
    let first = number("FANFARE_FUZZ_SEED").unwrap_or(0);
    for seed in first..first + number("FANFARE_FUZZ_SESSIONS").unwrap_or(SESSIONS) {
        run(&server, seed, &mut told).await;
        APP.trigger(&server, "private-bystander", "n", &seed.to_string())
            .await;
        let heard = bystander.heard("n").await;
        assert_eq!(heard["data"], seed.to_string());
    }
    // What is never tried cannot fail.
    let expected = [
        "1002",
        "1007",
        "4009",
        "pusher:cache_miss",
        "pusher:error",
        "pusher:pong",
        "pusher:signin_success",
        "pusher:subscription_error",
        "pusher_internal:subscription_count",
        "pusher_internal:subscription_succeeded",
        "pusher_internal:watchlist_events",
    ];
    let missing: Vec<_> = expected
        .into_iter()
        .filter(|name| !told.contains(*name))
        .collect();
    assert!(missing.is_empty(), "never: {missing:?}, but {told:?}");
    // All have gone: nobody listens, is a member or signed in.
    in_time(async {
        loop {
            let channels = APP.get(&server, "/channels", &[]).await;
            let is_over = channels == json!({"channels": {"private-bystander": {}}});
            let connections = APP.get(&server, "/connections", &[]).await;
            if is_over && connections == json!({"connections": 1}) {
                break;
            }
        }
    })
    .await;
    for room in ["presence-room", "presence-cache-room"] {
        let users = APP.get(&server, &format!("/channels/{room}/users"), &[]).await;
        assert_eq!(users, json!({"users": []}));
    }
    assert_eq!(server.admin_metric("fanfare_webhook_leaving").await, Some(0));
    let (status, logs) = server.end().await;
    assert!(status.success() && !logs.contains("panicked"), "{logs}");
}
