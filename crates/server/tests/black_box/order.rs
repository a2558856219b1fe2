//! Promise 1: all subscribers of a channel see one order, complete, and a publisher that waits
//! for its answers sees its own order.
//!
//! 1,000 subscribers, half of them over WebSocket and half over event streams, on both shards;
//! 5,000 publications from four publishers at once.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use crate::support::{Peer, Said, Server};

const SUBSCRIBERS: usize = 1_000;
const PUBLISHERS: usize = 4;
const EACH: usize = 1_250;

/// Everything that a subscriber heard, folded: equal exactly when count and order are.
#[derive(Debug, Default)]
struct Heard {
    hash: DefaultHasher,
    next: [usize; PUBLISHERS],
}

impl Heard {
    fn take(&mut self, message: &str) {
        let (publisher, sequence) = message.split_once(':').unwrap();
        let (publisher, sequence): (usize, usize) = (publisher.parse().unwrap(), sequence.parse().unwrap());
        assert_eq!(
            sequence, self.next[publisher],
            "publisher {publisher}: lost, doubled or out of order"
        );
        self.next[publisher] += 1;
        message.hash(&mut self.hash);
    }

    fn is_complete(&self) -> bool {
        self.next == [EACH; PUBLISHERS]
    }
}

async fn by_websocket(mut peer: Peer) -> u64 {
    let mut heard = Heard::default();
    while !heard.is_complete() {
        match peer.hear().await {
            Said::Text(message) => heard.take(&message),
            other => panic!("{other:?}"),
        }
    }
    heard.hash.finish()
}

async fn by_stream(mut peer: Peer) -> u64 {
    let mut heard = Heard::default();
    while !heard.is_complete() {
        let block = peer.event().await;
        heard.take(
            block
                .lines()
                .find_map(|line| line.strip_prefix("data: "))
                .unwrap(),
        );
    }
    heard.hash.finish()
}

#[tokio::test]
async fn a_thousand_subscribers_see_one_complete_order() {
    let server = Server::start(&[]);
    let mut subscribers = Vec::new();
    for index in 0..SUBSCRIBERS {
        subscribers.push(if index % 2 == 0 {
            tokio::spawn(by_websocket(server.websocket("/ch/a").await))
        } else {
            tokio::spawn(by_stream(server.stream("/ch/a", "").await))
        });
    }
    let mut publishers = Vec::new();
    for publisher in 0..PUBLISHERS {
        let mut peer = server.connect().await;
        publishers.push(tokio::spawn(async move {
            let mut last = 0_u64;
            for sequence in 0..EACH {
                let message = format!("{publisher}:{sequence}");
                let (status, _, answer) = peer.request("POST", "/ch/a", "", message.as_bytes()).await;
                assert_eq!(status, 200, "{answer}");
                let offset: u64 = answer.split(['-', '"']).nth(4).unwrap().parse().unwrap();
                assert!(offset > last, "offsets rise");
                last = offset;
            }
        }));
    }
    for publisher in publishers {
        publisher.await.unwrap();
    }
    let mut orders = Vec::new();
    for subscriber in subscribers {
        orders.push(subscriber.await.unwrap());
    }
    orders.dedup();
    assert_eq!(orders.len(), 1, "subscribers saw different orders");
    let deliveries = (SUBSCRIBERS * PUBLISHERS * EACH) as u64;
    assert_eq!(server.metric("fanfare_deliveries_total").await, deliveries);
}
