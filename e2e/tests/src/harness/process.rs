//! Programs that are run to their end: helm, kubectl, sipmcp.

use std::ffi::OsString;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use crate::Fallible;
use crate::harness::cluster::World;

/// How a program ended.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The command as a person would type it.
    pub line: String,
    /// -1: by a signal.
    pub code: i32,
    pub out: String,
    pub err: String,
    pub took: Duration,
}

impl Ran {
    /// What it printed, where exit code 0 says that it worked.
    ///
    /// # Errors
    /// The command, its code and what it said.
    pub fn ok(self) -> Fallible<Ran> {
        if self.code == 0 { Ok(self) } else { Err(self.told()) }
    }

    pub fn told(&self) -> String {
        format!("`{}` ended with {}: {} {}", self.line, self.code, self.err.trim(), self.out.trim())
    }

    /// What `--json` printed; null where that is no JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(self.out.trim()).unwrap_or(Value::Null)
    }

    /// The texts of a tool's result, of `sipmcp call --json`.
    pub fn text(&self) -> String {
        let json = self.json();
        let content = json["result"]["content"].as_array().cloned().unwrap_or_default();
        content.iter().filter_map(|item| item["text"].as_str()).collect::<Vec<_>>().join("\n")
    }
}

/// Runs it to its end, at most so long; then it is killed.
///
/// # Errors
/// It cannot be started, or it took too long.
pub async fn run(world: &World, program: &str, arguments: &[&str], limit: Duration) -> Fallible<Ran> {
    let line = [&[program], arguments].concat().join(" ");
    let mut command = Command::new(program);
    command.args(arguments).current_dir(&world.args.root).stdin(Stdio::null()).kill_on_drop(true);
    // `kubectl sipmcp` is found by its name.
    let mut path = OsString::from(&world.bin);
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    command.env("PATH", path).env("NO_COLOR", "1");
    for name in ["SIPMCP_PROXY", "SIPMCP_USER", "SIPMCP_PASSWORD", "SIPMCP_OPERATOR_NAMESPACE"] {
        command.env_remove(name);
    }
    let begin = Instant::now();
    let output = timeout(limit, command.output()).await;
    let output = output.map_err(|_| format!("`{line}` did not end within {} s", limit.as_secs()))?;
    let output = output.map_err(|error| format!("`{line}` cannot be started: {error}"))?;
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    Ok(Ran {
        line,
        code: output.status.code().unwrap_or(-1),
        out: text(&output.stdout),
        err: text(&output.stderr),
        took: begin.elapsed(),
    })
}
