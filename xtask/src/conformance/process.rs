//! The programs that a conformance run starts: the server, and proxies before it. Each ends with
//! the value that stands for it, by its own process id.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Longer than a start or a stop takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Time between two looks at something that cannot be waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A program that listens on `address`.
pub(crate) struct Running {
    child: Child,
    /// Address and port.
    pub(crate) address: String,
}

/// A server or proxy that can stand before one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Proxy {
    /// nginx.
    Nginx,
    /// haproxy.
    Haproxy,
}

/// Starts our server with this configuration file and waits until it says that it is ready. Its
/// log goes to `fanfare.log` beside the file.
pub(crate) fn fanfare(folder: &Path, settings: &str) -> Result<Running> {
    let config = folder.join("fanfare.toml");
    std::fs::write(&config, settings)?;
    let log = std::fs::File::create(folder.join("fanfare.log"))?;
    let binary = crate::test::binary();
    let mut command = Command::new(&binary);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FANFARE_") {
            command.env_remove(name);
        }
    }
    command
        .arg("--config")
        .arg(&config)
        .stdout(Stdio::piped())
        .stderr(log);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {}", binary.display()))?;
    let mut line = String::new();
    if let Some(stdout) = &mut child.stdout {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    let address = line.trim().strip_prefix("listening on http://");
    let running = Running {
        child,
        address: address.unwrap_or_default().to_owned(),
    };
    if address.is_none() {
        bail!("the server said {line:?}; see {}", folder.display());
    }
    Ok(running)
}

/// Starts a proxy before the server at `upstream`, with its files in `folder`.
pub(crate) fn proxy(kind: Proxy, folder: &Path, upstream: &str) -> Result<Running> {
    // Between our look for a free port and the proxy's bind somebody else may take it.
    for _ in 0..3 {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        let mut command = match kind {
            Proxy::Nginx => nginx(folder, &address, upstream)?,
            Proxy::Haproxy => haproxy(folder, &address, upstream)?,
        };
        let log = std::fs::File::create(folder.join("proxy.log"))?;
        command.stdout(log.try_clone()?).stderr(log);
        let mut running = Running {
            child: command
                .spawn()
                .with_context(|| format!("cannot start {kind:?}"))?,
            address,
        };
        if running.answers()? {
            return Ok(running);
        }
    }
    bail!("{kind:?} does not start; see proxy.log in {}", folder.display())
}

fn nginx(folder: &Path, address: &str, upstream: &str) -> Result<Command> {
    let at = folder.display();
    let settings = format!(
        "daemon off;
worker_processes 1;
pid {at}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {at}/body;
    proxy_temp_path {at}/proxy;
    fastcgi_temp_path {at}/fastcgi;
    uwsgi_temp_path {at}/uwsgi;
    scgi_temp_path {at}/scgi;
    server {{
        listen {address};
        location / {{
            proxy_pass http://{upstream};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
            proxy_buffering off;
            proxy_buffer_size 16k;
            proxy_buffers 4 16k;
            proxy_read_timeout 60s;
            proxy_send_timeout 60s;
        }}
    }}
}}
"
    );
    let config = folder.join("nginx.conf");
    std::fs::write(&config, settings)?;
    let mut command = Command::new("/usr/sbin/nginx");
    command.arg("-p").arg(folder).arg("-c").arg(config);
    // Without it nginx first tries the log of the machine.
    command.args(["-e", "stderr"]);
    Ok(command)
}

fn haproxy(folder: &Path, address: &str, upstream: &str) -> Result<Command> {
    let settings = format!(
        "global
    maxconn 512
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 60s
frontend doors
    bind {address}
    default_backend fanfare
backend fanfare
    server one {upstream}
"
    );
    let config = folder.join("haproxy.cfg");
    std::fs::write(&config, settings)?;
    let mut command = Command::new("/usr/sbin/haproxy");
    command.arg("-db").arg("-f").arg(config);
    Ok(command)
}

impl Running {
    /// Waits until it accepts connections; `false` when it has ended instead.
    fn answers(&mut self) -> Result<bool> {
        let address: SocketAddr = self.address.parse()?;
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if self.child.try_wait()?.is_some() {
                return Ok(false);
            }
            if TcpStream::connect_timeout(&address, PATIENCE).is_ok() {
                return Ok(true);
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(false)
    }

    /// The most memory that was resident so far, in KiB.
    pub(crate) fn peak_rss_kib(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
        number.context("the kernel does not say VmHWM")
    }

    /// Open descriptors.
    pub(crate) fn descriptors(&self) -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))?.count())
    }

    /// Waits until no more than `count` descriptors are open.
    pub(crate) fn wait_for_descriptors(&self, count: usize) -> Result<()> {
        let begun = Instant::now();
        while self.descriptors()? > count {
            if begun.elapsed() > PATIENCE {
                bail!("{} descriptors are open instead of {count}", self.descriptors()?);
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// Asks it to end; says whether it did so with success.
    pub(crate) fn stop(mut self) -> Result<bool> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("no process id")?, Signal::TERM)?;
        Ok(self.child.wait()?.success())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already ended is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
