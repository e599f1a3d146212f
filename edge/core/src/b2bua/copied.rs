//! Which header lines pass from leg to leg: all that are not of one hop or one dialog (NEG-13), but nothing that says who somebody is.

use sip_proto::header::NameAddr;
use sip_proto::message::{HeaderId, HeaderLine, Message};

use crate::state::EdgeState;

/// The methods that pass, as `Allow` lists them on both legs.
pub(super) const ALLOW: &str = "INVITE, ACK, BYE, CANCEL, OPTIONS, MESSAGE, INFO, UPDATE";

/// Extensions that hold in one dialog or on one hop, and that we do not carry over.
const NOT_PASSED: [&str; 10] = [
    "100rel",
    "replaces",
    "norefersub",
    "tdialog",
    "outbound",
    "path",
    "gruu",
    "precondition",
    "timer",
    "resource-priority",
];

fn passes(id: HeaderId) -> bool {
    use HeaderId as H;
    !matches!(
        id,
        H::Via
            | H::From
            | H::To
            | H::CallId
            | H::CSeq
            | H::MaxForwards
            | H::Contact
            | H::Route
            | H::RecordRoute
            | H::Path
            | H::ServiceRoute
            | H::ContentType
            | H::ContentLength
            | H::Require
            | H::ProxyRequire
            | H::Supported
            | H::Allow
            | H::AllowEvents
            | H::Authorization
            | H::WwwAuthenticate
            | H::ProxyAuthorization
            | H::ProxyAuthenticate
            | H::AuthenticationInfo
            | H::Timestamp
            | H::SessionExpires
            | H::MinSe
            | H::RSeq
            | H::RAck
            | H::Replaces
            | H::TargetDialog
            | H::SessionId
            | H::PAssertedIdentity
            | H::PPreferredIdentity
            | H::FlowTimer
    )
}

/// What describes a body, and goes with it.
fn is_of_body(id: HeaderId) -> bool {
    matches!(
        id,
        HeaderId::ContentDisposition
            | HeaderId::ContentEncoding
            | HeaderId::ContentLanguage
            | HeaderId::ContentId
            | HeaderId::MimeVersion
    )
}

fn is_of_mcp(id: HeaderId) -> bool {
    matches!(id, HeaderId::McpCapabilities | HeaderId::McpSelect | HeaderId::McpExchange)
}

/// The lines that pass.
pub(super) fn lines(message: &Message, with_body: bool, with_mcp: bool) -> impl Iterator<Item = HeaderLine<'_>> {
    message
        .header_lines()
        .filter(move |line| passes(line.id) && (with_body || !is_of_body(line.id)) && (with_mcp || !is_of_mcp(line.id)))
}

impl EdgeState {
    /// The option tags of a list that pass; `mcp`: those of MCP, too.
    pub(super) fn passed_tags(&self, domain: &str, message: &Message, id: HeaderId, mcp: bool) -> Vec<String> {
        let tags = self.config.domains.get(domain).map(|domain| crate::negotiate::option_tags(domain));
        let passed = |tag: &&str| {
            let of_mcp = tags.as_ref().is_some_and(|tags| tags.is_mcp(tag));
            (!of_mcp || mcp) && !NOT_PASSED.iter().any(|known| known.eq_ignore_ascii_case(tag))
        };
        message.list_values(id).filter(passed).map(str::to_owned).collect()
    }

    /// `Session-ID` from one leg on the other (RFC 7989 §7: a B2BUA passes the UUIDs of both ends). Who sent none gets one, made from its
    /// Call-ID.
    pub(super) fn passed_session_id(&self, from: Option<&str>, from_call_id: &str, to: Option<&str>) -> String {
        match from {
            Some(uuid) => format!("{uuid};remote={}", to.unwrap_or("00000000000000000000000000000000")),
            None => self.session_id(from_call_id, to),
        }
    }
}

/// A party's name for display and its URI, with our tag: From or To of a request of ours.
pub(super) fn party(of: &NameAddr<'_>, uri: &str, tag: Option<&str>) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(display) = of.display_raw() {
        out.extend_from_slice(display);
        out.push(b' ');
    }
    out.extend_from_slice(format!("<{uri}>").as_bytes());
    if let Some(tag) = tag {
        out.extend_from_slice(format!(";tag={tag}").as_bytes());
    }
    out
}
