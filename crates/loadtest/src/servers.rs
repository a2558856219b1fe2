//! Servers to put load on, each started as a process of its own on a free port, on one core.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::Process;
use crate::target::Target;

/// Time for a server to begin listening.
const START_MAX: Duration = Duration::from_secs(10);

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The server under test.
    pub fanfare: PathBuf,
    /// nginx, with the module nchan where Debian puts it.
    pub nginx: PathBuf,
}

/// A server that runs until this is dropped: then it is killed (SIGKILL), and gone when that returns.
pub struct Running {
    child: Child,
    /// How to address it.
    pub target: Target,
    _folder: Option<tempfile::TempDir>,
}

impl Running {
    /// Its process, to read what it uses.
    pub fn process(&self) -> Process {
        Process { pid: self.child.id() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a server by its name, with `settings` for the one under test, on this core.
pub fn start(name: &str, programs: &Programs, settings: &[(String, String)], core: usize) -> Result<Running> {
    let folder = tempfile::tempdir()?;
    let own = std::env::current_exe()?;
    match name {
        "fanfare" => {
            let mut command = without_settings(pinned(&programs.fanfare, core));
            command
                .env("FANFARE_LISTEN", "127.0.0.1:0")
                .env("FANFARE_SHARDS", "1")
                .env("FANFARE_LOG_LEVEL", "error")
                // What is measured is what the server can do, not what one address or user may.
                .env("FANFARE_LIMITS_CONNECTS", "off");
            command.envs(settings.iter().map(|(key, value)| (key, value)));
            announced(command, Some(folder))
        }
        "floor" => {
            let mut command = pinned(&own, core);
            command.arg("floor");
            announced(command, Some(folder))
        }
        "bare-http" => {
            let mut command = pinned(&own, core);
            command.arg("bare-http");
            announced(command, Some(folder))
        }
        "nchan" => nchan(&programs.nginx, folder, core),
        _ => bail!("no server is called {name:?}"),
    }
}

/// A server is started with the settings that a run states, and none of the environment.
pub(crate) fn without_settings(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FANFARE_") {
            command.env_remove(name);
        }
    }
    command
}

fn pinned(program: &Path, core: usize) -> Command {
    let mut command = Command::new("taskset");
    command.arg("-c").arg(core.to_string()).arg(program);
    command
}

/// A server that says where it listens. `folder` is removed with it.
pub(crate) fn announced(mut command: Command, folder: Option<tempfile::TempDir>) -> Result<Running> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    let Some(authority) = line.trim().strip_prefix("listening on http://") else {
        let _ = child.kill();
        let _ = child.wait();
        bail!("{command:?} did not start: {line:?}");
    };
    Ok(Running {
        target: Target::plain(authority)?,
        child,
        _folder: folder,
    })
}

/// nginx with nchan: one process, messages not stored, as it is cheapest.
fn nchan(nginx: &Path, folder: tempfile::TempDir, core: usize) -> Result<Running> {
    // Free a moment ago; nginx cannot choose one itself.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let path = folder.path().display();
    let config = format!(
        "load_module /usr/lib/nginx/modules/ngx_nchan_module.so;\n\
         daemon off; master_process off; pid {path}/pid; error_log {path}/error.log crit;\n\
         worker_rlimit_nofile 20000;\n\
         events {{ worker_connections 19900; }}\n\
         http {{\n\
           access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;\n\
           client_body_temp_path {path}/body; proxy_temp_path {path}/proxy; fastcgi_temp_path {path}/fastcgi;\n\
           uwsgi_temp_path {path}/uwsgi; scgi_temp_path {path}/scgi;\n\
           nchan_shared_memory_size 512m;\n\
           server {{\n\
             listen 127.0.0.1:{port} backlog=4096;\n\
             location ~ ^/ch/(.+)$ {{\n\
               nchan_channel_id $1; nchan_store_messages off; nchan_websocket_ping_interval 30;\n\
               nchan_subscriber websocket eventsource; nchan_publisher http;\n\
             }}\n\
           }}\n\
         }}\n"
    );
    let file = folder.path().join("nginx.conf");
    std::fs::write(&file, config)?;
    let mut child = pinned(nginx, core)
        .arg("-p")
        .arg(folder.path())
        .arg("-c")
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start nginx")?;
    let authority = format!("127.0.0.1:{port}");
    let begun = Instant::now();
    while TcpStream::connect(&authority).is_err() {
        if begun.elapsed() > START_MAX || child.try_wait()?.is_some() {
            let _ = child.kill();
            let _ = child.wait();
            let said = std::fs::read_to_string(folder.path().join("error.log")).unwrap_or_default();
            bail!("nginx with nchan did not start: {said}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(Running {
        target: Target::plain(&authority)?,
        child,
        _folder: Some(folder),
    })
}
