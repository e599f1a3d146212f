//! `MCP-Select` (draft §5.3): the subset and mode of operation that a caller asks for (NEG-8).

use std::fmt;

use super::capabilities::known_value;
use super::grammar::{Cursor, Parameter, check_new};
use super::tool::{self, ToolRef, join};
use super::{HeaderError, MAX_ENTRIES, Mode, is_token};

/// The selection. What is absent is not restricted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Select {
    /// The tools that are wanted.
    pub tools: Option<Vec<ToolRef>>,
    /// The role that is wanted, such as `assistant`.
    pub role: Option<String>,
    /// A policy by name, such as `safe`.
    pub policy: Option<String>,
    /// Parameters that we do not know, in order.
    pub generic: Vec<Parameter>,
}

impl Select {
    /// Reads one value.
    ///
    /// The ABNF separates `tools`, `role` and `policy` by commas and lets generic parameters follow after semicolons;
    /// the draft's own example writes semicolons throughout. Both forms are strict: a semicolon before `role` reads as
    /// a generic parameter of that name, which means the same. A generic parameter between two commas is lenient.
    ///
    /// # Errors
    /// Not the grammar of the mode, or over a limit.
    pub fn parse(value: &[u8], mode: Mode) -> Result<Select, HeaderError> {
        let mut cursor = Cursor::new(value)?;
        if cursor.peek().is_none() {
            return Err(HeaderError::Empty);
        }
        let mut select = Select::default();
        let mut after_comma = true;
        loop {
            if mode == Mode::Lenient {
                while cursor.take(b',') || cursor.take(b';') {}
                if cursor.peek().is_none() {
                    break;
                }
            }
            select.parameter(&mut cursor, mode, after_comma)?;
            after_comma = match cursor.peek() {
                None => break,
                Some(b';') => false,
                // In the strict form the comma list ends with the first semicolon.
                Some(b',') if after_comma || mode == Mode::Lenient => true,
                _ => return cursor.expected("a semicolon"),
            };
            cursor.take(if after_comma { b',' } else { b';' });
        }
        if select == Select::default() { Err(HeaderError::Empty) } else { Ok(select) }
    }

    fn parameter(&mut self, cursor: &mut Cursor<'_>, mode: Mode, known_only: bool) -> Result<(), HeaderError> {
        let start = cursor.position();
        let name = cursor.token()?;
        let taken = [
            self.tools.as_ref().map(|_| "tools"),
            self.role.as_ref().map(|_| "role"),
            self.policy.as_ref().map(|_| "policy"),
        ];
        let generic = self.generic.iter().map(Parameter::name);
        check_new(taken.into_iter().flatten().chain(generic), name)?;
        let known = ["tools", "role", "policy"].into_iter().find(|known| known.eq_ignore_ascii_case(name));
        let Some(known) = known else {
            if known_only && mode == Mode::Strict {
                return Err(HeaderError::Syntax { expected: "tools, role or policy", at: start });
            }
            if self.generic.len() == MAX_ENTRIES {
                return Err(HeaderError::TooMany);
            }
            cursor.rewind(start);
            self.generic.push(cursor.parameter()?);
            return Ok(());
        };
        if !cursor.take(b'=') {
            return cursor.expected("=");
        }
        let value = known_value(cursor, mode, known)?;
        if known == "tools" {
            self.tools = Some(tool::tools(value, mode)?);
            return Ok(());
        }
        if !is_token(value) {
            return Err(HeaderError::Value { parameter: known, value: value.to_owned() });
        }
        *(if known == "role" { &mut self.role } else { &mut self.policy }) = Some(value.to_owned());
        Ok(())
    }
}

impl fmt::Display for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if let Some(tools) = &self.tools {
            f.write_str("tools=\"")?;
            join(f, tools)?;
            f.write_str("\"")?;
            separator = ";";
        }
        for (name, value) in [("role", &self.role), ("policy", &self.policy)] {
            if let Some(value) = value {
                write!(f, "{separator}{name}=\"{value}\"")?;
                separator = ";";
            }
        }
        for parameter in &self.generic {
            write!(f, "{separator}{parameter}")?;
            separator = ";";
        }
        Ok(())
    }
}
