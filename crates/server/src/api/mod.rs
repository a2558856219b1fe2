//! The HTTP side of the plain door, and what operators ask: everything that is not a stream on a
//! fresh connection.
//!
//! hyper speaks HTTP/1.1 here, on the shard's own thread, on sockets that the shard hands over
//! with the bytes it has read ([`serve`]). Routing is one `match`, since the paths of the plain
//! door are decided by the same function that the shard uses. A WebSocket asked for on a reused
//! connection goes back to the shard as a raw socket; an event stream becomes a body that the
//! shard fills (the slower lane).

use std::cell::Cell;
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use fanfare_core::disconnect::Refusal;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::door::{self, Asked};
use crate::shard::{Facts, Shard, StreamBody};

mod assets;
mod prefixed;
mod speak;

use prefixed::Prefixed;

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

/// Who asks an HTTP connection's questions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Listener {
    /// The doors' own.
    Doors,
    /// The operator's.
    Admin,
}

/// Serves HTTP on a socket, beginning with bytes that were read from it already.
pub(crate) fn serve(shard: Rc<Shard>, socket: TcpStream, early: Bytes) {
    serve_as(shard, socket, early, Listener::Doors);
}

fn serve_as(shard: Rc<Shard>, socket: TcpStream, early: Bytes, listener: Listener) {
    let peer = socket.peer_addr().ok();
    let Ok(socket) = tokio::net::TcpStream::from_std(socket) else {
        return shard.node.connection_closed();
    };
    OPEN.set(OPEN.get() + 1);
    tokio::task::spawn_local(async move {
        let node = std::sync::Arc::clone(&shard.node);
        let service = service_fn(|request| {
            let shard = Rc::clone(&shard);
            async move { Ok::<_, Infallible>(answer(&shard, peer, request, listener).await) }
        });
        let io = TokioIo::new(Prefixed::new(early, socket));
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
            Ok((socket, _)) => {
                if let Ok(socket) = socket.into_std() {
                    shard.node.connection_opened();
                    serve_as(Rc::clone(&shard), socket, Bytes::new(), Listener::Admin);
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
    peer: Option<SocketAddr>,
    mut request: Request<Incoming>,
    listener: Listener,
) -> Answer {
    let origin = match gate(shard, &request) {
        Ok(origin) => origin,
        Err(refusal) => return refused(shard, &refusal),
    };
    let path = request.uri().path().to_owned();
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let mut answer = match path.as_str() {
        "/health" if is_read => text(StatusCode::OK, "ok\n"),
        "/ready" if is_read && shard.node.is_ready() => text(StatusCode::OK, "ready\n"),
        "/ready" if is_read => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        "/metrics" if is_read && (listener == Listener::Admin || shard.node.admin_inside) => metrics(shard),
        _ if listener == Listener::Admin => refused(shard, &not_found()),
        _ if request.method() == Method::OPTIONS => preflight(),
        _ => match assets::find(&path, wants_page(&request)) {
            Some(asset) if is_read => asset,
            _ => door_answer(shard, peer, &mut request).await,
        },
    };
    let fields = answer.headers_mut();
    fields.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    if let Some(origin) = origin.and_then(|origin| HeaderValue::from_str(&origin).ok()) {
        fields.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        fields.insert(
            header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
        fields.insert(header::VARY, HeaderValue::from_static("Origin"));
    }
    answer
}

/// What the plain door says: listen, look or speak.
async fn door_answer(shard: &Rc<Shard>, peer: Option<SocketAddr>, request: &mut Request<Incoming>) -> Answer {
    let result = match *request.method() {
        Method::GET if is_upgrade(request.headers()) => websocket(shard, peer, request),
        Method::GET | Method::HEAD if asked(request).wants_stream() => return stream(shard, peer, request),
        Method::GET | Method::HEAD => speak::look(shard, &asked(request)),
        Method::POST => speak::post(shard, request).await,
        _ => match fanfare_core::wire::plain::request::PlainRequest::parse(request.uri().path(), None, 1) {
            Some(_) => Err(Refusal::MethodNotAllowed { allow: "GET, POST" }),
            None => Err(not_found()),
        },
    };
    result.unwrap_or_else(|refusal| refused(shard, &refusal))
}

fn not_found() -> Refusal {
    Refusal::NotFound("nothing lives here; channels are at /ch/{name}".into())
}

fn asked<B>(request: &Request<B>) -> Asked<'_> {
    let fields = request.headers();
    let text = |name| {
        fields
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    Asked {
        path: request.uri().path(),
        query: request.uri().query(),
        host: text(header::HOST),
        origins: fields
            .get_all(header::ORIGIN)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect(),
        authorization: fields.get(header::AUTHORIZATION).map(HeaderValue::as_bytes),
        accept: fields.get(header::ACCEPT).map(HeaderValue::as_bytes),
        last_event_id: text(header::HeaderName::from_static("last-event-id")),
        extensions: fields
            .get_all(header::SEC_WEBSOCKET_EXTENSIONS)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect(),
    }
}

fn gate<B>(shard: &Shard, request: &Request<B>) -> Result<Option<String>, Refusal> {
    Ok(shard.node.rules.gate(&asked(request))?.map(str::to_owned))
}

fn wants_page<B>(request: &Request<B>) -> bool {
    asked(request).wants_page()
}

fn is_upgrade(fields: &HeaderMap) -> bool {
    fields
        .get(header::UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// A WebSocket on a connection that has served requests before: hyper answers the handshake and
/// gives the socket back.
fn websocket(
    shard: &Rc<Shard>,
    peer: Option<SocketAddr>,
    request: &mut Request<Incoming>,
) -> Result<Answer, Refusal> {
    let fields = request.headers();
    let key = fields
        .get(header::SEC_WEBSOCKET_KEY)
        .and_then(|key| key.to_str().ok());
    let version = fields
        .get(header::SEC_WEBSOCKET_VERSION)
        .map(HeaderValue::as_bytes);
    let key = key.filter(|key| fanfare_core::wire::websocket::is_valid_key(key));
    let (Some(key), Some(b"13")) = (key, version) else {
        return Err(Refusal::bad_request(
            "a WebSocket handshake needs version 13 and a key of 16 bytes",
        ));
    };
    let accept = fanfare_core::wire::websocket::accept_key(key);
    let listen = shard
        .node
        .room_for_one()
        .and_then(|()| door::listen(&shard.node, &asked(request), true));
    let extensions = listen.as_ref().ok().and_then(|listen| listen.deflate);
    let upgrade = hyper::upgrade::on(&mut *request);
    let shard = Rc::clone(shard);
    tokio::task::spawn_local(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let Ok(parts) = upgraded.downcast::<TokioIo<Prefixed>>() else {
            return;
        };
        if let Ok(socket) = parts.io.into_inner().into_socket().into_std() {
            shard.adopt_websocket(socket, parts.read_buf.to_vec(), Facts { listen, peer });
        }
    });
    let mut answer = Response::new(Body::Whole(None));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = answer.headers_mut();
    fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    fields.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        fields.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(extensions) = extensions.and_then(|agreed| HeaderValue::from_str(&agreed.field()).ok()) {
        fields.insert(header::SEC_WEBSOCKET_EXTENSIONS, extensions);
    }
    Ok(answer)
}

/// An event stream on a connection that has served requests before.
fn stream(shard: &Rc<Shard>, peer: Option<SocketAddr>, request: &Request<Incoming>) -> Answer {
    let room = shard.node.room_for_one();
    let body = match room
        .clone()
        .and_then(|()| door::listen(&shard.node, &asked(request), false))
    {
        Ok(_) if request.method() == Method::HEAD => Body::Whole(None),
        Ok(listen) => {
            let prologue = shard.stream_prologue(false);
            Body::Stream(shard.adopt_stream(
                Facts {
                    listen: Ok(listen),
                    peer,
                },
                prologue,
            ))
        }
        // EventSource would not come back from an error status.
        Err(_) if room.is_err() => Body::Whole(Some(shard.stream_prologue(true))),
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
    let allowed = HeaderValue::from_static("Authorization, Content-Type, Last-Event-ID");
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
    if let Some(seconds) = refusal.retry_after_seconds() {
        fields.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Refusal::MethodNotAllowed { allow } = refusal {
        fields.insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    if refusal.status() == 401 {
        fields.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    answer
}
