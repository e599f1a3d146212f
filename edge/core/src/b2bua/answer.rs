//! What a leg answers: provisional responses with their early dialog, and the 2xx that wins, with both records in the store before it
//! leaves.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use mcp_sip::envelope::Negotiation;
use session_store::key::DialogKey;
use session_store::op::{StoreError, StoreOp, StoreReply};
use session_store::record::{DialogPhase, DialogRecord, McpRecord, SessionTimerRecord};
use sip_proto::dialog::{DialogState, Phase};
use sip_proto::message::{HeaderId, Message};
use sip_proto::session_timer::{SessionExpires, SessionTimer};

use super::bodies::{Parts, Passed};
use super::legs::{LegState, by_datagram, dialog_of_response};
use super::policy::Offer;
use super::setup::{Setup, Stage};
use super::{LATE_OFFER, OWED_ACK, PEER_AOR, PEER_CONTACT, PEER_INSTANCE, Step};
use crate::audit::AuditKind;
use crate::dialogs::{Accept, LocalDialog, record_ttl_ms};
use crate::effect::Effect;
use crate::engine::{Carrier, Leg, LegKey, Principal};
use crate::gate::source;
use crate::gruu::instance;
use crate::input::{Flow, Transport};
use crate::names;
use crate::negotiate::option_tags;
use crate::state::EdgeState;
use crate::token::FlowToken;
use crate::transactions::{ReplyTo, Target};

/// Life of an early dialog's record (sip.md, section 6).
const EARLY_MS: u64 = 180_000;

/// What leaves once the records are written.
#[derive(Debug)]
pub(super) struct Accepted {
    bytes: Bytes,
    caller: Box<DialogRecord>,
    agent: Box<DialogRecord>,
    agent_key: DialogKey,
    client: u64,
    target: Target,
    response: Message,
    /// The description in the 2xx is an offer: the ACK waits for the caller's.
    late: bool,
}

/// An agent that accepted, and a call of which nobody knows whether it was written.
#[derive(Debug)]
pub(crate) struct Doubt {
    dialog: DialogKey,
    agent_key: DialogKey,
    target: Target,
    response: Message,
    late: bool,
}

/// What a response of a leg gives the caller.
struct Given {
    bytes: Bytes,
    sdp: Option<Passed>,
    offer: Offer,
    parts: Parts,
}

impl EdgeState {
    /// The response of a leg, as the caller gets it.
    fn given(&mut self, setup: &Setup, status: u16, message: &Message, with_body: bool) -> Option<Given> {
        let parts = if with_body { Parts::read(message).ok()? } else { Parts::default() };
        let domain = setup.caller.domain.clone();
        let offered = setup.offer.with_mcp;
        let offer = self.judge_answer(message, &parts, &setup.agent, &domain, &setup.caller.principal, offered);
        let flow = &setup.request.flow;
        let sdp = match &parts.sdp {
            // The version counts on from an early answer of the same leg: it is the same description (RFC 3264 §8).
            Some(theirs) => Some(self.pass_sdp(theirs, setup.given.as_ref(), flow.listener).ok()?),
            None => None,
        };
        let body = parts.with(sdp.as_ref().map(|passed| &passed.sdp), &offer.mcp);
        let tag = self.leg_tag(setup.dialog, &setup.caller);
        let mut lines = vec![
            (HeaderId::Contact, self.leg_contact(setup.dialog, flow.transport, flow.listener)),
            (
                HeaderId::SessionId,
                self.passed_session_id(
                    crate::session_id::remote(message).as_deref(),
                    message.call_id(),
                    crate::session_id::remote(&setup.request.message).as_deref(),
                ),
            ),
        ];
        if let Some(value) = &offer.capabilities {
            lines.push((HeaderId::McpCapabilities, value.clone()));
        }
        if (200..300).contains(&status) {
            let (_, expires, require) = &setup.timer;
            lines.push((HeaderId::SessionExpires, expires.to_string()));
            if *require {
                lines.push((HeaderId::Require, "timer".to_owned()));
            }
        }
        let bytes =
            self.passed_response(&setup.request, &tag, status, message, &domain.domain, offer.with_mcp, lines, body);
        Some(Given { bytes, sdp, offer, parts })
    }

    /// 18x to the caller; with a description or MCP in it, the early dialog is written first. Where several legs ring, their
    /// descriptions stay here: the caller has one dialog with us, and one answer to its offer.
    pub(super) fn pass_progress(&mut self, call: u64, index: usize, status: u16, message: &Message, alone: bool) {
        let Some(mut setup) = self.bridges.calls.remove(&call) else { return };
        let given = self.given(&setup, status, message, alone);
        let Some(Given { bytes, sdp, offer, parts }) = given else {
            self.bridges.calls.insert(call, setup);
            return self.stats.drop_one("unreadable provisional response");
        };
        if parts.sdp.is_none() && parts.mcp.is_none() {
            let request = setup.request.clone();
            self.bridges.calls.insert(call, setup);
            return self.answer_bytes(&request, status, bytes);
        }
        let record = self.caller_record(&setup, index, sdp.as_ref(), parts.sdp.is_some(), &offer, message, None);
        let (guard, dialog) = (setup.guard, setup.dialog);
        setup.given = sdp;
        self.bridges.calls.insert(call, setup);
        let Some(mut record) = record else { return };
        record.phase = DialogPhase::Early;
        record.peer = None;
        let operation =
            StoreOp::EarlyCall { guard, owner: self.owner, dialog, record: Box::new(record), ttl_ms: EARLY_MS };
        self.bridge_store(operation, Step::Early(call, status, bytes));
    }

    pub(super) fn setup_early(&mut self, call: u64, status: u16, bytes: Bytes, reply: Result<StoreReply, StoreError>) {
        let Some(setup) = self.bridges.calls.get_mut(&call) else { return };
        if reply.is_err() || matches!(reply, Ok(StoreReply::Fenced | StoreReply::CallCancelled | StoreReply::Unknown)) {
            // What could not be stored is not said; the final answer decides.
            return self.stats.drop_one("early dialog not written");
        }
        setup.early = true;
        let request = setup.request.clone();
        if setup.stage == Stage::Trying && self.is_waiting(&request) {
            self.answer_bytes(&request, status, bytes);
        }
    }

    /// A leg accepted.
    pub(super) fn leg_accepted(&mut self, call: u64, index: usize, client: u64, message: &Message) {
        let target = self.client_target(client);
        let waiting = self.bridges.calls.get(&call).is_some_and(|setup| {
            setup.stage == Stage::Trying
                && self.is_waiting(&setup.request)
                && setup.legs.get(index).is_some_and(|leg| matches!(leg.state, LegState::Trying(_)))
        });
        let Some(target) = target else { return };
        if !waiting {
            // Too late: somebody else won, or nobody waits any more.
            return self.acknowledge_and_end(message, &target, "SIP;cause=487;text=\"Call completed elsewhere\"");
        }
        let Some(mut setup) = self.bridges.calls.remove(&call) else { return };
        let Some(given) = self.given(&setup, 200, message, true) else {
            self.bridges.calls.insert(call, setup);
            self.acknowledge_and_end(message, &target, "SIP;cause=488");
            return self.leg_failed(call, index, 500, None);
        };
        let late = setup.parts.sdp.is_none() && given.parts.sdp.is_some();
        let caller = self.caller_record(
            &setup,
            index,
            given.sdp.as_ref(),
            given.parts.sdp.is_some(),
            &given.offer,
            message,
            Some(given.bytes.clone()),
        );
        let agent = self.agent_record(&setup, index, &given, message, &target);
        let (Some(mut caller), Some(mut agent)) = (caller, agent) else {
            self.bridges.calls.insert(call, setup);
            self.acknowledge_and_end(message, &target, "SIP;cause=500");
            return self.leg_failed(call, index, 500, None);
        };
        if late {
            agent.extra.insert(LATE_OFFER.to_owned(), "1".to_owned());
            caller.extra.insert(OWED_ACK.to_owned(), message.cseq().seq.to_string());
        }
        let agent_key = setup.legs[index].placed.dialog;
        setup.legs[index].state = LegState::Won;
        setup.stage = Stage::Answering(index);
        let conversation = given.offer.conversation.as_deref().or(setup.offer.conversation.as_deref());
        let conversation = conversation.map(|uuid| names::conversation(self.naming_key(), setup.dialog.tenant, uuid));
        let operation = StoreOp::AnswerCall {
            guard: setup.guard,
            owner: self.owner,
            dialog: setup.dialog,
            record: Box::new(caller.clone()),
            // One for both: neither may end before its own refresh.
            ttl_ms: record_ttl_ms(caller.session_timer.as_ref()).max(record_ttl_ms(agent.session_timer.as_ref())),
            peer: Some(Box::new((agent_key, agent.clone()))),
            conversation,
        };
        setup.accepted = Some(Accepted {
            bytes: given.bytes,
            caller: Box::new(caller),
            agent: Box::new(agent),
            agent_key,
            client,
            target,
            response: message.clone(),
            late,
        });
        self.bridges.calls.insert(call, setup);
        self.cancel_ringing(call, Some(index));
        self.bridge_store(operation, Step::Answered(call));
    }

    pub(super) fn setup_answered(&mut self, call: u64, reply: Result<StoreReply, StoreError>) {
        let Some(mut setup) = self.setup_over(call) else { return };
        let Some(accepted) = setup.accepted.take() else { return };
        let end = |core: &mut EdgeState, reason| core.acknowledge_and_end(&accepted.response, &accepted.target, reason);
        match reply {
            Ok(StoreReply::Answered { version }) if self.is_waiting(&setup.request) => {
                self.bridged(&setup, accepted, version);
            }
            Ok(StoreReply::Answered { .. }) => {
                // The CANCEL did not reach the store, but its 487 has left: nobody will acknowledge this dialog.
                end(self, "SIP;cause=487");
                self.bury(setup.dialog);
                self.bury(accepted.agent_key);
            }
            Ok(StoreReply::CallCancelled) => {
                end(self, "SIP;cause=487");
                self.answer_waiting(&setup.request, &crate::answer::Answer::new(487));
            }
            // Somebody else serves this call now, and answers it.
            Ok(StoreReply::Fenced) => {
                end(self, "SIP;cause=503");
                self.forget_server(setup.request.server);
                self.stats.drop_one("fenced");
            }
            Ok(_) | Err(_) => {
                // Whether it was written is not known; if it was, it is no call, because the caller hears 503: unless a copy of the INVITE
                // got the 2xx from another edge meanwhile, then the store refuses and the call stands.
                let answer = self.unavailable("Store Unavailable");
                let tag = self.leg_tag(setup.dialog, &setup.caller);
                let response = answer.build(&setup.request.message, &setup.request.flow, &tag);
                let operation = StoreOp::RejectCall { guard: setup.guard, owner: self.owner, response };
                let Accepted { agent_key, target, response, late, .. } = accepted;
                let doubt = Doubt { dialog: setup.dialog, agent_key, target, response, late };
                self.bridge_store(operation, Step::TakenBack(Box::new(doubt)));
                self.answer_waiting(&setup.request, &answer);
            }
        }
    }

    /// The store took the answer back, or did not.
    pub(super) fn setup_taken_back(&mut self, doubt: Doubt, reply: &Result<StoreReply, StoreError>) {
        match reply {
            // A copy of the INVITE has the 2xx, or somebody else has the call and sets it up anew: the agent's record tells which.
            Ok(StoreReply::Fenced) => {
                let operation = StoreOp::ReadDialog { dialog: doubt.agent_key };
                self.bridge_store(operation, Step::Doubted(Box::new(doubt)));
            }
            _ => {
                self.acknowledge_and_end(&doubt.response, &doubt.target, "SIP;cause=503");
                self.undo_answer(&[doubt.dialog, doubt.agent_key]);
            }
        }
    }

    /// The agent's record, where the answer was not taken back. Its ACK is the caller's where that one brings the description.
    pub(super) fn setup_doubted(&mut self, doubt: &Doubt, reply: &Result<StoreReply, StoreError>) {
        match reply {
            Ok(StoreReply::Dialog { .. }) if doubt.late => {}
            Ok(StoreReply::Dialog { .. }) => self.acknowledge_leg(&doubt.response, &doubt.target),
            _ => self.acknowledge_and_end(&doubt.response, &doubt.target, "SIP;cause=503"),
        }
    }

    /// Both records stand: the 2xx leaves, the agent has its ACK, and this edge runs the timers of both dialogs.
    fn bridged(&mut self, setup: &Setup, accepted: Accepted, version: u64) {
        let Accepted { bytes, caller, agent, agent_key, client, target, late, .. } = accepted;
        let flow = setup.request.flow.clone();
        let leg = self.bridged_leg(setup.dialog, &caller, by_datagram(&setup.request));
        let mut local = LocalDialog::of_record(leg.clone(), version, flow.clone(), caller, self.now);
        let reply_to = ReplyTo::new(&flow, &setup.request.message.top_via());
        local.accept = Some(Accept::new(bytes.clone(), reply_to, self.now.mono));
        local.peer_updates = setup.request.message.list_has(HeaderId::Allow, "UPDATE");
        self.keep_new(setup.dialog, local);
        let there = self.flow_of_target(&target);
        let agent_leg = self.bridged_leg(agent_key, &agent, target.transport() == Transport::Udp);
        let mut local = LocalDialog::of_record(agent_leg, version, there, agent.clone(), self.now);
        local.peer_updates = accepted.response.list_has(HeaderId::Allow, "UPDATE");
        self.keep_new(agent_key, local);
        self.stats.sessions += 1;
        let record = self.session_audit(&leg, AuditKind::SessionStart, Some(self.since(setup.request.received)));
        self.emit(Effect::Audit(record));
        self.answer_bytes(&setup.request, 200, bytes);
        if late {
            self.owe_ack(setup.dialog, client, agent_key, &agent, accepted.response.cseq().seq, &target);
        } else {
            let branch = self.new_branch();
            let via = self.via(target.transport(), target.listener(), &branch);
            let ack = dialog_of_response(&accepted.response).ack_2xx(accepted.response.cseq().seq, &via).build();
            self.acknowledge(client, ack);
        }
    }

    /// A leg of a bridge for what is continuous of it.
    pub(super) fn bridged_leg(&self, dialog: DialogKey, record: &DialogRecord, plain_datagram: bool) -> Arc<Leg> {
        let key = LegKey::Dialog(dialog);
        let domain = self.config.domains.get(&record.domain).cloned();
        let agent = self.agent_at(&record.domain, &record.agent_user);
        let (Some(domain), Some(agent)) = (domain, agent) else {
            unreachable!("a call is set up in a domain of the configuration that it was judged by")
        };
        let principal = match record.principal.as_str() {
            "anonymous" => Principal::Anonymous,
            user => Principal::User(user.to_owned()),
        };
        let carrier = match &record.mcp {
            Some(mcp) if mcp.info_package => Carrier::Info,
            _ => Carrier::Message,
        };
        Arc::new(Leg {
            key,
            session: key.session(),
            domain,
            agent,
            principal,
            call_id: record.call_id.clone(),
            mcp: record.mcp.clone(),
            carrier,
            plain_datagram,
            way: Default::default(),
        })
    }

    /// The flow behind a target, as far as it is known here.
    fn flow_of_target(&self, target: &Target) -> Arc<Flow> {
        if let Target::Flow { key: crate::input::FlowKey::Stream(conn), .. } = target
            && let Some(flow) = self.flows.get(*conn)
        {
            return flow.clone();
        }
        let (transport, listener, remote) = (target.transport(), target.listener(), target.remote());
        let local = self.config.listeners.get(usize::from(listener)).map_or(remote, |l| l.address);
        let key = match (transport, target) {
            (_, Target::Flow { key, .. }) => key.clone(),
            (Transport::Udp, _) => crate::input::FlowKey::Datagram { listener, remote },
            // The connection to it has no number here; the record's target leads there.
            _ => crate::input::FlowKey::Stream(crate::input::ConnId(u64::MAX)),
        };
        Arc::new(Flow { key, transport, listener, local, remote, certificate: None })
    }

    /// The record of the caller's dialog.
    #[allow(clippy::too_many_arguments, reason = "one record is these facts")]
    fn caller_record(
        &self,
        setup: &Setup,
        index: usize,
        sdp: Option<&Passed>,
        described: bool,
        offer: &Offer,
        message: &Message,
        bytes: Option<Bytes>,
    ) -> Option<DialogRecord> {
        let (invite, flow) = (&setup.request.message, &setup.request.flow);
        let tag = self.leg_tag(setup.dialog, &setup.caller);
        let state = DialogState::uas(invite, &tag, Phase::Confirmed, flow.transport == Transport::Tls).ok()?;
        let token =
            FlowToken { owner: self.owner, transport: flow.transport, listener: flow.listener, flow: flow.key.clone() };
        let mut extra = BTreeMap::new();
        if let Principal::User(user) = &setup.caller.principal {
            extra.insert(PEER_AOR.to_owned(), user.clone());
        }
        if let Some(instance) = invite.contacts().first().and_then(|contact| instance(contact.raw())) {
            extra.insert(PEER_INSTANCE.to_owned(), instance);
        }
        let (timer, ..) = &setup.timer;
        let mut record = DialogRecord {
            phase: DialogPhase::Accepted,
            cseq_out: state.local_cseq,
            cseq_in: state.remote_cseq,
            call_id: state.call_id,
            local_tag: state.local_tag,
            remote_tag: state.remote_tag,
            local_uri: state.local_uri,
            remote_uri: state.remote_uri,
            remote_target: state.remote_target,
            route_set: state.route_set,
            secure: state.secure,
            principal: setup.caller.principal.as_str().to_owned(),
            agent_user: setup.agent.user.clone(),
            domain: setup.caller.domain.domain.clone(),
            flow: Some(token.text(&self.config.token_keys)),
            local_sdp: None,
            remote_sdp: setup.parts.sdp.clone().filter(|_| described),
            sdp_version: 0,
            session_timer: Some(self.timer_record(timer)),
            mcp: self.negotiated(setup, offer, message, true),
            accept_bytes: bytes,
            session_id: crate::session_id::remote(invite),
            policy_epoch: self.config.epoch,
            created_at: self.now.wall.0,
            source: source(flow),
            owner: self.owner,
            peer: setup.legs.get(index).map(|leg| leg.placed.dialog),
            we_called: false,
            retention_ms: setup.caller.domain.retention_ms,
            extra,
        };
        if let Some(sdp) = sdp {
            sdp.note(&mut record);
        }
        Some(record)
    }

    /// The record of the agent's dialog.
    fn agent_record(
        &self,
        setup: &Setup,
        index: usize,
        given: &Given,
        message: &Message,
        target: &Target,
    ) -> Option<DialogRecord> {
        let leg = setup.legs.get(index)?;
        let state = dialog_of_response(message);
        let header = message.header(HeaderId::SessionExpires).and_then(|v| SessionExpires::parse(v).ok());
        let timer = leg.timer.on_success(header);
        let mut extra = BTreeMap::new();
        extra.insert(PEER_AOR.to_owned(), leg.way.aor.clone());
        if let Some(instance) = &leg.way.instance {
            extra.insert(PEER_INSTANCE.to_owned(), instance.clone());
        }
        extra.insert(PEER_CONTACT.to_owned(), leg.way.uri.clone());
        let contact = self.flow_of_target(target);
        let own = leg.way.flow.clone().or_else(|| {
            let token = FlowToken {
                owner: self.owner,
                transport: contact.transport,
                listener: contact.listener,
                flow: contact.key.clone(),
            };
            matches!(target, Target::Flow { .. }).then(|| token.text(&self.config.token_keys))
        });
        let mut record = DialogRecord {
            // Its ACK is ours to send, so nothing waits for one.
            phase: DialogPhase::Confirmed,
            call_id: state.call_id,
            local_tag: state.local_tag,
            remote_tag: state.remote_tag,
            local_uri: state.local_uri,
            remote_uri: state.remote_uri,
            remote_target: state.remote_target,
            route_set: state.route_set,
            secure: false,
            cseq_in: None,
            cseq_out: state.local_cseq,
            principal: leg.way.aor.clone(),
            agent_user: setup.agent.user.clone(),
            domain: setup.caller.domain.domain.clone(),
            flow: own,
            local_sdp: None,
            remote_sdp: given.parts.sdp.clone(),
            sdp_version: 0,
            session_timer: Some(self.timer_record(&timer)),
            mcp: self.negotiated(setup, &given.offer, message, false),
            accept_bytes: None,
            session_id: crate::session_id::remote(message),
            policy_epoch: self.config.epoch,
            created_at: self.now.wall.0,
            source: source(&contact),
            owner: self.owner,
            peer: Some(setup.dialog),
            we_called: true,
            retention_ms: setup.caller.domain.retention_ms,
            extra,
        };
        if let Some(sdp) = &leg.sdp {
            sdp.note(&mut record);
        }
        Some(record)
    }

    fn timer_record(&self, timer: &SessionTimer) -> SessionTimerRecord {
        SessionTimerRecord {
            interval_s: timer.interval,
            we_refresh: timer.we_refresh,
            expires_at: self.now.wall.plus_millis(u64::from(timer.interval) * 1000).0,
        }
    }

    /// What the two ends agreed on: MCP, if the 2xx has its tag or an answer (NEG-3, NEG-5).
    fn negotiated(&self, setup: &Setup, offer: &Offer, message: &Message, caller: bool) -> Option<McpRecord> {
        if !offer.with_mcp {
            return None;
        }
        let tags = option_tags(&setup.caller.domain);
        let sent = if caller { &setup.request.message } else { message };
        let listed = sent.list_values(HeaderId::Require).chain(sent.list_values(HeaderId::Supported));
        let tag = tags.first_in(listed).unwrap_or_else(|| tags.to_require(std::iter::empty())).to_owned();
        let body = Parts::read(message).ok().and_then(|parts| parts.mcp);
        let answer = body.and_then(|body| Negotiation::parse(&body).ok());
        let conversation = offer.conversation.clone().or_else(|| setup.offer.conversation.clone());
        Some(McpRecord {
            option_tag: tag,
            conversation: conversation.unwrap_or_default(),
            envelope: answer.is_some(),
            tools: answer.as_ref().map(|answer| answer.tools.iter().map(ToString::to_string).collect()),
            schemas: answer.as_ref().map(|answer| answer.schemas.clone()).unwrap_or_default(),
            versions: answer.map(|answer| answer.versions).unwrap_or_default(),
            peer_role: if caller { "caller".to_owned() } else { "callee".to_owned() },
            info_package: sent.list_has(HeaderId::RecvInfo, mcp_sip::INFO_PACKAGE),
        })
    }
}
