//! The back end of an app is told what happens to its channels: each thing once, in order, whatever fails.
//!
//! What must not come is shown by something later that does: events of an app come in one order.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::net::TcpSocket;

use crate::support::back_end::{BackEnd, Question};
use crate::support::pusher::{APP, App, OTHER_APP, Session};
use crate::support::{Server, command};

/// Time for which who has gone may come back, where that is not what a test is about.
const SOON: (&str, &str) = ("FANFARE_PUSHER_WEBHOOK_DELAY", "50ms");
const NEAR: (&str, &str) = ("FANFARE_PUSHER_WEBHOOK_PRIVATE_NETWORKS", "true");
const HURRIED: (&str, &str) = ("FANFARE_PUSHER_WEBHOOK_RETRY_PAUSE", "10ms");

/// A server whose app tells these URLs, each with more settings of its webhook; and has more of its own.
fn start(webhooks: &[(&BackEnd, &str)], more: &str, settings: &[(&str, &str)]) -> Server {
    let webhooks: Vec<String> = webhooks
        .iter()
        .map(|(back_end, more)| format!("{{ url = \"{}\"{more} }}", back_end.url("/hook?a=b")))
        .collect();
    let app = format!("webhooks = [{}]{more}", webhooks.join(", "));
    APP.server(&app, &[&[NEAR, SOON], settings].concat())
}

fn events(question: &Question) -> Vec<Value> {
    question.json()["events"].as_array().unwrap().clone()
}

/// The next events, which are taken.
pub(crate) async fn told(back_end: &mut BackEnd) -> Vec<Value> {
    let question = back_end.asked().await;
    let events = events(&question);
    question.answer(200, "");
    events
}

/// What is told next, in as many requests as it comes; exactly these.
#[track_caller]
pub(crate) fn told_are(back_end: &mut BackEnd, expected: Vec<Value>) -> impl Future<Output = ()> + '_ {
    let caller = std::panic::Location::caller();
    async move {
        let mut all = Vec::new();
        while all.len() < expected.len() {
            all.extend(told(back_end).await);
        }
        assert_eq!(all, expected, "{caller}");
    }
}

fn of(name: &str, channel: &str) -> Value {
    json!({"name": name, "channel": channel})
}

pub(crate) fn occupied(channel: &str) -> Value {
    of("channel_occupied", channel)
}

pub(crate) fn vacated(channel: &str) -> Value {
    of("channel_vacated", channel)
}

fn member(name: &str, channel: &str, user: &str) -> Value {
    json!({"name": name, "channel": channel, "user_id": user})
}

/// Asks again and again until a metric has reached a value.
pub(crate) async fn wait_for(server: &Server, name: &str, value: u64) {
    server.wait_for_admin_count(name, |now| now >= value).await;
}

pub(crate) const FAILED: &str = "fanfare_webhook_requests_total{outcome=\"failed\"}";
pub(crate) const WAITING: &str = "fanfare_webhook_events_waiting";

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

fn is_signed(question: &Question, app: App) -> bool {
    let signature = app.sign(question.text.as_bytes());
    question.field("x-pusher-key") == Some(app.key)
        && question.field("x-pusher-signature") == Some(&signature)
}

#[tokio::test]
async fn a_request_is_as_the_libraries_check_it() {
    let mut back_end = BackEnd::start().await;
    let headers = ", headers = { Authorization = \"Bearer x\", X-Tenant = \"7\" }";
    let server = start(&[(&back_end, headers)], "", &[]);
    let begun = now_ms();
    let mut anna = Session::connect(&server, APP).await;
    anna.subscribe("private-orders.42").await;
    let question = back_end.asked().await;
    assert_eq!(question.line, "POST /hook?a=b");
    // One library compares the whole value, another one looks for names in this spelling.
    assert!(
        question.head.contains("\r\nX-Pusher-Key: ") && question.head.contains("\r\nX-Pusher-Signature: ")
    );
    assert_eq!(question.field("content-type"), Some("application/json"));
    assert_eq!(question.field("authorization"), Some("Bearer x"));
    assert_eq!(question.field("x-tenant"), Some("7"));
    assert!(is_signed(&question, APP) && !is_signed(&question, OTHER_APP));
    let body = question.json();
    assert_eq!(body["events"], json!([occupied("private-orders.42")]));
    let time = body["time_ms"].as_u64().unwrap();
    assert!((begun..=now_ms()).contains(&time), "{time}");
    assert_eq!(body.as_object().unwrap().len(), 2);
    question.answer(200, "");
    assert_eq!(server.admin_count(FAILED).await, 0);
}

#[tokio::test]
async fn a_channel_is_occupied_over_all_doors() {
    let mut back_end = BackEnd::start().await;
    let server = start(&[(&back_end, "")], "", &[]);
    let mut anna = Session::connect(&server, APP).await;
    anna.subscribe("orders").await;
    let plain = server.websocket("/ch/orders").await;
    let mut ben = Session::connect(&server, APP).await;
    ben.subscribe("orders").await;
    anna.unsubscribe("orders").await;
    drop(ben);
    // What is said to one user is no channel that a back end is told of.
    anna.sign_in("anna").await;
    anna.subscribe("#server-to-user-anna").await;
    anna.subscribe("fence").await;
    told_are(&mut back_end, vec![occupied("orders"), occupied("fence")]).await;
    drop(plain);
    told_are(&mut back_end, vec![vacated("orders")]).await;
    drop(anna);
    told_are(&mut back_end, vec![vacated("fence")]).await;
    server.wait_for_admin_count(WAITING, |waiting| waiting == 0).await;
    assert_eq!(server.admin_count("fanfare_webhook_leaving").await, 0);
}

#[tokio::test]
async fn members_are_users_and_not_connections() {
    let mut back_end = BackEnd::start().await;
    let server = start(&[(&back_end, "")], "", &[]);
    let room = "presence-room.3";
    let mut anna = Session::connect(&server, APP).await;
    anna.join(room, "anna").await;
    let mut tab = Session::connect(&server, APP).await;
    tab.join(room, "anna").await;
    let mut ben = Session::connect(&server, APP).await;
    ben.join(room, "ben").await;
    let added = |user| member("member_added", room, user);
    let removed = |user| member("member_removed", room, user);
    told_are(&mut back_end, vec![occupied(room), added("anna"), added("ben")]).await;
    tab.unsubscribe(room).await;
    tab.settled().await;
    ben.unsubscribe(room).await;
    told_are(&mut back_end, vec![removed("ben")]).await;
    // The last one goes with her connection, and before the channel does.
    drop(anna);
    told_are(&mut back_end, vec![removed("anna"), vacated(room)]).await;
    tab.join(room, "carl").await;
    told_are(&mut back_end, vec![occupied(room), added("carl")]).await;
}

#[tokio::test]
async fn who_comes_back_in_time_has_never_been_away() {
    let mut back_end = BackEnd::start().await;
    // Long enough to come back in on a busy machine.
    let long = ("FANFARE_PUSHER_WEBHOOK_DELAY", "3s");
    let server = start(&[(&back_end, "")], "", &[long]);
    let room = "presence-room.3";
    let mut fence = Session::connect(&server, APP).await;
    fence.subscribe("fence").await;
    let mut anna = Session::connect(&server, APP).await;
    anna.join(room, "anna").await;
    let added = member("member_added", room, "anna");
    told_are(&mut back_end, vec![occupied("fence"), occupied(room), added]).await;
    for _ in 0..3 {
        anna.unsubscribe(room).await;
        anna.join(room, "anna").await;
    }
    // Whatever she had caused would come before this.
    fence.unsubscribe("fence").await;
    told_are(&mut back_end, vec![vacated("fence")]).await;
    drop(anna);
    let removed = member("member_removed", room, "anna");
    told_are(&mut back_end, vec![removed, vacated(room)]).await;
}

#[tokio::test]
async fn what_clients_say_is_told_to_who_wants_it() {
    let mut wants = BackEnd::start().await;
    let mut default = BackEnd::start().await;
    let server = start(
        &[(&wants, ", events = [\"client_event\"]"), (&default, "")],
        "",
        &[],
    );
    let mut anna = Session::connect(&server, APP).await;
    anna.join("presence-room", "anna").await;
    let mut ben = Session::connect(&server, APP).await;
    ben.subscribe("private-room").await;
    anna.client_event("presence-room", "client-typing", json!({"on": true}))
        .await;
    anna.settled().await;
    ben.client_event("private-room", "client-text", json!("hello"))
        .await;
    ben.settled().await;
    // The back end's own words are none, whatever it calls them.
    APP.trigger(&server, "private-room", "client-text", "from the back end")
        .await;
    // Nor what is refused.
    ben.client_event("private-elsewhere", "client-text", json!("hello"))
        .await;
    ben.settled().await;
    anna.client_event("presence-room", "client-typing", json!(null))
        .await;
    let said = |channel: &str, event: &str, data: &str, socket: &str| json!({"name": "client_event", "channel": channel, "event": event, "data": data, "socket_id": socket});
    let by_anna = |data: &str| {
        let mut event = said("presence-room", "client-typing", data, &anna.socket_id);
        event["user_id"] = json!("anna");
        event
    };
    // A value is its JSON text: typed libraries expect a string.
    let expected = vec![
        by_anna("{\"on\":true}"),
        said("private-room", "client-text", "hello", &ben.socket_id),
        by_anna("null"),
    ];
    told_are(&mut wants, expected).await;
    drop(ben);
    let expected = vec![
        occupied("presence-room"),
        member("member_added", "presence-room", "anna"),
        occupied("private-room"),
        vacated("private-room"),
    ];
    told_are(&mut default, expected).await;
}

#[tokio::test]
async fn a_cache_miss_is_told_once_per_empty_channel() {
    let mut back_end = BackEnd::start().await;
    let server = start(
        &[(&back_end, ", events = [\"cache_miss\", \"channel_vacated\"]")],
        "",
        &[],
    );
    let miss = |channel| of("cache_miss", channel);
    let mut anna = Session::connect(&server, APP).await;
    let mut ben = Session::connect(&server, APP).await;
    anna.subscribe("cache-price").await;
    anna.until("pusher:cache_miss").await;
    ben.subscribe("cache-price").await;
    ben.until("pusher:cache_miss").await;
    ben.subscribe("private-cache-price").await;
    told_are(
        &mut back_end,
        vec![miss("cache-price"), miss("private-cache-price")],
    )
    .await;
    APP.trigger(&server, "cache-price", "changed", "42").await;
    let mut carl = Session::connect(&server, APP).await;
    carl.subscribe("cache-price").await;
    carl.until("changed").await;
    carl.subscribe("cache-fence").await;
    told_are(&mut back_end, vec![miss("cache-fence")]).await;
    // When it was vacated meanwhile, it is told again.
    drop(carl);
    told_are(&mut back_end, vec![vacated("cache-fence")]).await;
    anna.subscribe("cache-fence").await;
    told_are(&mut back_end, vec![miss("cache-fence")]).await;
}

#[tokio::test]
async fn how_many_listen_is_told_to_who_wants_it() {
    let mut back_end = BackEnd::start().await;
    let server = start(&[(&back_end, ", events = [\"subscription_count\"]")], "", &[]);
    let count = |channel: &str, count: usize| json!({"name": "subscription_count", "channel": channel, "subscription_count": count});
    let mut anna = Session::connect(&server, APP).await;
    anna.subscribe("orders").await;
    let mut ben = Session::connect(&server, APP).await;
    ben.subscribe("orders").await;
    ben.join("presence-room", "ben").await;
    anna.unsubscribe("orders").await;
    anna.settled().await;
    drop(ben);
    let expected = [1, 2, 1, 0].map(|number| count("orders", number));
    told_are(&mut back_end, expected.to_vec()).await;
}

#[tokio::test]
async fn each_url_hears_what_it_wants() {
    let mut presence = BackEnd::start().await;
    let mut orders = BackEnd::start().await;
    let webhooks = [
        (
            &presence,
            ", channels = \"presence-*\", events = [\"member_added\", \"member_removed\"]",
        ),
        (&orders, ", channels = \"orders\""),
    ];
    let server = start(&webhooks, "", &[]);
    let mut anna = Session::connect(&server, APP).await;
    anna.subscribe("orders").await;
    anna.subscribe("orders.42").await;
    anna.join("presence-room", "anna").await;
    drop(anna);
    told_are(&mut orders, vec![occupied("orders"), vacated("orders")]).await;
    let member = |name| member(name, "presence-room", "anna");
    told_are(
        &mut presence,
        vec![member("member_added"), member("member_removed")],
    )
    .await;
}

#[tokio::test]
async fn who_was_down_hears_everything_in_order() {
    // The port is taken, and nobody listens there yet.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let url = format!("http://{}/hook", socket.local_addr().unwrap());
    let app = format!("webhooks = [{{ url = \"{url}\" }}]");
    let server = APP.server(&app, &[NEAR, SOON, HURRIED]);
    let mut anna = Session::connect(&server, APP).await;
    let mut expected = Vec::new();
    for number in 0..50 {
        let channel = format!("orders.{number}");
        anna.subscribe(&channel).await;
        expected.push(occupied(&channel));
    }
    wait_for(&server, FAILED, 3).await;
    assert_eq!(server.admin_count(WAITING).await, 50);
    let mut back_end = BackEnd::on(socket.listen(99).unwrap());
    told_are(&mut back_end, expected).await;
    anna.subscribe("last").await;
    told_are(&mut back_end, vec![occupied("last")]).await;
    server.wait_for_admin_count(WAITING, |waiting| waiting == 0).await;
    assert_eq!(server.admin_count("fanfare_webhook_events_sent_total").await, 51);
}

#[tokio::test]
async fn what_is_not_taken_comes_again_signed_anew() {
    let mut back_end = BackEnd::start().await;
    let mut elsewhere = BackEnd::start().await;
    let server = start(&[(&back_end, "")], "", &[HURRIED]);
    let mut anna = Session::connect(&server, APP).await;
    anna.subscribe("orders").await;
    let mut last = 0;
    for answer in [500, 404, 302, 503] {
        let question = back_end.asked().await;
        assert_eq!(events(&question), [occupied("orders")]);
        assert!(is_signed(&question, APP));
        let time = question.json()["time_ms"].as_u64().unwrap();
        assert!(time > last, "{time}");
        last = time;
        let location = format!("Location: {}\r\n", elsewhere.url("/hook"));
        question.answer_with(answer, &location, b"");
    }
    // The connection ends without an answer.
    drop(back_end.asked().await);
    let question = back_end.asked().await;
    assert!(question.json()["time_ms"].as_u64().unwrap() > last);
    // Whatever else the answer says.
    question.answer(299, &"x".repeat(100_000));
    anna.subscribe("fence").await;
    told_are(&mut back_end, vec![occupied("fence")]).await;
    assert_eq!(server.admin_count(FAILED).await, 5);
    // A redirect is followed nowhere.
    let nothing = elsewhere.asked_ever();
    assert!(futures_util::FutureExt::now_or_never(nothing).is_none());
}

#[tokio::test]
async fn what_comes_meanwhile_goes_together() {
    let mut back_end = BackEnd::start().await;
    let server = start(
        &[(&back_end, "")],
        "",
        &[("FANFARE_PUSHER_WEBHOOK_BATCH_MAX", "3")],
    );
    let mut anna = Session::connect(&server, APP).await;
    anna.subscribe("orders.0").await;
    let first = back_end.asked().await;
    for number in 1..8 {
        anna.subscribe(&format!("orders.{number}")).await;
    }
    assert_eq!(events(&first), [occupied("orders.0")]);
    first.answer(204, "");
    let mut sizes = Vec::new();
    let mut all = Vec::new();
    while all.len() < 7 {
        let events = told(&mut back_end).await;
        sizes.push(events.len());
        all.extend(events);
    }
    let expected: Vec<Value> = (1..8)
        .map(|number| occupied(&format!("orders.{number}")))
        .collect();
    assert_eq!((sizes, all), (vec![3, 3, 1], expected));
}

#[tokio::test]
async fn no_url_holds_up_another() {
    let mut silent = BackEnd::start().await;
    let mut good = BackEnd::start().await;
    let server = start(&[(&silent, ""), (&good, "")], "", &[]);
    let mut anna = Session::connect(&server, APP).await;
    anna.subscribe("orders.0").await;
    told_are(&mut good, vec![occupied("orders.0")]).await;
    let unanswered = silent.asked().await;
    for number in 1..5 {
        let channel = format!("orders.{number}");
        anna.subscribe(&channel).await;
        told_are(&mut good, vec![occupied(&channel)]).await;
    }
    unanswered.answer(200, "");
    let expected = (1..5).map(|number| occupied(&format!("orders.{number}")));
    told_are(&mut silent, expected.collect()).await;
}

#[tokio::test]
async fn at_the_limit_the_oldest_go() {
    let mut back_end = BackEnd::start().await;
    let server = start(
        &[(&back_end, "")],
        "",
        &[("FANFARE_PUSHER_WEBHOOK_QUEUE_MAX", "3")],
    );
    let mut anna = Session::connect(&server, APP).await;
    anna.subscribe("orders.0").await;
    let first = back_end.asked().await;
    for number in 1..6 {
        anna.subscribe(&format!("orders.{number}")).await;
    }
    // What is under way arrives nevertheless.
    first.answer(200, "");
    let expected = (3..6).map(|number| occupied(&format!("orders.{number}")));
    told_are(&mut back_end, expected.collect()).await;
    wait_for(
        &server,
        "fanfare_webhook_events_dropped_total{cause=\"limit\"}",
        2,
    )
    .await;
    assert_eq!(
        server
            .admin_count("fanfare_webhook_events_dropped_total{cause=\"limit\"}")
            .await,
        2
    );
}

#[tokio::test]
async fn what_is_refused_for_too_long_is_given_up() {
    let mut back_end = BackEnd::start().await;
    let settings = [HURRIED, ("FANFARE_PUSHER_WEBHOOK_RETRY_FOR", "100ms")];
    let server = start(&[(&back_end, "")], "", &settings);
    let mut anna = Session::connect(&server, APP).await;
    anna.subscribe("orders").await;
    let given_up = "fanfare_webhook_events_dropped_total{cause=\"too_old\"}";
    let mut tries = 0;
    loop {
        tries += 1;
        let question = back_end.asked().await;
        assert_eq!(events(&question), [occupied("orders")]);
        let tried = server.admin_count(FAILED).await;
        question.answer(500, "");
        wait_for(&server, FAILED, tried + 1).await;
        if server.admin_count(given_up).await > 0 {
            break;
        }
    }
    assert!(tries > 1, "it was tried once only");
    anna.subscribe("fence").await;
    told_are(&mut back_end, vec![occupied("fence")]).await;
}

#[tokio::test]
async fn nothing_goes_to_addresses_that_are_not_public() {
    for (url, says) in [
        ("http://127.0.0.1:9/hook", "must be https"),
        ("https://127.0.0.1/hook", "no address that everybody can reach"),
        ("https://[::1]/hook", "no address that everybody can reach"),
        ("https://192.168.0.1/hook", "no address that everybody can reach"),
        (
            "https://169.254.169.254/latest/",
            "no address that everybody can reach",
        ),
    ] {
        let apps = format!("[{}]", APP.table(&format!("webhooks = [{{ url = \"{url}\" }}]")));
        let mut command = command();
        command.env("FANFARE_APPS", apps);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(78), "{url}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            text.contains(says) && text.contains("webhook_private_networks"),
            "{text}"
        );
    }
    // A name is looked at when it is resolved, each time.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let app = format!("webhooks = [{{ url = \"https://localhost:{port}/hook\" }}]");
    let server = APP.server(&app, &[HURRIED]);
    let mut anna = Session::connect(&server, APP).await;
    anna.subscribe("orders").await;
    wait_for(&server, FAILED, 2).await;
    assert!(futures_util::FutureExt::now_or_never(listener.accept()).is_none());
    server.terminate();
    let (_, logs) = server.wait();
    assert!(logs.contains("no address that everybody can reach"), "{logs}");
}

#[tokio::test]
async fn at_the_end_it_is_told_that_all_have_gone() {
    let mut back_end = BackEnd::start().await;
    let long = ("FANFARE_PUSHER_WEBHOOK_DELAY", "60s");
    let server = start(&[(&back_end, "")], "", &[long]);
    let mut anna = Session::connect(&server, APP).await;
    let room = "presence-room";
    anna.join(room, "anna").await;
    told_are(
        &mut back_end,
        vec![occupied(room), member("member_added", room, "anna")],
    )
    .await;
    server.terminate();
    told_are(
        &mut back_end,
        vec![member("member_removed", room, "anna"), vacated(room)],
    )
    .await;
    let (status, _) = tokio::task::spawn_blocking(|| server.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
}
