//! One listener over all its connections: reads bytes as a browser would, remembers what it saw.

use fanfare_core::position::Position;
use fanfare_core::publication::WireForm;
use fanfare_core::session_id::SessionId;

use super::{CHANNELS, Dice};

/// What a listener was shown.
#[derive(Clone, Debug)]
pub(super) enum Shown {
    /// A publication: its id, channel and data.
    Publication(Position, String, String),
    /// It is told that something up to this place is missing.
    Gap(Position),
    /// It is told where it stands.
    Position(Position),
    /// A new connection begins.
    Connected(Position),
}

/// See the module's head.
pub(super) struct Listener {
    pub(super) session: SessionId,
    pub(super) form: WireForm,
    pub(super) channels: Vec<&'static str>,
    /// The shard that it is connected to.
    pub(super) place: Option<usize>,
    /// The last id that it saw.
    pub(super) seen: Option<Position>,
    pub(super) shown: Vec<Shown>,
    unfinished: Vec<u8>,
}

impl Listener {
    /// On a line that loses it listens to one channel: see `Hub::catch_up`.
    pub(super) fn new(number: usize, is_lossy: bool, dice: &mut Dice) -> Self {
        let mut channels: Vec<&'static str> = CHANNELS.into_iter().filter(|_| dice.one_in(2)).collect();
        if is_lossy {
            channels.truncate(1);
        }
        if channels.is_empty() {
            channels.push(CHANNELS[dice.roll(CHANNELS.len())]);
        }
        let form = if dice.one_in(2) {
            WireForm::WebSocketMeta
        } else {
            WireForm::EventStreamMeta
        };
        Self {
            session: SessionId(number as u128 + 1),
            form,
            channels,
            place: None,
            seen: None,
            shown: Vec::new(),
            unfinished: Vec::new(),
        }
    }

    pub(super) fn connected(&mut self, shard: usize, position: Position) {
        self.place = Some(shard);
        self.shown.push(Shown::Connected(position));
    }

    pub(super) fn cut(&mut self) -> Option<usize> {
        self.unfinished.clear();
        self.place.take()
    }

    /// More bytes have arrived.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.unfinished.extend_from_slice(bytes);
        while let Some((shown, len)) = match self.form {
            WireForm::WebSocketMeta => frame(&self.unfinished),
            _ => event(&self.unfinished),
        } {
            self.unfinished.drain(..len);
            let Some(shown) = shown else { continue };
            match &shown {
                Shown::Publication(id, ..) | Shown::Gap(id) | Shown::Position(id) => self.seen = Some(*id),
                Shown::Connected(_) => {}
            }
            self.shown.push(shown);
        }
    }
}

/// A server's text frame (RFC 6455 section 5.2), and its length.
fn frame(bytes: &[u8]) -> Option<(Option<Shown>, usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    assert_eq!(first, 0x81);
    let (start, len) = match second {
        126 => (
            4,
            usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?])),
        ),
        len => (2, usize::from(len)),
    };
    let payload = bytes.get(start..start + len)?;
    Some((Some(meta(payload)), start + len))
}

/// An event of a stream, and its length.
fn event(bytes: &[u8]) -> Option<(Option<Shown>, usize)> {
    let len = bytes.windows(2).position(|pair| pair == b"\n\n")? + 2;
    let text = std::str::from_utf8(&bytes[..len]).unwrap();
    let mut id = None;
    for line in text.lines() {
        if let Some(data) = line.strip_prefix("data: ") {
            let shown = meta(data.as_bytes());
            let (Shown::Publication(inner, ..) | Shown::Gap(inner)) = &shown else {
                panic!("{text}");
            };
            assert_eq!(id, Some(*inner));
            return Some((Some(shown), len));
        }
        if let Some(text) = line.strip_prefix("id: ") {
            id = text.parse().ok();
        }
    }
    Some((id.map(Shown::Position), len))
}

fn meta(json: &[u8]) -> Shown {
    let value: serde_json::Value = serde_json::from_slice(json).unwrap();
    let text = |name: &str| value[name].as_str().map(str::to_owned);
    let id = text("id").unwrap().parse().unwrap();
    match text("event").as_deref() {
        Some("gap") => Shown::Gap(id),
        Some("open") => Shown::Position(id),
        Some(event) => panic!("{event}"),
        None => Shown::Publication(id, text("channel").unwrap(), text("data").unwrap()),
    }
}
