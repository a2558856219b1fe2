//! A judge must find what is planted: a server that loses, repeats, swaps, invents or sends
//! people away is found out, and one that does nothing wrong is not accused.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use fanfare_loadtest::{Group, Outcome, Scenario, Target, Transport, Until, floor, run};

/// What the server does wrong with a publication, counted from 0, to the first subscriber.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fault {
    None,
    Lose(usize),
    Repeat(usize),
    SwapWithNext(usize),
    Invent(usize),
    SendAway(usize),
}

fn read_request(socket: &mut TcpStream) -> Option<Vec<u8>> {
    let mut got = Vec::new();
    let mut buffer = [0; 4_096];
    loop {
        if let Some(end) = got.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&got[..end]).to_lowercase();
            let len = head.split("content-length: ").nth(1);
            let len: usize = len.map_or(0, |rest| rest.lines().next().unwrap().parse().unwrap());
            if got.len() >= end + 4 + len {
                return Some(got.split_off(end + 4));
            }
        }
        let count = socket.read(&mut buffer).ok().filter(|count| *count > 0)?;
        got.extend(&buffer[..count]);
    }
}

fn frame(body: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81, u8::try_from(body.len()).unwrap()];
    frame.extend(body);
    frame
}

/// Two subscribers, then one publisher.
fn faulty(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut subscribers = Vec::new();
        while subscribers.len() < 2 {
            let (mut socket, _) = listener.accept().unwrap();
            read_request(&mut socket).unwrap();
            socket
                .write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
                .unwrap();
            subscribers.push(socket);
        }
        let (mut publisher, _) = listener.accept().unwrap();
        publisher.set_nodelay(true).unwrap();
        let mut held: Option<Vec<u8>> = None;
        for number in 0.. {
            let Some(body) = read_request(&mut publisher) else {
                return;
            };
            let bytes = frame(&body);
            let first = match fault {
                Fault::Lose(at) if at == number => Vec::new(),
                Fault::Repeat(at) if at == number => [&bytes[..], &bytes].concat(),
                Fault::SwapWithNext(at) if at == number => {
                    held = Some(bytes.clone());
                    Vec::new()
                }
                Fault::Invent(at) if at == number => {
                    let stranger = String::from_utf8(body.clone())
                        .unwrap()
                        .replacen("#0000", "#0009", 1);
                    [bytes.clone(), frame(stranger.as_bytes())].concat()
                }
                Fault::SendAway(at) if at == number => [&bytes[..], b"\x88\x02\x03\xe8"].concat(),
                _ => [bytes.clone(), held.take().unwrap_or_default()].concat(),
            };
            let _ = subscribers[0].write_all(&first);
            if matches!(fault, Fault::SendAway(at) if at == number) {
                subscribers[0].shutdown(std::net::Shutdown::Both).unwrap();
            }
            let _ = subscribers[1].write_all(&bytes);
            publisher
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .unwrap();
        }
    });
    address
}

fn outcome_of(address: SocketAddr, group: Group) -> Outcome {
    let scenario = Scenario {
        warmup_seconds: 0.0,
        seconds: 0.2,
        idle_seconds: 0.0,
        patience_seconds: 1.0,
        group: vec![group],
        ..Scenario::default()
    };
    run(
        &scenario,
        &Target::plain(&address.to_string()).unwrap(),
        None,
        &mut |_, _| {},
    )
    .unwrap()
}

#[track_caller]
fn check(fault: Fault, found: impl Fn(&fanfare_loadtest::GroupOutcome) -> bool) {
    let group = Group {
        subscribers: 2,
        publishers: 1,
        until: Until::Answered,
        payload: 64,
        ..Group::default()
    };
    let outcome = outcome_of(faulty(fault), group);
    let group = &outcome.groups[0];
    assert!(group.publications > 10, "{fault:?}: {group:?}");
    assert!(found(group), "{fault:?}: {group:?}");
    assert_eq!(outcome.is_exact(), fault == Fault::None, "{fault:?}");
}

#[test]
fn planted_faults_are_found() {
    check(Fault::None, |group| group.deliveries == 2 * group.publications);
    check(Fault::Lose(3), |group| {
        (group.missing, group.gaps, group.doubles) == (1, 1, 0)
    });
    check(Fault::Repeat(3), |group| {
        (group.missing, group.gaps, group.doubles) == (0, 0, 1)
    });
    check(Fault::SwapWithNext(3), |group| {
        group.gaps > 0 && group.doubles > 0
    });
    check(Fault::Invent(3), |group| group.doubles == 1);
    check(Fault::SendAway(3), |group| group.closed.get(&1000) == Some(&1));
}

#[test]
fn the_floor_delivers_exactly_over_both_transports() {
    for transport in [Transport::WebSocket, Transport::EventStream] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || floor::fan_out(listener));
        let group = Group {
            subscribers: 20,
            channels: 2,
            publishers: 4,
            transport,
            ..Group::default()
        };
        let outcome = outcome_of(address, group);
        let group = &outcome.groups[0];
        assert!(outcome.is_exact() && group.publications > 0, "{group:?}");
        assert_eq!(group.deliveries, 20 * group.publications, "{group:?}");
        assert!(group.delivery.count() > 0);
    }
}
