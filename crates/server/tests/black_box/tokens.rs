//! Tokens over time: they run out on open connections, are replaced there, and their keys change.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::support::token::{claims, now, signed, token};
use crate::support::{KEY, Peer, Said, Server, bearer, frame, text};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

/// Tries something with a token of so many seconds. They are real time, and a machine can be slow:
/// what fails with few of them has to hold with more.
async fn with_some_life<F: Future<Output = ()> + 'static>(attempt: impl Fn(u64) -> F) {
    for seconds in [3, 10] {
        let trying = async { tokio::task::spawn_local(attempt(seconds)).await };
        if tokio::task::LocalSet::new().run_until(trying).await.is_ok() {
            return;
        }
    }
    attempt(40).await;
}

fn start() -> Server {
    Server::start(&[("FANFARE_KEY", KEY)])
}

/// What `fanfare_token()` of `clients/php` makes of the claims `sub` 42, `listen` orders and room/*,
/// `speak` room/7, and an `exp` in 2100; its own test says so too.
const BY_PHP: (&str, &str) = (
    "a key of at least thirty-two bytes",
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.\
     eyJzdWIiOiI0MiIsImxpc3RlbiI6WyJvcmRlcnMiLCJyb29tLyoiXSwic3BlYWsiOlsicm9vbS83Il0sImV4cCI6NDEwMjQ0NDgwMH0.\
     EvxXa1zTxYMpfcZ-htbXlyldCptZsLaiUPSrmzD4YLk",
);

#[tokio::test]
async fn what_php_makes_is_accepted() {
    let (key, token) = BY_PHP;
    let settings = [("FANFARE_KEY", key), ("FANFARE_CHANNELS_PRIVATE", "room/*")];
    let server = Server::start(&settings);
    let mut listener = server
        .websocket(&format!("/ch/room%2F7?meta=1&echo=1&token={token}"))
        .await;
    listener.say("hello").await;
    let Said::Text(heard) = listener.hear().await else {
        panic!("not let in");
    };
    let heard: Value = serde_json::from_str(&heard).unwrap();
    assert_eq!((&heard["user"], &heard["data"]), (&json!("42"), &json!("hello")));
}

#[tokio::test]
async fn a_speaker_is_named_in_meta_form_only() {
    let server = start();
    let mut raw = server.websocket("/").await;
    let mut stream = server.stream("/?meta=1", "").await;
    let ann = bearer(&token(json!({"sub": "ann"})));
    let batch = format!("{ann}Content-Type: application/x-ndjson\r\n");
    let line = b"{\"channel\":\"main\",\"data\":\"x\"}";
    for (fields, path, body) in [(&ann, "/", &b"x"[..]), (&batch, "/ch", line)] {
        let (status, ..) = server.request("POST", path, fields, body).await;
        assert_eq!(status, 200);
        assert_eq!(raw.hear().await, text("x"));
        let event = stream.event().await;
        assert!(event.contains("\"user\":\"ann\""), "{event}");
    }
    // Of the server nothing is said.
    let key = bearer(KEY);
    server.request("POST", "/", &key, b"x").await;
    let event = stream.event().await;
    assert!(!event.contains("user"), "{event}");
}

#[tokio::test]
async fn a_connection_ends_when_its_token_does() {
    with_some_life(ends_with_its_token).await;
}

async fn ends_with_its_token(life: u64) {
    let server = start();
    let soon = || signed(KEY, &json!({"sub": "42", "exp": now() + life}));
    let mut websocket = server.websocket(&format!("/ch/user%2F42?token={}", soon())).await;
    let mut stream = server
        .stream(&format!("/ch/user%2F42?token={}", soon()), "")
        .await;
    // The slower lane has deadlines as well.
    let mut later = server.connect().await;
    later.request("GET", "/health", "", b"").await;
    let token = soon();
    later
        .send_head(&format!(
            "GET /ch/user%2F42?token={token} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
        ))
        .await;
    assert!(later.head().await.starts_with("HTTP/1.1 200"));
    let key = bearer(KEY);
    let (_, _, receipt) = server.request("POST", "/ch/user%2F42", &key, b"before").await;
    assert!(receipt.contains("\"listeners\":3"), "{receipt}");

    assert_eq!(websocket.hear().await, text("before"));
    let Said::Close(4401, reason) = websocket.hear().await else {
        panic!("not closed with 4401");
    };
    assert!(reason.contains("run out"), "{reason}");
    assert!(stream.event().await.contains("before"));
    while stream.more().await {}
    // Its connection lives on, as the answer is whole.
    while !later.got.ends_with(b"\r\n0\r\n\r\n") {
        assert!(later.more().await);
    }
    later.got.clear();
    let (status, ..) = later.request("GET", "/health", "", b"").await;
    assert_eq!(status, 200);

    // The next try is refused, though clocks may differ for a request that does not stay.
    let path = format!("/ch/user%2F42?token={token}");
    let (status, _, body) = server
        .request("GET", &path, "Accept: text/event-stream\r\n", b"")
        .await;
    assert_eq!(status, 401, "{body}");
    assert!(body.contains("run out"), "{body}");
    let mut refused = server.websocket(&path).await;
    assert!(matches!(refused.hear().await, Said::Close(4401, _)));
    let (status, ..) = server.request("GET", &path, "", b"").await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_long_poll_waits_no_longer_than_its_token_is_good() {
    with_some_life(waits_as_long_as_its_token).await;
}

async fn waits_as_long_as_its_token(life: u64) {
    let server = Server::start(&[("FANFARE_KEY", KEY), ("FANFARE_SESSIONS_POLL_WAIT", "600s")]);
    let token = signed(KEY, &json!({"sub": "42", "exp": now() - 60 + life}));
    let path = format!("/ch/user%2F42?token={token}");
    let next = server.next(&path).await;
    let poll = format!("{path}&since={next}");
    let (status, _, body) = server.request("GET", &poll, "", b"").await;
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("\"messages\":[]"), "{body}");
    let (status, ..) = server.request("GET", &poll, "", b"").await;
    assert_eq!(status, 401);
}

/// Opens `path` in meta form with a token of user 42 and `first` claims, brings a token with `fresh`,
/// and says what then comes of the message `x`: itself, or the close code.
async fn refreshed(
    server: &Server,
    path: &str,
    first: Value,
    fresh: Option<String>,
) -> Result<(), (u16, String)> {
    let first = token(first);
    let mut peer = server
        .websocket(&format!("{path}?meta=1&echo=1&token={first}"))
        .await;
    // In one piece, so that the message is read while the token is not judged yet.
    let mut bytes = Vec::new();
    if let Some(fresh) = fresh {
        bytes.extend(frame(0x81, json!({"token": fresh}).to_string().as_bytes()));
    }
    bytes.extend(frame(0x81, b"x"));
    peer.send(&bytes).await;
    match peer.hear().await {
        Said::Text(heard) => {
            let heard: Value = serde_json::from_str(&heard).unwrap();
            assert_eq!(heard["data"], "x", "the token was relayed");
            Ok(())
        }
        Said::Close(code, reason) => Err((code, reason)),
        said => panic!("{said:?}"),
    }
}

#[tokio::test]
async fn a_fresh_token_replaces_the_one_before() {
    #[track_caller]
    fn check(got: Result<(), (u16, String)>, expected: Result<(), (u16, &str)>) {
        match (got, expected) {
            (Ok(()), Ok(())) => {}
            (Err((code, reason)), Err((expected, part))) => {
                assert_eq!(code, expected, "{reason}");
                assert!(reason.contains(part), "{reason}");
            }
            (got, expected) => panic!("{got:?} instead of {expected:?}"),
        }
    }
    let server = start();
    let may = || json!({"sub": "42", "listen": ["private/*"], "speak": ["private/7"]});
    let mute = || json!({"sub": "42", "listen": ["private/*"]});
    let other = || json!({"sub": "43", "listen": ["private/*"], "speak": ["private/7"]});
    let nobody = || json!({"listen": ["private/*"], "speak": ["private/7"]});
    let path = "/ch/private%2F7";
    let ask = |first: Value, fresh: Option<String>| refreshed(&server, path, first, fresh);
    check(ask(may(), None).await, Ok(()));
    check(ask(may(), Some(token(may()))).await, Ok(()));
    check(ask(nobody(), Some(token(nobody()))).await, Ok(()));
    // A right that is gained, and one that is lost, in the same read as the message.
    check(ask(mute(), None).await, Err((4403, "listen-only")));
    check(ask(mute(), Some(token(may()))).await, Ok(()));
    check(
        ask(may(), Some(token(mute()))).await,
        Err((4403, "not open to talk")),
    );
    // To lose the channel is the end.
    check(
        ask(may(), Some(token(json!({"sub": "42"})))).await,
        Err((4403, "listen list")),
    );
    // So is another user, more or less known.
    check(
        ask(may(), Some(token(other()))).await,
        Err((4401, "another user")),
    );
    check(
        ask(may(), Some(token(nobody()))).await,
        Err((4401, "another user")),
    );
    check(
        ask(nobody(), Some(token(may()))).await,
        Err((4401, "another user")),
    );
    // And one that is not good.
    check(
        ask(may(), Some("nonsense".to_owned())).await,
        Err((4401, "header.claims.signature")),
    );
    check(
        ask(may(), Some(String::new())).await,
        Err((4401, "header.claims.signature")),
    );
    check(
        ask(may(), Some(KEY.to_owned())).await,
        Err((4401, "header.claims.signature")),
    );
    let mut forged = token(may());
    forged.truncate(forged.len() - 4);
    check(ask(may(), Some(forged)).await, Err((4401, "signature")));
    let mut old = may();
    old["exp"] = (now() - 1).into();
    check(ask(may(), Some(signed(KEY, &old))).await, Err((4401, "run out")));
}

#[tokio::test]
async fn a_fresh_token_moves_the_end() {
    with_some_life(goes_on_with_a_fresh_token).await;
}

async fn goes_on_with_a_fresh_token(life: u64) {
    let server = start();
    let first = signed(KEY, &json!({"sub": "42", "exp": now() + life}));
    let mut kept = server.websocket(&format!("/?meta=1&echo=1&token={first}")).await;
    let mut left = server.websocket(&format!("/?meta=1&token={first}")).await;
    kept.say(&json!({"token": token(json!({"sub": "42"}))}).to_string())
        .await;
    assert!(matches!(left.hear().await, Said::Close(4401, _)));
    kept.say("still here").await;
    let Said::Text(heard) = kept.hear().await else {
        panic!("the end came in spite of the fresh token");
    };
    assert!(heard.contains("still here"), "{heard}");
    // One that ends sooner moves it as well.
    let sooner = signed(KEY, &json!({"sub": "42", "exp": now() + life}));
    kept.say(&json!({"token": sooner}).to_string()).await;
    assert!(matches!(kept.hear().await, Said::Close(4401, _)));
}

#[tokio::test]
async fn without_a_token_or_meta_form_a_text_is_a_message() {
    let server = start();
    let message = r#"{"token":"t"}"#;
    for path in [
        "/?echo=1&meta=1",
        &format!("/?echo=1&token={}", token(json!({"sub": "42"}))),
    ] {
        let mut peer = server.websocket(path).await;
        peer.say(message).await;
        let Said::Text(heard) = peer.hear().await else {
            panic!("{path}: not relayed");
        };
        assert!(heard.contains("token"), "{path}: {heard}");
    }
}

/// Or a page that renews its token would tell it to everybody during development.
#[tokio::test]
async fn without_a_key_a_fresh_token_is_not_relayed_either() {
    let server = Server::start(&[]);
    for (path, may_speak) in [
        ("/?meta=1&echo=1&token=t", true),
        ("/ch/private/x?meta=1&token=t", false),
    ] {
        let mut peer = server.websocket(path).await;
        peer.say(r#"{"token":"u"}"#).await;
        peer.say("said").await;
        match peer.hear().await {
            Said::Text(heard) if may_speak => assert!(heard.contains("said"), "{heard}"),
            Said::Close(4403, _) if !may_speak => {}
            other => panic!("{path}: {other:?}"),
        }
    }
}

/// Signs with a key of an identity provider.
struct Signer {
    id: String,
    key: EncodingKey,
}

impl Signer {
    fn new(id: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self {
            id: id.to_owned(),
            key: EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref()),
        }
    }

    fn jwk(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, Algorithm::ES256).unwrap();
        jwk.common.key_id = Some(self.id.clone());
        serde_json::to_value(jwk).unwrap()
    }

    fn path(&self) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.id.clone());
        let claims = claims(json!({"listen": ["private/*"]}));
        let token = jsonwebtoken::encode(&header, &claims, &self.key).unwrap();
        format!("/ch/private%2F7?token={token}")
    }
}

/// An identity provider's key server: answers with what it is told to, and counts.
#[derive(Clone)]
struct Provider {
    address: String,
    answer: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
}

impl Provider {
    async fn start() -> Self {
        Self::start_as(None).await
    }

    async fn start_as(tls: Option<TlsAcceptor>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let provider = Self {
            address: listener.local_addr().unwrap().to_string(),
            answer: Arc::default(),
            asked: Arc::default(),
        };
        let served = provider.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                match &tls {
                    None => served.serve(socket).await,
                    // A client that does not trust the certificate goes away.
                    Some(tls) => {
                        if let Ok(socket) = tls.accept(socket).await {
                            served.serve(socket).await;
                        }
                    }
                }
            }
        });
        provider
    }

    async fn serve(&self, mut socket: impl AsyncRead + AsyncWrite + Unpin) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && socket.read_buf(&mut head).await.unwrap() > 0 {}
        let answer = self.answer.lock().unwrap().clone();
        let _ = socket.write_all(answer.as_bytes()).await;
        let _ = socket.shutdown().await;
        self.asked.fetch_add(1, Ordering::SeqCst);
    }

    fn answers(&self, status: &str, body: &str) {
        let length = body.len();
        *self.answer.lock().unwrap() =
            format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    }

    fn has(&self, signers: &[&Signer]) {
        let keys: Vec<Value> = signers.iter().map(|signer| signer.jwk()).collect();
        self.answers("200 OK", &json!({"keys": keys}).to_string());
    }
}

/// A server that is used with a provider, in development so that its metrics are at hand; private
/// channels are not for who shows a token that does not hold them.
fn start_with(provider: &Provider, pause: &str) -> Server {
    let url = format!("http://{}/keys", provider.address);
    Server::start(&[
        ("FANFARE_TOKENS_JWKS_URL", &url),
        ("FANFARE_TOKENS_JWKS_PAUSE", pause),
    ])
}

const OK: &str = "fanfare_jwks_fetches_total{outcome=\"ok\"}";
const FAILED: &str = "fanfare_jwks_fetches_total{outcome=\"failed\"}";

async fn status(server: &Server, path: &str) -> (u16, String) {
    let (status, _, body) = server.request("GET", path, "", b"").await;
    (status, body)
}

#[tokio::test]
async fn keys_of_a_provider_are_fetched_and_follow_its_changes() {
    let provider = Provider::start().await;
    let (first, second) = (Signer::new("a"), Signer::new("b"));
    provider.has(&[&first]);
    let server = start_with(&provider, "1s");
    server.wait_for_metric(OK, 1).await;
    assert_eq!(status(&server, &first.path()).await.0, 200);
    // A key that appears: refused for now, looked for, and then known.
    provider.has(&[&first, &second]);
    let (refused, body) = status(&server, &second.path()).await;
    assert!(refused == 401 && body.contains("try again"), "{body}");
    server.wait_for_metric(OK, 2).await;
    assert_eq!(status(&server, &second.path()).await.0, 200);
    // While the other side fails, what is known stays.
    provider.answers("500 Oh", "");
    assert_eq!(status(&server, &Signer::new("c").path()).await.0, 401);
    server.wait_for_metric(FAILED, 2).await;
    assert_eq!(status(&server, &first.path()).await.0, 200);
    // It comes back, and a key that is gone is good no more.
    provider.has(&[&second]);
    server.wait_for_metric(OK, 3).await;
    assert_eq!(status(&server, &first.path()).await.0, 401);
    assert_eq!(status(&server, &second.path()).await.0, 200);
}

#[tokio::test]
async fn many_unknown_keys_are_one_question() {
    let provider = Provider::start().await;
    provider.has(&[]);
    let server = start_with(&provider, "60s");
    server.wait_for_metric(OK, 1).await;
    for number in 0..200 {
        let (refused, body) = status(&server, &Signer::new(&number.to_string()).path()).await;
        assert!(refused == 401 && body.contains("try again"), "{body}");
    }
    assert_eq!(server.metric(OK).await, 1);
    assert_eq!(provider.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_answer_that_is_no_key_set_changes_nothing() {
    let (good, elsewhere) = (Signer::new("a"), Provider::start().await);
    elsewhere.has(&[&good]);
    let too_large = format!("{{\"keys\":[]{}}}", " ".repeat(64 << 10));
    let many = json!({"keys": vec![good.jwk(); 101]}).to_string();
    let redirect = format!("302 Found\r\nLocation: http://{}/keys", elsewhere.address);
    for (answer, body) in [
        ("200 OK", "<html>"),
        ("200 OK", too_large.as_str()),
        ("200 OK", many.as_str()),
        ("204 No Content", ""),
        (redirect.as_str(), ""),
    ] {
        let provider = Provider::start().await;
        provider.has(&[&good]);
        let server = start_with(&provider, "1s");
        server.wait_for_metric(OK, 1).await;
        provider.answers(answer, body);
        // An unknown key makes it look.
        assert_eq!(status(&server, &Signer::new("x").path()).await.0, 401);
        server.wait_for_metric(FAILED, 1).await;
        assert_eq!(status(&server, &good.path()).await.0, 200, "after {answer}");
    }
    assert_eq!(
        elsewhere.asked.load(Ordering::SeqCst),
        0,
        "a redirect was followed"
    );
}

#[tokio::test]
async fn a_provider_that_never_answers_holds_up_nobody() {
    let provider = Provider::start().await;
    let hanging = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let provider = Provider {
        address: hanging.local_addr().unwrap().to_string(),
        ..provider
    };
    let server = start_with(&provider, "60s");
    let (_socket, _) = hanging.accept().await.unwrap();
    let (refused, body) = status(&server, &Signer::new("a").path()).await;
    assert!(refused == 401 && body.contains("try again"), "{body}");
    let mut listener: Peer = server.websocket("/").await;
    server.post("/", b"x").await;
    assert_eq!(listener.hear().await, text("x"));
    server.wait_for_metric(FAILED, 1).await;
}

#[tokio::test]
async fn a_provider_is_believed_by_its_certificate() {
    let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key.into())
        .unwrap();
    let provider = Provider::start_as(Some(Arc::new(config).into())).await;
    let signer = Signer::new("a");
    provider.has(&[&signer]);
    let (_, port) = provider.address.split_once(':').unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, pem: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (own, other) = (
        file("own.pem", own.cert.pem()),
        file("other.pem", other.cert.pem()),
    );
    for (host, authority, metric, expected) in [
        ("localhost", &own, OK, 200),
        // Another name than the certificate's, and a certificate that nobody vouches for.
        ("127.0.0.1", &own, FAILED, 401),
        ("localhost", &other, FAILED, 401),
    ] {
        let url = format!("https://{host}:{port}/keys");
        let server = Server::start(&[("FANFARE_TOKENS_JWKS_URL", &url), ("SSL_CERT_FILE", authority)]);
        server.wait_for_metric(metric, 1).await;
        assert_eq!(
            status(&server, &signer.path()).await.0,
            expected,
            "{url} with {authority}"
        );
    }
    assert_eq!(provider.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn public_keys_come_from_files() {
    use base64::Engine as _;
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let spki = {
        use aws_lc_rs::encoding::AsDer as _;
        use aws_lc_rs::signature::KeyPair as _;
        pair.public_key().as_der().unwrap()
    };
    let body = base64::engine::general_purpose::STANDARD.encode(spki.as_ref());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("public.pem");
    std::fs::write(
        &file,
        format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n"),
    )
    .unwrap();
    let settings = [
        ("FANFARE_KEY", KEY),
        ("FANFARE_TOKENS_PUBLIC_KEYS", file.to_str().unwrap()),
    ];
    let server = Server::start(&settings);
    let signer = Signer {
        id: "any".to_owned(),
        key: EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref()),
    };
    assert_eq!(status(&server, &signer.path()).await.0, 200);
    let (refused, body) = status(&server, &Signer::new("any").path()).await;
    assert!(refused == 401 && body.contains("signature"), "{body}");
    // The key's own tokens stay good beside it.
    let own = token(json!({"listen": ["private/7"]}));
    assert_eq!(
        status(&server, &format!("/ch/private%2F7?token={own}")).await.0,
        200
    );
}
