//! Randomness as a value: a generator over HMAC-SHA-256 that the shell seeds once from the operating system. The same seed and the same
//! inputs give the same run, which is what makes a failing simulation repeatable.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// A deterministic generator. Block `n` is HMAC-SHA-256(seed, n), so that an output tells nothing of the others.
pub struct Random {
    seed: Zeroizing<[u8; 32]>,
    counter: u64,
    block: Zeroizing<[u8; 32]>,
    used: usize,
}

impl std::fmt::Debug for Random {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Random").field("counter", &self.counter).finish_non_exhaustive()
    }
}

impl Random {
    /// A generator over `seed`; two generators must never share one.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Random {
        Random { seed: Zeroizing::new(seed), counter: 0, block: Zeroizing::new([0; 32]), used: 32 }
    }

    /// Fills `out`.
    pub fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            if self.used == self.block.len() {
                *self.block = hmac_sha256(&*self.seed, &[&self.counter.to_be_bytes()]);
                self.counter += 1;
                self.used = 0;
            }
            *byte = self.block[self.used];
            self.block[self.used] = 0;
            self.used += 1;
        }
    }

    /// `N` random bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }

    /// 64 random bits.
    pub fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.bytes())
    }

    /// A number below `bound` (0 for a bound of 0). The bias is below 2⁻³² for every bound that fits 32 bits.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.u64() % bound }
    }

    /// A random UUID (RFC 9562, version 4), lower case.
    pub fn uuid(&mut self) -> String {
        let mut b: [u8; 16] = self.bytes();
        b[6] = (b[6] & 0x0f) | 0x40;
        b[8] = (b[8] & 0x3f) | 0x80;
        let hex = crate::text::hex(&b);
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}

/// HMAC-SHA-256 over the parts in a row.
pub(crate) fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let Ok(mut mac) = <Hmac<Sha256> as KeyInit>::new_from_slice(key) else {
        unreachable!("HMAC takes keys of every length (RFC 2104 §2)")
    };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

pub use session_store::hash::keyed_hash;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_stream_in_any_portions() {
        let (mut a, mut b) = (Random::new([7; 32]), Random::new([7; 32]));
        let whole: [u8; 100] = a.bytes();
        let mut pieces = Vec::new();
        for n in [1usize, 31, 32, 33, 3] {
            let mut piece = vec![0; n];
            b.fill(&mut piece);
            pieces.extend(piece);
        }
        assert_eq!(whole.to_vec(), pieces);
        assert_ne!(Random::new([8; 32]).bytes::<100>(), whole);
    }

    #[test]
    fn uuids_are_version_4() {
        let mut random = Random::new([1; 32]);
        let uuid = random.uuid();
        assert_eq!(uuid.len(), 36);
        assert_eq!(uuid.as_bytes()[14], b'4');
        assert_ne!(uuid, random.uuid());
    }

    #[test]
    fn parts_of_a_hash_do_not_run_into_each_other() {
        assert_ne!(keyed_hash(b"k", "l", &[b"ab", b"c"]), keyed_hash(b"k", "l", &[b"a", b"bc"]));
        assert_ne!(keyed_hash(b"k", "l", &[b"ab"]), keyed_hash(b"k", "m", &[b"ab"]));
    }
}
