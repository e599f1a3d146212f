//! Secrets with keys: the token keys and the naming key of an edge (`<edge>-keys`), the keys that seal a domain's records.
//!
//! Each key of the data is a key id, 0 to 255 in decimal digits; the value has its octets, raw or as hexadecimal digits. Two keys may
//! live at once, so that one replaces the other while what the other made is still around. `current` names the one that is used for
//! new things; without it the higher id is.

use super::{Secret, SecretBytes};

/// Names the key that is used for new things.
pub const CURRENT: &str = "current";
/// The naming key in `<edge>-keys`: 32 octets that all names in a shared store are hashed with. It never changes while the store lives.
pub const NAMING: &str = "naming";
/// Keys that may live at once.
pub const LIVE_KEYS: usize = 2;
/// Octets of a token key: the AES-SIV key, then the HMAC key.
pub const TOKEN_KEY_OCTETS: usize = 64;
/// Octets of the naming key.
pub const NAMING_KEY_OCTETS: usize = 32;

/// One key with its id.
#[derive(Clone, Debug, PartialEq)]
pub struct NumberedKey {
    pub kid: u8,
    pub octets: SecretBytes,
}

/// What is wrong with a Secret of keys. Never holds a part of a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct KeyError {
    /// The key of the data; `None` where the data as a whole is meant.
    pub key: Option<String>,
    pub message: String,
}

fn wrong(key: &str, message: impl Into<String>) -> KeyError {
    KeyError { key: Some(key.to_owned()), message: message.into() }
}

/// The token keys of `<edge>-keys`, the one that seals first. `naming` is left out of account.
///
/// # Errors
/// A name that is no key id, a value that has not 64 octets, no key or more than [`LIVE_KEYS`], a `current` that names none of them.
pub fn token_keys(secret: &Secret) -> Result<Vec<NumberedKey>, KeyError> {
    let wanted = "must have 64 octets, or 128 hexadecimal digits (openssl rand -hex 64)";
    numbered(secret, &[NAMING], &[TOKEN_KEY_OCTETS], wanted)
}

/// The naming key of `<edge>-keys`; `None` where there is none.
///
/// # Errors
/// A value that has not 32 octets.
pub fn naming_key(secret: &Secret) -> Result<Option<SecretBytes>, KeyError> {
    let Some(value) = secret.get(NAMING) else { return Ok(None) };
    octets(value, &[NAMING_KEY_OCTETS])
        .map(Some)
        .ok_or_else(|| wrong(NAMING, "must have 32 octets, or 64 hexadecimal digits (openssl rand -hex 32)"))
}

/// The keys that seal a domain's records (`SipDomain.spec.dataProtection.keySecretRef`), the one that seals first; 32 or 64 octets each.
///
/// # Errors
/// As [`token_keys`].
pub fn state_keys(secret: &Secret) -> Result<Vec<NumberedKey>, KeyError> {
    let wanted = "must have 32 or 64 octets, raw or as hexadecimal digits (openssl rand -hex 64)";
    numbered(secret, &[], &[32, 64], wanted)
}

fn numbered(secret: &Secret, beside: &[&str], lengths: &[usize], wanted: &str) -> Result<Vec<NumberedKey>, KeyError> {
    let mut keys: Vec<NumberedKey> = Vec::new();
    for (id, value) in secret.data.iter().filter(|(id, _)| *id != CURRENT && !beside.contains(&id.as_str())) {
        let kid = id.parse::<u8>().ok().filter(|kid| kid.to_string() == *id);
        let kid = kid.ok_or_else(|| wrong(id, "is no key id; key ids are 0 to 255, beside `current`"))?;
        let octets = octets(value.as_bytes(), lengths).ok_or_else(|| wrong(id, wanted))?;
        keys.push(NumberedKey { kid, octets });
    }
    if keys.is_empty() || keys.len() > LIVE_KEYS {
        let message = "must have one or two keys: the one that is used and the one before it";
        return Err(KeyError { key: None, message: message.to_owned() });
    }
    // The higher id first, then the current one in front of it.
    keys.sort_by_key(|key| std::cmp::Reverse(key.kid));
    if let Some(current) = secret.get(CURRENT) {
        let current = std::str::from_utf8(current).ok().and_then(|text| text.trim().parse::<u8>().ok());
        let place = keys.iter().position(|key| Some(key.kid) == current);
        let place = place.ok_or_else(|| wrong(CURRENT, "must be the id of one of the keys"))?;
        keys.swap(0, place);
    }
    Ok(keys)
}

/// Hexadecimal digits of one of the lengths, else raw octets of one of them. Text is tried first: 64 digits are 32 octets.
fn octets(value: &[u8], lengths: &[usize]) -> Option<SecretBytes> {
    let text = std::str::from_utf8(value).ok().map(str::trim);
    let unhexed = text.and_then(super::users::unhex).filter(|octets| lengths.contains(&octets.len()));
    unhexed.or_else(|| lengths.contains(&value.len()).then(|| value.to_vec())).map(SecretBytes::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn secret(data: &[(&str, &[u8])]) -> Secret {
        let data: BTreeMap<_, _> =
            data.iter().map(|(key, value)| (key.to_string(), SecretBytes::new(value.to_vec()))).collect();
        Secret { name: "edge-keys".into(), namespace: "default".into(), type_: "Opaque".into(), data }
    }

    #[test]
    fn the_current_key_comes_first_and_the_naming_key_is_apart() {
        let (old, new) = ([7; 64], "0f".repeat(64));
        let both = secret(&[("3", &old), ("4", new.as_bytes()), ("current", b"3\n"), ("naming", &[9; 32])]);
        let keys = token_keys(&both).unwrap();
        assert_eq!(keys.iter().map(|key| key.kid).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(keys[0].octets.as_bytes(), old);
        assert_eq!(keys[1].octets.as_bytes(), [15; 64]);
        assert_eq!(naming_key(&both).unwrap().unwrap().as_bytes(), [9; 32]);

        let without = secret(&[("3", &old), ("4", new.as_bytes())]);
        assert_eq!(token_keys(&without).unwrap()[0].kid, 4, "the higher id");
        assert_eq!(naming_key(&without).unwrap(), None);
    }

    #[test]
    fn sixty_four_digits_are_a_state_key_of_32_octets() {
        let digits = "ab".repeat(32);
        let keys = state_keys(&secret(&[("0", digits.as_bytes()), ("255", &[1; 64])])).unwrap();
        assert_eq!(
            keys.iter().map(|key| (key.kid, key.octets.as_bytes().len())).collect::<Vec<_>>(),
            [(255, 64), (0, 32)]
        );
    }

    #[test]
    fn what_is_wrong_names_the_key_and_never_the_value() {
        let short = b"too short to be a key";
        let good = [7; 64];
        type Case<'a> = (&'a [(&'a str, &'a [u8])], Option<&'a str>, &'a str);
        let cases: [Case<'_>; 7] = [
            (&[], None, "one or two keys"),
            (&[("0", short)], Some("0"), "must have 64 octets"),
            (&[("256", &good)], Some("256"), "is no key id"),
            (&[("01", &good)], Some("01"), "is no key id"),
            (&[("1", &good), ("2", &good), ("3", &good)], None, "one or two keys"),
            (&[("1", &good), ("current", b"2")], Some("current"), "one of the keys"),
            (&[("naming", &[7; 32])], None, "one or two keys"),
        ];
        for (data, key, message) in cases {
            let error = token_keys(&secret(data)).unwrap_err();
            assert_eq!(error.key.as_deref(), key, "{error:?}");
            assert!(error.message.contains(message) && !format!("{error:?}").contains("too short"), "{error:?}");
        }
        assert_eq!(naming_key(&secret(&[("naming", short)])).unwrap_err().key.as_deref(), Some("naming"));
        assert_eq!(state_keys(&secret(&[("naming", &[7; 32])])).unwrap_err().key.as_deref(), Some("naming"));
    }
}
