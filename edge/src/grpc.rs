//! Our own TLS under gRPC channels.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::codegen::{Service, http::Uri};

/// What a channel runs on.
pub type Secure = TokioIo<TlsStream<TcpStream>>;

/// TCP, then TLS. `address`: host:port. `name`: whom the verifier of `config` looks for.
///
/// # Errors
/// What the system says of the connection, and TLS of the other side.
pub async fn secure(address: &str, name: ServerName<'static>, config: Arc<ClientConfig>) -> io::Result<Secure> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(TlsConnector::from(config).connect(name, stream).await?))
}

/// A way to connect, for tonic: the address of the endpoint means nothing to it.
#[derive(Clone)]
pub struct Way<F>(pub F);

impl<F, C> Service<Uri> for Way<F>
where
    F: Fn() -> C,
    C: Future<Output = io::Result<Secure>> + Send + 'static,
{
    type Response = Secure;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Secure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin((self.0)())
    }
}

/// The innermost reason says most.
#[must_use]
pub fn reason(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Why a call failed, in one line.
#[must_use]
pub fn refusal(status: &tonic::Status) -> String {
    match std::error::Error::source(status) {
        Some(source) => format!("{:?}: {}", status.code(), reason(source)),
        None => format!("{:?}: {}", status.code(), status.message()),
    }
}
