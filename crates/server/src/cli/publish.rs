//! `fanfare publish`: says one message, or each line of standard input.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::ServerArgs;

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
    let mut sender = connect(args.server.authority()?).await?;
    if let Some(message) = &args.message {
        println!("{}", say(&mut sender, &args, message.clone()).await?);
        return Ok(());
    }
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut count = 0_u64;
    while let Some(line) = lines
        .next_line()
        .await
        .context("cannot read standard input as text")?
    {
        if sender.ready().await.is_err() {
            sender = connect(args.server.authority()?).await?;
        }
        say(&mut sender, &args, line).await?;
        count += 1;
    }
    println!("{count} published");
    Ok(())
}

async fn connect(authority: &str) -> Result<SendRequest<Full<Bytes>>> {
    let socket = tokio::net::TcpStream::connect(authority).await;
    let socket = socket.with_context(|| format!("no server answers at {authority}; is fanfare running?"))?;
    socket.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn say(sender: &mut SendRequest<Full<Bytes>>, args: &Args, message: String) -> Result<String> {
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
        .header("Host", args.server.authority()?)
        .header("Content-Type", kind);
    if let Some(key) = ServerArgs::key() {
        request = request.header("Authorization", format!("Bearer {key}"));
    }
    let answer = sender
        .send_request(request.body(Full::new(message.into()))?)
        .await
        .context("the server did not answer")?;
    let status = answer.status();
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
        bail!("refused ({}): {message}", status.as_u16());
    }
    Ok(body)
}
