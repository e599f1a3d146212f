//! Text forms of bytes: lower-case base32 without padding for header parameters, whose values are compared without regard to case
//! (RFC 3261 §7.3.1), base64url without padding for user parts of URIs (RFC 4648 §5, §6), hex, and the escaping of peer text.

const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const BASE64URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// What no alphabet has.
const NONE: u8 = 0xff;
const FROM_BASE32: [u8; 256] = reversed(BASE32, true);
const FROM_BASE64URL: [u8; 256] = reversed(BASE64URL, false);

/// The value of each octet; `either_case` gives upper case the value of lower case.
const fn reversed(alphabet: &[u8], either_case: bool) -> [u8; 256] {
    let mut table = [NONE; 256];
    let mut value = 0;
    while value < alphabet.len() {
        table[alphabet[value] as usize] = value as u8;
        if either_case {
            table[alphabet[value].to_ascii_uppercase() as usize] = value as u8;
        }
        value += 1;
    }
    table
}

fn encode(bytes: &[u8], bits: u32, alphabet: &[u8]) -> String {
    let mut out = Vec::with_capacity(bytes.len() * 8 / bits as usize + 1);
    let (mut pool, mut have) = (0u32, 0);
    let mask = (1 << bits) - 1;
    for byte in bytes {
        pool = (pool << 8 | u32::from(*byte)) & 0x3fff;
        have += 8;
        while have >= bits {
            have -= bits;
            out.push(alphabet[(pool >> have & mask) as usize]);
        }
    }
    if have > 0 {
        out.push(alphabet[(pool << (bits - have) & mask) as usize]);
    }
    // Alphabets are ASCII.
    String::from_utf8(out).unwrap_or_default()
}

fn decode(text: &str, bits: u32, values: &[u8; 256]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() * bits as usize / 8);
    let (mut pool, mut have) = (0u32, 0);
    for byte in text.bytes() {
        let value = values[usize::from(byte)];
        if value == NONE {
            return None;
        }
        pool = (pool << bits | u32::from(value)) & 0x3fff;
        have += bits;
        if have >= 8 {
            have -= 8;
            out.push((pool >> have & 0xff) as u8);
        }
    }
    // Only one text stands for one value: a full spare character or spare bits that are set are refused.
    (have < bits && pool & ((1 << have) - 1) == 0).then_some(out)
}

/// Lower-case base32.
#[must_use]
pub fn base32(bytes: &[u8]) -> String {
    encode(bytes, 5, BASE32)
}

/// The bytes of a base32 text in either case.
#[must_use]
pub fn from_base32(text: &str) -> Option<Vec<u8>> {
    decode(text, 5, &FROM_BASE32)
}

/// Base64url without padding.
#[must_use]
pub fn base64url(bytes: &[u8]) -> String {
    encode(bytes, 6, BASE64URL)
}

/// The bytes of a base64url text.
#[must_use]
pub fn from_base64url(text: &str) -> Option<Vec<u8>> {
    decode(text, 6, &FROM_BASE64URL)
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]).map(char::from).collect()
}

/// Peer text for a log, an audit record or a status: control characters, bidi marks and other invisible ones escaped, at most 256 bytes.
#[must_use]
pub fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(256));
    for c in text.chars() {
        let visible = !c.is_control()
            && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
        let piece = if visible { c.to_string() } else { format!("\\u{{{:x}}}", u32::from(c)) };
        if out.len() + piece.len() > 256 {
            break;
        }
        out.push_str(&piece);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_values() {
        assert_eq!(base32(b"foobar"), "mzxw6ytboi");
        assert_eq!(base64url(&[0xfb, 0xff]), "-_8");
        assert_eq!(hex(&[0, 0xab]), "00ab");
        assert_eq!(from_base32("mzxw6ytbo"), None);
        assert_eq!(from_base64url("-_9"), None);
    }

    #[test]
    fn control_and_bidi_characters_are_shown() {
        assert_eq!(shown("a\r\nb\u{202e}\u{1b}[0m"), "a\\u{d}\\u{a}b\\u{202e}\\u{1b}[0m");
        assert!(shown(&"\n".repeat(1000)).len() <= 256);
    }

    proptest! {
        #[test]
        fn both_forms_lead_back(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(from_base32(&base32(&bytes)), Some(bytes.clone()));
            prop_assert_eq!(from_base32(&base32(&bytes).to_uppercase()), Some(bytes.clone()));
            prop_assert_eq!(from_base64url(&base64url(&bytes)), Some(bytes));
        }

        #[test]
        fn one_text_for_one_value(text in "[a-z2-7]{0,70}") {
            if let Some(bytes) = from_base32(&text) {
                prop_assert_eq!(base32(&bytes), text);
            }
        }
    }
}
