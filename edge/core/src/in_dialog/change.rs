//! What changes a session: re-INVITE, UPDATE (RFC 3311), and `MCP-Select` in INFO (NEG-8). Policy is read again; the new record is
//! written by compare-and-set together with the response, then the response leaves.

use std::sync::Arc;

use bytes::Bytes;
use mcp_sip::envelope::{Negotiation, Role, Step};
use mcp_sip::headers::Select;
use mcp_sip::jsonrpc::{Bounds, Envelope};
use mcp_sip::negotiation::{self, Permitted, Tools};
use session_store::key::DialogKey;
use session_store::op::{StoreError, StoreOp, StoreReply};
use session_store::record::{DialogPhase, DialogRecord, SessionTimerRecord};
use sip_proto::dialog::is_target_refresh;
use sip_proto::header::Handling;
use sip_proto::message::HeaderId;
use sip_proto::multipart::MultipartBuilder;
use sip_proto::sdp::{SdpOrigin, answer_without_media};
use sip_proto::session_timer::SessionTimer;

use super::{InDialog, Kind};
use crate::answer::{ACCEPT, ALLOW, Answer};
use crate::call::body::Bodies;
use crate::call::plan::{
    NEGOTIATED, accepts, capabilities_header, negotiate_timer, sdp_refusal, select_header, tool_refs,
};
use crate::dialogs::{Accept, RunningTimer, dialog_state, record_ttl_ms};
use crate::engine::{Engine, Inbound, Leg, Verdict};
use crate::gate::{policies, policy_principal};
use crate::input::Transport;
use crate::negotiate::{capabilities, declared, shows, supported, versions};
use crate::page::{MCP_JSON, rule_name};
use crate::request::Request;
use crate::state::EdgeState;
use crate::transactions::ReplyTo;
use crate::waiting::Waiting;

/// A lost race is run again so often.
const MAX_TRIES: u8 = 3;
/// Member of a record's `extra`: the session id of our `o=` line.
pub(crate) const SDP_ID: &str = "sdp.id";

/// What is committed.
#[derive(Debug)]
pub(crate) struct Changed {
    pub response: Bytes,
    record: Option<Box<DialogRecord>>,
    timer: Option<SessionTimer>,
}

impl Changed {
    /// A response alone.
    pub fn only(response: Bytes) -> Changed {
        Changed { response, record: None, timer: None }
    }
}

/// The body of the 2xx.
type Body = Option<(String, Bytes)>;

impl EdgeState {
    /// The CSeq is claimed: make the change and write it.
    pub(crate) fn change(&mut self, mut pending: InDialog, version: u64, record: DialogRecord) {
        if pending.kind == Kind::ReInvite || pending.kind == Kind::Update {
            if let Err(answer) = self.check_glare(&pending) {
                return self.conclude(&pending, &answer);
            }
            if let Some(local) = self.dialogs.get_mut(&pending.dialog()) {
                local.changing = true;
            }
        }
        match self.changed(&mut pending, record) {
            Ok(changed) => {
                let record = changed.record.clone().map(|record| {
                    let ttl_ms = record_ttl_ms(record.session_timer.as_ref());
                    (version, record, ttl_ms)
                });
                let operation = StoreOp::Commit {
                    dialog: pending.dialog(),
                    cseq: pending.request.message.cseq().seq,
                    response: changed.response.clone(),
                    record,
                };
                pending.changed = Some(changed);
                self.store(operation, Waiting::Commit(Box::new(pending)));
            }
            Err(answer) => {
                self.unchanging(pending.dialog());
                self.abandon_after(&mut pending);
                self.conclude(&pending, &answer);
            }
        }
    }

    fn abandon_after(&mut self, pending: &mut InDialog) {
        let ticket = pending.after.take().map(|(ticket, _)| ticket);
        self.abandon_ticket(ticket);
    }

    fn unchanging(&mut self, dialog: DialogKey) {
        if let Some(local) = self.dialogs.get_mut(&dialog) {
            local.changing = false;
        }
    }

    /// RFC 3261 §14.2, RFC 3311 §5.2: 491 while a request of ours is under way, 500 while one of the peer's is.
    fn check_glare(&mut self, pending: &InDialog) -> Result<(), Answer> {
        let Some(local) = self.dialogs.get(&pending.dialog()) else { return Ok(()) };
        if local.refreshing {
            return Err(Answer::new(491));
        }
        if local.changing || (pending.kind == Kind::ReInvite && local.accept.is_some()) {
            let seconds = self.random.below(11);
            return Err(Answer::new(500)
                .phrase("Another Change Is Pending")
                .header(HeaderId::RetryAfter, seconds.to_string()));
        }
        Ok(())
    }

    fn changed(&mut self, pending: &mut InDialog, mut record: DialogRecord) -> Result<Changed, Answer> {
        let request = pending.request.clone();
        let message = &request.message;
        let Some(leg) = self.leg_of(pending.dialog(), &record, request.flow.transport == Transport::Udp) else {
            return Err(Answer::new(481));
        };
        self.check_policy_again(&request, &leg)?;
        let mut body: Body = None;
        let mut timer = None;
        let mut answer = Answer::new(200);
        let select = select_header(message, &leg.domain)?;
        if matches!(pending.kind, Kind::Update | Kind::ReInvite) {
            capabilities_header(message, &leg.domain)?;
            let bodies = Bodies::read(message)?;
            if [&bodies.sdp, &bodies.mcp].into_iter().flatten().any(|body| body.len() > self.body_limit(&leg.domain)) {
                self.stats.limit("sipBodyBytes");
                return Err(Answer::new(413));
            }
            let envelope = self.changed_mcp(pending, &request, &leg, &mut record, &bodies)?;
            let sdp = self.changed_sdp(&request, &leg, &mut record, &bodies, pending.kind)?;
            body = joined(sdp, envelope);
            let current =
                record.session_timer.map(|t| SessionTimer { interval: t.interval_s, we_refresh: t.we_refresh });
            let (running, header, require) = negotiate_timer(message, current.as_ref())?;
            timer = Some(running);
            record.session_timer = Some(SessionTimerRecord {
                interval_s: running.interval,
                we_refresh: running.we_refresh,
                expires_at: self.now.wall.plus_millis(u64::from(running.interval) * 1000).0,
            });
            answer = answer
                .header(HeaderId::Contact, self.contact(&pending.token, &request))
                .header(HeaderId::Allow, ALLOW)
                .header(HeaderId::Accept, ACCEPT)
                .header(HeaderId::SessionExpires, header.to_string());
            if require {
                answer = answer.header(HeaderId::Require, "timer");
            }
            if is_target_refresh(message.cseq().method) {
                let mut state = dialog_state(&record);
                state.refresh_target(message);
                record.remote_target = state.remote_target;
            }
        }
        if let Some(mcp) = &mut record.mcp
            && message.has(HeaderId::RecvInfo)
        {
            // RFC 6086 §5.2.2: the set that the peer takes may change.
            mcp.info_package = message.list_has(HeaderId::RecvInfo, mcp_sip::INFO_PACKAGE);
        }
        if let Some(select) = &select {
            self.selected(&leg, &mut record, select)?;
        }
        record.policy_epoch = self.config.epoch;
        if let Some(mcp) = &record.mcp {
            let tools = match &mcp.tools {
                Some(tools) => tool_refs(tools),
                None => declared(&leg.agent, &leg.domain, &leg.principal).unwrap_or_default(),
            };
            answer = answer
                .header(HeaderId::Supported, supported(&leg.domain))
                .header(HeaderId::RecvInfo, mcp_sip::INFO_PACKAGE)
                .header(HeaderId::McpCapabilities, capabilities(&leg.agent, tools));
        }
        let remote = crate::session_id::remote(message);
        answer = answer.header(HeaderId::SessionId, self.session_id(message.call_id(), remote.as_deref()));
        if let Some((content_type, body)) = body {
            answer = answer.body(content_type, body);
        }
        let response = answer.build(message, &request.flow, &request.tag);
        // RFC 3261 §14.2: the 2xx is repeated until its ACK as that of the first INVITE is; whoever adopts the dialog goes on with that. Only
        // where this edge hears of the ACK: another one would leave it without its end.
        if pending.kind == Kind::ReInvite && self.owns(pending.dialog()) {
            record.phase = DialogPhase::Accepted;
            record.accept_bytes = Some(response.clone());
        }
        Ok(Changed { response, record: Some(Box::new(record)), timer })
    }

    /// Security rule 8: policy is read again on every change.
    fn check_policy_again(&mut self, request: &Request, leg: &Leg) -> Result<(), Answer> {
        let policies = policies(&leg.agent, &leg.domain);
        let principal = policy_principal(&leg.principal);
        let denied = policies.mcp_denied_for_all().or_else(|| policies.nothing_left(principal));
        let rule = match denied {
            Some(decision) => Some(rule_name(&decision)),
            None if !policies.visible(principal) => Some("default".to_owned()),
            None => None,
        };
        match rule {
            Some(rule) => {
                self.audit_refusal(request, &leg.domain.domain, leg.principal.as_str(), &rule, 403);
                Err(Answer::new(403).phrase("Denied By Policy"))
            }
            None => Ok(()),
        }
    }

    /// The MCP body of a re-INVITE: a new offer, or a message. In UPDATE there is none (NEG-9).
    fn changed_mcp(
        &mut self,
        pending: &mut InDialog,
        request: &Request,
        leg: &Arc<Leg>,
        record: &mut DialogRecord,
        bodies: &Bodies,
    ) -> Result<Option<Bytes>, Answer> {
        let Some(body) = &bodies.mcp else { return Ok(None) };
        if pending.kind != Kind::ReInvite {
            return Err(Answer::new(400).phrase("MCP Body In UPDATE"));
        }
        if Envelope::parse(body, &Bounds::default()).is_ok() {
            let exchange = self.exchange_header(request)?;
            let (transaction, received) = (request.transaction, request.received);
            let inbound = Inbound { leg: leg.clone(), exchange, body: body.clone(), transaction, received };
            let dialog = pending.dialog();
            let (ticket, operation) = match self.with_engine(|engine, ctx| Engine::judge(engine, ctx, inbound)) {
                Verdict::Refuse { status, phrase } => return Err(Answer::new(status).phrase(phrase)),
                Verdict::Write { ticket, open: Some(open), .. } => {
                    (ticket, StoreOp::OpenExchange { open, nonce: None })
                }
                Verdict::Write { ticket, once: Some(key), .. } => {
                    (ticket, StoreOp::Once { key, ttl_ms: session_store::op::ANSWER_MS, nonce: None })
                }
                Verdict::Write { ticket, .. } => (ticket, StoreOp::ReadDialog { dialog }),
            };
            self.abandon_after(pending);
            pending.after = Some((ticket, operation));
            return Ok(None);
        }
        let bad = |error: &dyn std::fmt::Display| Answer::new(400).phrase(&format!("Bad MCP Envelope: {error}"));
        let offer = Negotiation::parse(body).map_err(|error| bad(&error))?;
        if offer.step != Step::Offer {
            return Err(bad(&"an answer where an offer belongs"));
        }
        let Some(mcp) = &mut record.mcp else { return Err(self.nothing_left(&leg.domain)) };
        let shown = |tool: &str| shows(&leg.agent, &leg.domain, &leg.principal, tool);
        let listed = declared(&leg.agent, &leg.domain, &leg.principal);
        let tools = match &listed {
            Some(tools) => Tools::Listed(tools),
            None => Tools::Unlisted(&shown),
        };
        let ours = versions(&leg.agent);
        let permitted = Permitted { tools, schemas: &leg.agent.capabilities.schemas, versions: &ours };
        let answer = negotiation::answer(&offer, &permitted)
            .map_err(|error| Answer::new(488).warning(399, &leg.domain.domain, &error.to_string()))?;
        let asked = !offer.tools.is_empty() || !offer.schemas.is_empty();
        mcp.envelope = true;
        mcp.tools = asked.then(|| answer.tools.iter().map(ToString::to_string).collect());
        mcp.schemas.clone_from(&answer.schemas);
        mcp.versions.clone_from(&answer.versions);
        mcp.peer_role = if offer.role == Role::Caller { "caller".to_owned() } else { "callee".to_owned() };
        answer.conversation.as_str().clone_into(&mut mcp.conversation);
        match &mcp.tools {
            Some(tools) => record.extra.insert(NEGOTIATED.to_owned(), tools.join(",")),
            None => record.extra.remove(NEGOTIATED),
        };
        Ok(Some(answer.to_bytes()))
    }

    fn changed_sdp(
        &mut self,
        request: &Request,
        leg: &Leg,
        record: &mut DialogRecord,
        bodies: &Bodies,
        kind: Kind,
    ) -> Result<Option<Bytes>, Answer> {
        let offerless = kind == Kind::ReInvite && bodies.empty;
        if bodies.sdp.is_none() && !offerless {
            return Ok(None);
        }
        if !accepts(&request.message, "application/sdp") {
            return Err(Answer::new(406).header(HeaderId::Accept, ACCEPT));
        }
        let known = record.extra.get(SDP_ID).and_then(|id| id.parse().ok());
        let session_id = known.unwrap_or_else(|| self.random.u64() >> 2);
        let address = self.advertised_host(request.flow.listener, Some(request.flow.local));
        let sdp = match &bodies.sdp {
            Some(offer) => {
                // The version rises only when the description changes (RFC 3264 §8).
                let same = record.remote_sdp.as_ref() == Some(offer) && record.local_sdp.is_some();
                let version = if same { record.sdp_version } else { record.sdp_version + 1 };
                let origin = SdpOrigin { session_id, version, address };
                let answer = answer_without_media(offer, &origin).map_err(|e| sdp_refusal(&e, &leg.domain))?;
                record.sdp_version = version;
                record.remote_sdp = Some(offer.clone());
                answer
            }
            None => match &record.local_sdp {
                Some(sdp) => sdp.clone(),
                None => crate::call::plan::offer_without_media(&SdpOrigin { session_id, version: 1, address }),
            },
        };
        record.extra.insert(SDP_ID.to_owned(), session_id.to_string());
        record.local_sdp = Some(sdp.clone());
        Ok(Some(sdp))
    }

    /// `MCP-Select`: another part of what was negotiated becomes the active set.
    fn selected(&self, leg: &Leg, record: &mut DialogRecord, select: &Select) -> Result<(), Answer> {
        let Some(mcp) = &mut record.mcp else { return Err(Answer::new(400).phrase("MCP-Select Without MCP")) };
        let bound = record.extra.get(NEGOTIATED).map(|tools| {
            let tools: Vec<String> = tools.split(',').map(str::to_owned).collect();
            tool_refs(&tools)
        });
        let listed = bound.or_else(|| declared(&leg.agent, &leg.domain, &leg.principal));
        let shown = |tool: &str| shows(&leg.agent, &leg.domain, &leg.principal, tool);
        let active = match &listed {
            Some(tools) => Tools::Listed(tools),
            None => Tools::Unlisted(&shown),
        };
        match negotiation::select(active, select) {
            Ok(Some(chosen)) => mcp.tools = Some(chosen.iter().map(ToString::to_string).collect()),
            Ok(None) => {}
            Err(error) => return Err(Answer::new(488).warning(399, &leg.domain.domain, &error.to_string())),
        }
        Ok(())
    }

    pub(crate) fn committed(&mut self, mut pending: InDialog, reply: Result<StoreReply, StoreError>) {
        let dialog = pending.dialog();
        self.unchanging(dialog);
        let Some(Changed { response, record, timer }) = pending.changed.take() else { return };
        match reply {
            Ok(StoreReply::Version(version)) => {
                if let Some(record) = record {
                    self.take_over(dialog, &pending.request, version, &record, timer);
                }
                // Only the owner hears of the ACK. Elsewhere a 2xx that is lost is said again to the retransmitted INVITE.
                if pending.kind == Kind::ReInvite
                    && self.owns(dialog)
                    && let Some(local) = self.dialogs.get_mut(&dialog)
                {
                    let reply_to = ReplyTo::new(&pending.request.flow, &pending.request.message.top_via());
                    local.accept = Some(Accept::new(response.clone(), reply_to, self.now.mono));
                }
                self.arm_dialog(dialog);
                self.answer_bytes(&pending.request, 200, response);
                if let Some((ticket, operation)) = pending.after.take() {
                    self.store(operation, Waiting::Native(ticket));
                }
            }
            Ok(StoreReply::Conflict { version, record }) if pending.tries < MAX_TRIES => {
                pending.tries += 1;
                self.change(pending, version, *record);
            }
            Ok(StoreReply::Conflict { .. }) => {
                self.abandon_after(&mut pending);
                let answer = Answer::new(500).phrase("Too Many Changes").header(HeaderId::RetryAfter, "1");
                self.answer(&pending.request, &answer);
            }
            Ok(_) => {
                self.abandon_after(&mut pending);
                self.answer(&pending.request, &Answer::new(481));
            }
            Err(_) => {
                self.abandon_after(&mut pending);
                let answer = self.unavailable("Store Unavailable");
                self.answer(&pending.request, &answer);
            }
        }
    }

    /// The record that was written is what this edge goes by.
    pub(crate) fn take_over(
        &mut self,
        dialog: DialogKey,
        request: &Request,
        version: u64,
        record: &DialogRecord,
        timer: Option<SessionTimer>,
    ) {
        let leg = self.leg_of(dialog, record, request.flow.transport == Transport::Udp);
        let now = self.now;
        let Some(local) = self.dialogs.get_mut(&dialog) else { return };
        local.take(version, Box::new(record.clone()), now);
        if let Some(leg) = leg {
            local.leg = leg;
        }
        if let Some(timer) = timer {
            local.timer = Some(RunningTimer::start(timer, now));
        }
        if request.message.has(HeaderId::Allow) {
            local.peer_updates = request.message.list_has(HeaderId::Allow, "UPDATE");
        }
    }

    /// The ACK of a 2xx with our MCP offer: what the peer took of it (NEG-9).
    pub(crate) fn late_answer(&mut self, dialog: DialogKey, request: &Request) {
        let Some(local) = self.dialogs.get_mut(&dialog) else { return };
        let Some(offer) = local.late_offer.take() else { return };
        let Ok(Bodies { mcp: Some(body), .. }) = Bodies::read(&request.message) else { return };
        let agreed = Negotiation::parse(&body).ok().and_then(|answer| negotiation::agree(&offer, &answer).ok());
        match agreed {
            Some(agreed) => {
                // An ACK cannot be refused and carries no CSeq of its own: the record follows with the next change.
                let mut leg = Leg::clone(&local.leg);
                if let Some(mcp) = &mut leg.mcp {
                    mcp.envelope = true;
                    mcp.conversation = offer.conversation.as_str().to_owned();
                    mcp.tools =
                        (!agreed.tools.is_empty()).then(|| agreed.tools.iter().map(ToString::to_string).collect());
                    mcp.versions = agreed.version.into_iter().collect();
                }
                let mcp = leg.mcp.clone();
                local.leg = Arc::new(leg);
                self.store(StoreOp::ReadDialog { dialog }, Waiting::LateAnswer { dialog, mcp, tries: 0 });
            }
            None => self.stats.drop_one("bad late answer"),
        }
    }

    /// The record with what the ACK agreed on.
    pub(crate) fn late_answer_read(
        &mut self,
        dialog: DialogKey,
        mcp: Option<session_store::record::McpRecord>,
        tries: u8,
        reply: Result<StoreReply, StoreError>,
    ) {
        match reply {
            Ok(StoreReply::Dialog { version, mut record } | StoreReply::Conflict { version, mut record })
                if tries < MAX_TRIES =>
            {
                record.mcp.clone_from(&mcp);
                match mcp.as_ref().and_then(|mcp| mcp.tools.as_ref()) {
                    Some(tools) => record.extra.insert(NEGOTIATED.to_owned(), tools.join(",")),
                    None => record.extra.remove(NEGOTIATED),
                };
                let ttl_ms = record_ttl_ms(record.session_timer.as_ref());
                let operation = StoreOp::UpdateDialog { dialog, version, record, ttl_ms };
                self.store(operation, Waiting::LateAnswer { dialog, mcp, tries: tries + 1 });
            }
            Ok(StoreReply::Version(version)) => {
                if let Some(local) = self.dialogs.get_mut(&dialog) {
                    local.version = version;
                }
            }
            Ok(_) | Err(_) => {}
        }
    }
}

fn joined(sdp: Option<Bytes>, envelope: Option<Bytes>) -> Body {
    match (sdp, envelope) {
        (Some(sdp), Some(envelope)) => Some(
            MultipartBuilder::mixed()
                .part("application/sdp", sdp)
                .disposition("session", Handling::Required)
                .part(MCP_JSON, envelope)
                .disposition("session", Handling::Optional)
                .build(),
        ),
        (Some(sdp), None) => Some(("application/sdp".to_owned(), sdp)),
        (None, Some(envelope)) => Some((MCP_JSON.to_owned(), envelope)),
        (None, None) => None,
    }
}
