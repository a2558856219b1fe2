//! Conversations: `C` the peer sends (see [`client`]), `S` the server must send, `F` somebody else must
//! see to what the peer wants, `Z` it is not read from until `U`, `?` a receipt is asked for, `R` all before that number has arrived, `+` seconds pass, `L` a limit held
//! something back, `A` the peer has shown who it is, `X` the session ends with this label and these
//! last words.

use proptest::prelude::*;

use super::*;
use crate::rate::Rate;
use crate::session::speech::client;

fn settings() -> PusherSettings {
    PusherSettings {
        activity_timeout: Duration::from_mins(2),
        message_time_max: Duration::from_secs(30),
        decode: DecodeLimits {
            message_bytes_max: 300,
            fragments_max: 4,
            inflate: None,
        },
        rates: SpeakRates {
            messages: Rate::per_second(2, 4),
            excess_max: Duration::from_secs(10),
            pings: Rate::per_second(10, 50),
            control_frames: Rate::per_second(100, 500),
            refreshes: Rate::OFF,
        },
        subscriptions: Rate::per_second(1, 8),
        authorize_within: None,
    }
}

fn describe(mut bytes: &[u8]) -> String {
    let mut frames = Vec::new();
    while let [first, short, ..] = *bytes {
        let (head, len) = match short {
            126 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
            len => (2, usize::from(len)),
        };
        let payload = &bytes[head..head + len];
        frames.push(match first {
            0x81 => String::from_utf8_lossy(payload).into_owned(),
            0x8a => format!("pong {}", String::from_utf8_lossy(payload)),
            0x88 if payload.is_empty() => "close".to_owned(),
            0x88 => format!("close {}", u16::from_be_bytes([payload[0], payload[1]])),
            other => format!("{other:02x}"),
        });
        bytes = &bytes[head + len..];
    }
    frames.join(" ")
}

struct Line {
    now: Moment,
    session: Pusher,
    said: Vec<String>,
}

impl Line {
    fn drive(&mut self, act: impl FnOnce(&mut Pusher, Moment, &mut Vec<Action>) -> usize) -> usize {
        let mut actions = Vec::new();
        let left = act(&mut self.session, self.now, &mut actions);
        self.said.extend(actions.into_iter().map(|action| match action {
            Action::Send(bytes) => format!("S {}", describe(&bytes)),
            Action::Frame(frame) => match *frame {
                ClientFrame::Subscribe { channel, auth, .. } => {
                    format!("F subscribe {channel} {auth}").trim_end().to_owned()
                }
                ClientFrame::Unsubscribe { channel } => format!("F unsubscribe {channel}"),
                ClientFrame::SignIn { user_data, .. } => format!("F signin {user_data}"),
                ClientFrame::Event { event, channel, data } => format!("F {event} {channel} {data:?}"),
                frame @ (ClientFrame::Ping | ClientFrame::Pong) => format!("F {frame:?}"),
            },
            Action::Received(number) => format!("R {number}"),
            Action::Limited(limit) => format!("L {limit}"),
            Action::Close { farewell, why } => {
                let farewell = farewell.map_or("nothing".to_owned(), |bytes| describe(&bytes));
                format!("X {} {farewell}", why.label())
            }
            other => format!("not of this door: {other:?}"),
        }));
        left
    }
}

#[track_caller]
fn check_with(settings: PusherSettings, conversation: &str) {
    let now = Moment::after_start(Duration::from_secs(1_000));
    let mut line = Line {
        now,
        session: Pusher::new(Arc::new(settings), now),
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
                let mut rest = bytes.as_mut_slice();
                // As a shard does it: what is left is given again.
                while !rest.is_empty() {
                    let left = line.drive(|session, now, actions| session.on_bytes(now, rest, actions));
                    let used = rest.len() - left;
                    rest = &mut rest[used..];
                }
            }
            ("A", _) => line.session.on_authorized(),
            ("Z", _) => line.session.on_paused(),
            ("U", _) => line.session.on_resumed(line.now),
            ("?", _) => {
                let asked = line.session.ask_receipt();
                let asked = asked.map(|(number, ping)| format!("{number} {:02x?}", &ping[..]));
                line.said.push(asked.unwrap_or("not now".to_owned()));
            }
            ("D", _) => {
                line.drive(|session, _, actions| {
                    session.close(Disconnect::Draining, actions);
                    0
                });
            }
            ("+", seconds) => {
                let until = line.now + Duration::from_secs(seconds.trim().parse().unwrap());
                while line.session.poll_timeout() <= until {
                    line.now = line.session.poll_timeout();
                    line.drive(|session, now, actions| {
                        session.on_timeout(now, actions);
                        0
                    });
                }
                line.now = until;
            }
            _ => expected.push(step.to_owned()),
        }
    }
    assert_eq!(line.said, expected, "{conversation}");
}

#[track_caller]
fn check(conversation: &str) {
    check_with(settings(), conversation);
}

#[test]
fn wishes_are_handed_on_one_by_one() {
    check(
        r#"
        C text {"event":"pusher:subscribe","data":{"auth":"K:S","channel":"private-a"}}
        F subscribe private-a K:S
        C text {"event":"pusher:unsubscribe","data":{"channel":"private-a"}}
        F unsubscribe private-a
        C text {"event":"pusher:signin","data":{"auth":"K:S","user_data":"{}"}}
        F signin {}
        C text {"event":"client-a","channel":"b","data":{"c":1}}
        F client-a b Json("{\"c\":1}")
        "#,
    );
}

#[test]
fn pings_of_both_kinds_are_answered() {
    check(
        r#"
        C text {"event":"pusher:ping","data":{}}
        S {"event":"pusher:pong","data":{}}
        C ping x
        S pong x
        C pong hello
        "#,
    );
}

#[test]
fn what_is_wrong_is_answered_and_ends_nothing() {
    check(
        r#"
        C text hello
        L pusher_frames
        S {"event":"pusher:error","data":{"code":null,"message":"a message is one JSON object with a name of an event"}}
        C binary ff
        L pusher_frames
        S {"event":"pusher:error","data":{"code":null,"message":"this protocol is text: binary messages have no meaning"}}
        C text {"event":"x","channel":"a"}
        L pusher_frames
        S {"event":"pusher:error","data":{"code":null,"message":"unknown event: clients may say pusher:… of this protocol, and client-…"},"channel":"a"}
        + 60
        C text {"event":"pusher:subscribe","data":{"auth":5,"channel":"private-a"}}
        L pusher_frames
        S {"event":"pusher:subscription_error","data":{"type":"AuthError","error":"data.auth must be a string","status":400},"channel":"private-a"}
        C text {"event":"pusher:ping"}
        S {"event":"pusher:pong","data":{}}
        "#,
    );
}

#[test]
fn who_breaks_the_frames_is_sent_away() {
    check("C raw 81 02 68 69\nX protocol close 1002");
    check("C raw 81 81 00 00 00 00 ff\nX protocol close 1007");
    check("C close 1000\nX closed_by_peer close 1000");
    check("C close\nX closed_by_peer close");
    check("C part he\n+ 30\nX protocol close 1008");
}

#[test]
fn silence_is_asked_about_and_then_the_end() {
    check(
        r#"
        + 134
        C text {"event":"pusher:pong","data":{}}
        + 135
        S {"event":"pusher:ping","data":{}}
        + 29
        C text {"event":"pusher:pong","data":{}}
        + 135
        S {"event":"pusher:ping","data":{}}
        + 30
        X idle {"event":"pusher:error","data":{"code":4201,"message":"no sign of life for 165s"}} close 4201
        "#,
    );
}

#[test]
fn who_says_too_much_is_told_and_at_last_closed() {
    let ask = "C text {\"event\":\"pusher:ping\"}\n";
    let answer = "S {\"event\":\"pusher:pong\",\"data\":{}}\n";
    let told = "L messages_per_connection\nS {\"event\":\"pusher:error\",\"data\":{\"code\":4301,\"message\":\
                \"too fast: try again in 1 s (limits.messages_per_connection)\"}}\n";
    let four = format!("{ask}{answer}").repeat(4);
    check(&format!(
        "{four}{ask}{told}{ask}L messages_per_connection\n+ 2\n{four}"
    ));
}

#[test]
fn subscribing_to_many_channels_is_not_speaking_too_fast() {
    let subscribe = "C text {\"event\":\"pusher:subscribe\",\"data\":{\"channel\":\"a\"}}\n";
    let eight = format!("{subscribe}F subscribe a \n").repeat(8);
    let told = "S {\"event\":\"pusher:subscription_error\",\"data\":{\"type\":\"LimitReached\",\"error\":\"too fast: \
                try again in 1 s (apps.subscriptions_max)\",\"status\":4301},\"channel\":\"a\"}\nL apps.subscriptions_max\n";
    let ask = "C text {\"event\":\"pusher:ping\"}\nS {\"event\":\"pusher:pong\",\"data\":{}}\n";
    // To go is always possible.
    let leave =
        "C text {\"event\":\"pusher:unsubscribe\",\"data\":{\"channel\":\"a\"}}\nF unsubscribe a\n".repeat(9);
    check(&format!("{eight}{subscribe}{told}{leave}{ask}").replace("a \n", "a\n"));
}

#[test]
fn who_is_not_read_from_is_not_too_slow() {
    check(
        "C part he\nZ\n+ 300\nU\n+ 29\nC rest llo\n+ 1\nL pusher_frames\nS {\"event\":\"pusher:error\",\"data\":{\"code\":null,\"message\":\"a message is one JSON object with a name of an event\"}}",
    );
}

#[test]
fn where_everybody_must_show_who_she_is() {
    let settings = || PusherSettings {
        authorize_within: Some(Duration::from_secs(30)),
        ..settings()
    };
    check_with(
        settings(),
        r#"
        + 30
        X unauthorized {"event":"pusher:error","data":{"code":4009,"message":"neither signed in nor subscribed to a channel that needs a signature, within authorize_within"}} close 4009
        "#,
    );
    check_with(settings(), "+ 29\nA\n+ 60");
}

#[test]
fn a_server_that_goes_away_says_come_back() {
    check(
        r#"
        D
        X draining {"event":"pusher:error","data":{"code":4100,"message":"the server is shutting down"}} close 4100
        C text hello
        "#,
    );
}

#[test]
fn one_receipt_at_a_time_is_asked_for() {
    check(
        r"
        ?
        1 [89, 08, 00, 00, 00, 00, 00, 00, 00, 01]
        ?
        not now
        C raw 8a 88 00 00 00 00 00 00 00 00 00 00 00 02
        C pong
        ?
        not now
        C raw 8a 88 00 00 00 00 00 00 00 00 00 00 00 01
        R 1
        C raw 8a 88 00 00 00 00 00 00 00 00 00 00 00 01
        ?
        2 [89, 08, 00, 00, 00, 00, 00, 00, 00, 02]
        ",
    );
}

#[test]
fn receipts_do_not_count_as_a_flood() {
    let now = Moment::after_start(Duration::from_secs(1_000));
    let mut session = Pusher::new(Arc::new(settings()), now);
    let mut actions = Vec::new();
    for _ in 0..2_000 {
        let (_, ping) = session.ask_receipt().unwrap();
        let mut pong = client(&format!("raw 8a 88 00 00 00 00 {}", hex(&ping[2..])));
        session.on_bytes(now, &mut pong, &mut actions);
    }
    assert!(actions.iter().all(|action| matches!(action, Action::Received(_))));
    assert_eq!(actions.len(), 2_000);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Pieces that what libraries say is made of, and what it should not be made of.
const PIECES: [&str; 40] = [
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"",
    "\\",
    "\\\"",
    "null",
    "true",
    "-1e999",
    "0.1",
    "\\ud800",
    "\\u0000",
    "\"event\"",
    "\"data\"",
    "\"channel\"",
    "\"auth\"",
    "\"channel_data\"",
    "\"user_data\"",
    "\"pusher:subscribe\"",
    "\"pusher:unsubscribe\"",
    "\"pusher:signin\"",
    "\"pusher:ping\"",
    "\"pusher:pong\"",
    "\"client-a\"",
    "\"private-a\"",
    "\"presence-a\"",
    "\"#server-to-user-1\"",
    "\"K:S\"",
    "\"{\\\"id\\\":1}\"",
    "{\"event\":\"pusher:subscribe\",\"data\":",
    "{\"channel\":\"a\"}",
    "{\"channel\":\"a\"}}",
    "{\"event\":\"client-a\",\"channel\":\"private-a\",\"data\":",
    "{\"a\":{\"a\":{}}}}",
    " ",
    "\n",
    "é",
];

proptest! {
    /// Whole sessions of nonsense, cut anywhere: nothing panics, nothing is said twice, every message that is
    /// no wish is answered with at most one frame, and as long as the session is open it answers a ping.
    #[test]
    fn no_session_comes_to_harm(
        said in proptest::collection::vec((0_u8..10, proptest::collection::vec(0..PIECES.len(), 0..12), 0_u64..40), 0..30),
        cuts in proptest::collection::vec(1_usize..50, 1..9),
    ) {
        let quick = Rate::per_second(1_000, 1_000);
        let settings = PusherSettings {
            rates: SpeakRates { messages: quick, ..settings().rates },
            subscriptions: quick,
            ..settings()
        };
        let mut now = Moment::after_start(Duration::from_secs(1_000));
        let mut session = Pusher::new(Arc::new(settings), now);
        let mut cuts = cuts.into_iter().cycle();
        let mut is_open = true;
        for (kind, pieces, seconds) in said {
            let text: String = pieces.iter().map(|at| PIECES[*at]).collect();
            let words = match kind {
                0 => format!("binary {}", hex(text.as_bytes())),
                1 => format!("ping {}", text.len()),
                2 => "pong".to_owned(),
                _ => format!("text {text}"),
            };
            let mut bytes = client(&words);
            let (mut sent, mut wishes, mut closes) = (0, 0, 0);
            let mut rest = bytes.as_mut_slice();
            while !rest.is_empty() && is_open {
                let end = cuts.next().unwrap_or(1).min(rest.len());
                let mut actions = Vec::new();
                let left = session.on_bytes(now, &mut rest[..end], &mut actions);
                prop_assert!(left <= end);
                for action in actions {
                    match action {
                        Action::Send(_) => sent += 1,
                        Action::Frame(_) => wishes += 1,
                        Action::Close { .. } => closes += 1,
                        Action::Limited(_) => {}
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
                is_open = closes == 0;
                rest = &mut rest[end - left..];
            }
            prop_assert!(sent + wishes + closes <= 1, "{words}: {sent} {wishes} {closes}");
            now = now + Duration::from_secs(seconds);
            let mut actions = Vec::new();
            session.on_timeout(now, &mut actions);
            is_open &= !actions.iter().any(|action| matches!(action, Action::Close { .. }));
        }
        let mut ping = client("text {\"event\":\"pusher:ping\"}");
        let mut actions = Vec::new();
        session.on_bytes(now, &mut ping, &mut actions);
        let answered = actions.iter().any(|action| matches!(action, Action::Send(_)));
        prop_assert_eq!(answered, is_open);
    }
}
