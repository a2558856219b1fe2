//! `fanfare listen`: prints what is said on channels, and comes back when the connection is lost.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::ServerArgs;

/// The waiting time before the first attempt to come back, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  fanfare listen orders\n  fanfare listen orders stock --json | jq .data")]
pub(super) struct Args {
    /// The channels.
    #[arg(required = true)]
    channels: Vec<String>,
    /// Print each message as the JSON object that the server sends.
    #[arg(long)]
    json: bool,
    /// End after this many messages.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(args: Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        tokio::select! {
            result = follow(args) => result,
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    })
}

async fn follow(args: Args) -> Result<()> {
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut wait = RETRY.0;
    loop {
        match once(&args, &mut left, &mut wait).await {
            Ok(true) => return Ok(()),
            Ok(false) => eprintln!("fanfare: the connection ended"),
            Err(error) if error.is::<Final>() => return Err(error),
            Err(error) => eprintln!("fanfare: {error:#}"),
        }
        let mut byte = [0];
        let _ = getrandom::fill(&mut byte);
        // Half to whole of the time, so that many listeners do not come back together.
        tokio::time::sleep(wait / 2 + wait / 2 * u32::from(byte[0]) / 255).await;
        wait = (wait * 2).min(RETRY.1);
    }
}

/// The server said that coming back would change nothing.
#[derive(Debug)]
struct Final(String);

impl std::fmt::Display for Final {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Final {}

/// One connection. `true`: enough messages came.
async fn once(args: &Args, left: &mut u64, wait: &mut Duration) -> Result<bool> {
    let place = args.server.place()?;
    let names: Vec<String> = args
        .channels
        .iter()
        .map(|name| {
            format!(
                "name={}",
                percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC)
            )
        })
        .collect();
    let scheme = if place.is_tls { "wss" } else { "ws" };
    let target = format!("{scheme}://{}/ch?meta=1&{}", place.authority, names.join("&"));
    let mut request = target.into_client_request()?;
    if let Some(key) = ServerArgs::key() {
        request
            .headers_mut()
            .insert("Authorization", format!("Bearer {key}").parse()?);
    }
    let stream = args.server.connect().await?;
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream)
        .await
        .context("the server refused the connection")?;
    loop {
        match next(&mut socket).await {
            None | Some(Err(Error::ConnectionClosed)) => return Ok(false),
            Some(Err(error)) => bail!("connection lost: {error}"),
            Some(Ok(Message::Text(text))) => {
                *wait = RETRY.0;
                if print(args, &text).is_err() {
                    // Whoever read our output has gone.
                    return Ok(true);
                }
                *left -= 1;
                if *left == 0 {
                    let _ = socket.close(None).await;
                    return Ok(true);
                }
            }
            Some(Ok(Message::Close(Some(frame)))) if (4400..4500).contains(&u16::from(frame.code)) => {
                return Err(Final(format!("refused ({}): {}", u16::from(frame.code), frame.reason)).into());
            }
            Some(Ok(_)) => {}
        }
    }
}

type Socket = tokio_tungstenite::WebSocketStream<Box<dyn super::Stream>>;

async fn next(socket: &mut Socket) -> Option<Result<Message, Error>> {
    use futures_util::StreamExt;
    socket.next().await
}

fn print(args: &Args, text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let message = serde_json::from_str::<serde_json::Value>(text);
    match message {
        Ok(message) if !args.json => {
            let field = |name: &str| message[name].as_str();
            let event = field("event").map_or(String::new(), |event| format!(" [{event}]"));
            let data = field("data").map_or_else(
                || format!("(base64) {}", field("base64").unwrap_or_default()),
                str::to_owned,
            );
            let channel = field("channel").unwrap_or_default();
            // A message must not be able to move the cursor or set the terminal's title.
            let line: String = format!("{channel}{event} {data}")
                .chars()
                .map(|c| if c.is_control() { '\u{fffd}' } else { c })
                .collect();
            if out.is_terminal() {
                write!(out, "{} ", time_of_day(SystemTime::now()))?;
            }
            writeln!(out, "{line}")?;
        }
        _ => writeln!(out, "{text}")?,
    }
    out.flush()
}

/// Hours, minutes and seconds, UTC. Only people at a terminal see it: who pipes wants `--json`.
fn time_of_day(now: SystemTime) -> String {
    let seconds = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let (minutes, seconds) = (seconds / 60, seconds % 60);
    format!("{:02}:{:02}:{seconds:02}", minutes / 60 % 24, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_has_24_hours() {
        for (seconds, expected) in [
            (0, "00:00:00"),
            (86_399, "23:59:59"),
            (86_400 + 3_661, "01:01:01"),
        ] {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(time_of_day(now), expected);
        }
    }
}
