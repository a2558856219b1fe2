//! The whole check against a small server in this process that keeps its publications, and that does
//! what it is told to do wrong: whoever does nothing wrong is not accused, everything else is found.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use clap::Parser as _;
use fanfare_loadtest::check::{Options, Served, judge};
use fanfare_loadtest::checker::{Fault, Report};

/// So few that also on a slow machine more are missed.
const KEPT: usize = 3;

/// What the server does wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Wrong {
    Nothing,
    /// Keeps only [`KEPT`] publications of a channel, and tells so.
    Forgets,
    /// The same, and does not tell.
    ForgetsSilently,
    /// Who comes back misses one.
    LosesOne,
    /// Who comes back hears the last one again.
    Repeats,
    /// Who comes back is told of a gap.
    CriesGap,
    /// Comes back from being killed without telling.
    HidesNewEpoch,
    /// Sends what was sent to another channel.
    Leaks,
    /// Orders what it answers with 503.
    RefusesInVain,
    /// Answers with an offset where nothing is.
    Miscounts,
    /// Lets speakers hear themselves.
    Echoes,
    /// Answers 400 to who comes back first.
    Rejects,
}

#[derive(Clone)]
struct Kept {
    offset: u64,
    text: String,
    session: Option<String>,
}

#[derive(Default)]
struct Books {
    offset: u64,
    channels: HashMap<String, Vec<Kept>>,
    sockets: Vec<TcpStream>,
    has_rejected: bool,
    over: bool,
}

struct House {
    wrong: Wrong,
    epoch: u64,
    books: Mutex<Books>,
    news: Condvar,
}

struct FakeServer {
    address: SocketAddr,
    house: Arc<House>,
}

impl Served for FakeServer {
    fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        let mut books = self.house.books.lock().unwrap();
        books.over = true;
        for socket in books.sockets.drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.house.news.notify_all();
        drop(books);
        // Lets the accepting thread see it.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(wrong: Wrong, epoch: u64) -> FakeServer {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let house = Arc::new(House {
        wrong,
        epoch,
        books: Mutex::default(),
        news: Condvar::new(),
    });
    let served = Arc::clone(&house);
    std::thread::spawn(move || {
        while let Ok((socket, _)) = listener.accept() {
            let mut books = served.books.lock().unwrap();
            if books.over {
                return;
            }
            books.sockets.push(socket.try_clone().unwrap());
            drop(books);
            let house = Arc::clone(&served);
            std::thread::spawn(move || {
                house.converse(&socket);
                let _ = socket.shutdown(Shutdown::Both);
            });
        }
    });
    FakeServer { address, house }
}

struct Asked {
    is_post: bool,
    channel: String,
    since: Option<String>,
    session: Option<String>,
    is_stream: bool,
    is_websocket: bool,
    body: String,
}

fn read_request(mut socket: &TcpStream) -> Option<Asked> {
    let mut got = Vec::new();
    let mut byte = [0];
    while !got.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte).ok()?;
        got.push(byte[0]);
    }
    let head = String::from_utf8(got).unwrap();
    let field = |name: &str| {
        head.lines()
            .find_map(|line| line.strip_prefix(name).map(str::to_owned))
    };
    let target = head.split(' ').nth(1)?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let switch = |name: &str| {
        query
            .split('&')
            .find_map(|pair| pair.strip_prefix(name).map(str::to_owned))
    };
    let mut body = vec![0; field("Content-Length: ").map_or(0, |len| len.parse().unwrap())];
    socket.read_exact(&mut body).ok()?;
    Some(Asked {
        is_post: head.starts_with("POST"),
        channel: path.strip_prefix("/ch/")?.to_owned(),
        since: field("Last-Event-ID: ").or_else(|| switch("since=")),
        session: switch("session="),
        is_stream: head.contains("Accept: text/event-stream"),
        is_websocket: head.contains("Upgrade: websocket"),
        body: String::from_utf8(body).unwrap(),
    })
}

fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).unwrap();
    let mut frame = vec![first];
    if len <= 125 {
        frame.push(u8::try_from(len).unwrap());
    } else {
        frame.push(126);
        frame.extend(len.to_be_bytes());
    }
    frame.extend(body);
    frame
}

impl House {
    fn id(&self, offset: u64) -> String {
        // Digits only: the same in base 36.
        format!("{}-{offset}", self.epoch)
    }

    fn converse(&self, mut socket: &TcpStream) {
        while let Some(asked) = read_request(socket) {
            let answer = if asked.is_post {
                self.post(&asked)
            } else if asked.is_websocket {
                return self.websocket(socket, &asked);
            } else if asked.is_stream {
                return self.event_stream(socket, &asked);
            } else {
                self.document(&asked)
            };
            let (status, body) = answer;
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", body.len());
            if socket.write_all((head + &body).as_bytes()).is_err() {
                return;
            }
        }
    }

    fn order(&self, channel: &str, text: String, session: Option<String>) -> u64 {
        let mut books = self.books.lock().unwrap();
        // With holes, as within a channel.
        books.offset += 2;
        let offset = books.offset;
        let kept = Kept {
            offset,
            text,
            session,
        };
        if self.wrong == Wrong::Leaks && offset.is_multiple_of(50) {
            for list in books.channels.values_mut() {
                list.push(kept.clone());
            }
        } else {
            books.channels.entry(channel.to_owned()).or_default().push(kept);
        }
        self.news.notify_all();
        offset
    }

    fn post(&self, asked: &Asked) -> (u16, String) {
        let offset = self.order(&asked.channel, asked.body.clone(), None);
        match self.wrong {
            Wrong::RefusesInVain if offset.is_multiple_of(50) => (503, String::new()),
            Wrong::Miscounts if offset.is_multiple_of(50) => {
                (200, format!("{{\"id\":\"{}\"}}", self.id(offset + 1)))
            }
            _ => (200, format!("{{\"id\":\"{}\"}}", self.id(offset))),
        }
    }

    /// Where a listener goes on, and whether it missed something.
    fn resume(&self, asked: &Asked) -> (u64, bool) {
        let books = self.books.lock().unwrap();
        let Some((epoch, offset)) = asked.since.as_ref().and_then(|since| since.split_once('-')) else {
            return (books.offset, false);
        };
        if epoch != self.epoch.to_string() {
            return (books.offset, self.wrong != Wrong::HidesNewEpoch);
        }
        let offset: u64 = offset.parse().unwrap();
        let list = books.channels.get(&asked.channel).map_or(&[][..], |list| list);
        let seen = list.partition_point(|kept| kept.offset <= offset);
        let oldest = list.len().saturating_sub(KEPT);
        match self.wrong {
            Wrong::Forgets | Wrong::ForgetsSilently if seen < oldest => {
                (list[oldest - 1].offset, self.wrong == Wrong::Forgets)
            }
            Wrong::LosesOne if seen + 2 < list.len() && seen > 0 => (list[seen].offset, false),
            Wrong::Repeats if seen > 0 => (list[seen - 1].offset - 1, false),
            Wrong::CriesGap if seen > 0 => (offset, true),
            _ => (offset, false),
        }
    }

    /// Waits for what a channel has behind an offset, in meta form. `None`: the end.
    fn wait(&self, asked: &Asked, after: u64) -> Option<Vec<(u64, String)>> {
        let mut books = self.books.lock().unwrap();
        loop {
            if books.over {
                return None;
            }
            let list = books.channels.get(&asked.channel).map_or(&[][..], |list| list);
            let from = list.partition_point(|kept| kept.offset <= after);
            let not_own = |kept: &&Kept| kept.session.is_none() || kept.session != asked.session;
            let channel = &asked.channel;
            let whole: Vec<(u64, String)> = list[from..]
                .iter()
                .filter(|kept| self.wrong == Wrong::Echoes || not_own(kept))
                .map(|Kept { offset, text, .. }| {
                    let id = self.id(*offset);
                    let meta = format!(r#"{{"id":"{id}","channel":"{channel}","data":"{text}"}}"#);
                    (*offset, meta)
                })
                .collect();
            if !whole.is_empty() {
                return Some(whole);
            }
            books = self.news.wait(books).unwrap();
        }
    }

    fn document(&self, asked: &Asked) -> (u16, String) {
        let (mut next, missed) = self.resume(asked);
        let mut messages = Vec::new();
        if asked.since.is_some() && (!missed || self.wrong == Wrong::CriesGap) {
            let Some(whole) = self.wait(asked, next) else {
                return (503, String::new());
            };
            next = whole.last().unwrap().0;
            messages = whole.into_iter().map(|(_, meta)| meta).collect();
        }
        let body = format!(
            r#"{{"channel":"{}","listeners":1,"next":"{}","gap":{missed},"messages":[{}]}}"#,
            asked.channel,
            self.id(next),
            messages.join(",")
        );
        (200, body)
    }

    /// Sends a channel's publications until nobody listens.
    fn follow(&self, mut socket: &TcpStream, asked: &Asked, form: impl Fn(&str, &str) -> Vec<u8>) {
        let (mut after, missed) = self.resume(asked);
        let mut bytes = Vec::new();
        if missed {
            let (id, channel) = (self.id(after), &asked.channel);
            let meta = format!(r#"{{"event":"gap","channel":"{channel}","id":"{id}"}}"#);
            bytes = form(&id, &meta);
        }
        while socket.write_all(&bytes).is_ok() {
            let Some(whole) = self.wait(asked, after) else {
                return;
            };
            bytes = whole
                .iter()
                .flat_map(|(offset, meta)| form(&self.id(*offset), meta))
                .collect();
            after = whole.last().unwrap().0;
        }
    }

    fn event_stream(&self, mut socket: &TcpStream, asked: &Asked) {
        let comes_back = asked.since.as_ref().is_some_and(|id| !id.ends_with("-0"));
        let rejects = self.wrong == Wrong::Rejects && comes_back && {
            let mut books = self.books.lock().unwrap();
            !std::mem::replace(&mut books.has_rejected, true)
        };
        let status = if rejects { 400 } else { 200 };
        let head = format!("HTTP/1.1 {status} X\r\nContent-Type: text/event-stream\r\n\r\n");
        if socket.write_all(head.as_bytes()).is_ok() && status == 200 {
            self.follow(socket, asked, |id, meta| {
                format!("id: {id}\ndata: {meta}\n\n").into_bytes()
            });
        }
    }

    fn websocket(&self, mut socket: &TcpStream, asked: &Asked) {
        if socket.write_all(b"HTTP/1.1 101 X\r\n\r\n").is_err() {
            return;
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                self.follow(socket, asked, |_, meta| frame(0x81, meta.as_bytes()));
                let _ = socket.shutdown(Shutdown::Both);
            });
            let mut socket = socket;
            let mut head = [0; 2];
            while socket.read_exact(&mut head).is_ok() {
                let mut len = usize::from(head[1] & 0x7f);
                if len == 126 {
                    let mut long = [0; 2];
                    socket.read_exact(&mut long).unwrap();
                    len = usize::from(u16::from_be_bytes(long));
                }
                // The mask is zero.
                let mut body = vec![0; 4 + len];
                if socket.read_exact(&mut body).is_err() {
                    break;
                }
                let body = body.split_off(4);
                match head[0] {
                    0x81 => {
                        let text = String::from_utf8(body).unwrap();
                        self.order(&asked.channel, text, asked.session.clone());
                    }
                    0x89 if socket.write_all(&frame(0x8a, &body)).is_err() => break,
                    _ => {}
                }
            }
            let _ = socket.shutdown(Shutdown::Both);
        });
    }
}

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

fn report(wrong: Wrong, options: &str) -> Report {
    let always = "check --fanfare none --subscribers 4 --publications 1500 --channels 2 --rate 1500";
    let options = always.split(' ').chain(options.split_whitespace());
    let options = Cli::try_parse_from(options).unwrap().options;
    let starts = AtomicU64::new(7);
    let start = move || {
        let server = serve(wrong, starts.fetch_add(1, Ordering::Relaxed));
        Ok(Box::new(server) as Box<dyn Served>)
    };
    judge(&options, 1, Arc::new(start)).unwrap().0
}

/// Runs all cases at once: each spends most of its time waiting.
#[track_caller]
fn check_all(cases: &[(Wrong, &str, &[Fault])]) -> Vec<Report> {
    let reports: Vec<Report> = std::thread::scope(|scope| {
        let running: Vec<_> = cases
            .iter()
            .map(|(wrong, options, _)| scope.spawn(|| report(*wrong, options)))
            .collect();
        running.into_iter().map(|run| run.join().unwrap()).collect()
    });
    for ((wrong, options, expected), report) in cases.iter().zip(&reports) {
        let found: Vec<Fault> = report.counts.keys().copied().collect();
        assert_eq!(&found, expected, "{wrong:?} {options}\n{report}");
    }
    reports
}

/// Everybody stays away for longer than anything is kept.
const TOO_LONG: &str = "--faults cuts --absence-publications 10 --window-may-be-exceeded --expect-gaps";

#[test]
fn who_does_nothing_wrong_is_not_accused() {
    let reports = check_all(&[
        (Wrong::Nothing, "", &[]),
        (Wrong::Nothing, "--faults cuts --absence 50", &[]),
        (Wrong::Nothing, "--faults all", &[]),
        (Wrong::Nothing, "--talk --faults cuts", &[]),
        (Wrong::Nothing, "--kill 2 --epoch-may-change", &[]),
        (
            Wrong::Forgets,
            "--faults cuts --absence 300 --window-may-be-exceeded",
            &[],
        ),
        (Wrong::Forgets, TOO_LONG, &[]),
        (Wrong::Nothing, "--storms 2 --absence-publications 20", &[]),
    ]);
    let summaries: Vec<_> = reports.iter().map(|report| report.summary).collect();
    let [plain, cut, _, talk, killed, short, long, stormy] = summaries[..] else {
        unreachable!()
    };
    assert_eq!((plain.sent, plain.accepted, plain.cuts), (1_502, 1_502, 0));
    assert!(cut.cuts > 12 && cut.gaps == 0, "{cut:?}");
    assert!(talk.sent == 1_502 && talk.accepted > 1_000, "{talk:?}");
    assert!(killed.gaps > 0 && short.gaps > 0, "{killed:?} {short:?}");
    // Who is cut again before it is told comes back once more.
    assert!(long.returns > 0 && long.gaps > 0, "{long:?}");
    assert!(stormy.cuts >= 24 && stormy.gaps == 0, "{stormy:?}");
}

#[test]
fn what_goes_wrong_when_somebody_comes_back_is_found() {
    for way in ["websocket", "event-stream", "long-poll"] {
        let options = &*format!("--faults cuts --absence 300 --transports {way}");
        check_all(&[
            (Wrong::LosesOne, options, &[Fault::Lost]),
            (Wrong::Repeats, options, &[Fault::Repeated]),
            (Wrong::ForgetsSilently, options, &[Fault::Lost]),
            (Wrong::Forgets, options, &[Fault::NeedlessGap]),
            (Wrong::CriesGap, options, &[Fault::NeedlessGap]),
        ]);
    }
}

#[test]
fn what_goes_wrong_in_between_is_found() {
    let streams = "--faults cuts --transports event-stream";
    let killed = "--kill 1 --window-may-be-exceeded";
    check_all(&[
        (Wrong::Leaks, "", &[Fault::WrongChannel]),
        (Wrong::RefusesInVain, "", &[Fault::Refused]),
        (Wrong::Miscounts, "", &[Fault::Lost, Fault::Misplaced]),
        (Wrong::Echoes, "--talk", &[Fault::HeardItself]),
        (Wrong::HidesNewEpoch, killed, &[Fault::SilentEpoch]),
        (Wrong::Rejects, streams, &[Fault::Broken]),
        (
            Wrong::ForgetsSilently,
            TOO_LONG,
            &[Fault::Lost, Fault::SilentReturn],
        ),
    ]);
}
