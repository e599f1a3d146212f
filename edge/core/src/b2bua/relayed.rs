//! Responses and refusals on their way from leg to leg.

use bytes::Bytes;
use session_store::key::DialogKey;
use session_store::op::{StoreError, StoreOp, StoreReply};
use session_store::record::DialogRecord;
use sip_proto::message::{HeaderId, Message, Response};

use super::Step;
use super::copied::{self, ALLOW};
use crate::dialogs::dialog_state;
use crate::locate::Located;
use crate::page::MCP_JSON;
use crate::purpose::Purpose;
use crate::request::Request;
use crate::state::EdgeState;
use crate::transactions::Target;

/// An error of ours to a request that policy refused, in the dialog that it came in.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub dialog: DialogKey,
    pub method: &'static str,
    pub exchange: Option<String>,
    pub package: bool,
    pub body: Bytes,
}

impl EdgeState {
    /// The response of one leg as an answer to the request of the other one. `lines` are ours.
    #[allow(clippy::too_many_arguments, reason = "one response is these facts")]
    pub(super) fn passed_response(
        &self,
        request: &Request,
        tag: &str,
        status: u16,
        message: &Message,
        domain: &str,
        with_mcp: bool,
        lines: Vec<(HeaderId, String)>,
        body: Option<(String, Bytes)>,
    ) -> Bytes {
        let phrase = message.reason().and_then(|reason| std::str::from_utf8(reason).ok());
        let mut response = Response::to_request(&request.message, status, phrase).received(request.flow.remote);
        if request.message.to_tag().is_none() {
            response = response.to_tag(tag);
            if (101..300).contains(&status) {
                for line in request.message.headers(HeaderId::RecordRoute) {
                    response = response.header(HeaderId::RecordRoute, line);
                }
            }
        }
        let makes_dialog = (101..300).contains(&status);
        if makes_dialog {
            response = response.header(HeaderId::Allow, ALLOW);
        }
        let mut supported = self.passed_tags(domain, message, HeaderId::Supported, with_mcp);
        if makes_dialog && !supported.iter().any(|tag| tag.eq_ignore_ascii_case("timer")) {
            supported.push("timer".to_owned());
        }
        if !supported.is_empty() {
            response = response.header(HeaderId::Supported, supported.join(", "));
        }
        let replaced = |id: HeaderId| lines.iter().any(|(own, _)| *own == id);
        for line in copied::lines(message, body.is_some(), with_mcp).filter(|line| !replaced(line.id)) {
            response = response.header_named(line.name, line.value);
        }
        for (id, value) in &lines {
            response = response.header(*id, value);
        }
        if let Some((content_type, body)) = body {
            response = response.body(content_type, body);
        }
        response.build()
    }

    /// Policy refused a message: its sender hears the error as a message of its own.
    pub(super) fn refuse_message(&mut self, refusal: Refusal) {
        let operation = StoreOp::NextCseq { dialog: refusal.dialog, terminating: false, close: None, fence: None };
        self.bridge_store(operation, Step::Refusal(Box::new(refusal)));
    }

    pub(super) fn refusal_cseq(&mut self, refusal: Refusal, reply: Result<StoreReply, StoreError>) {
        let Ok(StoreReply::Cseq { cseq, record, .. }) = reply else {
            return self.stats.drop_one("refusal without a dialog");
        };
        let then = Located::Refusal { refusal: Box::new(refusal), cseq, record: record.clone() };
        let dialog = match &then {
            Located::Refusal { refusal, .. } => refusal.dialog,
            _ => return,
        };
        self.reach_dialog(dialog, &record, then);
    }

    pub(crate) fn send_refusal(&mut self, refusal: Refusal, cseq: u32, record: &DialogRecord, target: Option<Target>) {
        let Some(target) = target else { return self.stats.drop_one("refusal without a way") };
        let branch = self.new_branch();
        let via = self.via(target.transport(), target.listener(), &branch);
        let mut request = dialog_state(record)
            .request_with_cseq(refusal.method, cseq, &via)
            .header(HeaderId::SessionId, self.session_id(&record.call_id, record.session_id.as_deref()));
        if refusal.package {
            request = request.header(HeaderId::InfoPackage, "mcp").header(HeaderId::ContentDisposition, "Info-Package");
        }
        let bytes = request.header_if(HeaderId::McpExchange, refusal.exchange).body(MCP_JSON, refusal.body).build();
        if self.send_request(refusal.method, &branch, bytes, target, Purpose::Nothing).is_err() {
            self.stats.drop_one("refusal without a way");
        }
    }
}
