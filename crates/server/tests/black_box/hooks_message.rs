//! The back end decides what clients say is relayed (`on_message`), and hears who is online
//! (`on_presence`).

use crate::support::back_end::{Question, asked, metric, post, start, wait_until, with_key};
use crate::support::token::token;
use crate::support::{KEY, Said, frame, text};
use serde_json::json;

#[tokio::test]
async fn what_clients_say_is_looked_at_before_anybody_hears_it() {
    let (server, mut back_end) = start("on_message", &[]).await;
    let user = token(json!({"sub": "42"}));
    let mut speaker = server.websocket(&format!("/ch/main?token={user}")).await;
    let mut listener = server.websocket("/ch/main").await;
    // Several at once stay in order, though each is asked about.
    let together: Vec<u8> = ["one", "two", "three", "four"]
        .iter()
        .flat_map(|say| frame(0x81, say.as_bytes()))
        .collect();
    speaker.send(&together).await;
    let question = back_end.asked().await;
    assert!(question.is_signed_with(KEY));
    let expected = json!({"channels": ["main"], "user": "42", "address": "127.0.0.1", "data": "one"});
    assert_eq!(question.json(), expected);
    // The server speaks meanwhile, and is not asked about.
    post(&server, "/ch/main", "from the server").await;
    assert_eq!(listener.hear().await, text("from the server"));
    question.answer(202, "");
    back_end.asked().await.answer(204, "");
    back_end.asked().await.answer(200, "thr*e");
    back_end
        .asked()
        .await
        .answer_with(200, "Content-Type: application/octet-stream\r\n", b"f\xffur");
    for said in [text("one"), text("thr*e"), Said::Binary(b"f\xffur".to_vec())] {
        assert_eq!(listener.hear().await, said);
    }
    // Binary is told as base64.
    speaker.send(&frame(0x82, b"\xff")).await;
    let question = back_end.asked().await;
    assert_eq!(question.json()["base64"], "/w==");
    question.answer(202, "");
    assert_eq!(listener.hear().await, Said::Binary(vec![0xff]));
    assert_eq!(speaker.hear().await, text("from the server"));
}

#[tokio::test]
async fn what_was_said_before_a_goodbye_is_said() {
    let (server, mut back_end) = start("on_message", &[]).await;
    let mut speaker = server.websocket("/ch/main").await;
    let mut listener = server.websocket("/ch/main").await;
    let mut last = [frame(0x81, b"one"), frame(0x81, b"two")].concat();
    last.extend(frame(0x88, &1000_u16.to_be_bytes()));
    speaker.send(&last).await;
    back_end.asked().await.answer(202, "");
    back_end.asked().await.answer(202, "");
    assert_eq!(speaker.hear().await, Said::Close(1000, String::new()));
    assert_eq!(listener.hear().await, text("one"));
    assert_eq!(listener.hear().await, text("two"));
}

#[tokio::test]
async fn what_the_back_end_refuses_or_cannot_judge_is_not_relayed() {
    for (status, code) in [(422, 4403), (403, 4403), (500, 1013), (429, 1013)] {
        let (server, mut back_end) = start("on_message", &[]).await;
        let mut speaker = server.websocket("/ch/main").await;
        let mut listener = server.websocket("/ch/main").await;
        let together = [frame(0x81, b"bad"), frame(0x81, b"worse")].concat();
        speaker.send(&together).await;
        back_end.asked().await.answer(status, "");
        assert!(
            matches!(speaker.hear().await, Said::Close(got, _) if got == code),
            "{status}"
        );
        post(&server, "/ch/main", "end").await;
        assert_eq!(listener.hear().await, text("end"));
        // What was said behind it is not even asked about.
        assert_eq!(asked(&server, "on_message").await, 1);
    }
}

#[tokio::test]
async fn who_is_sent_away_meanwhile_is_not_heard() {
    for path in ["/user/42", "/ch/main/user/42", "/ch/main"] {
        let (server, mut back_end) = start("on_message", &[]).await;
        let user = token(json!({"sub": "42"}));
        let mut speaker = server.websocket(&format!("/ch/main?token={user}")).await;
        speaker.say("late").await;
        let question = back_end.asked().await;
        assert_eq!(server.request("DELETE", path, &with_key(), b"").await.0, 200);
        let mut listener = server.websocket("/ch/main").await;
        question.answer(202, "");
        wait_until(&server, "fanfare_hook_waiting{hook=\"on_message\"}", 0).await;
        post(&server, "/ch/main", "end").await;
        assert_eq!(listener.hear().await, text("end"), "{path}");
    }
}

#[tokio::test]
async fn a_session_that_waits_for_the_back_end_is_not_silent() {
    let settings = [
        ("FANFARE_SESSIONS_PING_INTERVAL", "1s"),
        ("FANFARE_HOOKS_TIMEOUT", "30s"),
    ];
    let (server, mut back_end) = start("on_message", &settings).await;
    let mut speaker = server.websocket("/ch/main").await;
    speaker.say("one").await;
    let question = back_end.asked().await;
    // Three pings are more than two intervals without an answer that could have been read.
    while speaker.got.len() < 3 * 2 {
        assert!(speaker.more().await);
    }
    assert!(
        speaker.got.chunks(2).all(|frame| frame == [0x89, 0]),
        "{:?}",
        speaker.got
    );
    question.answer(202, "");
    speaker.say("two").await;
    let question = back_end.asked().await;
    assert_eq!(question.json()["data"], "two");
    question.answer(202, "");
    wait_until(&server, "fanfare_publications_total", 2).await;
}

#[tokio::test]
async fn a_burst_is_relayed_whole_and_in_order() {
    let (server, mut back_end) =
        start("on_message", &[("FANFARE_LIMITS_MESSAGES_PER_CONNECTION", "off")]).await;
    let mut speaker = server.websocket("/ch/main").await;
    let mut listener = server.websocket("/ch/main").await;
    let burst: Vec<u8> = (0..500)
        .flat_map(|number| frame(0x81, number.to_string().as_bytes()))
        .collect();
    speaker.send(&burst).await;
    for number in 0..500 {
        let question = back_end.asked().await;
        assert_eq!(question.json()["data"], number.to_string());
        question.answer(202, "");
        assert_eq!(listener.hear().await, text(&number.to_string()));
    }
}

#[tokio::test]
async fn a_repeat_is_not_asked_about() {
    let (server, mut back_end) = start("on_message", &[]).await;
    let once = "Idempotency-Key: k\r\n";
    let request = server.request("POST", "/ch/main", once, b"one");
    let (first, ()) = tokio::join!(request, async { back_end.asked().await.answer(202, "") });
    let second = server.request("POST", "/ch/main", once, b"one").await;
    assert_eq!((first.0, &first.2), (200, &second.2));
    assert_eq!(asked(&server, "on_message").await, 1);
    // Of a batch nobody could say later what was dropped.
    let batch = "Idempotency-Key: l\r\nContent-Type: application/x-ndjson\r\n";
    let lines = b"{\"channel\":\"main\",\"data\":\"a\"}\n{\"channel\":\"main\",\"data\":\"b\"}\n";
    assert_eq!(server.request("POST", "/ch", batch, lines).await.0, 400);
}

#[tokio::test]
async fn what_clients_post_is_looked_at_too() {
    let (server, mut back_end) = start("on_message", &[]).await;
    let mut listener = server.websocket("/ch/main").await;
    let mut asked = async |fields: &str, body: &str, answers: &[(u16, &str)]| {
        let path = if body.contains('\n') { "/ch" } else { "/ch/main" };
        let answering = async {
            // Messages of a batch are asked about at once; after a first no the others would not be.
            let mut questions = Vec::new();
            for _ in answers {
                questions.push(back_end.asked().await);
            }
            for (question, (status, body)) in questions.into_iter().zip(answers) {
                question.answer(*status, body);
            }
        };
        let ((status, _, answer), ()) =
            tokio::join!(server.request("POST", path, fields, body.as_bytes()), answering);
        (status, answer)
    };
    assert_eq!(asked("", "one", &[(202, "")]).await.0, 200);
    assert_eq!(listener.hear().await, text("one"));
    assert_eq!(asked("", "two", &[(200, "zwei")]).await.0, 200);
    assert_eq!(listener.hear().await, text("zwei"));
    assert_eq!(
        asked("", "three", &[(204, "")]).await,
        (200, "{\"dropped\":true}\n".to_owned())
    );
    assert_eq!(asked("", "four", &[(403, "")]).await.0, 403);
    assert_eq!(asked("", "five", &[(500, "")]).await.0, 503);
    // All of a batch or none of it; one answer line for each message.
    let batch = "Content-Type: application/x-ndjson\r\n";
    let lines = "{\"channel\":\"main\",\"data\":\"a\"}\n{\"channel\":\"main\",\"data\":\"b\"}\n";
    let (status, answer) = asked(batch, lines, &[(204, ""), (204, "")]).await;
    assert_eq!(
        (status, answer.as_str()),
        (200, "{\"dropped\":true}\n{\"dropped\":true}\n")
    );
    let (status, _) = asked(batch, lines, &[(403, ""), (202, "")]).await;
    assert_eq!(status, 403);
    let (status, answer) = asked(batch, lines, &[(202, ""), (202, "")]).await;
    assert_eq!((status, answer.matches("\"id\":").count()), (200, 2));
    assert_eq!(listener.hear().await, text("a"));
    assert_eq!(listener.hear().await, text("b"));
}

/// The users of a batch, with + for online.
fn changes(question: &Question) -> Vec<String> {
    let body = question.json();
    let reports = body["reports"].as_array().unwrap();
    reports
        .iter()
        .map(|report| {
            assert!(report["at"].as_str().unwrap().ends_with('Z'), "{report}");
            let sign = if report["online"].as_bool().unwrap() {
                '+'
            } else {
                '-'
            };
            format!("{sign}{}", report["user"].as_str().unwrap())
        })
        .collect()
}

#[tokio::test]
async fn the_back_end_hears_who_comes_and_goes_in_order_and_at_least_once() {
    let (server, mut back_end) = start("on_presence", &[("FANFARE_SESSIONS_USER_GRACE", "200ms")]).await;
    let open = async |user: &str| {
        let token = token(json!({"sub": user}));
        server.websocket(&format!("/ch/a?token={token}")).await
    };
    let first = open("anna").await;
    let question = back_end.asked().await;
    assert!(question.is_signed_with(KEY));
    assert_eq!(question.field("fanfare-hook"), Some("on_presence"));
    assert_eq!(changes(&question), ["+anna"]);
    let id = question.json()["id"].clone();
    // A second tab is no news; others wait behind what was not taken.
    let second = open("anna").await;
    let ben = open("ben").await;
    question.answer(500, "");
    let again = back_end.asked().await;
    assert_eq!(
        (changes(&again), &again.json()["id"]),
        (vec!["+anna".to_owned()], &id)
    );
    drop(again);
    let again = back_end.asked().await;
    assert_eq!(again.json()["id"], id);
    again.answer(200, "");
    let next = back_end.asked().await;
    assert_eq!(changes(&next), ["+ben"]);
    assert_ne!(next.json()["id"], id);
    next.answer(204, "");
    drop((first, ben));
    let question = back_end.asked().await;
    assert_eq!(changes(&question), ["-ben"]);
    question.answer(204, "");
    drop(second);
    let question = back_end.asked().await;
    assert_eq!(changes(&question), ["-anna"]);
    question.answer(204, "");
    wait_until(&server, "fanfare_presence_reports_sent_total", 4).await;
    assert_eq!(
        metric(&server, "fanfare_presence_requests_failed_total").await,
        Some(2)
    );
}

#[tokio::test]
async fn what_was_reported_last_is_sent_before_the_server_ends() {
    let (server, mut back_end) = start("on_presence", &[]).await;
    let open = async |user: &str| {
        let token = token(json!({"sub": user}));
        server.websocket(&format!("/ch/a?token={token}")).await
    };
    let _anna = open("anna").await;
    let question = back_end.asked().await;
    let _ben = open("ben").await;
    wait_until(&server, "fanfare_presence_reports_waiting", 1).await;
    server.terminate();
    question.answer(204, "");
    let question = back_end.asked().await;
    assert_eq!(changes(&question), ["+ben"]);
    question.answer(204, "");
    let (status, logs) = tokio::task::spawn_blocking(move || server.wait()).await.unwrap();
    assert!(status.success());
    assert!(!logs.contains("could not be sent"), "{logs}");
}
