//! A load generator for broadcast servers: opens subscribers, publishes stamped messages, and
//! counts what arrives, in which order, and when.
//!
//! It knows only the wire (WebSocket frames, event streams, HTTP/1.1), so that it measures any
//! server that speaks the plain protocol, and judges ours from outside. `fanfare bench` and the
//! program `fanfare-loadtest` are two doors to [`fan_out`].
//!
//! A message is `publisher sequence nanoseconds`, padded with dots: who sent it, the how-manieth
//! it was, and when, on the generator's own clock. The figures therefore include the generator's
//! own time, which on a machine with few cores is a good part of them.

#![forbid(unsafe_code)]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;

mod wire;

pub use wire::Target;

/// How subscribers are connected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Transport {
    /// WebSocket, raw messages.
    WebSocket,
    /// Event stream, raw messages.
    EventStream,
}

/// One channel, many subscribers, some publishers that each wait for their answers.
#[derive(Clone, Debug)]
pub struct FanOut {
    /// The server.
    pub target: Target,
    /// The channel; best one that nobody else uses.
    pub channel: String,
    /// How many listen.
    pub subscribers: usize,
    /// How many publish at once, each over its own connection.
    pub publishers: usize,
    /// For how long publications are sent.
    pub time: Duration,
    /// Size of a message, in bytes; at least [`PAYLOAD_BYTES_MIN`].
    pub payload_bytes: usize,
    /// How subscribers are connected.
    pub transport: Transport,
}

/// Room for the stamp.
pub const PAYLOAD_BYTES_MIN: usize = 48;

/// Time after the last publication for what is still on its way.
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// What a run has found.
#[derive(Debug)]
pub struct Report {
    /// Publications that were accepted.
    pub publications: u64,
    /// Publications times subscribers.
    pub expected: u64,
    /// What arrived.
    pub received: u64,
    /// Messages that came out of their publisher's order, twice, or with one missing before them.
    pub disorders: u64,
    /// Whether all subscribers that heard everything heard it in the same order.
    pub one_order: bool,
    /// From the first publication to the last delivery.
    pub took: Duration,
    /// From sending a publication to each delivery, in microseconds.
    pub delivery_micros: Histogram<u64>,
    /// From sending a publication to its answer, in microseconds.
    pub publish_micros: Histogram<u64>,
}

impl Report {
    /// Deliveries per second.
    pub fn deliveries_per_second(&self) -> u64 {
        per_second(self.received, self.took)
    }

    /// Whether nothing was lost, doubled or out of order.
    pub fn is_clean(&self) -> bool {
        self.received == self.expected && self.disorders == 0 && self.one_order
    }

    /// A table for people.
    pub fn table(&self) -> String {
        let line = |name: &str, h: &Histogram<u64>| {
            let at = |quantile: f64| millis(h.value_at_quantile(quantile));
            format!(
                "{name:10} {:>9} {:>9} {:>9} {:>9}\n",
                at(0.5),
                at(0.99),
                at(0.999),
                millis(h.max())
            )
        };
        format!(
            "publications {:>12}   {:>10}/s\ndeliveries   {:>12}   {:>10}/s\nmissing      {:>12}\ndisorders    {:>12}\n\n\
             ms               p50       p99     p99.9       max\n{}{}",
            self.publications,
            per_second(self.publications, self.took),
            self.received,
            self.deliveries_per_second(),
            self.expected.saturating_sub(self.received),
            self.disorders,
            line("publish", &self.publish_micros),
            line("deliver", &self.delivery_micros),
        )
    }

    /// The same for programs.
    pub fn json(&self) -> serde_json::Value {
        let histogram = |h: &Histogram<u64>| {
            serde_json::json!({
                "p50": h.value_at_quantile(0.5), "p99": h.value_at_quantile(0.99),
                "p999": h.value_at_quantile(0.999), "max": h.max(),
            })
        };
        serde_json::json!({
            "publications": self.publications,
            "deliveries_expected": self.expected,
            "deliveries_received": self.received,
            "disorders": self.disorders,
            "one_order": self.one_order,
            "seconds": self.took.as_secs_f64(),
            "deliveries_per_second": self.deliveries_per_second(),
            "publish_micros": histogram(&self.publish_micros),
            "delivery_micros": histogram(&self.delivery_micros),
        })
    }
}

fn per_second(count: u64, took: Duration) -> u64 {
    let micros = took.as_micros().max(1);
    u64::try_from(u128::from(count) * 1_000_000 / micros).unwrap_or(u64::MAX)
}

fn millis(micros: u64) -> String {
    format!("{}.{:02}", micros / 1_000, micros % 1_000 / 10)
}

/// What one subscriber has heard.
struct Heard {
    received: u64,
    disorders: u64,
    order: DefaultHasher,
    next: Vec<u64>,
    micros: Histogram<u64>,
}

impl Heard {
    fn new(publishers: usize) -> Result<Self> {
        let micros = Histogram::new(2)?;
        Ok(Self {
            received: 0,
            disorders: 0,
            order: DefaultHasher::new(),
            next: vec![0; publishers],
            micros,
        })
    }

    fn take(&mut self, message: &str, start: Instant) {
        let now = start.elapsed();
        let mut words = message.split(' ');
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        let (Some(publisher), Some(sequence), Some(nanos)) = (number(), number(), number()) else {
            self.disorders += 1;
            return;
        };
        self.received += 1;
        (publisher, sequence).hash(&mut self.order);
        match usize::try_from(publisher)
            .ok()
            .and_then(|publisher| self.next.get_mut(publisher))
        {
            Some(next) => {
                self.disorders += u64::from(*next != sequence);
                *next = sequence + 1;
            }
            None => self.disorders += 1,
        }
        let late = now.saturating_sub(Duration::from_nanos(nanos));
        let _ = self
            .micros
            .record(u64::try_from(late.as_micros()).unwrap_or(u64::MAX));
    }
}

/// Runs the scenario on the current runtime. `progress` is called now and then with the part of
/// the time that has passed, in thousandths.
pub async fn fan_out(scenario: FanOut, progress: impl Fn(u64)) -> Result<Report> {
    if scenario.payload_bytes < PAYLOAD_BYTES_MIN || scenario.subscribers == 0 || scenario.publishers == 0 {
        bail!("at least one subscriber, one publisher, and {PAYLOAD_BYTES_MIN} bytes");
    }
    let start = Instant::now();
    let (end, ended) = tokio::sync::watch::channel(None::<u64>);
    let mut subscribers = Vec::new();
    for index in 0..scenario.subscribers {
        let mut subscriber = wire::Subscriber::open(&scenario.target, &scenario.channel, scenario.transport)
            .await
            .with_context(|| format!("subscriber {index} could not connect"))?;
        let mut ended = ended.clone();
        let mut heard = Heard::new(scenario.publishers)?;
        subscribers.push(tokio::spawn(async move {
            loop {
                if ended
                    .borrow_and_update()
                    .is_some_and(|total| heard.received >= total)
                {
                    return heard;
                }
                tokio::select! {
                    message = subscriber.next() => match message {
                        Ok(Some(message)) => heard.take(&message, start),
                        Ok(None) | Err(_) => return heard,
                    },
                    changed = ended.changed() => if changed.is_err() { return heard },
                }
            }
        }));
    }
    let begun = Instant::now();
    let accepted = Arc::new(AtomicU64::new(0));
    let mut publishers = Vec::new();
    for index in 0..scenario.publishers {
        publishers.push(tokio::spawn(publish(
            index,
            scenario.clone(),
            start,
            begun,
            Arc::clone(&accepted),
        )));
    }
    let mut publish_micros: Histogram<u64> = Histogram::new(2)?;
    let ticks = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        loop {
            ticks.tick().await;
            let passed = begun.elapsed().as_millis() * 1_000 / scenario.time.as_millis().max(1);
            progress(u64::try_from(passed).unwrap_or(1_000).min(1_000));
        }
    };
    let all = async {
        for publisher in publishers {
            publish_micros.add(publisher.await??)?;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        result = all => result?,
        () = ticks => {}
    }
    let publications = accepted.load(Ordering::Relaxed);
    end.send_replace(Some(publications));
    let mut report = Report {
        publications,
        expected: publications * scenario.subscribers as u64,
        received: 0,
        disorders: 0,
        one_order: true,
        took: Duration::ZERO,
        delivery_micros: Histogram::new(2)?,
        publish_micros,
    };
    let mut order = None;
    // Whoever has not heard everything by then never will: closing the channel ends it.
    let settle = tokio::spawn(async move {
        tokio::time::sleep(SETTLE_MAX).await;
        drop(end);
    });
    for subscriber in subscribers {
        let heard = subscriber.await?;
        report.received += heard.received;
        report.disorders += heard.disorders;
        report.delivery_micros.add(heard.micros)?;
        let own = heard.order.finish();
        report.one_order &= heard.received < publications || *order.get_or_insert(own) == own;
    }
    settle.abort();
    report.took = begun.elapsed();
    Ok(report)
}

async fn publish(
    index: usize,
    scenario: FanOut,
    start: Instant,
    begun: Instant,
    accepted: Arc<AtomicU64>,
) -> Result<Histogram<u64>> {
    let mut publisher = wire::Publisher::open(&scenario.target, &scenario.channel).await?;
    let mut micros = Histogram::new(2)?;
    let mut sequence = 0_u64;
    while begun.elapsed() < scenario.time {
        let sent = start.elapsed();
        let mut message = format!("{index} {sequence} {} ", sent.as_nanos());
        let padding = scenario.payload_bytes.saturating_sub(message.len());
        message.extend(std::iter::repeat_n('.', padding));
        // Refused before ordering: the same message may be sent again.
        if publisher.publish(message.as_bytes()).await? {
            sequence += 1;
            accepted.fetch_add(1, Ordering::Relaxed);
            let took = start.elapsed().saturating_sub(sent);
            let _ = micros.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        }
    }
    Ok(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(messages: &[&str], received: u64, disorders: u64) {
        let mut heard = Heard::new(2).unwrap();
        for message in messages {
            heard.take(message, Instant::now());
        }
        assert_eq!(
            (heard.received, heard.disorders),
            (received, disorders),
            "{messages:?}"
        );
    }

    /// A judge must find what is planted.
    #[test]
    fn loss_repetition_and_exchange_are_found() {
        check(&["0 0 1 .", "1 0 1 .", "0 1 1 ."], 3, 0);
        check(&["0 0 1 .", "0 2 1 ."], 2, 1);
        check(&["0 0 1 .", "0 0 1 ."], 2, 1);
        check(&["0 1 1 .", "0 0 1 ."], 2, 2);
        check(&["2 0 1 ."], 1, 1);
        check(&["nonsense"], 0, 1);
    }

    #[test]
    fn orders_are_compared() {
        let order = |messages: &[&str]| {
            let mut heard = Heard::new(2).unwrap();
            messages
                .iter()
                .for_each(|message| heard.take(message, Instant::now()));
            heard.order.finish()
        };
        assert_eq!(order(&["0 0 1", "1 0 1"]), order(&["0 0 2", "1 0 3"]));
        assert_ne!(order(&["0 0 1", "1 0 1"]), order(&["1 0 1", "0 0 1"]));
    }
}
