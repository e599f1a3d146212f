//! Manifests from files: multi-document YAML → typed objects that know their file and line, and a list of problems.

mod snapshot;

pub use snapshot::{ObjectKey, Origin, Snapshot, Sourced};

/// What [`load`] found: the objects that stand, and what is wrong with the others.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The objects without a problem of their own.
    pub objects: Snapshot,
    /// Everything that is wrong, by file and line. Empty: all objects stand.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong in a manifest. Its `Display` is `FILE:LINE: FIELD: what is wrong; what to do`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file as it was named to [`load`], or found in a directory.
    pub file: std::path::PathBuf,
    /// Line in the file, from 1; 0 where the whole file is meant.
    pub line: u32,
    /// Path of the field in its object, for example `spec.listeners[0].port`; empty where the whole document or file is meant.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}
