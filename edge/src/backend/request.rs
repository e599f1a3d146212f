//! From a [`BackendCall`] to the HTTP request.

use bytes::Bytes;
use edge_core::effect::BackendCall;
use http_body_util::Full;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request};

use super::connect::Body;
use super::endpoint::Endpoint;

pub(super) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const JSON_OR_EVENTS: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("sipmcp-edge/", env!("CARGO_PKG_VERSION")));

/// A header field of the call that HTTP cannot carry, or that is not for the call to set. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the header field {0:?} cannot be sent")]
pub(super) struct Unsendable(String);

/// What is the same in every request of one call.
#[derive(Debug, Clone)]
pub(super) struct Template {
    target: hyper::Uri,
    common: HeaderMap,
    mirrors: HeaderMap,
}

impl Template {
    /// `authorization` is the edge's own credential. The mirrors (`Mcp-*`) go with a POST only.
    pub(super) fn new(
        endpoint: &Endpoint,
        authorization: Option<&HeaderValue>,
        call: &BackendCall,
    ) -> Result<Self, Unsendable> {
        let mut common = HeaderMap::new();
        common.insert(HOST, endpoint.host_header.clone());
        common.insert(USER_AGENT, AGENT);
        if let Some(authorization) = authorization {
            common.insert(AUTHORIZATION, authorization.clone());
        }
        let from_call =
            [(SESSION, &call.session), (PROTOCOL_VERSION, &call.protocol_version), (TRACEPARENT, &call.traceparent)];
        for (name, text) in from_call {
            if let Some(text) = text {
                common.insert(name.clone(), value(name.as_str(), text)?);
            }
        }
        let mut mirrors = HeaderMap::new();
        for (name, text) in &call.headers {
            let is_mirror = name.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case("mcp-"));
            let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Unsendable(name.clone()))?;
            if !is_mirror || header == SESSION || header == PROTOCOL_VERSION {
                return Err(Unsendable(name.clone()));
            }
            mirrors.append(header, value(name, text)?);
        }
        Ok(Self { target: endpoint.target.clone(), common, mirrors })
    }

    /// From now on the requests name this session: the answer to `initialize` brought it.
    pub(super) fn set_session(&mut self, session: HeaderValue) {
        self.common.insert(SESSION, session);
    }

    pub(super) fn has_session(&self) -> bool {
        self.common.contains_key(SESSION)
    }

    pub(super) fn post(&self, body: Bytes) -> Request<Body> {
        let mut request = self.request(Method::POST, JSON_OR_EVENTS, body);
        request.headers_mut().insert(CONTENT_TYPE, JSON);
        request.headers_mut().extend(self.mirrors.clone());
        request
    }

    /// An id that no header field can carry is left out; the parser hands out none such.
    pub(super) fn get(&self, last_event_id: Option<&str>) -> Request<Body> {
        let mut request = self.request(Method::GET, EVENTS, Bytes::new());
        if let Some(id) = last_event_id.and_then(|id| HeaderValue::from_bytes(id.as_bytes()).ok()) {
            request.headers_mut().insert(LAST_EVENT_ID, id);
        }
        request
    }

    pub(super) fn delete(&self) -> Request<Body> {
        self.request(Method::DELETE, JSON_OR_EVENTS, Bytes::new())
    }

    fn request(&self, method: Method, accept: HeaderValue, body: Bytes) -> Request<Body> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.target.clone();
        *request.headers_mut() = self.common.clone();
        request.headers_mut().insert(ACCEPT, accept);
        request
    }
}

fn value(name: &str, text: &str) -> Result<HeaderValue, Unsendable> {
    HeaderValue::from_bytes(text.as_bytes()).map_err(|_| Unsendable(name.to_owned()))
}

/// `Bearer TOKEN`, marked as sensitive, so that no `Debug` shows it. `None`: empty, or with characters that no header
/// field can carry.
pub(super) fn authorization(token: &str) -> Option<HeaderValue> {
    if token.is_empty() {
        return None;
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use edge_core::effect::BackendAction;

    fn call(headers: &[(&str, &str)]) -> BackendCall {
        BackendCall {
            agent: "acme/echo".into(),
            action: BackendAction::EndSession,
            session: Some("s-1".into()),
            protocol_version: Some("2025-11-25".into()),
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
            timeout_ms: 1000,
        }
    }

    fn endpoint() -> Endpoint {
        Endpoint::parse("http://mcp.example:8080/mcp").expect("a URL")
    }

    #[test]
    fn the_fields_of_each_method() {
        let token = authorization("abc").expect("a token");
        let call = call(&[("Mcp-Method", "tools/call"), ("Mcp-Name", "échō"), ("mcp-param-Region", "eu")]);
        let template = Template::new(&endpoint(), Some(&token), &call).expect("sendable");
        let post = template.post(Bytes::from_static(b"{}"));
        assert_eq!(post.uri(), "/mcp");
        for (name, wanted) in [
            ("host", "mcp.example:8080"),
            ("accept", "application/json, text/event-stream"),
            ("content-type", "application/json"),
            ("authorization", "Bearer abc"),
            ("mcp-session-id", "s-1"),
            ("mcp-protocol-version", "2025-11-25"),
            ("mcp-method", "tools/call"),
            ("mcp-param-region", "eu"),
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ] {
            assert_eq!(post.headers()[name], wanted, "{name}");
        }
        assert_eq!(post.headers()["mcp-name"], "échō".as_bytes());
        assert!(!format!("{post:?}").contains("abc"), "the credential is not shown");

        let get = template.get(Some("7"));
        assert_eq!(
            (get.headers()["accept"].as_bytes(), get.headers()["last-event-id"].as_bytes()),
            (&b"text/event-stream"[..], &b"7"[..])
        );
        assert!(get.headers().get("mcp-method").is_none() && get.headers().get("content-type").is_none());
        assert!(template.get(Some("a\nb")).headers().get("last-event-id").is_none());
        assert_eq!(template.delete().method(), Method::DELETE);
    }

    #[test]
    fn a_call_sets_mirrors_only() {
        for (name, value) in [
            ("Authorization", "Bearer x"),
            ("Host", "elsewhere"),
            ("Transfer-Encoding", "chunked"),
            ("Mcp-Session-Id", "other"),
            ("MCP-Protocol-Version", "other"),
            ("Mcp-Na me", "x"),
            ("Mcp-Name", "a\r\nX: y"),
            ("Mcp-Name", "a\0"),
            ("é", "x"),
        ] {
            assert_eq!(
                Template::new(&endpoint(), None, &call(&[(name, value)])).err(),
                Some(Unsendable(name.into())),
                "{name}"
            );
        }
        assert_eq!(authorization("a\nb"), None);
        assert_eq!(authorization(""), None);
    }
}
