//! `MCP-Capabilities` (draft §5.2): a comma list of entries, each with `ver`, `tools`, `schemas` and parameters that
//! we do not know, kept in order and bytes (NEG-7, NEG-13).

use std::fmt;

use super::grammar::{Cursor, Parameter, check_new};
use super::tool::{self, ToolRef, join};
use super::{HeaderError, MAX_BYTES, MAX_ENTRIES, Mode};

/// The whole field: every value of every line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// The entries in order. The first carries `ver=1.0`, tools and schemas; further ones a date token each (5.1).
    pub entries: Vec<Capability>,
}

/// One entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capability {
    parameters: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Ver(String),
    Tools(Vec<ToolRef>),
    Schemas(Vec<String>),
    Generic(Parameter),
}

impl Entry {
    fn name(&self) -> &str {
        match self {
            Entry::Ver(_) => "ver",
            Entry::Tools(_) => "tools",
            Entry::Schemas(_) => "schemas",
            Entry::Generic(parameter) => parameter.name(),
        }
    }
}

impl Capability {
    /// Adds `ver`.
    #[must_use]
    pub fn with_ver(self, ver: impl Into<String>) -> Capability {
        self.with(Entry::Ver(ver.into()))
    }

    /// Adds `tools`; an empty list adds nothing, because the ABNF has no empty list.
    #[must_use]
    pub fn with_tools(self, tools: Vec<ToolRef>) -> Capability {
        if tools.is_empty() { self } else { self.with(Entry::Tools(tools)) }
    }

    /// Adds `schemas`; an empty list adds nothing.
    #[must_use]
    pub fn with_schemas(self, schemas: Vec<String>) -> Capability {
        if schemas.is_empty() { self } else { self.with(Entry::Schemas(schemas)) }
    }

    /// Adds a parameter.
    #[must_use]
    pub fn with_parameter(self, parameter: Parameter) -> Capability {
        self.with(Entry::Generic(parameter))
    }

    fn with(mut self, entry: Entry) -> Capability {
        self.parameters.retain(|old| !old.name().eq_ignore_ascii_case(entry.name()));
        self.parameters.push(entry);
        self
    }

    /// `ver`.
    #[must_use]
    pub fn ver(&self) -> Option<&str> {
        self.parameters.iter().find_map(|entry| match entry {
            Entry::Ver(ver) => Some(ver.as_str()),
            _ => None,
        })
    }

    /// `tools`.
    #[must_use]
    pub fn tools(&self) -> &[ToolRef] {
        let tools = self.parameters.iter().find_map(|entry| match entry {
            Entry::Tools(tools) => Some(tools.as_slice()),
            _ => None,
        });
        tools.unwrap_or_default()
    }

    /// `schemas`.
    #[must_use]
    pub fn schemas(&self) -> &[String] {
        let schemas = self.parameters.iter().find_map(|entry| match entry {
            Entry::Schemas(schemas) => Some(schemas.as_slice()),
            _ => None,
        });
        schemas.unwrap_or_default()
    }

    /// The parameters that we do not know, in order.
    pub fn generic(&self) -> impl Iterator<Item = &Parameter> {
        self.parameters.iter().filter_map(|entry| match entry {
            Entry::Generic(parameter) => Some(parameter),
            _ => None,
        })
    }
}

impl Capabilities {
    /// What an agent says of itself (5.1): the binding's version with tools and schemas, then each MCP version.
    #[must_use]
    pub fn of(tools: Vec<ToolRef>, schemas: Vec<String>, versions: &[&str]) -> Capabilities {
        let first = Capability::default().with_ver(crate::BINDING_VERSION).with_tools(tools).with_schemas(schemas);
        let others = versions.iter().map(|version| Capability::default().with_ver(*version));
        Capabilities { entries: std::iter::once(first).chain(others).collect() }
    }

    /// Reads one header line's value.
    ///
    /// # Errors
    /// Not the grammar of the mode, or over a limit.
    pub fn parse(value: &[u8], mode: Mode) -> Result<Capabilities, HeaderError> {
        Capabilities::parse_lines(std::iter::once(value), mode)
    }

    /// Reads all lines of the field; they are one list (RFC 3261 section 7.3.1).
    ///
    /// # Errors
    /// Not the grammar of the mode, or over a limit, which counts over all lines.
    pub fn parse_lines<'a>(lines: impl IntoIterator<Item = &'a [u8]>, mode: Mode) -> Result<Capabilities, HeaderError> {
        let mut all = Capabilities::default();
        let mut bytes = 0;
        for line in lines {
            bytes += line.len();
            if bytes > MAX_BYTES {
                return Err(HeaderError::TooLong);
            }
            all.line(line, mode)?;
        }
        if all.entries.is_empty() { Err(HeaderError::Empty) } else { Ok(all) }
    }

    fn line(&mut self, line: &[u8], mode: Mode) -> Result<(), HeaderError> {
        let mut cursor = Cursor::new(line)?;
        loop {
            if mode == Mode::Lenient {
                while cursor.take(b',') || cursor.take(b';') {}
                if cursor.peek().is_none() {
                    return Ok(());
                }
            }
            if self.entries.len() == MAX_ENTRIES {
                return Err(HeaderError::TooMany);
            }
            self.entries.push(Capability::read(&mut cursor, mode)?);
            if cursor.peek().is_none() {
                return Ok(());
            }
            if !cursor.take(b',') {
                return cursor.expected("a comma");
            }
        }
    }

    /// All tools of all entries.
    pub fn tools(&self) -> impl Iterator<Item = &ToolRef> {
        self.entries.iter().flat_map(Capability::tools)
    }

    /// All schemas of all entries.
    pub fn schemas(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().flat_map(Capability::schemas).map(String::as_str)
    }

    /// The MCP versions that the peer lists: the `ver` values that are date tokens (5.1). None: a draft peer.
    pub fn versions(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().filter_map(Capability::ver).filter(|ver| crate::era::is_date_token(ver))
    }
}

impl Capability {
    fn read(cursor: &mut Cursor<'_>, mode: Mode) -> Result<Capability, HeaderError> {
        let mut entry = Capability::default();
        loop {
            if mode == Mode::Lenient {
                while cursor.take(b';') {}
                if matches!(cursor.peek(), None | Some(b',')) {
                    break;
                }
            }
            let parameter = Self::parameter(cursor, mode)?;
            check_new(entry.parameters.iter().map(Entry::name), parameter.name())?;
            if entry.parameters.len() == MAX_ENTRIES {
                return Err(HeaderError::TooMany);
            }
            entry.parameters.push(parameter);
            if !cursor.take(b';') {
                break;
            }
        }
        Ok(entry)
    }

    fn parameter(cursor: &mut Cursor<'_>, mode: Mode) -> Result<Entry, HeaderError> {
        let start = cursor.position();
        let name = cursor.token()?;
        let known = ["ver", "tools", "schemas"].into_iter().find(|known| known.eq_ignore_ascii_case(name));
        let Some(known) = known else {
            cursor.rewind(start);
            return Ok(Entry::Generic(cursor.parameter()?));
        };
        if !cursor.take(b'=') {
            return cursor.expected("=");
        }
        let value = known_value(cursor, mode, known)?;
        match known {
            "ver" => match super::is_token(value) {
                true => Ok(Entry::Ver(value.to_owned())),
                false => Err(HeaderError::Value { parameter: "ver", value: value.to_owned() }),
            },
            "tools" => Ok(Entry::Tools(tool::tools(value, mode)?)),
            _ => Ok(Entry::Schemas(tool::schemas(value, mode)?)),
        }
    }
}

/// The value of a parameter that we know, without quotes. Strict: `ver` is a token, the lists stand in quotes.
/// Lenient: either way for each, and an unquoted list goes on over commas until the next `name=` or `;`.
pub(super) fn known_value<'a>(
    cursor: &mut Cursor<'a>,
    mode: Mode,
    parameter: &'static str,
) -> Result<&'a str, HeaderError> {
    let quoted = cursor.peek() == Some(b'"');
    if quoted && (parameter != "ver" || mode == Mode::Lenient) {
        let literal = cursor.quoted()?;
        let inside = literal.get(1..literal.len() - 1).unwrap_or_default();
        // No value that the ABNF has for these parameters needs an escape.
        if inside.contains('\\') {
            return Err(HeaderError::Value { parameter, value: inside.to_owned() });
        }
        return Ok(if mode == Mode::Lenient { inside.trim_matches([' ', '\t']) } else { inside });
    }
    match (mode, parameter) {
        (_, "ver") => cursor.token(),
        (Mode::Strict, _) => cursor.expected("a quoted string"),
        (Mode::Lenient, "tools" | "schemas") => cursor.loose_list(),
        (Mode::Lenient, _) => cursor.token(),
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Entry::Ver(ver) => write!(f, "ver={ver}"),
            Entry::Tools(tools) => {
                f.write_str("tools=\"")?;
                join(f, tools)?;
                f.write_str("\"")
            }
            Entry::Schemas(schemas) => {
                f.write_str("schemas=\"")?;
                join(f, schemas)?;
                f.write_str("\"")
            }
            Entry::Generic(parameter) => parameter.fmt(f),
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, entry) in self.parameters.iter().enumerate() {
            if index > 0 {
                f.write_str(";")?;
            }
            entry.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        join(f, &self.entries)
    }
}
