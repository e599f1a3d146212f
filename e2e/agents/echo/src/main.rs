//! `echo-agent --listen ADDR`: serves the tools of [`echo_agent`] until SIGINT or SIGTERM.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// A small MCP server over Streamable HTTP, both eras (2026-07-28 and 2025-11-25).
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Address to listen on; port 0 takes a free one, and the first line of output names it.
    #[arg(long, default_value = "127.0.0.1:3900")]
    listen: SocketAddr,
    /// Answer modern requests as `application/json` where nothing precedes the result.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    match run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    let agent = echo_agent::Agent::start(args.listen, echo_agent::Options { json_response: args.json })
        .await
        .map_err(|error| format!("cannot listen on {}: {error}", args.listen))?;
    println!("listening on {}", agent.url());
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    agent.stop().await;
    Ok(())
}
