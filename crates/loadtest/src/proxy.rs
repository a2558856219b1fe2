//! A TCP proxy that treats connections badly, the same way for the same seed.
//!
//! It listens on 127.0.0.1 and carries bytes to a server and back. Each connection has a [`Plan`],
//! drawn from a seed and the connection's number by [`Faults::plan`]: it is reset, ended, half
//! closed, stalled or delivered in slices, once. Bytes may be late or missing at the end, never
//! altered, repeated or left out in the middle.
//!
//! The proxy has a thread of its own, and knows nothing of what it carries. It has no limit of
//! connections: whoever starts it decides how many there are.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::{Shutdown, shutdown, sockopt};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::random::Random;

/// Bytes of a slice, of [`Plan::Slices`].
pub const SLICE_BYTES: usize = 7;

/// Bytes of each direction that come in slices; what follows is carried as it comes, since a system
/// call per slice costs both sides too much.
pub const SLICED_BYTES: u64 = 64 << 10;

/// Time for both sides to answer an orderly end.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

const BUFFER_BYTES: usize = 16 << 10;

/// Where bytes go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Toward {
    /// From client to server.
    Server,
    /// From server to client.
    Client,
}

/// When the fault of a connection strikes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum When {
    /// This long after the connect.
    After(Duration),
    /// When so many bytes have gone from server to client.
    Byte(u64),
    /// That long after the connect, in the middle of what the server sends next.
    Inside(Duration),
}

/// What happens to one connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Plan {
    /// Nothing.
    Pass,
    /// Both ways arrive in pieces of [`SLICE_BYTES`], for [`SLICED_BYTES`].
    Slices,
    /// Both sides see a reset (RST).
    Reset(When),
    /// Both sides see an orderly end (FIN).
    Finish(When),
    /// One side sees an orderly end; the other way goes on.
    HalfClose(When, Toward),
    /// Nothing is carried for a time, then it goes on: both ways, or only toward the client.
    Stall(When, Duration, Ways),
}

/// The ways that a stall concerns.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ways {
    /// Both.
    Both,
    /// What the server sends.
    ClientOnly,
}

/// How often each fault is drawn, as weights, and in which bounds.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Of [`Plan::Pass`].
    pub pass: u64,
    /// Of [`Plan::Slices`].
    pub slices: u64,
    /// Of [`Plan::Reset`].
    pub reset: u64,
    /// Of [`Plan::Finish`].
    pub finish: u64,
    /// Of [`Plan::HalfClose`].
    pub half_close: u64,
    /// Of [`Plan::Stall`], half of them toward the client only.
    pub stall: u64,
    /// The least and most time from the connect to the fault.
    pub after: [Duration; 2],
    /// The least and most time of a stall.
    pub stall_for: [Duration; 2],
    /// The most bytes before a fault that counts bytes, as a power of two.
    pub bytes_log2_max: u32,
}

impl Faults {
    /// Every connection passes.
    pub const NONE: Self = Self {
        pass: 1,
        slices: 0,
        reset: 0,
        finish: 0,
        half_close: 0,
        stall: 0,
        after: [Duration::ZERO; 2],
        stall_for: [Duration::ZERO; 2],
        bytes_log2_max: 0,
    };

    /// Nearly every connection is cut, within three seconds.
    pub const CUTS: Self = Self {
        reset: 4,
        finish: 4,
        half_close: 1,
        after: [Duration::from_millis(100), Duration::from_secs(3)],
        bytes_log2_max: 18,
        ..Self::NONE
    };

    /// Everything.
    pub const ALL: Self = Self {
        slices: 2,
        stall: 4,
        stall_for: [Duration::from_millis(100), Duration::from_secs(5)],
        ..Self::CUTS
    };

    /// What happens to a connection: the same for the same seed and number.
    pub fn plan(&self, seed: u64, connection: u64) -> Plan {
        let mut random = Random::of(seed, connection);
        let mut draw = {
            let sum = self.pass + self.slices + self.reset + self.finish + self.half_close + self.stall;
            random.below(sum)
        };
        let when = self.when(&mut random);
        let both = random.one_in(2);
        let stall_for = between(&mut random, self.stall_for);
        let (toward, ways) = if both {
            (Toward::Server, Ways::Both)
        } else {
            (Toward::Client, Ways::ClientOnly)
        };
        let plans = [
            (self.pass, Plan::Pass),
            (self.slices, Plan::Slices),
            (self.reset, Plan::Reset(when)),
            (self.finish, Plan::Finish(when)),
            (self.half_close, Plan::HalfClose(when, toward)),
            (self.stall, Plan::Stall(when, stall_for, ways)),
        ];
        for (weight, plan) in plans {
            if draw < weight {
                return plan;
            }
            draw -= weight;
        }
        Plan::Pass
    }

    fn when(&self, random: &mut Random) -> When {
        let time = between(random, self.after);
        match random.below(3) {
            0 => When::After(time),
            1 => When::Inside(time),
            _ => {
                // Each size of number equally often: many faults come early, some late.
                let bits = random.below(u64::from(self.bytes_log2_max) + 1);
                When::Byte(random.below(1 << bits))
            }
        }
    }
}

fn between(random: &mut Random, [least, most]: [Duration; 2]) -> Duration {
    let least = least.min(most);
    let span = most.saturating_sub(least).as_millis() as u64;
    least + Duration::from_millis(random.below(span + 1))
}

/// A proxy that runs until this is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    server: Arc<Mutex<SocketAddr>>,
    connections: Arc<AtomicU64>,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts a proxy for `server`. `plans` says what happens to a connection, by its number from 0.
    pub fn start(server: SocketAddr, plans: impl Fn(u64) -> Plan + Send + 'static) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut proxy = Self {
            address: listener.local_addr()?,
            server: Arc::new(Mutex::new(server)),
            connections: Arc::default(),
            stop: Arc::default(),
            thread: None,
        };
        let (server, connections) = (Arc::clone(&proxy.server), Arc::clone(&proxy.connections));
        let stop = Arc::clone(&proxy.stop);
        let serve = move || {
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async {
                let Ok(listener) = TcpListener::from_std(listener) else {
                    return;
                };
                loop {
                    let accepted = tokio::select! {
                        () = stop.notified() => return,
                        accepted = listener.accept() => accepted,
                    };
                    if let Ok((client, _)) = accepted {
                        let plan = plans(connections.fetch_add(1, Ordering::Relaxed));
                        let server = *server.lock().unwrap_or_else(PoisonError::into_inner);
                        tokio::task::spawn_local(async move { drop(carry(client, server, plan).await) });
                    } else {
                        // No descriptors: others have to end first.
                        sleep(Duration::from_millis(20)).await;
                    }
                }
            });
        };
        proxy.thread = Some(
            std::thread::Builder::new()
                .name("proxy".to_owned())
                .spawn(serve)?,
        );
        Ok(proxy)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Further connections go to this server.
    pub fn point_at(&self, server: SocketAddr) {
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = server;
    }

    /// How many connections there were.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What both ways of a connection share.
struct Line {
    plan: Plan,
    begun: Instant,
    /// The pump toward the client has come to where the fault strikes, and waits for `acted`.
    reached: Notify,
    acted: Notify,
    struck: Cell<bool>,
    /// Until when a way is stalled.
    held: [Cell<Option<Instant>>; 2],
}

impl Line {
    fn new(plan: Plan) -> Self {
        Self {
            plan,
            begun: Instant::now(),
            reached: Notify::new(),
            acted: Notify::new(),
            struck: Cell::new(false),
            held: Default::default(),
        }
    }

    fn when(&self) -> Option<When> {
        match self.plan {
            Plan::Pass | Plan::Slices => None,
            Plan::Reset(when) | Plan::Finish(when) | Plan::HalfClose(when, _) | Plan::Stall(when, ..) => {
                Some(when)
            }
        }
    }

    /// How many of `count` bytes from the server go on before the fault strikes among them.
    fn strikes_within(&self, passed: u64, count: usize) -> Option<usize> {
        match self.when()? {
            _ if self.struck.get() => None,
            When::Byte(byte) if byte < passed + count as u64 => Some(byte.saturating_sub(passed) as usize),
            When::Inside(time) if self.begun.elapsed() >= time => Some(count / 2),
            _ => None,
        }
    }

    /// Waits while a way is stalled.
    async fn pass(&self, toward: Toward) {
        let held = &self.held[toward as usize];
        while let Some(until) = held.get().filter(|until| *until > Instant::now()) {
            sleep_until(until).await;
        }
    }
}

async fn carry(mut client: TcpStream, server: SocketAddr, plan: Plan) -> io::Result<()> {
    let Ok(mut server) = TcpStream::connect(server).await else {
        return client.set_zero_linger();
    };
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    // Handles of the same sockets: the pumps have the streams.
    let [to_client, to_server] = [
        client.as_fd().try_clone_to_owned()?,
        server.as_fd().try_clone_to_owned()?,
    ];
    let line = Line::new(plan);
    {
        let (from_client, into_client) = client.split();
        let (from_server, into_server) = server.split();
        let mut pumps = pin!(async {
            tokio::join!(
                pump(from_client, into_server, &line, Toward::Server),
                pump(from_server, into_client, &line, Toward::Client)
            )
        });
        let due = async {
            match line.when() {
                Some(When::After(time)) => sleep(time).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = &mut pumps => return Ok(()),
            () = due => {}
            () = line.reached.notified() => {}
        }
        line.struck.set(true);
        match plan {
            Plan::Pass | Plan::Slices | Plan::Finish(_) => {}
            Plan::Reset(_) => {
                for socket in [&to_client, &to_server] {
                    sockopt::set_socket_linger(socket, Some(Duration::ZERO))?;
                }
                return Ok(());
            }
            Plan::HalfClose(_, toward) => {
                let socket: &OwnedFd = match toward {
                    Toward::Client => &to_client,
                    Toward::Server => &to_server,
                };
                shutdown(socket, Shutdown::Write)?;
            }
            Plan::Stall(_, time, ways) => {
                let until = Some(Instant::now() + time);
                line.held[Toward::Client as usize].set(until);
                if ways == Ways::Both {
                    line.held[Toward::Server as usize].set(until);
                }
            }
        }
        if !matches!(plan, Plan::Finish(_)) {
            line.acted.notify_one();
            pumps.await;
            return Ok(());
        }
    }
    for socket in [&to_client, &to_server] {
        let _ = shutdown(socket, Shutdown::Write);
    }
    // A socket that is closed with unread bytes sends a reset instead of an end.
    let _ = timeout(FAREWELL_MAX, async {
        let (mut sink, mut other) = (tokio::io::sink(), tokio::io::sink());
        tokio::join!(
            tokio::io::copy(&mut client, &mut sink),
            tokio::io::copy(&mut server, &mut other)
        )
    })
    .await;
    Ok(())
}

/// Carries bytes one way until they end or cannot be carried any more, and ends the way.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    line: &Line,
    toward: Toward,
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut passed = 0;
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let mut rest = &buffer[..count];
        if toward == Toward::Client
            && let Some(first) = line.strikes_within(passed, count)
        {
            if write(&mut to, &rest[..first], line, toward, passed)
                .await
                .is_err()
            {
                break;
            }
            passed += first as u64;
            rest = &rest[first..];
            line.reached.notify_one();
            // Of a connection that ends now this pump does not come back.
            line.acted.notified().await;
        }
        if write(&mut to, rest, line, toward, passed).await.is_err() {
            break;
        }
        passed += rest.len() as u64;
    }
    let _ = to.shutdown().await;
}

async fn write(
    to: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    line: &Line,
    toward: Toward,
    passed: u64,
) -> io::Result<()> {
    line.pass(toward).await;
    if line.plan != Plan::Slices || passed >= SLICED_BYTES {
        return to.write_all(bytes).await;
    }
    for slice in bytes.chunks(SLICE_BYTES) {
        to.write_all(slice).await?;
        // So that the other side has a chance to see each for itself.
        tokio::task::yield_now().await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use super::*;

    /// Keeps each write for itself.
    #[derive(Default)]
    struct Writes(Vec<Vec<u8>>);

    impl AsyncWrite for Writes {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.0.push(bytes.to_vec());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn slices_have_seven_bytes() {
        let bytes: Vec<u8> = (0..100).collect();
        for (plan, most) in [(Plan::Slices, SLICE_BYTES), (Plan::Pass, 100)] {
            let mut writes = Writes::default();
            pump(&bytes[..], &mut writes, &Line::new(plan), Toward::Server).await;
            assert_eq!(writes.0.iter().map(Vec::len).max(), Some(most));
            assert_eq!(writes.0.concat(), bytes);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_plans_and_all_kinds_of_them() {
        let plans = |seed: u64| (0..500).map(move |connection| Faults::ALL.plan(seed, connection));
        assert!(plans(1).eq(plans(1)));
        assert!(!plans(1).eq(plans(2)));
        let kinds: [fn(&Plan) -> bool; 10] = [
            |plan| *plan == Plan::Pass,
            |plan| *plan == Plan::Slices,
            |plan| matches!(plan, Plan::Reset(When::Byte(_))),
            |plan| matches!(plan, Plan::Reset(When::After(_))),
            |plan| matches!(plan, Plan::Finish(When::Inside(_))),
            |plan| matches!(plan, Plan::Finish(When::Byte(_))),
            |plan| matches!(plan, Plan::HalfClose(_, Toward::Server)),
            |plan| matches!(plan, Plan::HalfClose(_, Toward::Client)),
            |plan| matches!(plan, Plan::Stall(_, _, Ways::Both)),
            |plan| matches!(plan, Plan::Stall(_, _, Ways::ClientOnly)),
        ];
        for (number, kind) in kinds.iter().enumerate() {
            assert!(plans(1).any(|plan| kind(&plan)), "kind {number}");
        }
        let cuts = (0..500).map(|connection| Faults::CUTS.plan(1, connection));
        assert!(
            cuts.into_iter()
                .all(|plan| !matches!(plan, Plan::Stall(..) | Plan::Slices))
        );
        assert!((0..500).all(|connection| Faults::NONE.plan(1, connection) == Plan::Pass));
    }
}
