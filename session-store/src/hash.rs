//! Keyed hashes: how addresses, Call-IDs and principals appear in names and in what a store compares without reading it.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The first 128 bits of HMAC-SHA-256 over the label and the parts, each with its length: no two lists of parts are hashed alike.
#[must_use]
pub fn keyed_hash(key: &[u8], label: &str, parts: &[&[u8]]) -> [u8; 16] {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        unreachable!("HMAC takes keys of every length (RFC 2104 §3)")
    };
    mac.update(label.as_bytes());
    mac.update(&[0]);
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    let full: [u8; 32] = mac.finalize().into_bytes().into();
    let mut out = [0; 16];
    out.copy_from_slice(&full[..16]);
    out
}
