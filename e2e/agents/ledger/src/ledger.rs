//! The file: one JSON object a line, on the disk before anybody is told. Entries that wait together share one fsync.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

/// Entries that may wait for the disk; further tools wait before they write.
const WAITING: usize = 1024;
/// Entries of one fsync.
const BATCH: usize = 256;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Event {
    /// A tool began to run: this line is one execution.
    Start,
    /// It ran to its end.
    End,
    /// Its client cancelled it, or went away.
    Cancelled,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    pub tool: String,
    /// The argument `id` of the call.
    pub id: String,
    pub event: Event,
}

/// The way to the file. Cheap to clone; the file closes when the last one is gone.
#[derive(Clone)]
pub(crate) struct Ledger {
    queue: mpsc::Sender<(Entry, oneshot::Sender<io::Result<()>>)>,
}

impl Ledger {
    /// Opens the file for appending, and makes it where there is none.
    ///
    /// # Errors
    /// Those of opening.
    pub(crate) fn open(path: &Path) -> io::Result<Ledger> {
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        let (queue, mut waiting) = mpsc::channel::<(Entry, oneshot::Sender<io::Result<()>>)>(WAITING);
        thread::Builder::new().name("ledger".to_owned()).spawn(move || {
            let mut batch = Vec::with_capacity(BATCH);
            while waiting.blocking_recv_many(&mut batch, BATCH) > 0 {
                let written = append(&mut file, batch.iter().map(|(entry, _)| entry));
                for (_, done) in batch.drain(..) {
                    // A caller that went away needs no answer; the line stays.
                    let _ = done.send(written.as_ref().copied().map_err(|error| io::Error::from(error.kind())));
                }
            }
        })?;
        Ok(Ledger { queue })
    }

    /// Writes a line and returns when it is on the disk.
    ///
    /// # Errors
    /// Those of writing; the line may or may not be there then.
    pub(crate) async fn note(&self, tool: &'static str, id: &str, event: Event) -> io::Result<()> {
        let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let entry =
            Entry { at_ms: u64::try_from(at_ms).unwrap_or(u64::MAX), tool: tool.to_owned(), id: id.to_owned(), event };
        let (done, written) = oneshot::channel();
        let gone = || io::Error::other("the ledger is closed");
        self.queue.send((entry, done)).await.map_err(|_| gone())?;
        written.await.map_err(|_| gone())?
    }
}

fn append<'a>(file: &mut File, entries: impl Iterator<Item = &'a Entry>) -> io::Result<()> {
    let mut text = Vec::new();
    for entry in entries {
        serde_json::to_writer(&mut text, entry)?;
        text.push(b'\n');
    }
    file.write_all(&text)?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_there_before_the_answer_and_survive_a_new_start() {
        let path = std::env::temp_dir().join(format!("ledger-test-{}.jsonl", std::process::id()));
        for round in 0..2 {
            let ledger = Ledger::open(&path).unwrap();
            let notes = (0..40).map(|n| {
                let ledger = ledger.clone();
                tokio::spawn(async move { ledger.note("pay", &format!("{round}-{n}"), Event::Start).await })
            });
            for note in notes.collect::<Vec<_>>() {
                note.await.unwrap().unwrap();
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let entries: Vec<Entry> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!(entries.len(), 40 * (round + 1));
            assert!(entries.iter().any(|entry| entry.id == format!("{round}-39") && entry.event == Event::Start));
        }
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_folder_is_no_ledger() {
        assert!(Ledger::open(&std::env::temp_dir()).is_err());
    }
}
