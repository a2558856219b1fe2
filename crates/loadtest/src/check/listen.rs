//! One lineage: a subscriber that comes back after each cut with the last place it knows.
//!
//! Whatever it hears goes into the history at once, and its cursor with it, so it can be dropped at
//! any point without the books being wrong.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::course::{Course, Stage};
use super::line::{Line, payload_of, text_of};
use super::{ANSWER_MAX, Way};
use crate::checker::{Answer, Lineage, Payload, Position};
use crate::random::Random;
use crate::wire::{self, Dechunker, Frame};

/// Longest pause between tries to connect that fail.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Pause after a poll that was answered at once with nothing.
const POLL_PAUSE: Duration = Duration::from_millis(50);

/// Something to say over a lineage's own connection.
pub(super) struct Speech {
    pub(super) payload: Payload,
    /// Told when it was said, or dropped when the connection ended before that was sure.
    pub(super) said: oneshot::Sender<()>,
}

pub(super) struct Listener {
    pub(super) course: Rc<Course>,
    /// Its number among all.
    pub(super) number: usize,
    pub(super) way: Way,
    /// Index of its channel.
    pub(super) channel: usize,
    pub(super) lineage: Lineage,
    pub(super) cursor: Position,
    /// The cursor came with an event, as a browser's `Last-Event-ID`.
    pub(super) has_event_id: bool,
    /// `&session=…`, or nothing.
    pub(super) session: String,
    pub(super) random: Random,
    /// What it is to say.
    pub(super) speeches: mpsc::Receiver<Speech>,
}

/// A publication or a notice in meta form.
#[derive(Debug, Deserialize)]
struct Meta<'a> {
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    channel: Option<Cow<'a, str>>,
    #[serde(borrow)]
    event: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<Cow<'a, str>>,
}

/// A channel as JSON.
#[derive(Debug, Deserialize)]
pub(super) struct Document<'a> {
    #[serde(borrow)]
    pub(super) next: Cow<'a, str>,
    #[serde(borrow)]
    messages: Vec<Meta<'a>>,
    #[serde(default)]
    gap: bool,
}

impl Listener {
    /// Listens until the course is over.
    pub(super) async fn run(mut self) {
        let mut stage = self.course.stage.subscribe();
        let mut failures = 0;
        loop {
            let now = *stage.borrow_and_update();
            let address = match now {
                Stage::Over => break,
                Stage::Away => {
                    if stage.changed().await.is_err() {
                        break;
                    }
                    self.was_absent();
                    continue;
                }
                Stage::Faulty if !self.course.is_faultless => self.course.proxy,
                Stage::Faulty | Stage::Calm => self.course.server.get(),
            };
            let course = Rc::clone(&self.course);
            let mut opened = false;
            let result = {
                let mut connection = std::pin::pin!(self.connection(address, &mut opened));
                loop {
                    tokio::select! {
                        result = &mut connection => break Some(result),
                        changed = stage.changed() => {
                            let stays = *stage.borrow_and_update() == Stage::Calm && course.is_faultless;
                            if !stays || changed.is_err() {
                                break None;
                            }
                        }
                    }
                }
            };
            if *stage.borrow() == Stage::Over {
                break;
            }
            if opened {
                course.history.borrow_mut().cut(self.lineage);
                failures = 0;
            } else {
                failures += 1;
            }
            if result.is_some() {
                let most = PAUSE_MAX.min(Duration::from_millis(25 << failures.min(10)));
                let most = most + if opened { course.absence } else { Duration::ZERO };
                sleep(Duration::from_millis(self.random.below(most.as_millis() as u64))).await;
                if opened && course.absence_publications > 0 {
                    self.stay_away(&mut stage).await;
                }
            }
        }
        self.course.history.borrow_mut().end(self.lineage, self.cursor);
    }

    /// Waits until the channel has had as many publications as the absence lasts, or the faults stop.
    async fn stay_away(&self, stage: &mut watch::Receiver<Stage>) {
        let mut accepted = self.course.accepted[self.channel].subscribe();
        let goal = accepted.borrow().count + self.course.absence_publications;
        tokio::select! {
            _ = accepted.wait_for(|accepted| accepted.count >= goal) => self.was_absent(),
            _ = stage.wait_for(|stage| *stage != Stage::Faulty) => {}
        }
    }

    /// It comes back from an absence of at least `absence_publications`.
    fn was_absent(&self) {
        if self.course.must_be_told && self.course.absence_publications > 0 {
            self.course.history.borrow_mut().absent(self.lineage);
        }
    }

    /// One connection. Its end is always an error; says in `opened` whether it began well.
    async fn connection(&mut self, address: SocketAddr, opened: &mut bool) -> io::Result<()> {
        let mut line = Line::connect(address).await?;
        if self.course.resets {
            line.end_by_reset()?;
        }
        if self.way == Way::LongPoll {
            return self.poll(line, opened).await;
        }
        line.send(self.request().as_bytes()).await?;
        let head = line.head().await?;
        let wanted = if self.way == Way::WebSocket { 101 } else { 200 };
        if head.status != wanted {
            return Err(self.refused(head.status));
        }
        *opened = true;
        self.course.opened(self.number);
        match self.way {
            Way::WebSocket => self.websocket(line).await,
            _ => self.event_stream(line, head.chunked).await,
        }
    }

    fn request(&self) -> String {
        let (name, cursor, session) = (self.course.name(self.channel), self.cursor, &self.session);
        let since = format!("since={cursor}{session}");
        let (path, fields) = match self.way {
            Way::WebSocket => (
                format!("/ch/{name}?meta=1&{since}"),
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                    .to_owned(),
            ),
            Way::EventStream if self.has_event_id => (
                format!("/ch/{name}?meta=1{session}"),
                format!("Accept: text/event-stream\r\nLast-Event-ID: {cursor}\r\n"),
            ),
            Way::EventStream => (
                format!("/ch/{name}?meta=1&{since}"),
                "Accept: text/event-stream\r\n".to_owned(),
            ),
            Way::LongPoll => (format!("/ch/{name}?{since}"), String::new()),
        };
        format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{fields}\r\n")
    }

    /// An answer that is no stream. "No room" is allowed, and passes.
    fn refused(&self, status: u16) -> io::Error {
        if status != 503 && status != 429 {
            self.broken(format!("was answered {status}"));
        }
        io::ErrorKind::ConnectionRefused.into()
    }

    fn broken(&self, what: String) {
        self.course.history.borrow_mut().broken(Some(self.lineage), what);
    }

    async fn websocket(&mut self, mut line: Line) -> io::Result<()> {
        let mut saying: Option<(Speech, Instant)> = None;
        loop {
            let mut used = 0;
            let mut pongs = Vec::new();
            while let Some((frame, len)) = wire::frame(line.got.get(used..).unwrap_or_default()) {
                used += len;
                match frame {
                    Frame::Data(text) => self.take(text, None),
                    Frame::Ping(payload) => pongs.extend(wire::pong(payload)),
                    Frame::Pong(of) => {
                        let of_this =
                            |(speech, _): &mut (Speech, Instant)| of == speech.payload.to_string().as_bytes();
                        if let Some((speech, _)) = saying.take_if(of_this) {
                            // Frames are taken in their order, so what was said is ordered.
                            let payload = speech.payload;
                            self.course.history.borrow_mut().answered(payload, Answer::Taken);
                            let _ = speech.said.send(());
                        }
                    }
                    // It is accused of something; other codes send it away, and it comes back.
                    Frame::Close(code @ (4_400..=4_404 | 1_002 | 1_003 | 1_007)) => {
                        self.broken(format!("was closed with {code}"));
                        return Err(io::ErrorKind::ConnectionAborted.into());
                    }
                    Frame::Close(_) => return Err(io::ErrorKind::ConnectionAborted.into()),
                    Frame::Other => {}
                }
            }
            line.got.drain(..used);
            if !pongs.is_empty() {
                line.send(&pongs).await?;
            }
            let patience = saying.as_ref().map(|(_, begun)| *begun + ANSWER_MAX);
            tokio::select! {
                more = line.more() => more?,
                Some(speech) = self.speeches.recv(), if saying.is_none() => {
                    let channel = self.course.channels[self.channel].1;
                    self.course.history.borrow_mut().invoke(speech.payload, channel, Some(self.lineage));
                    self.course.sends(speech.payload);
                    let mut frames = wire::text(text_of(speech.payload).as_bytes());
                    frames.extend(wire::ping(speech.payload.to_string().as_bytes()));
                    saying = Some((speech, Instant::now()));
                    line.send(&frames).await?;
                }
                () = sleep_until(patience.unwrap_or_else(Instant::now)), if patience.is_some() => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
        }
    }

    async fn event_stream(&mut self, mut line: Line, chunked: bool) -> io::Result<()> {
        let mut dechunker = chunked.then(Dechunker::default);
        let mut body = Vec::new();
        let mut events = Events::default();
        loop {
            let over = if let Some(dechunker) = &mut dechunker {
                dechunker.take(&line.got, &mut body)
            } else {
                body.extend_from_slice(&line.got);
                false
            };
            line.got.clear();
            let mut whole = Vec::new();
            let used = wire::lines(&body, |line| whole.extend(events.line(line)));
            body.drain(..used);
            for (id, data) in whole {
                if data.is_empty() {
                    self.take_position(&id);
                } else {
                    self.take(&data, Some(&id));
                }
            }
            if over {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            line.more().await?;
        }
    }

    async fn poll(&mut self, mut line: Line, opened: &mut bool) -> io::Result<()> {
        loop {
            let (begun, before) = (Instant::now(), self.cursor);
            line.send(self.request().as_bytes()).await?;
            // A poll that waits for something has begun well, and nobody says so.
            self.course.opened(self.number);
            let answer = line.answer().await;
            // One that was cut while it waited did not fail to begin.
            *opened |= begun.elapsed() > POLL_PAUSE;
            let (status, body) = answer?;
            if status != 200 {
                return Err(self.refused(status));
            }
            *opened = true;
            self.take_document(&body);
            if self.cursor == before && begun.elapsed() < POLL_PAUSE {
                sleep(POLL_PAUSE).await;
            }
        }
    }

    fn take_document(&mut self, body: &[u8]) {
        let document = serde_json::from_slice::<Document<'_>>(body);
        let next = document
            .as_ref()
            .ok()
            .and_then(|document| document.next.parse::<Position>().ok());
        let (Ok(document), Some(next)) = (document, next) else {
            let text = String::from_utf8_lossy(body);
            return self.broken(format!("was sent no document of a channel: {text:?}"));
        };
        if document.gap {
            // Where the next message stands is where the gap ends.
            let to = document.messages.is_empty().then_some(next);
            self.course.history.borrow_mut().gap(self.lineage, to);
        }
        for meta in document.messages {
            self.hear(&meta, None);
        }
        self.advance(next);
    }

    /// Something in meta form, with the id that its event stream gave.
    fn take(&mut self, text: &[u8], event_id: Option<&str>) {
        match serde_json::from_slice(text) {
            Ok(meta) => self.hear(&meta, event_id),
            Err(_) => self.broken(format!(
                "was sent what is not in meta form: {:?}",
                String::from_utf8_lossy(text)
            )),
        }
    }

    /// An event stream moved the reader's last id without an event.
    fn take_position(&mut self, id: &str) {
        self.has_event_id = true;
        match id.parse() {
            Ok(position) => self.advance(position),
            Err(error) => self.broken(format!("was sent a last id: {error}")),
        }
    }

    fn hear(&mut self, meta: &Meta<'_>, event_id: Option<&str>) {
        let name = self.course.name(self.channel);
        if meta.channel.as_deref() != Some(name) {
            let text = format!("listens to {name} and was sent something of {:?}", meta.channel);
            self.broken(text);
        }
        let is_gap = meta.event.as_deref() == Some("gap") && meta.data.is_none();
        let id = meta.id.as_deref().or(event_id.filter(|_| is_gap));
        let at = id.and_then(|id| id.parse::<Position>().ok());
        if event_id.is_some() && event_id != id {
            self.broken(format!("was sent the id {id:?} in an event with {event_id:?}"));
        }
        match (is_gap, at) {
            (true, to) => self.course.history.borrow_mut().gap(self.lineage, to),
            (false, Some(at)) => {
                let payload = meta.data.as_deref().and_then(payload_of);
                self.course.history.borrow_mut().heard(self.lineage, at, payload);
                if let Some(payload) = payload {
                    self.course.delivered(payload);
                }
            }
            (false, None) => self.broken(format!("was sent something without an id: {meta:?}")),
        }
        if let Some(at) = at {
            self.has_event_id |= event_id.is_some();
            self.advance(at);
        }
    }

    fn advance(&mut self, to: Position) {
        self.cursor = to;
        self.course.cursors.borrow_mut()[self.number] = to;
    }
}

/// Lines of an event stream (WHATWG HTML, section 9.2) to events.
#[derive(Default)]
struct Events {
    id: String,
    has_id: bool,
    data: Vec<u8>,
}

impl Events {
    /// What this line completes: the reader's last id, and the data, which is empty where only the
    /// id moves on.
    fn line(&mut self, line: &[u8]) -> Option<(String, Vec<u8>)> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            let mut data = std::mem::take(&mut self.data);
            // Each line of data ends with one; the last of them does not belong to it.
            let has_data = data.pop().is_some();
            let has_id = std::mem::take(&mut self.has_id);
            return (has_data || has_id).then(|| (self.id.clone(), data));
        }
        if let Some(id) = line.strip_prefix(b"id: ") {
            self.id = String::from_utf8_lossy(id).into_owned();
            self.has_id = true;
        } else if let Some(data) = line.strip_prefix(b"data: ") {
            self.data.extend_from_slice(data);
            self.data.push(b'\n');
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_end_with_an_empty_line_and_have_data_or_an_id() {
        let stream = b":\n\nretry: 100\n\nid: a-1\ndata: one\ndata: two\n\n: x\nid: a-2\r\ndata: {}\r\n\r\n\
            data: []\n\nid: a-3\n\nid: a-4\n";
        let mut events = Events::default();
        let mut whole = Vec::new();
        wire::lines(stream, |line| whole.extend(events.line(line)));
        let expected = [("a-1", "one\ntwo"), ("a-2", "{}"), ("a-2", "[]"), ("a-3", "")];
        assert_eq!(
            whole,
            expected.map(|(id, data)| (id.to_owned(), data.as_bytes().to_vec()))
        );
    }
}
