//! Calls that come in: INVITE, ACK, CANCEL (RFC 3261 §9.2, §13.3; sip.md, section 7).
//!
//! Order: the guard with the INVITE is written before anything with an effect, and before a 100; the dialog record with the bytes of the
//! 2xx before the 200. The 2xx is repeated until its ACK, for 64·T1; then BYE.

pub(crate) mod ack;
pub(crate) mod adopted;
pub(crate) mod body;
pub(crate) mod cancel;
pub(crate) mod plan;

use std::sync::Arc;

use bytes::Bytes;
use session_store::key::{DialogKey, GuardKey};
use session_store::op::{CallState, StoreError, StoreOp, StoreReply};
use session_store::record::DialogRecord;
use sip_proto::message::{HeaderId, Message, Transportation};
use sip_proto::time::Now;

use crate::answer::Answer;
use crate::audit::AuditKind;
use crate::config::AgentConfig;
use crate::dialogs::{Accept, LocalDialog, RunningTimer, record_ttl_ms};
use crate::effect::Effect;
use crate::engine::{Carrier, Engine, Inbound, Leg, LegKey, Ticket, Verdict, Way};
use crate::gate::Caller;
use crate::input::Transport;
use crate::names;
use crate::random::keyed_hash;
use crate::request::Request;
use crate::state::EdgeState;
use crate::token::DialogToken;
use crate::transactions::{InviteProgress, ReplyTo};
use crate::waiting::Waiting;
use plan::Plan;

/// So long an INVITE may be with one edge that lives: as long as its guard. What a dead edge left is adopted by its lease, not by this time.
pub(crate) const LEASE_MS: u64 = session_store::op::GUARD_MS;

/// An INVITE that is being accepted.
#[derive(Debug)]
pub(crate) struct Call {
    pub request: Request,
    pub caller: Caller,
    pub agent: Arc<AgentConfig>,
    pub guard: GuardKey,
    pub dialog: DialogKey,
    pub plan: Plan,
    /// Of its transaction: an earlier one is over where this process has adopted its own remains.
    pub attempt: u32,
    /// Set once the record is written: what leaves then.
    pub accepted: Option<Accepted>,
}

#[derive(Debug)]
pub(crate) struct Accepted {
    bytes: Bytes,
    leg: Arc<Leg>,
    record: Box<DialogRecord>,
    native: Option<(Ticket, StoreOp)>,
}

impl EdgeState {
    /// An INVITE to a declared agent, from a caller who may see it.
    pub(crate) fn on_invite(
        &mut self,
        request: &Request,
        caller: Caller,
        agent: &Arc<AgentConfig>,
        merged: [u8; 16],
    ) -> Result<(), Answer> {
        if self.is_full() {
            self.stats.limit("sessionsPerPod");
            return Err(self.unavailable("Full"));
        }
        self.check_domain(&caller.domain)?;
        self.check_agent(agent)?;
        self.check_require(request, &caller, agent, &["timer"])?;
        let plan = self.plan(request, &caller, agent)?;
        let tenant = caller.domain.tenant;
        let from_tag = request.message.from_tag().unwrap_or_default().to_ascii_lowercase();
        let slot = self.slot(tenant, request.message.call_id(), &from_tag);
        let guard = self.guard_key(request, tenant, slot);
        let dialog = DialogKey { slot, tenant, id: self.random.bytes() };
        let mut request = request.clone();
        let Some(id) = self.open_server(&request.flow, &request.message, merged) else {
            self.stats.limit("serverTransactions");
            return Err(self.unavailable("Too Many Transactions"));
        };
        request.server = Some(id);
        self.servers.set_invite(id, InviteProgress { guard, opened: false, trying_due: false });
        let operation = StoreOp::OpenCall {
            guard,
            dialog,
            invite: self.invite_to_store(&request, &caller),
            owner: self.owner,
            lease_ms: LEASE_MS,
            nonce: caller.nonce.clone(),
        };
        self.opening += 1;
        let call = Call { request, caller, agent: agent.clone(), guard, dialog, plan, attempt: 0, accepted: None };
        self.store(operation, Waiting::OpenCall(Box::new(call)));
        Ok(())
    }

    pub(crate) fn guard_key(&self, request: &Request, tenant: u16, slot: u16) -> GuardKey {
        GuardKey { slot, tenant, hash: keyed_hash(self.naming_key(), "guard", &[&request.transaction]) }
    }

    /// Whether the INVITE still waits for its final answer (a CANCEL may have come meanwhile).
    fn is_pending(&self, call: &Call) -> bool {
        call.request.server.and_then(|id| self.servers.get(id)).is_some_and(|entry| entry.is_proceeding_invite())
    }

    /// The same INVITE is served by a later attempt, whose replies decide.
    fn is_superseded(&self, call: &Call) -> bool {
        call.request.server.and_then(|id| self.servers.get(id)).is_some_and(|entry| entry.attempt != call.attempt)
    }

    pub(crate) fn call_opened(&mut self, mut call: Call, reply: Result<StoreReply, StoreError>) {
        self.opening -= 1;
        if self.is_superseded(&call) {
            return;
        }
        match reply {
            Ok(StoreReply::CallOpened) => {
                self.authenticated(&call.request, &call.caller);
                self.accept_call(call);
            }
            Ok(StoreReply::CallAdopted { dialog, .. }) => {
                self.authenticated(&call.request, &call.caller);
                // The same INVITE was begun by an edge that is gone: the same dialog id gives the same tag.
                call.dialog = dialog;
                self.accept_call(call);
            }
            Ok(StoreReply::CallKnown { state, .. }) => self.call_known(&call.request, state),
            Ok(StoreReply::NonceReplayed) => {
                self.stats.failed_authentications += 1;
                let answer = self.challenge(&call.caller.domain, true);
                self.answer_if_pending(&call, &answer);
            }
            Ok(_) | Err(_) => {
                let answer = self.unavailable("Store Unavailable");
                self.answer_if_pending(&call, &answer);
            }
        }
    }

    fn answer_if_pending(&mut self, call: &Call, answer: &Answer) {
        if self.is_pending(call) {
            self.answer(&call.request, answer);
        }
    }

    /// The guard was there already: the same INVITE by another way (482), or a copy whose transaction this edge does not have.
    pub(crate) fn call_known(&mut self, request: &Request, state: CallState) {
        let branch = |bytes: &Bytes| {
            let message = Message::parse(bytes.clone(), Transportation::Stream).ok()?;
            message.top_via().branch().map(str::to_owned)
        };
        let ours = request.message.top_via().branch().map(str::to_owned);
        let replay = |bytes: &Bytes| ours.is_some() && branch(bytes) == ours;
        match state {
            CallState::Cancelled => self.answer_waiting(request, &Answer::new(487)),
            CallState::Rejected { response } if replay(&response) => {
                let status = Message::parse(response.clone(), Transportation::Stream).ok().and_then(|m| m.status());
                self.answer_bytes(request, status.unwrap_or(500), response);
            }
            CallState::Accepted { accept_bytes: Some(bytes) } if replay(&bytes) => {
                self.answer_bytes(request, 200, bytes);
            }
            // Another edge serves it. A copy over UDP asks again; on a stream nobody else could answer.
            CallState::Pending { owner } if owner != self.owner => {
                if request.flow.transport == Transport::Udp {
                    self.forget_server(request.server);
                    self.stats.drop_one("served by another edge");
                } else {
                    let answer = Answer::new(500).phrase("Served By Another Edge").header(HeaderId::RetryAfter, "1");
                    self.answer_waiting(request, &answer);
                }
            }
            _ => self.answer_waiting(request, &Answer::new(482).phrase("Merged Request")),
        }
    }

    /// Everything is decided: write the record with the 2xx.
    fn accept_call(&mut self, mut call: Call) {
        if let Some(id) = call.request.server {
            self.invite_opened(id);
        }
        if !self.is_pending(&call) {
            // A CANCEL was faster. The guard learns it, so that nobody accepts this INVITE later.
            let response = Answer::new(487).build(&call.request.message, &call.request.flow, &call.request.tag);
            let operation = StoreOp::RejectCall { guard: call.guard, owner: self.owner, response };
            return self.store(operation, Waiting::Nobody);
        }
        let leg = self.call_leg(&call);
        let native = match self.judge_native(&call, &leg) {
            Ok(native) => native,
            Err(answer) => return self.reject_call(&call, &answer),
        };
        let anonymous = call.caller.principal == crate::engine::Principal::Anonymous;
        let token = DialogToken { key: call.dialog, anonymous, bridged: false };
        let tag = token.tag(&self.config.token_keys);
        let answer = self.accept_answer(&call, &token);
        let bytes = answer.tag(&tag).build(&call.request.message, &call.request.flow, &tag);
        let record = match self.dialog_record(&call, &tag, &bytes) {
            Ok(record) => record,
            Err(answer) => {
                self.abandon(native);
                return self.reject_call(&call, &answer);
            }
        };
        let ttl_ms = record_ttl_ms(record.session_timer.as_ref());
        let (guard, dialog) = (call.guard, call.dialog);
        let record = Box::new(record);
        let conversation = record.mcp.as_ref().map(|mcp| &mcp.conversation);
        let conversation = conversation.map(|uuid| names::conversation(self.naming_key(), dialog.tenant, uuid));
        call.accepted = Some(Accepted { bytes, leg, record: record.clone(), native });
        self.opening += 1;
        let operation =
            StoreOp::AnswerCall { guard, owner: self.owner, dialog, record, ttl_ms, peer: None, conversation };
        self.store(operation, Waiting::AnswerCall(Box::new(call)));
    }

    fn abandon(&mut self, native: Option<(Ticket, StoreOp)>) {
        if let Some((ticket, _)) = native {
            self.engine.abandon(ticket);
        }
    }

    fn reject_call(&mut self, call: &Call, answer: &Answer) {
        let response = answer.build(&call.request.message, &call.request.flow, &call.request.tag);
        let operation = StoreOp::RejectCall { guard: call.guard, owner: self.owner, response: response.clone() };
        self.store(operation, Waiting::Nobody);
        self.answer_bytes(&call.request, answer.status, response);
    }

    pub(crate) fn call_answered(&mut self, mut call: Call, reply: Result<StoreReply, StoreError>) {
        self.opening -= 1;
        let Some(Accepted { bytes, leg, record, native }) = call.accepted.take() else { return };
        if self.is_superseded(&call) {
            return self.abandon(native);
        }
        match reply {
            Ok(StoreReply::Answered { version }) if self.is_pending(&call) => {
                self.establish(&call, leg, version, record, &bytes);
                self.answer_bytes(&call.request, 200, bytes);
                if let Some((ticket, operation)) = native {
                    self.store(operation, Waiting::Native(ticket));
                }
            }
            Ok(StoreReply::Answered { .. }) => {
                // The CANCEL did not reach the store, but its 487 has left: nobody will acknowledge this dialog.
                self.abandon(native);
                self.bury(call.dialog);
            }
            Ok(StoreReply::CallCancelled) => {
                self.abandon(native);
                self.answer_if_pending(&call, &Answer::new(487));
            }
            // Somebody else serves this call now, and answers it.
            Ok(StoreReply::Fenced) => {
                self.abandon(native);
                self.forget_server(call.request.server);
                self.stats.drop_one("fenced");
            }
            Ok(_) | Err(_) => {
                self.abandon(native);
                // Whether it was written is not known; if it was, it is no dialog, because the peer hears 503: unless a copy of the INVITE
                // got the 2xx from another edge meanwhile, then the store refuses and the dialog stands.
                let answer = self.unavailable("Store Unavailable");
                let response = answer.build(&call.request.message, &call.request.flow, &call.request.tag);
                self.store(StoreOp::RejectCall { guard: call.guard, owner: self.owner, response }, Waiting::Nobody);
                self.answer_if_pending(&call, &answer);
            }
        }
    }

    /// The session begins: what is continuous of it.
    fn establish(&mut self, call: &Call, leg: Arc<Leg>, version: u64, record: Box<DialogRecord>, bytes: &Bytes) {
        let reply_to = ReplyTo::new(&call.request.flow, &call.request.message.top_via());
        let (flow, record) = (call.request.flow.clone(), record);
        let mut local = LocalDialog::of_record(leg.clone(), version, flow, record, self.now);
        local.accept = Some(Accept::new(bytes.clone(), reply_to, self.now.mono));
        local.timer = call.plan.timer.map(|timer| RunningTimer::start(timer, self.now));
        local.peer_updates = call.request.message.list_has(HeaderId::Allow, "UPDATE");
        local.late_offer.clone_from(&call.plan.late_offer);
        self.keep_new(call.dialog, local);
        self.stats.sessions += 1;
        let record = self.session_audit(&leg, AuditKind::SessionStart, Some(self.since(call.request.received)));
        self.emit(Effect::Audit(record));
    }

    pub(crate) fn since(&self, then: Now) -> u64 {
        self.now.mono.0.saturating_sub(then.mono.0)
    }

    fn call_leg(&self, call: &Call) -> Arc<Leg> {
        let key = LegKey::Dialog(call.dialog);
        Arc::new(Leg {
            key,
            session: key.session(),
            domain: call.caller.domain.clone(),
            agent: call.agent.clone(),
            principal: call.caller.principal.clone(),
            call_id: call.request.message.call_id().to_owned(),
            mcp: Some(call.plan.mcp.clone()),
            carrier: if call.plan.mcp.info_package { Carrier::Info } else { Carrier::Message },
            plain_datagram: call.request.flow.transport == Transport::Udp,
            way: Way::default(),
        })
    }

    /// A JSON-RPC message in the INVITE itself: judged before the 200, written and forwarded after it.
    fn judge_native(&mut self, call: &Call, leg: &Arc<Leg>) -> Result<Option<(Ticket, StoreOp)>, Answer> {
        let Some(body) = call.plan.native.clone() else { return Ok(None) };
        let exchange = self.exchange_header(&call.request)?;
        let inbound = Inbound {
            leg: leg.clone(),
            exchange,
            body,
            transaction: call.request.transaction,
            received: call.request.received,
        };
        match self.with_engine(|engine, ctx| Engine::judge(engine, ctx, inbound)) {
            Verdict::Refuse { status, phrase } => Err(Answer::new(status).phrase(phrase)),
            Verdict::Write { ticket, open: Some(open), .. } => {
                Ok(Some((ticket, StoreOp::OpenExchange { open, nonce: None })))
            }
            Verdict::Write { ticket, open: None, once: Some(key) } => {
                Ok(Some((ticket, StoreOp::Once { key, ttl_ms: session_store::op::ANSWER_MS, nonce: None })))
            }
            Verdict::Write { ticket, open: None, once: None } => {
                Ok(Some((ticket, StoreOp::ReadDialog { dialog: call.dialog })))
            }
        }
    }

    /// The record of the dialog that this INVITE makes.
    fn dialog_record(&self, call: &Call, tag: &str, bytes: &Bytes) -> Result<DialogRecord, Answer> {
        plan::record(self, call, tag, bytes)
    }
}
