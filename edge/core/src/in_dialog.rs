//! Requests in a dialog: the sealed tag, the same principal, the CSeq claimed in the store, then the effect (sip.md, section 7;
//! security.md, section 6). A bad seal is 481 without touching the store.

pub(crate) mod change;

use std::sync::Arc;

use session_store::key::DialogKey;
use session_store::op::{OpenExchange, StoreError, StoreOp, StoreReply};
use session_store::record::{DialogRecord, PeerFlow};
use sip_proto::message::{HeaderId, Message, Transportation};
use sip_proto::method::Method;

use crate::answer::{ALLOW, Answer};
use crate::config::DomainConfig;
use crate::dialogs::LocalDialog;
use crate::engine::{Carrier, Closing, Engine, Inbound, Leg, LegKey, Principal, Ticket, Verdict, Way, Written};
use crate::gate::{Caller, source};
use crate::input::{Flow, Transport};
use crate::mesh::MeshMessage;
use crate::negotiate::option_tags;
use crate::random::keyed_hash;
use crate::request::Request;
use crate::state::EdgeState;
use crate::token::DialogToken;
use crate::waiting::Waiting;
use change::Changed;

/// What an in-dialog request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// MESSAGE or INFO with a body of MCP.
    Mcp(Carrier),
    /// INFO without a body: `MCP-Select`, or nothing.
    Select,
    Update,
    ReInvite,
    Bye,
    Options,
}

/// A request in a dialog on its way.
#[derive(Debug)]
pub(crate) struct InDialog {
    pub request: Request,
    pub caller: Caller,
    pub token: DialogToken,
    pub kind: Kind,
    /// The engine's judgement that waits for its write.
    pub ticket: Option<Ticket>,
    /// A further write that the engine asked for (a message in a re-INVITE).
    pub after: Option<(Ticket, StoreOp)>,
    /// What is committed.
    pub changed: Option<Changed>,
    pub tries: u8,
}

impl InDialog {
    pub fn dialog(&self) -> DialogKey {
        self.token.key
    }

    fn cseq(&self) -> u32 {
        self.request.message.cseq().seq
    }
}

impl EdgeState {
    pub(crate) fn on_in_dialog(&mut self, request: Request) {
        if let Err(answer) = self.serve_in_dialog(&request) {
            self.answer(&request, &answer);
        }
    }

    pub(crate) fn domain_of(&self, tenant: u16) -> Option<Arc<DomainConfig>> {
        self.config.domains.values().find(|domain| domain.tenant == tenant).cloned()
    }

    fn serve_in_dialog(&mut self, request: &Request) -> Result<(), Answer> {
        let tag = request.message.to_tag().unwrap_or_default();
        let Some(token) = DialogToken::from_tag(&self.config.token_keys, tag) else {
            self.stats.drop_one("bad seal");
            self.authenticate_addressed(request)?;
            return Err(Answer::new(481));
        };
        if token.bridged && request.message.cseq().method != Method::Bye {
            return self.bridge_in_dialog(request, token);
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
        let kind = self.kind_of(request)?;
        let tags = option_tags(&domain);
        let known = |tag: &str| tags.is_mcp(tag) || tag.eq_ignore_ascii_case("timer");
        let unknown: Vec<&str> = request.message.list_values(HeaderId::Require).filter(|tag| !known(tag)).collect();
        if !unknown.is_empty() {
            return Err(Answer::new(420).header(HeaderId::Unsupported, unknown.join(", ")));
        }
        if !self.has_room() && kind != Kind::Bye && !self.is_degraded() {
            self.stats.limit("storeOperations");
            return Err(self.unavailable("Too Much Work"));
        }
        let mut pending = InDialog {
            request: request.clone(),
            caller,
            token,
            kind,
            ticket: None,
            after: None,
            changed: None,
            tries: 0,
        };
        if self.is_degraded() {
            return self.in_dialog_degraded(pending);
        }
        if matches!(kind, Kind::Mcp(_))
            && let Some(until) = self.settles_until(domain.durability)
        {
            return Err(self.settles(until));
        }
        if kind == Kind::Bye {
            return self.on_bye(pending);
        }
        match self.dialogs.get(&token.key) {
            Some(local) => {
                let leg = local.leg.clone();
                self.claim(pending, &leg)
            }
            None => {
                self.open_in_dialog(&mut pending)?;
                self.store(StoreOp::ReadDialog { dialog: token.key }, Waiting::ReadDialog(Box::new(pending)));
                Ok(())
            }
        }
    }

    /// The method, and for INFO its package (RFC 6086): 405, 501, 469, 415.
    fn kind_of(&mut self, request: &Request) -> Result<Kind, Answer> {
        let message = &request.message;
        match message.cseq().method {
            Method::Invite => Ok(Kind::ReInvite),
            Method::Update => Ok(Kind::Update),
            Method::Message => Ok(Kind::Mcp(Carrier::Message)),
            Method::Bye => Ok(Kind::Bye),
            Method::Options => Ok(Kind::Options),
            Method::Info => {
                let package =
                    message.header_str(HeaderId::InfoPackage).map(|p| p.split(';').next().unwrap_or_default().trim());
                match package {
                    Some(name) if !name.eq_ignore_ascii_case("mcp") => {
                        Err(Answer::new(469).phrase("Bad Info Package").header(HeaderId::RecvInfo, "mcp"))
                    }
                    None if message.body().is_empty() => Ok(Kind::Select),
                    _ => Ok(Kind::Mcp(Carrier::Info)),
                }
            }
            Method::Prack
            | Method::Refer
            | Method::Subscribe
            | Method::Notify
            | Method::Publish
            | Method::Register
            | Method::Ack
            | Method::Cancel => Err(Answer::not_allowed()),
            Method::Extension(_) => Err(Answer::new(501)),
        }
    }

    pub(crate) fn open_in_dialog(&mut self, pending: &mut InDialog) -> Result<(), Answer> {
        if pending.request.server.is_some() {
            return Ok(());
        }
        let merged = keyed_hash(
            self.naming_key(),
            "merged",
            &[&pending.request.transaction, pending.request.method().as_bytes()],
        );
        match self.open_server(&pending.request.flow, &pending.request.message, merged) {
            Some(id) => {
                pending.request.server = Some(id);
                Ok(())
            }
            None => {
                self.stats.limit("serverTransactions");
                Err(self.unavailable("Too Many Transactions"))
            }
        }
    }

    /// The record, because this edge did not have the dialog: from now on it does.
    pub(crate) fn dialog_read(&mut self, pending: InDialog, reply: Result<StoreReply, StoreError>) {
        let (version, record) = match reply {
            Ok(StoreReply::Dialog { version, record }) => (version, record),
            Ok(StoreReply::Unknown) if self.may_come_back(pending.dialog()) => {
                let answer = self.unavailable("Store Was Emptied");
                return self.answer(&pending.request, &answer);
            }
            Ok(_) => return self.answer(&pending.request, &Answer::new(481)),
            Err(_) => {
                let answer = self.unavailable("Store Unavailable");
                return self.answer(&pending.request, &answer);
            }
        };
        let datagram = pending.request.flow.transport == Transport::Udp;
        let Some(leg) = self.leg_of(pending.dialog(), &record, datagram) else {
            // The agent is gone from the configuration.
            return self.answer(&pending.request, &Answer::new(481));
        };
        if record.principal == pending.caller.principal.as_str() {
            let flow = Arc::new(self.flow_of_record(&record));
            let local = LocalDialog::of_record(leg.clone(), version, flow, record, self.now);
            self.keep_new(pending.dialog(), local);
        }
        let request = pending.request.clone();
        if let Err(answer) = self.claim(pending, &leg) {
            self.answer(&request, &answer);
        }
    }

    /// A leg from its record.
    pub(crate) fn leg_of(&self, dialog: DialogKey, record: &DialogRecord, datagram: bool) -> Option<Arc<Leg>> {
        let domain = self.config.domains.get(&record.domain)?.clone();
        let agent = self.agent_of(record)?;
        let principal = match record.principal.as_str() {
            "anonymous" => Principal::Anonymous,
            user => Principal::User(user.to_owned()),
        };
        let key = LegKey::Dialog(dialog);
        let package = record.mcp.as_ref().is_some_and(|mcp| mcp.info_package);
        Some(Arc::new(Leg {
            key,
            session: key.session(),
            domain,
            agent,
            principal,
            call_id: record.call_id.clone(),
            mcp: record.mcp.clone(),
            carrier: if package { Carrier::Info } else { Carrier::Message },
            plain_datagram: datagram,
            way: Way::default(),
        }))
    }

    /// Judges what has to be judged before, and claims the CSeq.
    fn claim(&mut self, mut pending: InDialog, leg: &Arc<Leg>) -> Result<(), Answer> {
        // The store checks it, too; here it keeps a stranger's body away from the engine.
        if leg.principal != pending.caller.principal {
            self.audit_refusal(&pending.request, &leg.domain.domain, pending.caller.principal.as_str(), "default", 403);
            return Err(Answer::new(403).phrase("Another Principal's Dialog"));
        }
        let mut exchange = None;
        if let Kind::Mcp(carrier) = pending.kind {
            exchange = self.judge_in_dialog(&mut pending, leg, carrier)?;
        }
        if let Err(answer) = self.open_in_dialog(&mut pending) {
            self.abandon_ticket(pending.ticket.take());
            return Err(answer);
        }
        let flow = self.moved_flow(pending.dialog(), &pending.request.flow);
        let operation = StoreOp::Begin {
            dialog: pending.dialog(),
            by: pending.caller.actor(&pending.request.flow),
            flow,
            cseq: pending.cseq(),
            method: pending.request.method().to_owned(),
            nonce: pending.caller.nonce.clone(),
            exchange,
        };
        self.store(operation, Waiting::Begin(Box::new(pending)));
        Ok(())
    }

    /// The engine's judgement of a body; what is to be written for it.
    fn judge_in_dialog(
        &mut self,
        pending: &mut InDialog,
        leg: &Arc<Leg>,
        carrier: Carrier,
    ) -> Result<Option<Box<OpenExchange>>, Answer> {
        if leg.mcp.is_none() {
            return Err(Answer::unsupported_media("application/sdp"));
        }
        let body = self.mcp_body(&pending.request, &pending.caller)?;
        let header = self.exchange_header(&pending.request)?;
        let plain_datagram = pending.request.flow.transport == Transport::Udp;
        let leg = Arc::new(Leg { carrier, plain_datagram, ..Leg::clone(leg) });
        let (transaction, received) = (pending.request.transaction, pending.request.received);
        let inbound = Inbound { leg, exchange: header, body, transaction, received };
        match self.with_engine(|engine, ctx| Engine::judge(engine, ctx, inbound)) {
            Verdict::Refuse { status, phrase } => Err(Answer::new(status).phrase(phrase)),
            Verdict::Write { ticket, open, .. } => {
                pending.ticket = Some(ticket);
                Ok(open)
            }
        }
    }

    /// The peer is where it spoke last; the record learns it where that is news. Where other edges serve it, too, our copy does not tell.
    pub(crate) fn moved_flow(&self, dialog: DialogKey, flow: &Flow) -> Option<PeerFlow> {
        let known = self.dialogs.get(&dialog).filter(|_| self.membership.is_none());
        let same = known.is_some_and(|local| local.record.source == source(flow));
        (!same).then(|| self.peer_flow(flow))
    }

    pub(crate) fn abandon_ticket(&mut self, ticket: Option<Ticket>) {
        if let Some(ticket) = ticket {
            self.engine.abandon(ticket);
        }
    }

    pub(crate) fn begun(&mut self, mut pending: InDialog, reply: Result<StoreReply, StoreError>) {
        let (version, record, exchange) = match reply {
            Ok(StoreReply::Begun { version, record, exchange }) => (version, record, exchange),
            other => {
                self.abandon_ticket(pending.ticket.take());
                return self.not_begun(pending.dialog(), &pending.request, &pending.caller, other);
            }
        };
        self.authenticated(&pending.request, &pending.caller);
        if let Some(local) = self.dialogs.get_mut(&pending.dialog()) {
            local.flow = pending.request.flow.clone();
        }
        self.keep(pending.dialog(), version, record.clone());
        let session = LegKey::Dialog(pending.dialog()).session();
        self.with_engine(|engine, ctx| engine.caller_is_here(ctx, session));
        // Another edge may have changed the negotiated set behind the copy that this one judged by.
        let again = pending.ticket.as_ref().is_some_and(|ticket| self.engine.reconsider(ticket, record.mcp.as_ref()));
        if again {
            return self.judge_again(pending, version, record);
        }
        self.begun_with(pending, version, record, Ok(exchange.map_or(Written::Claimed, Written::Exchange)));
    }

    /// The CSeq is claimed; what the body needs in the journal is written by an operation of its own.
    fn judge_again(&mut self, mut pending: InDialog, version: u64, record: Box<DialogRecord>) {
        self.abandon_ticket(pending.ticket.take());
        let datagram = pending.request.flow.transport == Transport::Udp;
        let (Some(leg), Kind::Mcp(carrier)) = (self.leg_of(pending.dialog(), &record, datagram), pending.kind) else {
            return self.conclude(&pending, &Answer::new(481));
        };
        match self.judge_in_dialog(&mut pending, &leg, carrier) {
            Ok(Some(open)) => {
                let operation = StoreOp::OpenExchange { open, nonce: None };
                let pending = Box::new(pending);
                self.store(operation, Waiting::JudgedAgain { pending, version, record });
            }
            Ok(None) => self.begun_with(pending, version, record, Ok(Written::Claimed)),
            Err(answer) => self.conclude(&pending, &answer),
        }
    }

    /// What was written is known; the effect follows.
    pub(crate) fn begun_with(
        &mut self,
        mut pending: InDialog,
        version: u64,
        record: Box<DialogRecord>,
        written: Result<Written, StoreError>,
    ) {
        let mut answer = Answer::new(200);
        if let Some(ticket) = pending.ticket.take() {
            let sip = self.redeem(ticket, written);
            answer = self.sip_answer(sip);
        }
        let changes = match pending.kind {
            Kind::Update | Kind::ReInvite => true,
            Kind::Mcp(_) | Kind::Select => pending.request.message.has(HeaderId::McpSelect) && answer.status == 200,
            Kind::Bye | Kind::Options => false,
        };
        if changes {
            return self.change(pending, version, *record);
        }
        if pending.kind == Kind::Options {
            answer = answer.header(HeaderId::Allow, ALLOW);
            if let Some(leg) = self.dialogs.get(&pending.dialog()).map(|local| local.leg.clone()) {
                answer = self.capability_headers(answer, &leg.principal, &leg.domain, &leg.agent);
            }
        }
        let remote = crate::session_id::remote(&pending.request.message);
        let session_id = self.session_id(pending.request.message.call_id(), remote.as_deref());
        self.conclude(&pending, &answer.header(HeaderId::SessionId, session_id));
    }

    /// Answers, and stores the answer for a copy that reaches another edge. Nothing changed, so the answer does not wait for it.
    pub(crate) fn conclude(&mut self, pending: &InDialog, answer: &Answer) {
        let response = answer.build(&pending.request.message, &pending.request.flow, &pending.request.tag);
        let operation = StoreOp::Commit {
            dialog: pending.dialog(),
            cseq: pending.cseq(),
            response: response.clone(),
            record: None,
        };
        self.answer_bytes(&pending.request, answer.status, response);
        self.store(operation, Waiting::Nobody);
    }

    /// The store did not let a request in that dialog begin.
    pub(crate) fn not_begun(
        &mut self,
        dialog: DialogKey,
        request: &Request,
        caller: &Caller,
        reply: Result<StoreReply, StoreError>,
    ) {
        let answer = match reply {
            Ok(StoreReply::Replay { response }) => {
                let status = Message::parse(response.clone(), Transportation::Stream).ok().and_then(|m| m.status());
                return self.answer_bytes(request, status.unwrap_or(500), response);
            }
            Ok(StoreReply::InProgress) => {
                // Its answer is on its way, by this edge or another one.
                self.stats.drop_one("in progress");
                return self.forget_server(request.server);
            }
            Ok(StoreReply::OutOfOrder) => Answer::new(500).phrase("CSeq Out Of Order"),
            Ok(StoreReply::OtherPrincipal) => {
                let domain = caller.domain.domain.clone();
                self.audit_refusal(request, &domain, caller.principal.as_str(), "default", 403);
                Answer::new(403).phrase("Another Principal's Dialog")
            }
            Ok(StoreReply::NonceReplayed) => {
                self.stats.failed_authentications += 1;
                self.challenge(&caller.domain, true)
            }
            Ok(StoreReply::Unknown) if self.may_come_back(dialog) => self.unavailable("Store Was Emptied"),
            Ok(_) => {
                // The store has forgotten it, so we must, too.
                self.end_dialog(dialog, Closing::Expired);
                Answer::new(481)
            }
            Err(_) => self.unavailable("Store Unavailable"),
        };
        self.answer(request, &answer);
    }

    fn on_bye(&mut self, mut pending: InDialog) -> Result<(), Answer> {
        self.open_in_dialog(&mut pending)?;
        let remote = crate::session_id::remote(&pending.request.message);
        let session_id = self.session_id(pending.request.message.call_id(), remote.as_deref());
        let response = Answer::new(200).header(HeaderId::SessionId, session_id).build(
            &pending.request.message,
            &pending.request.flow,
            &pending.request.tag,
        );
        let operation = StoreOp::Terminate {
            dialog: pending.dialog(),
            by: pending.caller.actor(&pending.request.flow),
            cseq: pending.cseq(),
            response: response.clone(),
            nonce: pending.caller.nonce.clone(),
        };
        pending.changed = Some(Changed::only(response));
        self.store(operation, Waiting::Terminate(Box::new(pending)));
        Ok(())
    }

    pub(crate) fn terminated(&mut self, pending: &InDialog, reply: Result<StoreReply, StoreError>) {
        let response = pending.changed.as_ref().map(|changed| changed.response.clone()).unwrap_or_default();
        let dialog = pending.dialog();
        match reply {
            Ok(StoreReply::Dialog { record, .. }) => {
                self.answer_bytes(&pending.request, 200, response);
                self.end_dialog(dialog, Closing::Bye);
                let owner = record.owner.pod;
                if owner != self.owner.pod && self.lives(owner) {
                    let call_id = record.call_id.clone();
                    self.tell_edge(owner, MeshMessage::Ended { dialog, says_bye: false, call_id }, None);
                }
                self.bridge_ended(dialog, &record);
            }
            // A BYE of ours crossed this one.
            Ok(StoreReply::Gone) => self.answer_bytes(&pending.request, 200, response),
            Err(_)
                if self.dialogs.get(&dialog).is_some_and(|local| local.leg.principal == pending.caller.principal) =>
            {
                // The end is the end: BYE wins over an outage (sip.md, section 11), and the tombstone is tried once more.
                self.answer_bytes(&pending.request, 200, response);
                self.end_dialog(dialog, Closing::Bye);
                self.bury(dialog);
            }
            other => self.not_begun(pending.dialog(), &pending.request, &pending.caller, other),
        }
    }
}
