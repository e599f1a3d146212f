//! Random text for tags, branches, Call-IDs and exchanges.

/// `bytes` random bytes.
///
/// # Panics
/// Where the operating system gives no random numbers: nothing safe can be done then.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    getrandom::fill(&mut out).unwrap_or_else(|e| panic!("the system gives no random numbers: {e}"));
    out
}

/// Lower-case letters and digits, `length` of them; 5 bits each.
pub fn token(length: usize) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    (0..length).map(|_| char::from(ALPHABET[usize::from(bytes::<1>()[0] & 31)])).collect()
}
