//! What the shell knows of one backend: address, trust, credential, limits.

use std::fmt;
use std::time::Duration;

use zeroize::Zeroizing;

use super::endpoint::EndpointError;

/// One agent's backend. Comes from configuration only, never from a peer, so private addresses are allowed
/// (`Backends` is the "configured" client of the two kinds of HTTP client).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendConfig {
    /// `http://` or `https://`, with the path of the MCP endpoint. Redirects are never followed.
    pub url: String,
    /// PEM certificates that may sign the server's certificate. `None`: the system's authorities.
    pub ca_bundle: Option<Vec<u8>>,
    /// Sent as `Authorization: Bearer`.
    pub bearer: Option<Bearer>,
    pub limits: Limits,
}

impl BackendConfig {
    /// A backend with the default limits, no credential and the system's authorities.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), ca_bundle: None, bearer: None, limits: Limits::default() }
    }
}

/// A bearer token. Wiped from memory when dropped, never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Bearer(Zeroizing<String>);

impl Bearer {
    /// Surrounding white space is dropped: a token read from a file ends with a line end.
    pub fn new(token: &str) -> Self {
        Self(Zeroizing::new(token.trim().to_owned()))
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer(…)")
    }
}

/// The bounds of one backend client. Each is a number of things that exist at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one JSON-RPC message in an answer (`messageBytes`).
    pub message_bytes: usize,
    /// Requests under way. HTTP/1.1 needs a connection for each.
    pub requests: usize,
    /// Notifications, responses and session ends under way. They have a bound of their own: the response that a running
    /// request waits for must not queue behind such requests.
    pub posts: usize,
    /// Legacy server streams (GET), one for each legacy session that has one.
    pub streams: usize,
    /// Calls that wait for a place, over all of the above. One more is refused with `Overloaded`.
    pub waiting: usize,
    /// Connections kept open for a next call.
    pub idle_connections: usize,
    /// Time to resolve, connect and shake hands.
    pub connect_timeout: Duration,
    /// How often in a row a broken legacy stream is resumed without success.
    pub resume_attempts: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: 1024 * 1024,
            // Four sessions with the full 128 requests that one may have in flight.
            requests: 512,
            posts: 64,
            streams: 1024,
            waiting: 1024,
            idle_connections: 64,
            connect_timeout: Duration::from_secs(5),
            resume_attempts: 5,
        }
    }
}

/// Why a [`BackendConfig`] cannot be used. The configuration is at fault; nothing was connected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackendConfigError {
    #[error("url: {0}")]
    Url(#[from] EndpointError),
    #[error("the CA bundle is not PEM: {0}")]
    CaSyntax(String),
    #[error("the CA bundle has no certificate")]
    CaEmpty,
    #[error("certificate {number} of the CA bundle cannot be used: {reason}")]
    CaCertificate { number: usize, reason: String },
    #[error("the system has no certificate authorities: {0}; give a CA bundle")]
    NoSystemAuthorities(String),
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    #[error("the credential is empty or has characters that no header field can carry")]
    Credential,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sec_11_a_credential_is_never_shown() {
        let mut config = BackendConfig::new("https://a.example/mcp");
        config.bearer = Some(Bearer::new("  t0p-secret\n"));
        assert!(!format!("{config:?}").contains("t0p-secret"));
        assert_eq!(config.bearer.map(|bearer| bearer.expose().to_owned()).as_deref(), Some("t0p-secret"));
    }
}
