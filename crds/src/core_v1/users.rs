//! The users Secret of a domain: one key per user, one line `ALGORITHM:HEX` per algorithm.
//!
//! HEX is H(A1) = H(user ":" realm ":" password) in hexadecimal (RFC 7616 section 3.4.2). It is as good as the password inside its
//! realm, so it lives in a Secret; it is of no use in another realm.

use super::{Secret, SecretBytes};
use crate::v1alpha1::DigestAlgorithm;
use std::collections::BTreeMap;

/// H(A1) of one user by algorithm.
pub type UserHashes = BTreeMap<DigestAlgorithm, SecretBytes>;

/// What is wrong with a user's value. Never holds a part of the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UserError(String);

/// Reads the value of one user.
///
/// # Errors
/// A line that is not `ALGORITHM:HEX`, an unknown algorithm, a wrong length, an algorithm given twice, no line at all.
pub fn parse_user(value: &[u8]) -> Result<UserHashes, UserError> {
    let error = |message: String| Err(UserError(message));
    let Ok(text) = std::str::from_utf8(value) else { return error("is not UTF-8".to_owned()) };
    let mut hashes = UserHashes::new();
    for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line.trim())) {
        if line.is_empty() {
            continue;
        }
        let Some((name, hex)) = line.split_once(':') else {
            return error(format!("line {number} is not ALGORITHM:HEX, for example SHA-256:09ab…"));
        };
        let Some(algorithm) = DigestAlgorithm::ALL.into_iter().find(|algorithm| algorithm.as_str() == name) else {
            let known = DigestAlgorithm::ALL.map(DigestAlgorithm::as_str).join(", ");
            return error(format!(
                "line {number} does not begin with a known algorithm; allowed: {known} (a password is never stored, only its hash)"
            ));
        };
        let Some(hash) = unhex(hex).filter(|hash| hash.len() == algorithm.hash_len()) else {
            let digits = 2 * algorithm.hash_len();
            return error(format!("line {number}: {name} needs {digits} hexadecimal digits of H(user:realm:password)"));
        };
        if hashes.insert(algorithm, SecretBytes::new(hash)).is_some() {
            return error(format!("line {number}: {name} stands here for the second time"));
        }
    }
    if hashes.is_empty() { error("has no line ALGORITHM:HEX".to_owned()) } else { Ok(hashes) }
}

/// Reads all users; those with a wrong value are left out. Validation has refused a domain with such a user before.
pub fn parse_users(secret: &Secret) -> BTreeMap<String, UserHashes> {
    secret.data.iter().filter_map(|(user, value)| Some((user.clone(), parse_user(value.as_bytes()).ok()?))).collect()
}

/// Writes the value of a user from hashes that the caller computed.
pub fn ha1_lines(hashes: &UserHashes) -> String {
    hashes.iter().map(|(algorithm, hash)| format!("{}:{}\n", algorithm.as_str(), hex(hash.as_bytes()))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    let text = text.trim().as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    text.len().is_multiple_of(2).then_some(())?;
    text.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sec_4_users_hold_hashes_and_never_a_password() {
        let value = format!("SHA-256:{}\nMD5:{}\n", "0A".repeat(32), "ff".repeat(16));
        let hashes = parse_user(value.as_bytes()).unwrap();
        assert_eq!(hashes[&DigestAlgorithm::Sha256].as_bytes(), [10; 32]);
        assert_eq!(hashes[&DigestAlgorithm::Md5].as_bytes(), [255; 16]);
        assert_eq!(parse_user(ha1_lines(&hashes).as_bytes()).unwrap(), hashes);
        assert_eq!(format!("{hashes:?}"), "{Sha256: [32 bytes], Md5: [16 bytes]}");

        for (wrong, because) in [
            ("wonderland", "not ALGORITHM:HEX"),
            ("password:wonderland", "a password is never stored"),
            ("SHA-256:00ff", "needs 64 hexadecimal digits"),
            ("MD5:zz", "needs 32 hexadecimal digits"),
            ("\n", "has no line"),
        ] {
            let error = parse_user(wrong.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(because), "{wrong:?}: {error}");
            assert!(!error.contains("wonderland"), "{error}");
        }
    }
}
