//! What the agent asks of its client. A legacy client is asked by a request of the server's own; a modern one by
//! `input_required`, and it calls again with the answers (MRTR, SEP-2322).

use rmcp::model::{
    ClientCapabilities, ElicitRequest, ElicitRequestParams, ElicitationSchema, ErrorData, InputRequest, InputRequests,
    InputRequiredResult, InputResponses, ListRootsRequest, ProtocolVersion,
};
use rmcp::service::RequestContext;
use rmcp::{Peer, RoleServer};
use serde_json::Value;

/// The key of the one request inside `inputRequests`.
const KEY: &str = "answer";

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// `elicitation/create` in form mode: a name, and optionally a colour.
    Form,
    /// `roots/list`.
    Roots,
}

/// What came of asking.
pub(crate) enum Asked {
    /// The client's result, as it sent it.
    Answer(Value),
    /// To be returned to a modern client, which then calls again.
    Ask(InputRequiredResult),
    /// The client did not say that it can answer this (legacy only; a modern one gets -32021).
    CannotAnswer,
    /// The client answered with an error, or its answer cannot be read.
    Failed(String),
}

/// Whether the request came in the modern era (2026-07-28 or newer; versions are dates, so they compare as text).
pub(crate) fn is_modern(context: &RequestContext<RoleServer>) -> bool {
    context.protocol_version().is_some_and(|version| version.as_str() >= ProtocolVersion::V_2026_07_28.as_str())
}

impl Question {
    /// What we put into `requestState`: opaque to the client, and refused when it comes back changed.
    fn state(self) -> &'static str {
        match self {
            Question::Form => "echo-agent/form/1",
            Question::Roots => "echo-agent/roots/1",
        }
    }

    fn capability(self) -> ClientCapabilities {
        match self {
            Question::Form => ClientCapabilities::builder().enable_elicitation().build(),
            Question::Roots => ClientCapabilities::builder().enable_roots().build(),
        }
    }

    fn declared(self, capabilities: &ClientCapabilities) -> bool {
        match self {
            Question::Form => capabilities.elicitation.is_some(),
            Question::Roots => capabilities.roots.is_some(),
        }
    }

    fn request(self) -> Result<InputRequest, ErrorData> {
        Ok(match self {
            Question::Form => InputRequest::Elicitation(ElicitRequest::new(form()?)),
            Question::Roots => InputRequest::ListRoots(ListRootsRequest::default()),
        })
    }

    async fn ask_legacy(self, peer: &Peer<RoleServer>) -> Result<Value, String> {
        let result = match self {
            Question::Form => {
                let form = form().map_err(|error| error.to_string())?;
                peer.create_elicitation(form).await.map(serde_json::to_value)
            }
            Question::Roots => peer.list_roots().await.map(serde_json::to_value),
        };
        result.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    /// Asks the client in the way of its era.
    ///
    /// # Errors
    /// -32021 when a modern client did not declare the capability; -32602 when its retry does not fit the question.
    pub(crate) async fn ask(
        self,
        context: &RequestContext<RoleServer>,
        state: Option<String>,
        responses: Option<InputResponses>,
    ) -> Result<Asked, ErrorData> {
        let declared = context.client_capabilities().is_some_and(|capabilities| self.declared(&capabilities));
        if !is_modern(context) {
            if !declared {
                return Ok(Asked::CannotAnswer);
            }
            return Ok(self.ask_legacy(&context.peer).await.map_or_else(Asked::Failed, Asked::Answer));
        }
        if !declared {
            return Err(ErrorData::missing_required_client_capability(self.capability()));
        }
        match (state, responses) {
            (None, None) => {
                let requests = InputRequests::from([(KEY.to_owned(), self.request()?)]);
                Ok(Asked::Ask(InputRequiredResult::new(Some(requests), Some(self.state().to_owned()))))
            }
            (Some(state), Some(mut responses)) if state == self.state() => match responses.remove(KEY) {
                Some(answer) => Ok(Asked::Answer(answer)),
                None => Err(ErrorData::invalid_params(format!("inputResponses has no `{KEY}`"), None)),
            },
            _ => Err(ErrorData::invalid_params("requestState and inputResponses do not belong to this call", None)),
        }
    }
}

/// The form: `name` is needed, `colour` is one of three.
fn form() -> Result<ElicitRequestParams, ErrorData> {
    let schema: ElicitationSchema = serde_json::from_value(serde_json::json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "title": "Name", "minLength": 1, "maxLength": 64 },
            "colour": { "type": "string", "title": "Colour", "enum": ["red", "green", "blue"] }
        },
        "required": ["name"]
    }))
    .map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
    Ok(ElicitRequestParams::FormElicitationParams {
        meta: None,
        message: "Who is calling?".to_owned(),
        requested_schema: schema,
    })
}
