//! The Unix socket of the doors: for whoever is on the same machine and may open the file.
//!
//! The file has its permissions before anybody can connect. One that is there already is replaced only if
//! it is a socket at which nobody answers. At the end it is removed, unless somebody else has put another
//! in its place.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use socket2::{Domain, SockAddr, Socket, Type};

/// Longest path of a socket, in bytes: `sun_path` less its end (unix(7)).
const PATH_BYTES_MAX: usize = 107;

/// Permissions in octal, as `chmod` takes them.
fn mode(text: &str) -> Option<u32> {
    let mode = u32::from_str_radix(text, 8).ok()?;
    (mode <= 0o777 && text.bytes().all(|b| b.is_ascii_digit())).then_some(mode)
}

/// Finds what cannot be used.
pub(crate) fn check(path: Option<&Path>, permissions: &str) -> Result<(), String> {
    if mode(permissions).is_none() {
        return Err(format!(
            "unix_mode: {permissions:?} is no permission in octal, such as \"0660\""
        ));
    }
    let len = path.map_or(0, |path| path.as_os_str().len());
    if path.is_some() && !(1..=PATH_BYTES_MAX).contains(&len) {
        return Err(format!(
            "unix: the path of a socket has 1 to {PATH_BYTES_MAX} bytes"
        ));
    }
    Ok(())
}

/// The file of a socket that is listening. Dropping it removes the file.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Which file it is, whatever stands at the path later.
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = identity(&self.path).is_ok_and(|identity| identity == self.identity);
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "the Unix socket was not removed");
        }
    }
}

fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Opens the socket, and listens.
pub(crate) fn listen(path: &Path, permissions: &str, backlog: i32) -> Result<(OwnedFd, SocketFile)> {
    let shown = path.display();
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket
        .bind(&SockAddr::unix(path)?)
        .with_context(|| format!("unix: cannot make the socket {shown}"))?;
    let file = SocketFile {
        path: path.to_owned(),
        identity: identity(path)?,
    };
    let mode = mode(permissions).context("unix_mode is no permission")?;
    fs::set_permissions(path, Permissions::from_mode(mode))
        .with_context(|| format!("unix_mode: cannot be set on {shown}"))?;
    socket.listen(backlog)?;
    Ok((socket.into(), file))
}

fn remove_stale(path: &Path) -> Result<()> {
    let shown = path.display();
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("unix: cannot look at {shown}"))?,
    };
    if !metadata.file_type().is_socket() {
        bail!("unix: {shown} is there and is no socket");
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).with_context(|| format!("unix: {shown} is left over and cannot be removed"))
        }
        Ok(_) => bail!("unix: another program listens at {shown}"),
        Err(error) => {
            Err(error).with_context(|| format!("unix: cannot tell whether somebody listens at {shown}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_mode(text: &str, expected: Option<u32>) {
        assert_eq!(mode(text), expected, "{text}");
    }

    #[test]
    fn permissions_are_octal() {
        check_mode("0660", Some(0o660));
        check_mode("666", Some(0o666));
        check_mode("0", Some(0));
        for bad in ["", "0668", "rw-", "1777", "+660", "-1", "99999999999"] {
            check_mode(bad, None);
        }
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused_at_the_start() {
        for (path, is_fine) in [
            (None, true),
            (Some("/run/fanfare.sock".to_owned()), true),
            (Some(String::new()), false),
            (Some("x".repeat(107)), true),
            (Some("x".repeat(108)), false),
        ] {
            let checked = check(path.as_deref().map(Path::new), "0660");
            assert_eq!(checked.is_ok(), is_fine, "{path:?}");
        }
    }
}
