//! A request in one dialog of a bridge, on its way to the other one (sip.md, section 7): its CSeq is claimed in the store, policy is asked,
//! the other dialog's next number is taken, and it leaves there. Its sender hears the answer of the far end, and hears it only when what it
//! changes is stored; so nothing is lost with the edge that carries it.

mod asked;
mod changed;

use std::sync::Arc;

use bytes::Bytes;
use mcp_sip::headers::McpExchange;
use mcp_sip::jsonrpc::{Bounds, Envelope};
use session_store::key::DialogKey;
use session_store::op::{StoreError, StoreOp, StoreReply};
use session_store::record::{DialogRecord, PeerFlow};
use sip_proto::message::{HeaderId, Message, Transportation};
use sip_proto::method::Method;
use sip_proto::session_timer::{SessionTimer, SessionTimerPolicy, UacTimer};

use self::asked::Asked;
use super::Step;
use super::bodies::{Mcp, Parts, Passed};
use super::copied::{self, ALLOW};
use super::policy::Said;
use super::relayed::Refusal;
use crate::answer::Answer;
use crate::dialogs::dialog_state;
use crate::engine::Principal;
use crate::gate::{Caller, policies, policy_principal, source};
use crate::locate::Located;
use crate::negotiate::option_tags;
use crate::purpose::{Outcome, Purpose};
use crate::random::keyed_hash;
use crate::request::Request;
use crate::state::EdgeState;
use crate::token::{DialogToken, FlowToken};
use crate::transactions::Target;
use crate::waiting::Waiting;

/// A lost race is run again so often, and so often a request is sent again whose connection broke.
const MAX_TRIES: u8 = 3;

/// One request between the legs.
#[derive(Debug)]
pub(crate) struct Relay {
    request: Request,
    caller: Caller,
    /// The dialog that it came in.
    dialog: DialogKey,
    version: u64,
    record: Option<Box<DialogRecord>>,
    peer: Option<DialogKey>,
    /// It changes the session: re-INVITE, UPDATE.
    changes: bool,
    parts: Parts,
    mcp: Mcp,
    /// What the other side was sent, and what came back.
    sent: Option<Passed>,
    peer_version: u64,
    peer_record: Option<Box<DialogRecord>>,
    cseq: u32,
    uac: Option<UacTimer>,
    client: Option<u64>,
    target: Option<Target>,
    answer: Option<Message>,
    given: Option<Passed>,
    timer: Option<SessionTimer>,
    /// It is an MCP request that policy let pass: what its audit record says.
    asked: Option<Asked>,
    /// Its places, where a rule counts how many wait for their answer.
    places: Option<u64>,
    /// What leaves when it is stored.
    response: Bytes,
    tries: u8,
}

impl Relay {
    fn method(&self) -> &str {
        self.request.method()
    }

    fn is_invite(&self) -> bool {
        self.method() == "INVITE"
    }

    pub fn peer_record_mut(&mut self) -> Option<&mut DialogRecord> {
        self.peer_record.as_deref_mut()
    }
}

fn principal_of(record: &DialogRecord) -> Principal {
    match record.principal.as_str() {
        "anonymous" => Principal::Anonymous,
        user => Principal::User(user.to_owned()),
    }
}

impl EdgeState {
    /// A request (not ACK, not BYE) whose To tag is that of a dialog with another leg; nothing of it was checked yet.
    pub(crate) fn bridge_in_dialog(&mut self, request: &Request, token: DialogToken) -> Result<(), Answer> {
        if self.is_degraded() {
            // Both legs' numbers are the store's; only their ends wait for nobody (sip.md, section 11).
            self.stats.limit("outage");
            return Err(self.unavailable("Store Unavailable"));
        }
        let Some(domain) = self.domain_of(token.key.tenant) else { return Err(Answer::new(481)) };
        if let Some(refusal) = self.check_transport(request, &domain) {
            return Err(refusal);
        }
        let caller = match self.identify(request, &domain)? {
            Some(caller) => caller,
            None if token.anonymous => Caller {
                domain: domain.clone(),
                principal: Principal::Anonymous,
                nonce: None,
                certified: false,
                proven: true,
            },
            None => return Err(self.challenge(&domain, false)),
        };
        let message = &request.message;
        let changes = match message.cseq().method {
            Method::Invite | Method::Update => true,
            Method::Info | Method::Message | Method::Options => false,
            Method::Extension(_) => return Err(Answer::new(501)),
            _ => return Err(Answer::new(405).header(HeaderId::Allow, ALLOW)),
        };
        let tags = option_tags(&domain);
        let known = |tag: &str| tags.is_mcp(tag) || tag.eq_ignore_ascii_case("timer");
        let unknown: Vec<&str> = message.list_values(HeaderId::Require).filter(|tag| !known(tag)).collect();
        if !unknown.is_empty() {
            return Err(Answer::new(420).header(HeaderId::Unsupported, unknown.join(", ")));
        }
        if message.max_forwards() == Some(0) {
            return Err(Answer::new(483));
        }
        let parts = Parts::read(message)?;
        if parts.largest() > self.body_limit(&domain) {
            self.stats.limit("sipBodyBytes");
            return Err(Answer::new(413));
        }
        if !self.has_room() {
            self.stats.limit("storeOperations");
            return Err(self.unavailable("Too Much Work"));
        }
        let mut request = request.clone();
        let merged = keyed_hash(self.mac_key(), "merged", &[&request.transaction, request.method().as_bytes()]);
        let Some(id) = self.open_server(&request.flow, &request.message, merged) else {
            self.stats.limit("serverTransactions");
            return Err(self.unavailable("Too Many Transactions"));
        };
        request.server = Some(id);
        let flow = &request.flow;
        let here =
            FlowToken { owner: self.owner, transport: flow.transport, listener: flow.listener, flow: flow.key.clone() };
        let operation = StoreOp::Begin {
            dialog: token.key,
            by: caller.actor(flow),
            flow: Some(PeerFlow { flow: Some(here.text(&self.config.token_keys)), source: source(flow) }),
            cseq: request.message.cseq().seq,
            method: request.method().to_owned(),
            nonce: caller.nonce.clone(),
            exchange: None,
        };
        let relay = Relay {
            request,
            caller,
            dialog: token.key,
            version: 0,
            record: None,
            peer: None,
            changes,
            parts,
            mcp: Mcp::Keep,
            sent: None,
            peer_version: 0,
            peer_record: None,
            cseq: 0,
            uac: None,
            client: None,
            target: None,
            answer: None,
            given: None,
            timer: None,
            asked: None,
            places: None,
            response: Bytes::new(),
            tries: 0,
        };
        self.bridge_store(operation, Step::Begun(Box::new(relay)));
        Ok(())
    }

    pub(super) fn relay_begun(&mut self, mut relay: Relay, reply: Result<StoreReply, StoreError>) {
        let (version, record) = match reply {
            Ok(StoreReply::Begun { version, record, .. }) => (version, record),
            other => return self.not_begun(relay.dialog, &relay.request, &relay.caller, other),
        };
        let (request, caller) = (relay.request.clone(), relay.caller.clone());
        self.authenticated(&request, &caller);
        if let Some(local) = self.dialogs.get_mut(&relay.dialog) {
            // The peer is where it spoke last.
            local.flow = request.flow.clone();
        }
        relay.version = version;
        relay.peer = record.peer;
        relay.record = Some(record);
        if let Err(answer) = self.relay_on(relay) {
            let (relay, answer) = *answer;
            self.relay_refused(&relay, &answer);
        }
    }

    /// The final answer of ours; stored for a copy that reaches another edge.
    fn relay_refused(&mut self, relay: &Relay, answer: &Answer) {
        let response = answer.build(&relay.request.message, &relay.request.flow, &relay.request.tag);
        self.relay_done(relay, answer.status, response);
    }

    fn relay_done(&mut self, relay: &Relay, status: u16, response: Bytes) {
        self.unmark(relay);
        self.asked_done(relay, status);
        if status >= 300 {
            self.leave_places(relay.places);
        }
        let cseq = relay.request.message.cseq().seq;
        let operation = StoreOp::Commit { dialog: relay.dialog, cseq, response: response.clone(), record: None };
        self.answer_bytes(&relay.request, status, response);
        self.store(operation, Waiting::Nobody);
    }

    fn unmark(&mut self, relay: &Relay) {
        if relay.changes {
            self.bridges.changing.remove(&relay.dialog);
            if let Some(peer) = relay.peer {
                self.bridges.asked.remove(&peer);
            }
        }
    }

    /// Glare and policy, then the other leg's number.
    fn relay_on(&mut self, mut relay: Relay) -> Result<(), Box<(Relay, Answer)>> {
        let (Some(peer), Some(record)) = (relay.peer, relay.record.clone()) else {
            // An early dialog has no other leg yet.
            let answer = Answer::new(500).phrase("The Call Is Not Answered").header(HeaderId::RetryAfter, "1");
            return Err(Box::new((relay, answer)));
        };
        if relay.changes {
            let refreshing = self.dialogs.get(&relay.dialog).is_some_and(|local| local.refreshing);
            if refreshing || self.bridges.asked.contains(&relay.dialog) {
                // Both sides want to change the session (RFC 3261 §14.2).
                relay.changes = false;
                return Err(Box::new((relay, Answer::new(491))));
            }
            if self.bridges.changing.contains(&relay.dialog) {
                let seconds = self.random.below(11).to_string();
                relay.changes = false;
                let answer = Answer::new(500).phrase("Another Change Is Pending").header(HeaderId::RetryAfter, seconds);
                return Err(Box::new((relay, answer)));
            }
            self.bridges.changing.insert(relay.dialog);
            self.bridges.asked.insert(peer);
        }
        if let Err(answer) = self.judge_relay(&mut relay, &record) {
            return Err(Box::new((relay, answer)));
        }
        let message = &relay.request.message;
        let is_refresh =
            message.cseq().method == Method::Update && relay.parts.is_empty() && !message.has(HeaderId::McpSelect);
        if is_refresh {
            return self.refreshed_here(relay);
        }
        let operation = StoreOp::NextCseq { dialog: peer, terminating: false, close: None, fence: None };
        self.bridge_store(operation, Step::Cseq(Box::new(relay)));
        Ok(())
    }

    /// What policy says of a request of the caller's side. `Err`: its answer; a JSON-RPC error follows by itself.
    fn judge_relay(&mut self, relay: &mut Relay, record: &DialogRecord) -> Result<(), Answer> {
        let by_caller = !record.we_called;
        let principal = principal_of(record);
        let Some(domain) = self.config.domains.get(&record.domain).cloned() else { return Err(Answer::new(481)) };
        let Some(agent) = self.agent_at(&record.domain, &record.agent_user) else { return Err(Answer::new(481)) };
        if by_caller && !policies(&agent, &domain).visible(policy_principal(&principal)) {
            self.audit_refusal(&relay.request, &domain.domain, principal.as_str(), "default", 403);
            return Err(Answer::new(403).phrase("Denied By Policy"));
        }
        let Some(body) = relay.parts.mcp.clone() else { return Ok(()) };
        if record.mcp.is_none() {
            // Nothing was negotiated (NEG-5).
            return Err(Answer::unsupported_media("application/sdp"));
        }
        let envelope = match Envelope::parse(&body, &Bounds::default()) {
            Ok(envelope) => envelope,
            Err(_) if relay.is_invite() => return Ok(()),
            Err(refused) => {
                let sip = refused.sip();
                return Err(Answer::new(sip.status()).phrase(sip.phrase()));
            }
        };
        let asked = Asked::of(&envelope, &relay.request, record, &domain, &agent);
        if !by_caller {
            relay.asked = asked;
            return Ok(());
        }
        let (said, places) = self.take_said(&principal, &domain, &agent, &envelope);
        relay.places = places;
        let (error, code) = match said {
            Said::Pass => {
                relay.asked = asked;
                return Ok(());
            }
            Said::Shorter(body) => {
                relay.asked = asked;
                relay.mcp = Mcp::Replace(body);
                return Ok(());
            }
            Said::Refused(error) => (error, 403),
            Said::Limited(body, error) => (Some(body), error.code),
        };
        self.audit_refusal(&relay.request, &domain.domain, principal.as_str(), "default", code);
        let Some(body) = error.filter(|_| !relay.changes) else {
            return Err(if code == 403 { Answer::new(403).phrase("Denied By Policy") } else { self.over_quota() });
        };
        // Inside what was negotiated the error is a JSON-RPC one, and SIP says 200 (NEG-12).
        let exchange = relay.request.message.header(HeaderId::McpExchange);
        let exchange = exchange.and_then(|value| McpExchange::parse(value).ok()).map(|e| e.to_string());
        let is_info = relay.method() == "INFO";
        self.refuse_message(Refusal {
            dialog: relay.dialog,
            method: if is_info { "INFO" } else { "MESSAGE" },
            exchange,
            package: is_info && record.mcp.as_ref().is_some_and(|mcp| mcp.info_package),
            body,
        });
        Err(Answer::new(200))
    }

    /// The other leg's number: the request leaves.
    pub(super) fn relay_cseq(&mut self, mut relay: Relay, reply: Result<StoreReply, StoreError>) {
        let (cseq, version, record) = match reply {
            Ok(StoreReply::Cseq { cseq, version, record }) => (cseq, version, record),
            Ok(_) => return self.relay_refused(&relay, &Answer::new(481)),
            Err(_) => {
                let answer = self.unavailable("Store Unavailable");
                return self.relay_refused(&relay, &answer);
            }
        };
        if relay.record.as_ref().is_none_or(|own| own.we_called)
            && let Err(answer) = self.judge_agent(&mut relay, &record)
        {
            return self.relay_refused(&relay, &answer);
        }
        (relay.cseq, relay.peer_version) = (cseq, version);
        relay.peer_record = Some(record.clone());
        let Some(peer) = relay.peer else { return };
        self.reach_dialog(peer, &record, Located::Relay(Box::new(relay)));
    }

    /// A message of the agent's side: what of it the caller may have. `caller` is the record of the caller's dialog.
    fn judge_agent(&mut self, relay: &mut Relay, caller: &DialogRecord) -> Result<(), Answer> {
        let Some(body) = &relay.parts.mcp else { return Ok(()) };
        let Ok(envelope) = Envelope::parse(body, &Bounds::default()) else { return Ok(()) };
        let Some(domain) = self.config.domains.get(&caller.domain).cloned() else { return Err(Answer::new(481)) };
        let Some(agent) = self.agent_at(&caller.domain, &caller.agent_user) else { return Err(Answer::new(481)) };
        self.agent_said(&principal_of(caller), &agent, &envelope);
        match self.judge_said(&principal_of(caller), &domain, &agent, &envelope, false) {
            Said::Pass => Ok(()),
            Said::Shorter(body) => {
                relay.mcp = Mcp::Replace(body);
                Ok(())
            }
            Said::Refused(_) | Said::Limited(..) => Err(Answer::new(403).phrase("Denied By Policy")),
        }
    }

    pub(crate) fn send_relay(&mut self, mut relay: Relay, target: Option<Target>) {
        let Some(target) = target else {
            // Its flow is gone, and it did not register again in time.
            let answer = Answer::new(480).phrase("The Other Leg Is Out Of Reach");
            return self.relay_refused(&relay, &answer);
        };
        let (Some(record), Some(peer)) = (relay.peer_record.clone(), relay.peer) else { return };
        let listener = target.listener();
        relay.sent = match &relay.parts.sdp {
            Some(theirs) => match self.pass_sdp(theirs, Passed::of(&record).as_ref(), listener) {
                Ok(passed) => Some(passed),
                Err(error) => {
                    let answer = crate::call::plan::sdp_refusal(&error, &relay.caller.domain);
                    return self.relay_refused(&relay, &answer);
                }
            },
            None => None,
        };
        let message = relay.request.message.clone();
        let method = message.cseq().method.as_str().to_owned();
        let branch = self.new_branch();
        let via = self.via(target.transport(), listener, &branch);
        let hops = message.max_forwards().unwrap_or(70).saturating_sub(1);
        let with_mcp = record.mcp.is_some();
        let mut request = dialog_state(&record).request_with_hops(&method, relay.cseq, &via, hops);
        if relay.changes {
            let timer = record.session_timer.map_or(SessionTimer { interval: 1800, we_refresh: true }, |t| {
                SessionTimer { interval: t.interval_s, we_refresh: t.we_refresh }
            });
            let uac = relay.uac.unwrap_or_else(|| UacTimer::refresh(&timer, &SessionTimerPolicy::default()));
            relay.uac = Some(uac);
            request = request
                .header(HeaderId::Contact, self.leg_contact(peer, target.transport(), listener))
                .header(HeaderId::Allow, ALLOW)
                .header(HeaderId::SessionExpires, uac.header.to_string())
                .header(HeaderId::MinSe, uac.min_se.to_string());
        }
        let mut supported = self.passed_tags(&record.domain, &message, HeaderId::Supported, with_mcp);
        if relay.changes {
            supported.push("timer".to_owned());
        }
        if !supported.is_empty() {
            request = request.header(HeaderId::Supported, supported.join(", "));
        }
        let required = self.passed_tags(&record.domain, &message, HeaderId::Require, with_mcp);
        if !required.is_empty() {
            request = request.header(HeaderId::Require, required.join(", "));
        }
        let uuid = crate::session_id::remote(&message);
        let session_id = self.passed_session_id(uuid.as_deref(), message.call_id(), record.session_id.as_deref());
        request = request.header(HeaderId::SessionId, session_id);
        let body = relay.parts.with(relay.sent.as_ref().map(|passed| &passed.sdp), &relay.mcp);
        for line in copied::lines(&message, body.is_some(), with_mcp) {
            request = request.header_named(line.name, line.value);
        }
        if let Some((content_type, body)) = body {
            request = request.body(content_type, body);
        }
        let mut bytes = request.build();
        let mut target = target;
        if target.transport() == crate::input::Transport::Udp
            && bytes.len() > crate::carrier::DATAGRAM_BYTES
            && record.flow.is_none()
            && let Some(tcp) = self.by_tcp(&target)
        {
            // Its address is one that connections can be opened to (RFC 3261 §18.1.1).
            let by = self.via(tcp.transport(), tcp.listener(), &branch);
            bytes = sip_proto::message::Message::parse(bytes.clone(), Transportation::Stream)
                .map_or(bytes, |m| sip_proto::message::Edit::new(&m).replace_first_value(HeaderId::Via, by).build());
            target = tcp;
        }
        relay.target = Some(target.clone());
        let sent = self.send_request(&method, &branch, bytes, target, Purpose::Relay(Box::new(relay)));
        if let Err(Purpose::Relay(relay)) = sent {
            let answer = self.unavailable("Too Many Transactions");
            self.relay_refused(&relay, &answer);
        }
    }

    /// A provisional answer of the far end to a re-INVITE.
    pub(crate) fn relay_progress(&mut self, request: &Request, domain: &str, message: &Message) {
        let status = message.status().unwrap_or(100);
        if status > 100 && request.method() == "INVITE" {
            let bytes = self.passed_response(request, &request.tag, status, message, domain, false, Vec::new(), None);
            self.answer_bytes(request, status, bytes);
        }
    }

    pub(crate) fn relay_concluded(&mut self, mut relay: Relay, client: u64, outcome: Outcome<'_>) {
        let Some(peer) = relay.peer else { return };
        match &outcome {
            Outcome::TransportError if relay.tries < MAX_TRIES && !self.has_flow(peer) => {
                // The connection broke. The next try finds another way: a new registration, or its address.
                relay.tries += 1;
                let operation = StoreOp::NextCseq { dialog: peer, terminating: false, close: None, fence: None };
                return self.bridge_store(operation, Step::Cseq(Box::new(relay)));
            }
            Outcome::Response(message) => {
                let status = message.status().unwrap_or(500);
                if (200..300).contains(&status) && relay.changes {
                    relay.client = Some(client);
                    return self.relay_changed(relay, message);
                }
                if status == 422
                    && let Some(uac) = relay.uac.and_then(|uac| uac.on_422(message.min_se()).ok())
                {
                    relay.uac = Some(uac);
                    let operation = StoreOp::NextCseq { dialog: peer, terminating: false, close: None, fence: None };
                    return self.bridge_store(operation, Step::Cseq(Box::new(relay)));
                }
                self.pass_final(&relay, status, message);
            }
            // RFC 4320 §4.2: no 408 to a request that is no INVITE.
            Outcome::Timeout if relay.is_invite() => self.relay_refused(&relay, &Answer::new(408)),
            Outcome::Timeout | Outcome::TransportError => {
                self.relay_refused(&relay, &Answer::new(480).phrase("The Other Leg Is Out Of Reach"));
            }
        }
        self.after_dialog_response(peer, &outcome);
    }

    fn pass_final(&mut self, relay: &Relay, status: u16, message: &Message) {
        // Nobody's credentials are asked for but ours.
        if matches!(status, 300..=399 | 401 | 407) {
            return self.relay_refused(relay, &Answer::new(480));
        }
        let domain = relay.caller.domain.domain.clone();
        let with_mcp = relay.record.as_ref().is_some_and(|record| record.mcp.is_some());
        let mut lines = vec![self.session_line(relay, message)];
        if status < 300 && relay.method() == "OPTIONS" {
            lines.push((HeaderId::Allow, ALLOW.to_owned()));
        }
        let parts = Parts::read(message).unwrap_or_default();
        let body = parts.with(None, &Mcp::Keep);
        let bytes = self.passed_response(&relay.request, "", status, message, &domain, with_mcp, lines, body);
        self.relay_done(relay, status, bytes);
    }

    fn session_line(&self, relay: &Relay, message: &Message) -> (HeaderId, String) {
        let theirs = crate::session_id::remote(message);
        let own = crate::session_id::remote(&relay.request.message);
        (HeaderId::SessionId, self.passed_session_id(theirs.as_deref(), message.call_id(), own.as_deref()))
    }

    /// The request and the domain of a relay that waits for its answer.
    pub(crate) fn relay_facts(relay: &Relay) -> (Request, Arc<crate::config::DomainConfig>) {
        (relay.request.clone(), relay.caller.domain.clone())
    }
}
