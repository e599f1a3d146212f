//! Answers to requests: a status with the header fields that belong to it, then bytes.

use bytes::Bytes;
use sip_proto::message::{HeaderId, Message, Response};

use crate::effect::Effect;
use crate::input::Flow;
use crate::request::Request;
use crate::state::EdgeState;
use crate::text::shown;
use crate::transactions::ReplyTo;

/// The methods that a declared agent serves, as `Allow` lists them.
pub(crate) const ALLOW: &str = "INVITE, ACK, BYE, CANCEL, OPTIONS, MESSAGE, INFO, UPDATE, REGISTER";
/// The bodies that we read, as `Accept` lists them.
pub(crate) const ACCEPT: &str = "application/sdp, application/mcp+json, multipart/mixed";

/// What to answer. One pointer beside the status: it is the `Err` of many functions.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub status: u16,
    parts: Box<Parts>,
}

#[derive(Clone, Debug, Default)]
struct Parts {
    phrase: Option<String>,
    lines: Vec<(HeaderId, Vec<u8>)>,
    body: Option<(String, Bytes)>,
    tag: Option<String>,
}

impl Answer {
    pub fn new(status: u16) -> Answer {
        Answer { status, parts: Box::default() }
    }

    /// May hold text of the peer: control characters are escaped, and it is cut at 256 bytes.
    pub fn phrase(mut self, phrase: &str) -> Answer {
        self.parts.phrase = Some(shown(phrase));
        self
    }

    pub fn header(self, id: HeaderId, value: impl Into<String>) -> Answer {
        self.header_bytes(id, value.into())
    }

    /// A value that may be in no known encoding, such as a Contact with a display name.
    pub fn header_bytes(mut self, id: HeaderId, value: impl Into<Vec<u8>>) -> Answer {
        self.parts.lines.push((id, value.into()));
        self
    }

    pub fn body(mut self, content_type: impl Into<String>, body: Bytes) -> Answer {
        self.parts.body = Some((content_type.into(), body));
        self
    }

    /// The To tag, where it is not the one that the request stands for.
    pub fn tag(mut self, tag: impl Into<String>) -> Answer {
        self.parts.tag = Some(tag.into());
        self
    }

    /// 415 with what we would read.
    pub fn unsupported_media(accept: &str) -> Answer {
        Answer::new(415).header(HeaderId::Accept, accept)
    }

    /// 405.
    pub fn not_allowed() -> Answer {
        Answer::new(405).header(HeaderId::Allow, ALLOW)
    }

    /// A warning (RFC 3261 §20.43).
    pub fn warning(self, code: u16, agent: &str, text: &str) -> Answer {
        self.header(HeaderId::Warning, format!("{code} {agent} \"{text}\""))
    }

    /// The bytes. A 100 has no To tag.
    pub fn build(&self, message: &Message, flow: &Flow, tag: &str) -> Bytes {
        let mut response =
            Response::to_request(message, self.status, self.parts.phrase.as_deref()).received(flow.remote);
        if self.status > 100 && message.to_tag().is_none() {
            response = response.to_tag(self.parts.tag.as_deref().unwrap_or(tag));
        }
        for (id, value) in &self.parts.lines {
            response = response.header(*id, value);
        }
        if let Some((content_type, body)) = &self.parts.body {
            response = response.body(content_type, body.clone());
        }
        response.build()
    }
}

impl EdgeState {
    /// Answers a request: through its transaction, or statelessly where it has none.
    pub(crate) fn answer(&mut self, request: &Request, answer: &Answer) {
        let bytes = answer.build(&request.message, &request.flow, &request.tag);
        self.answer_bytes(request, answer.status, bytes);
    }

    /// The same with bytes that were built before.
    pub(crate) fn answer_bytes(&mut self, request: &Request, status: u16, bytes: Bytes) {
        *self.stats.answers.entry(status).or_default() += 1;
        match request.server {
            Some(id) => self.server_answer(id, status, bytes),
            None => {
                let to = ReplyTo::new(&request.flow, &request.message.top_via());
                self.send_reply(&to, bytes);
            }
        }
    }

    /// 503 for the whole server: short and jittered, because the sender stops sending anything here (RFC 3261 §21.5.4).
    pub(crate) fn unavailable(&mut self, phrase: &str) -> Answer {
        let seconds = 1 + self.random.below(5);
        Answer::new(503).phrase(phrase).header(HeaderId::RetryAfter, seconds.to_string())
    }

    pub(crate) fn emit_close(&mut self, flow: &Flow) {
        if let crate::input::FlowKey::Stream(conn) = flow.key {
            self.emit(Effect::Close { conn });
        }
    }
}
