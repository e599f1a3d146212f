//! The last good configuration in a file that survives the process, sealed with the keys of the edge: whoever can write the file cannot give an
//! edge a configuration.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use crds::core_v1::keys::token_keys;
use crds::core_v1::{Secret, SecretBytes};
use crds::manifest::{ObjectKey, Snapshot};
use edge_api::MAX_KEPT;
use edge_api::control::{Delta, Upsert};
use prost::Message;
use session_store::seal::{OF_STORE, SealKeys, Sealer};
use zeroize::Zeroizing;

use super::held::Held;
use crate::config_build::store::derived;

/// How the file begins.
const MAGIC: &[u8] = b"sipmcp configuration 1\n";
/// What the keys are for, and what is sealed.
const PURPOSE: &str = "sealing key of configurations";
const KIND: &str = "configuration";
/// What sealing adds, and more.
const SEALED_MORE: usize = 4096;
/// Octets of one mounted key.
const MAX_KEY: u64 = 4096;

/// Where the file is, and the keys.
#[derive(Clone, Debug)]
pub struct Cache {
    pub file: PathBuf,
    /// The Secret `<edge>-keys`, mounted.
    pub keys: PathBuf,
    pub edge: ObjectKey,
}

/// What an earlier process kept.
#[derive(Debug)]
pub struct Kept {
    pub held: Held,
    /// What was last good of what it holds.
    pub good: Snapshot,
}

/// Why a file is not used. Never holds a part of it.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the keys in {0} cannot be used: {1}")]
    Keys(String, String),
    #[error("it is no configuration that this program kept")]
    Form,
    #[error("it was not sealed for this SipEdge with its keys, or it was changed")]
    Seal,
    #[error("not kept: what this edge holds takes {0} octets, and there is room for {1}")]
    TooLarge(usize, usize),
}

impl Cache {
    /// What the file has. `None`: there is none.
    ///
    /// # Errors
    /// It cannot be used; nothing of it is.
    pub fn read(&self) -> Result<Option<Kept>, Unusable> {
        let file = match fs::metadata(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        if file.len() > (MAX_KEPT + SEALED_MORE) as u64 {
            return Err(Unusable::Form);
        }
        let file = fs::read(&self.file)?;
        let sealed = file.strip_prefix(MAGIC).ok_or(Unusable::Form)?;
        let plain = self.sealer()?.open(OF_STORE, KIND, self.edge.to_string().as_bytes(), sealed);
        // The objects share the memory of the whole, which is wiped with the last of them.
        let mut plain = Bytes::from_owner(Zeroizing::new(plain.map_err(|_| Unusable::Seal)?));
        let mut part = || Delta::decode_length_delimited(&mut plain).map_err(|_| Unusable::Form);
        let (settled, unread) = (part()?, part()?);
        let mut held = Held::default();
        held.take(settled);
        // What stood last, so that it stands in for what could not be read even then.
        let good = if unread.upserts.is_empty() { Snapshot::default() } else { held.judge().objects };
        held.take(unread);
        Ok(Some(Kept { held, good }))
    }

    /// Writes the file anew, as a whole or not at all.
    ///
    /// # Errors
    /// What the system says, or the keys are not there, or it is more than [`MAX_KEPT`].
    pub fn write(&self, kept: (Vec<Upsert>, Vec<Upsert>)) -> Result<(), Unusable> {
        self.write_up_to(MAX_KEPT, kept)
    }

    fn write_up_to(&self, most: usize, (settled, unread): (Vec<Upsert>, Vec<Upsert>)) -> Result<(), Unusable> {
        let sealer = self.sealer()?;
        let parts = [settled, unread].map(|upserts| Delta { upserts, ..Delta::default() });
        let length = parts.iter().map(|part| part.encoded_len() + 10).sum();
        if length > most {
            return Err(Unusable::TooLarge(length, most));
        }
        // Large enough for everything, so that no half of it is left where the buffer grew.
        let mut plain = Zeroizing::new(Vec::with_capacity(length));
        for part in &parts {
            // A vector grows; there is no other reason.
            part.encode_length_delimited(&mut *plain).map_err(|_| Unusable::Form)?;
        }
        let sealed = sealer.seal(OF_STORE, KIND, self.edge.to_string().as_bytes(), &plain);
        let new = self.file.with_extension("new");
        let write = || {
            let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(MAGIC)?;
            file.write_all(&sealed)?;
            file.sync_all()?;
            fs::rename(&new, &self.file)
        };
        write().map_err(|error| {
            // A part of it takes room and helps nobody; where it cannot be removed either, the first error says more.
            let _ = fs::remove_file(&new);
            error.into()
        })
    }

    fn sealer(&self) -> Result<Sealer, Unusable> {
        let wrong = |reason: String| Unusable::Keys(self.keys.display().to_string(), reason);
        let secret = mounted(&self.keys).map_err(|error| wrong(error.to_string()))?;
        let keys = token_keys(&secret).map_err(|error| wrong(error.to_string()))?;
        let keys = keys.iter().map(|key| derived(key.kid, key.octets.as_bytes(), PURPOSE)).collect();
        let keys = SealKeys::new(keys).map_err(|error| wrong(error.to_string()))?;
        // Nothing here is found by its name.
        Ok(Sealer::new(keys, Zeroizing::new([0; 32])))
    }
}

/// A Secret as a volume shows it: a file for each key; what begins with a dot is the volume's own.
fn mounted(folder: &Path) -> io::Result<Secret> {
    let mut data = BTreeMap::new();
    for entry in fs::read_dir(folder)?.take(64) {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let file = fs::metadata(&path)?;
        if name.starts_with('.') || !file.is_file() || file.len() > MAX_KEY {
            continue;
        }
        data.insert(name, SecretBytes::new(fs::read(&path)?));
    }
    Ok(Secret { name: String::new(), namespace: String::new(), type_: String::new(), data })
}

#[cfg(test)]
mod tests {
    use super::*;
    use edge_api::control::{Key, Kind};

    fn namespace(name: &str) -> Upsert {
        let key = Key { kind: Kind::Namespace.into(), namespace: String::new(), name: name.to_owned() };
        let json = format!(r#"{{"metadata":{{"name":"{name}","labels":{{}}}}}}"#);
        Upsert { key: Some(key), version: "1".to_owned(), json: json.into(), ..Upsert::default() }
    }

    #[test]
    fn what_has_no_room_in_the_volume_is_not_kept_and_what_was_kept_stays() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("0"), [7; 64]).unwrap();
        let file = folder.path().join("state").join("config");
        fs::create_dir(file.parent().unwrap()).unwrap();
        let cache = Cache { file, keys: folder.path().to_owned(), edge: ObjectKey::new("system", "e") };
        let upserts = |count: usize| (0..count).map(|number| namespace(&format!("n{number}"))).collect::<Vec<_>>();
        cache.write_up_to(4096, (upserts(3), Vec::new())).unwrap();
        let refused = cache.write_up_to(4096, (upserts(400), Vec::new())).unwrap_err();
        assert!(matches!(refused, Unusable::TooLarge(size, 4096) if size > 4096), "{refused}");
        assert_eq!(cache.read().unwrap().unwrap().held.keys().count(), 3);
        // A file that could not be written takes no room, and no more is written than there is room for.
        assert_eq!(fs::read_dir(folder.path().join("state")).unwrap().count(), 1);
        fs::create_dir(cache.file.with_extension("x")).unwrap();
        let nowhere = Cache { file: cache.file.with_extension("x"), ..cache };
        assert!(nowhere.write((upserts(1), Vec::new())).is_err(), "a folder has its name");
        assert!(!nowhere.file.with_extension("new").exists());
    }
}
