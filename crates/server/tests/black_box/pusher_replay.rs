//! Replay: a client of Pusher's protocol that was cut and comes back gets what it missed, in order, once.

use crate::support::pusher::{APP, Session, data_of};
use crate::support::{Server, frame, handshake};
use serde_json::{Value, json};

const HINT: &str = "hint-of-this-page-0001";

/// Connects as a page does that has drawn a hint.
async fn connect(server: &Server, hint: &str) -> Session {
    let mut peer = server.connect().await;
    let prefix = if hint.is_empty() {
        String::new()
    } else {
        format!("/resume/{hint}")
    };
    let path = format!(
        "{prefix}/app/{}?protocol=7&client=js&version=8.6.0&flash=false",
        APP.key
    );
    peer.send_head(&handshake(&path, "")).await;
    let head = peer.head().await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let mut session = Session {
        peer,
        app: APP,
        socket_id: String::new(),
    };
    let established = session.heard("pusher:connection_established").await;
    data_of(&established)["socket_id"]
        .as_str()
        .unwrap()
        .clone_into(&mut session.socket_id);
    session
}

/// Answers what the server asks about what has arrived, as browsers do by themselves, until nothing is
/// left to be asked. The numbers are counted up from 1.
pub(crate) async fn acknowledge(session: &mut Session) {
    for number in 1..=16_u64 {
        session.peer.send(&frame(0x8a, &number.to_be_bytes())).await;
        session.settled().await;
    }
}

async fn publish(server: &Server, channel: &str, numbers: std::ops::RangeInclusive<u32>) {
    for number in numbers {
        APP.trigger(server, channel, "n", &number.to_string()).await;
    }
}

/// The numbers that come up to the fence, which is published now; `gap` where one is told.
async fn heard(server: &Server, session: &mut Session, channel: &str) -> String {
    APP.trigger(server, channel, "fence", "").await;
    let mut numbers = Vec::new();
    loop {
        let heard = session.hear().await;
        match heard["event"].as_str().unwrap() {
            "fence" => return numbers.join(" "),
            "n" => numbers.push(heard["data"].as_str().unwrap().to_owned()),
            "fanfare:gap" => numbers.push("gap".to_owned()),
            _ => {}
        }
    }
}

/// A server whose earlier life could not have known anybody: nothing was remembered before.
fn server(more: &[(&str, &str)]) -> Server {
    let rules = r#"[{ channels = "presence-*", replay = "user" }, { channels = "off-*", replay = "off" }, { channels = "short-*", history_publications = 1 }]"#;
    APP.server("", &[&[("FANFARE_CHANNELS_RULES", rules)], more].concat())
}

/// Subscribes, hears 1 and 2 and says so, is cut while 3 and 4 are published, and comes back.
async fn check(channel: &str, hints: [&str; 2], expected: &str) {
    let server = server(&[]);
    let mut session = connect(&server, hints[0]).await;
    session.subscribe(channel).await;
    publish(&server, channel, 1..=2).await;
    let first = heard(&server, &mut session, channel).await;
    // A server that has just begun cannot know whether the page was there before.
    let is_doubtful = !hints[0].is_empty() && !channel.starts_with("off-");
    assert_eq!(first, if is_doubtful { "gap 1 2" } else { "1 2" });
    acknowledge(&mut session).await;
    drop(session);
    publish(&server, channel, 3..=4).await;
    let mut session = connect(&server, hints[1]).await;
    session.subscribe(channel).await;
    publish(&server, channel, 5..=5).await;
    assert_eq!(
        heard(&server, &mut session, channel).await,
        expected,
        "{channel} {hints:?}"
    );
}

#[tokio::test]
async fn a_page_with_a_hint_goes_on_where_it_was() {
    check("orders", [HINT, HINT], "3 4 5").await;
    check("private-orders", [HINT, HINT], "3 4 5").await;
    check("private-encrypted-orders", [HINT, HINT], "3 4 5").await;
    check("cache-orders", [HINT, HINT], "3 4 5").await;
    check("orders", [HINT, "hint-of-another-page-2"], "gap 5").await;
    check("orders", ["", HINT], "gap 5").await;
    check("orders", ["", ""], "5").await;
    check("off-orders", [HINT, HINT], "5").await;
    check("short-orders", [HINT, HINT], "gap 5").await;
}

#[tokio::test]
async fn what_was_not_acknowledged_comes_again() {
    let server = server(&[]);
    let mut session = connect(&server, HINT).await;
    session.subscribe("orders").await;
    acknowledge(&mut session).await;
    publish(&server, "orders", 1..=2).await;
    assert_eq!(heard(&server, &mut session, "orders").await, "1 2");
    drop(session);
    let mut session = connect(&server, HINT).await;
    session.subscribe("orders").await;
    assert_eq!(heard(&server, &mut session, "orders").await, "1 2");
}

#[tokio::test]
async fn nobody_has_noticed_that_the_old_connection_is_dead() {
    let server = server(&[]);
    let mut old = connect(&server, HINT).await;
    old.subscribe("orders").await;
    publish(&server, "orders", 1..=1).await;
    assert_eq!(heard(&server, &mut old, "orders").await, "gap 1");
    acknowledge(&mut old).await;
    publish(&server, "orders", 2..=2).await;
    let mut new = connect(&server, HINT).await;
    new.subscribe("orders").await;
    assert_eq!(heard(&server, &mut new, "orders").await, "2");
}

/// Cut for the second time while what was missed is on its way.
#[tokio::test]
async fn what_was_given_again_and_not_acknowledged_comes_once_more() {
    let server = server(&[]);
    let mut session = connect(&server, HINT).await;
    session.subscribe("orders").await;
    publish(&server, "orders", 1..=1).await;
    assert_eq!(heard(&server, &mut session, "orders").await, "gap 1");
    acknowledge(&mut session).await;
    drop(session);
    publish(&server, "orders", 2..=3).await;
    let mut session = connect(&server, HINT).await;
    session.subscribe("orders").await;
    drop(session);
    let mut session = connect(&server, HINT).await;
    session.subscribe("orders").await;
    assert_eq!(heard(&server, &mut session, "orders").await, "2 3");
    acknowledge(&mut session).await;
    drop(session);
    let mut session = connect(&server, HINT).await;
    session.subscribe("orders").await;
    assert_eq!(heard(&server, &mut session, "orders").await, "");
}

/// A publication of several channels, and an announcement, come as often as they would have come live.
#[tokio::test]
async fn what_concerns_several_channels_comes_once() {
    let server = server(&[("FANFARE_KEY", crate::support::KEY)]);
    let mut session = connect(&server, HINT).await;
    session.subscribe("a").await;
    session.subscribe("b").await;
    acknowledge(&mut session).await;
    drop(session);
    let key = crate::support::bearer(crate::support::KEY);
    for path in ["/ch?name=a&name=b&event=n", "/ch/*?event=n"] {
        let (status, _, _) = server.request("POST", path, &key, b"1").await;
        assert_eq!(status, 200);
    }
    let mut session = connect(&server, HINT).await;
    for channel in ["a", "b"] {
        let frame = session.subscription(channel, None);
        session.say(&frame).await;
    }
    assert_eq!(heard(&server, &mut session, "b").await, "1");
}

#[tokio::test]
async fn who_says_goodbye_is_forgotten() {
    let server = server(&[]);
    let mut session = connect(&server, HINT).await;
    session.subscribe("orders").await;
    session.peer.send(&frame(0x88, &1000_u16.to_be_bytes())).await;
    while session.peer.more().await {}
    publish(&server, "orders", 1..=1).await;
    let mut session = connect(&server, HINT).await;
    session.subscribe("orders").await;
    assert_eq!(heard(&server, &mut session, "orders").await, "gap");
}

/// `toOthers()`: what was not for the connection before is not for the one after it.
#[tokio::test]
async fn what_one_said_oneself_does_not_come_back() {
    let server = server(&[]);
    let mut session = connect(&server, HINT).await;
    session.subscribe("orders").await;
    acknowledge(&mut session).await;
    let socket_id = session.socket_id.clone();
    drop(session);
    for (data, excluded) in [("1", ""), ("2", socket_id.as_str()), ("3", "")] {
        let mut body = json!({"name": "n", "channel": "orders", "data": data});
        if !excluded.is_empty() {
            body["socket_id"] = excluded.into();
        }
        let (status, _) = APP
            .request(&server, "POST", "/events", &[], &body.to_string())
            .await;
        assert_eq!(status, 200);
    }
    let mut session = connect(&server, HINT).await;
    session.subscribe("orders").await;
    assert_eq!(heard(&server, &mut session, "orders").await, "1 3");
}

#[tokio::test]
async fn a_member_goes_on_without_any_hint() {
    let server = server(&[]);
    let mut anna = connect(&server, "").await;
    anna.join("presence-room", "anna").await;
    publish(&server, "presence-room", 1..=1).await;
    assert_eq!(heard(&server, &mut anna, "presence-room").await, "gap 1");
    acknowledge(&mut anna).await;
    drop(anna);
    // The server notices that she has gone.
    crate::support::in_time(async {
        let path = "/channels/presence-room/users";
        while APP.get(&server, path, &[]).await["users"] != Value::Array(vec![]) {}
    })
    .await;
    publish(&server, "presence-room", 2..=3).await;
    let mut otto = connect(&server, "").await;
    otto.join("presence-room", "otto").await;
    assert_eq!(heard(&server, &mut otto, "presence-room").await, "gap");
    let mut anna = connect(&server, "").await;
    let roster = anna.join("presence-room", "anna").await;
    assert_eq!(roster["presence"]["ids"], json!(["anna", "otto"]));
    assert_eq!(heard(&server, &mut anna, "presence-room").await, "2 3");
}
