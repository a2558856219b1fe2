//! Random numbers of the operating system: ids that must not be guessed, seeds, secrets.

use std::io;

/// So many random bytes. The operating system has never refused any once it had started.
pub(crate) fn random<const BYTES: usize>() -> io::Result<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}
