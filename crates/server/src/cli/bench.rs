//! `fanfare bench`: a quick measurement of a running server, by the load generator's library.

use anyhow::Result;
use fanfare_loadtest::{Group, Scenario, Target, Transport, Until, run as run_scenario};
use indicatif::{ProgressBar, ProgressStyle};

use super::ServerArgs;
use crate::random::random;

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
    seconds: u32,
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
    let random = random()?;
    let scenario = Scenario {
        title: "fanfare bench".to_owned(),
        seconds: args.seconds.into(),
        group: vec![Group {
            // Nobody else listens there.
            name: format!("bench-{:016x}", u64::from_ne_bytes(random)),
            subscribers: args.subscribers,
            publishers: args.publishers,
            until: Until::Answered,
            payload: args.payload,
            transport: if args.event_stream {
                Transport::EventStream
            } else {
                Transport::WebSocket
            },
            ..Group::default()
        }],
        ..Scenario::default()
    };
    let place = args.server.place()?;
    anyhow::ensure!(
        !place.is_tls,
        "bench speaks without TLS only; name a http:// address of the server"
    );
    let target = Target {
        key: ServerArgs::key(),
        ..Target::plain(place.authority)?
    };
    let bar = ProgressBar::new(1_000).with_style(ProgressStyle::with_template("{bar:40} {percent}%  {msg}")?);
    let outcome = run_scenario(&scenario, &target, None, &mut |phase, thousandths| {
        bar.set_message(phase.to_owned());
        bar.set_position(thousandths);
    })?;
    bar.finish_and_clear();
    if args.json {
        println!("{}", serde_json::to_string(&outcome)?);
    } else {
        print!("{}", outcome.table());
    }
    anyhow::ensure!(outcome.is_exact(), "messages were lost, doubled or out of order");
    Ok(())
}
