//! Compressed frames in, events out; each case is fed whole, byte by byte, and cut at every place
//! (`decode_tests::check_with`). What we compress ourselves must come back as it was.

use proptest::prelude::*;

use super::super::decode::tests::{check_with, feed, frame, outline};
use super::super::{Decoder, Event, binary, text};
use super::*;

const LIMITS: DecodeLimits = DecodeLimits {
    message_bytes_max: 70_000,
    fragments_max: 3,
    inflate: Some(InflateLimits { ratio_max: 100 }),
};

#[track_caller]
fn check(frames: &[Vec<u8>], expected: &[&str]) {
    check_with(&LIMITS, frames, expected);
}

/// DEFLATE of `data` as zlib does it, flushed with `flush`, without the tail.
fn zlib(data: &[u8], level: u32, flush: FlushCompress) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() * 2 + 100);
    let mut stream = Compress::new(Compression::new(level), false);
    stream.compress_vec(data, &mut out, flush).unwrap();
    if flush == FlushCompress::Sync {
        assert!(out.ends_with(&TAIL));
        out.truncate(out.len() - 4);
    }
    out
}

fn deflate(data: &[u8]) -> Vec<u8> {
    zlib(data, 6, FlushCompress::Sync)
}

/// Bytes without any pattern.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32).to_le_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}

/// Text that shrinks to about a third, of `len` bytes.
fn prose(len: usize) -> Vec<u8> {
    let words = [
        "order", "paid", "shop", "waits", "parcel", "ünder", "news", "late", "seven", "to",
    ];
    let mut text = String::new();
    for byte in noise(len) {
        text.push_str(words[usize::from(byte) % words.len()]);
        text.push_str(if byte > 200 { ", " } else { " " });
    }
    let end = (len - 3..=len).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap());
    text.into_bytes()
}

/// The examples of RFC 7692 section 7.2.3, from 7.2.3.1 on.
#[test]
fn the_examples_of_the_rfc() {
    let hello = b"\xf2\x48\xcd\xc9\xc9\x07\x00";
    check(&[frame(0xc1, hello)], &["text Hello"]);
    check(
        &[frame(0x41, &hello[..3]), frame(0x80, &hello[3..])],
        &["text Hello"],
    );
    // A second message that leans on the first would need context takeover, which was refused.
    check(
        &[frame(0xc1, hello), frame(0xc1, b"\xf2\x00\x11\x00\x00")],
        &["text Hello", "error 1007"],
    );
    check(&[frame(0xc1, hello), frame(0xc1, hello)], &["text Hello"; 2]);
    check(&[frame(0xc1, b"\x00\x05\x00\xfa\xffHello\x00")], &["text Hello"]);
    check(
        &[frame(0xc1, b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00")],
        &["text Hello"],
    );
    check(
        &[frame(
            0xc1,
            b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00",
        )],
        &["text Hello"],
    );
    check(&[frame(0xc1, b"\x00")], &["text "]);
    check(&[frame(0xc2, b"\x02\x00")], &["binary []"]);
}

#[test]
fn an_empty_payload_is_an_empty_message() {
    check(&[frame(0xc1, b"")], &["text "]);
    check(
        &[frame(0x42, b""), frame(0x00, b""), frame(0x80, b"")],
        &["binary []"],
    );
    check(&[frame(0x41, b""), frame(0x80, b"\x00")], &["text "]);
}

#[test]
fn rsv1_stands_on_the_first_frame_of_a_message_only() {
    let hello = deflate(b"Hello");
    check(
        &[frame(0x41, &hello[..3]), frame(0xc0, &hello[3..])],
        &["error 1002"],
    );
    check(&[frame(0x01, b"plain"), frame(0xc0, &hello)], &["error 1002"]);
    for control in [0xc8, 0xc9, 0xca] {
        check(&[frame(control, b"")], &["error 1002"]);
    }
    for other in [0xe1, 0xd1, 0xa1, 0x91, 0xc3] {
        check(&[frame(other, &hello)], &["error 1002"]);
    }
    // Where nothing was agreed, nowhere.
    let limits = DecodeLimits {
        inflate: None,
        ..LIMITS
    };
    check_with(&limits, &[frame(0xc1, &hello)], &["error 1002"]);
}

#[test]
fn plain_and_compressed_messages_and_control_frames_mix() {
    let (one, two) = (deflate("zwei drei ü".as_bytes()), deflate(b"\xff\xfe\xff\xfe"));
    check(
        &[
            frame(0x81, b"plain"),
            frame(0x41, &one[..4]),
            frame(0x89, b"p"),
            frame(0x00, &one[4..5]),
            frame(0x80, &one[5..]),
            frame(0xc2, &two),
            frame(0x01, b"pl"),
            frame(0x80, b"ain"),
        ],
        &[
            "text plain",
            "ping p",
            "text zwei drei ü",
            "binary [ff, fe, ff, fe]",
            "text plain",
        ],
    );
}

/// Blocks of every kind behind each other, each with BFINAL or without.
#[test]
fn a_message_may_be_many_blocks() {
    let parts = [&b"first "[..], b"second ", b"", b"fourth ", b"last"];
    for ends in 0..32_u32 {
        for level in [0, 1, 6] {
            let mut payload = Vec::new();
            for (place, part) in parts.iter().enumerate() {
                let is_last = place + 1 == parts.len();
                if ends & (1 << place) == 0 {
                    payload.extend(zlib(part, level, FlushCompress::Sync));
                    payload.extend(if is_last { &b""[..] } else { &TAIL });
                } else {
                    payload.extend(zlib(part, level, FlushCompress::Finish));
                    payload.extend(if is_last { &b"\x00"[..] } else { b"" });
                }
            }
            let expected = ["text first second fourth last"];
            assert_eq!(feed([&frame(0xc1, &payload)[..]], &LIMITS), expected);
            assert_eq!(feed(frame(0xc1, &payload).chunks(1), &LIMITS), expected);
        }
    }
    // Two bytes each, and nothing in them.
    let mut payload = [0x03, 0x00].repeat(20_000);
    payload.push(0);
    assert_eq!(feed([&frame(0xc1, &payload)[..]], &LIMITS), ["text "]);
}

#[test]
fn broken_data_is_refused() {
    // A block of the kind that does not exist; a stored block whose length is wrong; a distance
    // before the beginning.
    check(&[frame(0xc1, b"\x07\x00")], &["error 1007"]);
    check(&[frame(0xc1, b"\x00\x05\x00\xfa\xfeHello\x00")], &["error 1007"]);
    check(&[frame(0xc1, b"\x02\x01\x00")], &["error 1007"]);
    check(&[frame(0xc2, &noise(600))], &["error 1007"]);
    // What is not taken away from the end, or too much of it.
    check(
        &[frame(0xc1, b"\xf2\x48\xcd\xc9\xc9\x07\x00\x00\x00\xff\xff")],
        &["error 1007"],
    );
    check(&[frame(0xc1, b"\xf3\x48\xcd\xc9\xc9\x07\x00")], &["error 1007"]);
    check(&[frame(0x81 | 0x40, b"Hello")], &["error 1007"]);
}

/// Whatever is missing, half a message is never taken for a whole one.
#[test]
fn a_message_cut_short_is_refused() {
    for data in [prose(40), prose(2_000), noise(30), vec![b'x'; 5_000]] {
        for level in [0, 1, 6, 9] {
            let payload = zlib(&data, level, FlushCompress::Sync);
            // The first byte of a stored block alone is how an empty message looks.
            for end in 2..payload.len() {
                let got = feed([&frame(0xc2, &payload[..end])[..]], &LIMITS);
                assert_eq!(got, ["error 1007"], "level {level}, {end} of {}", payload.len());
            }
        }
    }
}

#[test]
fn text_is_checked_as_it_comes_out() {
    check(&[frame(0xc1, &deflate(b"a\xffb"))], &["error 1007"]);
    check(&[frame(0xc1, &deflate(b"cut \xc3"))], &["error 1007"]);
    check(
        &[
            frame(0x41, &deflate("€".as_bytes())[..2]),
            frame(0x80, &deflate("€".as_bytes())[2..]),
        ],
        &["text €"],
    );
    // The rest of the frame never arrives, and need not.
    let mut data = prose(20_000);
    data[4_000] = 0xff;
    let whole = frame(0xc1, &deflate(&data));
    assert_eq!(feed([&whole[..whole.len() / 2]], &LIMITS), ["error 1007"]);
    data[4_000] = b'x';
    let whole = frame(0xc1, &deflate(&data));
    assert_eq!(feed([&whole[..whole.len() / 2]], &LIMITS), Vec::<String>::new());
}

#[test]
fn the_limit_is_that_of_the_message_and_not_of_its_payload() {
    let limits = DecodeLimits {
        message_bytes_max: 10,
        ..LIMITS
    };
    let case = |data: &[u8], expected: &str| {
        for level in [0, 6] {
            let payload = zlib(data, level, FlushCompress::Sync);
            check_with(&limits, &[frame(0xc1, &payload)], &[expected]);
            check_with(
                &limits,
                &[frame(0x41, &payload[..2]), frame(0x80, &payload[2..])],
                &[expected],
            );
        }
    };
    case(b"1234567890", "text 1234567890");
    case(b"12345678901", "error 1009");
    case(&vec![b'x'; 100_000], "error 1009");
    // The first fault counts, however the bytes come.
    case(b"123456789\xff1234", "error 1007");
    case(b"1234567890\xff234", "error 1009");
    // Noise grows a little, and is still the message that it is.
    let largest = noise(LIMITS.message_bytes_max);
    for level in [0, 6] {
        let payload = zlib(&largest, level, FlushCompress::Sync);
        assert!(payload.len() > largest.len());
        let got = feed([&frame(0xc2, &payload)[..]], &LIMITS);
        assert_eq!(got, ["binary 70000 bytes"]);
    }
    // But a payload has a limit of its own, for blocks with nothing in them, by its head alone.
    let mut head = frame(0xc2, &vec![0; 78_815]);
    head.truncate(14);
    assert_eq!(feed([&head[..]], &LIMITS), ["error 1009"]);
    let mut head = frame(0xc2, &vec![0; 78_814]);
    head.truncate(14);
    assert_eq!(feed([&head[..]], &LIMITS), Vec::<String>::new());
}

#[test]
fn bombs_are_refused_by_ratio() {
    let limits = DecodeLimits {
        message_bytes_max: 10 << 20,
        ..LIMITS
    };
    // Up to the floor anything goes.
    let data = vec![b'x'; RATIO_FLOOR_BYTES];
    let got = feed([&frame(0xc2, &deflate(&data))[..]], &limits);
    assert_eq!(got, ["binary 16384 bytes"]);
    let data = vec![b'x'; RATIO_FLOOR_BYTES + 1];
    check_with(&limits, &[frame(0xc1, &deflate(&data))], &["error 1009"]);
    // A large one is known by its beginning, and its end need not arrive.
    let bomb = frame(0xc1, &deflate(&vec![b'x'; 9 << 20]));
    let (mut decoder, mut beginning) = (Decoder::default(), bomb[..1_000].to_vec());
    assert_eq!(
        decoder.decode(&mut beginning.as_mut_slice(), &limits),
        Err(ProtocolError::InflatesTooFar)
    );
    // What shrinks well but honestly passes.
    let rows = r#"{"id":7,"state":"idle","name":"sensor"},"#.repeat(1_500);
    let wide = DecodeLimits {
        inflate: Some(InflateLimits { ratio_max: 250 }),
        ..limits
    };
    assert_eq!(
        feed([&frame(0xc1, &deflate(rows.as_bytes()))[..]], &wide),
        [format!("text {rows}")]
    );
}

/// What a peer makes us hold stays in proportion to what it has sent.
#[test]
fn an_unfinished_message_holds_little_until_much_has_arrived() {
    let whole = frame(0xc2, &deflate(&prose(60_000)));
    let mut decoder = Decoder::default();
    let mut held = |until: usize| {
        let mut decoder = std::mem::take(&mut decoder);
        let mut bytes = whole[..until].to_vec();
        assert_eq!(decoder.decode(&mut bytes.as_mut_slice(), &LIMITS), Ok(None));
        assert!(decoder.is_unfinished());
        decoder.buffered_bytes()
    };
    assert!(held(20) < 100);
    assert!(held(8 + HELD_BYTES_MAX) < 1_100);
    let begun = held(8 + HELD_BYTES_MAX + 1);
    assert!(
        (INFLATER_BYTES..INFLATER_BYTES + 8_000).contains(&begun),
        "{begun}"
    );
    assert_eq!(size_of::<Decoder>(), size_of::<usize>());
}

/// The plain frame, and whether its compressed form is another one.
#[track_caller]
fn check_compressed(plain: &Bytes, shrinks: bool) -> Bytes {
    let made = compressed(plain);
    assert_eq!(made.as_ptr() != plain.as_ptr(), shrinks, "{} bytes", plain.len());
    made
}

#[test]
fn what_is_not_worth_it_is_the_plain_frame_itself() {
    prepare_thread(DeflateSettings::default());
    check_compressed(&text(b""), false);
    check_compressed(&text(&prose(511)), false);
    let made = check_compressed(&text(&prose(520)), true);
    assert_eq!(made[0], 0xc1);
    assert!(made.len() < 400);
    check_compressed(&binary(&noise(5_000)), false);
    assert_eq!(check_compressed(&binary(&prose(100_000)), true)[0], 0xc2);
    check_compressed(&text(&prose(COMPRESSED_BYTES_MAX)), true);
    check_compressed(&text(&vec![b'x'; COMPRESSED_BYTES_MAX + 1]), false);
    prepare_thread(DeflateSettings {
        bytes_min: 0,
        level: 9,
    });
    check_compressed(&text(b""), false);
    check_compressed(&text(b"short"), false);
    check_compressed(&text(b"aaaaaaaaaaaaaaaaaaaa"), true);
}

/// zlib-rs 0.6.8 forgets where its pending output begins when it is reset before all of it was
/// taken: each time less room is left, until it panics.
#[test]
fn a_message_that_did_not_shrink_does_no_harm_to_the_next_ones() {
    prepare_thread(DeflateSettings::default());
    for len in [600, 5_000, 16_000, 40_000, COMPRESSED_BYTES_MAX] {
        for _ in 0..200_000 / len + 2 {
            check_compressed(&binary(&noise(len)), false);
        }
        check_compressed(&binary(&prose(len)), true);
    }
}

#[test]
fn what_was_done_is_counted_once() {
    prepare_thread(DeflateSettings::default());
    let data = prose(1_000);
    let _ = take_counts();
    let made = compressed(&text(&data));
    let payload = made[4..].to_vec();
    compressed(&text(b"short"));
    assert_eq!(feed([&frame(0xc1, &payload)[..]], &LIMITS).len(), 1);
    assert_eq!(feed(frame(0xc1, &payload).chunks(7), &LIMITS).len(), 1);
    feed([&frame(0xc1, b"\x07")[..]], &LIMITS);
    feed(frame(0xc2, &noise(600)).chunks(9), &LIMITS);
    feed([&frame(0xc1, &deflate(&vec![b'x'; 20_000]))[..]], &LIMITS);
    feed([&frame(0xc1, &deflate(&prose(80_000)))[..]], &LIMITS);
    assert_eq!(
        take_counts(),
        DeflateCounts {
            deflated: 1,
            deflated_from_bytes: data.len(),
            deflated_to_bytes: payload.len(),
            inflated: 2,
            inflated_from_bytes: payload.len() * 2,
            inflated_to_bytes: data.len() * 2,
            refused_data: 2,
            refused_size: 1,
            refused_ratio: 1,
        }
    );
    assert_eq!(take_counts(), DeflateCounts::default());
}

/// With our window an inflater that has no larger one must do.
#[test]
fn the_window_is_as_small_as_promised() {
    let mut data = noise(300);
    data.extend(vec![0; 6_000]);
    let again = data.clone();
    data.extend(again);
    for level in 1..=9 {
        prepare_thread(DeflateSettings { bytes_min: 0, level });
        let made = check_compressed(&binary(&data), true);
        let (_, payload) = whole_frame(&made).unwrap();
        let mut stream = Decompress::new_with_window_bits(false, WINDOW_BITS);
        let (mut out, mut chunk) = (Vec::<u8>::new(), [0; 100]);
        let mut input = payload;
        while out.len() < data.len() {
            let (taken, before) = (stream.total_in(), stream.total_out());
            stream
                .decompress(input, &mut chunk, FlushDecompress::Sync)
                .unwrap();
            input = &input[usize::try_from(stream.total_in() - taken).unwrap()..];
            out.extend(&chunk[..usize::try_from(stream.total_out() - before).unwrap()]);
        }
        assert_eq!(out, data, "level {level}");
    }
}

fn any_data() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::collection::vec(
        prop::sample::select(vec!["order ", "paid ", "ü", "😀", "\0", "x", "0,0,0,0,0,0,0,0,"]),
        0..400,
    );
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..3_000),
        words.prop_map(|words| words.concat().into_bytes()),
        (any::<u8>(), 0_usize..20_000).prop_map(|(byte, len)| vec![byte; len]),
    ]
}

proptest! {
    #[test]
    fn what_was_compressed_comes_back_in_any_cutting(
        data in any_data(),
        level in 1_u8..=9,
        cuts in prop::collection::vec(1_usize..200, 1..30),
        split in any::<prop::sample::Index>(),
    ) {
        prepare_thread(DeflateSettings { bytes_min: 0, level });
        let limits = DecodeLimits { inflate: Some(InflateLimits { ratio_max: 1_100 }), ..LIMITS };
        let (first, kind, plain) = match std::str::from_utf8(&data) {
            Ok(_) => (0x01, MessageKind::Text, text(&data)),
            Err(_) => (0x02, MessageKind::Binary, binary(&data)),
        };
        let made = compressed(&plain);
        let (_, payload) = whole_frame(&made).unwrap();
        let rsv1 = made[0] & RSV1;
        let expected = [outline(&Event::Message { kind, data: data.into() })];
        prop_assert_eq!(feed([&frame(0x80 | rsv1 | first, payload)[..]], &limits), &expected);
        let (head, tail) = payload.split_at(split.index(payload.len() + 1));
        let bytes = [frame(rsv1 | first, head), frame(0x80, tail)].concat();
        let mut pieces = Vec::new();
        let (mut rest, mut cuts) = (&bytes[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            pieces.push(piece);
            rest = tail;
        }
        prop_assert_eq!(feed(pieces, &limits), &expected);
    }

    /// One compressor for many messages, whether they shrink or not.
    #[test]
    fn no_message_spoils_the_next_one(
        messages in prop::collection::vec((any_data(), 0_usize..30_000, any::<bool>()), 1..12),
        level in 1_u8..=9,
    ) {
        prepare_thread(DeflateSettings { bytes_min: 0, level });
        let limits = DecodeLimits { inflate: Some(InflateLimits { ratio_max: 1_100 }), ..LIMITS };
        for (mut data, len, is_noisy) in messages {
            if is_noisy {
                data.extend(noise(len));
            }
            let made = compressed(&binary(&data));
            let (_, payload) = whole_frame(&made).unwrap();
            let bytes = frame(0x82 | (made[0] & RSV1), payload);
            let kind = MessageKind::Binary;
            let expected = [outline(&Event::Message { kind, data: data.into() })];
            prop_assert_eq!(feed([&bytes[..]], &limits), &expected);
        }
    }

    /// Whole or in pieces, the verdict is the same, also on what nobody meant.
    #[test]
    fn no_payload_can_do_harm(
        data in any_data(),
        harm in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        text in any::<bool>(),
        size in 1_usize..200,
    ) {
        let mut payload = deflate(&data);
        for (place, byte) in harm {
            if !payload.is_empty() {
                let place = place.index(payload.len());
                payload[place] = byte;
            }
        }
        let bytes = frame(if text { 0xc1 } else { 0xc2 }, &payload);
        let limits = DecodeLimits { message_bytes_max: 10_000, ..LIMITS };
        prop_assert_eq!(feed(bytes.chunks(size), &limits), feed([&bytes[..]], &limits));
    }
}
