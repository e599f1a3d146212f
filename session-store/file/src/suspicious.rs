//! A database file is taken for one that was not closed, whatever it says of itself.
//!
//! redb believes the pages of a file that says that it was closed: one flipped bit in the number of a page is then a page of 4 TiB, and
//! the process ends for want of memory. Of a file that was not closed it believes nothing: it reads the newest header with a right check
//! sum, and follows no page before that page's own check sum is right. That costs one walk over the file, which is made at every start anyhow.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::StorageBackend;
use redb::backends::FileBackend;

/// Where the flags of the file stand (redb, `docs/design.md`, "God byte").
const FLAGS: u64 = 9;
/// The file was not closed.
const RECOVERY_REQUIRED: u8 = 2;
/// The last transaction was written in two phases, so its list of free pages may be used as it is.
const TWO_PHASE_COMMIT: u8 = 4;

/// A file whose flags say "not closed" until the database has written them itself.
#[derive(Debug)]
pub struct Suspicious {
    file: FileBackend,
    is_checked: AtomicBool,
}

impl Suspicious {
    pub fn new(file: FileBackend) -> Suspicious {
        Suspicious { file, is_checked: AtomicBool::new(false) }
    }
}

impl StorageBackend for Suspicious {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)?;
        let flags = FLAGS.checked_sub(offset).and_then(|at| out.get_mut(usize::try_from(at).ok()?));
        if let Some(flags) = flags.filter(|_| !self.is_checked.load(Ordering::Acquire)) {
            *flags = (*flags | RECOVERY_REQUIRED) & !TWO_PHASE_COMMIT;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)?;
        if (offset..offset + data.len() as u64).contains(&FLAGS) {
            self.is_checked.store(true, Ordering::Release);
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}
