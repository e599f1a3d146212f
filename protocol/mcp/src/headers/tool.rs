//! `mcp-tool = token ["@" 1*DIGIT]` and the lists of tools and schemas.

use std::fmt;

use super::{HeaderError, MAX_ENTRIES, Mode, is_token};

/// A tool by name and, where one is given, version: `summarize@1`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ToolRef {
    /// The tool's name.
    pub name: String,
    /// The version as written: digits, in the lenient mode with dots (`1.0`).
    pub version: Option<String>,
}

/// Longest tool name, in bytes (MCP 2025-11-25 allows 128 characters).
pub const MAX_NAME: usize = 128;

impl ToolRef {
    /// A tool without a version.
    #[must_use]
    pub fn new(name: impl Into<String>) -> ToolRef {
        ToolRef { name: name.into(), version: None }
    }

    /// A tool with a version.
    #[must_use]
    pub fn versioned(name: impl Into<String>, version: impl fmt::Display) -> ToolRef {
        ToolRef { name: name.into(), version: Some(version.to_string()) }
    }

    /// Reads `name` or `name@version`.
    ///
    /// # Errors
    /// The name is empty, too long or has characters that the mode does not allow; the version is no number.
    pub fn parse(text: &str, mode: Mode) -> Result<ToolRef, HeaderError> {
        let bad = || HeaderError::Value { parameter: "tools", value: text.to_owned() };
        let (name, version) = match text.rsplit_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (text, None),
        };
        let name_fits = match mode {
            Mode::Strict => is_token(name),
            Mode::Lenient => !name.is_empty() && name.bytes().all(is_loose_name_byte),
        };
        if !name_fits || name.len() > MAX_NAME || !version.is_none_or(|version| version_fits(version, mode)) {
            return Err(bad());
        }
        Ok(ToolRef { name: name.to_owned(), version: version.map(str::to_owned) })
    }

    /// Whether an offer of `self` can be met by `other`: the same name, and the same version where both give one.
    /// `1`, `1.0` and `01` are the same version (D7).
    #[must_use]
    pub fn fits(&self, other: &ToolRef) -> bool {
        self.name == other.name
            && match (&self.version, &other.version) {
                (Some(a), Some(b)) => same_version(a, b),
                _ => true,
            }
    }
}

impl fmt::Display for ToolRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(version) = &self.version {
            write!(f, "@{version}")?;
        }
        Ok(())
    }
}

fn is_loose_name_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';' | b'=' | b'@' | b'\\' | b'<' | b'>')
}

fn version_fits(version: &str, mode: Mode) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    version.len() <= 32
        && match mode {
            Mode::Strict => digits(version),
            Mode::Lenient => version.split('.').all(digits),
        }
}

fn same_version(a: &str, b: &str) -> bool {
    fn parts(version: &str) -> Vec<&str> {
        let mut parts: Vec<&str> = version.split('.').map(|part| part.trim_start_matches('0')).collect();
        while parts.len() > 1 && parts.last() == Some(&"") {
            parts.pop();
        }
        parts
    }
    parts(a) == parts(b)
}

/// Splits a comma list and gives each item to `item`. Empty items are an error, except in the lenient mode.
fn list(
    text: &str,
    mode: Mode,
    parameter: &'static str,
    mut item: impl FnMut(&str) -> Result<(), HeaderError>,
) -> Result<(), HeaderError> {
    let mut count = 0;
    for part in text.split(',') {
        let part = part.trim_matches([' ', '\t']);
        if part.is_empty() && mode == Mode::Lenient {
            continue;
        }
        count += 1;
        if count > MAX_ENTRIES {
            return Err(HeaderError::TooMany);
        }
        item(part)?;
    }
    if count == 0 {
        return Err(HeaderError::Value { parameter, value: text.to_owned() });
    }
    Ok(())
}

/// `mcp-tool-list = mcp-tool *( COMMA mcp-tool )`
pub(super) fn tools(text: &str, mode: Mode) -> Result<Vec<ToolRef>, HeaderError> {
    let mut tools = Vec::new();
    list(text, mode, "tools", |part| {
        tools.push(ToolRef::parse(part, mode)?);
        Ok(())
    })?;
    Ok(tools)
}

/// `mcp-schema-list = mcp-schema *( COMMA mcp-schema )`, `mcp-schema = token / uri`
pub(super) fn schemas(text: &str, mode: Mode) -> Result<Vec<String>, HeaderError> {
    let mut schemas = Vec::new();
    list(text, mode, "schemas", |part| {
        if !is_schema(part) {
            return Err(HeaderError::Value { parameter: "schemas", value: part.to_owned() });
        }
        schemas.push(part.to_owned());
        Ok(())
    })?;
    Ok(schemas)
}

/// A token, or a URI with a scheme. A comma ends a list item, so a URI that holds one must escape it.
pub(crate) fn is_schema(text: &str) -> bool {
    if is_token(text) {
        return true;
    }
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let scheme_byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    scheme.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
        && scheme.bytes().all(scheme_byte)
        && !rest.is_empty()
        && rest.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b',' | b'<' | b'>' | b'\\'))
}

pub(super) fn join<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: &[T]) -> fmt::Result {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            f.write_str(",")?;
        }
        write!(f, "{item}")?;
    }
    Ok(())
}
