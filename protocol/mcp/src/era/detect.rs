//! The table of 5.1: which era a relation has, and whether a request fits it.

use super::{Era, LEGACY};
use crate::errors::RpcError;
use crate::jsonrpc::{Envelope, Kind, META_CLIENT_CAPABILITIES, META_PROTOCOL_VERSION};

/// What session establishment said about versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Established<'a> {
    /// An envelope was offered and answered (draft §6 form b).
    pub envelope: bool,
    /// The one MCP version that the answer named; `None` for a draft peer.
    pub version: Option<&'a str>,
}

/// The era of one relation, and the versions that its server side serves.
///
/// The leg has the backend's era: a request of another era gets -32022 with what is served, an `initialize` an error
/// of its own (design 5.1, 5.8). A refused request decides nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationEra {
    served: Vec<String>,
    envelope: bool,
    decided: Option<Era>,
    version: Option<String>,
}

/// How a request presents itself.
enum Form {
    Initialize,
    Modern,
    Plain,
}

fn form(request: &Envelope) -> Form {
    match request.method() {
        Some("initialize") => Form::Initialize,
        Some("server/discover") => Form::Modern,
        _ if request.meta_protocol_version().is_some() => Form::Modern,
        _ => Form::Plain,
    }
}

impl RelationEra {
    /// A relation of which nothing is known but what was established. `served`: the versions, in order of preference.
    #[must_use]
    pub fn new(served: &[String], established: Established<'_>) -> RelationEra {
        let decided = established.version.and_then(Era::of_version);
        RelationEra {
            served: served.to_vec(),
            envelope: established.envelope,
            decided,
            version: decided.and(established.version).map(str::to_owned),
        }
    }

    /// A relation whose era was decided before, from its record.
    #[must_use]
    pub fn restored(served: &[String], envelope: bool, era: Option<Era>, version: Option<&str>) -> RelationEra {
        RelationEra { served: served.to_vec(), envelope, decided: era, version: version.map(str::to_owned) }
    }

    /// The era, once it is decided.
    #[must_use]
    pub fn era(&self) -> Option<Era> {
        self.decided
    }

    /// The version, once it is known: the negotiated one, the modern request's, what `initialize` agreed on.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Notes the version of an `initialize` result.
    pub fn agreed(&mut self, version: &str) {
        if self.decided == Some(Era::Legacy) {
            self.version = Some(version.to_owned());
        }
    }

    /// Judges a message of the relation's client. A request decides the era if nothing did before; a notification or
    /// a response decides nothing and is never refused here. Gives the era of the message, `None` while undecided.
    ///
    /// # Errors
    /// -32602 with the missing member, -32022 with what is served; on `initialize` -32602 with what is served.
    pub fn admit(&mut self, message: &Envelope) -> Result<Option<Era>, RpcError> {
        if message.kind() != Kind::Request {
            return Ok(self.decided);
        }
        let era = match (form(message), self.decided) {
            (Form::Initialize, Some(Era::Modern)) => return Err(self.refusal(Era::Legacy, message)),
            (Form::Initialize, _) => Era::Legacy,
            (Form::Modern, Some(Era::Legacy)) => return Err(self.refusal(Era::Modern, message)),
            (Form::Modern, _) => Era::Modern,
            (Form::Plain, Some(era)) => era,
            // The envelope stands for `initialize`: role, tools and schemas were agreed on.
            (Form::Plain, None) if self.envelope => Era::Legacy,
            (Form::Plain, None) => return Err(missing(META_PROTOCOL_VERSION)),
        };
        match era {
            Era::Legacy => self.check_legacy(message)?,
            Era::Modern => self.check_modern(message)?,
        }
        if self.decided.is_none() {
            self.decided = Some(era);
            if self.version.is_none() {
                self.version = match (era, form(message)) {
                    (Era::Modern, _) => message.meta_protocol_version().map(std::borrow::Cow::into_owned),
                    (Era::Legacy, Form::Plain) => Some(LEGACY[0].to_owned()),
                    (Era::Legacy, _) => None,
                };
            }
        }
        Ok(Some(era))
    }

    /// Every modern request carries its version and the client's capabilities (MCP 2026-07-28).
    fn check_modern(&self, request: &Envelope) -> Result<(), RpcError> {
        let version = request.meta_protocol_version().ok_or_else(|| missing(META_PROTOCOL_VERSION))?;
        let served = self.served.iter().any(|served| *served == version);
        if !served || Era::of_version(&version) != Some(Era::Modern) {
            return Err(self.refusal(Era::Modern, request));
        }
        if request.meta_client_capabilities().is_none() {
            return Err(missing(META_CLIENT_CAPABILITIES));
        }
        Ok(())
    }

    /// Which version an `initialize` ends with is between client and server; only a server without the era is ours.
    fn check_legacy(&self, request: &Envelope) -> Result<(), RpcError> {
        if !self.served.iter().any(|version| Era::of_version(version) == Some(Era::Legacy)) {
            return Err(self.refusal(Era::Legacy, request));
        }
        if request.is_initialize() && request.initialize_version().is_none() {
            return Err(RpcError::missing_member("params.protocolVersion"));
        }
        Ok(())
    }

    /// `data.supported`: what this relation serves, or what it has settled on.
    fn refusal(&self, asked: Era, request: &Envelope) -> RpcError {
        let fits = |version: &&str| self.decided.is_none_or(|era| Era::of_version(version) == Some(era));
        let supported: Vec<&str> = self.served.iter().map(String::as_str).filter(fits).collect();
        let requested = match asked {
            Era::Modern => request.meta_protocol_version(),
            Era::Legacy => request.initialize_version(),
        };
        // A request that came without a version in a leg of the other era is no `initialize`: -32022 says it best.
        let era = if request.is_initialize() { Era::Legacy } else { Era::Modern };
        RpcError::unsupported_version(era, requested.as_deref(), &supported)
    }
}

fn missing(key: &str) -> RpcError {
    RpcError::missing_member(&format!("params._meta[\"{key}\"]"))
}
