//! The command line of sipmcp under its two names: `sipmcp` for any edge, `kubectl-sipmcp` (as `kubectl sipmcp`) for those of a cluster.
#![forbid(unsafe_code)]

mod args;
mod caller;
mod cluster;
mod commands;
mod edges;
mod failure;
mod ladder;
mod mcp;
mod net;
mod random;
mod target;
mod ua;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use serde_json::json;

use args::{Cli, Command};
use failure::Failure;

/// `sipmcp`.
#[must_use]
pub fn sipmcp() -> ExitCode {
    let cli = Cli::parse();
    let as_json = match &cli.command {
        Command::Call(a) => a.connection.json,
        Command::Tools(a) => a.connection.json,
        Command::Register(a) => a.connection.json,
        Command::Check { json, .. } => *json,
        Command::Keys(_) | Command::Completions { .. } => false,
    };
    ended(run(cli), as_json)
}

/// `kubectl-sipmcp`.
#[must_use]
pub fn kubectl() -> ExitCode {
    let kubectl = cluster::Kubectl::parse();
    let as_json = kubectl.is_json();
    let result = runtime().and_then(|runtime| runtime.block_on(cluster::run(kubectl)));
    ended(result, as_json)
}

fn ended(result: Result<(), Failure>, as_json: bool) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if as_json && failure.exit != failure::Exit::ToolFailed {
                println!("{}", json!({ "ok": false, "error": failure.message, "code": failure.code }));
            }
            eprintln!("sipmcp: {failure}");
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::unreachable(format!("the runtime does not start: {e}")))
}

fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Check { files, json } => return commands::check::run(&files, json),
        Command::Keys(args) => return commands::keys::run(&args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "sipmcp", &mut std::io::stdout());
            return Ok(());
        }
        _ => {}
    }
    runtime()?.block_on(async {
        match cli.command {
            Command::Call(args) => commands::call::run(args).await,
            Command::Tools(args) => commands::tools::run(args).await,
            Command::Register(args) => commands::register::run(args).await,
            Command::Check { .. } | Command::Keys(_) | Command::Completions { .. } => Ok(()),
        }
    })
}
