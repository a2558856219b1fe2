//! Fixed work on the fan-out path, for counting instructions.
//!
//! Run under callgrind by `cargo xtask instructions`, which collects only inside [`measured`] and
//! compares with `crates/core/instructions.toml`. Without callgrind it just does the work. The
//! argument is the case's name; without one, the names are printed.

use std::hint::black_box;
use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::Bytes;
use fanfare_core::app::AppId;
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
];

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
