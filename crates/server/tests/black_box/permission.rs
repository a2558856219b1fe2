//! Who may do what, asked over real sockets: every way in, every identity, every place it can be
//! shown in, every kind of channel. The answers come from [`expected`], which is written from the
//! documents (`docs/plain.md`, "Who may do what", "Tokens" and "Refusals"; `SECURITY.md`) and
//! shares nothing with the server.
//!
//! A new door adds its ways to [`Way`] and says in [`ask`] how to try them; the oracle is the same
//! for all doors, since permission is.

// The rows of a table stay apart, also where they come to the same.
#![allow(clippy::match_same_arms)]

use std::collections::BTreeMap;

use crate::support::back_end::BackEnd;
use crate::support::token::{claims, now, signed, token};
use crate::support::{KEY, Peer, Said, Server, bearer, frame, handshake};
use serde_json::{Value, json};

const OLD_KEY: &str = "the key that this server had before";

/// A way to ask for something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    WebSocket,
    /// On a connection that has served a request before.
    WebSocketLater,
    /// With what is kept.
    WebSocketKept,
    EventStream,
    EventStreamLater,
    EventStreamKept,
    Document,
    /// The document with what is kept.
    Kept,
    /// The document of who comes back.
    Poll,
    /// The document with who listens.
    Users,
    Post,
    Batch,
    Frame,
    /// `/user/{id}`: speak to a person, look whether she is there, send her away.
    PersonPost,
    PersonLook,
    PersonAway,
    /// `/ch/{name}/user/{id}`: have a person's connections join or leave a channel.
    Join,
    Leave,
    /// Empties a channel and sends its listeners away.
    Delete,
}

const WAYS: [Way; 19] = [
    Way::WebSocket,
    Way::WebSocketLater,
    Way::WebSocketKept,
    Way::EventStream,
    Way::EventStreamLater,
    Way::EventStreamKept,
    Way::Document,
    Way::Kept,
    Way::Poll,
    Way::Users,
    Way::Post,
    Way::Batch,
    Way::Frame,
    Way::PersonPost,
    Way::PersonLook,
    Way::PersonAway,
    Way::Join,
    Way::Leave,
    Way::Delete,
];

impl Way {
    /// "(the back end)": whose it is does not depend on the channel.
    fn is_back_ends(self) -> bool {
        matches!(
            self,
            Self::PersonPost | Self::PersonLook | Self::PersonAway | Self::Join | Self::Leave | Self::Delete
        )
    }

    fn listens(self) -> bool {
        !self.is_back_ends() && !matches!(self, Self::Post | Self::Batch)
    }

    fn speaks(self) -> bool {
        matches!(self, Self::Post | Self::Batch | Self::Frame | Self::PersonPost)
    }
}

/// Who somebody is, as far as the credential says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Shown {
    Nothing,
    Key,
    OldKey,
    WrongKey,
    Expired,
    NotYet,
    Endless,
    BadSignature,
    OtherKey,
    Unsigned,
    NumberForUser,
    User(&'static str),
    Listen,
    Speak,
    Both,
    Everything,
    Elsewhere,
}

const SHOWN: [Shown; 18] = [
    Shown::Nothing,
    Shown::Key,
    Shown::OldKey,
    Shown::WrongKey,
    Shown::Expired,
    Shown::NotYet,
    Shown::Endless,
    Shown::BadSignature,
    Shown::OtherKey,
    Shown::Unsigned,
    Shown::NumberForUser,
    Shown::User("42"),
    Shown::User("43"),
    Shown::Listen,
    Shown::Speak,
    Shown::Both,
    Shown::Everything,
    Shown::Elsewhere,
];

/// Where it is shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    Field,
    Query,
    /// A cookie, and what the browser says of the page that asks.
    Cookie(Page),
    /// Nowhere: a session of the back end knows it, by its own cookie, and the server asks (`on_connect`).
    Session(Page),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Page {
    /// `Origin` is the server's own.
    Own,
    /// `Origin` is another site.
    Foreign,
    /// No `Origin`, and nothing else.
    Unsaid,
    /// No `Origin`, but `Sec-Fetch-Site: same-origin`.
    SameOrigin,
    /// No `Origin`, but `Sec-Fetch-Site: cross-site`.
    CrossSite,
}

const PLACES: [Place; 11] = [
    Place::Field,
    Place::Query,
    Place::Cookie(Page::Own),
    Place::Cookie(Page::Foreign),
    Place::Cookie(Page::Unsaid),
    Place::Cookie(Page::SameOrigin),
    Place::Cookie(Page::CrossSite),
    Place::Session(Page::Own),
    Place::Session(Page::Foreign),
    Place::Session(Page::Unsaid),
    Place::Session(Page::SameOrigin),
];

/// Public, open to talk; public; private; private and in the list of those open to talk; a user's
/// own, and another's; everyone.
const CHANNELS: [&str; 7] = [
    "main",
    "orders",
    "private/7",
    "private/open",
    "user/42",
    "user/43",
    "*",
];

/// Those of them that the ways of the back end are tried with.
const BACK_ENDS: [&str; 3] = ["orders", "private/7", "user/43"];

#[derive(Clone, Copy, Debug)]
struct Cell {
    way: Way,
    shown: Shown,
    place: Place,
    channel: &'static str,
}

impl Cell {
    /// The person that a way of people is about.
    fn person(&self) -> &'static str {
        self.channel.strip_prefix("user/").unwrap_or("42")
    }

    /// Where a message is heard.
    fn heard_on(&self) -> String {
        match self.way {
            Way::PersonPost => format!("user/{}", self.person()),
            _ => self.channel.to_owned(),
        }
    }
}

/// The credential as text.
fn credential(cell: &Cell) -> Option<String> {
    let channel = cell.channel;
    Some(match cell.shown {
        Shown::Nothing => return None,
        Shown::Key => KEY.to_owned(),
        Shown::OldKey => OLD_KEY.to_owned(),
        Shown::WrongKey => "a key that is long enough for a tesT".to_owned(),
        Shown::Expired => signed(
            KEY,
            &json!({"sub": "42", "listen": ["*"], "speak": ["*"], "exp": now() - 3_600}),
        ),
        Shown::NotYet => token(json!({"sub": "42", "listen": ["*"], "speak": ["*"], "nbf": now() + 3_600})),
        Shown::Endless => signed(KEY, &json!({"sub": "42", "listen": ["*"], "speak": ["*"]})),
        Shown::BadSignature => {
            let mut token = token(json!({"sub": "42", "listen": ["*"], "speak": ["*"]}));
            let last = if token.pop() == Some('A') { 'E' } else { 'A' };
            token.push(last);
            token
        }
        Shown::OtherKey => signed(
            "somebody else's key of 32 bytes!",
            &claims(json!({"sub": "42", "listen": ["*"]})),
        ),
        Shown::Unsigned => {
            let signed = token(json!({"sub": "42", "listen": ["*"], "speak": ["*"]}));
            // {"alg":"none"}
            format!("eyJhbGciOiJub25lIn0.{}.", signed.split('.').nth(1).unwrap())
        }
        Shown::NumberForUser => token(json!({"sub": 42, "listen": ["*"], "speak": ["*"]})),
        Shown::User(user) => token(json!({"sub": user})),
        Shown::Listen => token(json!({"sub": "7", "listen": [channel]})),
        Shown::Speak => token(json!({"sub": "7", "speak": [channel]})),
        Shown::Both => token(json!({"sub": "7", "listen": [channel], "speak": [channel]})),
        Shown::Everything => token(json!({"sub": "7", "listen": ["*"], "speak": ["*"]})),
        Shown::Elsewhere => token(json!({"sub": "7", "listen": ["private/70"], "speak": ["orders/*"]})),
    })
}

/// What a session of the back end says of its owner; `None`: there is no session.
fn session(cell: &Cell) -> Option<Value> {
    let channel = cell.channel;
    Some(match cell.shown {
        Shown::Nothing => json!({}),
        Shown::Expired => json!({"user": "42", "listen": ["*"], "speak": ["*"], "exp": now() - 3_600}),
        Shown::Endless => json!({"user": "42", "listen": ["*"], "speak": ["*"]}),
        Shown::NumberForUser => json!({"user": 42, "listen": ["*"], "speak": ["*"]}),
        Shown::User(user) => json!({"user": user}),
        Shown::Listen => json!({"user": "7", "listen": [channel]}),
        Shown::Speak => json!({"user": "7", "speak": [channel]}),
        Shown::Both => json!({"user": "7", "listen": [channel], "speak": [channel]}),
        Shown::Everything => json!({"user": "7", "listen": ["*"], "speak": ["*"]}),
        Shown::Elsewhere => json!({"user": "7", "listen": ["private/70"], "speak": ["orders/*"]}),
        _ => return None,
    })
}

/// A back end that answers what the session in the cookie says, and nothing of who brings none.
async fn sessions() -> String {
    let mut back_end = BackEnd::start().await;
    let url = back_end.url("/connect");
    tokio::spawn(async move {
        loop {
            let question = back_end.asked_ever().await;
            let cookie = question
                .field("cookie")
                .and_then(|field| field.split("PHPSESSID=").nth(1));
            match cookie.map(str::to_owned) {
                None => question.answer(204, ""),
                Some(id) if id == "unknown" => question.answer(401, ""),
                Some(id) => {
                    let json: Vec<u8> = id.as_bytes().chunks(2).map(digits).collect();
                    question.answer(200, std::str::from_utf8(&json).unwrap());
                }
            }
        }
    });
    url
}

fn digits(pair: &[u8]) -> u8 {
    u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()
}

// The oracle. Its first half is the text of the documents as tables; nothing of it comes from the code.

/// Which channels are private, and which are open to talk, by the settings of [`start`].
fn is_private(channel: &str) -> bool {
    matches!(channel, "private/7" | "private/open" | "user/42" | "user/43")
}

fn is_open_to_talk(channel: &str) -> bool {
    matches!(channel, "main" | "private/open")
}

/// Where clients may see who listens.
fn shows_who_listens(channel: &str) -> bool {
    matches!(channel, "orders" | "private/7")
}

/// Who somebody is taken for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Who {
    Server,
    Anonymous,
    /// Her id, and whether her token holds the channel in `listen`, and in `speak`.
    Client(&'static str, bool, bool),
    Refused,
}

fn who(with_key: bool, cell: &Cell) -> Who {
    if !with_key {
        // "A server without any key does not look at tokens"; "everyone's POST".
        return Who::Server;
    }
    let counts = match cell.place {
        Place::Field | Place::Query => true,
        // "only if the request says which page sent it", and "for what is no listening unless
        // tokens.cookie_post".
        Place::Cookie(Page::Own | Page::SameOrigin) => cell.way.listens(),
        Place::Cookie(Page::Foreign | Page::Unsaid | Page::CrossSite) => false,
        // "Cookies come along only if the page that connects may use them", and for what is no listening
        // only with tokens.cookie_post.
        Place::Session(Page::Own | Page::SameOrigin) => cell.way.listens(),
        Place::Session(_) => false,
    };
    if !counts {
        return Who::Anonymous;
    }
    let is_session = matches!(cell.place, Place::Session(_));
    match cell.shown {
        // "a number is taken for its text"; `exp` is optional.
        Shown::NumberForUser | Shown::Endless if is_session => Who::Client("42", true, true),
        Shown::Nothing => Who::Anonymous,
        // The key has one place.
        Shown::Key | Shown::OldKey if cell.place == Place::Field => Who::Server,
        Shown::Key | Shown::OldKey | Shown::WrongKey => Who::Refused,
        Shown::Expired | Shown::NotYet | Shown::Endless => Who::Refused,
        Shown::BadSignature | Shown::OtherKey | Shown::Unsigned | Shown::NumberForUser => Who::Refused,
        Shown::User(user) => Who::Client(user, false, false),
        Shown::Listen => Who::Client("7", true, false),
        Shown::Speak => Who::Client("7", false, true),
        Shown::Both | Shown::Everything => Who::Client("7", true, true),
        Shown::Elsewhere => Who::Client("7", false, false),
    }
}

/// What is answered, as the status of an HTTP answer; a close code of 44xx is the same less 4000. And who
/// is said to have spoken.
fn expected(with_key: bool, cell: &Cell) -> (u16, Option<&'static str>) {
    let Cell { way, channel, .. } = *cell;
    if let Place::Cookie(Page::Foreign) | Place::Session(Page::Foreign) = cell.place {
        // "a wrong origin is refused before", whatever else is in the request.
        return (403, None);
    }
    let who = who(with_key, cell);
    let listens = match (who, channel) {
        // `*` cannot be listened to by anyone.
        (_, "*") => 400,
        (Who::Refused, _) => 401,
        (Who::Server, _) => 200,
        (_, channel) if !is_private(channel) => 200,
        (Who::Client(_, true, _), _) => 200,
        (Who::Client(user, ..), channel) if channel.strip_prefix("user/") == Some(user) => 200,
        // "private channel without a token: 401"; "not allowed: 403".
        (Who::Anonymous, _) => 401,
        (Who::Client(..), _) => 403,
    };
    let speaks = |who: Who| match who {
        Who::Refused => (401, None),
        Who::Server => (200, None),
        // "`POST /ch/*` is the back end's alone"; "Who may not listen may do nothing else".
        _ if listens != 200 => (403, None),
        Who::Client(user, _, true) => (200, Some(user)),
        Who::Client(user, _, false) if is_open_to_talk(channel) && !is_private(channel) => (200, Some(user)),
        Who::Anonymous if is_open_to_talk(channel) && !is_private(channel) => (200, None),
        Who::Client(..) | Who::Anonymous => (403, None),
    };
    match way {
        Way::Post | Way::Batch => speaks(who),
        _ if way.is_back_ends() => match who {
            Who::Server => (200, None),
            Who::Refused => (401, None),
            Who::Anonymous | Who::Client(..) => (403, None),
        },
        // "for the back end, or where channels.presence says so", to who may listen.
        Way::Users if listens == 200 && who != Who::Server && !shows_who_listens(channel) => (403, None),
        Way::Frame if listens != 200 => (listens, None),
        // "whoever speaks over a WebSocket" is a client.
        Way::Frame if who == Who::Server => speaks(Who::Anonymous),
        Way::Frame => speaks(who),
        _ => (listens, None),
    }
}

// How to ask.

/// Path, query and fields of a request that carries the credential.
fn request(server: &Server, cell: &Cell) -> (String, String) {
    let mut query = vec!["echo=1".to_owned()];
    let mut fields = String::new();
    match (cell.place, credential(cell)) {
        (Place::Session(_), _) => {
            let session = session(cell).map(|says| says.to_string());
            let id = session.map(|says| says.bytes().map(|byte| format!("{byte:02x}")).collect());
            let id: String = id.unwrap_or_else(|| "unknown".to_owned());
            fields = format!("Cookie: a=b; PHPSESSID={id}\r\n");
        }
        (_, None) => {}
        (Place::Field, Some(text)) => fields = bearer(&text),
        (Place::Query, Some(text)) => query.push(format!("token={}", text.replace(' ', "+"))),
        (Place::Cookie(_), Some(text)) => fields = format!("Cookie: a=b; fanfare_token={text}\r\n"),
    }
    let own = format!("Origin: http://{}\r\n", server.address);
    let page = match cell.place {
        Place::Cookie(page) | Place::Session(page) => page,
        Place::Field | Place::Query => Page::Unsaid,
    };
    fields.push_str(match page {
        Page::Own => &own,
        Page::Foreign => "Origin: https://evil.example\r\n",
        Page::SameOrigin => "Sec-Fetch-Site: same-origin\r\n",
        Page::CrossSite => "Sec-Fetch-Site: cross-site\r\n",
        Page::Unsaid => "",
    });
    match cell.way {
        Way::Kept | Way::WebSocketKept | Way::EventStreamKept => query.push("last=5".to_owned()),
        Way::Users => query.push("users=1".to_owned()),
        // No id of this server, so it is answered at once.
        Way::Poll => query.push("since=x".to_owned()),
        _ => {}
    }
    let (channel, person) = (cell.channel, cell.person());
    let path = match cell.way {
        Way::Batch => "/ch".to_owned(),
        Way::PersonPost | Way::PersonLook | Way::PersonAway => format!("/user/{person}"),
        Way::Join | Way::Leave => format!("/ch/{}/user/{person}", channel.replace('/', "%2F")),
        // Nobody listens there, or he would be sent away.
        Way::Delete => format!("/ch/{channel}/deleted"),
        _ => format!("/ch/{channel}"),
    };
    (format!("{path}?{}", query.join("&")), fields)
}

/// A connection, used already if the way asks for that.
async fn connect(server: &Server, way: Way) -> Peer {
    let mut peer = server.connect().await;
    if matches!(way, Way::WebSocketLater | Way::EventStreamLater) {
        let (status, ..) = peer.request("GET", "/health", "", b"").await;
        assert_eq!(status, 200);
    }
    peer
}

/// Opens a WebSocket; the status of the handshake if there is none, else of the close that follows.
async fn open(server: &Server, cell: &Cell) -> Result<Peer, u16> {
    let mut peer = connect(server, cell.way).await;
    let (path, fields) = request(server, cell);
    // The server's own name, since `Origin` may be compared with it.
    let host = format!("Host: {}\r\n", server.address);
    peer.send_head(&handshake(&path, &(host + &fields))).await;
    let head = peer.head().await;
    if !head.starts_with("HTTP/1.1 101") {
        return Err(status(&head));
    }
    peer.send(&frame(0x89, b"open?")).await;
    match peer.hear().await {
        Said::Pong(_) => Ok(peer),
        Said::Close(code, _) => Err(code - 4_000),
        said => panic!("{cell:?}: {said:?}"),
    }
}

fn status(head: &str) -> u16 {
    head.split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap()
}

/// Tries a cell; `number` is the message where it speaks.
async fn ask(server: &Server, cell: &Cell, number: usize) -> u16 {
    let (path, fields) = request(server, cell);
    match cell.way {
        Way::WebSocket | Way::WebSocketLater | Way::WebSocketKept => {
            open(server, cell).await.err().unwrap_or(200)
        }
        Way::EventStream | Way::EventStreamLater | Way::EventStreamKept => {
            let mut peer = connect(server, cell.way).await;
            let accept = format!("Accept: text/event-stream\r\n{fields}");
            let host = &server.address;
            peer.send_head(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{accept}\r\n"))
                .await;
            let head = peer.head().await;
            let is_stream = head.to_lowercase().contains("text/event-stream");
            assert_eq!(is_stream, status(&head) == 200, "{head}");
            status(&head)
        }
        Way::Document | Way::Kept | Way::Poll | Way::Users | Way::PersonLook => {
            server.request("GET", &path, &fields, b"").await.0
        }
        Way::Join => server.request("PUT", &path, &fields, b"").await.0,
        Way::PersonAway | Way::Leave | Way::Delete => server.request("DELETE", &path, &fields, b"").await.0,
        Way::Post | Way::PersonPost => {
            let message = number.to_string();
            server.request("POST", &path, &fields, message.as_bytes()).await.0
        }
        Way::Batch => {
            let line = json!({"channel": cell.channel, "data": number.to_string()}).to_string();
            let fields = format!("{fields}Content-Type: application/x-ndjson\r\n");
            server.request("POST", &path, &fields, line.as_bytes()).await.0
        }
        Way::Frame => match open(server, cell).await {
            Err(status) => status,
            Ok(mut peer) => {
                peer.say(&number.to_string()).await;
                match peer.hear().await {
                    Said::Text(echo) if echo == number.to_string() => 200,
                    Said::Close(code, _) => code - 4_000,
                    said => panic!("{cell:?}: {said:?}"),
                }
            }
        },
    }
}

async fn start(with_key: bool) -> Server {
    let sessions = sessions().await;
    let mut settings = vec![
        ("FANFARE_CHANNELS_TALK", "main,private/open"),
        ("FANFARE_CHANNELS_PRESENCE", "orders,private/7"),
        // Some thousand refusals are no news.
        ("FANFARE_LOG_LEVEL", "warn"),
    ];
    if with_key {
        settings.extend([("FANFARE_KEY", KEY), ("FANFARE_KEY_PREVIOUS", OLD_KEY)]);
        settings.push(("FANFARE_HOOKS_ON_CONNECT", &sessions));
    }
    Server::start(&settings)
}

fn cells() -> impl Iterator<Item = Cell> {
    WAYS.into_iter().flat_map(|way| {
        SHOWN.into_iter().flat_map(move |shown| {
            PLACES.into_iter().flat_map(move |place| {
                let channels = if way.is_back_ends() {
                    &BACK_ENDS[..]
                } else {
                    &CHANNELS
                };
                channels.iter().map(move |&channel| Cell {
                    way,
                    shown,
                    place,
                    channel,
                })
            })
        })
    })
}

/// Somebody who hears everything.
async fn witness(server: &Server, with_key: bool) -> Peer {
    let names: Vec<String> = CHANNELS
        .iter()
        .filter(|name| **name != "*")
        .map(|name| format!("name={name}"))
        .collect();
    let key = if with_key { bearer(KEY) } else { String::new() };
    server
        .websocket_with(&format!("/ch?{}", names.join("&")), &key)
        .await
}

/// Tries all cells on one server. What was said must be heard, with its speaker, and nothing else.
async fn check_all(with_key: bool) {
    let server = start(with_key).await;
    let mut witness = witness(&server, with_key).await;
    let (mut wrong, mut outcomes, mut count) = (Vec::new(), BTreeMap::<u16, usize>::new(), 0);
    let mut said = BTreeMap::new();
    for (number, cell) in cells().enumerate() {
        let (status, speaker) = expected(with_key, &cell);
        let got = ask(&server, &cell, number).await;
        if got != status {
            wrong.push(format!("{cell:?}: {got} instead of {status}"));
        }
        if cell.way.speaks() && status == 200 {
            said.insert(number, (cell.heard_on(), speaker));
        }
        *outcomes.entry(got).or_default() += 1;
        count += 1;
    }
    println!(
        "with a key: {with_key}; {count} cells, by outcome: {outcomes:?}; {} wrong",
        wrong.len()
    );
    assert!(
        wrong.is_empty(),
        "{} wrong, such as\n{}",
        wrong.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
    assert!(
        count >= 1_000 && outcomes.values().all(|&count| count > 50),
        "{outcomes:?}"
    );

    let key = bearer(KEY);
    server.request("POST", "/ch/main", &key, b"end").await;
    let mut heard = BTreeMap::new();
    loop {
        let Said::Text(text) = witness.hear().await else {
            panic!("the witness lost its connection");
        };
        let said: Value = serde_json::from_str(&text).unwrap();
        if said["data"] == "end" {
            break;
        }
        let number: usize = said["data"].as_str().unwrap().parse().unwrap();
        let of = (
            said["channel"].as_str().unwrap().to_owned(),
            said["user"].as_str().map(str::to_owned),
        );
        assert!(heard.insert(number, of).is_none(), "{number} was heard twice");
    }
    let said: BTreeMap<_, _> = said
        .into_iter()
        .map(|(number, (channel, speaker))| (number, (channel, speaker.map(str::to_owned))))
        .collect();
    assert_eq!(heard, said);
}

/// What one publishes under an idempotency key does not take the place of what another does.
#[tokio::test]
async fn an_idempotency_key_is_its_senders_own() {
    let server = start(true).await;
    let mut listener = server.websocket("/").await;
    let who = [
        String::new(),
        bearer(&token(json!({"sub": "42"}))),
        bearer(&token(json!({"sub": "43"}))),
        bearer(KEY),
    ];
    for (number, credential) in who.iter().enumerate() {
        let fields = format!("{credential}Idempotency-Key: order-7\r\n");
        let message = number.to_string();
        let (first, _, answer) = server
            .request("POST", "/ch/main", &fields, message.as_bytes())
            .await;
        let (again, _, repeated) = server.request("POST", "/ch/main", &fields, b"again").await;
        assert_eq!((first, again, &answer), (200, 200, &repeated));
        assert_eq!(listener.hear().await, Said::Text(message), "{credential:?}");
    }
    // Two tokens of one user are one sender, and so are both keys of the server.
    let old = bearer(OLD_KEY) + "Idempotency-Key: order-7\r\n";
    server.request("POST", "/ch/main", &old, b"again").await;
    let last = bearer(KEY);
    server.request("POST", "/ch/main", &last, b"last").await;
    assert_eq!(listener.hear().await, Said::Text("last".to_owned()));
}

#[tokio::test]
async fn every_way_identity_place_and_channel_with_a_key() {
    check_all(true).await;
}

#[tokio::test]
async fn every_way_identity_place_and_channel_in_development() {
    check_all(false).await;
}
