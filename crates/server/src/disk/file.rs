//! The form of a file of the journal, to the byte.
//!
//! A file has a head of [`HEAD_BYTES`] and then frames, one behind the other. All numbers are big
//! endian.
//!
//! | Head | Bytes |
//! |---|---|
//! | `fanfjrn` and the version, 1 | 8 |
//! | epoch | 8 |
//! | first: the place of the first publication that can be here | 8 |
//! | capacity: the size that the file is made with, in bytes | 8 |
//! | flags: 1 carried over, 2 something was lost on the way, 4 each write was synced | 8 |
//! | if carried over, the last place that it stands for; 0: none | 8 |
//! | if carried over, the last announcement that has gone; 0: none | 8 |
//! | boot: which start of the machine this is of | 16 |
//! | salt: random, begins the checksums, so that no publisher can make a frame | 4 |
//! | CRC-32 of what is above | 4 |
//!
//! | Frame | Bytes |
//! |---|---|
//! | a mark: `FFr1`, or at the end of a file that is closed `FFe1` | 4 |
//! | length of what follows the checksum | 4 |
//! | CRC-32 of the salt, the length and what follows | 4 |
//! | records, each with its length in 4 bytes before it | length |
//!
//! A file is made in its full size, of zeros, so that a disk that fills up is noticed when a file
//! begins and not in the midst of a frame, and a file that was cut is known by its size. It is cut
//! to what it has when it is closed. A frame counts whole or not at all: that is how a batch is one
//! write. Where a frame cannot be read, [`Frames`] looks for the next one that can.

use std::io;
use std::path::Path;

/// Bytes of the head.
pub(super) const HEAD_BYTES: usize = 80;

/// Bytes of a frame besides its records.
pub(super) const FRAME_BYTES: usize = 12;

/// Bytes of a record besides itself.
pub(super) const LENGTH_BYTES: usize = 4;

const MAGIC: &[u8; 7] = b"fanfjrn";
const VERSION: u8 = 1;
const MARK: &[u8; 4] = b"FFr1";
const END_MARK: &[u8; 4] = b"FFe1";

const CARRIED: u64 = 1;
const LOSSY: u64 = 2;
const SYNCED: u64 = 4;

/// See the module's head.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Head {
    pub(super) epoch: u64,
    pub(super) first: u64,
    pub(super) capacity: u64,
    pub(super) is_carried: bool,
    pub(super) is_lossy: bool,
    pub(super) is_synced: bool,
    pub(super) covered: u64,
    pub(super) announced: u64,
    pub(super) boot: u128,
    pub(super) salt: u32,
}

/// Why the head of a file cannot be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum HeadError {
    /// It is damaged, or no file of ours.
    Unreadable,
    /// It is of a version that this one does not know.
    Version(u8),
}

impl Head {
    pub(super) fn write(&self) -> [u8; HEAD_BYTES] {
        let flag = |is_set: bool, flag: u64| if is_set { flag } else { 0 };
        let flags =
            flag(self.is_carried, CARRIED) | flag(self.is_lossy, LOSSY) | flag(self.is_synced, SYNCED);
        let mut bytes = Vec::with_capacity(HEAD_BYTES);
        bytes.extend(MAGIC);
        bytes.push(VERSION);
        let numbers = [
            self.epoch,
            self.first,
            self.capacity,
            flags,
            self.covered,
            self.announced,
        ];
        numbers
            .iter()
            .for_each(|number| bytes.extend(number.to_be_bytes()));
        bytes.extend(self.boot.to_be_bytes());
        bytes.extend(self.salt.to_be_bytes());
        bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
        bytes.try_into().unwrap_or([0; HEAD_BYTES])
    }

    pub(super) fn read(bytes: &[u8]) -> Result<Self, HeadError> {
        let head: &[u8; HEAD_BYTES] = bytes.first_chunk().ok_or(HeadError::Unreadable)?;
        if !head.starts_with(MAGIC) {
            return Err(HeadError::Unreadable);
        }
        let (body, sum) = head.split_at(HEAD_BYTES - 4);
        if sum != crc32fast::hash(body).to_be_bytes() {
            return Err(HeadError::Unreadable);
        }
        if head[7] != VERSION {
            return Err(HeadError::Version(head[7]));
        }
        let number = |place: usize| number(head, 8 + 8 * place);
        let flags = number(3);
        Ok(Self {
            epoch: number(0),
            first: number(1),
            capacity: number(2),
            is_carried: flags & CARRIED != 0,
            is_lossy: flags & LOSSY != 0,
            is_synced: flags & SYNCED != 0,
            covered: number(4),
            announced: number(5),
            boot: u128::from(number(6)) << 64 | u128::from(number(7)),
            salt: u32::try_from(self::number(head, 68) & u64::from(u32::MAX)).unwrap_or(0),
        })
    }
}

/// The eight bytes at `at`; zeros where there are none.
fn number(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk());
    bytes.copied().map_or(0, u64::from_be_bytes)
}

/// The file that this name is of: the first place in it.
pub(super) fn number_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(".log")?.parse().ok()
}

/// The name of the file that begins with this place.
pub(super) fn name_of(first: u64) -> String {
    format!("{first:020}.log")
}

fn sum(salt: u32, length: [u8; 4], body: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new_with_initial(salt);
    sum.update(&length);
    sum.update(body);
    sum.finalize()
}

/// Appends one frame, with what `fill` writes: records, each by [`record`].
pub(super) fn frame(out: &mut Vec<u8>, salt: u32, fill: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
    marked(out, *MARK, salt, fill)
}

/// Appends the end of a file that is closed.
pub(super) fn end(out: &mut Vec<u8>, salt: u32) {
    let _ = marked(out, *END_MARK, salt, |_| ());
}

/// Makes a frame one of another file.
pub(super) fn resalt(frame: &mut [u8], salt: u32) {
    let Some((head, body)) = frame.split_first_chunk_mut::<FRAME_BYTES>() else {
        return;
    };
    if let (Some(length), Some(place)) = (head[4..].first_chunk::<4>().copied(), head.get_mut(8..)) {
        place.copy_from_slice(&sum(salt, length, body).to_be_bytes());
    }
}

fn marked(out: &mut Vec<u8>, mark: [u8; 4], salt: u32, fill: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
    let start = out.len();
    out.extend(mark);
    out.extend([0; 8]);
    fill(out);
    let body = out.len() - start - FRAME_BYTES;
    let length = u32::try_from(body).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let length = length.to_be_bytes();
    let sum = sum(salt, length, out.get(start + FRAME_BYTES..).unwrap_or_default());
    if let Some(head) = out.get_mut(start + 4..start + FRAME_BYTES) {
        head[..4].copy_from_slice(&length);
        head[4..].copy_from_slice(&sum.to_be_bytes());
    }
    Ok(())
}

/// Appends one record to a frame.
pub(super) fn record(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; LENGTH_BYTES]);
    fill(out);
    let length = u32::try_from(out.len() - start - LENGTH_BYTES).unwrap_or(u32::MAX);
    if let Some(place) = out.get_mut(start..start + LENGTH_BYTES) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

/// What is met in a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Met<'a> {
    /// One record.
    Record(&'a [u8]),
    /// Some bytes that are no frame, or a frame whose records do not fill it.
    Unreadable,
    /// The file is closed.
    End,
}

/// Goes through the bytes of a file behind its head.
#[derive(Debug)]
pub(super) struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
    salt: u32,
    frame: &'a [u8],
    /// Where the last whole frame ended.
    pub(super) good: usize,
}

impl<'a> Frames<'a> {
    /// The frames of a file, of which `bytes` are all.
    pub(super) fn new(bytes: &'a [u8], head: &Head) -> Self {
        Self {
            bytes,
            at: HEAD_BYTES,
            salt: head.salt,
            frame: &[],
            good: HEAD_BYTES,
        }
    }

    /// The frame at `at`: its mark, its records, and its end.
    fn frame_at(&self, at: usize) -> Option<([u8; 4], &'a [u8], usize)> {
        let rest = self.bytes.get(at..)?;
        let (mark, rest) = rest.split_first_chunk::<4>()?;
        if mark != MARK && mark != END_MARK {
            return None;
        }
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (expected, rest) = rest.split_first_chunk::<4>()?;
        let body = rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        let is_whole = sum(self.salt, *length, body).to_be_bytes() == *expected;
        is_whole.then_some((*mark, body, at + FRAME_BYTES + body.len()))
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Met<'a>;

    fn next(&mut self) -> Option<Met<'a>> {
        loop {
            if !self.frame.is_empty() {
                let record = self.frame.split_first_chunk::<4>().and_then(|(length, rest)| {
                    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
                });
                let Some((record, rest)) = record else {
                    self.frame = &[];
                    return Some(Met::Unreadable);
                };
                self.frame = rest;
                return Some(Met::Record(record));
            }
            if let Some((mark, body, end)) = self.frame_at(self.at) {
                (self.at, self.good) = (end, end);
                if &mark == END_MARK {
                    return Some(Met::End);
                }
                self.frame = body;
                continue;
            }
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            if rest.iter().all(|byte| *byte == 0) {
                self.at = self.bytes.len();
                return None;
            }
            // Something is wrong here: on with the next frame that is whole.
            let next = (self.at + 1..self.bytes.len()).find(|at| self.frame_at(*at).is_some());
            self.at = next.unwrap_or(self.bytes.len());
            return Some(Met::Unreadable);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: u32 = 77;

    fn head() -> Head {
        Head {
            epoch: 1,
            first: 2,
            capacity: 3,
            is_carried: true,
            is_lossy: false,
            is_synced: true,
            covered: 4,
            announced: 5,
            boot: u128::MAX - 6,
            salt: SALT,
        }
    }

    #[test]
    fn a_head_is_read_back_or_refused() {
        let bytes = head().write();
        assert_eq!(Head::read(&bytes), Ok(head()));
        for at in 0..HEAD_BYTES {
            let mut changed = bytes;
            changed[at] ^= 1;
            assert_eq!(Head::read(&changed), Err(HeadError::Unreadable), "byte {at}");
            assert_eq!(Head::read(&bytes[..at]), Err(HeadError::Unreadable));
        }
        let mut newer = bytes;
        newer[7] = 2;
        let sum = crc32fast::hash(&newer[..HEAD_BYTES - 4]).to_be_bytes();
        newer[HEAD_BYTES - 4..].copy_from_slice(&sum);
        assert_eq!(Head::read(&newer), Err(HeadError::Version(2)));
    }

    /// A file with three frames: one record, two, and the end.
    fn file() -> (Vec<u8>, Vec<usize>) {
        let mut bytes = head().write().to_vec();
        let mut ends = vec![bytes.len()];
        for records in [&["one"][..], &["two", "three"]] {
            frame(&mut bytes, SALT, |out| {
                records
                    .iter()
                    .for_each(|text| record(out, |out| out.extend(text.as_bytes())));
            })
            .unwrap();
            ends.push(bytes.len());
        }
        end(&mut bytes, SALT);
        ends.push(bytes.len());
        (bytes, ends)
    }

    fn met(bytes: &[u8]) -> Vec<String> {
        let met = Frames::new(bytes, &head()).map(|met| match met {
            Met::Record(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => format!("{other:?}"),
        });
        met.collect()
    }

    #[test]
    fn what_is_whole_is_found_and_the_rest_is_said() {
        let (bytes, ends) = file();
        assert_eq!(met(&bytes), ["one", "two", "three", "End"]);
        let zeros = [&bytes[..ends[2]], &[0; 100]].concat();
        assert_eq!(met(&zeros), ["one", "two", "three"]);
        for at in HEAD_BYTES..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            let expected: &[&str] = match ends.iter().position(|end| at < *end) {
                Some(1) => &["Unreadable", "two", "three", "End"],
                Some(2) => &["one", "Unreadable", "End"],
                _ => &["one", "two", "three", "Unreadable"],
            };
            assert_eq!(met(&changed), expected, "byte {at}");
            let cut = met(&bytes[..at]);
            let whole = ends.iter().filter(|end| **end <= at).count();
            let mut expected = [&[][..], &["one"], &["one", "two", "three"]][whole - 1].to_vec();
            // A cut between two frames, or in the zeros of one that has not begun, leaves no trace here.
            if !ends.contains(&at) {
                expected.push("Unreadable");
            }
            assert_eq!(cut, expected, "cut at {at}");
        }
    }

    #[test]
    fn a_frame_of_another_file_is_none_here() {
        let mut bytes = head().write().to_vec();
        frame(&mut bytes, SALT + 1, |out| {
            record(out, |out| out.extend(b"forged"));
        })
        .unwrap();
        assert_eq!(met(&bytes), ["Unreadable"]);
        resalt(&mut bytes[HEAD_BYTES..], SALT);
        assert_eq!(met(&bytes), ["forged"]);
    }
}
