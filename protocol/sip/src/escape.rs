//! Peer text for logs, terminals and audit records: what could forge a line, hide or reverse text is shown as an escape.

use std::fmt::{self, Write as _};

/// Octets of peer text that are shown at most; what follows is counted.
pub const SHOWN_BYTES: usize = 256;

/// Displays octets of a peer as one harmless line; made by [`escape`].
#[derive(Clone, Copy)]
pub struct Escaped<'a>(&'a [u8]);

/// Shows `text` with control characters, line and paragraph separators, bidirectional controls, zero-width and other
/// invisible characters as `\u{…}`, octets that are no UTF-8 as `\x..`, `\` doubled, cut after 256 octets with `…(+N)`.
#[must_use]
pub fn escape<T: AsRef<[u8]> + ?Sized>(text: &T) -> Escaped<'_> {
    Escaped(text.as_ref())
}

/// Characters that change how their surroundings look, or cannot be seen.
fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{00AD}' | '\u{034F}' | '\u{061C}' | '\u{115F}' | '\u{1160}' | '\u{17B4}' | '\u{17B5}'
            | '\u{180B}'..='\u{180F}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}'
            | '\u{3164}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF0}'..='\u{FFFB}'
            | '\u{E0000}'..='\u{E0FFF}')
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0;
        if shown.len() > SHOWN_BYTES {
            // Not in the middle of a character: its last octets would look like broken UTF-8.
            let mut end = SHOWN_BYTES;
            while end > SHOWN_BYTES - 4 && shown[end] & 0xC0 == 0x80 {
                end -= 1;
            }
            shown = &shown[..end];
        }
        for chunk in shown.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\\' => f.write_str("\\\\")?,
                    '\r' => f.write_str("\\r")?,
                    '\n' => f.write_str("\\n")?,
                    '\t' => f.write_str("\\t")?,
                    c if is_deceptive(c) => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                    c => f.write_char(c)?,
                }
            }
            for b in chunk.invalid() {
                write!(f, "\\x{b:02x}")?;
            }
        }
        match self.0.len() - shown.len() {
            0 => Ok(()),
            more => write!(f, "…(+{more})"),
        }
    }
}

impl fmt::Debug for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sec_11_peer_text_cannot_forge_a_log_line() {
        assert_eq!(escape("Alice\r\nINFO fake=1").to_string(), "Alice\\r\\nINFO fake=1");
        assert_eq!(escape(b"\0\x1b[31mred\x07").to_string(), "\\u{0}\\u{1b}[31mred\\u{7}");
        assert_eq!(
            escape("a\u{202e}b\u{200b}c\u{2028}d\u{feff}").to_string(),
            "a\\u{202e}b\\u{200b}c\\u{2028}d\\u{feff}"
        );
        assert_eq!(escape(b"Jos\xe9 \\ \x9b").to_string(), "Jos\\xe9 \\\\ \\x9b");
        assert_eq!(escape("no oшибка").to_string(), "no oшибка");
    }

    #[test]
    fn sec_11_long_peer_text_is_cut_and_counted() {
        let long = "é".repeat(200);
        let shown = escape(&long).to_string();
        assert_eq!(shown, format!("{}…(+144)", "é".repeat(128)));
        let odd = format!("a{}", "é".repeat(200));
        assert!(escape(&odd).to_string().ends_with("é…(+146)"));
        assert_eq!(escape(&"x".repeat(256)).to_string().len(), 256);
        // Nothing but continuation octets: cut, never out of bounds.
        assert!(escape(&[0x80u8; 600]).to_string().contains("…(+"));
    }
}
