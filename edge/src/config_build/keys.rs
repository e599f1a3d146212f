//! Token keys from the Secret `<edge>-keys`.
//!
//! Each key of its data is a key id, 0 to 255 in decimal digits; the value has 64 octets: the AES-SIV key, then the HMAC key. Two keys
//! may live at once. `current` names the one that seals; without it the higher id does. Secrets in text form may write the 64 octets as
//! 128 hexadecimal digits.

use crds::core_v1::Secret;
use crds::manifest::{ObjectKey, Problem, Snapshot, Sourced};
use edge_core::config::TokenKey;

/// Names the key that seals.
const CURRENT: &str = "current";
/// Keys that may live at once.
const LIVE: usize = 2;

/// Makes a key of 64 octets.
pub fn token_key(kid: u8, octets: &[u8; 64]) -> TokenKey {
    let mut key = TokenKey { kid, siv: [0; 32].into(), mac: [0; 32].into() };
    key.siv.copy_from_slice(&octets[..32]);
    key.mac.copy_from_slice(&octets[32..]);
    key
}

/// The keys of the Secret, the sealing one first; `made` where there is no Secret.
pub fn from_secret(objects: &Snapshot, edge: &ObjectKey, made: &TokenKey) -> Result<Vec<TokenKey>, Problem> {
    let name = ObjectKey::new(&edge.namespace, format!("{}-keys", edge.name));
    match objects.secrets.get(&name) {
        None => Ok(vec![made.clone()]),
        Some(secret) => read(secret),
    }
}

fn read(secret: &Sourced<Secret>) -> Result<Vec<TokenKey>, Problem> {
    let wrong = |key: &str, message: &str| {
        let written = ["data", "stringData"].map(|part| format!("{part}.{key}"));
        // The part that has the key lies below the beginning of the object.
        let [data, text] = written;
        let field = if secret.origin.line_of(&text) > secret.origin.line_of(&data) { text } else { data };
        secret.origin.problem(field, message)
    };
    let mut keys = Vec::new();
    for (id, value) in secret.data.iter().filter(|(id, _)| *id != CURRENT) {
        let kid = id.parse::<u8>().map_err(|_| wrong(id, "is no key id; key ids are 0 to 255, beside `current`"))?;
        let octets = octets(value.as_bytes())
            .ok_or_else(|| wrong(id, "must have 64 octets, or 128 hexadecimal digits (openssl rand -hex 64)"))?;
        keys.push(token_key(kid, &octets));
    }
    if keys.is_empty() || keys.len() > LIVE {
        return Err(secret
            .origin
            .problem("data", "must have one or two keys: the one that seals and the one before it"));
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

fn octets(value: &[u8]) -> Option<[u8; 64]> {
    if let Ok(raw) = value.try_into() {
        return Some(raw);
    }
    let text = std::str::from_utf8(value).ok()?.trim();
    let mut octets = [0; 64];
    if text.len() != 128 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (index, octet) in octets.iter_mut().enumerate() {
        *octet = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(octets)
}
