//! `fanfare bench`: a quick measurement of a running server, by the load generator's library.

use std::time::Duration;

use anyhow::Result;
use fanfare_loadtest::{FanOut, Target, Transport, fan_out};
use indicatif::{ProgressBar, ProgressStyle};

use super::ServerArgs;

#[derive(clap::Args, Debug)]
#[command(
    after_help = "The figures are those of this machine while it also runs the load: compare runs, not machines.\n\nExamples:\n  fanfare bench\n  fanfare bench --subscribers 5000 --publishers 16"
)]
pub(super) struct Args {
    /// How many listen.
    #[arg(long, default_value_t = 200)]
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
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(args: Args) -> Result<()> {
    let mut random = [0; 8];
    getrandom::fill(&mut random)?;
    let scenario = FanOut {
        target: Target {
            authority: args.server.authority()?.to_owned(),
            key: ServerArgs::key(),
        },
        // Nobody else listens there.
        channel: format!("bench-{:016x}", u64::from_ne_bytes(random)),
        subscribers: args.subscribers,
        publishers: args.publishers,
        time: Duration::from_secs(args.seconds),
        payload_bytes: args.payload,
        transport: if args.event_stream {
            Transport::EventStream
        } else {
            Transport::WebSocket
        },
    };
    let style = ProgressStyle::with_template("{bar:40} {percent}%  {msg}")?;
    let bar = ProgressBar::new(1_000).with_style(style);
    bar.set_message(format!("{} subscribers", args.subscribers));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let report = runtime.block_on(fan_out(scenario, |thousandths| bar.set_position(thousandths)))?;
    bar.finish_and_clear();
    if args.json {
        println!("{}", report.json());
    } else {
        print!("{}", report.table());
    }
    anyhow::ensure!(report.is_clean(), "messages were lost, doubled or out of order");
    Ok(())
}
