//! The command line: `fanfare` alone starts the server; the other commands talk to one.
//!
//! Errors are one clear sentence on standard error. Exit status: 0 done, 1 failed, 2 wrong usage,
//! 78 a configuration that cannot be used.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory, Parser, Subcommand};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::config::{self, EXIT_CONFIG, LogFormat, Sources};
use crate::tls::{self, Acceptor};

mod bench;
mod dev_cert;
mod env_file;
mod listen;
mod publish;
mod token;

const STORY: &str = "\
Try it:
  fanfare                                                 start the server
  curl -d 'order 7 paid' http://localhost:8080/ch/orders  say something
  fanfare listen orders                                   hear it; or open http://localhost:8080/

In a page: new WebSocket('ws://localhost:8080/ch/orders') or new EventSource('/ch/orders').";

/// Broadcast updates from the server to every browser, phone and service that listens.
#[derive(Debug, Parser)]
#[command(name = "fanfare", version, after_help = STORY, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the server (what `fanfare` alone does).
    Serve(ServeArgs),
    /// Say something on a channel.
    Publish(publish::Args),
    /// Hear what is said on channels.
    Listen(listen::Args),
    /// Make a token for a user, signed with FANFARE_KEY, to try things out.
    Token(token::Args),
    /// Measure a running server: many listeners, some publishers.
    Bench(bench::Args),
    /// Make a certificate for trying TLS, and say how to use it.
    DevCert(dev_cert::Args),
    /// Print all settings with their defaults, or check a file.
    Config(ConfigArgs),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(clap::Args, Debug, Default)]
struct ServeArgs {
    /// Configuration file in TOML [env: FANFARE_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Laravel's .env file, of which PUSHER_*, REVERB_* and BROADCAST_* are read [default: .env in the
    /// folder of a Laravel project]
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// Address and port of the doors, or off [default: 127.0.0.1:8080] [env: FANFARE_LISTEN]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<String>,
    /// Address and port of the doors with TLS [default: none] [env: FANFARE_TLS_LISTEN]
    #[arg(long, value_name = "ADDR:PORT")]
    tls_listen: Option<String>,
    /// Certificate and its chain, a PEM file; several with commas [env: FANFARE_TLS_CERT]
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<String>,
    /// Key of the certificate, a PEM file; several with commas [env: FANFARE_TLS_KEY]
    #[arg(long, value_name = "FILE")]
    tls_key: Option<String>,
    /// Address and port for health and metrics, or auto, or off [env: FANFARE_ADMIN_LISTEN]
    #[arg(long, value_name = "ADDR:PORT")]
    admin_listen: Option<String>,
    /// Where publications get their order [default: memory] [env: FANFARE_ENGINE]
    #[arg(long, value_name = "ENGINE")]
    engine: Option<String>,
    /// Threads that own connections; 0 means one per core [env: FANFARE_SHARDS]
    #[arg(long, value_name = "N")]
    shards: Option<usize>,
    /// Form of log lines [env: FANFARE_LOG_FORMAT]
    #[arg(long, value_enum)]
    log_format: Option<LogFormat>,
    /// error, warn, info, debug, trace, or directives [env: FANFARE_LOG_LEVEL]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

#[derive(clap::Args, Debug)]
struct ConfigArgs {
    /// Check a file (FANFARE_CONFIG if none is named) and the environment, and say what is wrong.
    // The outer one is the flag, the inner one its file.
    #[arg(long, value_name = "FILE")]
    #[allow(clippy::option_option)]
    check: Option<Option<PathBuf>>,
    /// Print the settings that a server would start with here, and where each comes from.
    #[arg(long, conflicts_with = "check")]
    show: bool,
    /// Configuration file in TOML, for --show [env: FANFARE_CONFIG]
    #[arg(long, value_name = "FILE", requires = "show")]
    config: Option<PathBuf>,
}

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    run_with(std::env::args_os())
}

fn run_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let result = match cli.command {
        None => return serve(&cli.serve),
        Some(Command::Serve(args)) => return serve(&args),
        Some(Command::Config(args)) => return print_or_check(&args),
        Some(Command::Publish(args)) => publish::run(args),
        Some(Command::Listen(args)) => listen::run(args),
        Some(Command::Token(args)) => token::run(&args),
        Some(Command::Bench(args)) => bench::run(args),
        Some(Command::DevCert(args)) => dev_cert::run(args),
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "fanfare", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{error:#}"), 1),
    }
}

fn fail(message: &str, status: u8) -> ExitCode {
    eprintln!("fanfare: {message}");
    ExitCode::from(status)
}

fn serve(args: &ServeArgs) -> ExitCode {
    let flags = [
        ("listen", args.listen.clone()),
        ("tls.listen", args.tls_listen.clone()),
        ("tls.cert", args.tls_cert.clone()),
        ("tls.key", args.tls_key.clone()),
        ("admin_listen", args.admin_listen.clone()),
        ("engine", args.engine.clone()),
        ("shards", args.shards.map(|shards| shards.to_string())),
        (
            "log.format",
            args.log_format.map(|format| format!("{format:?}").to_lowercase()),
        ),
        ("log.level", args.log_level.clone()),
    ];
    let flags: Vec<(&'static str, String)> = flags
        .into_iter()
        .filter_map(|(key, value)| value.map(|value| (key, value)))
        .collect();
    let path = args
        .config
        .clone()
        .or_else(|| std::env::var_os("FANFARE_CONFIG").map(PathBuf::from));
    let env_file = args.env_file.clone().or_else(laravel_env_file);
    let files = path.iter().chain(&env_file).cloned().collect();
    let load = move || {
        let sources = read_sources(path.clone(), env_file.as_deref(), flags.clone())?;
        config::load(&sources).map_err(|error| error.to_string())
    };
    let loaded = load();
    let source = crate::reload::Source {
        load: Box::new(load),
        files,
    };
    let (config, warnings) = match loaded {
        Ok(loaded) => loaded,
        Err(message) => return fail(&message, EXIT_CONFIG),
    };
    crate::logging::start(&config.log);
    let (tls, tls_warnings) = match load_tls(&config) {
        Ok(tls) => tls.unzip(),
        Err(error) => return fail(&format!("{error:#}"), EXIT_CONFIG),
    };
    for warning in warnings.into_iter().chain(tls_warnings.unwrap_or_default()) {
        tracing::warn!("{warning}");
    }
    match crate::node::serve(config, tls, source) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{error:#}"), 1),
    }
}

/// Certificates and keys, if TLS is wanted; with warnings.
fn load_tls(config: &config::Config) -> anyhow::Result<Option<(Acceptor, Vec<String>)>> {
    let wanted = config.tls.listen.is_some();
    wanted.then(|| Acceptor::load(&config.tls)).transpose()
}

/// The `.env` of a Laravel project, if this is the folder of one.
fn laravel_env_file() -> Option<PathBuf> {
    let file = PathBuf::from(".env");
    (PathBuf::from("artisan").is_file() && file.is_file()).then_some(file)
}

fn read_sources(
    path: Option<PathBuf>,
    env_file: Option<&Path>,
    flags: Vec<(&'static str, String)>,
) -> Result<Sources, String> {
    let file = match path {
        None => None,
        Some(path) => {
            let text = std::fs::read_to_string(&path)
                .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            Some((path.display().to_string(), text))
        }
    };
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())));
    // The environment is stronger than a file that stands for it.
    let mut variables = env_file.map(env_file::read).transpose()?.unwrap_or_default();
    variables.extend(environment);
    Ok(Sources {
        file,
        environment: variables,
        flags,
    })
}

fn print_or_check(args: &ConfigArgs) -> ExitCode {
    let named = args.check.as_ref().and_then(Option::as_ref);
    let path = named
        .or(args.config.as_ref())
        .cloned()
        .or_else(|| std::env::var_os("FANFARE_CONFIG").map(PathBuf::from));
    let text = if args.check.is_none() && !args.show {
        Ok((config::defaults_as_toml(), Vec::new()))
    } else {
        read_sources(path, laravel_env_file().as_deref(), Vec::new()).and_then(|sources| {
            let (config, mut warnings) = config::load(&sources).map_err(|error| error.to_string())?;
            let tls = load_tls(&config).map_err(|error| format!("{error:#}"))?;
            warnings.extend(tls.into_iter().flat_map(|(_, warnings)| warnings));
            let text = if args.show {
                config::shown(&config, &sources)
            } else {
                "ok\n".to_owned()
            };
            Ok((text, warnings))
        })
    };
    let (text, warnings) = match text {
        Ok(text) => text,
        Err(message) => return fail(&message, EXIT_CONFIG),
    };
    warnings
        .iter()
        .for_each(|warning| eprintln!("warning: {warning}"));
    match print(&text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{error:#}"), 1),
    }
}

/// Prints to standard output. That its reader has gone, as `head` does, is no failure.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// The server that a client command talks to.
#[derive(clap::Args, Debug)]
struct ServerArgs {
    /// The server, http:// or https://. The key is taken from FANFARE_KEY.
    #[arg(
        long,
        value_name = "URL",
        env = "FANFARE_URL",
        default_value = "http://127.0.0.1:8080"
    )]
    server: String,
    /// Authorities to trust with https://, a PEM file, instead of those that this machine trusts.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// A server, taken out of its URL.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Place<'a> {
    is_tls: bool,
    /// Host, and port if there is one, as in the URL.
    authority: &'a str,
}

/// What a command reads from and writes to.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl ServerArgs {
    fn place(&self) -> anyhow::Result<Place<'_>> {
        Place::parse(&self.server).ok_or_else(|| {
            anyhow::anyhow!(
                "{:?} is not a server; write it like http://127.0.0.1:8080",
                self.server
            )
        })
    }

    /// A connection to the server, and TLS on it if its URL says so.
    async fn connect(&self) -> anyhow::Result<Box<dyn Stream>> {
        let place = self.place()?;
        let (host, port) = place.host_and_port();
        let socket = tokio::net::TcpStream::connect((host, port)).await;
        let socket = socket
            .with_context(|| format!("no server answers at {}; is fanfare running?", place.authority))?;
        socket.set_nodelay(true)?;
        if !place.is_tls {
            return Ok(Box::new(socket));
        }
        let name = ServerName::try_from(host.to_owned()).with_context(|| format!("{host:?} is no host"))?;
        let connector = tls::client::connector(self.ca.as_deref())?;
        let stream = connector.connect(name, socket).await;
        Ok(Box::new(stream.with_context(|| {
            format!(
                "no TLS with {} (--ca FILE names an authority to trust)",
                place.authority
            )
        })?))
    }

    fn key() -> Option<String> {
        std::env::var("FANFARE_KEY").ok().filter(|key| !key.is_empty())
    }
}

impl<'a> Place<'a> {
    fn parse(url: &'a str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let is_tls = match scheme {
            "http" | "ws" => false,
            "https" | "wss" => true,
            _ => return None,
        };
        let authority = rest.trim_end_matches('/');
        let is_one = !authority.is_empty() && !authority.contains(['/', '?', '#', '@']);
        is_one.then_some(Self { is_tls, authority })
    }

    /// The host without the brackets of an IPv6 address, and the port, if need be that of the scheme.
    fn host_and_port(self) -> (&'a str, u16) {
        let port_of_scheme = if self.is_tls { 443 } else { 80 };
        let (host, port) = match self.authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
            _ => (self.authority, Some(port_of_scheme)),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        (bare.unwrap_or(host), port.unwrap_or(0))
    }
}

/// The path of a channel, with everything escaped that has a meaning in a URL.
fn channel_path(channel: &str) -> String {
    let escaped = percent_encoding::utf8_percent_encode(channel, percent_encoding::NON_ALPHANUMERIC);
    format!("/ch/{escaped}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, expected: Option<(bool, &str, u16)>) {
        let place = Place::parse(url);
        let got = place.map(|place| (place.is_tls, place.host_and_port()));
        assert_eq!(
            got,
            expected.map(|(tls, host, port)| (tls, (host, port))),
            "{url}"
        );
    }

    #[test]
    fn a_server_is_a_scheme_a_host_and_a_port() {
        check("http://127.0.0.1:8080", Some((false, "127.0.0.1", 8080)));
        check("http://shop.example/", Some((false, "shop.example", 80)));
        check("wss://shop.example", Some((true, "shop.example", 443)));
        check("https://[::1]:8443", Some((true, "::1", 8443)));
        check("https://[::1]", Some((true, "::1", 443)));
        for bad in [
            "shop.example",
            "ftp://a",
            "http://",
            "http://a/b",
            "http://a@b",
            "http://a?b",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
