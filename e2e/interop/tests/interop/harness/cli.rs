//! `sipmcp` as a user runs it.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::certificates;
use super::edge::Edge;
use super::manifests::PASSWORD;
use super::place;
use super::process::{Ended, Program, run};

/// How the caller proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// A user with a password.
    Digest(&'static str),
    /// sip:alice@demo.example by her certificate.
    Certificate,
    Nobody,
}

/// The end of one `sipmcp`.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    /// What `--json` printed; null when it printed nothing.
    pub json: Value,
    pub err: String,
    pub took: Duration,
}

impl Ran {
    /// The texts of a tool's result.
    pub fn text(&self) -> String {
        let content = self.json["result"]["content"].as_array().cloned().unwrap_or_default();
        content.iter().filter_map(|item| item["text"].as_str()).collect::<Vec<_>>().join("\n")
    }

    /// Milliseconds from the request to its final answer.
    pub fn call_ms(&self) -> f64 {
        self.json["us"].as_f64().unwrap_or(f64::NAN) / 1000.0
    }
}

/// `sipmcp SUBCOMMAND URI …` toward this edge.
pub fn command(edge: &Edge, transport: &str, who: Who, subcommand: &str, uri: &str, more: &[&str]) -> Command {
    let mut command = plain();
    let address = edge.address(transport);
    command.args([subcommand, uri, "--json", "--timeout", "25"]);
    command.args(["--proxy", &format!("sip:{address}"), "--transport", transport]);
    let files = certificates::files(edge.manifests.scratch());
    command.arg("--ca").arg(&files.ca);
    match who {
        Who::Digest(user) => {
            command.env("SIPMCP_USER", user).env("SIPMCP_PASSWORD", PASSWORD);
        }
        Who::Certificate => {
            command.arg("--cert").arg(&files.certificate).arg("--key").arg(&files.key);
            command.args(["--from", "sip:alice@demo.example"]);
        }
        Who::Nobody => {}
    }
    command.args(more);
    command
}

/// `sipmcp` without the environment of whoever runs the tests.
pub fn plain() -> Command {
    let mut command = Command::new(place::program("sipmcp"));
    for name in ["SIPMCP_PROXY", "SIPMCP_USER", "SIPMCP_PASSWORD"] {
        command.env_remove(name);
    }
    command.env("NO_COLOR", "1");
    command
}

/// Runs one to its end.
#[track_caller]
pub fn sipmcp(edge: &Edge, transport: &str, who: Who, subcommand: &str, uri: &str, more: &[&str]) -> Ran {
    ran(run("sipmcp", &command(edge, transport, who, subcommand, uri, more), Duration::from_secs(60)))
}

/// Starts one that is to run beside something else.
#[track_caller]
pub fn begin(edge: &Edge, transport: &str, who: Who, subcommand: &str, uri: &str, more: &[&str]) -> Program {
    Program::start("sipmcp", &command(edge, transport, who, subcommand, uri, more))
}

#[track_caller]
pub fn ran(ended: Ended) -> Ran {
    let json = serde_json::from_str(ended.out.trim()).unwrap_or(Value::Null);
    Ran { code: ended.code.unwrap_or(-1), json, err: ended.err, took: ended.took }
}
