//! Why a command ended, for people and for programs: one message that says what to do, one exit code.

use sip_proto::escape::escape;
use sip_proto::message::Message;

/// Exit codes, also in `--help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The tool said that it failed (`isError`).
    ToolFailed = 1,
    /// Wrong arguments, unreadable files, invalid manifests.
    Usage = 2,
    /// A SIP refusal.
    Refused = 3,
    /// Nobody answered, no connection, no trust.
    Unreachable = 4,
    /// A JSON-RPC error.
    Mcp = 5,
}

/// The end of a command.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
    /// SIP status or JSON-RPC code, for `--json`.
    pub code: Option<i64>,
}

impl Failure {
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure { exit: Exit::Usage, message: message.into(), code: None }
    }

    pub fn unreachable(message: impl Into<String>) -> Failure {
        Failure { exit: Exit::Unreachable, message: message.into(), code: None }
    }

    /// A final response other than 2xx.
    pub fn refused(response: &Message, during: &str) -> Failure {
        let status = response.status().unwrap_or(0);
        let phrase = escape(response.reason().unwrap_or_default());
        let warning = response.headers_named("Warning").next().map(|w| format!(" ({})", escape(w))).unwrap_or_default();
        let advice = advice(status, during);
        let advice = if advice.is_empty() { String::new() } else { format!(": {advice}") };
        Failure {
            exit: Exit::Refused,
            message: format!("{status} {phrase}{warning}{advice}"),
            code: Some(status.into()),
        }
    }

    /// A JSON-RPC error.
    pub fn rpc(error: &serde_json::Value) -> Failure {
        let code = error.get("code").and_then(serde_json::Value::as_i64);
        let text = error.get("message").and_then(|m| m.as_str()).unwrap_or("no message");
        let data = error.get("data").map(|d| format!(" {d}")).unwrap_or_default();
        let advice = match code {
            Some(-31001) => ": the answer was lost; data.executed says whether the tool may have run",
            Some(-31002) => ": too much at once; try again after data.retryAfterMs",
            Some(-31003) => ": the tool is visible to you, but this call is not allowed",
            Some(-31004) => ": the edge's store is not available; try again",
            Some(-31006) => ": the answer fits no carrier of this call; use --transport tcp or tls",
            Some(-32021) if data.contains("elicitation") => {
                ": the tool asks its caller; give the answers with --elicit FILE, or run it on a terminal"
            }
            Some(-32022) => ": the agent speaks another version of MCP; try --era legacy or --era modern",
            _ => "",
        };
        let message = escape(format!("{text}{data}").as_bytes()).to_string();
        Failure { exit: Exit::Mcp, message: format!("{} {message}{advice}", code.unwrap_or(0)), code }
    }
}

fn advice(status: u16, during: &str) -> &'static str {
    match status {
        401 | 407 => "the edge does not accept these credentials; give --user and --password, or --cert and --key",
        403 => {
            "you may not do this here; plain transports may be closed to MCP (try --transport tls), or a policy denies it"
        }
        404 => "there is no such agent, or none that you may see; check the address, or authenticate with --user",
        408 => "the agent did not answer in time",
        413 => "the request is too large for this edge",
        415 => "the agent does not take this kind of body",
        420 => "the agent has no MCP; retry with --no-require",
        480 => "the agent is not reachable now; try again later",
        481 => "the call or session is not known any more; call again",
        482 | 483 => "the request went in a circle; check the routes between here and the edge",
        486 | 600 => "the agent is busy; try again later",
        488 if during == "INVITE" => "nothing in the offer is acceptable to the agent; check --tool and --era",
        503 => "the edge takes no new calls now; try again after Retry-After, or another edge with --proxy A,B",
        _ => "",
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}
