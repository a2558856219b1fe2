//! On the same machine no port is needed: the doors are at a Unix socket too, as they are over TCP.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{KEY, PATIENCE, Said, Server, bearer, command, frame, parse_frame, text};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

struct Here {
    server: Server,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

fn start(settings: &[(&str, &str)]) -> Here {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fanfare.sock");
    let own = [("FANFARE_UNIX", path.to_str().unwrap())];
    let server = Server::start(&[own.as_slice(), settings].concat());
    Here {
        server,
        path,
        _folder: folder,
    }
}

/// What the server answers, until the connection ends or `end` has come.
async fn ask(socket: &mut UnixStream, request: &str, end: &str) -> String {
    socket.write_all(request.as_bytes()).await.unwrap();
    read_until(socket, end).await
}

async fn read_until(socket: &mut UnixStream, end: &str) -> String {
    let mut got = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&got).contains(end) {
            if socket.read_buf(&mut got).await.unwrap() == 0 {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap();
    String::from_utf8_lossy(&got).into_owned()
}

fn post(host: &str, fields: &str, body: &str) -> String {
    format!(
        "POST /ch/orders HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\nConnection: close\r\n{fields}\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn what_is_posted_there_is_heard_everywhere() {
    let here = start(&[("FANFARE_KEY", KEY)]);
    let mut listener = here.server.websocket("/ch/orders").await;
    let key = bearer(KEY);
    // Whoever may open the file still needs the key. No page can open it, so any name will do.
    for (host, fields, expected) in [
        ("localhost", "", "HTTP/1.1 403"),
        ("localhost", &*key, "HTTP/1.1 200"),
        ("fanfare", &key, "HTTP/1.1 200"),
        ("localhost", "Authorization: Bearer wrong\r\n", "HTTP/1.1 401"),
    ] {
        let mut socket = UnixStream::connect(&here.path).await.unwrap();
        let answer = ask(&mut socket, &post(host, fields, "paid"), "\r\n\r\n{").await;
        assert!(answer.starts_with(expected), "{host} {fields:?}: {answer}");
        if expected.ends_with("200") {
            assert_eq!(listener.hear().await, text("paid"));
        }
    }
}

#[tokio::test]
async fn names_are_judged_where_some_are_listed() {
    let here = start(&[("FANFARE_KEY", KEY), ("FANFARE_HOSTS", "shop.example")]);
    for (host, expected) in [
        ("shop.example", "HTTP/1.1 403"),
        ("localhost", "HTTP/1.1 403"),
        ("evil.example", "HTTP/1.1 421"),
    ] {
        let mut socket = UnixStream::connect(&here.path).await.unwrap();
        let answer = ask(&mut socket, &post(host, "", "x"), "\r\n\r\n").await;
        assert!(answer.starts_with(expected), "{host}: {answer}");
    }
}

#[tokio::test]
async fn websockets_and_event_streams_work_there_in_both_lanes() {
    let here = start(&[]);
    let upgrade = "GET /ch/talk%2F1?echo=1 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
                   Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let look = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let stream = "GET /ch/talk%2F1 HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n";
    let mut streams = Vec::new();
    for before in [None, Some(look)] {
        let mut listener = UnixStream::connect(&here.path).await.unwrap();
        if let Some(before) = before {
            ask(&mut listener, before, "ok\n").await;
        }
        let answer = ask(&mut listener, stream, "retry: ").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        streams.push(listener);
    }
    for before in [None, Some(look)] {
        let mut socket = UnixStream::connect(&here.path).await.unwrap();
        if let Some(before) = before {
            ask(&mut socket, before, "ok\n").await;
        }
        let answer = ask(&mut socket, upgrade, "\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        // More than a socket takes at once.
        let long = "x".repeat(10_000);
        for number in 0..20 {
            let message = format!("{number}{long}");
            socket.write_all(&frame(0x81, message.as_bytes())).await.unwrap();
        }
        let mut got = Vec::new();
        for number in 0..20 {
            let said = loop {
                if let Some((len, said)) = parse_frame(&got) {
                    got.drain(..len);
                    if said != Said::Ping {
                        break said;
                    }
                } else {
                    let read = tokio::time::timeout(PATIENCE, socket.read_buf(&mut got)).await;
                    assert!(read.unwrap().unwrap() > 0, "the connection ended");
                }
            };
            assert_eq!(said, text(&format!("{number}{long}")));
        }
    }
    for listener in &mut streams {
        let heard = read_until(listener, "data: 19").await;
        assert!(heard.contains("data: 0x"));
    }
}

#[tokio::test]
async fn the_file_has_its_permissions_and_goes_with_the_server() {
    for (mode, expected) in [(None, 0o660), (Some("0600"), 0o600), (Some("666"), 0o666)] {
        let settings: Vec<(&str, &str)> = mode.map(|mode| ("FANFARE_UNIX_MODE", mode)).into_iter().collect();
        let here = start(&settings);
        let metadata = std::fs::symlink_metadata(&here.path).unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o777, expected, "{mode:?}");
        here.server.terminate();
        let (status, log) = here.server.wait();
        assert!(status.success(), "{log}");
        assert!(!here.path.exists(), "{mode:?}");
    }
}

/// Starts a second server at this path; how it ends, if it does so before it is ready.
fn start_second(path: &Path) -> Result<Server, String> {
    let settings = [("FANFARE_UNIX", path.to_str().unwrap())];
    let started = Server::spawn(command(), &settings, 1);
    if started.said.is_empty() {
        let (_, log) = started.into_server(String::new(), None).wait();
        return Err(log);
    }
    let address = started.address_of("http");
    Ok(started.into_server(address, None))
}

#[tokio::test]
async fn only_a_file_that_is_left_over_is_replaced() {
    let mut here = start(&[]);
    let error = start_second(&here.path).err().unwrap();
    assert!(error.contains("another program listens"), "{error}");
    // The first one is still there.
    UnixStream::connect(&here.path).await.unwrap();
    assert!(here.server.is_alive());
    // Killed, it leaves the file behind.
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(here.server.pid().try_into().unwrap()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    here.server.wait();
    let left_over = std::fs::symlink_metadata(&here.path).unwrap().ino();
    let second = start_second(&here.path).unwrap_or_else(|error| panic!("{error}"));
    UnixStream::connect(&here.path).await.unwrap();
    let own = std::fs::symlink_metadata(&here.path).unwrap().ino();
    // Whoever has put another file in its place keeps it.
    std::fs::rename(&here.path, here.path.with_extension("old")).unwrap();
    std::fs::write(&here.path, "of somebody else").unwrap();
    second.terminate();
    assert!(second.wait().0.success());
    assert_eq!(std::fs::read_to_string(&here.path).unwrap(), "of somebody else");
    let error = start_second(&here.path).err().unwrap();
    assert!(error.contains("is no socket"), "{error}");
    assert!(here.path.exists(), "{left_over} {own}");
}

#[tokio::test]
async fn a_proxy_there_is_believed_if_it_is_listed() {
    let look = "GET /health HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 203.0.113.7\r\nConnection: close\r\n\r\n";
    for (trusted, expected) in [("unix", "HTTP/1.1 403"), ("127.0.0.1", "HTTP/1.1 200")] {
        let here = start(&[
            ("FANFARE_KEY", KEY),
            ("FANFARE_NETWORK_TRUSTED_PROXIES", trusted),
            ("FANFARE_NETWORK_DENY", "203.0.113.0/24"),
        ]);
        let mut socket = UnixStream::connect(&here.path).await.unwrap();
        let answer = ask(&mut socket, look, "\r\n\r\n").await;
        assert!(answer.starts_with(expected), "{trusted}: {answer}");
    }
}

#[tokio::test]
async fn curl_posts_there() {
    let here = start(&[]);
    let mut listener = here.server.websocket("/ch/orders").await;
    let path = here.path.clone();
    let posted = tokio::task::spawn_blocking(move || {
        Command::new("curl")
            .arg("--silent")
            .arg("--unix-socket")
            .arg(path)
            .args(["-d", "order 7 paid", "http://localhost/ch/orders"])
            .output()
            .unwrap()
    });
    let posted = posted.await.unwrap();
    let answer = String::from_utf8(posted.stdout).unwrap();
    assert!(answer.contains("\"listeners\":1"), "{answer}");
    assert_eq!(listener.hear().await, text("order 7 paid"));
}

#[tokio::test]
async fn without_a_key_only_names_of_this_machine_are_answered_there() {
    for (key, host, expected) in [
        (Some(KEY), "shop.example", "HTTP/1.1 200"),
        (None, "shop.example", "HTTP/1.1 421"),
        (None, "localhost", "HTTP/1.1 200"),
    ] {
        let settings: Vec<_> = key.map(|key| ("FANFARE_KEY", key)).into_iter().collect();
        let here = start(&settings);
        let mut socket = UnixStream::connect(&here.path).await.unwrap();
        let look = format!("GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = ask(&mut socket, &look, "\r\n\r\n").await;
        assert!(answer.starts_with(expected), "{key:?} {host}: {answer}");
    }
}
