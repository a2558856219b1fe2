//! `fanfare-loadtest`: the load generator as a program of its own.

use std::time::Duration;

use clap::Parser;
use fanfare_loadtest::{FanOut, Target, Transport, fan_out};

/// Measures a broadcast server: many subscribers of one channel, some publishers.
#[derive(Debug, Parser)]
struct Cli {
    /// The server, as host:port. The key is taken from FANFARE_KEY.
    #[arg(long, default_value = "127.0.0.1:8080")]
    target: String,
    /// The channel.
    #[arg(long, default_value = "loadtest")]
    channel: String,
    /// How many listen.
    #[arg(long, default_value_t = 1_000)]
    subscribers: usize,
    /// How many publish at once, each waiting for its answers.
    #[arg(long, default_value_t = 1)]
    publishers: usize,
    /// For how many seconds.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Size of a message, in bytes.
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// Event streams instead of WebSockets.
    #[arg(long)]
    event_stream: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let scenario = FanOut {
        target: Target {
            authority: cli.target,
            key: std::env::var("FANFARE_KEY").ok(),
        },
        channel: cli.channel,
        subscribers: cli.subscribers,
        publishers: cli.publishers,
        time: Duration::from_secs(cli.seconds),
        payload_bytes: cli.payload,
        transport: if cli.event_stream {
            Transport::EventStream
        } else {
            Transport::WebSocket
        },
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let report = runtime.block_on(fan_out(scenario, |_| {}))?;
    if cli.json {
        println!("{}", report.json());
    } else {
        print!("{}", report.table());
    }
    anyhow::ensure!(report.is_clean(), "messages were lost, doubled or out of order");
    Ok(())
}
