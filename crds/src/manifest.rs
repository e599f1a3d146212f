//! Manifests from files: multi-document YAML → typed objects that know their file and line, and a list of problems.
//!
//! A document with a problem is left out; the others load. The reader bounds what it takes: files, bytes, documents, nesting, aliases.

mod document;
mod node;
mod snapshot;
mod structure;
mod unknown;

use crate::validate::references::{RefusedPolicy, settle};
use document::{Document, Object};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use snapshot::{ObjectKey, Origin, ServicePorts, Snapshot, Sourced};
pub use unknown::unknown_fields;

/// Bytes of one file.
pub const MAX_FILE_BYTES: usize = 1 << 20;
/// Files of one load.
pub const MAX_FILES: usize = 1024;
/// Bytes of all files of one load.
pub const MAX_TOTAL_BYTES: usize = 32 << 20;
/// Documents of one load.
pub const MAX_DOCUMENTS: usize = 16_384;
/// Listed problems of one load; one more says how many there are beyond.
pub const MAX_PROBLEMS: usize = 1000;

/// What [`load`] found: the objects that stand, and what is wrong with the others.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The objects without a problem of their own.
    pub objects: Snapshot,
    /// Everything that is wrong, by file and line. Empty: all objects stand.
    pub problems: Vec<Problem>,
    /// Policies that are not among the objects. What they select is closed, in an older form, too.
    pub refused: Vec<RefusedPolicy>,
}

/// One thing that is wrong in a manifest. Its `Display` is `FILE:LINE: FIELD: what is wrong; what to do`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file as it was named to [`load`], or found in a directory. Empty for what concerns no file.
    pub file: PathBuf,
    /// Line in the file, from 1; 0 where the whole file is meant.
    pub line: u32,
    /// Path of the field in its object, for example `spec.listeners[0].port`; empty where the whole document or file is meant.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.as_os_str().is_empty() {
            write!(f, "{}", self.file.display())?;
            if self.line > 0 {
                write!(f, ":{}", self.line)?;
            }
            write!(f, ": ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        write!(f, "{}", self.message)
    }
}

/// Reads manifests. Each path is a file, or a directory whose `*.yaml`, `*.yml` and `*.json` are read in the order of their names
/// (not the directories below, not names that begin with a dot).
///
/// Never fails as a whole: what cannot be read is a [`Problem`].
pub fn load<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Loaded {
    let mut reader = Reader::default();
    for path in paths {
        reader.add_path(path.as_ref());
    }
    reader.finish()
}

/// Reads manifests that are for a cluster: each object is judged by itself; what it refers to is there and not in the files.
pub fn load_for_cluster<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Loaded {
    let mut reader = Reader { destination: Destination::Cluster, ..Reader::default() };
    for path in paths {
        reader.add_path(path.as_ref());
    }
    reader.finish()
}

/// Who is going to work with the objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Destination {
    /// An edge, without Kubernetes.
    #[default]
    Edge,
    /// The API server.
    Cluster,
}

/// Reads manifests that are in memory; the paths are names for the messages.
pub fn parse<P: Into<PathBuf>, T: AsRef<[u8]>>(sources: impl IntoIterator<Item = (P, T)>) -> Loaded {
    let mut reader = Reader::default();
    for (file, bytes) in sources {
        reader.add_bytes(file.into(), bytes.as_ref());
    }
    reader.finish()
}

#[derive(Default)]
struct Reader {
    destination: Destination,
    snapshot: Snapshot,
    problems: Vec<Problem>,
    /// Problems beyond [`MAX_PROBLEMS`].
    unlisted: usize,
    refused_policies: Vec<RefusedPolicy>,
    checker: structure::Checker,
    files: usize,
    bytes: usize,
    documents: usize,
}

impl Reader {
    fn add_path(&mut self, path: &Path) {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => match manifests_in(path) {
                Ok(files) if files.is_empty() => {
                    self.file_problem(
                        path,
                        "has no *.yaml, *.yml or *.json; put manifests there or name another directory",
                    );
                }
                Ok(files) => files.iter().for_each(|file| self.add_file(file)),
                Err(error) => self.file_problem(path, format!("cannot be read: {error}")),
            },
            Ok(_) => self.add_file(path),
            Err(error) => self.file_problem(path, format!("cannot be read: {error}")),
        }
    }

    fn add_file(&mut self, file: &Path) {
        match read_bounded(file) {
            Ok(bytes) => self.add_bytes(file.to_owned(), &bytes),
            Err(error) => self.file_problem(file, format!("cannot be read: {error}")),
        }
    }

    fn add_bytes(&mut self, file: PathBuf, bytes: &[u8]) {
        self.files += 1;
        self.bytes = self.bytes.saturating_add(bytes.len());
        if bytes.len() > MAX_FILE_BYTES {
            self.close_for_unreadable(&file, 0, bytes);
            return self.file_problem(&file, format!("is larger than {MAX_FILE_BYTES} bytes; split it"));
        }
        if self.files > MAX_FILES {
            self.close_for_unreadable(&file, 0, bytes);
            return self.file_problem(&file, format!("is one file too many; at most {MAX_FILES} are read"));
        }
        if self.bytes > MAX_TOTAL_BYTES {
            self.close_for_unreadable(&file, 0, bytes);
            return self.file_problem(
                &file,
                format!("brings all files together over {MAX_TOTAL_BYTES} bytes; it is not read"),
            );
        }
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
            Err(error) => {
                let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() as u32 + 1;
                self.close_for_unreadable(&file, line, bytes);
                return self.problem(Problem { file, line, field: String::new(), message: "is not UTF-8".to_owned() });
            }
        };
        for (offset, text) in documents(text) {
            self.documents += 1;
            if self.documents > MAX_DOCUMENTS {
                let message = format!("is one document too many; at most {MAX_DOCUMENTS} are read");
                self.close_for_unreadable(&file, offset + 1, bytes);
                return self.problem(Problem { file, line: offset + 1, field: String::new(), message });
            }
            self.add_document(&file, offset, text);
        }
    }

    fn add_document(&mut self, file: &Path, offset: u32, text: &str) {
        let Document { key, named, origin, object, faults, policy_targets } =
            match document::read(&mut self.checker, file, offset, self.documents as u32, text, self.destination) {
                Ok(Some(document)) => document,
                Ok(None) => return,
                Err(problem) => {
                    self.close_for_unreadable(file, problem.line, text.as_bytes());
                    return self.problem(problem);
                }
            };
        let origin = Arc::new(origin);
        for fault in faults {
            let line = fault.line.saturating_add(offset);
            self.problem(Problem { file: file.to_owned(), line, field: fault.field, message: fault.message });
        }
        let refused = match object {
            Some(Object::Domain(object)) => insert(&mut self.snapshot.domains, key.name.clone(), object, &origin),
            Some(Object::Edge(object)) => insert(&mut self.snapshot.edges, key.clone(), object, &origin),
            Some(Object::Agent(object)) => insert(&mut self.snapshot.agents, key.clone(), object, &origin),
            Some(Object::Policy(object)) => insert(&mut self.snapshot.policies, key.clone(), object, &origin),
            Some(Object::Store(object)) => insert(&mut self.snapshot.stores, key.clone(), object, &origin),
            Some(Object::Secret(object)) => insert(&mut self.snapshot.secrets, key.clone(), object, &origin),
            Some(Object::ConfigMap(object)) => insert(&mut self.snapshot.config_maps, key.clone(), object, &origin),
            None => None,
        };
        let accepted = refused.is_none();
        if let Some(problem) = refused {
            self.problem(problem);
        }
        if let Some(targets) = policy_targets
            && !(accepted
                && self.snapshot.policies.get(&key).is_some_and(|policy| Arc::ptr_eq(&policy.origin, &origin)))
        {
            let key = named.then_some(key);
            self.refused_policies.push(RefusedPolicy { key, origin, targets });
        }
    }

    /// What cannot be read may have been a policy that denies something, for whomever.
    fn close_for_unreadable(&mut self, file: &Path, line: u32, bytes: &[u8]) {
        let is_policy = |line: &[u8]| {
            let line = line.to_ascii_lowercase();
            let after = |text: &[u8], from: usize| line[from..].windows(text.len()).position(|window| window == text);
            after(b"kind", 0).is_some_and(|at| after(b"capabilitypolic", at).is_some())
        };
        if bytes.split(|byte| *byte == b'\n').any(is_policy) {
            let origin = Arc::new(Origin { file: file.to_owned(), line, ..Origin::default() });
            self.refused_policies.push(RefusedPolicy { key: None, origin, targets: None });
        }
    }

    fn file_problem(&mut self, file: &Path, message: impl Into<String>) {
        self.problem(Problem { file: file.to_owned(), line: 0, field: String::new(), message: message.into() });
    }

    fn problem(&mut self, problem: Problem) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        } else {
            self.unlisted += 1;
        }
    }

    fn finish(mut self) -> Loaded {
        if self.destination == Destination::Edge {
            for problem in settle(&mut self.snapshot, &self.refused_policies) {
                self.problem(problem);
            }
        }
        self.problems.sort();
        self.problems.dedup();
        if self.unlisted > 0 {
            let message = format!("{} more problems are not listed; correct these first", self.unlisted);
            self.problems.push(Problem { file: PathBuf::new(), line: 0, field: String::new(), message });
        }
        Loaded { objects: self.snapshot, problems: self.problems, refused: self.refused_policies }
    }
}

/// Puts an object into its map, or says that the name is taken.
fn insert<K: Ord, T>(map: &mut BTreeMap<K, Sourced<T>>, key: K, object: T, origin: &Arc<Origin>) -> Option<Problem> {
    match map.entry(key) {
        Entry::Vacant(entry) => {
            entry.insert(Sourced { object: Arc::new(object), origin: origin.clone() });
            None
        }
        Entry::Occupied(entry) => {
            let place = entry.get().origin.place();
            Some(origin.problem("metadata.name", format!("this object is at {place} already; remove one or rename it")))
        }
    }
}

/// The manifests of a directory, by name.
fn manifests_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let manifest = path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if !hidden && manifest && !path.is_dir() {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            break; // The first one too many is reported by its name.
        }
    }
    files.sort();
    Ok(files)
}

/// The bytes of a regular file, one more than allowed at most.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Splits a YAML stream into the texts of its documents, each with the number of lines before it.
///
/// `---` or `...` at the beginning of a line, followed by white space or the end of the line, can be nothing but a document marker
/// (YAML 1.2.2 section 9.1.2, `c-forbidden`), so a broken document does not take those after it along.
fn documents(text: &str) -> impl Iterator<Item = (u32, &str)> {
    let mut rest = Some(text);
    let mut before = 0;
    std::iter::from_fn(move || {
        let text = rest.take()?;
        let offset = before;
        let mut end = 0;
        for (index, line) in text.split_inclusive('\n').enumerate() {
            // The marker that opens this document stays in it: content may follow it on its line.
            if index > 0 && is_marker(line) {
                before += index as u32;
                rest = Some(&text[end..]);
                return Some((offset, &text[..end]));
            }
            end += line.len();
        }
        Some((offset, text))
    })
    .filter(|(_, text)| !is_empty(text))
}

fn is_marker(line: &str) -> bool {
    let rest = line.strip_prefix("---").or_else(|| line.strip_prefix("..."));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r']))
}

/// True for a text that holds nothing but markers, comments, directives and blank lines.
fn is_empty(text: &str) -> bool {
    text.lines().all(|line| {
        let bare = if is_marker(line) { &line[3..] } else { line }.trim();
        bare.is_empty() || bare.starts_with('#') || line.starts_with('%')
    })
}
