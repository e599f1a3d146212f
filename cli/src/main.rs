//! `sipmcp`: the command line of sipmcp.
#![forbid(unsafe_code)]

mod args;
mod caller;
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

fn main() -> ExitCode {
    let cli = Cli::parse();
    let as_json = match &cli.command {
        Command::Call(a) => a.connection.json,
        Command::Tools(a) => a.connection.json,
        Command::Register(a) => a.connection.json,
        Command::Check { json, .. } => *json,
        Command::Keys(_) | Command::Completions { .. } => false,
    };
    match run(cli) {
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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::unreachable(format!("the runtime does not start: {e}")))?;
    runtime.block_on(async {
        match cli.command {
            Command::Call(args) => commands::call::run(args).await,
            Command::Tools(args) => commands::tools::run(args).await,
            Command::Register(args) => commands::register::run(args).await,
            Command::Check { .. } | Command::Keys(_) | Command::Completions { .. } => Ok(()),
        }
    })
}
