//! Conversations: `C` the client sends (hex of the unmasked frame's meaning, see below), `S` the
//! server must send, `P` it must publish, `R` it must have a token judged, `A` the token is good until
//! that many seconds after the start and its bearer may speak or not, `+` seconds pass, `X` the session
//! ends with this label.
//!
//! A client line is `text hello`, `binary ff00`, `ping x`, `close 1000`, `part he` (a text begun
//! and not finished), `rest llo` (its end) or `raw 81 05` (bytes as they are).

use super::*;
use crate::wire::websocket;

struct Line<'a> {
    settings: &'a WebSocketSettings,
    now: Moment,
    session: PlainWebSocket,
    said: Vec<String>,
}

fn settings() -> WebSocketSettings {
    WebSocketSettings {
        ping_interval: Duration::from_secs(25),
        message_time_max: Duration::from_secs(30),
        decode: DecodeLimits {
            message_bytes_max: 16,
            fragments_max: 4,
            inflate: None,
        },
        heartbeat: Some(("heart".to_owned(), "beat".to_owned())),
    }
}

/// A client's frame: masked, as RFC 6455 section 5.1 demands.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let mut bytes = vec![first, 0x80 | u8::try_from(payload.len()).unwrap()];
    bytes.extend(mask);
    bytes.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    bytes
}

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

fn client(words: &str) -> Vec<u8> {
    let (verb, rest) = words.split_once(' ').unwrap_or((words, ""));
    match verb {
        "text" => frame(0x81, rest.as_bytes()),
        "binary" => frame(0x82, &hex(rest)),
        "ping" => frame(0x89, rest.as_bytes()),
        "pong" => frame(0x8a, rest.as_bytes()),
        "part" => frame(0x01, rest.as_bytes()),
        "rest" => frame(0x80, rest.as_bytes()),
        "close" if rest.is_empty() => frame(0x88, b""),
        "close" => frame(0x88, &rest.parse::<u16>().unwrap().to_be_bytes()),
        "raw" => hex(rest),
        _ => panic!("unknown verb {verb}"),
    }
}

impl Line<'_> {
    fn drive(&mut self, mut act: impl FnMut(&mut PlainWebSocket, Moment, &mut Vec<Action>)) {
        let mut actions = Vec::new();
        act(&mut self.session, self.now, &mut actions);
        for action in actions {
            self.said.push(match action {
                Action::Send(bytes) => format!("S {}", describe(&bytes)),
                Action::SendPosition => "position".to_owned(),
                Action::Publish {
                    kind: DataKind::Text,
                    data,
                } => format!("P {}", String::from_utf8_lossy(&data))
                    .trim_end()
                    .to_owned(),
                Action::Publish {
                    kind: DataKind::Binary,
                    data,
                } => format!("P {:02x?}", &data[..]),
                Action::Refresh(token) => format!("R {}", token.expose()).trim_end().to_owned(),
                Action::Close { farewell, why } => {
                    let farewell = farewell.map_or("nothing".to_owned(), |bytes| describe(&bytes));
                    format!("X {} {farewell}", why.label())
                }
            });
        }
    }
}

fn describe(bytes: &[u8]) -> String {
    let payload = &bytes[2..];
    match bytes[0] {
        0x81 => format!("text {}", String::from_utf8_lossy(payload)),
        0x89 => "ping".to_owned(),
        0x8a => format!("pong {}", String::from_utf8_lossy(payload)),
        0x88 if payload.is_empty() => "close".to_owned(),
        0x88 => format!("close {}", u16::from_be_bytes([payload[0], payload[1]])),
        other => format!("{other:02x}"),
    }
}

#[track_caller]
fn check_as(may_speak: bool, conversation: &str) {
    check_session(may_speak, |session, _| session, conversation);
}

#[track_caller]
fn check_session(
    may_speak: bool,
    change: impl FnOnce(PlainWebSocket, Moment) -> PlainWebSocket,
    conversation: &str,
) {
    let settings = settings();
    let start = Moment::after_start(Duration::from_secs(1_000));
    let ping = start + settings.ping_interval;
    let session = PlainWebSocket::new(Arc::new(settings.clone()), start, ping, may_speak);
    let session = change(session, start);
    let mut line = Line {
        settings: &settings,
        now: start,
        session,
        said: Vec::new(),
    };
    let mut expected = Vec::new();
    for step in conversation
        .lines()
        .map(str::trim)
        .filter(|step| !step.is_empty())
    {
        match step.split_at(1) {
            ("C", words) => {
                let mut bytes = client(words.trim());
                line.drive(|session, now, actions| session.on_bytes(now, &mut bytes, actions));
            }
            ("A", words) => {
                let (seconds, speech) = words.trim().split_once(' ').unwrap();
                let deadline = start + Duration::from_secs(seconds.parse().unwrap());
                line.session.on_refreshed(deadline, speech == "speak");
            }
            ("+", seconds) => {
                let until = line.now + Duration::from_secs(seconds.trim().parse().unwrap());
                while line.session.poll_timeout() <= until {
                    line.now = line.session.poll_timeout();
                    line.drive(PlainWebSocket::on_timeout);
                }
                line.now = until;
            }
            _ => expected.push(step.to_owned()),
        }
    }
    assert_eq!(
        line.said, expected,
        "ping every {:?}",
        line.settings.ping_interval
    );
}

#[track_caller]
fn check(conversation: &str) {
    check_as(true, conversation);
}

#[test]
fn what_is_said_is_published_as_it_was_said() {
    check(
        "C text hello
         P hello
         C binary ff00
         P [ff, 00]
         C text
         P
         C part hel
         C ping x
         S pong x
         C rest lo
         P hello",
    );
}

#[test]
fn a_silent_peer_is_pinged_and_then_dropped() {
    check(
        "+ 25
         S ping
         + 25
         X idle close 1001
         + 500",
    );
}

#[test]
fn any_sign_of_life_keeps_the_line() {
    check(
        "+ 25
         S ping
         C pong
         + 25
         S ping
         C pong
         + 25
         S ping
         + 24
         C text x
         P x
         + 1
         S ping",
    );
}

#[test]
fn a_close_is_answered_in_kind() {
    check(
        "C close 1000
           X closed_by_peer close 1000",
    );
    check(
        "C close 4321
           X closed_by_peer close 4321
           C text late",
    );
    check(
        "C close
           X closed_by_peer close",
    );
}

#[test]
fn broken_frames_end_the_session_with_the_rfc_codes() {
    check(
        "C raw 81 05 68 65 6c 6c 6f
           X protocol close 1002",
    );
    check(
        "C raw 81 82 00 00 00 00 c3 28
           X protocol close 1007",
    );
    check(
        "C raw 82 91 00 00 00 00
           X protocol close 1009",
    );
    check(
        "C ping a
           S pong a
           C raw b1 80 00 00 00 00
           X protocol close 1002",
    );
}

#[test]
fn a_begun_message_must_be_completed_in_time() {
    check(
        "C part he
         + 20
         C ping a
         S pong a
         + 10
         S ping
         X protocol close 1008",
    );
    check(
        "C part he
         + 20
         C rest y
         P hey
         + 20
         S ping",
    );
}

#[test]
fn a_configured_heartbeat_is_answered_and_not_relayed() {
    check(
        "C text heart
           S text beat
           C text hearts
           P hearts",
    );
    check_as(
        false,
        "C text heart
                     S text beat",
    );
}

#[test]
fn who_may_only_listen_is_told_so() {
    check_as(
        false,
        "C text x
                     X refused close 4403",
    );
}

/// A peer with a token of 40 seconds.
#[track_caller]
fn check_token(may_speak: bool, meta: bool, conversation: &str) {
    let until = |session: PlainWebSocket, start| session.until(start + Duration::from_secs(40), meta);
    check_session(may_speak, until, conversation);
}

#[test]
fn a_token_that_runs_out_ends_the_session() {
    check_token(
        true,
        true,
        "+ 39
         S ping
         C text x
         P x
         + 1
         X expired close 4401
         C text late",
    );
}

#[track_caller]
fn check_text(may_refresh: bool, text: &str, expected: &str) {
    check_token(true, may_refresh, &format!("C text {text}\n{expected}"));
}

#[test]
fn a_fresh_token_is_handed_on_and_not_relayed() {
    check_token(
        true,
        true,
        r#"C text {"token":"t"}
           R t
           A 90 speak
           + 45
           S ping
           C text x
           P x
           + 45
           S ping
           S ping
           X expired close 4401"#,
    );
    // Whatever has the form is no message, and what only resembles it is one.
    check_text(true, r#"{"token":7}"#, "R");
    check_text(true, r#"{"token":""}"#, "R");
    check_text(true, r#" { "token":"t"}"#, "R t");
    check_text(true, r#"{"token":["#, r#"P {"token":["#);
    check_text(true, r#"{"tokens":7}"#, r#"P {"tokens":7}"#);
    check_text(true, "{}", "P {}");
    check_text(true, "token", "P token");
    check_text(false, r#"{"token":7}"#, r#"P {"token":7}"#);
    check("C text {\"token\":7}\nP {\"token\":7}");
}

#[test]
fn until_a_token_is_judged_speech_is_handed_on_to_be_judged() {
    check_token(
        false,
        true,
        r#"C text {"token":"t"}
           R t
           C text x
           P x
           A 90 mute
           C text y
           X refused close 4403"#,
    );
    check_token(
        false,
        true,
        r#"C text {"token":"t"}
           R t
           A 90 speak
           C text y
           P y"#,
    );
}

/// `pings` pings in one read, numbered; the pongs must come as one piece.
#[track_caller]
fn check_pings(pings: u8, answered: &[u8]) {
    let mut session = PlainWebSocket::new(Arc::new(settings()), Moment::default(), Moment::NEVER, true);
    let mut bytes: Vec<u8> = (0..pings).flat_map(|number| frame(0x89, &[number])).collect();
    let mut actions = Vec::new();
    session.on_bytes(Moment::default(), &mut bytes, &mut actions);
    let pongs: Vec<u8> = answered
        .iter()
        .flat_map(|&number| websocket::pong(&[number]))
        .collect();
    assert_eq!(actions, [Action::Send(pongs.into())], "{pings} pings");
}

#[test]
fn every_ping_is_answered_and_of_a_flood_the_newest() {
    let first: Vec<u8> = (0..50).collect();
    check_pings(1, &first[..1]);
    check_pings(10, &first[..10]);
    check_pings(50, &first);
    check_pings(51, &[first.as_slice(), &[50]].concat());
    check_pings(200, &[first.as_slice(), &[199]].concat());
}
