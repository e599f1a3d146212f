//! Why a store file cannot be used. Each message says what to do.

use std::io;
use std::path::PathBuf;

/// A store file that cannot be opened. Nothing of it was loaded.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it, or this one has it open already.
    #[error("{}: is in use by another process; a store file belongs to one edge at a time: stop the other one, or give each edge a file of its own", path.display())]
    InUse { path: PathBuf },
    /// Written by a later program.
    #[error("{}: has format {found}, this program knows {known}; use the program that wrote it, or begin with a new file", path.display())]
    Newer { path: PathBuf, found: u64, known: u64 },
    /// Something else than a store file.
    #[error("{}: is no store file ({reason}); name another path", path.display())]
    NotAStore { path: PathBuf, reason: String },
    /// Its structure or a check sum is wrong.
    #[error("{}: is damaged ({reason}); put a copy of it back, or move it and its log away and begin with a new file", path.display())]
    Damaged { path: PathBuf, reason: String },
    /// A record that cannot be read: sealed with a key that is not there, of a newer version, or not as it was written.
    #[error("{}: record {record} cannot be read: {reason}; give the keys that it was sealed with, or move the file away and begin with a new one", path.display())]
    Unreadable { path: PathBuf, record: String, reason: String },
    /// The operating system says no.
    #[error("{}: cannot be {verb}: {source}", path.display())]
    Io { path: PathBuf, verb: &'static str, source: io::Error },
}

impl OpenError {
    pub(crate) fn io(path: impl Into<PathBuf>, verb: &'static str) -> impl FnOnce(io::Error) -> OpenError {
        let path = path.into();
        move |source| OpenError::Io { path, verb, source }
    }

    pub(crate) fn damaged(path: impl Into<PathBuf>, reason: impl Into<String>) -> OpenError {
        OpenError::Damaged { path: path.into(), reason: reason.into() }
    }
}
