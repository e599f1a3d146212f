//! Stateless nonces: `hex(kid ‖ time ‖ random ‖ proof)`. The proof is HMAC-SHA-256 over kid, time, tenant, realm and random,
//! so a nonce of one tenant or realm is none in another, and every edge that has the key can judge it.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::time::UnixMillis;

use super::algorithm::{hex, unhex};
use super::same_bytes;

/// Random bytes that a nonce needs.
pub const NONCE_RANDOM: usize = 16;
const PROOF: usize = 16;
const LEN: usize = 1 + 8 + NONCE_RANDOM + PROOF;

/// One key for nonces. Its bytes never appear in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct NonceKey {
    /// Which key: rides in the nonce.
    pub kid: u8,
    /// At least 32 bytes from the keys Secret.
    pub secret: Vec<u8>,
}

impl std::fmt::Debug for NonceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NonceKey {{ kid: {} }}", self.kid)
    }
}

/// The keys that are valid now. Nonces are made with the current one and accepted from both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NonceKeys {
    /// Makes new nonces.
    pub current: NonceKey,
    /// Was current before, or will be next.
    pub other: Option<NonceKey>,
}

/// What a presented nonce is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NonceState {
    Fresh,
    /// Ours, too old (or from a clock far ahead).
    Stale,
    Foreign,
}

/// A nonce may be this much from the future: the clocks of two edges differ.
const SKEW_MS: u64 = 30_000;

impl NonceKeys {
    pub(crate) fn make(&self, tenant: u16, realm: &str, now: UnixMillis, random: &[u8; NONCE_RANDOM]) -> String {
        let mut bytes = Vec::with_capacity(LEN);
        bytes.push(self.current.kid);
        bytes.extend_from_slice(&now.0.to_be_bytes());
        bytes.extend_from_slice(random);
        let proof = proof(&self.current.secret, &bytes, tenant, realm);
        bytes.extend_from_slice(&proof);
        hex(&bytes)
    }

    pub(crate) fn judge(&self, nonce: &str, tenant: u16, realm: &str, now: UnixMillis, lifetime_ms: u64) -> NonceState {
        let Some(bytes) = (nonce.len() == LEN * 2).then(|| unhex(nonce)).flatten() else { return NonceState::Foreign };
        let (claim, presented) = bytes.split_at(LEN - PROOF);
        let key = [Some(&self.current), self.other.as_ref()].into_iter().flatten().find(|key| key.kid == claim[0]);
        let Some(key) = key else { return NonceState::Foreign };
        if !same_bytes(&proof(&key.secret, claim, tenant, realm), presented) {
            return NonceState::Foreign;
        }
        let mut time = [0; 8];
        time.copy_from_slice(&claim[1..9]);
        let made = u64::from_be_bytes(time);
        let fresh = made <= now.0.saturating_add(SKEW_MS) && now.0.saturating_sub(made) <= lifetime_ms;
        if fresh { NonceState::Fresh } else { NonceState::Stale }
    }
}

fn proof(secret: &[u8], claim: &[u8], tenant: u16, realm: &str) -> [u8; PROOF] {
    // HMAC takes a key of any length, so this cannot fail.
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC accepts every key length");
    mac.update(b"sip digest nonce");
    mac.update(claim);
    mac.update(&tenant.to_be_bytes());
    mac.update(realm.as_bytes());
    let full = mac.finalize().into_bytes();
    let mut short = [0; PROOF];
    short.copy_from_slice(&full[..PROOF]);
    short
}
