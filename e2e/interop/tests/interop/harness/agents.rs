//! Real MCP servers.

use std::process::Command;

use super::place;
use super::process::Program;

pub const BOTH: &str = "\"2026-07-28\", \"2025-11-25\"";
pub const MODERN: &str = "\"2026-07-28\"";
pub const LEGACY: &str = "\"2025-11-25\"";

/// A server that listens, until it is dropped.
pub struct Agent {
    _program: Program,
    pub url: String,
}

/// Our agent on rmcp: both eras.
#[track_caller]
pub fn echo() -> Agent {
    echo_at(0)
}

/// The same on a port.
#[track_caller]
pub fn echo_at(port: u16) -> Agent {
    let mut command = Command::new(place::program("echo-agent"));
    command.args(["--listen", &format!("127.0.0.1:{port}")]);
    announced("echo-agent", &command)
}

/// `@modelcontextprotocol/server-everything`: legacy.
#[track_caller]
pub fn everything() -> Option<Agent> {
    let node = place::peer("node")?;
    let script = place::cache()
        .join("server-everything-2026.8.31/node_modules/@modelcontextprotocol/server-everything/dist/index.js");
    if !script.is_file() {
        place::skip("server-everything");
        return None;
    }
    let port = place::wildcard_port().to_string();
    let mut command = Command::new(node);
    command.arg(script).arg("streamableHttp").env("PORT", &port);
    let mut program = Program::start("everything", &command);
    program.line("its port", |line| line.contains(&format!("listening on port {port}")));
    Some(Agent { _program: program, url: format!("http://127.0.0.1:{port}/mcp") })
}

/// A server on PyPI `mcp` 2.3.0: modern.
#[track_caller]
pub fn modern() -> Option<Agent> {
    let python = place::cache().join("modern-py/bin/python");
    if !python.is_file() {
        place::skip("PyPI mcp");
        return None;
    }
    let mut command = Command::new(python);
    command.arg(place::root().join("e2e/agents/modern-py/server.py")).args(["--port", "0"]);
    Some(announced("modern-py", &command))
}

pub fn announced(name: &str, command: &Command) -> Agent {
    let mut program = Program::start(name, command);
    let line = program.line("where it listens", |line| line.starts_with("listening on http"));
    Agent { url: line.trim_start_matches("listening on ").trim().to_owned(), _program: program }
}
