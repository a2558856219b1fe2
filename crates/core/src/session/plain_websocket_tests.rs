//! Conversations: `C` the client sends (hex of the unmasked frame's meaning, see below), `S` the
//! server must send, `P` it must publish, `R` it must have a token judged, `A` the token is good until
//! that many seconds after the start and its bearer may speak or not, `+` seconds pass, `L` a limit held
//! something back, `Z` it is not read from until `U`, `X` the session ends with this label.
//!
//! A client line is `text hello`, `binary ff00`, `ping x`, `close 1000`, `part he` (a text begun
//! and not finished), `rest llo` (its end) or `raw 81 05` (bytes as they are).

use super::*;
use crate::session::speech::{client, frame};
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
        rates: SpeakRates {
            messages: Rate::per_second(50, 200),
            excess_max: Duration::from_secs(10),
            pings: Rate::per_second(10, 50),
            control_frames: Rate::per_second(100, 500),
            refreshes: Rate::per_minute(6, 10),
        },
        is_one_by_one: false,
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
                    kind: DataKind::Text | DataKind::Json,
                    data,
                } => format!("P {}", String::from_utf8_lossy(&data))
                    .trim_end()
                    .to_owned(),
                Action::Publish {
                    kind: DataKind::Binary,
                    data,
                } => format!("P {:02x?}", &data[..]),
                Action::Refresh(token) => format!("R {}", token.expose()).trim_end().to_owned(),
                Action::Limited(limit) => format!("L {limit}"),
                other @ (Action::Frame(_) | Action::Received(_)) => format!("not of this door: {other:?}"),
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
    check_with(settings(), may_speak, change, conversation);
}

#[track_caller]
fn check_with(
    settings: WebSocketSettings,
    may_speak: bool,
    change: impl FnOnce(PlainWebSocket, Moment) -> PlainWebSocket,
    conversation: &str,
) {
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
                line.drive(|session, now, actions| {
                    assert_eq!(session.on_bytes(now, &mut bytes, actions), 0);
                });
            }
            ("Z", _) => line.session.on_paused(),
            ("U", _) => line.session.on_resumed(line.now),
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
    let until = |session: PlainWebSocket, start| session.meta(meta).until(start + Duration::from_secs(40));
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

/// `pings` pings in one read, numbered; the pongs must come as one piece, before what else happens.
#[track_caller]
fn check_pings(pings: u16, answered: u8, label: Option<&str>) {
    let mut session = PlainWebSocket::new(Arc::new(settings()), Moment::default(), Moment::NEVER, true);
    let number = |number: u16| u8::try_from(number % 256).unwrap();
    let mut bytes: Vec<u8> = (0..pings).flat_map(|at| frame(0x89, &[number(at)])).collect();
    let mut actions = Vec::new();
    session.on_bytes(Moment::default(), &mut bytes, &mut actions);
    let pongs: Vec<u8> = (0..answered)
        .flat_map(|number| websocket::pong(&[number]))
        .collect();
    let limited = Action::Limited("pings_per_connection");
    let excess = actions.iter().filter(|action| **action == limited).count();
    actions.retain(|action| *action != limited);
    assert_eq!(actions[0], Action::Send(pongs.into()), "{pings} pings");
    let ended = match actions.last() {
        Some(Action::Close { why, .. }) => Some(why.label()),
        _ => None,
    };
    assert_eq!(ended, label, "{pings} pings");
    assert_eq!(excess, usize::from(pings.min(500) - u16::from(answered)));
}

#[test]
fn pings_are_answered_as_long_as_they_do_not_come_too_fast() {
    check_pings(1, 1, None);
    check_pings(10, 10, None);
    check_pings(50, 50, None);
    check_pings(51, 50, None);
    check_pings(500, 50, None);
    check_pings(501, 50, Some("too_fast"));
}

/// Two messages at once and one per second; too many for two seconds are enough.
#[track_caller]
fn check_rates(is_meta: bool, change: impl FnOnce(&mut SpeakRates), conversation: &str) {
    let mut settings = settings();
    settings.rates.messages = Rate::per_second(1, 2);
    settings.rates.excess_max = Duration::from_secs(2);
    change(&mut settings.rates);
    let until = |session: PlainWebSocket, start| session.meta(is_meta).until(start + Duration::from_mins(15));
    check_with(settings, true, until, conversation);
}

const TOLD: &str = r#"S text {"event":"error","error":"too_fast","message":"too fast: try again in 1 s (limits.messages_per_connection)"}"#;

#[test]
fn what_is_said_too_fast_is_dropped_and_told_in_meta_form() {
    let conversation = "C text a
         C text b
         C text c
         C binary ff
         + 1
         C text d
         C text e
         P a
         P b
         L messages_per_connection
         TOLD
         L messages_per_connection
         P d
         L messages_per_connection
         TOLD";
    check_rates(true, |_| {}, &conversation.replace("TOLD", TOLD));
    check_rates(false, |_| {}, &conversation.replace("TOLD", ""));
    // A heartbeat is a message too.
    check_rates(
        false,
        |_| {},
        "C text heart
         C text heart
         C text heart
         S text beat
         S text beat
         L messages_per_connection",
    );
}

#[test]
fn who_goes_on_to_say_too_much_is_sent_away() {
    check_rates(
        false,
        |_| {},
        "C text a
         C text b
         C text c
         + 1
         C text d
         C text e
         + 1
         C text f
         C text g
         C text h
         P a
         P b
         L messages_per_connection
         P d
         L messages_per_connection
         P f
         L messages_per_connection
         X too_fast close 1008",
    );
    // With a pause in between it is not going on.
    check_rates(
        false,
        |rates| rates.excess_max = Duration::from_secs(3),
        "C text a
         C text b
         C text c
         + 4
         C text d
         C text e
         C text f
         P a
         P b
         L messages_per_connection
         P d
         P e
         L messages_per_connection",
    );
    check_rates(
        true,
        |rates| rates.excess_max = Duration::ZERO,
        "C text a
         C text b
         C text c
         C text d
         P a
         P b
         L messages_per_connection
         X too_fast close 1008",
    );
}

#[test]
fn fresh_tokens_come_at_a_rate_of_their_own() {
    check_rates(
        false,
        |rates| {
            rates.messages = Rate::OFF;
            rates.refreshes = Rate::per_minute(1, 1);
        },
        r#"C text {"token":1}
           C text {"token":1}
           P {"token":1}
           P {"token":1}"#,
    );
    let told = TOLD
        .replace("messages_per_connection", "token_refreshes_per_connection")
        .replace("1 s", "60 s");
    let conversation = r#"C text {"token":"t"}
           A 800 speak
           C text {"token":"u"}
           C text y
           R t
           L token_refreshes_per_connection
           TOLD
           P y"#;
    check_rates(
        true,
        |rates| {
            rates.messages = Rate::OFF;
            rates.refreshes = Rate::per_minute(1, 1);
        },
        &conversation.replace("TOLD", &told),
    );
}

#[test]
fn who_is_not_read_from_is_not_taken_for_silent() {
    check("+ 50\nS ping\nX idle close 1001");
    check(
        "C text a
         C part b
         Z
         + 60
         U
         + 20
         C rest c
         + 70
         P a
         S ping
         S ping
         S ping
         P bc
         S ping
         S ping
         X idle close 1001",
    );
    check(
        "C part b
         Z
         + 60
         U
         + 30
         S ping
         S ping
         S ping
         X protocol close 1008",
    );
    // A token ends nevertheless.
    check_token(true, true, "Z\n+ 40\nS ping\nX expired close 4401");
}

#[test]
fn messages_are_taken_one_by_one_where_each_is_looked_at() {
    let mut settings = settings();
    settings.is_one_by_one = true;
    let mut session = PlainWebSocket::new(Arc::new(settings), Moment::default(), Moment::NEVER, true);
    let said = ["ping x", "text a", "ping y", "part b", "rest c", "close 1000"];
    let frames: Vec<u8> = said.iter().flat_map(|words| client(words)).collect();
    let mut bytes = frames.clone();
    let (mut read, mut rounds) = (0, Vec::new());
    while read < bytes.len() {
        let mut actions = Vec::new();
        let left = session.on_bytes(Moment::default(), &mut bytes[read..], &mut actions);
        read = bytes.len() - left;
        rounds.push((read, actions.len()));
    }
    // Where each round stops, and how much there is to do: a pong and the message; a pong and the
    // message; the goodbye.
    let ends = [2, 5, 6].map(|count| said[..count].iter().map(|words| client(words).len()).sum());
    let [first, second, third]: [usize; 3] = ends;
    assert_eq!(rounds, [(first, 2), (second, 2), (third, 1)]);
}
