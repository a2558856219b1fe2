//! Servers that do the least that can be done, so that every figure can be said as a ratio to
//! what the kernel itself costs.
//!
//! [`fan_out`] answers as the plain door does and sends each publication with one `send` per
//! subscriber, from a frame that is ready: no queue, no order, no protection from slow readers, no
//! error handling worth the name. [`answer`] is a bare hyper server that answers every POST with
//! an empty 200.
//!
//! Both print `listening on http://ADDRESS` when they are ready, and run until they are stopped.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};

use anyhow::Result;
use rustix::event::epoll;
use slab::Slab;

/// The answer to the one key that this load generator sends (RFC 6455 section 1.3).
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
/// What a subscriber of the Pusher protocol waits for, whatever it asks: it hears everything here.
const SUBSCRIBED: &str = r#"{"event":"pusher_internal:subscription_succeeded","channel":"all","data":"{}"}"#;
const STREAM: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n:\n\n";
const DONE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// Where subscribers of the Pusher protocol are.
const PUSHER: &str = "pusher";

#[derive(Default)]
struct Channel {
    websockets: Vec<TcpStream>,
    streams: Vec<TcpStream>,
}

/// The floor of fan-out.
pub fn fan_out(listener: TcpListener) -> Result<()> {
    listener.set_nonblocking(true)?;
    let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let flags = epoll::EventFlags::IN;
    epoll::add(&set, &listener, epoll::EventData::new_u64(u64::MAX), flags)?;
    println!("listening on http://{}", listener.local_addr()?);
    let mut asking: Slab<(TcpStream, Vec<u8>)> = Slab::new();
    let mut channels: HashMap<String, Channel> = HashMap::new();
    let mut scratch = vec![0; 256 << 10];
    loop {
        let mut buffer = [MaybeUninit::<epoll::Event>::uninit(); 256];
        let (events, _) = epoll::wait(&set, &mut buffer, None)?;
        for event in events {
            let data = event.data.u64();
            if data == u64::MAX {
                while let Ok((socket, _)) = listener.accept() {
                    socket.set_nonblocking(true)?;
                    let entry = asking.vacant_entry();
                    epoll::add(
                        &set,
                        &socket,
                        epoll::EventData::new_u64(entry.key() as u64),
                        flags,
                    )?;
                    entry.insert((socket, Vec::new()));
                }
                continue;
            }
            let key = usize::try_from(data)?;
            let Some((socket, got)) = asking.get_mut(key) else {
                continue;
            };
            match socket.read(&mut scratch) {
                Ok(count) if count > 0 => got.extend_from_slice(&scratch[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                _ => {
                    asking.remove(key);
                    continue;
                }
            }
            while let Some(request) = request(got) {
                got.drain(..request.len);
                let is_pusher = request.path.starts_with("/app/");
                let path = if is_pusher {
                    PUSHER.to_owned()
                } else {
                    request.path
                };
                let channel = channels.entry(path).or_default();
                if let Some(body) = request.body {
                    channel.send(&body);
                    if let Some(pusher) = channels.get_mut(PUSHER) {
                        let data = String::from_utf8_lossy(&body);
                        let event = format!(r#"{{"event":"message","channel":"all","data":"{data}"}}"#);
                        pusher.send(event.as_bytes());
                    }
                    send(socket, DONE);
                    continue;
                }
                let (mut socket, _) = asking.remove(key);
                epoll::delete(&set, &socket)?;
                if request.websocket {
                    send(&mut socket, SWITCHING);
                    if is_pusher {
                        send(&mut socket, &text(SUBSCRIBED.as_bytes()));
                    }
                    channel.websockets.push(socket);
                } else {
                    send(&mut socket, STREAM);
                    channel.streams.push(socket);
                }
                break;
            }
        }
    }
}

impl Channel {
    fn send(&mut self, body: &[u8]) {
        let frame = text(body);
        let event = [b"data: ", body, b"\n\n"].concat();
        self.websockets.retain_mut(|socket| send(socket, &frame));
        self.streams.retain_mut(|socket| send(socket, &event));
    }
}

/// A server's text frame.
fn text(body: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81];
    match u16::try_from(body.len()) {
        Ok(len) if len < 126 => frame.push(len as u8),
        Ok(len) => {
            frame.push(126);
            frame.extend(len.to_be_bytes());
        }
        Err(_) => {
            frame.push(127);
            frame.extend((body.len() as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(body);
    frame
}

/// One `send`, and again only where the kernel took less. Whether the socket lives.
fn send(socket: &mut TcpStream, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match socket.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut poll = [rustix::event::PollFd::new(socket, rustix::event::PollFlags::OUT)];
                if rustix::event::poll(&mut poll, None).is_err() {
                    return false;
                }
            }
            Err(_) => return false,
        }
    }
    true
}

struct Request {
    len: usize,
    path: String,
    websocket: bool,
    body: Option<Vec<u8>>,
}

fn request(input: &[u8]) -> Option<Request> {
    let len = memchr::memmem::find(input, b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&input[..len]);
    let mut lines = head.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, path) = (words.next()?, words.next()?.to_owned());
    let mut content_length = 0;
    let mut websocket = false;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            content_length = value.trim().parse().ok()?;
        }
        websocket |= name.eq_ignore_ascii_case("upgrade");
    }
    let body = input.get(len..len + content_length)?;
    Some(Request {
        len: len + content_length,
        path,
        websocket,
        body: (method == "POST").then(|| body.to_vec()),
    })
}

/// The floor of publishing: hyper, and nothing behind it.
pub fn answer(listener: TcpListener) -> Result<()> {
    use http_body_util::{BodyExt as _, Empty};
    use hyper::body::{Bytes, Incoming};

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        println!("listening on http://{}", listener.local_addr()?);
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                loop {
                    let (socket, _) = listener.accept().await?;
                    socket.set_nodelay(true)?;
                    let service =
                        hyper::service::service_fn(|request: hyper::Request<Incoming>| async move {
                            request.into_body().collect().await?;
                            Ok::<_, hyper::Error>(hyper::Response::new(Empty::<Bytes>::new()))
                        });
                    let io = hyper_util::rt::TokioIo::new(socket);
                    tokio::task::spawn_local(
                        hyper::server::conn::http1::Builder::new().serve_connection(io, service),
                    );
                }
            })
            .await
    })
}
