//! `fanfare-loadtest`: the load generator as a program of its own.

use std::io::IsTerminal as _;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use fanfare_loadtest::servers::Programs;
use fanfare_loadtest::suite::Suite;
use fanfare_loadtest::{Scenario, Target, check, churn, floor, process, run};

/// Puts load on a broadcast server and counts what arrives, when, in which order, at what cost.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one scenario against a server that is running.
    Run {
        /// The scenario's file.
        scenario: PathBuf,
        /// The server, as host:port.
        #[arg(long, default_value = "127.0.0.1:8080")]
        server: String,
        /// Number of its process, to measure what it uses.
        #[arg(long)]
        pid: Option<u32>,
        /// Path of a subscriber's WebSocket.
        #[arg(long, default_value = "/ch/{channel}")]
        websocket_path: String,
        /// Path of an event stream.
        #[arg(long, default_value = "/ch/{channel}")]
        stream_path: String,
        /// Path of a POST that publishes its body. A key for it is taken from FANFARE_KEY.
        #[arg(long, default_value = "/ch/{channel}")]
        publish_path: String,
        /// Stay on this core.
        #[arg(long)]
        core: Option<usize>,
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Run scenarios against freshly started servers in turn, and write a report.
    Suite {
        /// Scenario files.
        #[arg(required = true)]
        scenarios: Vec<PathBuf>,
        /// The server under test.
        #[arg(long)]
        fanfare: PathBuf,
        /// nginx, for nchan.
        #[arg(long, default_value = "/usr/sbin/nginx")]
        nginx: PathBuf,
        /// Folder for the report.
        #[arg(long, default_value = "docs/benchmarks")]
        folder: PathBuf,
        /// The report's name.
        #[arg(long)]
        date: String,
        /// The command to name in the report.
        #[arg(long, default_value = "cargo xtask bench")]
        command: String,
        /// One short round each: to see whether it runs, not for figures.
        #[arg(long)]
        quick: bool,
    },
    /// Check a server for loss, repeats and disorder while connections break.
    Check(Box<check::Options>),
    /// Have very many sessions come and go, and see what they leave behind in the server.
    Churn(churn::Options),
    /// The least server that can fan out: one send per subscriber.
    Floor {
        /// Where to listen.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: String,
    },
    /// A bare hyper server that answers every POST with an empty 200.
    BareHttp {
        /// Where to listen.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: String,
    },
}

fn main() -> ExitCode {
    match execute(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fanfare-loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> Result<()> {
    match command {
        Command::Run {
            scenario,
            server,
            pid,
            websocket_path,
            stream_path,
            publish_path,
            core,
            json,
        } => {
            if let Some(core) = core {
                process::stay_on_core(core)?;
            }
            let scenario = Scenario::load(&scenario)?;
            let target = Target {
                websocket_path,
                stream_path,
                publish_path,
                key: std::env::var("FANFARE_KEY").ok(),
                ..Target::plain(&server)?
            };
            let process = pid.map(|pid| process::Process { pid });
            let show = std::io::stderr().is_terminal();
            let outcome = run(&scenario, &target, process, &mut |phase, thousandths| {
                if show {
                    eprint!("\r{phase:12} {:3} %  ", thousandths / 10);
                }
            })?;
            if show {
                eprint!("\r                    \r");
            }
            if json {
                println!("{}", serde_json::to_string_pretty(&outcome)?);
            } else {
                print!("{}", outcome.table());
            }
            ensure!(
                outcome.is_exact(),
                "messages were lost, doubled or out of order, or subscribers sent away"
            );
            Ok(())
        }
        Command::Suite {
            scenarios,
            fanfare,
            nginx,
            folder,
            date,
            command,
            quick,
        } => {
            let suite = Suite {
                scenarios,
                programs: Programs { fanfare, nginx },
                folder,
                date,
                command,
                quick,
            };
            if !suite.run()? {
                eprintln!("some goals were missed");
            }
            Ok(())
        }
        Command::Check(options) => {
            ensure!(check::run(&options)?, "the server does not keep its promises");
            Ok(())
        }
        Command::Churn(options) => {
            ensure!(churn::run(&options)?, "something is left behind");
            Ok(())
        }
        Command::Floor { listen } => {
            process::raise_open_files();
            floor::fan_out(TcpListener::bind(listen)?)
        }
        Command::BareHttp { listen } => floor::answer(TcpListener::bind(listen)?),
    }
}
