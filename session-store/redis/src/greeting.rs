//! Whether what listens there is Redis at all, before anything else is sent: an HTTP proxy on that port, or something that never
//! answers, is named within the connect timeout.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::error::StartError;

/// Longest answer that is looked at.
const LOOKED_AT: usize = 96;

/// Sends a PING and looks at how the answer begins. Without TLS only: there the handshake asks first.
///
/// # Errors
/// `Unreachable`, also where nothing comes; `NotRedis` with what came.
pub(crate) async fn check(host: &str, port: u16, limit: Duration) -> Result<(), StartError> {
    let address = format!("{host}:{port}");
    let unreachable = |reason: String| StartError::Unreachable { address: address.clone(), reason };
    let connecting = tokio::time::timeout(limit, TcpStream::connect((host, port))).await;
    let mut stream = connecting
        .map_err(|_| unreachable("no connection in time".into()))?
        .map_err(|error| unreachable(error.to_string()))?;
    let not_redis = |got: &str| StartError::NotRedis { address: address.clone(), got: got.to_owned() };
    stream.write_all(b"*1\r\n$4\r\nPING\r\n").await.map_err(|error| unreachable(error.to_string()))?;
    let mut got = Vec::with_capacity(LOOKED_AT);
    let reading = async {
        while got.len() < LOOKED_AT && !got.ends_with(b"\n") {
            let mut chunk = [0; LOOKED_AT];
            match stream.read(&mut chunk).await {
                Ok(0) => return Ok(()),
                Ok(n) => got.extend_from_slice(&chunk[..n]),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    match tokio::time::timeout(limit, reading).await {
        // No Redis, or one that hangs: who may wait, waits.
        Err(_) if got.is_empty() => return Err(unreachable("it accepts connections and says nothing".into())),
        Ok(Err(error)) => return Err(unreachable(error.to_string())),
        _ => {}
    }
    if got.is_empty() {
        return Err(unreachable("it closes the connection without a word".into()));
    }
    // Either it answers, or it says why not yet: a password is asked for, it is loading, it is protected.
    if got.starts_with(b"+PONG") || got.starts_with(b"-") {
        return Ok(());
    }
    let line: String =
        String::from_utf8_lossy(&got[..got.len().min(LOOKED_AT)]).lines().next().unwrap_or_default().into();
    Err(not_redis(&format!("it answered {line:?}")))
}
