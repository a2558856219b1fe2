//! Cases are bytes in and events out. Each is fed whole, byte by byte, and cut in two at every
//! place; the answer must be the same.

use proptest::prelude::*;

use super::*;

const LIMITS: DecodeLimits = DecodeLimits {
    message_bytes_max: 70_000,
    fragments_max: 3,
    inflate: None,
};

pub(in crate::wire::websocket) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(0x80 | u8::try_from(len).unwrap()),
        len @ 126..=0xffff => {
            bytes.push(0xfe);
            bytes.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
        len => {
            bytes.push(0xff);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    bytes
}

pub(in crate::wire::websocket) fn outline(event: &Event) -> String {
    match event {
        Event::Message {
            kind: MessageKind::Text,
            data,
        } => format!("text {}", String::from_utf8_lossy(data)),
        Event::Message {
            kind: MessageKind::Binary,
            data,
        } if data.len() > 20 => format!("binary {} bytes", data.len()),
        Event::Message {
            kind: MessageKind::Binary,
            data,
        } => format!("binary {:02x?}", &data[..]),
        Event::Ping(data) => format!("ping {}", String::from_utf8_lossy(data)),
        Event::Pong(_) => "pong".to_owned(),
        Event::Close(None) => "close".to_owned(),
        Event::Close(Some((code, reason))) => format!("close {code} {reason}"),
    }
}

/// Feeds the pieces; returns what was said, and the error at the end if there was one.
pub(in crate::wire::websocket) fn feed<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    limits: &DecodeLimits,
) -> Vec<String> {
    let mut decoder = Decoder::default();
    let mut said = Vec::new();
    for piece in pieces {
        let mut piece = piece.to_vec();
        let mut input = piece.as_mut_slice();
        loop {
            match decoder.decode(&mut input, limits) {
                Ok(Some(event)) => said.push(outline(&event)),
                Ok(None) => break,
                Err(error) => {
                    said.push(format!("error {}", error.close_code()));
                    return said;
                }
            }
        }
        assert!(input.is_empty());
    }
    if !decoder.is_unfinished() {
        assert_eq!(decoder.buffered_bytes(), 0);
    }
    said
}

#[track_caller]
pub(in crate::wire::websocket) fn check_with(limits: &DecodeLimits, frames: &[Vec<u8>], expected: &[&str]) {
    let bytes = frames.concat();
    assert_eq!(feed([&bytes[..]], limits), expected, "whole");
    assert_eq!(feed(bytes.chunks(1), limits), expected, "byte by byte");
    for cut in 0..bytes.len().min(300) {
        assert_eq!(
            feed([&bytes[..cut], &bytes[cut..]], limits),
            expected,
            "cut at {cut}"
        );
    }
}

#[track_caller]
fn check(frames: &[Vec<u8>], expected: &[&str]) {
    check_with(&LIMITS, frames, expected);
}

#[test]
fn an_idle_decoder_is_one_pointer() {
    assert_eq!(size_of::<Decoder>(), size_of::<usize>());
}

#[test]
fn whole_messages_of_each_length_form() {
    check(&[frame(0x81, b"Hello")], &["text Hello"]);
    check(&[frame(0x81, b"")], &["text "]);
    check(&[frame(0x82, b"\xff\0")], &["binary [ff, 00]"]);
    check(&[frame(0x82, b"")], &["binary []"]);
    for len in [125, 126, 127, 128, 65_535, 65_536] {
        check(&[frame(0x82, &vec![1; len])], &[&format!("binary {len} bytes")]);
    }
    check(
        &[
            frame(0x81, b"one"),
            frame(0x82, b"\x02"),
            frame(0x81, "drei ü".as_bytes()),
        ],
        &["text one", "binary [02]", "text drei ü"],
    );
}

#[test]
fn fragments_and_control_frames_between_them() {
    check(&[frame(0x01, b"Hel"), frame(0x80, b"lo")], &["text Hello"]);
    check(
        &[frame(0x01, b""), frame(0x00, b""), frame(0x80, b"")],
        &["text "],
    );
    check(
        &[
            frame(0x02, b"a"),
            frame(0x89, b"p"),
            frame(0x00, b"b"),
            frame(0x8a, b""),
            frame(0x80, b"c"),
            frame(0x81, b"x"),
        ],
        &["ping p", "pong", "binary [61, 62, 63]", "text x"],
    );
    check(
        &[frame(0x01, b"\xe2\x82"), frame(0x89, b""), frame(0x80, b"\xac")],
        &["ping ", "text €"],
    );
}

#[test]
fn fragments_that_do_not_fit_together() {
    check(&[frame(0x80, b"x")], &["error 1002"]);
    check(&[frame(0x00, b"x")], &["error 1002"]);
    check(&[frame(0x01, b"x"), frame(0x81, b"y")], &["error 1002"]);
    check(
        &[frame(0x01, b"x"), frame(0x80, b"y"), frame(0x80, b"z")],
        &["text xy", "error 1002"],
    );
}

#[test]
fn heads_that_the_rfc_forbids() {
    check(&[vec![0x81, 0x05, b'h']], &["error 1002"]);
    for reserved in [0x40, 0x20, 0x10] {
        check(&[frame(0x81 | reserved, b"x")], &["error 1002"]);
    }
    for opcode in [3, 4, 5, 6, 7, 0xb, 0xc, 0xd, 0xe, 0xf] {
        check(&[frame(0x80 | opcode, b"x")], &["error 1002"]);
    }
    check(&[vec![0x82, 0xfe, 0, 125, 0, 0, 0, 0]], &["error 1002"]);
    check(
        &[vec![0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0]],
        &["error 1002"],
    );
    check(
        &[vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]],
        &["error 1002"],
    );
}

#[test]
fn control_frames() {
    check(&[frame(0x89, b"")], &["ping "]);
    check(
        &[frame(0x89, &[b'x'; 125])],
        &[&format!("ping {}", "x".repeat(125))],
    );
    check(&[frame(0x89, &[b'x'; 126])], &["error 1002"]);
    check(&[frame(0x09, b"x")], &["error 1002"]);
    check(&[frame(0x88, b"")], &["close"]);
    check(
        &[frame(0x88, b"\x03\xe8bye"), frame(0x81, b"late")],
        &["close 1000 bye"],
    );
    check(&[frame(0x88, b"\x03")], &["error 1002"]);
    check(&[frame(0x88, b"\x03\xe8\xc3(")], &["error 1007"]);
}

#[test]
fn close_codes() {
    for code in [
        1000_u16, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999,
    ] {
        check(&[frame(0x88, &code.to_be_bytes())], &[&format!("close {code} ")]);
    }
    for code in [
        0_u16, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535,
    ] {
        check(&[frame(0x88, &code.to_be_bytes())], &["error 1002"]);
    }
}

#[test]
fn text_is_checked_as_it_arrives() {
    check(&[frame(0x81, b"a\xffb")], &["error 1007"]);
    check(&[frame(0x81, b"cut \xc3")], &["error 1007"]);
    check(&[frame(0x01, b"\xce"), frame(0x80, b"\xba")], &["text κ"]);
    check(&[frame(0x01, b"\xed"), frame(0x80, b"\xa0\x80")], &["error 1007"]);
    // The rest of the frame never arrives, and need not.
    let whole = frame(0x81, b"good\xf4\x90 and much more");
    let head = 6;
    assert_eq!(feed([&whole[..head + 5]], &LIMITS), Vec::<String>::new());
    assert_eq!(feed([&whole[..head + 6]], &LIMITS), ["error 1007"]);
}

#[test]
fn limits_hold_at_the_limit_and_one_beyond() {
    let limits = DecodeLimits {
        message_bytes_max: 10,
        fragments_max: 3,
        inflate: None,
    };
    check_with(&limits, &[frame(0x81, b"1234567890")], &["text 1234567890"]);
    check_with(&limits, &[frame(0x81, b"12345678901")], &["error 1009"]);
    check_with(
        &limits,
        &[frame(0x01, b"12345"), frame(0x80, b"67890")],
        &["text 1234567890"],
    );
    check_with(
        &limits,
        &[frame(0x01, b"12345"), frame(0x80, b"678901")],
        &["error 1009"],
    );
    check_with(
        &limits,
        &[frame(0x01, b"1"), frame(0x00, b"2"), frame(0x80, b"3")],
        &["text 123"],
    );
    check_with(
        &limits,
        &[
            frame(0x01, b"1"),
            frame(0x00, b"2"),
            frame(0x00, b"3"),
            frame(0x80, b"4"),
        ],
        &["error 1008"],
    );
    // From the head alone: what is declared is refused before it arrives.
    check_with(
        &limits,
        &[vec![
            0x82, 0xff, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4,
        ]],
        &["error 1009"],
    );
}

#[test]
fn what_is_declared_is_not_allocated() {
    let limits = DecodeLimits {
        message_bytes_max: 1 << 40,
        fragments_max: 3,
        inflate: None,
    };
    let mut decoder = Decoder::default();
    let mut bytes = vec![0x82, 0xff, 0, 0, 0, 0x10, 0, 0, 0, 0, 1, 2, 3, 4, 9, 9, 9];
    assert_eq!(decoder.decode(&mut bytes.as_mut_slice(), &limits), Ok(None));
    assert!(decoder.is_unfinished() && decoder.buffered_bytes() < 100);
}

#[test]
fn after_the_end_nothing_counts() {
    let mut decoder = Decoder::default();
    let mut close = frame(0x88, b"");
    assert_eq!(
        decoder.decode(&mut close.as_mut_slice(), &LIMITS),
        Ok(Some(Event::Close(None)))
    );
    let mut late = frame(0x81, b"late");
    assert_eq!(decoder.decode(&mut late.as_mut_slice(), &LIMITS), Ok(None));
}

proptest! {
    #[test]
    fn any_cutting_says_the_same(
        messages in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..300), 0_usize..3, any::<bool>()), 0..6),
        cuts in prop::collection::vec(1_usize..50, 1..30),
    ) {
        let limits = DecodeLimits { message_bytes_max: 300, fragments_max: 10, inflate: None };
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for (text, data, splits, ping) in messages {
            let data = if text { String::from_utf8_lossy(&data).into_owned().into_bytes() } else { data };
            let data = &data[..data.len().min(300)];
            let data = if text { match std::str::from_utf8(data) { Ok(_) => data, Err(e) => &data[..e.valid_up_to()] } } else { data };
            let first = if text { 1 } else { 2 };
            let part = data.len() / (splits + 1);
            for index in 0..=splits {
                let last = index == splits;
                let slice = if last { &data[index * part..] } else { &data[index * part..(index + 1) * part] };
                bytes.extend(frame(if last { 0x80 } else { 0 } | if index == 0 { first } else { 0 }, slice));
                if ping && !last {
                    bytes.extend(frame(0x89, b"p"));
                    expected.push("ping p".to_owned());
                }
            }
            let kind = if text { MessageKind::Text } else { MessageKind::Binary };
            expected.push(outline(&Event::Message { kind, data: Bytes::copy_from_slice(data) }));
        }
        let mut pieces = Vec::new();
        let (mut rest, mut cuts) = (&bytes[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            pieces.push(piece);
            rest = tail;
        }
        prop_assert_eq!(feed(pieces, &limits), expected);
    }

    #[test]
    fn no_bytes_can_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(feed(bytes.chunks(1), &LIMITS), feed([&bytes[..]], &LIMITS));
    }
}
