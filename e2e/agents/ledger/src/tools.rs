//! The tools. Each execution is a line in the ledger before anything else happens.

use std::time::Duration;

use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{
    CallToolResult, ContentBlock, Implementation, ProgressNotificationParam, ServerCapabilities, ServerConfig,
};
use rmcp::service::RequestContext;
use rmcp::{RoleServer, ServerHandler, tool, tool_handler, tool_router};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::ledger::{Event, Ledger};

const MAX_ID: usize = 128;
const MAX_SECONDS: f64 = 600.0;
const MAX_STEPS: u32 = 1000;

#[derive(Debug, Deserialize, JsonSchema)]
struct CallArguments {
    /// Names this call in the ledger, 1 to 128 bytes.
    id: String,
    /// How long to wait between the line in the ledger and the answer, 0 to 600 seconds.
    #[serde(default)]
    seconds: f64,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct SlowArguments {
    /// Names this call in the ledger, 1 to 128 bytes.
    id: String,
    /// How long to run, 0 to 600 seconds.
    seconds: f64,
    /// Into how many parts to cut that time, 1 to 1000; each but the last ends with a progress notification.
    #[serde(default = "four")]
    steps: u32,
}

fn four() -> u32 {
    4
}

/// One per legacy session, and one per modern request.
#[derive(Clone)]
pub(crate) struct LedgerAgent {
    ledger: Ledger,
}

fn text(text: impl Into<String>) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text(text)])
}

fn tool_error(text: impl Into<String>) -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text(text)])
}

fn bad(id: &str, seconds: f64) -> Option<CallToolResult> {
    let fits = (1..=MAX_ID).contains(&id.len()) && (0.0..=MAX_SECONDS).contains(&seconds);
    (!fits).then(|| tool_error("id must have 1 to 128 bytes, seconds must be 0 to 600"))
}

#[tool_router]
impl LedgerAgent {
    pub(crate) fn new(ledger: Ledger) -> Self {
        Self { ledger }
    }

    /// Writes a start, waits in equal steps, writes an end or that it was cancelled.
    async fn run(
        &self,
        tool: &'static str,
        id: &str,
        seconds: f64,
        steps: u32,
        context: &RequestContext<RoleServer>,
    ) -> CallToolResult {
        if let Err(error) = self.ledger.note(tool, id, Event::Start).await {
            return tool_error(format!("the ledger cannot be written: {error}"));
        }
        let step = Duration::from_secs_f64(seconds / f64::from(steps));
        for done in 1..=steps {
            tokio::select! {
                () = tokio::time::sleep(step) => {}
                () = context.ct.cancelled() => {
                    let _ = self.ledger.note(tool, id, Event::Cancelled).await;
                    return tool_error("cancelled");
                }
            }
            if let Some(token) = context.meta.get_progress_token().filter(|_| done < steps) {
                let progress = ProgressNotificationParam::new(token, f64::from(done)).with_total(f64::from(steps));
                // A client that has gone is noticed by `ct`.
                let _ = context.peer.notify_progress(progress).await;
            }
        }
        match self.ledger.note(tool, id, Event::End).await {
            Ok(()) => text(format!("{tool} {id}")),
            Err(error) => tool_error(format!("the ledger cannot be written: {error}")),
        }
    }

    /// Pays once. Not safe to repeat: a second call with the same id pays again, and the ledger shows it.
    #[tool(annotations(
        read_only_hint = false,
        destructive_hint = true,
        idempotent_hint = false,
        open_world_hint = true
    ))]
    async fn pay(
        &self,
        Parameters(CallArguments { id, seconds }): Parameters<CallArguments>,
        context: RequestContext<RoleServer>,
    ) -> CallToolResult {
        match bad(&id, seconds) {
            Some(error) => error,
            None => self.run("pay", &id, seconds, 1, &context).await,
        }
    }

    /// Runs for so many seconds, and reports progress when the call has a progress token. Not safe to repeat.
    #[tool(annotations(read_only_hint = false, destructive_hint = true, idempotent_hint = false))]
    async fn slow(
        &self,
        Parameters(SlowArguments { id, seconds, steps }): Parameters<SlowArguments>,
        context: RequestContext<RoleServer>,
    ) -> CallToolResult {
        if !(1..=MAX_STEPS).contains(&steps) {
            return tool_error("steps must be 1 to 1000");
        }
        match bad(&id, seconds) {
            Some(error) => error,
            None => self.run("slow", &id, seconds, steps, &context).await,
        }
    }

    /// Looks something up: safe to repeat. It is counted all the same.
    #[tool(annotations(read_only_hint = true, idempotent_hint = true))]
    async fn lookup(
        &self,
        Parameters(CallArguments { id, seconds }): Parameters<CallArguments>,
        context: RequestContext<RoleServer>,
    ) -> CallToolResult {
        match bad(&id, seconds) {
            Some(error) => error,
            None => self.run("lookup", &id, seconds, 1, &context).await,
        }
    }
}

#[tool_handler]
impl ServerHandler for LedgerAgent {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("ledger-agent", env!("CARGO_PKG_VERSION")))
    }
}
