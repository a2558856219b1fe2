//! How long an answer takes while everybody comes back, as somebody sees it who does nothing else:
//! on a thread of its own, since that of the listeners is then busy with what they hear.
//!
//! It publishes to a channel that nobody listens to, one message after the other. What fails is
//! tried again and counts as nothing: the server may just have been killed.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::outcome::Times;
use crate::wire;

/// Pause between publications.
const PAUSE: Duration = Duration::from_millis(10);

/// Time for an answer; a longer one is recorded as this.
const ANSWER_MAX: Duration = Duration::from_secs(10);

struct Shared {
    server: SocketAddr,
    /// All are coming back, so it counts.
    counts: bool,
    is_over: bool,
    times: Times,
}

/// A probe that runs until this is dropped.
pub(super) struct Probe {
    shared: Arc<Mutex<Shared>>,
    thread: Option<JoinHandle<()>>,
}

impl Probe {
    /// Begins; `key` is shown if there is one.
    pub(super) fn start(server: SocketAddr, key: Option<&str>) -> io::Result<Self> {
        let shared = Arc::new(Mutex::new(Shared {
            server,
            counts: false,
            is_over: false,
            times: Times::new(),
        }));
        let key = key.map_or_else(String::new, |key| format!("Authorization: Bearer {key}\r\n"));
        let request =
            format!("POST /ch/probe HTTP/1.1\r\nHost: 127.0.0.1\r\n{key}Content-Length: 1\r\n\r\nx");
        let own = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("probe".to_owned())
            .spawn(move || probe(&own, request.as_bytes()))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// What is answered from now on counts, or does not.
    pub(super) fn counts(&self, counts: bool) {
        lock(&self.shared).counts = counts;
    }

    pub(super) fn point_at(&self, server: SocketAddr) {
        lock(&self.shared).server = server;
    }

    /// What was measured so far.
    pub(super) fn times(&self) -> Times {
        lock(&self.shared).times.clone()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        lock(&self.shared).is_over = true;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn probe(shared: &Mutex<Shared>, request: &[u8]) {
    let mut line = None;
    loop {
        let (server, counts) = {
            let now = lock(shared);
            if now.is_over {
                return;
            }
            (now.server, now.counts)
        };
        let begun = Instant::now();
        let answered = exchange(&mut line, server, request);
        let took = begun.elapsed();
        match answered {
            Ok(()) if counts => lock(shared).times.record(took.as_nanos() as u64),
            Ok(()) => {}
            Err(_) => {
                line = None;
                if counts && took >= ANSWER_MAX {
                    lock(shared).times.record(took.as_nanos() as u64);
                }
            }
        }
        std::thread::sleep(PAUSE);
    }
}

fn exchange(line: &mut Option<TcpStream>, server: SocketAddr, request: &[u8]) -> io::Result<()> {
    let line = if let Some(line) = line {
        line
    } else {
        let fresh = TcpStream::connect(server)?;
        fresh.set_nodelay(true)?;
        fresh.set_read_timeout(Some(ANSWER_MAX))?;
        line.insert(fresh)
    };
    line.write_all(request)?;
    let (mut got, mut part) = (Vec::new(), [0; 4_096]);
    loop {
        match wire::whole_answer(&got) {
            Some((200, _)) => return Ok(()),
            Some(_) => return Err(io::ErrorKind::ConnectionRefused.into()),
            None => {}
        }
        match line.read(&mut part)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => got.extend_from_slice(&part[..count]),
        }
    }
}
