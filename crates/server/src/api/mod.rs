//! The HTTP side of the plain door, and what operators ask: everything that is not a stream on a
//! fresh connection.
//!
//! hyper speaks HTTP/1.1 here, on the shard's own thread, on sockets that the shard hands over
//! with the bytes it has read ([`serve`]). It sees no byte that [`Guarded`] has not found good, so
//! every request of a connection is held to the rules of the first. Routing is one `match`, since
//! the paths of the plain door are decided by the same function that the shard uses. A WebSocket
//! asked for on a reused connection goes back to the shard as a raw socket; an event stream becomes
//! a body that the shard fills (the slower lane).
//!
//! An answer that leaves a part of the request's body unread, or refuses a handshake or a tunnel,
//! closes the connection: nobody has to guess where the next request would begin.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::TcpListener;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use fanfare_core::disconnect::Refusal;
use fanfare_core::wire::http1::{self, Framing, RequestHead, Upgrade};
use fanfare_core::wire::plain::request::{PlainRequest, Target};
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use smallvec::SmallVec;

use crate::address::Source;
use crate::door::{self, Asked};
use crate::gate::Admission;
use crate::line::Line;
use crate::shard::{Facts, Knock, Shard, StreamBody};

mod assets;
mod guarded;
mod line_io;
mod look;
mod people;
mod pusher;
mod speak;

use guarded::{BadHead, Guarded};
use line_io::LineIo;

/// Time for which an idle keep-alive connection stays open, and the most that a further request
/// head may take.
const KEEP_ALIVE_IDLE: Duration = Duration::from_mins(1);

thread_local! {
    static OPEN: Cell<usize> = const { Cell::new(0) };
}

/// Connections of this thread that the HTTP server has.
pub(crate) fn open_requests() -> usize {
    OPEN.get()
}

/// Body of an answer.
pub(crate) enum Body {
    /// All of it at once.
    Whole(Option<Bytes>),
    /// An event stream.
    Stream(StreamBody),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(stream) => Pin::new(stream).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self {
            Self::Whole(bytes) => {
                http_body::SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Stream(_) => http_body::SizeHint::default(),
        }
    }
}

type Answer = Response<Body>;

/// A request: what it says, looked up once, and what is still to come of it.
struct Asking<'a> {
    head: &'a Parts,
    asked: Asked<'a>,
    /// Gone when it was read to its end.
    body: Option<Incoming>,
    upgrade: Upgrade,
    /// The socket, once a handshake is answered. Where that is refused nobody waits for it.
    upgraded: Option<OnUpgrade>,
}

impl Asking<'_> {
    /// Whether a part of the body is unread.
    fn has_body(&self) -> bool {
        self.body.as_ref().is_some_and(|body| !body.is_end_stream())
    }
}

/// Who asks an HTTP connection's questions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Listener {
    /// The doors' own.
    Doors,
    /// The operator's.
    Admin,
}

/// Serves HTTP on a line, beginning with bytes that were read from it already.
pub(crate) fn serve(shard: Rc<Shard>, line: Line, early: Vec<u8>) {
    serve_as(shard, line, early, Listener::Doors);
}

fn serve_as(shard: Rc<Shard>, line: Line, early: Vec<u8>, listener: Listener) {
    let source = line.source;
    let Ok(socket) = LineIo::new(line) else {
        return shard.node.connection_closed();
    };
    OPEN.set(OPEN.get() + 1);
    tokio::task::spawn_local(async move {
        let node = std::sync::Arc::clone(&shard.node);
        let guarded = Guarded::new(early, socket, node.head_limits());
        let bad_head = guarded.bad_head();
        let service = service_fn(|request: Request<Incoming>| {
            let (shard, bad_head) = (Rc::clone(&shard), bad_head.clone());
            async move { Ok::<_, Infallible>(answer(&shard, source, request, listener, &bad_head).await) }
        });
        let io = TokioIo::new(guarded);
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(KEEP_ALIVE_IDLE)
            .max_buf_size(shard.node.config.limits.head_bytes_max.max(16 << 10))
            .max_headers(shard.node.config.limits.head_fields_max)
            .serve_connection(io, service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            result = connection.as_mut() => log_end(result),
            () = node.drained() => {
                connection.as_mut().graceful_shutdown();
                log_end(connection.await);
            }
        }
        OPEN.set(OPEN.get() - 1);
        node.connection_closed();
    });
}

fn log_end(result: hyper::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%error, "an HTTP connection ended with an error");
    }
}

/// Accepts and serves on the operator's listener.
pub(crate) async fn serve_admin(shard: Rc<Shard>, listener: TcpListener) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
        return;
    };
    loop {
        match listener.accept().await {
            Ok((socket, address)) => {
                if let Ok(socket) = socket.into_std() {
                    shard.node.connection_opened();
                    let line = Line {
                        socket,
                        tls: None,
                        source: shard.node.gate.source(address),
                        ticket: None,
                    };
                    serve_as(Rc::clone(&shard), line, Vec::new(), Listener::Admin);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the admin listener for now");
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        }
    }
}

/// Answers one request.
async fn answer(
    shard: &Rc<Shard>,
    source: Source,
    mut request: Request<Incoming>,
    listener: Listener,
    bad_head: &BadHead,
) -> Answer {
    let upgrade = upgrade(&request);
    let upgraded = (upgrade != Upgrade::No).then(|| hyper::upgrade::on(&mut request));
    let (head, body) = request.into_parts();
    let (asked, gated) = match asked(&head).over(source, &shard.node) {
        Ok(asked) => {
            let gated = gate(shard, head.method.as_str(), &asked);
            (asked, gated)
        }
        Err(refusal) => (asked(&head), Err(refusal)),
    };
    let mut asking = Asking {
        head: &head,
        asked,
        body: Some(body),
        upgrade,
        upgraded,
    };
    let mut answer = match (bad_head.behind(&head), gated) {
        (Some(error), _) => {
            let mut answer = refused(shard, &Refusal::bad_request(error.to_string()));
            *answer.status_mut() = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
            answer
        }
        (None, Err(refusal)) => refused(shard, &refusal),
        (None, Ok(origin)) => {
            let answer = route(shard, &mut asking, listener).await;
            with_origin(answer, origin)
        }
    };
    let is_tunnel = head.method == Method::CONNECT;
    let may_go_on = asking.upgrade == Upgrade::No && !is_tunnel && !asking.has_body();
    let is_http = answer.status() != StatusCode::SWITCHING_PROTOCOLS;
    let fields = answer.headers_mut();
    fields.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    // A URL may hold a token.
    fields.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if is_http && !may_go_on {
        fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

/// Answers a request of an allowed host and origin.
async fn route(shard: &Rc<Shard>, asking: &mut Asking<'_>, listener: Listener) -> Answer {
    let path = asking.asked.path;
    let is_read = matches!(asking.head.method, Method::GET | Method::HEAD);
    match path {
        _ if listener == Listener::Doors && asking.upgrade != Upgrade::No => websocket(shard, asking).await,
        "/up" if is_read => pusher::up(),
        "/health" if is_read => text(StatusCode::OK, "ok\n"),
        "/ready" if is_read && shard.node.is_ready() => text(StatusCode::OK, "ready\n"),
        "/ready" if is_read => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        "/metrics" if is_read && (listener == Listener::Admin || shard.node.admin_inside) => metrics(shard),
        _ if listener == Listener::Admin => refused(shard, &not_found()),
        _ if asking.head.method == Method::OPTIONS => preflight(),
        _ => match assets::find(path, asking.asked.wants_page()) {
            Some(asset) if is_read => asset,
            _ => door_answer(shard, asking).await,
        },
    }
}

/// The fields that let a page of an allowed origin read the answer.
pub(crate) fn cors_fields(origin: Option<&str>) -> SmallVec<[(&str, &str); 4]> {
    let fields = origin.map(|origin| {
        [
            ("Access-Control-Allow-Origin", origin),
            ("Access-Control-Allow-Credentials", "true"),
            ("Vary", "Origin"),
        ]
    });
    fields.into_iter().flatten().collect()
}

fn with_origin(mut answer: Answer, origin: Option<String>) -> Answer {
    for (name, value) in cors_fields(origin.as_deref()) {
        with_field(&mut answer, name, value);
    }
    answer
}

/// Adds a field whose name is one of ours; a value that cannot stand in one is left out.
fn with_field(answer: &mut Answer, name: &str, value: &str) {
    let (name, value) = (
        HeaderName::from_bytes(name.as_bytes()),
        HeaderValue::from_str(value),
    );
    if let (Ok(name), Ok(value)) = (name, value) {
        answer.headers_mut().insert(name, value);
    }
}

/// What the plain door says: listen, look or speak.
async fn door_answer(shard: &Rc<Shard>, asking: &mut Asking<'_>) -> Answer {
    if let Some(answer) = pusher::answer(shard, asking).await {
        return answer;
    }
    if let Some(answer) = people::answer(shard, asking).await {
        return answer.unwrap_or_else(|refusal| refused(shard, &refusal));
    }
    let result = match asking.head.method {
        Method::GET | Method::HEAD if asking.asked.wants_stream() => return stream(shard, asking).await,
        Method::GET | Method::HEAD => look::look(shard, asking).await,
        Method::POST => speak::post(shard, asking).await,
        _ => match PlainRequest::parse(asking.asked.path, None, 1) {
            Some(Ok(PlainRequest {
                target: Target::Channels(channels),
                ..
            })) if asking.head.method == Method::DELETE => people::delete(shard, asking, &channels).await,
            Some(Err(refusal)) if asking.head.method == Method::DELETE => Err(refusal),
            Some(_) => Err(Refusal::MethodNotAllowed {
                allow: "GET, POST, DELETE",
            }),
            None => Err(not_found()),
        },
    };
    result.unwrap_or_else(|refusal| refused(shard, &refusal))
}

fn not_found() -> Refusal {
    Refusal::NotFound("nothing lives here; channels are at /ch/{name}".into())
}

fn asked(head: &Parts) -> Asked<'_> {
    let fields = &head.headers;
    let text = |name| {
        fields
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let all = |name| fields.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    Asked {
        path: head.uri.path(),
        query: head.uri.query(),
        host: text(header::HOST),
        origins: all(header::ORIGIN),
        authorization: fields.get(header::AUTHORIZATION).map(HeaderValue::as_bytes),
        cookies: all(header::COOKIE),
        fetch_site: fields.get("sec-fetch-site").map(HeaderValue::as_bytes),
        accept: fields.get(header::ACCEPT).map(HeaderValue::as_bytes),
        user_agent: fields.get(header::USER_AGENT).map(HeaderValue::as_bytes),
        last_event_id: text(HeaderName::from_static("last-event-id")),
        extensions: all(header::SEC_WEBSOCKET_EXTENSIONS),
        forwarded_for: all(HeaderName::from_static("x-forwarded-for")),
        forwarded_proto: all(HeaderName::from_static("x-forwarded-proto")),
        source: Source::default(),
    }
}

fn gate(shard: &Shard, method: &str, asked: &Asked<'_>) -> Result<Option<String>, Refusal> {
    if door::pusher::has_own_rules(&shard.node, method, asked.path) {
        return Ok(None);
    }
    Ok(shard.node.rules.gate(asked)?.map(str::to_owned))
}

/// What the shard says of a first request, said of a further one.
fn upgrade(request: &Request<Incoming>) -> Upgrade {
    let fields = request.headers();
    if !fields.contains_key(header::UPGRADE) && !fields.contains_key(header::SEC_WEBSOCKET_KEY) {
        return Upgrade::No;
    }
    let fields = fields
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()));
    http1::websocket_upgrade(&RequestHead {
        method: request.method().as_str(),
        target: request.uri().path(),
        version_minor: u8::from(request.version() == Version::HTTP_11),
        fields: fields.collect(),
        framing: if request.body().is_end_stream() {
            Framing::Empty
        } else {
            Framing::Chunked
        },
        len: 0,
    })
}

/// What becomes of a WebSocket whose handshake is answered.
enum Wanted {
    Plain(Facts),
    Pusher(Knock),
}

impl Wanted {
    fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Plain(facts) => facts.listen.as_ref().err(),
            Self::Pusher(knock) => knock.app.as_ref().err(),
        }
    }
}

/// A WebSocket on a connection that has served requests before: hyper answers the handshake and
/// gives the socket back.
async fn websocket(shard: &Rc<Shard>, asking: &mut Asking<'_>) -> Answer {
    let (Upgrade::Yes { accept }, Some(upgraded)) = (&asking.upgrade, asking.upgraded.take()) else {
        let (refusal, field) = door::bad_handshake(&asking.upgrade);
        let mut answer = refused(shard, &refusal);
        if let Some((name, value)) = field {
            answer.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        return answer;
    };
    let wanted = match door::pusher::knocking(&shard.node, asking.asked.path) {
        Some(knocking) => {
            let (asked, admission) = (&asking.asked, Admission::Welcome);
            Wanted::Pusher(door::pusher::knock(
                &shard.node,
                asked,
                &knocking,
                admission,
                true,
            ))
        }
        None => Wanted::Plain(Facts {
            listen: door::enter_or_ask(&shard.node, &asking.asked, true).await,
            peer: asking.asked.source,
        }),
    };
    if let Some(refusal @ Refusal::TooFast { .. }) = wanted.refusal() {
        return refused(shard, refusal);
    }
    let extensions = match &wanted {
        Wanted::Plain(facts) => facts.listen.as_ref().ok().and_then(|listen| listen.deflate),
        Wanted::Pusher(knock) => knock.deflate,
    };
    let shard = Rc::clone(shard);
    tokio::task::spawn_local(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let Ok(parts) = upgraded.downcast::<TokioIo<Guarded>>() else {
            return;
        };
        let (socket, behind) = parts.io.into_inner().into_parts();
        if let Ok((line, plain)) = socket.into_line() {
            let early = [&parts.read_buf[..], &behind, &plain].concat();
            match wanted {
                Wanted::Plain(facts) => shard.adopt_websocket(line, early, facts),
                Wanted::Pusher(knock) => shard.adopt_pusher(line, early, knock),
            }
        }
    });
    let mut answer = Response::new(Body::Whole(None));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = answer.headers_mut();
    fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    fields.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Ok(accept) = HeaderValue::from_str(accept) {
        fields.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(extensions) = extensions.and_then(|agreed| HeaderValue::from_str(&agreed.field()).ok()) {
        fields.insert(header::SEC_WEBSOCKET_EXTENSIONS, extensions);
    }
    answer
}

/// An event stream on a connection that has served requests before.
async fn stream(shard: &Rc<Shard>, asking: &Asking<'_>) -> Answer {
    if asking.has_body() {
        return refused(shard, &door::stream_with_body());
    }
    let body = match door::enter_or_ask(&shard.node, &asking.asked, false).await {
        Ok(_) if asking.head.method == Method::HEAD => Body::Whole(None),
        Ok(listen) => {
            let prologue = shard.stream_prologue(false);
            Body::Stream(shard.adopt_stream(
                Facts {
                    listen: Ok(listen),
                    peer: asking.asked.source,
                },
                prologue,
            ))
        }
        Err(refusal) if door::may_come_back(&refusal) => {
            shard.node.refused(&refusal);
            Body::Whole(Some(shard.stream_prologue(true)))
        }
        Err(refusal) => return refused(shard, &refusal),
    };
    let mut answer = Response::new(body);
    let fields = answer.headers_mut();
    fields.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert("x-accel-buffering", HeaderValue::from_static("no"));
    answer
}

fn preflight() -> Answer {
    let mut answer = Response::new(Body::Whole(None));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let fields = answer.headers_mut();
    fields.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, POST"),
    );
    let allowed = HeaderValue::from_static("Authorization, Content-Type, Idempotency-Key, Last-Event-ID");
    fields.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    fields.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    answer
}

fn metrics(shard: &Shard) -> Answer {
    let mut answer = Response::new(Body::Whole(Some(shard.node.metrics.render(&shard.node).into())));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

fn text(status: StatusCode, body: &'static str) -> Answer {
    let mut answer = Response::new(Body::Whole(Some(Bytes::from_static(body.as_bytes()))));
    *answer.status_mut() = status;
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    answer
}

fn json(body: String) -> Answer {
    let mut answer = Response::new(Body::Whole(Some(body.into())));
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// `{"error":…,"message":…}`: a word for programs and a sentence for people.
pub(crate) fn refusal_body(refusal: &Refusal) -> Vec<u8> {
    let message = serde_json::Value::from(refusal.to_string());
    format!("{{\"error\":\"{}\",\"message\":{message}}}\n", refusal.word()).into_bytes()
}

fn refused(shard: &Shard, refusal: &Refusal) -> Answer {
    shard.node.refused(refusal);
    let mut answer = Response::new(Body::Whole(Some(refusal_body(refusal).into())));
    *answer.status_mut() = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_REQUEST);
    let fields = answer.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some((name, value)) = refusal.field() {
        with_field(&mut answer, name, &value);
    }
    answer
}
