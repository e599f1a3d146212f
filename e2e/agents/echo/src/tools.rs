//! The tools. Every one counts its runs before it does anything else.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rmcp::handler::server::tool::{InputResponses, RequestState};
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{
    CallToolResponse, CallToolResult, ContentBlock, ErrorData, Implementation, LoggingLevel,
    LoggingMessageNotificationParam, ProgressNotificationParam, ServerCapabilities, ServerConfig,
    SetLevelRequestParams,
};
use rmcp::service::RequestContext;
use rmcp::{RoleServer, ServerHandler, tool, tool_handler, tool_router};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::counters::Counters;
use crate::input::{Asked, Question, is_modern};

/// `big` answers with at most this many bytes of text.
pub(crate) const MAX_BIG_BYTES: usize = 32 * 1024 * 1024;
const MAX_SLEEP_SECONDS: f64 = 600.0;
const MAX_SLEEP_STEPS: u32 = 1000;

#[derive(Debug, Deserialize, JsonSchema)]
struct EchoArguments {
    /// What to say back.
    text: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct AddArguments {
    a: f64,
    b: f64,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct SleepArguments {
    /// How long to run, 0 to 600 seconds.
    seconds: f64,
    /// Into how many parts to cut that time, 1 to 1000; each but the last ends with a progress notification.
    #[serde(default = "one")]
    steps: u32,
}

fn one() -> u32 {
    1
}

#[derive(Debug, Deserialize, JsonSchema)]
struct FailArguments {
    /// What the error says.
    #[serde(default = "failed")]
    message: String,
}

fn failed() -> String {
    "failed as asked".to_owned()
}

#[derive(Debug, Deserialize, JsonSchema)]
struct BigArguments {
    /// Length of the text in the answer, at most 32 MiB.
    bytes: usize,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct LogArguments {
    text: String,
    /// debug, info, notice, warning, error, critical, alert or emergency.
    #[serde(default = "info")]
    level: String,
}

fn info() -> String {
    "info".to_owned()
}

/// One per legacy session, and one per modern request.
#[derive(Clone)]
pub(crate) struct EchoAgent {
    counters: Arc<Counters>,
    /// What `logging/setLevel` set for this legacy session.
    level: Arc<Mutex<LoggingLevel>>,
}

impl EchoAgent {
    pub(crate) fn new(counters: Arc<Counters>) -> Self {
        Self { counters, level: Arc::new(Mutex::new(LoggingLevel::Debug)) }
    }

    /// The least severe level that this request's client wants, or none at all (modern without `logLevel`).
    fn wanted_level(&self, context: &RequestContext<RoleServer>) -> Option<LoggingLevel> {
        if is_modern(context) {
            return context.meta.log_level();
        }
        Some(*self.level.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn text(text: impl Into<String>) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text(text)])
}

fn tool_error(text: impl Into<String>) -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text(text)])
}

#[tool_router]
impl EchoAgent {
    /// Says the text back.
    #[tool(annotations(read_only_hint = true))]
    fn echo(&self, Parameters(EchoArguments { text }): Parameters<EchoArguments>) -> String {
        self.counters.begin("echo");
        text
    }

    /// Adds two numbers.
    #[tool(annotations(read_only_hint = true))]
    fn add(&self, Parameters(AddArguments { a, b }): Parameters<AddArguments>) -> String {
        self.counters.begin("add");
        (a + b).to_string()
    }

    /// Sleeps, and reports progress when the call has a progress token. Ends early when it is cancelled.
    #[tool]
    async fn sleep(
        &self,
        Parameters(SleepArguments { seconds, steps }): Parameters<SleepArguments>,
        context: RequestContext<RoleServer>,
    ) -> CallToolResult {
        self.counters.begin("sleep");
        if !(0.0..=MAX_SLEEP_SECONDS).contains(&seconds) || !(1..=MAX_SLEEP_STEPS).contains(&steps) {
            return tool_error("seconds must be 0 to 600, steps 1 to 1000");
        }
        let step = Duration::from_secs_f64(seconds / f64::from(steps));
        for done in 1..=steps {
            tokio::select! {
                () = tokio::time::sleep(step) => {}
                () = context.ct.cancelled() => {
                    self.counters.cancel("sleep");
                    return tool_error("cancelled");
                }
            }
            if let Some(token) = context.meta.get_progress_token().filter(|_| done < steps) {
                let progress = ProgressNotificationParam::new(token, f64::from(done))
                    .with_total(f64::from(steps))
                    .with_message(format!("step {done} of {steps}"));
                // A client that has gone is noticed by `ct`; the sleep itself needs no listener.
                let _ = context.peer.notify_progress(progress).await;
            }
        }
        text(format!("slept {seconds} s in {steps} steps"))
    }

    /// Asks the caller for a name and a colour, and greets.
    #[tool]
    async fn elicit(
        &self,
        RequestState(state): RequestState,
        InputResponses(responses): InputResponses,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        self.counters.begin("elicit");
        Ok(match Question::Form.ask(&context, state, responses).await? {
            Asked::Ask(required) => required.into(),
            Asked::CannotAnswer => tool_error("the client did not declare elicitation").into(),
            Asked::Failed(why) => tool_error(format!("elicitation failed: {why}")).into(),
            Asked::Answer(answer) => match answer["action"].as_str() {
                Some("accept") => {
                    let name = answer["content"]["name"].as_str().unwrap_or("nobody");
                    let colour = answer["content"]["colour"].as_str().unwrap_or("no");
                    text(format!("hello {name}, {colour} colour")).into()
                }
                Some(action) => text(format!("the caller chose to {action}")).into(),
                None => tool_error("the answer has no action").into(),
            },
        })
    }

    /// Asks the caller for its roots and lists them.
    #[tool]
    async fn roots(
        &self,
        RequestState(state): RequestState,
        InputResponses(responses): InputResponses,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        self.counters.begin("roots");
        Ok(match Question::Roots.ask(&context, state, responses).await? {
            Asked::Ask(required) => required.into(),
            Asked::CannotAnswer => tool_error("the client did not declare roots").into(),
            Asked::Failed(why) => tool_error(format!("roots/list failed: {why}")).into(),
            Asked::Answer(answer) => {
                let roots = answer["roots"].as_array().map(Vec::as_slice).unwrap_or_default();
                let uris: Vec<&str> = roots.iter().filter_map(|root| root["uri"].as_str()).collect();
                text(format!("{} roots: {}", uris.len(), uris.join(" "))).into()
            }
        })
    }

    /// Fails: a result with `isError`, not a protocol error.
    #[tool]
    fn fail(&self, Parameters(FailArguments { message }): Parameters<FailArguments>) -> CallToolResult {
        self.counters.begin("fail");
        tool_error(message)
    }

    /// Answers with a text of the asked length.
    #[tool(annotations(read_only_hint = true))]
    fn big(&self, Parameters(BigArguments { bytes }): Parameters<BigArguments>) -> CallToolResult {
        self.counters.begin("big");
        if bytes > MAX_BIG_BYTES {
            return tool_error(format!("at most {MAX_BIG_BYTES} bytes"));
        }
        text("x".repeat(bytes))
    }

    /// Sends a log message before it answers, if the client wants messages of that level. In a legacy session it goes
    /// to the GET stream (that is rmcp's choice), in the modern era to the stream of this call.
    #[tool]
    async fn log(
        &self,
        Parameters(LogArguments { text: message, level }): Parameters<LogArguments>,
        context: RequestContext<RoleServer>,
    ) -> CallToolResult {
        self.counters.begin("log");
        let Ok(level) = serde_json::from_value::<LoggingLevel>(serde_json::Value::String(level)) else {
            return tool_error("no such level");
        };
        // `LoggingLevel` has no order of its own; its discriminants rise with severity.
        let wanted = self.wanted_level(&context).is_some_and(|least| level as u8 >= least as u8);
        if wanted {
            let message = LoggingMessageNotificationParam::new(level, serde_json::Value::String(message))
                .with_logger("echo-agent");
            if let Err(error) = context.peer.notify_logging_message(message).await {
                return tool_error(error.to_string());
            }
        }
        text(if wanted { "sent" } else { "not wanted" })
    }

    /// Counts its own runs over all sessions: the answer is the number of this run. Not safe to repeat.
    #[tool(annotations(destructive_hint = false, idempotent_hint = false))]
    fn count(&self) -> String {
        self.counters.begin("count").to_string()
    }

    /// How often each tool began to run, and how often it was cancelled, over all sessions. Does not count itself.
    #[tool(annotations(read_only_hint = true))]
    fn executions(&self) -> String {
        self.counters.report().to_string()
    }
}

#[tool_handler]
impl ServerHandler for EchoAgent {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_logging().enable_tools().build())
            .with_server_info(Implementation::new("echo-agent", env!("CARGO_PKG_VERSION")))
            .with_instructions(Cow::from("Tools for trying a path to an agent: echo, add, sleep, elicit, roots."))
    }

    async fn set_level(
        &self,
        request: SetLevelRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        *self.level.lock().unwrap_or_else(PoisonError::into_inner) = request.level;
        Ok(())
    }
}
