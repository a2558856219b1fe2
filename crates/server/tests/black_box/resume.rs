//! No silent loss: who comes back gets exactly what it missed, once, or is told that it is gone.

use crate::support::{PATIENCE, Said, Server, text};

/// How a listener listens: the same questions are put to each.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    WebSocketRaw,
    WebSocketMeta,
    StreamRaw,
    StreamMeta,
    Poll,
}

const WAYS: [Way; 5] = [
    Way::WebSocketRaw,
    Way::WebSocketMeta,
    Way::StreamRaw,
    Way::StreamMeta,
    Way::Poll,
];

/// What a listener hears that begins so, until it has heard `until`: the data of each message,
/// `gap` for a gap, `closed 4416` for an end.
async fn hears(server: &Server, way: Way, path: &str, query: &str, until: &str) -> Vec<String> {
    let mut heard = Vec::new();
    let meta = |text: &str| {
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        let word = |name: &str| value[name].as_str().map(str::to_owned);
        word("data").or_else(|| word("event")).unwrap()
    };
    match way {
        Way::WebSocketRaw | Way::WebSocketMeta => {
            let form = if way == Way::WebSocketMeta { "&meta=1" } else { "" };
            let mut peer = server.websocket(&format!("{path}?{query}{form}")).await;
            while heard.last().is_none_or(|last| last != until) {
                match peer.hear().await {
                    Said::Text(text) if way == Way::WebSocketMeta => heard.push(meta(&text)),
                    Said::Text(text) => heard.push(text),
                    Said::Close(code, _) => {
                        heard.push(format!("closed {code}"));
                        break;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        Way::StreamRaw | Way::StreamMeta => {
            let form = if way == Way::StreamMeta { "&meta=1" } else { "" };
            let mut peer = server.stream(&format!("{path}?{query}{form}"), "").await;
            while heard.last().is_none_or(|last| last != until) {
                let event = peer.event().await;
                let data = event.split("data: ").nth(1).unwrap().trim_end();
                if way == Way::StreamMeta {
                    heard.push(meta(data));
                } else if event.contains("event: gap\n") {
                    heard.push("gap".to_owned());
                } else {
                    heard.push(data.to_owned());
                }
            }
        }
        Way::Poll => {
            let mut query = query.to_owned();
            while heard.last().is_none_or(|last| last != until) {
                let (status, _, body) = server.request("GET", &format!("{path}?{query}"), "", b"").await;
                assert_eq!(status, 200, "{body}");
                let document: serde_json::Value = serde_json::from_str(&body).unwrap();
                if document["gap"] == true {
                    heard.push("gap".to_owned());
                }
                let messages = document["messages"].as_array().unwrap();
                heard.extend(messages.iter().map(|message| meta(&message.to_string())));
                query = format!("since={}", document["next"].as_str().unwrap());
            }
        }
    }
    heard
}

/// How many listen to a channel, and where the order stands.
async fn look(server: &Server, channel: &str) -> (u64, String) {
    let document = server.document(&format!("/ch/{channel}")).await;
    let next = document["next"].as_str().unwrap().to_owned();
    (document["listeners"].as_u64().unwrap(), next)
}

async fn wait_for_listeners(server: &Server, channel: &str, count: u64) {
    let reached = async {
        while look(server, channel).await.0 != count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.unwrap();
}

/// Listens so, and publishes `live` as soon as somebody listens.
async fn hears_live(server: &Server, way: Way, channel: &str, query: &str, live: &str) -> Vec<String> {
    let path = format!("/ch/{channel}");
    wait_for_listeners(server, channel, 0).await;
    let (heard, _) = tokio::join!(hears(server, way, &path, query, live), async {
        wait_for_listeners(server, channel, 1).await;
        server.publish(&path, live).await
    });
    heard
}

#[tokio::test]
async fn who_comes_back_gets_what_it_missed_and_then_what_comes() {
    let server = Server::start(&[]);
    let mut ids = Vec::new();
    for message in ["1", "2", "3"] {
        ids.push(server.publish("/ch/a", message).await);
        server.publish("/ch/elsewhere", "x").await;
    }
    for way in WAYS {
        let cases = [
            (format!("since={}", ids[0]), vec!["2", "3"]),
            (format!("since={}&last=1", ids[0]), vec!["2", "3"]),
            ("last=2".to_owned(), vec!["2", "3"]),
            ("last=9".to_owned(), vec!["1", "2", "3"]),
        ];
        for (query, expected) in cases {
            assert_eq!(
                hears(&server, way, "/ch/a", &query, "3").await,
                expected,
                "{way:?} {query}"
            );
        }
    }
    for (way, live) in WAYS.into_iter().zip(["4", "5", "6", "7", "8"]) {
        let (_, now) = look(&server, "a").await;
        let heard = hears_live(&server, way, "a", &format!("since={now}"), live).await;
        assert_eq!(heard, [live], "{way:?}");
    }
    assert_eq!(server.metric("fanfare_gaps_total").await, 0);
}

#[tokio::test]
async fn what_is_no_longer_kept_is_a_gap_for_each_way_to_listen() {
    let server = Server::start(&[("FANFARE_HISTORY_PUBLICATIONS", "2")]);
    let first = server.publish("/ch/a", "1").await;
    let mut second = String::new();
    for message in ["2", "3", "4"] {
        let id = server.publish("/ch/a", message).await;
        if message == "2" {
            second = id;
        }
    }
    for since in [&first, "another-server", "0-0", "zzzzzzzz-99"] {
        let query = format!("since={since}");
        for way in WAYS {
            let expected = match way {
                // It has no form for a gap but its end.
                Way::WebSocketRaw => vec!["closed 4416"],
                _ => vec!["gap", "live"],
            };
            let heard = match way {
                Way::WebSocketRaw => hears(&server, way, "/ch/a", &query, "live").await,
                // The first answer says the gap, and only the second waits.
                Way::Poll => {
                    let heard = hears(&server, way, "/ch/a", &query, "gap").await;
                    [heard, vec!["live".to_owned()]].concat()
                }
                _ => hears_live(&server, way, "a", &query, "live").await,
            };
            assert_eq!(heard, expected, "{way:?} {query}");
            let kept = format!("since={second}");
            if way == Way::WebSocketRaw && since == first {
                assert_eq!(hears(&server, way, "/ch/a", &kept, "4").await, ["3", "4"]);
            }
        }
    }
}

#[tokio::test]
async fn a_gap_says_from_where_to_go_on() {
    let server = Server::start(&[("FANFARE_HISTORY_PUBLICATIONS", "1")]);
    for message in ["1", "2", "3"] {
        server.publish("/ch/a", message).await;
    }
    let (_, now) = look(&server, "a").await;
    let mut websocket = server.websocket("/ch/a?meta=1&since=0-0").await;
    let told = websocket.hear().await;
    assert_eq!(
        told,
        text(&format!(r#"{{"event":"gap","channel":"a","id":"{now}"}}"#))
    );
    let mut stream = server.stream("/ch/a", "Last-Event-ID: 0-0\r\n").await;
    assert_eq!(
        stream.event().await,
        format!("id: {now}\nevent: gap\ndata: {{\"channel\":\"a\"}}\n\n")
    );
    // A browser comes back to the same URL: what it says it has seen counts more than that.
    let field = format!("Last-Event-ID: {now}\r\n");
    let mut both = server.stream("/ch/a?since=0-0", &field).await;
    server.publish("/ch/a", "4").await;
    assert!(both.event().await.ends_with("data: 4\n\n"));
}

/// Whoever listens may come back before the first message, or to a channel that was quiet for long
/// while others were not.
#[tokio::test]
async fn a_quiet_stream_says_where_it_stands() {
    let server = Server::start(&[("FANFARE_SESSIONS_PING_INTERVAL", "1s")]);
    server.publish("/ch/a", "1").await;
    let mut stream = server.stream("/ch/a", "").await;
    let (_, now) = look(&server, "a").await;
    assert_eq!(stream.block_with("id: ").await, format!("id: {now}\n\n"));
    let elsewhere = server.publish("/ch/elsewhere", "x").await;
    stream.block_with(&format!("id: {elsewhere}\n\n")).await;
    let mut open = server.websocket("/ch/a?meta=1&open=1").await;
    let told = open.hear().await;
    assert_eq!(told, text(&format!(r#"{{"event":"open","id":"{elsewhere}"}}"#)));
}

#[tokio::test]
async fn announcements_and_several_channels_come_in_one_order() {
    let server = Server::start(&[]);
    let (_, start) = look(&server, "a").await;
    for (path, message) in [
        ("/ch/a", "1"),
        ("/ch/*", "2"),
        ("/ch/b", "3"),
        ("/ch?name=a&name=b", "4"),
        ("/ch/c", "x"),
        ("/ch/b", "5"),
    ] {
        server.publish(path, message).await;
    }
    for way in [Way::WebSocketMeta, Way::StreamMeta, Way::Poll] {
        let query = format!("name=b&name=a&since={start}");
        let heard = hears(&server, way, "/ch", &query, "5").await;
        assert_eq!(heard, ["1", "2", "3", "4", "5"], "{way:?}");
        let newest = hears(&server, way, "/ch", "name=b&name=a&last=3", "5").await;
        assert_eq!(newest, ["3", "4", "5"], "{way:?}");
    }
}

#[tokio::test]
async fn who_spoke_does_not_hear_it_when_it_comes_back_either() {
    const ONE: &str = "session=00000000-0000-0000-0000-000000000001";
    const TWO: &str = "session=00000000-0000-0000-0000-000000000002";
    let server = Server::start(&[]);
    let (_, start) = look(&server, "main").await;
    let mut one = server.websocket(&format!("/?meta=1&{ONE}")).await;
    one.say("of one").await;
    let mut two = server.websocket(&format!("/?meta=1&{TWO}&since={start}")).await;
    assert!(matches!(two.hear().await, Said::Text(text) if text.contains("of one")));
    two.say("of two").await;
    assert!(matches!(one.hear().await, Said::Text(text) if text.contains("of two")));
    // By POST too, where whoever posts listens elsewhere.
    server.publish(&format!("/ch/main?{ONE}"), "posted by one").await;
    server.publish("/ch/main", "end").await;
    for way in WAYS {
        let listen = |who: &str| format!("since={start}&{who}");
        let heard = hears(&server, way, "/ch/main", &listen(ONE), "end").await;
        assert_eq!(heard, ["of two", "end"], "{way:?}");
        let heard = hears(&server, way, "/ch/main", &listen(TWO), "end").await;
        assert_eq!(heard, ["of one", "posted by one", "end"], "{way:?}");
        let heard = hears(
            &server,
            way,
            "/ch/main",
            &listen("echo=1&session=00000000000000000000000000000001"),
            "end",
        )
        .await;
        assert_eq!(heard, ["of one", "of two", "posted by one", "end"], "{way:?}");
    }
    // Who wants its echo hears it live too.
    let mut echo = server.websocket(&format!("/?echo=1&{ONE}")).await;
    server.publish(&format!("/ch/talk%2Fx?{ONE}"), "elsewhere").await;
    server.publish(&format!("/ch/main?{ONE}"), "echo").await;
    assert_eq!(echo.hear().await, text("echo"));
}

#[tokio::test]
async fn what_is_kept_is_bounded_by_number_bytes_and_rules() {
    let rules = r#"[{ channels = "none/*", history_publications = 0 }, { channels = "small/*", history_bytes = 2000 }]"#;
    let server = Server::start(&[
        ("FANFARE_HISTORY_PUBLICATIONS", "3"),
        ("FANFARE_HISTORY_BYTES_MAX", "20000"),
        ("FANFARE_CHANNELS_RULES", rules),
    ]);
    let kept = async |channel: &str| {
        let (_, _, body) = server
            .request("GET", &format!("/ch/{channel}?last=99"), "", b"")
            .await;
        let document: serde_json::Value = serde_json::from_str(&body).unwrap();
        document["messages"].as_array().unwrap().len()
    };
    for channel in ["a", "none/a", "small/a"] {
        for _ in 0..5 {
            server.publish(&format!("/ch/{channel}"), &"x".repeat(600)).await;
        }
    }
    // 2,000 bytes hold two of 600 + 384.
    assert_eq!(
        (kept("a").await, kept("none/a").await, kept("small/a").await),
        (3, 0, 2)
    );
    assert_eq!(server.metric("fanfare_history_publications").await, 5);
    assert_eq!(server.metric("fanfare_history_bytes").await, 5 * 984);
    // 20,000 bytes in all: the oldest go, whatever their channel.
    server.publish("/ch/b", &"x".repeat(18_000)).await;
    assert_eq!(
        (kept("a").await, kept("small/a").await, kept("b").await),
        (0, 1, 1)
    );
    assert_eq!(server.metric("fanfare_history_evicted_total").await, 4);
}

#[tokio::test]
async fn more_than_an_outbox_holds_is_a_gap() {
    let server = Server::start(&[("FANFARE_LIMITS_OUTBOX_BYTES_MAX", "70000")]);
    let (_, start) = look(&server, "a").await;
    let messages: Vec<String> = (0..4).map(|n| format!("{n}{}", "x".repeat(10_000))).collect();
    for message in &messages {
        server.publish("/ch/a", message).await;
    }
    let heard = hears(
        &server,
        Way::WebSocketMeta,
        "/ch/a",
        &format!("since={start}"),
        "gap",
    )
    .await;
    assert_eq!(heard, ["gap"]);
    let heard = hears(&server, Way::StreamRaw, "/ch/a", "last=3", &messages[3]).await;
    assert!(heard == messages[1..]);
}

#[tokio::test]
async fn another_life_of_the_server_is_a_gap() {
    let server = Server::start(&[]);
    let id = server.publish("/ch/a", "1").await;
    drop(server);
    let server = Server::start(&[]);
    server.publish("/ch/a", "2").await;
    let heard = hears(&server, Way::StreamRaw, "/ch/a", &format!("since={id}"), "gap").await;
    assert_eq!(heard, ["gap"]);
}

#[tokio::test]
async fn a_long_poll_waits_for_news_and_not_for_ever() {
    let server = Server::start(&[("FANFARE_SESSIONS_POLL_WAIT", "1s")]);
    let (_, start) = look(&server, "a").await;
    let ask = async |query: &str| {
        let (status, _, body) = server.request("GET", &format!("/ch/a?{query}"), "", b"").await;
        (status, body)
    };
    let nothing = format!(r#"{{"channel":"a","listeners":0,"next":"{start}","messages":[]}}"#);
    // Waiting is for who has said what it saw last.
    assert_eq!(ask("").await, (200, format!("{nothing}\n")));
    assert_eq!(
        ask(&format!("since={start}&wait=0")).await,
        (200, format!("{nothing}\n"))
    );
    let waited = std::time::Instant::now();
    assert_eq!(
        ask(&format!("since={start}")).await,
        (200, format!("{nothing}\n"))
    );
    assert!(
        waited.elapsed() >= std::time::Duration::from_secs(1),
        "it did not wait"
    );
    // What is for others wakes nobody for good: the answer has what is for this listener, and is one.
    let since = format!("since={start}&session=00000000000000000000000000000001");
    let (answer, id) = tokio::join!(ask(&since), async {
        wait_for_listeners(&server, "a", 1).await;
        server
            .publish("/ch/a?session=00000000000000000000000000000001", "mine")
            .await;
        server.publish("/ch/a", "yours").await
    });
    let document: serde_json::Value = serde_json::from_str(&answer.1).unwrap();
    assert_eq!(document["next"], id.as_str());
    assert_eq!(document["messages"][0]["data"], "yours");
    assert_eq!(document["messages"].as_array().unwrap().len(), 1);
    wait_for_listeners(&server, "a", 0).await;
    assert_eq!(
        server.metric("fanfare_sessions{transport=\"long_poll\"}").await,
        0
    );
}

#[tokio::test]
async fn a_poll_that_waits_is_answered_when_the_server_stops() {
    let server = Server::start(&[]);
    let (_, start) = look(&server, "a").await;
    let path = format!("/ch/a?since={start}");
    let (answer, ()) = tokio::join!(server.request("GET", &path, "", b""), async {
        wait_for_listeners(&server, "a", 1).await;
        server.terminate();
    });
    assert_eq!(
        (answer.0, answer.2.contains("\"messages\":[]")),
        (200, true),
        "{answer:?}"
    );
    assert!(server.wait().0.success());
}
