//! Each thing that the proxy does to a connection, as a client and an echo server see it.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use fanfare_loadtest::proxy::{Plan, Proxy, Toward, Ways, When};
use fanfare_loadtest::random::Random;

const BYE: &[u8] = b"bye";

/// Sends back what it gets, and "bye" at the end. Tells the test what it got, piece by piece, and
/// the end as an empty piece; a reset as an error.
fn echo() -> (SocketAddr, Receiver<Result<Vec<u8>, ErrorKind>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut buffer = vec![0; 64 << 10];
        loop {
            match socket.read(&mut buffer) {
                Ok(count) => {
                    let _ = tell.send(Ok(buffer[..count].to_vec()));
                    if count == 0 {
                        let _ = socket.write_all(BYE);
                        return;
                    }
                    // Whichever call meets a reset first is the only one to be told.
                    if let Err(error) = socket.write_all(&buffer[..count]) {
                        let _ = tell.send(Err(error.kind()));
                        return;
                    }
                }
                Err(error) => {
                    let _ = tell.send(Err(error.kind()));
                    return;
                }
            }
        }
    });
    (address, told)
}

struct Scene {
    socket: TcpStream,
    told: Receiver<Result<Vec<u8>, ErrorKind>>,
    _proxy: Proxy,
}

fn scene(plan: Plan) -> Scene {
    let (server, told) = echo();
    let proxy = Proxy::start(server, move |_| plan).unwrap();
    let socket = TcpStream::connect(proxy.address()).unwrap();
    Scene {
        socket,
        told,
        _proxy: proxy,
    }
}

impl Scene {
    /// What the server got until its end, or the reset.
    fn server_got(&self) -> Result<Vec<u8>, ErrorKind> {
        let mut all = Vec::new();
        loop {
            match self.told.recv().unwrap() {
                Ok(piece) if piece.is_empty() => return Ok(all),
                Ok(piece) => all.extend(piece),
                Err(error) => return Err(error),
            }
        }
    }

    /// What the client gets until its end, or the reset.
    fn client_gets(&mut self) -> (Vec<u8>, Option<ErrorKind>) {
        let mut all = Vec::new();
        let error = self.socket.read_to_end(&mut all).err();
        (all, error.map(|error| error.kind()))
    }
}

fn noise(len: usize) -> Vec<u8> {
    let mut random = Random::new(7);
    (0..len).map(|_| random.next().to_le_bytes()[0]).collect()
}

#[test]
fn nothing_is_altered_either_way() {
    let stall = Duration::from_millis(20);
    let plans = [
        Plan::Pass,
        Plan::Slices,
        Plan::Stall(When::Byte(100_000), stall, Ways::Both),
        Plan::Stall(When::Inside(Duration::ZERO), stall, Ways::ClientOnly),
        Plan::Stall(When::After(Duration::ZERO), stall, Ways::Both),
        Plan::Finish(When::Byte(10_000_000)),
    ];
    for plan in plans {
        let mut scene = scene(plan);
        let bytes = noise(1 << 20);
        let mut writer = scene.socket.try_clone().unwrap();
        let sent = bytes.clone();
        let writing = std::thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let (got, error) = scene.client_gets();
        writing.join().unwrap();
        assert_eq!(error, None, "{plan:?}");
        assert!(got == [&bytes[..], BYE].concat(), "{plan:?}: {} bytes", got.len());
        assert!(scene.server_got() == Ok(bytes), "{plan:?}");
    }
}

/// The client sends `len` bytes at once; it gets some back and then the end or a reset.
#[track_caller]
fn check_cut(plan: Plan, len: usize, is_reset: bool, good: impl Fn(usize) -> bool) {
    let mut scene = scene(plan);
    let bytes = noise(len);
    scene.socket.write_all(&bytes).unwrap();
    let (got, error) = scene.client_gets();
    let expected = is_reset.then_some(ErrorKind::ConnectionReset);
    assert_eq!(error, expected, "{plan:?}");
    assert!(bytes.starts_with(&got), "{plan:?}");
    assert!(good(got.len()), "{plan:?}: {} bytes", got.len());
    let at_server = scene.server_got().map(|_| ());
    assert_eq!(at_server, expected.map_or(Ok(()), Err), "{plan:?}");
}

#[test]
fn cuts_are_seen_by_both_sides_where_they_were_planned() {
    let soon = Duration::from_millis(5);
    for byte in [0, 1, 999] {
        let exactly = move |got| got as u64 == byte;
        check_cut(Plan::Finish(When::Byte(byte)), 1_000, false, exactly);
        // A reset overtakes what the client has not read yet.
        let at_most = move |got| got as u64 <= byte;
        check_cut(Plan::Reset(When::Byte(byte)), 1_000, true, at_most);
    }
    check_cut(Plan::Finish(When::Inside(Duration::ZERO)), 100, false, |got| {
        0 < got && got < 100
    });
    check_cut(Plan::Reset(When::Inside(Duration::ZERO)), 100, true, |got| {
        got < 100
    });
    check_cut(Plan::Finish(When::After(soon)), 0, false, |got| got == 0);
    check_cut(Plan::Reset(When::After(soon)), 0, true, |got| got == 0);
}

#[test]
fn a_half_close_leaves_the_other_way_open() {
    let mut scene = scene(Plan::HalfClose(When::Byte(10), Toward::Client));
    scene.socket.write_all(&noise(100)).unwrap();
    assert_eq!(scene.client_gets(), (noise(10), None));
    scene.socket.write_all(b"still here").unwrap();
    scene.socket.shutdown(Shutdown::Write).unwrap();
    let expected = [&noise(100)[..], b"still here"].concat();
    assert_eq!(scene.server_got(), Ok(expected));

    let mut scene = self::scene(Plan::HalfClose(
        When::After(Duration::from_millis(5)),
        Toward::Server,
    ));
    assert_eq!(scene.server_got(), Ok(Vec::new()));
    assert_eq!(scene.client_gets(), (BYE.to_vec(), None));
}

#[test]
fn a_stall_holds_back_what_it_concerns() {
    let forever = Duration::from_hours(1);
    let mut scene = scene(Plan::Stall(When::Byte(3), forever, Ways::ClientOnly));
    scene.socket.write_all(b"abcdef").unwrap();
    let mut first = [0; 3];
    scene.socket.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"abc");
    scene.socket.write_all(b"ghi").unwrap();
    scene.socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(
        scene.server_got(),
        Ok(b"abcdefghi".to_vec()),
        "the way to the server is open"
    );
    scene.socket.set_nonblocking(true).unwrap();
    let error = scene.socket.read(&mut first).unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::WouldBlock,
        "the way to the client is not"
    );

    let time = Duration::from_millis(200);
    let mut scene = self::scene(Plan::Stall(When::Byte(3), time, Ways::Both));
    let begun = Instant::now();
    scene.socket.write_all(b"abcdef").unwrap();
    scene.socket.read_exact(&mut first).unwrap();
    assert_eq!(scene.told.recv().unwrap(), Ok(b"abcdef".to_vec()));
    // Sent at once, the server gets it only when the stall is over.
    scene.socket.write_all(b"ghi").unwrap();
    scene.socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(scene.server_got(), Ok(b"ghi".to_vec()));
    assert!(begun.elapsed() >= time);
    assert_eq!(scene.client_gets(), (b"defghibye".to_vec(), None));
}

#[test]
fn a_server_that_is_not_there_is_a_reset_and_a_new_one_is_found() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = Proxy::start(gone, |_| Plan::Pass).unwrap();
    let mut socket = TcpStream::connect(proxy.address()).unwrap();
    let error = socket.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let (server, _told) = echo();
    proxy.point_at(server);
    let mut socket = TcpStream::connect(proxy.address()).unwrap();
    socket.write_all(b"x").unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    let mut got = Vec::new();
    socket.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"xbye");
    assert_eq!(proxy.connections(), 2);
}
