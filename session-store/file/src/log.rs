//! The write-ahead log: what changed since the database was written, whole batches in their order.
//!
//! A batch is one write, so a process that is killed leaves whole batches and perhaps the beginning of one that nobody was told of.
//! Only the class Fsync waits for the disk. Each batch has a number; the database knows the last one that it contains, so a log that was
//! not emptied in time repeats nothing.
//!
//! Form: `SIPMCPL` and the version, the number of the last batch that the database had (u64); then per batch: length of the body (u32),
//! its complement, check sum of the body (u64), body. Body: number (u64), then entries: length of the name (u8), name, length of the
//! value (u32, all ones: removed), value. Numbers are big-endian. Values are sealed; the check sum is against accidents only.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::error::OpenError;

/// Sealed entries by the bytes of their names; `None`: removed.
pub(crate) type Entries = BTreeMap<Vec<u8>, Option<Bytes>>;

const MAGIC: [u8; 7] = *b"SIPMCPL";
const VERSION: u8 = 1;
const HEADER: u64 = 16;
/// Length, complement, check sum.
const FRAME_HEADER: usize = 16;
const REMOVED: u32 = u32::MAX;
/// Most bytes of one body; a batch is far below.
const MAX_BODY: usize = 1 << 30;

/// The open log, locked for this process.
#[derive(Debug)]
pub(crate) struct Log {
    file: File,
    path: PathBuf,
    /// Up to here everything is whole.
    len: u64,
    unsynced: bool,
}

/// A batch as it was written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    pub number: u64,
    pub entries: Entries,
}

impl Log {
    /// Opens and locks the log; makes it where it is missing. Not read yet.
    pub fn open(path: &Path, of: &Path) -> Result<Log, OpenError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path).map_err(OpenError::io(path, "opened"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: of.to_owned() }),
            Err(TryLockError::Error(source)) => {
                return Err(OpenError::Io { path: path.to_owned(), verb: "locked", source });
            }
        }
        Ok(Log { file, path: path.to_owned(), len: 0, unsynced: false })
    }

    /// Reads the batches after number `contained`, which the database has. What a kill left of an unfinished write is cut off.
    ///
    /// # Errors
    /// `Newer`, `Damaged`; a log that continues another state of the database than this one.
    pub fn read(&mut self, contained: u64) -> Result<Vec<Batch>, OpenError> {
        let mut bytes = Vec::new();
        self.file.read_to_end(&mut bytes).map_err(OpenError::io(&self.path, "read"))?;
        if bytes.len() < HEADER as usize {
            // Its beginning was never finished, so nothing was ever acknowledged by it.
            self.reset(contained).map_err(OpenError::io(&self.path, "written"))?;
            return Ok(Vec::new());
        }
        if bytes[..7] != MAGIC {
            return Err(OpenError::NotAStore { path: self.path.clone(), reason: "it does not begin as a log".into() });
        }
        if bytes[7] != VERSION {
            let (found, known) = (bytes[7].into(), VERSION.into());
            return Err(OpenError::Newer { path: self.path.clone(), found, known });
        }
        let base = number(&bytes[8..16]);
        if base > contained {
            let reason = format!("it continues batch {base}, and the database ends with {contained}: not of one time");
            return Err(OpenError::damaged(&self.path, reason));
        }
        let mut batches = Vec::new();
        let mut at = HEADER as usize;
        while at < bytes.len() {
            match frame(&bytes[at..]) {
                Frame::Whole { body, len } => {
                    let batch = batch(body).ok_or_else(|| {
                        OpenError::damaged(&self.path, format!("the batch at byte {at} is no list of entries"))
                    })?;
                    if batch.number > contained {
                        batches.push(batch);
                    }
                    at += len;
                }
                Frame::Unfinished => break,
                Frame::Wrong => {
                    return Err(OpenError::damaged(&self.path, format!("the check sum at byte {at} is wrong")));
                }
            }
        }
        self.len = at as u64;
        self.file.set_len(self.len).map_err(OpenError::io(&self.path, "shortened"))?;
        let expected = contained + 1..contained + 1 + batches.len() as u64;
        if !batches.iter().map(|batch| batch.number).eq(expected) {
            return Err(OpenError::damaged(&self.path, "a batch is missing"));
        }
        Ok(batches)
    }

    /// Bytes of the log.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True while something was written that may not be on the disk.
    pub fn is_unsynced(&self) -> bool {
        self.unsynced
    }

    /// Appends a batch in one write.
    ///
    /// # Errors
    /// The operating system's; the log is then as it was before.
    pub fn append(&mut self, number: u64, entries: &Entries) -> io::Result<()> {
        let frame = encode(number, entries)?;
        if let Err(error) = self.file.write_all_at(&frame, self.len) {
            // What was written of it goes; should that fail, the next write begins at the same place.
            let _ = self.file.set_len(self.len);
            return Err(error);
        }
        self.len += frame.len() as u64;
        self.unsynced = true;
        Ok(())
    }

    /// Waits until everything is on the disk.
    ///
    /// # Errors
    /// The operating system's. What was written since the last success may then be lost, whatever a second call says.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.unsynced {
            self.file.sync_data()?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// Empties the log: the database contains everything up to this batch.
    ///
    /// # Errors
    /// The operating system's.
    pub fn reset(&mut self, contained: u64) -> io::Result<()> {
        let mut header = [0; HEADER as usize];
        header[..7].copy_from_slice(&MAGIC);
        header[7] = VERSION;
        header[8..].copy_from_slice(&contained.to_be_bytes());
        // In this order: between the two the old batches are still there, and known to be contained.
        self.file.write_all_at(&header, 0)?;
        self.file.set_len(HEADER)?;
        self.len = HEADER;
        self.unsynced = true;
        Ok(())
    }
}

fn encode(number: u64, entries: &Entries) -> io::Result<Vec<u8>> {
    let mut out = vec![0; FRAME_HEADER];
    out.extend(number.to_be_bytes());
    for (name, value) in entries {
        let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "an entry that is too long for the log");
        out.push(u8::try_from(name.len()).map_err(|_| too_long())?);
        out.extend(name);
        match value {
            None => out.extend(REMOVED.to_be_bytes()),
            Some(value) => {
                let len = u32::try_from(value.len()).ok().filter(|len| (*len as usize) < MAX_BODY);
                out.extend(len.ok_or_else(too_long)?.to_be_bytes());
                out.extend(value);
            }
        }
    }
    let body = out.len() - FRAME_HEADER;
    let len = u32::try_from(body).ok().filter(|_| body <= MAX_BODY);
    let len = len.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a batch that is too long for the log"))?;
    let sum = check_sum(&out[FRAME_HEADER..]);
    out[..4].copy_from_slice(&len.to_be_bytes());
    out[4..8].copy_from_slice(&(!len).to_be_bytes());
    out[8..16].copy_from_slice(&sum.to_be_bytes());
    Ok(out)
}

enum Frame<'a> {
    Whole {
        body: &'a [u8],
        len: usize,
    },
    /// What a kill or a power loss leaves of the last write.
    Unfinished,
    Wrong,
}

fn frame(bytes: &[u8]) -> Frame<'_> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Frame::Unfinished;
    }
    let Some((header, rest)) = bytes.split_at_checked(FRAME_HEADER) else { return Frame::Unfinished };
    let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let len = word(0);
    if word(4) != !len {
        return Frame::Wrong;
    }
    let len = len as usize;
    match rest.split_at_checked(len) {
        None => Frame::Unfinished,
        Some((body, _)) if check_sum(body) == number(&header[8..]) => Frame::Whole { body, len: FRAME_HEADER + len },
        // After a power loss the last write may have its length and not all of its pages.
        Some((_, [])) => Frame::Unfinished,
        Some(_) => Frame::Wrong,
    }
}

fn batch(body: &[u8]) -> Option<Batch> {
    let (head, mut rest) = body.split_at_checked(8)?;
    let mut entries = Entries::new();
    while let Some((len, after)) = rest.split_first() {
        let (name, after) = after.split_at_checked(usize::from(*len))?;
        let (len, after) = after.split_first_chunk::<4>()?;
        let len = u32::from_be_bytes(*len);
        let (value, after) = if len == REMOVED {
            (None, after)
        } else {
            let (value, after) = after.split_at_checked(len as usize)?;
            (Some(Bytes::copy_from_slice(value)), after)
        };
        entries.insert(name.to_owned(), value);
        rest = after;
    }
    Some(Batch { number: number(head), entries })
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// FNV-1a, 64 bits, over words of eight octets: against accidents; whoever may write here is stopped by the seals of the values.
fn check_sum(bytes: &[u8]) -> u64 {
    let step = |sum: u64, word: u64| (sum ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    let chunks = bytes.chunks_exact(8);
    let rest = chunks.remainder();
    let sum = chunks.fold(0xcbf2_9ce4_8422_2325, |sum, chunk| step(sum, number(chunk)));
    step(step(sum, number(rest)), bytes.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entries(tag: u8, count: usize) -> Entries {
        (0..count).map(|n| (vec![tag, n as u8], (n % 3 != 0).then(|| Bytes::from(vec![tag; n * 7])))).collect()
    }

    fn written(folder: &Path, batches: u64) -> PathBuf {
        let path = folder.join("s.log");
        let mut log = Log::open(&path, folder).unwrap();
        assert!(log.read(0).unwrap().is_empty());
        for number in 1..=batches {
            log.append(number, &entries(number as u8, number as usize)).unwrap();
        }
        path
    }

    fn read(path: &Path, contained: u64) -> Result<Vec<Batch>, OpenError> {
        Log::open(path, path).unwrap().read(contained)
    }

    #[test]
    fn batches_come_back_in_their_order_and_only_those_that_the_database_lacks() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path(), 5);
        let all = read(&path, 0).unwrap();
        assert_eq!(all.iter().map(|batch| batch.number).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert_eq!(all[3].entries, entries(4, 4));
        assert_eq!(read(&path, 3).unwrap().len(), 2);
        assert_eq!(read(&path, 9).unwrap(), [], "the log was not emptied in time");

        let mut log = Log::open(&path, &path).unwrap();
        log.reset(5).unwrap();
        log.append(6, &entries(6, 1)).unwrap();
        drop(log);
        assert_eq!(read(&path, 5).unwrap().len(), 1);
        let error = read(&path, 4).unwrap_err().to_string();
        assert!(error.contains("continues batch 5, and the database ends with 4"), "{error}");
    }

    #[test]
    fn a_log_is_locked_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.log");
        let log = Log::open(&path, Path::new("/the/store")).unwrap();
        let error = Log::open(&path, Path::new("/the/store")).unwrap_err();
        assert!(error.to_string().starts_with("/the/store: is in use by another process"), "{error}");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(log);
        Log::open(&path, Path::new("/the/store")).unwrap();
    }

    proptest! {
        /// Wherever a kill cuts the last write off: whole batches, in their order, and a log that goes on.
        #[test]
        fn a_cut_log_is_read_up_to_the_last_whole_batch(cut in 0usize..400, zeros in 0usize..64) {
            let folder = tempfile::tempdir().unwrap();
            let path = written(folder.path(), 6);
            let whole = read(&path, 0).unwrap();
            let mut bytes = std::fs::read(&path).unwrap();
            let keep = bytes.len().saturating_sub(cut);
            bytes.truncate(keep);
            bytes.extend(vec![0; zeros]);
            std::fs::write(&path, &bytes).unwrap();
            // Zeros behind a batch that was cut inside may stand where a value was: its check sum tells, unless it ends at the file's end.
            match read(&path, 0) {
                Ok(found) => {
                    prop_assert_eq!(&found[..], &whole[..found.len()]);
                    let mut log = Log::open(&path, &path).unwrap();
                    let next = log.read(0).unwrap().len() as u64 + 1;
                    log.append(next, &entries(9, 2)).unwrap();
                    drop(log);
                    prop_assert_eq!(read(&path, 0).unwrap().len() as u64, next);
                }
                Err(OpenError::Damaged { .. } | OpenError::NotAStore { .. }) => prop_assert!(zeros > 0),
                Err(other) => prop_assert!(false, "{}", other),
            }
        }

        /// A flipped bit is never read as something else.
        #[test]
        fn a_flipped_bit_changes_nothing_silently(bit in 0usize..8, at in 0usize..2000) {
            let folder = tempfile::tempdir().unwrap();
            let path = written(folder.path(), 6);
            let whole = read(&path, 0).unwrap();
            let mut bytes = std::fs::read(&path).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            std::fs::write(&path, &bytes).unwrap();
            if let Ok(found) = read(&path, 0) {
                // Only in the last batch can it look like an unfinished write.
                prop_assert!(found.len() >= 5, "{} batches", found.len());
                prop_assert_eq!(&found[..], &whole[..found.len()]);
            }
        }
    }
}
