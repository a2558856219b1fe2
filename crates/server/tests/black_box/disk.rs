//! The disk engine: what was answered is there after a kill, and who comes back over it misses
//! nothing; what cannot be written is refused.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;

use crate::support::{PATIENCE, Peer, Said, Server, command, frame, id_of, limited};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::io::AsyncWriteExt;

fn start(folder: &Path, settings: &[(&str, &str)]) -> Server {
    let folder = folder.to_str().unwrap();
    let own = [("FANFARE_ENGINE", "disk"), ("FANFARE_DATA_DIR", folder)];
    Server::start(&[&own[..], settings].concat())
}

/// One request on a connection that stays; `None` when the connection has broken.
async fn ask(peer: &mut Peer, request: &str) -> Option<(u16, String)> {
    peer.socket.write_all(request.as_bytes()).await.ok()?;
    loop {
        let text = String::from_utf8_lossy(&peer.got).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.unwrap().parse().unwrap();
            if body.len() >= length {
                peer.got.clear();
                let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                return Some((status, body.to_owned()));
            }
        }
        if !peer.more().await {
            return None;
        }
    }
}

fn number(id: &str) -> u64 {
    id.split_once('-').unwrap().1.parse().unwrap()
}

/// What all publishers know.
#[derive(Default)]
struct Knowledge {
    sent: BTreeSet<String>,
    /// Message and id, in the order of the answers.
    accepted: Vec<(String, String)>,
}

/// Publishes one message after the other, each when the last is answered, until the connection
/// breaks.
async fn publish_all(mut peer: Peer, name: String, said: Rc<RefCell<Knowledge>>) {
    let mut last = 0;
    for number_of in 0.. {
        let message = format!("{name}-{number_of}");
        let channel = ["a", "b"][number_of % 2];
        said.borrow_mut().sent.insert(message.clone());
        let request = format!(
            "POST /ch/{channel} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{message}",
            message.len()
        );
        let Some((status, answer)) = ask(&mut peer, &request).await else {
            return;
        };
        assert_eq!(status, 200, "{answer}");
        let id = id_of(&answer);
        assert!(number(&id) > last, "{id} after {last}");
        last = number(&id);
        said.borrow_mut().accepted.push((message, id));
    }
}

#[derive(Clone, Copy, Debug)]
enum Way {
    WebSocket,
    Stream,
    Poll,
}

/// A listener over all lives of the server.
struct Listener {
    way: Way,
    last: String,
    /// Message and id.
    heard: Vec<(String, String)>,
}

impl Listener {
    fn hears(&mut self, message: &serde_json::Value) {
        assert!(
            message["event"].is_null(),
            "{:?} heard {message} since {}",
            self.way,
            self.last
        );
        let text = |name: &str| message[name].as_str().unwrap().to_owned();
        self.last = text("id");
        self.heard.push((text("data"), text("id")));
    }

    fn hears_text(&mut self, text: &str) {
        self.hears(&serde_json::from_str(text).unwrap());
    }

    fn has_heard(&self, end: Option<&str>) -> bool {
        end.is_some_and(|end| self.heard.last().is_some_and(|(last, _)| last == end))
    }

    /// Comes back to where it was, and listens until the connection breaks, or until `end`.
    async fn listen(
        mut self,
        server: &Server,
        end: Option<&'static str>,
    ) -> impl Future<Output = Self> + use<> {
        let path = format!("/ch?name=a&name=b&meta=1&since={}", self.last);
        let mut peer = match self.way {
            Way::WebSocket => server.websocket(&path).await,
            Way::Stream => server.stream(&path, "").await,
            Way::Poll => server.connect().await,
        };
        async move {
            while !self.has_heard(end) {
                match self.way {
                    Way::WebSocket => match peer.hear().await {
                        Said::Text(text) => self.hears_text(&text),
                        Said::End => break,
                        other => panic!("{other:?}"),
                    },
                    Way::Stream => {
                        let Some(at) = peer.got.windows(2).position(|part| part == b"\n\n") else {
                            if peer.more().await {
                                continue;
                            }
                            break;
                        };
                        let block: Vec<u8> = peer.got.drain(..at + 2).collect();
                        let block = String::from_utf8(block).unwrap();
                        if let Some(data) = block.lines().find_map(|line| line.strip_prefix("data: ")) {
                            self.hears_text(data);
                        }
                    }
                    Way::Poll => {
                        let request = format!(
                            "GET /ch?name=a&name=b&since={} HTTP/1.1\r\nHost: localhost\r\n\r\n",
                            self.last
                        );
                        let Some((status, body)) = ask(&mut peer, &request).await else {
                            break;
                        };
                        assert_eq!(status, 200, "{body}");
                        let document: serde_json::Value = serde_json::from_str(&body).unwrap();
                        assert!(document["gap"].is_null(), "{body}");
                        for message in document["messages"].as_array().unwrap() {
                            self.hears(message);
                        }
                        document["next"].as_str().unwrap().clone_into(&mut self.last);
                    }
                }
            }
            self
        }
    }
}

#[tokio::test]
async fn twenty_kills_lose_nothing_and_double_nothing() {
    const ROUNDS: usize = 20;
    let folder = tempfile::tempdir().unwrap();
    let settings = [
        ("FANFARE_HISTORY_PUBLICATIONS", "1000000"),
        ("FANFARE_HISTORY_BYTES", "100000000"),
        ("FANFARE_LIMITS_OUTBOX_BYTES_MAX", "20000000"),
        ("FANFARE_LIMITS_MAILBOX_BYTES_MAX", "100000000"),
    ];
    let said = Rc::new(RefCell::new(Knowledge::default()));
    let mut listeners: Vec<Listener> = Vec::new();
    for round in 0..ROUNDS {
        let server = start(folder.path(), &settings);
        if round == 0 {
            let last = server.next("/ch/a").await;
            let ways = [Way::WebSocket, Way::Stream, Way::Poll];
            listeners.extend(ways.map(|way| Listener {
                way,
                last: last.clone(),
                heard: Vec::new(),
            }));
        }
        let tasks = tokio::task::LocalSet::new();
        let before = said.borrow().accepted.len();
        let mut listening = Vec::new();
        for listener in listeners.drain(..) {
            listening.push(tasks.spawn_local(listener.listen(&server, None).await));
        }
        for publisher in 0..4 {
            let (peer, said) = (server.connect().await, Rc::clone(&said));
            tasks.spawn_local(publish_all(peer, format!("{round}-{publisher}"), said));
        }
        let enough = async {
            // Some rounds end early, others late.
            while said.borrow().accepted.len() < before + 10 + 37 * round {
                tokio::task::yield_now().await;
            }
        };
        let enough = tasks.run_until(enough);
        tokio::time::timeout(PATIENCE, enough).await.unwrap();
        // SIGKILL, in the midst of whatever it does.
        drop(server);
        tasks
            .run_until(async {
                for listening in listening {
                    listeners.push(listening.await.unwrap());
                }
            })
            .await;
        tasks.await;
    }
    let server = start(folder.path(), &settings);
    assert_eq!(server.post("/ch/a", b"end").await.0, 200);
    let said = said.take();
    let accepted: BTreeSet<&(String, String)> = said.accepted.iter().collect();
    assert_eq!(accepted.len(), said.accepted.len());
    let epochs: BTreeSet<&str> = said
        .accepted
        .iter()
        .map(|(_, id)| id.split('-').next().unwrap())
        .collect();
    assert_eq!(epochs.len(), 1, "the epoch has changed");
    let mut first: Option<Vec<(String, String)>> = None;
    for listener in listeners {
        let mut listener = listener.listen(&server, Some("end")).await.await;
        let way = listener.way;
        listener.heard.pop();
        let heard = listener.heard;
        let rises = heard
            .windows(2)
            .all(|pair| number(&pair[0].1) < number(&pair[1].1));
        assert!(rises, "{way:?}: ids do not rise");
        let messages: BTreeSet<&String> = heard.iter().map(|(message, _)| message).collect();
        assert_eq!(messages.len(), heard.len(), "{way:?} heard something twice");
        for (message, id) in &heard {
            assert!(
                said.sent.contains(message),
                "{way:?} heard {message}, which nobody said ({id})"
            );
        }
        let heard_set: BTreeSet<&(String, String)> = heard.iter().collect();
        let missed: Vec<_> = accepted.difference(&heard_set).collect();
        assert!(missed.is_empty(), "{way:?} missed {missed:?}");
        // What one has heard of the unanswered, all have.
        match &first {
            Some(first) => assert!(*first == heard, "{way:?} heard another order"),
            None => first = Some(heard),
        }
    }
    assert_eq!(server.metric("fanfare_gaps_total").await, 0);
    assert_eq!(server.metric("fanfare_disk_unreadable_total").await, 0);
}

#[tokio::test]
async fn a_stop_and_a_start_are_no_gap_for_anybody() {
    let folder = tempfile::tempdir().unwrap();
    let rules = (
        "FANFARE_CHANNELS_RULES",
        r#"[{ channels = "none/*", history_publications = 0 }]"#,
    );
    let server = start(folder.path(), &[rules]);
    let mut quiet = server.websocket("/ch/none/a?meta=1").await;
    server.post("/ch/none/a", b"not kept").await;
    let Said::Text(text) = quiet.hear().await else {
        panic!()
    };
    let id = id_of(&text);
    server
        .post(
            "/ch/b?session=00000000000000000000000000000001&event=paid",
            "binary \u{0}".as_bytes(),
        )
        .await;
    server.post("/ch/*", b"all").await;
    let since = format!("/ch?name=b&name=none%2Fa&since={id}&wait=0");
    let before = server.request("GET", &since, "", b"").await.2;
    server.terminate();
    let (status, log) = server.wait();
    assert!(
        status.success() && log.contains("the history is on disk"),
        "{log}"
    );
    let server = start(folder.path(), &[rules]);
    let after = server.request("GET", &since, "", b"").await.2;
    let messages = |text: &str| text.split_once("\"next\"").unwrap().1.to_owned();
    assert_eq!(messages(&after), messages(&before));
    assert!(
        after.contains("paid") && after.contains("all") && !after.contains("gap"),
        "{after}"
    );
    // Who has not seen what is not kept is told, as before.
    let older = format!("{}-0", id.split('-').next().unwrap());
    let told = server
        .request("GET", &format!("/ch/none/a?since={older}&wait=0"), "", b"")
        .await
        .2;
    assert!(told.contains("\"gap\":true"), "{told}");
    // Who is excluded still is.
    let own = format!("{since}&session=00000000000000000000000000000001");
    assert!(!server.request("GET", &own, "", b"").await.2.contains("paid"));
}

fn limit(server: &Server, bytes: Option<u64>) {
    let limit = Rlimit {
        current: bytes,
        maximum: getrlimit(Resource::Fsize).maximum,
    };
    let pid = Pid::from_raw(i32::try_from(server.pid()).unwrap());
    prlimit(pid, Resource::Fsize, limit).unwrap();
}

/// No file may grow: what a full disk is to whoever writes.
#[tokio::test]
async fn what_cannot_be_stored_is_refused_and_comes_back_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path(), &[("FANFARE_DISK_SYNC", "100ms")]);
    let (_, first) = server.post("/ch/a", b"1").await;
    let mut speaker = server.websocket("/").await;
    let mut listener = server.websocket("/ch/a?meta=1").await;
    limit(&server, Some(0));
    for _ in 0..3 {
        let (status, head, body) = server.request("POST", "/ch/a", "", b"refused").await;
        assert_eq!(status, 503, "{body}");
        assert!(
            body.contains("\"storage\"") && head.contains("retry-after: 5"),
            "{head}{body}"
        );
    }
    let batch = b"{\"channel\":\"a\",\"data\":\"refused\"}\n{\"channel\":\"b\",\"data\":\"refused\"}\n";
    let ndjson = "Content-Type: application/x-ndjson\r\n";
    assert_eq!(server.request("POST", "/ch", ndjson, batch).await.0, 503);
    speaker.send(&frame(0x81, b"refused")).await;
    assert!(matches!(speaker.hear().await, Said::Close(1013, reason) if reason.contains("stored")));
    assert_eq!(server.request("GET", "/ready", "", b"").await.0, 503);
    assert_eq!(server.request("GET", "/health", "", b"").await.0, 200);
    assert!(server.metric("fanfare_disk_writes_failed_total").await >= 5);
    limit(&server, getrlimit(Resource::Fsize).maximum);
    let ready = async { while server.request("GET", "/ready", "", b"").await.0 != 200 {} };
    tokio::time::timeout(PATIENCE, ready).await.unwrap();
    let (status, second) = server.post("/ch/a", b"2").await;
    assert_eq!(
        (status, number(&id_of(&second))),
        (200, number(&id_of(&first)) + 1)
    );
    assert!(matches!(listener.hear().await, Said::Text(text) if text.contains("\"data\":\"2\"")));
    drop(server);
    let server = start(folder.path(), &[]);
    let (_, _, kept) = server.request("GET", "/ch/a?last=9", "", b"").await;
    assert!(
        kept.contains("\"1\"") && kept.contains("\"2\"") && !kept.contains("refused"),
        "{kept}"
    );
    let since = format!("/ch/a?since={}&wait=0", id_of(&first));
    assert!(!server.request("GET", &since, "", b"").await.2.contains("gap"));
}

/// Starts a server that cannot, and returns what it says.
fn fails(settings: &[(&str, &str)]) -> String {
    let mut command = command();
    command
        .env("FANFARE_LISTEN", "127.0.0.1:0")
        .env("FANFARE_ENGINE", "disk");
    let output = command.envs(settings.iter().copied()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let shown = path.to_str().unwrap();
    let server = start(&path, &[]);
    let text = fails(&[("FANFARE_DATA_DIR", shown)]);
    assert!(
        text.contains(&format!("data_dir: {shown} is in use by another fanfare")),
        "{text}"
    );
    drop(server);
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let text = fails(&[("FANFARE_DATA_DIR", file.to_str().unwrap())]);
    assert!(text.contains("data_dir: cannot make the folder"), "{text}");
    // A limit that leaves no room for a single file.
    let mut shell = limited("-f 1");
    let other = folder.path().join("other");
    let output = shell
        .env("FANFARE_LISTEN", "127.0.0.1:0")
        .env("FANFARE_ENGINE", "disk")
        .env("FANFARE_DATA_DIR", &other)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(1) && text.contains("free some space there"),
        "{text}"
    );
}
