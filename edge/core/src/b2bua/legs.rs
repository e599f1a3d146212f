//! The legs that we open: one INVITE each, a dialog id, a Call-ID and a branch of its own, all from the core's generator and all in the
//! guard before it leaves.

use bytes::Bytes;
use session_store::key::DialogKey;
use session_store::record::CallLeg;
use sip_proto::dialog::DialogState;
use sip_proto::header::NameAddr;
use sip_proto::message::{HeaderId, Message, Request as Outgoing};
use sip_proto::session_timer::{SessionTimerPolicy, UacTimer};

use super::bodies::Passed;
use super::copied::{self, ALLOW};
use super::setup::{Setup, Stage};
use super::targets::{Way, Ways};
use crate::engine::Principal;
use crate::gate::{Caller, canonical};
use crate::input::Transport;
use crate::locate::Located;
use crate::outgoing::uri_name;
use crate::purpose::{Outcome, Purpose};
use crate::request::Request;
use crate::state::EdgeState;
use crate::token::{DialogToken, FlowToken};
use crate::transactions::Target;

/// Where a leg stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LegState {
    /// Not in the guard yet.
    Placing,
    /// On its way; with the number of its transaction once it left.
    Trying(Option<u64>),
    Failed,
    /// It accepted.
    Won,
}

/// One leg of a call.
#[derive(Debug)]
pub(super) struct BridgeLeg {
    /// As the guard has it.
    pub placed: CallLeg,
    pub way: Way,
    /// Further flows of the same instance.
    rest: Ways,
    pub state: LegState,
    pub timer: UacTimer,
    /// What it was sent, once it was.
    pub sdp: Option<Passed>,
    pub target: Option<Target>,
}

/// Who a request of ours is from: who was authenticated, whatever From says (SEC-4).
pub(super) fn asserted(caller: &Caller, from: &NameAddr<'_>) -> String {
    let said = from.typed_uri().sip().map(|uri| canonical(&uri.aor()));
    match &caller.principal {
        Principal::User(user) if said.as_ref() != Some(user) => user.clone(),
        Principal::User(_) | Principal::Anonymous => from.uri().to_owned(),
    }
}

impl EdgeState {
    /// Our tag in a dialog of a bridge.
    pub(super) fn leg_tag(&self, key: DialogKey, caller: &Caller) -> String {
        let anonymous = caller.principal == Principal::Anonymous;
        DialogToken { key, anonymous, bridged: true }.tag(&self.config.token_keys)
    }

    /// Our Contact in a dialog of a bridge.
    pub(super) fn leg_contact(&self, key: DialogKey, transport: Transport, listener: u16) -> String {
        let user = DialogToken { key, anonymous: false, bridged: true }.user(&self.config.token_keys);
        format!("<sip:{user}@{};transport={};gr>", self.advertised(listener, None), uri_name(transport))
    }

    /// A leg to the first of these ways.
    pub(super) fn add_leg(&mut self, call: u64, mut ways: Ways) {
        let Some(way) = ways.pop_front() else { return };
        let Some(slot) = self.bridges.calls.get(&call).map(|setup| setup.dialog) else { return };
        let key = DialogKey { id: self.random.bytes(), ..slot };
        let token = DialogToken { key, anonymous: false, bridged: true };
        let call_id = {
            let beside = self.bridges.calls.get(&call).map(|setup| setup.request.message.call_id().to_owned());
            self.call_id_beside(&beside.unwrap_or_default())
        };
        let placed = CallLeg {
            dialog: key,
            call_id,
            local_tag: token.tag(&self.config.token_keys),
            cseq: 1,
            target: way.uri.clone(),
            route_set: way.route_set.clone(),
            branch: self.new_branch(),
            flow: way.flow.clone(),
            source: String::new(),
            failed: false,
        };
        let timer = UacTimer::initial(&SessionTimerPolicy::default());
        let leg = BridgeLeg { placed, way, rest: ways, state: LegState::Placing, timer, sdp: None, target: None };
        if let Some(setup) = self.bridges.calls.get_mut(&call) {
            setup.legs.push(leg);
        }
    }

    /// The guard has it: where is it?
    pub(super) fn send_leg(&mut self, call: u64, index: usize) {
        let Some(leg) = self.bridges.calls.get_mut(&call).and_then(|setup| setup.legs.get_mut(index)) else { return };
        if leg.state != LegState::Placing {
            return;
        }
        leg.state = LegState::Trying(None);
        let way = leg.way.clone();
        let token = way.flow.as_deref().and_then(|text| FlowToken::from_text(&self.config.token_keys, text));
        if let Some(target) = token.and_then(|token| self.way_of(&token, None)) {
            return self.leg_at(call, index, Some(target));
        }
        if way.flow_only {
            return self.leg_failed(call, index, 430, None);
        }
        let next_hop = way.route_set.first().unwrap_or(&way.uri).clone();
        self.locate(&next_hop, 0, Located::Leg { call, index });
    }

    /// Its INVITE leaves.
    pub(crate) fn leg_at(&mut self, call: u64, index: usize, target: Option<Target>) {
        let Some(target) = target else { return self.leg_failed(call, index, 480, None) };
        let Some(mut setup) = self.bridges.calls.remove(&call) else { return };
        let sent = self.invite_leg(&mut setup, index, &target);
        let branch = setup.legs.get(index).map(|leg| leg.placed.branch.clone()).unwrap_or_default();
        self.bridges.calls.insert(call, setup);
        let Some(bytes) = sent else { return self.leg_failed(call, index, 488, None) };
        match self.send_request("INVITE", &branch, bytes, target, Purpose::Leg { call, index }) {
            Ok(()) => {
                let client = self.client_of_branch(&branch);
                if let Some(leg) = self.bridges.calls.get_mut(&call).and_then(|setup| setup.legs.get_mut(index))
                    && leg.state == LegState::Trying(None)
                {
                    leg.state = LegState::Trying(client);
                }
            }
            Err(_) => self.leg_failed(call, index, 500, None),
        }
    }

    /// The INVITE of a leg. `None`: its description cannot be passed on.
    fn invite_leg(&mut self, setup: &mut Setup, index: usize, target: &Target) -> Option<Bytes> {
        let sdp = match &setup.parts.sdp {
            Some(theirs) => Some(self.pass_sdp(theirs, None, target.listener()).ok()?),
            None => None,
        };
        let message = &setup.request.message;
        let domain = setup.caller.domain.domain.clone();
        let offer = &setup.offer;
        let body = setup.parts.with(sdp.as_ref().map(|passed| &passed.sdp), &offer.mcp);
        let leg = setup.legs.get_mut(index)?;
        let placed = &leg.placed;
        let from = message.from();
        let local_uri = asserted(&setup.caller, &from);
        let mut request = Outgoing::new("INVITE", &placed.target).via(self.via(
            target.transport(),
            target.listener(),
            &placed.branch,
        ));
        for route in &placed.route_set {
            request = request.header(HeaderId::Route, format!("<{route}>"));
        }
        let hops = message.max_forwards().unwrap_or(70).saturating_sub(1);
        request = request
            .header(HeaderId::MaxForwards, hops.to_string())
            .header(HeaderId::From, copied::party(&from, &local_uri, Some(&placed.local_tag)))
            .header(HeaderId::To, format!("<{}>", setup.callee))
            .header(HeaderId::CallId, &placed.call_id)
            .header(HeaderId::CSeq, format!("{} INVITE", placed.cseq))
            .header(HeaderId::Contact, self.leg_contact(placed.dialog, target.transport(), target.listener()))
            .header(HeaderId::Allow, ALLOW)
            .header(HeaderId::SessionExpires, leg.timer.header.to_string())
            .header(HeaderId::MinSe, leg.timer.min_se.to_string());
        let mut supported = self.passed_tags(&domain, message, HeaderId::Supported, offer.with_mcp);
        supported.push("timer".to_owned());
        request = request.header(HeaderId::Supported, supported.join(", "));
        let required = self.passed_tags(&domain, message, HeaderId::Require, offer.with_mcp);
        if !required.is_empty() {
            request = request.header(HeaderId::Require, required.join(", "));
        }
        let uuid = crate::session_id::remote(message);
        request = request.header(HeaderId::SessionId, self.passed_session_id(uuid.as_deref(), message.call_id(), None));
        if let Principal::User(user) = &setup.caller.principal {
            request = request.header(HeaderId::PAssertedIdentity, format!("<{user}>"));
        }
        for line in copied::lines(message, body.is_some(), offer.with_mcp) {
            if line.id == HeaderId::McpCapabilities && offer.capabilities.is_some() {
                continue;
            }
            request = request.header_named(line.name, line.value);
        }
        if let Some(value) = &offer.capabilities {
            request = request.header(HeaderId::McpCapabilities, value);
        }
        if let Some((content_type, body)) = body {
            request = request.body(content_type, body);
        }
        leg.sdp = sdp;
        leg.target = Some(target.clone());
        Some(request.build())
    }

    /// A leg has no dialog to offer: its next flow, or it is out.
    pub(super) fn leg_failed(&mut self, call: u64, index: usize, status: u16, message: Option<&Message>) {
        let Some(setup) = self.bridges.calls.get_mut(&call) else { return };
        let trying = setup.stage == Stage::Trying;
        let Some(leg) = setup.legs.get_mut(index) else { return };
        if leg.state == LegState::Failed {
            return;
        }
        leg.state = LegState::Failed;
        leg.placed.failed = true;
        // The flow has failed, or nobody answered on it: the next one of the same instance (RFC 5626 §5.3).
        if trying && matches!(status, 408 | 430 | 503) && !leg.rest.is_empty() {
            let rest = std::mem::take(&mut leg.rest);
            self.add_leg(call, rest);
            return self.place_legs(call);
        }
        self.leg_out(call, status, message);
    }

    /// The end of a leg's transaction.
    pub(crate) fn leg_concluded(&mut self, call: u64, index: usize, client: u64, outcome: Outcome<'_>) {
        match outcome {
            Outcome::Response(message) => {
                let status = message.status().unwrap_or(500);
                if (200..300).contains(&status) {
                    return self.leg_accepted(call, index, client, message);
                }
                if status == 422 && self.larger_interval(call, index, message) {
                    return;
                }
                self.leg_failed(call, index, status, Some(message));
            }
            Outcome::Timeout => self.leg_failed(call, index, 408, None),
            Outcome::TransportError => self.leg_failed(call, index, 430, None),
        }
    }

    /// 422: the same target with a larger interval (RFC 4028 §7.3), as a leg of its own.
    fn larger_interval(&mut self, call: u64, index: usize, message: &Message) -> bool {
        let Some(setup) = self.bridges.calls.get_mut(&call) else { return false };
        let trying = setup.stage == Stage::Trying;
        let Some(leg) = setup.legs.get_mut(index).filter(|_| trying) else { return false };
        let Ok(timer) = leg.timer.on_422(message.min_se()) else { return false };
        leg.state = LegState::Failed;
        leg.placed.failed = true;
        let mut ways = std::mem::take(&mut leg.rest);
        ways.push_front(leg.way.clone());
        self.add_leg(call, ways);
        if let Some(leg) = self.bridges.calls.get_mut(&call).and_then(|setup| setup.legs.last_mut()) {
            leg.timer = timer;
        }
        self.place_legs(call);
        true
    }

    /// Cancels what rings, but for one leg.
    pub(super) fn cancel_ringing(&mut self, call: u64, except: Option<usize>) {
        let Some(setup) = self.bridges.calls.get_mut(&call) else { return };
        let mut clients = Vec::new();
        for (index, leg) in setup.legs.iter_mut().enumerate() {
            if except == Some(index) {
                continue;
            }
            if let LegState::Trying(client) = leg.state {
                clients.extend(client);
                leg.state = LegState::Failed;
                leg.placed.failed = true;
            }
            if leg.state == LegState::Placing {
                leg.state = LegState::Failed;
            }
        }
        for client in clients {
            self.cancel_client(client);
        }
    }

    /// CANCELs for legs of another life or another edge, by what the guard has of them.
    pub(crate) fn cancel_legs(&mut self, legs: &[CallLeg], invite: &Message) {
        for leg in legs.iter().filter(|leg| !leg.failed).cloned().collect::<Vec<_>>() {
            let token = leg.flow.as_deref().and_then(|text| FlowToken::from_text(&self.config.token_keys, text));
            let target = token.and_then(|token| self.way_of(&token, None));
            let cancel = CancelOf { leg, from: invite.from().uri().to_owned(), to: invite.to().uri().to_owned() };
            match target {
                Some(target) => self.cancel_at(cancel, Some(target)),
                None => {
                    let next_hop = cancel.leg.route_set.first().unwrap_or(&cancel.leg.target).clone();
                    self.locate(&next_hop, 0, Located::Cancel(Box::new(cancel)));
                }
            }
        }
    }

    pub(crate) fn cancel_at(&mut self, cancel: CancelOf, target: Option<Target>) {
        let Some(target) = target else { return self.stats.drop_one("leg out of reach") };
        let CancelOf { leg, from, to } = cancel;
        let mut request =
            Outgoing::new("CANCEL", &leg.target).via(self.via(target.transport(), target.listener(), &leg.branch));
        for route in &leg.route_set {
            request = request.header(HeaderId::Route, format!("<{route}>"));
        }
        let bytes = request
            .header(HeaderId::MaxForwards, "70")
            .header(HeaderId::From, format!("<{from}>;tag={}", leg.local_tag))
            .header(HeaderId::To, format!("<{to}>"))
            .header(HeaderId::CallId, &leg.call_id)
            .header(HeaderId::CSeq, format!("{} CANCEL", leg.cseq))
            .build();
        if self.send_request("CANCEL", &leg.branch, bytes, target, Purpose::Nothing).is_err() {
            self.stats.drop_one("leg out of reach");
        }
    }

    /// A dialog that nobody wants any more: ACK, then BYE. Whether the store has it is not known where its write had no answer; then
    /// whoever adopts it says BYE, too, with the next number.
    pub(crate) fn acknowledge_and_end(&mut self, message: &Message, target: &Target, reason: &str) {
        self.acknowledge_leg(message, target);
        let state = dialog_of_response(message);
        let branch = self.new_branch();
        let via = self.via(target.transport(), target.listener(), &branch);
        let number = self.cseq_of_nobody(message.cseq().seq);
        let bye = state.request_with_cseq("BYE", number, &via).header(HeaderId::Reason, reason).build();
        if self.send_request("BYE", &branch, bye, target.clone(), Purpose::Nothing).is_err() {
            self.stats.drop_one("leg out of reach");
        }
    }

    /// ACK of a 2xx without an offer (RFC 3261 §13.2.2.4).
    pub(crate) fn acknowledge_leg(&mut self, message: &Message, target: &Target) {
        let state = dialog_of_response(message);
        let branch = self.new_branch();
        let via = self.via(target.transport(), target.listener(), &branch);
        let ack = state.ack_2xx(message.cseq().seq, &via).build();
        self.send_to_target(target, ack, None);
    }

    /// A provisional response of a leg.
    pub(crate) fn leg_progress(&mut self, call: u64, index: usize, message: &Message) {
        let status = message.status().unwrap_or(100);
        let Some(setup) = self.bridges.calls.get(&call) else { return };
        if status == 100 || setup.stage != Stage::Trying || !self.is_waiting(&setup.request) {
            return;
        }
        let Some(leg) = setup.legs.get(index).filter(|leg| matches!(leg.state, LegState::Trying(_))) else { return };
        let alone = setup.legs.iter().filter(|leg| matches!(leg.state, LegState::Trying(_))).count() == 1;
        let _ = leg;
        self.pass_progress(call, index, status, message, alone);
    }
}

/// A leg to cancel.
#[derive(Debug)]
pub(crate) struct CancelOf {
    leg: CallLeg,
    from: String,
    to: String,
}

/// The dialog that a response of the peer to our INVITE speaks of, without the INVITE.
pub(super) fn dialog_of_response(message: &Message) -> DialogState {
    let mut route_set: Vec<String> = message.record_routes().map(|route| route.uri().to_owned()).collect();
    route_set.reverse();
    let contact = message.contacts().first().map(|contact: NameAddr<'_>| contact.uri().to_owned());
    let cseq = message.cseq().seq;
    DialogState {
        call_id: message.call_id().to_owned(),
        local_tag: message.from_tag().unwrap_or_default().to_owned(),
        remote_tag: message.to_tag().unwrap_or_default().to_owned(),
        local_uri: message.from().uri().to_owned(),
        remote_uri: message.to().uri().to_owned(),
        remote_target: contact.unwrap_or_else(|| message.to().uri().to_owned()),
        route_set,
        local_cseq: cseq,
        remote_cseq: None,
        invite_cseq: cseq,
        secure: false,
        role: sip_proto::dialog::Role::Uac,
        phase: sip_proto::dialog::Phase::Confirmed,
    }
}

/// Whether a request came by datagrams.
pub(super) fn by_datagram(request: &Request) -> bool {
    request.flow.transport == Transport::Udp
}
