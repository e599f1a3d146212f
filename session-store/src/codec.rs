//! The stored form of records: one version byte, then the record of that version. An unknown newer version is refused, never guessed.
//! Version 1 is JSON; later versions stay readable by their neighbours.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::op::StoreError;

/// The version that this code writes.
pub const VERSION: u8 = 1;

/// Bytes of a record.
///
/// # Errors
/// A record that cannot be written (none of ours).
pub fn encode<T: Serialize>(record: &T) -> Result<Bytes, StoreError> {
    let mut out = vec![VERSION];
    serde_json::to_writer(&mut out, record).map_err(|e| StoreError::Unreadable { reason: e.to_string() })?;
    Ok(Bytes::from(out))
}

/// A record from its bytes.
///
/// # Errors
/// An unknown version, or bytes that are no such record.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StoreError> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => {
            serde_json::from_slice(rest).map_err(|e| StoreError::Unreadable { reason: e.to_string() })
        }
        Some((version, _)) => {
            Err(StoreError::Unreadable { reason: format!("record version {version}, this program reads 1") })
        }
        None => Err(StoreError::Unreadable { reason: "empty record".into() }),
    }
}
