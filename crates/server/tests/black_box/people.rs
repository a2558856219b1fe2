//! The back end speaks to a person, not to a connection: on all her tabs and transports at once.

use crate::support::token::token;
use crate::support::{KEY, PATIENCE, Peer, Said, Server, bearer, text};
use serde_json::{Value, json};

fn start(settings: &[(&str, &str)]) -> Server {
    Server::start(&[&[("FANFARE_KEY", KEY)], settings].concat())
}

/// Status and answer of a request by the back end.
async fn ask(server: &Server, method: &str, path: &str, body: &str) -> (u16, Value) {
    let (status, _, answer) = server.request(method, path, &bearer(KEY), body.as_bytes()).await;
    (status, serde_json::from_str(&answer).unwrap_or(Value::Null))
}

/// Asks about a user until this is so.
async fn wait_for(server: &Server, user: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let asking = async {
        loop {
            let (_, answer) = ask(server, "GET", &format!("/user/{user}"), "").await;
            if is_so(&answer) {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap()
}

fn has(connections: u64) -> impl Fn(&Value) -> bool {
    move |answer| answer["connections"] == connections
}

#[tokio::test]
async fn a_message_to_a_person_reaches_all_her_connections_whatever_they_listen_to() {
    let server = start(&[]);
    let (anna, ben) = (token(json!({"sub": "anna"})), token(json!({"sub": "ben"})));
    let mut tab = server.websocket(&format!("/ch/orders?token={anna}")).await;
    let mut meta = server.websocket(&format!("/ch/stock?meta=1&token={anna}")).await;
    let mut stream = server.stream(&format!("/ch/news?token={anna}"), "").await;
    let mut other = server.websocket(&format!("/ch/orders?token={ben}")).await;
    let mut nobody = server.websocket("/ch/orders").await;
    wait_for(&server, "anna", has(3)).await;
    let (status, answer) = ask(&server, "POST", "/user/anna?event=paid", "order 7").await;
    assert_eq!((status, &answer["connections"]), (200, &json!(3)));
    assert_eq!(tab.hear().await, text("order 7"));
    let Said::Text(heard) = meta.hear().await else {
        panic!()
    };
    let heard: Value = serde_json::from_str(&heard).unwrap();
    let expected = json!({"id": answer["id"], "channel": "user/anna", "event": "paid", "data": "order 7"});
    assert_eq!(heard, expected);
    assert!(stream.event().await.ends_with("event: paid\ndata: order 7\n\n"));
    // In a batch too; and the others hear nothing of it.
    let batch = "{\"user\":\"ben\",\"data\":\"for ben\"}\n{\"channel\":\"orders\",\"data\":\"for all\"}";
    let fields = format!("{}Content-Type: application/x-ndjson\r\n", bearer(KEY));
    assert_eq!(
        server.request("POST", "/ch", &fields, batch.as_bytes()).await.0,
        200
    );
    assert_eq!(other.hear().await, text("for ben"));
    for peer in [&mut tab, &mut other, &mut nobody] {
        assert_eq!(peer.hear().await, text("for all"));
    }
    // Nobody is there: ordered and kept nevertheless, for when she comes.
    let (status, answer) = ask(&server, "POST", "/user/carla", "welcome").await;
    assert_eq!((status, &answer["connections"]), (200, &json!(0)));
    let carla = token(json!({"sub": "carla"}));
    let mut late = server
        .websocket(&format!("/ch/user%2Fcarla?last=1&token={carla}"))
        .await;
    assert_eq!(late.hear().await, text("welcome"));
}

#[tokio::test]
async fn what_a_person_missed_belongs_to_what_she_resumes() {
    let server = start(&[]);
    let anna = token(json!({"sub": "anna"}));
    let (_, document) = ask(&server, "GET", "/ch/orders", "").await;
    let start = document["next"].as_str().unwrap();
    ask(&server, "POST", "/user/anna", "for anna").await;
    ask(&server, "POST", "/ch/orders?except=anna", "not for anna").await;
    ask(&server, "POST", "/ch/orders", "for all").await;
    let query = format!("since={start}&token={anna}");
    let mut tab = server.websocket(&format!("/ch/orders?{query}")).await;
    assert_eq!(tab.hear().await, text("for anna"));
    assert_eq!(tab.hear().await, text("for all"));
    let (_, _, answer) = server
        .request("GET", &format!("/ch/orders?{query}"), "", b"")
        .await;
    let document: Value = serde_json::from_str(&answer).unwrap();
    let data: Vec<&str> = document["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["data"].as_str().unwrap())
        .collect();
    assert_eq!(data, ["for anna", "for all"]);
    // Somebody else gets nothing of hers.
    let mut other = server.websocket(&format!("/ch/orders?since={start}")).await;
    assert_eq!(other.hear().await, text("not for anna"));
    // Live as well.
    ask(&server, "POST", "/ch/orders?except=anna", "again not for anna").await;
    ask(&server, "POST", "/ch/orders", "end").await;
    assert_eq!(tab.hear().await, text("end"));
}

#[tokio::test]
async fn who_is_online_and_since_when() {
    let server = start(&[("FANFARE_SESSIONS_USER_GRACE", "1s")]);
    let anna = token(json!({"sub": "anna"}));
    let offline = json!({"user": "anna", "online": false, "connections": 0});
    assert_eq!(
        ask(&server, "GET", "/user/anna", "").await,
        (200, offline.clone())
    );
    let tab = server.websocket(&format!("/ch/a?token={anna}")).await;
    let second = server.stream(&format!("/ch/b?token={anna}"), "").await;
    let answer = wait_for(&server, "anna", has(2)).await;
    assert_eq!(answer["online"], true);
    let since = answer["since"].as_str().unwrap();
    assert!(
        since.len() == 20 && since.starts_with("20") && since.ends_with('Z'),
        "{since}"
    );
    let (_, both) = ask(&server, "GET", "/user?id=anna&id=ben", "").await;
    assert_eq!(both["users"][0], answer);
    assert_eq!(
        both["users"][1],
        json!({"user": "ben", "online": false, "connections": 0})
    );
    let mut admin = Peer::to(&server.admin_address()).await;
    let (_, _, metrics) = admin.request("GET", "/metrics", "", b"").await;
    assert!(metrics.contains("\nfanfare_users 1\n"), "{metrics}");
    drop(tab);
    wait_for(&server, "anna", has(1)).await;
    drop(second);
    // Gone, and online for a moment longer: a reload makes no noise.
    let leaving = wait_for(&server, "anna", has(0)).await;
    if leaving["online"] == true {
        assert_eq!(leaving["since"], since);
    }
    wait_for(&server, "anna", |answer| *answer == offline).await;
}

#[tokio::test]
async fn a_person_can_be_sent_away_from_all_her_tabs_or_from_one() {
    let server = start(&[]);
    let anna = token(json!({"sub": "anna"}));
    let session = "00000000000000000000000000000001";
    let mut one = server
        .websocket(&format!("/ch/a?session={session}&token={anna}"))
        .await;
    let mut two = server.websocket(&format!("/ch/b?token={anna}")).await;
    let mut stream = server.stream(&format!("/ch/c?token={anna}"), "").await;
    let mut other = server
        .websocket(&format!("/ch/a?token={}", token(json!({"sub": "ben"}))))
        .await;
    wait_for(&server, "anna", has(3)).await;
    // 1 as 22 letters and digits, as sessions stand in the log.
    let path = "/user/anna?connection=0000000000000000000001";
    assert_eq!(
        ask(&server, "DELETE", path, "").await,
        (200, json!({"connections": 1}))
    );
    assert!(matches!(one.hear().await, Said::Close(4403, reason) if reason.contains("back end")));
    assert_eq!(
        ask(&server, "DELETE", "/user/anna", "").await,
        (200, json!({"connections": 2}))
    );
    assert!(matches!(two.hear().await, Said::Close(4403, _)));
    while stream.more().await {}
    assert_eq!(
        ask(&server, "DELETE", "/user/anna", "").await,
        (200, json!({"connections": 0}))
    );
    ask(&server, "POST", "/ch/a", "still here").await;
    assert_eq!(other.hear().await, text("still here"));
}

#[tokio::test]
async fn a_person_can_be_put_into_a_channel_and_taken_out_again() {
    let server = start(&[("FANFARE_LIMITS_SUBSCRIPTIONS_MAX", "3")]);
    let anna = token(json!({"sub": "anna"}));
    let mut tab = server.websocket(&format!("/ch/lobby?meta=1&token={anna}")).await;
    let mut stream = server.stream(&format!("/ch/lobby?token={anna}"), "").await;
    wait_for(&server, "anna", has(2)).await;
    let put = async |method: &str, path: &str| ask(&server, method, path, "").await;
    assert_eq!(
        put("PUT", "/ch/private%2F7/user/anna").await,
        (200, json!({"connections": 2}))
    );
    // In effect when it is answered.
    ask(&server, "POST", "/ch/private%2F7", "hello").await;
    assert!(matches!(tab.hear().await, Said::Text(heard) if heard.contains("\"channel\":\"private/7\"")));
    assert!(stream.event().await.ends_with("data: hello\n\n"));
    let (_, document) = ask(&server, "GET", "/ch/private%2F7?users=1", "").await;
    assert_eq!(
        (&document["listeners"], &document["users"]),
        (&json!(2), &json!(["anna"]))
    );
    // Twice is once; more channels than a connection may have are not joined.
    assert_eq!(
        put("PUT", "/ch/private%2F7/user/anna").await,
        (200, json!({"connections": 2}))
    );
    assert_eq!(
        put("PUT", "/ch/one-too-many/user/anna").await,
        (200, json!({"connections": 0}))
    );
    assert_eq!(
        put("PUT", "/ch/x/user/nobody").await,
        (200, json!({"connections": 0}))
    );
    assert_eq!(
        put("DELETE", "/ch/private%2F7/user/anna").await,
        (200, json!({"connections": 2}))
    );
    ask(&server, "POST", "/ch/private%2F7", "not for her any more").await;
    ask(&server, "POST", "/ch/lobby", "end").await;
    assert!(matches!(tab.hear().await, Said::Text(heard) if heard.contains("\"data\":\"end\"")));
    drop((tab, stream));
    wait_for(&server, "anna", has(0)).await;
    let (_, document) = ask(&server, "GET", "/ch/lobby?users=1", "").await;
    assert_eq!(
        (&document["listeners"], &document["users"]),
        (&json!(0), &json!([]))
    );
}

#[tokio::test]
async fn a_deleted_channel_is_empty_and_its_listeners_are_told() {
    let server = start(&[]);
    let mut tab = server.websocket("/ch/a").await;
    let mut stream = server.stream("/ch/a", "").await;
    let mut other = server.websocket("/ch/b").await;
    let (_, first) = ask(&server, "POST", "/ch/a", "1").await;
    assert_eq!(tab.hear().await, text("1"));
    stream.event().await;
    assert_eq!(
        ask(&server, "DELETE", "/ch/a", "").await,
        (200, json!({"listeners": 2}))
    );
    assert!(matches!(tab.hear().await, Said::Close(4410, _)));
    while stream.more().await {}
    let (_, document) = ask(&server, "GET", "/ch/a?last=9", "").await;
    assert_eq!(
        (&document["listeners"], &document["messages"]),
        (&json!(0), &json!([]))
    );
    // Who had seen all lacks nothing; the channel goes on.
    let id = first["id"].as_str().unwrap();
    let mut back = server.websocket(&format!("/ch/a?since={id}")).await;
    ask(&server, "POST", "/ch?name=a&name=b", "2").await;
    assert_eq!(back.hear().await, text("2"));
    assert_eq!(other.hear().await, text("2"));
}

#[tokio::test]
async fn one_device_per_person_if_that_is_wanted() {
    let server = start(&[("FANFARE_LIMITS_CONNECTIONS_PER_USER", "1")]);
    let anna = token(json!({"sub": "anna"}));
    let mut old = server.websocket(&format!("/ch/a?token={anna}")).await;
    wait_for(&server, "anna", has(1)).await;
    let mut new = server.websocket(&format!("/ch/a?token={anna}")).await;
    assert!(matches!(old.hear().await, Said::Close(4403, reason) if reason.contains("connections_per_user")));
    wait_for(&server, "anna", has(1)).await;
    ask(&server, "POST", "/user/anna", "hello").await;
    assert_eq!(new.hear().await, text("hello"));
}

/// Method, path, what stands in the request: the status.
#[tokio::test]
async fn people_are_for_the_back_end() {
    let server = start(&[
        ("FANFARE_CHANNELS_PRESENCE", "lobby"),
        ("FANFARE_CHANNELS_PRIVATE", "secret/*"),
    ]);
    let anna = bearer(&token(json!({"sub": "anna"})));
    let all = bearer(&token(json!({"sub": "ben", "listen": ["*"], "speak": ["*"]})));
    let key = bearer(KEY);
    for (method, path, fields, expected) in [
        ("GET", "/user/anna", "", 403),
        ("GET", "/user/anna", &*anna, 403),
        ("GET", "/user/anna", &all, 403),
        ("GET", "/user/anna", &key, 200),
        ("GET", "/user?id=anna", &anna, 403),
        ("POST", "/user/anna", "", 403),
        ("POST", "/user/anna", &anna, 403),
        ("DELETE", "/user/anna", &anna, 403),
        ("DELETE", "/user/anna", "", 403),
        ("PUT", "/ch/lobby/user/anna", &anna, 403),
        ("DELETE", "/ch/lobby/user/anna", &all, 403),
        ("DELETE", "/ch/lobby", &all, 403),
        ("DELETE", "/ch/lobby", "", 403),
        ("DELETE", "/ch/*", &key, 405),
        ("PUT", "/ch/lobby", &key, 405),
        ("PUT", "/user/anna", &key, 405),
        ("POST", "/user?id=anna", &key, 405),
        ("GET", "/user", &key, 400),
        ("GET", "/user/%00", &key, 400),
        ("GET", "/ch/lobby?users=1", "", 200),
        ("GET", "/ch/orders?users=1", "", 403),
        ("GET", "/ch/orders?users=1", &key, 200),
        // Her own channel is private whatever the settings say.
        ("GET", "/ch/user%2Fanna", "", 401),
        ("GET", "/ch/user%2Fanna", &anna, 200),
        ("GET", "/ch/user%2Fben", &anna, 403),
    ] {
        let (status, _, answer) = server.request(method, path, fields, b"").await;
        assert_eq!(status, expected, "{method} {path} with {fields:?}: {answer}");
    }
}
