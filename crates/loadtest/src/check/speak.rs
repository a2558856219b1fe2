//! The publishers of a check: each waits for its answer, and knows of nothing but that answer.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::ANSWER_MAX;
use super::course::Course;
use super::line::{Line, text_of};
use super::listen::Speech;
use crate::checker::{Answer, Payload, Position};
use crate::random::Random;

/// Time for a server to accept connections again.
const CONNECT_MAX: Duration = Duration::from_secs(30);

/// Pause after a try to connect that failed, and after a refusal.
const PAUSE: Duration = Duration::from_millis(20);

/// Tries for a publication that must be accepted.
const TRIES_MAX: u32 = 500;

#[derive(Deserialize)]
struct Receipt {
    id: String,
}

pub(super) struct Publisher {
    pub(super) course: Rc<Course>,
    pub(super) number: u32,
    pub(super) sequence: u32,
    pub(super) random: Random,
    /// Publishes through the proxy.
    pub(super) by_proxy: bool,
    pub(super) line: Option<Line>,
}

impl Publisher {
    /// Publishes as long as there is something left to do, by POST or through what others say.
    pub(super) async fn run(mut self, voices: Vec<Vec<mpsc::Sender<Speech>>>) -> Result<()> {
        let begun = Instant::now();
        while let Some(turn) = self.course.next_publication() {
            sleep_until(begun + Duration::from_secs_f64(turn as f64 / self.course.rate)).await;
            let channel = self.random.below(self.course.channels.len() as u64) as usize;
            match voices.get(channel).filter(|voices| !voices.is_empty()) {
                Some(voices) => self.have_said(voices).await,
                None => drop(self.publish(channel).await?),
            }
        }
        Ok(())
    }

    fn next_payload(&mut self) -> Payload {
        self.sequence += 1;
        Payload {
            publisher: self.number,
            sequence: self.sequence - 1,
        }
    }

    /// Has one of the voices say the next publication, and waits until that is sure.
    async fn have_said(&mut self, voices: &[mpsc::Sender<Speech>]) {
        let voice = &voices[self.random.below(voices.len() as u64) as usize];
        let payload = self.next_payload();
        let (said, heard) = oneshot::channel();
        if voice.send(Speech { payload, said }).await.is_ok() {
            let _ = heard.await;
        }
    }

    /// Publishes once; `None` when it is not known to be accepted.
    async fn publish(&mut self, channel: usize) -> Result<Option<Position>> {
        let mut line = match self.line.take() {
            Some(line) => line,
            None => self.connect().await?,
        };
        let payload = self.next_payload();
        let course = Rc::clone(&self.course);
        let (name, in_history) = &course.channels[channel];
        course.history.borrow_mut().invoke(payload, *in_history, None);
        course.sends(payload);
        let request = request(name, course.key.as_deref(), &text_of(payload));
        let exchange = async {
            line.send(request.as_bytes()).await?;
            line.answer().await
        };
        let answer = match timeout(ANSWER_MAX, exchange).await {
            Ok(Ok((status, body))) => {
                self.line = Some(line);
                read_answer(&course, status, &body)
            }
            Ok(Err(_)) | Err(_) => Answer::Unknown,
        };
        course.answered(payload, channel, answer);
        match answer {
            Answer::Accepted(position) => Ok(Some(position)),
            Answer::Refused => {
                sleep(PAUSE).await;
                Ok(None)
            }
            Answer::Taken | Answer::Unknown => Ok(None),
        }
    }

    /// Publishes to a channel until that is accepted: the last one, by which everyone knows where
    /// the end is.
    pub(super) async fn close(&mut self, channel: usize) -> Result<Position> {
        for _ in 0..TRIES_MAX {
            if let Some(position) = self.publish(channel).await? {
                return Ok(position);
            }
        }
        bail!(
            "the last publication to {} was never accepted",
            self.course.name(channel)
        )
    }

    async fn connect(&self) -> Result<Line> {
        let begun = Instant::now();
        loop {
            match self.try_connect().await {
                Ok(line) => return Ok(line),
                Err(error) if begun.elapsed() > CONNECT_MAX => {
                    bail!("the server accepts no connections: {error}")
                }
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    async fn try_connect(&self) -> io::Result<Line> {
        let address: SocketAddr = if self.by_proxy {
            self.course.proxy
        } else {
            self.course.server.get()
        };
        Line::connect(address).await
    }
}

fn request(channel: &str, key: Option<&str>, text: &str) -> String {
    let key = key.map_or_else(String::new, |key| format!("Authorization: Bearer {key}\r\n"));
    format!(
        "POST /ch/{channel} HTTP/1.1\r\nHost: 127.0.0.1\r\n{key}Content-Type: text/plain\r\n\
         Content-Length: {}\r\n\r\n{text}",
        text.len()
    )
}

fn read_answer(course: &Course, status: u16, body: &[u8]) -> Answer {
    let receipt = serde_json::from_slice::<Receipt>(body).ok();
    let position = receipt.and_then(|receipt| receipt.id.parse().ok());
    match (status, position) {
        (200, Some(position)) => Answer::Accepted(position),
        (429 | 503, _) => Answer::Refused,
        _ => {
            let text = String::from_utf8_lossy(body);
            let what = format!("a publication was answered {status} with {text:?}");
            course.history.borrow_mut().broken(None, what);
            if status == 200 {
                Answer::Unknown
            } else {
                Answer::Refused
            }
        }
    }
}
