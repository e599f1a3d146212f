//! The option tag (draft §5.1, §8.1; NEG-1, NEG-2). None is registered, so `mcp`, `x-mcp` and the organisation's own
//! are all accepted and all listed in `Supported`; in `Require` goes the one that the peer listed.

use crate::headers::is_token;

/// The tag of the draft.
pub const MCP: &str = "mcp";
/// The experimental tag of the draft.
pub const X_MCP: &str = "x-mcp";
/// Organisation tags that one domain may configure.
pub const MAX_CONFIGURED: usize = 8;

/// The option tags that one domain accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionTags {
    tags: Vec<String>,
    unknown_peer: String,
}

/// Why a configured tag was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionTagError {
    /// Not an RFC 3261 token.
    #[error("option tag {0:?} is not a token (RFC 3261 section 25.1)")]
    NotAToken(String),
    /// More than [`MAX_CONFIGURED`].
    #[error("more than {MAX_CONFIGURED} option tags")]
    TooMany,
}

impl Default for OptionTags {
    fn default() -> Self {
        OptionTags { tags: vec![MCP.to_owned(), X_MCP.to_owned()], unknown_peer: X_MCP.to_owned() }
    }
}

impl OptionTags {
    /// `mcp` and `x-mcp`, and the organisation's own tags.
    ///
    /// # Errors
    /// A tag that is no token, or too many.
    pub fn new<S: Into<String>>(configured: impl IntoIterator<Item = S>) -> Result<OptionTags, OptionTagError> {
        let mut all = OptionTags::default();
        for tag in configured {
            let tag = tag.into();
            if !is_token(&tag) {
                return Err(OptionTagError::NotAToken(tag));
            }
            if !all.is_mcp(&tag) {
                all.tags.push(tag);
            }
        }
        if all.tags.len() > 2 + MAX_CONFIGURED {
            return Err(OptionTagError::TooMany);
        }
        Ok(all)
    }

    /// Sets the tag that goes into `Require` towards a peer that listed none; `x-mcp` unless changed (D6).
    ///
    /// # Errors
    /// The tag is no token.
    pub fn with_tag_for_unknown_peer(mut self, tag: &str) -> Result<OptionTags, OptionTagError> {
        if !is_token(tag) {
            return Err(OptionTagError::NotAToken(tag.to_owned()));
        }
        tag.clone_into(&mut self.unknown_peer);
        Ok(self)
    }

    /// What goes into `Supported`, in order.
    pub fn supported(&self) -> impl Iterator<Item = &str> {
        self.tags.iter().map(String::as_str)
    }

    /// Whether this tag means MCP. Option tags are tokens, so case does not matter (RFC 3261 section 7.3.1).
    #[must_use]
    pub fn is_mcp(&self, tag: &str) -> bool {
        self.tags.iter().any(|known| known.eq_ignore_ascii_case(tag.trim()))
    }

    /// The first MCP tag in a list of `Supported`, `Require` or `Proxy-Require`, as the peer wrote it.
    #[must_use]
    pub fn first_in<'a>(&self, values: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
        values.into_iter().map(str::trim).find(|tag| self.is_mcp(tag))
    }

    /// Every MCP tag in a list, as the peer wrote it: what goes into `Unsupported` with a 420 (NEG-2).
    pub fn all_in<'a>(&self, values: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
        values.into_iter().map(str::trim).filter(|tag| self.is_mcp(tag)).collect()
    }

    /// The tag to put into `Require` towards a peer: the one it listed in `Supported`, else the configured default.
    #[must_use]
    pub fn to_require<'a>(&'a self, peer_supported: impl IntoIterator<Item = &'a str>) -> &'a str {
        self.first_in(peer_supported).unwrap_or(&self.unknown_peer)
    }
}
