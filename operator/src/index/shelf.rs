//! The objects of one kind: bounded in number and in bytes.

use super::entry::Entry;
use crds::manifest::ObjectKey;
use std::collections::BTreeMap;

/// What one kind may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub objects: usize,
    /// Of all objects together, as they travel.
    pub bytes: usize,
}

/// Bytes of one object as it travels. The API server takes about half of it.
pub const MAX_OBJECT_BYTES: usize = 3 << 20;

/// An object that was not taken. What was there of it before is gone too: nobody may go on with what is known to be outdated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    #[error("there are {0} objects of this kind already, which is the limit; it is taken when there is room")]
    Objects(usize),
    #[error("the objects of this kind have {0} bytes together, which is the limit; it is taken when there is room")]
    Bytes(usize),
    #[error("has {0} bytes; at most {MAX_OBJECT_BYTES} are taken")]
    Object(usize),
}

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// The same content was there; status and the rest of the metadata are the new ones.
    Same,
    /// A later version is there.
    Stale,
    Taken,
}

#[derive(Debug)]
pub(super) struct Shelf<T> {
    limits: Limits,
    entries: BTreeMap<ObjectKey, Entry<T>>,
    bytes: usize,
    /// Something was turned away for want of room, so the kind is not complete.
    pub short: bool,
}

impl<T> Shelf<T> {
    pub fn new(limits: Limits) -> Self {
        Shelf { limits, entries: BTreeMap::new(), bytes: 0, short: false }
    }

    pub fn get(&self, key: &ObjectKey) -> Option<&Entry<T>> {
        self.entries.get(key)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&ObjectKey, &Entry<T>)> {
        self.entries.iter()
    }

    pub fn put(&mut self, key: &ObjectKey, entry: Entry<T>) -> Result<Put, Full> {
        if let Some(there) = self.entries.get_mut(key) {
            if let (Some(there), Some(new)) = (there.resource_version, entry.resource_version)
                && new < there
            {
                return Ok(Put::Stale);
            }
            if there.uid == entry.uid && there.content.version == entry.content.version {
                *there = entry;
                return Ok(Put::Same);
            }
        }
        self.remove(key);
        let size = entry.content.json.len();
        let full = if size > MAX_OBJECT_BYTES {
            Some(Full::Object(size))
        } else if self.entries.len() >= self.limits.objects {
            Some(Full::Objects(self.limits.objects))
        } else if self.bytes + size > self.limits.bytes {
            Some(Full::Bytes(self.limits.bytes))
        } else {
            None
        };
        if let Some(full) = full {
            self.short = true;
            return Err(full);
        }
        self.bytes += size;
        self.entries.insert(key.clone(), entry);
        Ok(Put::Taken)
    }

    pub fn remove(&mut self, key: &ObjectKey) -> bool {
        let removed = self.entries.remove(key);
        self.bytes -= removed.as_ref().map_or(0, |entry| entry.content.json.len());
        removed.is_some()
    }
}
