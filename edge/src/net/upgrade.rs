//! The WebSocket upgrade (RFC 6455, RFC 7118): subprotocol `sip`, Origin checked.

use std::sync::Arc;

use sip_proto::framing::FrameLimits;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderValue, StatusCode, header};

use super::io::Io;
use super::stream::websocket_config;

/// Which web pages may open a WebSocket to us.
///
/// A program sends no Origin and is welcome. A browser says which page asks: one of the same host as the request, or of a host in one of
/// the served domains. Everything else is refused, so that a foreign page cannot use the network position or the client certificate of
/// its visitor.
#[derive(Clone, Debug, Default)]
pub struct OriginRule {
    /// Served domains, lower case.
    pub domains: Arc<[String]>,
}

impl OriginRule {
    #[must_use]
    pub fn allows(&self, origin: Option<&str>, host: Option<&str>) -> bool {
        let Some(origin) = origin else { return true };
        let Some(origin) = origin.split_once("://").map(|(_, authority)| host_of(authority)) else { return false };
        if origin.is_empty() {
            return false;
        }
        if host.map(host_of).is_some_and(|host| host == origin) {
            return true;
        }
        self.domains.iter().any(|domain| {
            origin.strip_suffix(domain.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
    }
}

/// Host of `host[:port]`, lower case; an IPv6 address keeps its brackets.
fn host_of(authority: &str) -> String {
    let end = match authority.find(']') {
        Some(bracket) => bracket + 1,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    authority[..end].to_ascii_lowercase()
}

/// Answers the upgrade request.
///
/// # Errors
/// When it is no WebSocket upgrade, lacks the subprotocol, or comes from a foreign page.
pub async fn accept(
    io: Io,
    limits: FrameLimits,
    origins: OriginRule,
) -> Result<WebSocketStream<Io>, Box<tokio_tungstenite::tungstenite::Error>> {
    #[expect(clippy::result_large_err, reason = "the signature is the library's")]
    let judge = move |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        if !offers_sip(request.headers()) {
            return Err(refuse(StatusCode::BAD_REQUEST, "Sec-WebSocket-Protocol must offer sip (RFC 7118)"));
        }
        if !origins.allows(text(request.headers(), header::ORIGIN), text(request.headers(), header::HOST)) {
            return Err(refuse(StatusCode::FORBIDDEN, "this origin may not connect"));
        }
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("sip"));
        Ok(response)
    };
    tokio_tungstenite::accept_hdr_async_with_config(io, judge, Some(websocket_config(limits))).await.map_err(Box::new)
}

fn offers_sip(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|protocol| protocol.trim().eq_ignore_ascii_case("sip"))
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    // A value that is no text is present and matches nothing.
    headers.get(name).map(|value| value.to_str().unwrap_or(""))
}

fn refuse(status: StatusCode, reason: &str) -> ErrorResponse {
    let mut response = ErrorResponse::new(Some(reason.to_owned()));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_pages_are_refused() {
        let rule = OriginRule { domains: Arc::from(["acme.example".to_owned()]) };
        let host = Some("edge.net:5443");
        assert!(rule.allows(None, host));
        assert!(rule.allows(Some("https://edge.net"), host));
        assert!(rule.allows(Some("https://acme.example"), host));
        assert!(rule.allows(Some("https://Phone.Acme.example:8443"), host));
        assert!(rule.allows(Some("http://[::1]:8080"), Some("[::1]:5443")));
        assert!(!rule.allows(Some("https://evil.example"), host));
        assert!(!rule.allows(Some("https://evilacme.example"), host));
        assert!(!rule.allows(Some("https://acme.example.evil.net"), host));
        assert!(!rule.allows(Some("null"), host));
        assert!(!rule.allows(Some(""), host));
        assert!(!rule.allows(Some("file://"), Some("")));
    }
}
