//! `fanfare publish`: says one message, or each line of standard input.
//!
//! A server that is busy (503) has not taken the line, so it is said again. A connection that
//! breaks before the answer leaves that open; saying it again might double it, so that ends the
//! command with the number of the line.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::ServerArgs;

/// How often a line is said again when the server is busy.
const RETRIES: u32 = 8;

/// Waiting time when a busy server does not name one, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// What the server answered.
enum Answer {
    /// Its receipt.
    Accepted(String),
    /// Not now, and why.
    Busy(Duration, String),
}

#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  fanfare publish orders 'order 7 paid'\n  tail -f app.log | fanfare publish log\n  fanfare publish '*' 'We restart at 22:00'   everyone hears it"
)]
pub(super) struct Args {
    /// The channel, or * for everyone.
    channel: String,
    /// The message; without it, each line of standard input is one.
    message: Option<String>,
    /// The name of what happened.
    #[arg(long)]
    event: Option<String>,
    /// Send as binary.
    #[arg(long)]
    binary: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(args: Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(publish(args))
}

async fn publish(args: Args) -> Result<()> {
    let mut sender = connect(&args.server).await?;
    if let Some(message) = &args.message {
        return match say(&mut sender, &args, message.clone().into()).await? {
            Answer::Accepted(receipt) => super::print(&format!("{receipt}\n")),
            Answer::Busy(_, cause) => bail!("{cause}"),
        };
    }
    let mut lines = BufReader::new(tokio::io::stdin()).split(b'\n');
    let mut count = 0_u64;
    while let Some(mut line) = lines.next_segment().await.context("cannot read standard input")? {
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        let said = say_line(&mut sender, &args, line.into()).await;
        said.with_context(|| format!("line {}", count + 1))?;
        count += 1;
    }
    super::print(&format!("{count} published\n"))
}

/// Says one of many, patiently.
async fn say_line(sender: &mut SendRequest<Full<Bytes>>, args: &Args, line: Bytes) -> Result<()> {
    let mut retries = 0;
    loop {
        if sender.ready().await.is_err() {
            *sender = connect(&args.server).await?;
        }
        match say(sender, args, line.clone()).await? {
            Answer::Accepted(_) => return Ok(()),
            Answer::Busy(_, cause) if retries == RETRIES => bail!("{cause}"),
            Answer::Busy(wait, _) => tokio::time::sleep(wait).await,
        }
        retries += 1;
    }
}

async fn connect(server: &ServerArgs) -> Result<SendRequest<Full<Bytes>>> {
    let stream = server.connect().await?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn say(sender: &mut SendRequest<Full<Bytes>>, args: &Args, message: Bytes) -> Result<Answer> {
    let mut target = super::channel_path(&args.channel);
    if let Some(event) = &args.event {
        let event = percent_encoding::utf8_percent_encode(event, percent_encoding::NON_ALPHANUMERIC);
        target = format!("{target}?event={event}");
    }
    let kind = if args.binary {
        "application/octet-stream"
    } else {
        "text/plain; charset=utf-8"
    };
    let mut request = http::Request::post(target)
        .header("Host", args.server.place()?.authority)
        .header("Content-Type", kind);
    if let Some(key) = ServerArgs::key() {
        request = request.header("Authorization", format!("Bearer {key}"));
    }
    let answer = sender
        .send_request(request.body(Full::new(message))?)
        .await
        .context("the server did not answer")?;
    let status = answer.status();
    let retry_after = answer.headers().get(http::header::RETRY_AFTER);
    let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
    let body = answer
        .into_body()
        .collect()
        .await
        .context("the server's answer broke off")?
        .to_bytes();
    let body = String::from_utf8_lossy(&body).trim().to_owned();
    if !status.is_success() {
        let message = serde_json::from_str::<serde_json::Value>(&body).ok();
        let message = message
            .as_ref()
            .and_then(|body| body["message"].as_str())
            .unwrap_or(&body);
        let cause = format!("refused ({}): {message}", status.as_u16());
        if status != http::StatusCode::SERVICE_UNAVAILABLE {
            bail!("{cause}");
        }
        let wait = retry_after.map_or(RETRY.0, Duration::from_secs).min(RETRY.1);
        return Ok(Answer::Busy(wait, cause));
    }
    Ok(Answer::Accepted(body))
}
