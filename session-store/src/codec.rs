//! The stored form of records: one version byte, then the record of that version. An unknown newer version is refused, never guessed.
//!
//! Version 1 is MessagePack with the members by name. Within a version a record may get further members, each with a default: a
//! program that does not know them skips them, and one that misses them takes the default. So N-1 and N+1 read each other's records.
//! A member is never renamed, removed, or given another meaning; what needs that is version 2, and is written only once every edge
//! reads it.

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
    rmp_serde::encode::write_named(&mut out, record).map_err(|e| StoreError::Unreadable { reason: e.to_string() })?;
    Ok(Bytes::from(out))
}

/// A record from its bytes.
///
/// # Errors
/// `Unreadable`: an unknown version, bytes that are no such record, or bytes behind it.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StoreError> {
    let unreadable = |reason: String| StoreError::Unreadable { reason };
    match bytes.split_first() {
        Some((&VERSION, mut rest)) => {
            let record = rmp_serde::from_read(&mut rest).map_err(|e| unreadable(e.to_string()))?;
            if !rest.is_empty() {
                return Err(unreadable(format!("{} bytes behind the record", rest.len())));
            }
            Ok(record)
        }
        Some((version, _)) => Err(unreadable(format!("record version {version}, this program reads {VERSION}"))),
        None => Err(unreadable("empty record".into())),
    }
}
