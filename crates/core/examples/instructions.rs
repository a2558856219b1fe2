//! Fixed work on the fan-out path, and comparing with secrets, for counting instructions.
//!
//! Run under callgrind by `cargo xtask instructions`, which collects only inside [`measured`] and
//! compares with `crates/core/instructions.toml`. Without callgrind it just does the work. The
//! argument is the case's name; without one, the names are printed.

use std::hint::black_box;
use std::io::{self, IoSlice};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use fanfare_core::app::AppId;
use fanfare_core::auth::Secret;
use fanfare_core::auth::token::{TokenError, TokenRules, Verifier, VerifyingKey, sign};
use fanfare_core::channel::ChannelName;
use fanfare_core::hub::{Hub, Slot, Topic};
use fanfare_core::moment::Moment;
use fanfare_core::outbox::{Flushed, Outbox, WriteVectored};
use fanfare_core::position::{Epoch, Link, Offset};
use fanfare_core::publication::{DataKind, Draft, Publication, WireForm};
use fanfare_core::session::SessionId;
use fanfare_core::wire::http1::{self, HeadLimits};
use fanfare_core::wire::websocket::{DecodeLimits, Decoder};

const SUBSCRIBERS: Slot = 1_000;
const OUTBOX_BYTES_MAX: usize = 1 << 20;

/// A case prepares its input and hands back the work itself.
type Case = (&'static str, fn() -> Box<dyn FnMut()>);

const CASES: &[Case] = &[
    // Compressing is a library's work, and differs from processor to processor.
    ("encode_100_websocket_raw", || encode(WireForm::WebSocketRaw)),
    ("encode_100_websocket_meta", || encode(WireForm::WebSocketMeta)),
    ("encode_100_event_stream_raw", || encode(WireForm::EventStreamRaw)),
    ("encode_100_event_stream_meta", || {
        encode(WireForm::EventStreamMeta)
    }),
    ("deliver_1_to_1000", || deliver(1)),
    ("deliver_16_to_1000", || deliver(16)),
    ("deliver_16_to_1000_but_the_speaker", deliver_excluded),
    ("flush_1_to_1000", || flush(1)),
    ("flush_16_to_1000", || flush(16)),
    ("decode_100_frames", decode),
    ("parse_100_heads", parse),
    // What is compared with a secret must not tell by its time how close it came.
    ("same_key_100_right", || key(KEY.to_vec())),
    ("same_key_100_first_wrong", || key(changed(0))),
    ("same_key_100_middle_wrong", || key(changed(KEY.len() / 2))),
    ("same_key_100_last_wrong", || key(changed(KEY.len() - 1))),
    ("same_key_100_one_shorter", || key(KEY[1..].to_vec())),
    ("same_key_100_much_longer", || key(KEY.repeat(9))),
    ("same_token_100_first_wrong", || token(0)),
    ("same_token_100_middle_wrong", || token(16)),
    ("same_token_100_last_wrong", || token(31)),
];

const KEY: &[u8; 32] = b"0123456789abcdef0123456789abcdef";

fn main() {
    let Some(name) = std::env::args().nth(1) else {
        CASES.iter().for_each(|(name, _)| println!("{name}"));
        return;
    };
    let Some((_, prepare)) = CASES.iter().find(|(known, _)| *known == name) else {
        eprintln!("no case {name:?}");
        std::process::exit(2);
    };
    let mut work = prepare();
    measured(&mut *work);
}

/// Callgrind begins to count on entry and stops on return.
#[inline(never)]
fn measured(work: &mut dyn FnMut()) {
    work();
}

fn channel() -> ChannelName {
    ChannelName::new("main").unwrap_or_else(|_| unreachable!())
}

fn publications(count: u64) -> Vec<Arc<Publication>> {
    spoken(count, |_| None)
}

fn spoken(count: u64, speaker: fn(u64) -> Option<SessionId>) -> Vec<Arc<Publication>> {
    let publication = |offset| {
        let data = Bytes::from(vec![b'x'; 128]);
        let mut draft = Draft::new(AppId::DEFAULT, channel(), DataKind::Text, data);
        draft.excluded = speaker(offset);
        Arc::new(Publication::new(draft, Moment::default(), |_| Link {
            epoch: Epoch(1),
            previous: None,
            offset: Offset::new(offset).unwrap_or(Offset::FIRST),
        }))
    };
    (1..=count).map(publication).collect()
}

fn encode(form: WireForm) -> Box<dyn FnMut()> {
    let publications = publications(100);
    Box::new(move || {
        for publication in &publications {
            for place in publication.places() {
                black_box(publication.encoded(place, form));
            }
        }
    })
}

fn house() -> (Hub, Vec<Outbox>) {
    let mut hub = Hub::default();
    for slot in 0..SUBSCRIBERS {
        hub.join(
            slot,
            SessionId(slot.into()),
            AppId::DEFAULT,
            WireForm::WebSocketRaw,
        );
        hub.subscribe(slot, &Topic::Channel(channel()));
    }
    let outboxes = (0..SUBSCRIBERS).map(|_| Outbox::default()).collect();
    (hub, outboxes)
}

fn deliver_to(hub: &mut Hub, outboxes: &mut [Outbox], run: &[Arc<Publication>]) {
    hub.deliver(run, |slot, frame| {
        if let Some(outbox) = outboxes.get_mut(slot as usize) {
            let _ = black_box(outbox.push(frame.frame.clone(), OUTBOX_BYTES_MAX));
        }
    });
}

fn deliver(count: u64) -> Box<dyn FnMut()> {
    let (mut hub, mut outboxes) = house();
    let run = publications(count);
    Box::new(move || deliver_to(&mut hub, &mut outboxes, &run))
}

fn deliver_excluded() -> Box<dyn FnMut()> {
    let (mut hub, mut outboxes) = house();
    let run = spoken(16, |offset| Some(SessionId(offset.into())));
    Box::new(move || deliver_to(&mut hub, &mut outboxes, &run))
}

/// A socket that takes everything.
struct Taker;

impl WriteVectored for Taker {
    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }
}

fn flush(count: u64) -> Box<dyn FnMut()> {
    let (mut hub, mut outboxes) = house();
    // Not as one run: what has come in several turns.
    for publication in publications(count) {
        deliver_to(&mut hub, &mut outboxes, &[publication]);
    }
    Box::new(move || {
        for outbox in &mut outboxes {
            assert!(matches!(outbox.flush(&mut Taker), Ok(Flushed::All)));
        }
    })
}

fn decode() -> Box<dyn FnMut()> {
    let mut input = Vec::new();
    for _ in 0..100 {
        input.extend([0x81, 0xfe, 0, 128, 1, 2, 3, 4]);
        input.extend((0..128_u8).map(|at| b'x' ^ [1, 2, 3, 4][usize::from(at % 4)]));
    }
    let limits = DecodeLimits {
        message_bytes_max: 1 << 16,
        fragments_max: 16,
        inflate: None,
    };
    Box::new(move || {
        let mut decoder = Decoder::default();
        let mut rest = input.as_mut_slice();
        let mut count = 0;
        while let Ok(Some(event)) = decoder.decode(&mut rest, &limits) {
            black_box(event);
            count += 1;
        }
        assert_eq!(count, 100);
    })
}

fn changed(at: usize) -> Vec<u8> {
    let mut shown = KEY.to_vec();
    if let Some(byte) = shown.get_mut(at) {
        *byte ^= 1;
    }
    shown
}

fn secret() -> Secret {
    Secret::new(String::from_utf8_lossy(KEY))
}

fn key(shown: Vec<u8>) -> Box<dyn FnMut()> {
    let secret = secret();
    Box::new(move || {
        for _ in 0..100 {
            black_box(secret.matches(black_box(&shown)));
        }
    })
}

/// A token whose signature is wrong in the byte at `at`.
fn token(at: usize) -> Box<dyn FnMut()> {
    let keys = VerifyingKey::from_secret(&secret()).into_iter().collect();
    let verifier = Verifier::new(keys, TokenRules::default());
    let signed = sign(r#"{"sub":"42","exp":2000000000}"#, &secret()).unwrap_or_default();
    let (content, signature) = signed.rsplit_once('.').unwrap_or_default();
    let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap_or_default();
    signature[at] ^= 1;
    let token = format!("{content}.{}", URL_SAFE_NO_PAD.encode(signature));
    // The library prepares itself once.
    assert_eq!(verifier.verify(&token, 0), Err(TokenError::Signature));
    Box::new(move || {
        for _ in 0..100 {
            let _ = black_box(verifier.verify(black_box(&token), 0));
        }
    })
}

fn parse() -> Box<dyn FnMut()> {
    let head = b"GET /ch/main?meta=1 HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade\r\nPragma: no-cache\r\n\
        Cache-Control: no-cache\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\nUpgrade: websocket\r\n\
        Origin: https://shop.example\r\nSec-WebSocket-Version: 13\r\nAccept-Encoding: gzip, deflate, br\r\n\
        Accept-Language: en-GB,en;q=0.9\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let limits = HeadLimits {
        head_bytes_max: 16_384,
        fields_max: 100,
        target_bytes_max: 8_192,
    };
    Box::new(move || {
        for _ in 0..100 {
            let head = http1::parse(head, &limits);
            assert!(matches!(black_box(head), Ok(Some(_))));
        }
    })
}
