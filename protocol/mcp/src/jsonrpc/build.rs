//! Messages of our own. Ids are taken raw, so that an answer carries the id exactly as it was asked.

use bytes::Bytes;
use serde_json::Value;

use super::RawId;
use crate::errors::RpcError;

fn message(id: Option<&str>, members: &[(&str, &str)]) -> Bytes {
    let mut out = String::from("{\"jsonrpc\":\"2.0\"");
    if let Some(id) = id {
        out.push_str(",\"id\":");
        out.push_str(id);
    }
    for (name, raw) in members {
        out.push_str(",\"");
        out.push_str(name);
        out.push_str("\":");
        out.push_str(raw);
    }
    out.push('}');
    Bytes::from(out)
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// An error response. Without an id it carries `null`, which only an HTTP answer may do (JSON-RPC 2.0 section 5).
#[must_use]
pub fn error_response(id: Option<&RawId>, error: &RpcError) -> Bytes {
    message(Some(id.map_or("null", RawId::as_str)), &[("error", &error.to_value().to_string())])
}

/// A response with a result.
#[must_use]
pub fn response(id: &RawId, result: &Value) -> Bytes {
    message(Some(id.as_str()), &[("result", &result.to_string())])
}

/// A request.
#[must_use]
pub fn request(id: &RawId, method: &str, params: Option<&Value>) -> Bytes {
    let method = quoted(method);
    match params {
        Some(params) => message(Some(id.as_str()), &[("method", &method), ("params", &params.to_string())]),
        None => message(Some(id.as_str()), &[("method", &method)]),
    }
}

/// A notification.
#[must_use]
pub fn notification(method: &str, params: Option<&Value>) -> Bytes {
    let method = quoted(method);
    match params {
        Some(params) => message(None, &[("method", &method), ("params", &params.to_string())]),
        None => message(None, &[("method", &method)]),
    }
}
