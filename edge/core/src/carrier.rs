//! Carries what the engine delivers to the peer: MESSAGE out of a dialog, INFO or MESSAGE in one. Each delivery ends in one outcome.

use std::sync::Arc;

use bytes::Bytes;
use session_store::op::{StoreError, StoreOp, StoreReply};
use session_store::record::{Binding, DialogRecord, PeerFlow};
use sip_proto::message::{HeaderId, Message, Request};
use sip_proto::uri::{SipUri, Uri};

use crate::effect::LogLevel;
use crate::engine::{Carrier, Delivery, DeliveryOutcome, Leg, LegKey, Principal};
use crate::input::{ConnId, FlowKey, Transport};
use crate::locate::Located;
use crate::outgoing::MAX_FORWARDS;
use crate::page::MCP_JSON;
use crate::purpose::{Outcome, Purpose};
use crate::state::EdgeState;
use crate::token::FlowToken;
use crate::transactions::{Target, default_port};
use crate::waiting::Waiting;

/// Longest request over UDP (RFC 3261 §18.1.1); above it the same goes by TCP.
pub(crate) const DATAGRAM_BYTES: usize = 1300;

/// A delivery on the wire.
#[derive(Debug)]
pub(crate) struct Carried {
    pub delivery: Delivery,
    /// It is too large for the datagram that the leg uses, so it went by TCP.
    pub by_tcp: bool,
    /// It went on the flow of the caller's last request; the registered Contact is left to try.
    pub by_flow: bool,
    /// In a dialog: the flow that its record named.
    pub recorded: Option<String>,
    /// It was written on this connection of another edge.
    pub peer: Option<(u64, ConnId)>,
}

impl EdgeState {
    /// The engine wants this sent.
    pub(crate) fn deliver(&mut self, mut delivery: Delivery) {
        let limit = self.body_limit(&delivery.leg.domain);
        if delivery.body.len() > limit {
            return self.delivered(&delivery, DeliveryOutcome::TooLarge { limit });
        }
        // Its dialog and its exchange are not there yet, and are about to be.
        if self.is_degraded() && (delivery.leg.key.in_dialog() || delivery.close.is_some()) {
            return self.delivered(&delivery, DeliveryOutcome::StoreUnavailable);
        }
        let close = delivery.close.take();
        match (delivery.leg.key, close) {
            (LegKey::Dialog(dialog), close) => {
                let operation = StoreOp::NextCseq { dialog, terminating: false, close, fence: None };
                self.store(operation, Waiting::DeliveryCseq(Box::new(delivery)));
            }
            (LegKey::OutOfDialog(_), Some(close)) => {
                self.store(StoreOp::CloseExchange(*close), Waiting::DeliveryClose(Box::new(delivery)));
            }
            (LegKey::OutOfDialog(_), None) => self.page_out(delivery),
        }
    }

    /// Tells the engine how a delivery ended.
    pub(crate) fn delivered(&mut self, delivery: &Delivery, outcome: DeliveryOutcome) {
        let id = delivery.id;
        self.with_engine(|engine, ctx| engine.delivered(ctx, id, outcome));
    }

    pub(crate) fn delivery_closed(&mut self, mut delivery: Delivery, reply: Result<StoreReply, StoreError>) {
        match reply {
            Ok(StoreReply::Fenced) => return self.delivered(&delivery, DeliveryOutcome::Fenced),
            // A repetition moved the way back, perhaps to another edge.
            Ok(StoreReply::Closed { flow }) if flow.flow.is_some() && flow != delivery.leg.way.flow => {
                let mut leg = Leg::clone(&delivery.leg);
                leg.way.flow = flow;
                delivery.leg = Arc::new(leg);
            }
            // Unknown: its time was over; whether the caller still wants it is the caller's to say.
            Ok(_) => {}
            Err(_) => return self.delivered(&delivery, DeliveryOutcome::StoreUnavailable),
        }
        self.page_out(delivery);
    }

    /// To a caller out of a dialog: on the flow that its request came on, else on that of its last request, else to its registered Contact.
    fn page_out(&mut self, delivery: Delivery) {
        let known = self.way_of_peer(&delivery.leg.way.flow);
        match known.or_else(|| self.route_target(&delivery.leg.key)) {
            Some(target) => {
                let caller = delivery.leg.way.caller_uri.clone();
                self.send_page(delivery, &caller, target, true);
            }
            None => self.page_to_contact(delivery),
        }
    }

    /// The flow of the caller's last request, if it is alive and the address is the caller's.
    fn route_target(&self, leg: &LegKey) -> Option<Target> {
        let route = self.routes.get(leg)?;
        let alive = match &route.flow.key {
            FlowKey::Stream(conn) => self.flows.contains(*conn),
            FlowKey::Datagram { .. } => route.proven,
        };
        alive.then(|| Target::of_flow(&route.flow))
    }

    fn page_to_contact(&mut self, delivery: Delivery) {
        let Principal::User(user) = &delivery.leg.principal else { return self.page_past_lease(delivery, None) };
        let domain = Uri::parse(user).ok().and_then(|uri| uri.sip()).map(|uri| uri.host_str().to_ascii_lowercase());
        match domain.and_then(|d| self.config.domains.get(&d).cloned()) {
            Some(domain) => {
                let aor = self.aor_key(domain.tenant, user);
                self.store(StoreOp::ReadBindings { aor }, Waiting::DeliveryBindings(Box::new(delivery)));
            }
            None => self.page_past_lease(delivery, None),
        }
    }

    /// No living edge has a connection of the caller. One without a lease may still have it; that is tried once, then its Contact.
    fn page_past_lease(&mut self, mut delivery: Delivery, contact: Option<String>) {
        let way = delivery.avoid.is_none().then(|| self.way_past_lease(&delivery.leg.way.flow)).flatten();
        match (way, contact) {
            (Some(target), _) => {
                delivery.avoid = delivery.leg.way.flow.flow.clone();
                let caller = delivery.leg.way.caller_uri.clone();
                self.send_page(delivery, &caller, target, true);
            }
            (None, Some(uri)) => {
                self.locate(&uri, 0, Located::Page { delivery: Box::new(delivery), uri: uri.clone() });
            }
            (None, None) => self.delivered(&delivery, DeliveryOutcome::Unreachable),
        }
    }

    pub(crate) fn delivery_bindings(&mut self, delivery: Delivery, reply: Result<StoreReply, StoreError>) {
        let bindings = match reply {
            Ok(StoreReply::Bindings(bindings)) => bindings,
            Ok(_) => Vec::new(),
            Err(_) => return self.delivered(&delivery, DeliveryOutcome::StoreUnavailable),
        };
        // On its own connection, else at its address.
        let own = bindings.iter().find_map(|b| self.binding_flow(b).map(|target| (b.uri.clone(), target)));
        match (own, bindings.first()) {
            (Some((uri, target)), _) => self.page_at(delivery, &uri, target),
            (None, first) => self.page_past_lease(delivery, first.map(|binding| binding.uri.clone())),
        }
    }

    /// To a registered contact whose target is known.
    pub(crate) fn page_at(&mut self, delivery: Delivery, uri: &str, target: Target) {
        self.send_page(delivery, uri, target, false);
    }

    /// The connection that registered a contact, wherever it is, if it lives.
    fn binding_flow(&self, binding: &Binding) -> Option<Target> {
        let token = FlowToken::from_text(&self.config.token_keys, binding.flow.as_deref()?)?;
        self.way_of(&token, None)
    }

    /// The target that a URI with an IP address names.
    pub(crate) fn uri_target(&self, uri: &SipUri<'_>, listener: u16) -> Option<Target> {
        let transport = match uri.transport() {
            _ if uri.is_secure() => Transport::Tls,
            Some(t) if t.eq_ignore_ascii_case("tcp") => Transport::Tcp,
            Some(t) if t.eq_ignore_ascii_case("tls") => Transport::Tls,
            // A WebSocket client is reached on its own connection only.
            Some(t) if t.eq_ignore_ascii_case("ws") || t.eq_ignore_ascii_case("wss") => return None,
            _ => Transport::Udp,
        };
        let ip = uri.host().address()?;
        let port = uri.port().unwrap_or(default_port(transport));
        let listener = self.listener_for(transport, listener)?;
        Some(Target::Address { transport, listener, remote: (ip, port).into(), server_name: None })
    }

    /// A listener of that transport: `preferred` if it is one.
    pub(crate) fn listener_for(&self, transport: Transport, preferred: u16) -> Option<u16> {
        let listeners = &self.config.listeners;
        if listeners.get(usize::from(preferred)).is_some_and(|l| l.transport == transport) {
            return Some(preferred);
        }
        listeners.iter().position(|l| l.transport == transport).and_then(|i| u16::try_from(i).ok())
    }

    /// The same target by TCP, for what is too large for a datagram.
    pub(crate) fn by_tcp(&self, target: &Target) -> Option<Target> {
        let listener = self.listener_for(Transport::Tcp, target.listener())?;
        Some(Target::Address { transport: Transport::Tcp, listener, remote: target.remote(), server_name: None })
    }

    fn send_page(&mut self, delivery: Delivery, uri: &str, target: Target, by_flow: bool) {
        let (call_id, tag) = (self.new_call_id(), self.new_tag());
        let remote_id = self.routes.get(&delivery.leg.key).and_then(|route| route.session_id.clone());
        let session_id = self.session_id(&delivery.leg.call_id, remote_id.as_deref());
        let exchange = delivery.exchange.as_ref().map(ToString::to_string);
        let in_reply_to = delivery.leg.call_id.clone();
        let body = delivery.body.clone();
        let way = &delivery.leg.way;
        let (from, to) = (format!("<{}>;tag={tag}", way.agent_uri), format!("<{}>", way.caller_uri));
        let build = |via: String| {
            Request::new("MESSAGE", uri)
                .via(via)
                .header(HeaderId::MaxForwards, MAX_FORWARDS)
                .header(HeaderId::From, &from)
                .header(HeaderId::To, &to)
                .header(HeaderId::CallId, &call_id)
                .header(HeaderId::CSeq, "1 MESSAGE")
                .header(HeaderId::InReplyTo, &in_reply_to)
                .header(HeaderId::SessionId, &session_id)
                .header_if(HeaderId::McpExchange, exchange.as_ref())
                .body(MCP_JSON, body.clone())
                .build()
        };
        self.carry("MESSAGE", delivery, target, by_flow, None, build);
    }

    /// In the dialog: the CSeq is written, now it may leave.
    pub(crate) fn delivery_cseq(&mut self, delivery: Delivery, reply: Result<StoreReply, StoreError>) {
        let (cseq, record) = match reply {
            Ok(StoreReply::Cseq { cseq, record, .. }) => (cseq, record),
            Ok(StoreReply::Fenced) => return self.delivered(&delivery, DeliveryOutcome::Fenced),
            Ok(StoreReply::Unknown) if self.is_missed(&delivery) => {
                return self.delivered(&delivery, DeliveryOutcome::StoreUnavailable);
            }
            Ok(_) => return self.delivered(&delivery, DeliveryOutcome::Unreachable),
            Err(_) => return self.delivered(&delivery, DeliveryOutcome::StoreUnavailable),
        };
        let crate::engine::LegKey::Dialog(dialog) = delivery.leg.key else {
            return self.delivered(&delivery, DeliveryOutcome::Unreachable);
        };
        let is_dead = delivery.avoid.is_some() && delivery.avoid == record.flow;
        let then = Located::InDialog { delivery: Box::new(delivery), cseq, record: record.clone() };
        if is_dead {
            // The flow that the record names was tried just now; where the peer said it is to be found is left (RFC 3263).
            let listener = self.dialogs.get(&dialog).map_or(0, |local| local.flow.listener);
            let next_hop = crate::dialogs::dialog_state(&record).next_hop().to_owned();
            return self.locate(&next_hop, listener, then);
        }
        let known = self.flow_of_dialog(&record, dialog).is_some();
        let peer = PeerFlow { flow: record.flow.clone(), source: record.source.clone() };
        match self.way_past_lease(&peer).filter(|_| !known) {
            Some(target) => self.located(then, Some(target)),
            None => self.reach_dialog(dialog, &record, then),
        }
    }

    /// Whether the dialog of a message may only be missing for the moment.
    fn is_missed(&mut self, delivery: &Delivery) -> bool {
        matches!(delivery.leg.key, LegKey::Dialog(dialog) if self.may_come_back(dialog))
    }

    pub(crate) fn send_in_dialog(&mut self, delivery: Delivery, cseq: u32, record: &DialogRecord, target: Target) {
        let method = match delivery.carrier {
            Carrier::Info => "INFO",
            Carrier::Message => "MESSAGE",
        };
        let exchange = delivery.exchange.as_ref().map(ToString::to_string);
        let body = delivery.body.clone();
        let info = delivery.carrier == Carrier::Info;
        // The package only towards a peer that listed it (RFC 6086 §4.2.2); without it INFO is the legacy use.
        let package = info && record.mcp.as_ref().is_some_and(|mcp| mcp.info_package);
        let session_id = self.session_id(&record.call_id, record.session_id.as_deref());
        let state = crate::dialogs::dialog_state(record);
        let build = |via: String| {
            let mut request = state.request_with_cseq(method, cseq, &via).header(HeaderId::SessionId, &session_id);
            if package {
                request =
                    request.header(HeaderId::InfoPackage, "mcp").header(HeaderId::ContentDisposition, "Info-Package");
            }
            request.header_if(HeaderId::McpExchange, exchange.as_ref()).body(MCP_JSON, body.clone()).build()
        };
        let by_flow = target.is_flow();
        self.carry(method, delivery, target, by_flow, record.flow.clone(), build);
    }

    /// Chooses the transport by size, and sends.
    fn carry(
        &mut self,
        method: &'static str,
        delivery: Delivery,
        target: Target,
        by_flow: bool,
        recorded: Option<String>,
        build: impl Fn(String) -> Bytes,
    ) {
        // The store's reply, or that of DNS, may have been long on its way (sip.md, section 8, rule 2).
        if !self.may_act() && !delivery.is_stored {
            return self.delivered(&delivery, DeliveryOutcome::StoreUnavailable);
        }
        let branch = self.new_branch();
        let bytes = build(self.via(target.transport(), target.listener(), &branch));
        let too_large = target.transport() == Transport::Udp && bytes.len() > DATAGRAM_BYTES;
        let (target, bytes) = match (too_large, self.by_tcp(&target)) {
            (false, _) => (target, bytes),
            (true, Some(tcp)) => {
                let bytes = build(self.via(tcp.transport(), tcp.listener(), &branch));
                (tcp, bytes)
            }
            (true, None) => return self.delivered(&delivery, DeliveryOutcome::TooLarge { limit: DATAGRAM_BYTES }),
        };
        let peer = match &target {
            Target::Peer { pod, conn, .. } => Some((*pod, *conn)),
            Target::Flow { .. } | Target::Address { .. } => None,
        };
        let purpose = Purpose::Delivery(Box::new(Carried {
            delivery,
            by_tcp: too_large,
            by_flow: by_flow && !too_large,
            recorded,
            peer,
        }));
        if let Err(Purpose::Delivery(carried)) = self.send_request(method, &branch, bytes, target, purpose) {
            self.delivered(&carried.delivery, DeliveryOutcome::Unreachable);
        }
    }

    /// A delivery's request has its final outcome.
    pub(crate) fn delivery_concluded(&mut self, carried: Carried, outcome: Outcome<'_>) {
        if carried.by_flow && matches!(outcome, Outcome::TransportError) {
            let Carried { mut delivery, recorded, .. } = carried;
            match delivery.leg.key {
                LegKey::OutOfDialog(_) => self.page_to_contact(delivery),
                // The connection is gone: the peer's new one, if the record names it meanwhile, or its Contact.
                LegKey::Dialog(_) if delivery.avoid.is_none() => {
                    delivery.avoid = Some(recorded.unwrap_or_default());
                    self.deliver(delivery);
                }
                LegKey::Dialog(_) => self.delivered(&delivery, DeliveryOutcome::FlowLost),
            }
            return;
        }
        // Whether another edge's connection still leads to the caller, only that edge could see. A dialog does not end by one word of whoever
        // was reached there; what the record says next is believed.
        if let (Some((pod, ConnId(conn))), Outcome::Response(message)) = (carried.peer, &outcome)
            && message.status() == Some(481)
            && carried.delivery.leg.key.in_dialog()
            && !carried.delivery.met_stranger
        {
            let message = format!("connection {conn} of edge {pod:016x} led to a peer without that dialog (481)");
            self.log(LogLevel::Warn, message);
            return self.delivered(&carried.delivery, DeliveryOutcome::Stranger);
        }
        let told = match &outcome {
            Outcome::Response(message) => match (message.status().unwrap_or(500), retry_after(message)) {
                (200..=299, _) => DeliveryOutcome::Delivered,
                (503, Some(after_s)) => DeliveryOutcome::Later { status: 503, after_s },
                (status, _) => DeliveryOutcome::Refused { status },
            },
            Outcome::TransportError | Outcome::Timeout if carried.by_tcp => {
                DeliveryOutcome::TooLarge { limit: DATAGRAM_BYTES }
            }
            // Its Contact is not reached either: the peer may come back by itself (sip.md, section 12.2).
            Outcome::TransportError if carried.delivery.leg.key.in_dialog() => DeliveryOutcome::FlowLost,
            Outcome::TransportError | Outcome::Timeout => DeliveryOutcome::Unreachable,
        };
        self.delivered(&carried.delivery, told);
        if let LegKey::Dialog(dialog) = carried.delivery.leg.key {
            self.after_dialog_response(dialog, &outcome);
        }
    }
}

/// Seconds (RFC 3261 §20.33); a comment or parameters may follow.
fn retry_after(message: &Message) -> Option<u32> {
    let value = message.header_str(HeaderId::RetryAfter)?;
    let digits = value.trim_start().split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}
