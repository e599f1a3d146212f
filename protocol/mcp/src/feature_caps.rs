//! The feature tags `+mcp`, `+mcp.ver`, `+mcp.cap` (draft §5.4, D1, D2; REG-1, REG-3): read leniently from the
//! parameters of a Contact or of `Feature-Caps`. What a peer wrote is stored and returned as bytes elsewhere; this is
//! only what it means.

use crate::era::is_date_token;
use crate::headers::{HeaderError, MAX_BYTES, MAX_ENTRIES, Mode, ToolRef, is_schema};

/// What a Contact or `Feature-Caps` says about MCP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeatureTags {
    /// `+mcp` is there.
    pub mcp: bool,
    /// `+mcp.ver`: the binding's version and MCP date tokens.
    pub versions: Vec<String>,
    /// The tools in `+mcp.cap`.
    pub tools: Vec<ToolRef>,
    /// The schemas in `+mcp.cap`.
    pub schemas: Vec<String>,
}

/// How `+mcp.cap` is written (D2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CapStyle {
    /// As the draft has it: `"summarize@1,urn:ex:doc:1"`.
    #[default]
    Draft,
    /// As RFC 3840 section 9 has strings: `"<summarize@1,urn:ex:doc:1>"`.
    Rfc3840,
}

impl FeatureTags {
    /// Reads the parameters of one Contact: name and value as written, quotes included or not. Parameters of other
    /// names are passed over.
    ///
    /// # Errors
    /// A value over a limit, or an item that is neither tool nor schema.
    pub fn from_parameters<'a>(
        parameters: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
    ) -> Result<FeatureTags, HeaderError> {
        let mut tags = FeatureTags::default();
        for (name, value) in parameters {
            let Some(rest) = name.get(..4).filter(|start| start.eq_ignore_ascii_case("+mcp")).and(name.get(4..)) else {
                continue;
            };
            if rest.is_empty() {
                tags.mcp = true;
            } else if rest.eq_ignore_ascii_case(".ver") {
                tags.mcp = true;
                tags.versions = items(value)?.map(str::to_owned).collect();
            } else if rest.eq_ignore_ascii_case(".cap") {
                tags.mcp = true;
                tags.read_cap(items(value)?)?;
            }
        }
        Ok(tags)
    }

    fn read_cap<'a>(&mut self, items: impl Iterator<Item = &'a str>) -> Result<(), HeaderError> {
        for item in items {
            if item.contains(':') && is_schema(item) {
                self.schemas.push(item.to_owned());
            } else {
                let tool = ToolRef::parse(item, Mode::Lenient)
                    .map_err(|_| HeaderError::Value { parameter: "+mcp.cap", value: item.to_owned() })?;
                self.tools.push(tool);
            }
        }
        Ok(())
    }

    /// The MCP versions in `+mcp.ver`.
    pub fn mcp_versions(&self) -> impl Iterator<Item = &str> {
        self.versions.iter().map(String::as_str).filter(|version| is_date_token(version))
    }

    /// Whether a tool that is asked for (`summarize@1`, `summarize`) is in `+mcp.cap`.
    #[must_use]
    pub fn offers(&self, wanted: &ToolRef) -> bool {
        self.tools.iter().any(|tool| wanted.fits(tool))
    }

    /// The parameters to write behind a Contact, or behind `*` in `Feature-Caps`, each with its `;`. Empty when `mcp`
    /// is not set.
    #[must_use]
    pub fn to_parameters(&self, style: CapStyle) -> String {
        let mut out = String::new();
        if !self.mcp {
            return out;
        }
        out.push_str(";+mcp");
        if !self.versions.is_empty() {
            out.push_str(&format!(";+mcp.ver=\"{}\"", self.versions.join(",")));
        }
        let cap: Vec<String> = self.tools.iter().map(ToString::to_string).chain(self.schemas.iter().cloned()).collect();
        if !cap.is_empty() {
            let cap = cap.join(",");
            out.push_str(&match style {
                CapStyle::Draft => format!(";+mcp.cap=\"{cap}\""),
                CapStyle::Rfc3840 => format!(";+mcp.cap=\"<{cap}>\""),
            });
        }
        out
    }

    /// The value of our `Feature-Caps` (RFC 6809): what this server can do, on behalf of all.
    #[must_use]
    pub fn to_feature_caps(&self, style: CapStyle) -> String {
        format!("*{}", self.to_parameters(style))
    }
}

/// The items of a list value, whatever stands around it.
fn items(value: Option<&str>) -> Result<impl Iterator<Item = &str>, HeaderError> {
    let value = value.unwrap_or_default();
    if value.len() > MAX_BYTES {
        return Err(HeaderError::TooLong);
    }
    let inside = value.trim().trim_matches('"').trim().trim_start_matches('<').trim_end_matches('>');
    let items = inside.split(',').map(|item| item.trim().trim_start_matches('<').trim_end_matches('>'));
    let items = items.filter(|item| !item.is_empty());
    if items.clone().count() > MAX_ENTRIES { Err(HeaderError::TooMany) } else { Ok(items) }
}
