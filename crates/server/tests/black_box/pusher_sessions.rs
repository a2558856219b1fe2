//! Sessions of the Pusher door that ask for much at once, or go in the midst of it: each gets what it asked for, and
//! nobody is told what is not so.

use std::fmt::Write as _;

use serde_json::json;

use crate::pusher_replay::acknowledge;
use crate::support::pusher::{APP, OTHER_APP, Session, data_of};
use crate::support::{KEY, Said, Server, frame, in_time};

/// What may wait is little.
const SMALL: [(&str, &str); 2] = [
    ("FANFARE_LIMITS_OUTBOX_BYTES_MAX", "65536"),
    ("FANFARE_LIMITS_MESSAGE_BYTES_MAX", "4096"),
];

/// What a session says, as one piece of bytes.
async fn say_at_once(session: &mut Session, frames: &[serde_json::Value]) {
    let bytes: Vec<u8> = frames
        .iter()
        .flat_map(|said| frame(0x81, said.to_string().as_bytes()))
        .collect();
    session.peer.send(&bytes).await;
}

#[tokio::test]
async fn what_is_asked_for_at_once_comes_one_after_the_other() {
    // 150 events of 20 kB, where 64 KiB may wait, and more than sockets hold.
    let server = APP.server("", &SMALL);
    let channels: Vec<String> = (0..150).map(|number| format!("cache-{number}")).collect();
    let data = "x".repeat(20_000);
    for channel in &channels {
        APP.trigger(&server, channel, "newest", &data).await;
    }
    let mut anna = Session::connect(&server, APP).await;
    let mut wishes: Vec<_> = channels
        .iter()
        .map(|channel| anna.subscription(channel, None))
        .collect();
    // A roster of its own size between them, twice.
    let member = json!({"user_id": "anna"});
    wishes.insert(75, anna.subscription("presence-room", Some(&member)));
    wishes.insert(75, anna.subscription("presence-room", Some(&member)));
    wishes.push(json!({"event": "pusher:ping", "data": {}}));
    say_at_once(&mut anna, &wishes).await;
    let (mut heard, mut subscribed, mut behind_pong) = (Vec::new(), 0, 0);
    while heard.len() < channels.len() || subscribed < wishes.len() - 1 {
        let event = anna.hear().await;
        match event["event"].as_str().unwrap() {
            "pusher_internal:subscription_succeeded" => subscribed += 1,
            "newest" => heard.push(event["channel"].as_str().unwrap().to_owned()),
            // Only subscriptions wait.
            "pusher:pong" => behind_pong = channels.len() - heard.len(),
            other => panic!("{other}: {event}"),
        }
    }
    assert_eq!(heard, channels);
    assert!(behind_pong > 0, "nothing had to wait");
    assert_eq!(
        server
            .admin_metric("fanfare_slow_consumers_total")
            .await
            .unwrap_or(0),
        0
    );
}

#[tokio::test]
async fn rosters_that_are_longer_than_what_may_wait_come_one_after_the_other() {
    let server = APP.server("", &SMALL);
    // Two rooms whose rosters have 80 kB each, and one with nobody in it.
    let member = |user: &str| json!({"user_id": user, "user_info": {"name": "x".repeat(2_000)}});
    let mut members = Vec::new();
    for number in 0..40 {
        let mut session = Session::connect(&server, APP).await;
        let member = member(&format!("user-{number}"));
        let wishes = ["presence-a", "presence-b"].map(|room| session.subscription(room, Some(&member)));
        say_at_once(&mut session, &wishes).await;
        session.settled().await;
        members.push(session);
    }
    let mut anna = Session::connect(&server, APP).await;
    let rooms = ["presence-small", "presence-a", "presence-b"];
    let wishes = rooms.map(|room| anna.subscription(room, Some(&json!({"user_id": "anna"}))));
    say_at_once(&mut anna, &wishes).await;
    for (room, count) in rooms.into_iter().zip([1, 41, 41]) {
        let answer = anna.heard("pusher_internal:subscription_succeeded").await;
        assert_eq!(answer["channel"], room);
        assert_eq!(data_of(&answer)["presence"]["count"], count);
    }
}

#[tokio::test]
async fn a_subscription_that_waits_can_be_ended() {
    let server = APP.server("", &SMALL);
    for channel in ["cache-a", "cache-b"] {
        APP.trigger(&server, channel, "newest", &"x".repeat(20_000)).await;
    }
    let mut anna = Session::connect(&server, APP).await;
    let leave = |channel: &str| json!({"event": "pusher:unsubscribe", "data": {"channel": channel}});
    let mut wishes: Vec<_> = ["cache-a", "cache-b", "c", "d"]
        .iter()
        .map(|channel| anna.subscription(channel, None))
        .collect();
    wishes.extend([leave("c"), leave("nothing")]);
    say_at_once(&mut anna, &wishes).await;
    let mut subscribed = Vec::new();
    while subscribed.last() != Some(&json!("d")) {
        let event = anna.until("pusher_internal:subscription_succeeded").await;
        subscribed.push(event["channel"].clone());
    }
    assert_eq!(json!(subscribed), json!(["cache-a", "cache-b", "d"]));
    // And begun again.
    anna.subscribe("c").await;
    APP.trigger(&server, "c", "n", "1").await;
    anna.heard("n").await;
}

#[tokio::test]
async fn to_subscribe_twice_at_once_is_answered_twice() {
    let server = APP.server("", &[]);
    let mut anna = Session::connect(&server, APP).await;
    let member = json!({"user_id": "anna", "user_info": {"name": "Anna"}});
    let wish = anna.subscription("presence-room", Some(&member));
    say_at_once(&mut anna, &[wish.clone(), wish.clone(), wish]).await;
    for _ in 0..3 {
        let answer = anna.heard("pusher_internal:subscription_succeeded").await;
        assert_eq!(data_of(&answer)["presence"]["ids"], json!(["anna"]));
    }
}

#[tokio::test]
async fn who_is_sent_away_while_she_signs_in_is_not_online() {
    let settings = [
        ("FANFARE_KEY", KEY),
        ("FANFARE_LIMITS_OUTBOX_BYTES_MAX", "16384"),
        ("FANFARE_LIMITS_MESSAGE_BYTES_MAX", "4096"),
        ("FANFARE_SESSIONS_USER_GRACE", "0s"),
    ];
    let server = APP.server("", &settings);
    let mut anna = Session::connect(&server, APP).await;
    // What is answered to a sign-in holds all that was signed.
    let friends: Vec<String> = (0..100).map(|number| format!("friend-{number:0>200}")).collect();
    let data = json!({"id": "anna", "watchlist": friends}).to_string();
    let auth = APP.auth(&format!("{}::user::{data}", anna.socket_id));
    let wish = json!({"event": "pusher:signin", "data": {"auth": auth, "user_data": data}});
    anna.say(&wish).await;
    loop {
        if let Said::Close(..) = anna.peer.hear().await {
            break;
        }
    }
    let bearer = crate::support::bearer(KEY);
    in_time(async {
        loop {
            let (_, _, answer) = server.request("GET", "/user/anna", &bearer, b"").await;
            let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
            if answer["online"] == false && answer["connections"] == 0 {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn who_signs_in_late_is_gone_on_for_in_every_app() {
    let mut apps = String::new();
    for app in [APP, OTHER_APP] {
        write!(apps, "{},", app.table("")).unwrap();
    }
    let server = Server::start(&[
        ("FANFARE_APPS", &format!("[{apps}]")),
        ("FANFARE_SHARDS", "1"),
        (
            "FANFARE_CHANNELS_RULES",
            r#"[{ channels = "orders", replay = "user" }]"#,
        ),
    ]);
    for app in [APP, OTHER_APP] {
        let mut anna = Session::connect(&server, app).await;
        // Nothing has been delivered of this app yet.
        anna.subscribe("orders").await;
        anna.sign_in("anna").await;
        acknowledge(&mut anna).await;
        drop(anna);
        app.trigger(&server, "orders", "n", "1").await;
        let mut anna = Session::connect(&server, app).await;
        anna.sign_in("anna").await;
        anna.subscribe("orders").await;
        app.trigger(&server, "orders", "n", "2").await;
        for expected in ["1", "2"] {
            assert_eq!(anna.until("n").await["data"], expected, "{app:?}");
        }
    }
}

#[tokio::test]
async fn how_many_listen_is_told_of_all_doors() {
    let server = APP.server("subscription_counts = true", &[]);
    let mut anna = Session::connect(&server, APP).await;
    let count = async |anna: &mut Session| {
        let told = anna.until("pusher_internal:subscription_count").await;
        data_of(&told)["subscription_count"].as_u64().unwrap()
    };
    anna.subscribe("orders").await;
    assert_eq!(count(&mut anna).await, 1);
    let stream = server.stream("/ch/orders", "").await;
    assert_eq!(count(&mut anna).await, 2);
    let websocket = server.websocket("/ch/orders").await;
    assert_eq!(count(&mut anna).await, 3);
    drop(stream);
    assert_eq!(count(&mut anna).await, 2);
    drop(websocket);
    assert_eq!(count(&mut anna).await, 1);
}
