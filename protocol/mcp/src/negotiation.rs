//! Offer and answer over tools, schemas and versions (NEG-3, NEG-8): what is answered is what is declared, permitted and
//! offered. Nothing of all three: 488.

use crate::envelope::{Negotiation, Role, Step};
use crate::headers::{Capabilities, Select, ToolRef};

/// What this address has for this caller: the declaration, reduced to what policy shows.
#[derive(Clone, Copy, Debug)]
pub struct Permitted<'a> {
    /// The tools.
    pub tools: Tools<'a>,
    /// The schemas.
    pub schemas: &'a [String],
    /// The MCP versions served, in order of preference.
    pub versions: &'a [&'a str],
}

/// Which tools there are.
#[derive(Clone, Copy)]
pub enum Tools<'a> {
    /// These, and no others.
    Listed(&'a [ToolRef]),
    /// Not known beforehand (`source: Discovered`): each one that this function lets through.
    Unlisted(&'a dyn Fn(&str) -> bool),
}

impl std::fmt::Debug for Tools<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Tools::Listed(tools) => f.debug_tuple("Listed").field(tools).finish(),
            Tools::Unlisted(_) => f.write_str("Unlisted"),
        }
    }
}

/// The offer and what we have do not meet: 488.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NothingInCommon {
    /// No version.
    #[error("no MCP version in common")]
    Versions,
    /// No tool, and no schema.
    #[error("no tool and no schema in common")]
    Capabilities,
}

/// A header field says something that the body does not (SEC-12): refused, not repaired.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the header field names {0}, the envelope does not")]
pub struct Contradiction(pub String);

/// The answer to an offer. An offer that lists no tools and no schemas asks for everything; one that lists some gets
/// those of them that there are (a reduced set, NEG-3). One version is answered where the offer lists versions.
///
/// # Errors
/// Nothing in common.
pub fn answer(offer: &Negotiation, permitted: &Permitted<'_>) -> Result<Negotiation, NothingInCommon> {
    let mut answer = Negotiation::new(Step::Answer, offer.conversation.clone(), offer.role.other());
    if !offer.versions.is_empty() {
        let version = permitted.versions.iter().find(|ours| offer.versions.iter().any(|theirs| theirs == *ours));
        answer.versions = vec![(*version.ok_or(NothingInCommon::Versions)?).to_owned()];
    }
    let wants_all = offer.tools.is_empty() && offer.schemas.is_empty();
    if wants_all {
        answer.tools = match permitted.tools {
            Tools::Listed(tools) => tools.to_vec(),
            Tools::Unlisted(_) => Vec::new(),
        };
        answer.schemas = permitted.schemas.to_vec();
        return Ok(answer);
    }
    answer.tools = common_tools(&offer.tools, permitted.tools);
    answer.schemas = offer.schemas.iter().filter(|schema| permitted.schemas.contains(schema)).cloned().collect();
    if answer.tools.is_empty() && answer.schemas.is_empty() {
        return Err(NothingInCommon::Capabilities);
    }
    Ok(answer)
}

fn common_tools(wanted: &[ToolRef], there: Tools<'_>) -> Vec<ToolRef> {
    let fits = |tool: &&ToolRef| match there {
        Tools::Listed(tools) => tools.iter().any(|ours| tool.fits(ours)),
        Tools::Unlisted(permits) => permits(&tool.name),
    };
    wanted.iter().filter(fits).cloned().collect()
}

/// Narrows what is active by `MCP-Select`, in INVITE or in the middle of a dialog (NEG-8). A selection without tools
/// leaves the set as it is.
///
/// # Errors
/// None of the selected tools is there.
pub fn select(active: Tools<'_>, select: &Select) -> Result<Option<Vec<ToolRef>>, NothingInCommon> {
    let Some(wanted) = &select.tools else { return Ok(None) };
    let chosen = common_tools(wanted, active);
    if chosen.is_empty() { Err(NothingInCommon::Capabilities) } else { Ok(Some(chosen)) }
}

/// What both sides agreed on, as the offerer reads it from the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The tools; empty where the answer restricts nothing.
    pub tools: Vec<ToolRef>,
    /// The schemas.
    pub schemas: Vec<String>,
    /// The MCP version, if the peer names one.
    pub version: Option<String>,
}

/// Why an answer does not answer the offer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    /// An offer.
    #[error("an offer, where an answer belongs")]
    NotAnAnswer,
    /// Another conversation.
    #[error("the answer is for another conversation")]
    Conversation,
    /// The role of the offerer.
    #[error("the answer claims the role of the offerer")]
    Role,
    /// A tool or schema that was not offered.
    #[error("{0} was not offered")]
    NotOffered(String),
    /// Not exactly one of the offered versions.
    #[error("the answer must name one of the offered versions")]
    Versions,
}

/// Checks an answer against the offer.
///
/// # Errors
/// What does not fit.
pub fn agree(offer: &Negotiation, answer: &Negotiation) -> Result<Agreed, BadAnswer> {
    if answer.step != Step::Answer {
        return Err(BadAnswer::NotAnAnswer);
    }
    if answer.conversation != offer.conversation {
        return Err(BadAnswer::Conversation);
    }
    if answer.role == offer.role {
        return Err(BadAnswer::Role);
    }
    let open = offer.tools.is_empty() && offer.schemas.is_empty();
    if !open {
        let tool = answer.tools.iter().find(|tool| !offer.tools.iter().any(|offered| offered.fits(tool)));
        if let Some(tool) = tool {
            return Err(BadAnswer::NotOffered(tool.to_string()));
        }
        if let Some(schema) = answer.schemas.iter().find(|schema| !offer.schemas.contains(schema)) {
            return Err(BadAnswer::NotOffered(schema.clone()));
        }
    }
    let version = match answer.versions.as_slice() {
        [] => None,
        [version] if offer.versions.contains(version) => Some(version.clone()),
        _ => return Err(BadAnswer::Versions),
    };
    Ok(Agreed { tools: answer.tools.clone(), schemas: answer.schemas.clone(), version })
}

/// Compares `MCP-Capabilities` with the envelope of the same message. The header may say less (SEC-11), never more or
/// other: each tool, schema and version that it names must be in the body, where the body lists any.
///
/// # Errors
/// What only the header says.
pub fn check_header(header: &Capabilities, body: &Negotiation) -> Result<(), Contradiction> {
    let open = body.tools.is_empty() && body.schemas.is_empty();
    let tool = header.tools().find(|tool| !open && !body.tools.iter().any(|there| there.fits(tool)));
    if let Some(tool) = tool {
        return Err(Contradiction(tool.to_string()));
    }
    let schema = header.schemas().find(|schema| !open && !body.schemas.iter().any(|there| there == schema));
    if let Some(schema) = schema {
        return Err(Contradiction(schema.to_owned()));
    }
    let listed = !body.versions.is_empty();
    if let Some(version) = header.versions().find(|version| listed && !body.versions.iter().any(|v| v == version)) {
        return Err(Contradiction(version.to_owned()));
    }
    Ok(())
}

/// The role of the side that sent the INVITE of the dialog, and of the one that got it.
#[must_use]
pub fn role_of(inviter: bool) -> Role {
    if inviter { Role::Caller } else { Role::Callee }
}
