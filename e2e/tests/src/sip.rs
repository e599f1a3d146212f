//! A SIP client for what is measured and what has to survive: one request costs no process. `sipmcp` is used wherever a person would use it.

pub mod desk;
pub mod link;
pub mod phone;
pub mod probe;

use serde_json::Value;
use sip_proto::message::{HeaderId, Message};

/// Headers of a refusal that say more than its phrase.
const SAYS_MORE: [&str; 3] = ["Warning", "Retry-After", "Min-Expires"];

/// What became of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Lost {
    /// The edge cannot be reached, or its connection broke: another one may help.
    Edge(String),
    /// A final response that is no 2xx.
    Refused(u16, String),
    /// Nobody answered in time.
    Silence(String),
    /// A JSON-RPC error.
    Rpc(i64, String),
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Lost::Edge(why) | Lost::Silence(why) => f.write_str(why),
            Lost::Refused(status, why) => write!(f, "{status} {why}"),
            Lost::Rpc(code, why) => write!(f, "JSON-RPC {code}: {why}"),
        }
    }
}

impl From<Lost> for String {
    fn from(lost: Lost) -> String {
        lost.to_string()
    }
}

impl Lost {
    /// A typed error that says that the caller may try again (-31001 without an execution, -31004), or that nobody knows whether it ran.
    pub fn is_typed(&self) -> bool {
        matches!(self, Lost::Rpc(-31001 | -31004, _))
    }

    /// Whether it is 503 and says when to come again.
    pub fn says_when(&self) -> bool {
        matches!(self, Lost::Refused(503, why) if why.contains("; Retry-After: "))
    }
}

/// A final response as an error, where it is no 2xx.
pub fn accepted(response: Message) -> Result<Message, Lost> {
    match response.status().unwrap_or(0) {
        200..=299 => Ok(response),
        status => {
            let mut words = String::from_utf8_lossy(response.reason().unwrap_or_default()).into_owned();
            for name in SAYS_MORE {
                if let Some(value) = response.headers_named(name).next() {
                    words = format!("{words}; {name}: {}", String::from_utf8_lossy(value));
                }
            }
            Err(Lost::Refused(status, words))
        }
    }
}

/// The result of a JSON-RPC answer.
pub fn result(answer: &Value) -> Result<Value, Lost> {
    match answer.get("error") {
        None => Ok(answer["result"].clone()),
        Some(error) => Err(Lost::Rpc(
            error["code"].as_i64().unwrap_or(0),
            error["message"].as_str().unwrap_or_default().to_owned(),
        )),
    }
}

/// The host of the first Contact of a message.
pub fn contact_host(message: &Message) -> Option<String> {
    let value = String::from_utf8_lossy(message.header(HeaderId::Contact)?).into_owned();
    let uri = value.split(['<', '>']).find(|part| part.starts_with("sip"))?;
    let host = uri.split_once(':')?.1.split([';', '?']).next()?;
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    Some(host.split(':').next().unwrap_or(host).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use serde_json::json;
    use sip_proto::message::Transportation;

    #[test]
    fn refusals_and_errors_keep_their_numbers() {
        let head = "Via: SIP/2.0/TCP a;branch=z9hG4bKa\r\nFrom: <sip:a@b>;tag=a\r\nTo: <sip:a@b>;tag=b\r\nCall-ID: a\r\nCSeq: 1 INVITE\r\n";
        let parse = |first: &str, more: &str| {
            let text = format!("{first}\r\n{head}{more}Content-Length: 0\r\n\r\n");
            Message::parse(Bytes::from(text), Transportation::Datagram).unwrap()
        };
        let refused = accepted(parse("SIP/2.0 404 Not Found", "")).unwrap_err();
        assert_eq!(refused, Lost::Refused(404, "Not Found".into()));
        let away = accepted(parse("SIP/2.0 503 Store Unavailable", "Retry-After: 3\r\n")).unwrap_err();
        assert_eq!(away, Lost::Refused(503, "Store Unavailable; Retry-After: 3".into()));
        assert!(away.says_when() && !Lost::Refused(503, "Busy".into()).says_when());
        let ok = parse("SIP/2.0 200 OK", "Contact: <sip:edge@192.0.2.7:5060;transport=tcp>\r\n");
        assert_eq!(contact_host(&ok).as_deref(), Some("192.0.2.7"));
        assert!(result(&json!({"error": {"code": -31001, "message": "lost"}})).unwrap_err().is_typed());
        assert_eq!(result(&json!({"result": 3})), Ok(json!(3)));
    }
}
