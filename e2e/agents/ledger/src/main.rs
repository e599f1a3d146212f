//! `ledger-agent --ledger FILE`: an MCP server (rmcp, Streamable HTTP, both eras) whose tools leave a line in a file for each
//! execution, on the disk before they answer. What a kill test asks: did anything run twice?

mod ledger;
mod tools;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt;
use clap::Parser;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// How long open calls may take after SIGTERM.
const STOP: Duration = Duration::from_secs(2);

/// An MCP server that counts executions: one line in a file for each, written before the answer.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// The file that the lines are appended to: `{"at_ms","tool","id","event":"start"|"end"|"cancelled"}`.
    #[arg(long)]
    ledger: PathBuf,
    /// Address to listen on; port 0 takes a free one, and the first line of output names it.
    #[arg(long, default_value = "127.0.0.1:3902")]
    listen: SocketAddr,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    match run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ledger-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    let ledger = ledger::Ledger::open(&args.ledger)
        .map_err(|error| format!("cannot open {}: {error}", args.ledger.display()))?;
    let listener =
        TcpListener::bind(args.listen).await.map_err(|error| format!("cannot listen on {}: {error}", args.listen))?;
    println!("listening on http://{}/mcp", listener.local_addr()?);
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            eprintln!("ledger-agent: {error}");
        }
    });
    // The Host allow-list guards browsers on a developer's machine; this agent is reached by addresses of test networks.
    let config = StreamableHttpServerConfig::default().disable_allowed_hosts();
    let sessions = config.cancellation_token.clone();
    let service = StreamableHttpService::new(
        move || Ok(tools::LedgerAgent::new(ledger.clone())),
        Arc::new(LocalSessionManager::default()),
        config,
    );
    let router = axum::Router::new().route_service("/mcp", service);
    let mut terminate = signal(SignalKind::terminate())?;
    let (stopping, mut stopped) = tokio::sync::watch::channel(false);
    let serve = axum::serve(listener, router).with_graceful_shutdown(async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        sessions.cancel();
        let _ = stopping.send(true);
    });
    tokio::select! {
        served = async { serve.await } => served?,
        () = async {
            // Fails only when the sender is gone, which is after it was told.
            let _ = stopped.changed().await;
            tokio::time::sleep(STOP).await;
        } => {}
    }
    Ok(())
}
