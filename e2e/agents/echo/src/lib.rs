//! A small but real MCP server on rmcp over Streamable HTTP, both eras on one URL: stateful sessions for 2025-11-25 and
//! older, one request at a time for 2026-07-28. The demo calls it, and tests start it in their own process.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! let agent = echo_agent::Agent::start(([127, 0, 0, 1], 0).into(), echo_agent::Options::default()).await?;
//! println!("{}", agent.url());
//! assert_eq!(agent.runs("echo"), 0);
//! agent.stop().await;
//! # Ok(()) }
//! ```

#![expect(
    deprecated,
    reason = "roots and logging are deprecated in the specification (SEP-2577), and legacy peers use them"
)]

mod counters;
mod input;
mod tools;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::counters::Counters;
use crate::tools::EchoAgent;

/// A request body may be this large: the default of 4 MiB, said here because the tests lean on it.
pub const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;

/// What legacy streams say in their `retry` field: short, so that a resumed stream is soon there in a test.
const SSE_RETRY: Duration = Duration::from_millis(200);

/// How the agent answers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Modern requests without progress or log messages get `application/json` instead of an event stream.
    pub json_response: bool,
}

/// A running agent. Dropping it leaves it running until the runtime ends; [`Agent::stop`] ends it.
pub struct Agent {
    address: SocketAddr,
    counters: Arc<Counters>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl Agent {
    /// Binds `listen` and serves `/mcp` there.
    ///
    /// # Errors
    /// The error of the bind: port in use, no permission, no such address.
    pub async fn start(listen: SocketAddr, options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        // Without it the end of an event stream waits 40 ms for the client's acknowledgement of the last event.
        let listener = listener.tap_io(|stream| {
            if let Err(error) = stream.set_nodelay(true) {
                eprintln!("echo-agent: TCP_NODELAY: {error}");
            }
        });
        let counters = Arc::new(Counters::default());

        let config = StreamableHttpServerConfig::default()
            .with_json_response(options.json_response)
            .with_sse_retry(Some(SSE_RETRY))
            .with_max_request_body_bytes(MAX_REQUEST_BYTES)
            // The Host allow-list guards browsers on a developer's machine; this agent has no secrets and is also
            // reached by names and addresses of test networks.
            .disable_allowed_hosts();
        let sessions = config.cancellation_token.clone();
        let mut manager = LocalSessionManager::default();
        manager.session_config.sse_retry = Some(SSE_RETRY);
        let handler_counters = counters.clone();
        let service =
            StreamableHttpService::new(move || Ok(EchoAgent::new(handler_counters.clone())), Arc::new(manager), config);
        let router = axum::Router::new().route_service("/mcp", service);

        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(async move {
            let serve = axum::serve(listener, router).with_graceful_shutdown(async move {
                // A dropped sender means that the agent was leaked on purpose: it then serves to the end.
                if stopped.await.is_err() {
                    std::future::pending::<()>().await;
                }
                sessions.cancel();
            });
            if let Err(error) = serve.await {
                eprintln!("echo-agent: {error}");
            }
        });
        Ok(Self { address, counters, stop, server })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://ADDRESS/mcp`.
    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// How many times `tool` began to run, over all sessions, since the start.
    pub fn runs(&self, tool: &str) -> u64 {
        self.counters.runs(tool)
    }

    /// How many runs of `tool` ended because the client cancelled them.
    pub fn cancelled(&self, tool: &str) -> u64 {
        self.counters.cancelled(tool)
    }

    /// Ends open streams and stops listening; waits at most two seconds for connections to close, then drops them.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        let mut server = self.server;
        if tokio::time::timeout(Duration::from_secs(2), &mut server).await.is_err() {
            server.abort();
        }
    }
}
