//! What is answered to an INVITE: SDP without media, the MCP envelope, the session timer. Decided before anything is written.

use bytes::Bytes;
use mcp_sip::envelope::{Conversation, Negotiation, Role, Step};
use mcp_sip::headers::{Capabilities, Mode, Select, ToolRef};
use mcp_sip::jsonrpc::{Bounds, Envelope};
use mcp_sip::negotiation::{self, Permitted, Tools};
use session_store::record::{DialogPhase, DialogRecord, McpRecord, SessionTimerRecord};
use sip_proto::dialog::{DialogState, Phase};
use sip_proto::header::Handling;
use sip_proto::message::{HeaderId, Message};
use sip_proto::multipart::MultipartBuilder;
use sip_proto::sdp::{SdpError, SdpOrigin, answer_without_media};
use sip_proto::session_timer::{self, RequestTimers, SessionExpires, SessionTimer, SessionTimerPolicy, UasDecision};

use super::Call;
use super::body::Bodies;
use crate::answer::{ACCEPT, ALLOW, Answer};
use crate::config::{AgentConfig, DomainConfig};
use crate::gate::{Caller, source};
use crate::negotiate::{declared, option_tags, shows, versions};
use crate::outgoing::uri_name;
use crate::page::MCP_JSON;
use crate::request::Request;
use crate::state::EdgeState;
use crate::token::{DialogToken, FlowToken};

/// The whole answer to one INVITE.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub mcp: McpRecord,
    /// The tools of the negotiation, before `MCP-Select`.
    bound: Option<Vec<String>>,
    /// Our description: the answer, or the offer where the INVITE had none.
    sdp: Option<Bytes>,
    remote_sdp: Option<Bytes>,
    envelope: Option<Bytes>,
    /// The INVITE offered nothing, so the envelope in our 2xx is an offer, and the ACK answers it.
    pub late_offer: Option<Negotiation>,
    /// A JSON-RPC message in the INVITE.
    pub native: Option<Bytes>,
    pub timer: Option<SessionTimer>,
    expires: Option<SessionExpires>,
    require_timer: bool,
}

/// The session timer that a request gets: the timer, the header of the 2xx, whether it is required.
pub(crate) fn negotiate_timer(
    message: &Message,
    current: Option<&SessionTimer>,
) -> Result<(SessionTimer, SessionExpires, bool), Answer> {
    let asked = RequestTimers::of(message).map_err(|_| Answer::new(400).phrase("Bad Session-Expires Or Min-SE"))?;
    match session_timer::uas(&asked, &SessionTimerPolicy::default(), current) {
        UasDecision::IntervalTooSmall { min_se } => Err(Answer::new(422).header(HeaderId::MinSe, min_se.to_string())),
        UasDecision::Accept { timer, header, require } => Ok((timer, header, require)),
    }
}

/// Whether the `Accept` of a request takes a media type; none means `application/sdp` (RFC 3261 §20.1).
pub(crate) fn accepts(message: &Message, media: &str) -> bool {
    if !message.has(HeaderId::Accept) {
        return media == "application/sdp";
    }
    let (kind, _) = media.split_once('/').unwrap_or((media, ""));
    message.list_values(HeaderId::Accept).any(|value| {
        let (range, params) = value.split_once(';').unwrap_or((value, ""));
        let zero = params.split(';').any(|p| matches!(p.trim(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
        let range = range.trim();
        let wild = range.strip_suffix("/*").is_some_and(|k| k == "*" || k.eq_ignore_ascii_case(kind));
        !zero && (wild || range.eq_ignore_ascii_case(media))
    })
}

/// How strictly a domain reads the MCP header fields (D7).
pub(crate) fn mode(domain: &DomainConfig) -> Mode {
    if domain.lenient_headers { Mode::Lenient } else { Mode::Strict }
}

/// `MCP-Select`, if it is there.
pub(crate) fn select_header(message: &Message, domain: &DomainConfig) -> Result<Option<Select>, Answer> {
    let mut lines = message.headers(HeaderId::McpSelect);
    let Some(value) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(Answer::new(400).phrase("More Than One MCP-Select"));
    }
    match Select::parse(value, mode(domain)) {
        Ok(select) => Ok(Some(select)),
        Err(error) => Err(Answer::new(400).phrase(&format!("Bad MCP-Select: {error}"))),
    }
}

/// `MCP-Capabilities`, if it is there.
pub(crate) fn capabilities_header(message: &Message, domain: &DomainConfig) -> Result<Option<Capabilities>, Answer> {
    if !message.has(HeaderId::McpCapabilities) {
        return Ok(None);
    }
    match Capabilities::parse_lines(message.headers(HeaderId::McpCapabilities), mode(domain)) {
        Ok(capabilities) => Ok(Some(capabilities)),
        Err(error) => Err(Answer::new(400).phrase(&format!("Bad MCP-Capabilities: {error}"))),
    }
}

/// 488 of an SDP that cannot be answered, 400 of what is none.
pub(crate) fn sdp_refusal(error: &SdpError, domain: &DomainConfig) -> Answer {
    match error {
        SdpError::Malformed(_) | SdpError::Missing(_) => Answer::new(400).phrase("Bad SDP"),
        SdpError::TooManyLines | SdpError::TooManyMedia => {
            Answer::new(488).warning(399, &domain.domain, &error.to_string())
        }
    }
}

/// The tools of a record as they are compared.
pub(crate) fn tool_refs(tools: &[String]) -> Vec<ToolRef> {
    tools.iter().filter_map(|text| ToolRef::parse(text, Mode::Lenient).ok()).collect()
}

impl EdgeState {
    /// Decides everything about an INVITE that can be refused.
    pub(super) fn plan(&mut self, request: &Request, caller: &Caller, agent: &AgentConfig) -> Result<Plan, Answer> {
        let message = &request.message;
        let domain = &caller.domain;
        let bodies = Bodies::read(message)?;
        if [&bodies.sdp, &bodies.mcp].into_iter().flatten().any(|body| body.len() > self.body_limit(domain)) {
            self.stats.limit("sipBodyBytes");
            return Err(Answer::new(413));
        }
        let capabilities = capabilities_header(message, domain)?;
        let select = select_header(message, domain)?;
        let tags = option_tags(domain);
        let listed = tags
            .first_in(message.list_values(HeaderId::Require).chain(message.list_values(HeaderId::Supported)))
            .map(str::to_owned);
        let describes = bodies.sdp.is_some() || bodies.empty;
        if describes && !accepts(message, "application/sdp") {
            return Err(Answer::new(406).header(HeaderId::Accept, ACCEPT));
        }
        if listed.is_none() && bodies.mcp.is_none() {
            // A plain call: every media line would be refused, and nothing else is there.
            return Err(self.nothing_left(domain));
        }
        let mut plan = self.negotiate_mcp(request, caller, agent, &bodies, capabilities.as_ref(), select.as_ref())?;
        plan.mcp.option_tag = listed.unwrap_or_else(|| tags.to_require(std::iter::empty()).to_owned());
        plan.mcp.info_package = message.list_has(HeaderId::RecvInfo, "mcp");
        let (timer, expires, require) = negotiate_timer(message, None)?;
        (plan.timer, plan.expires, plan.require_timer) = (Some(timer), Some(expires), require);
        let origin = SdpOrigin {
            session_id: self.random.u64() >> 2,
            version: 1,
            address: self.advertised_host(request.flow.listener, Some(request.flow.local)),
        };
        plan.sdp = match (&bodies.sdp, bodies.empty) {
            (Some(offer), _) => Some(answer_without_media(offer, &origin).map_err(|e| sdp_refusal(&e, domain))?),
            (None, true) => Some(offer_without_media(&origin)),
            (None, false) => None,
        };
        plan.remote_sdp = bodies.sdp;
        // Whether a dialog can be made of it at all: exactly one usable Contact.
        DialogState::uas(message, "", Phase::Confirmed, false)
            .map_err(|error| Answer::new(400).phrase(&error.to_string()))?;
        Ok(plan)
    }

    fn negotiate_mcp(
        &mut self,
        request: &Request,
        caller: &Caller,
        agent: &AgentConfig,
        bodies: &Bodies,
        capabilities: Option<&Capabilities>,
        select: Option<&Select>,
    ) -> Result<Plan, Answer> {
        let domain = &caller.domain;
        let shown = |tool: &str| shows(agent, domain, &caller.principal, tool);
        let listed = declared(agent, domain, &caller.principal);
        let tools = match &listed {
            Some(tools) => Tools::Listed(tools),
            None => Tools::Unlisted(&shown),
        };
        let ours = versions(agent);
        let permitted = Permitted { tools, schemas: &agent.capabilities.schemas, versions: &ours };
        let mut plan = Plan {
            mcp: McpRecord {
                option_tag: String::new(),
                conversation: String::new(),
                envelope: false,
                tools: None,
                schemas: agent.capabilities.schemas.clone(),
                versions: Vec::new(),
                peer_role: "caller".to_owned(),
                info_package: false,
            },
            bound: None,
            sdp: None,
            remote_sdp: None,
            envelope: None,
            late_offer: None,
            native: None,
            timer: None,
            expires: None,
            require_timer: false,
        };
        if let Some(body) = &bodies.mcp {
            match Envelope::parse(body, &Bounds::default()) {
                Ok(_) => plan.native = Some(body.clone()),
                Err(_) => self.answer_envelope(&mut plan, body, &permitted, capabilities, domain)?,
            }
        }
        if !plan.mcp.envelope {
            let conversation = Conversation::from_random(&self.random.bytes());
            conversation.as_str().clone_into(&mut plan.mcp.conversation);
            if let Some(theirs) = capabilities {
                let theirs: Vec<&str> = theirs.versions().collect();
                plan.mcp.versions = ours.iter().filter(|v| theirs.contains(v)).map(|v| (*v).to_owned()).collect();
            }
            // A peer that offered nothing and reads a multipart gets our offer, and answers in its ACK.
            let reads = accepts(&request.message, "multipart/mixed") && accepts(&request.message, MCP_JSON);
            if bodies.empty && reads {
                let mut offer = Negotiation::new(Step::Offer, conversation, Role::Callee);
                offer.tools = listed.clone().unwrap_or_default();
                offer.schemas.clone_from(&agent.capabilities.schemas);
                offer.versions = ours.iter().map(|v| (*v).to_owned()).collect();
                plan.envelope = Some(offer.to_bytes());
                plan.late_offer = Some(offer);
            }
        }
        plan.bound.clone_from(&plan.mcp.tools);
        if let Some(select) = select {
            let narrowed = plan.mcp.tools.as_deref().map(tool_refs);
            let active = match &narrowed {
                Some(tools) => Tools::Listed(tools),
                None => tools,
            };
            match negotiation::select(active, select) {
                Ok(Some(chosen)) => plan.mcp.tools = Some(chosen.iter().map(ToString::to_string).collect()),
                Ok(None) => {}
                Err(error) => return Err(Answer::new(488).warning(399, &domain.domain, &error.to_string())),
            }
        }
        Ok(plan)
    }

    fn answer_envelope(
        &mut self,
        plan: &mut Plan,
        body: &Bytes,
        permitted: &Permitted<'_>,
        capabilities: Option<&Capabilities>,
        domain: &DomainConfig,
    ) -> Result<(), Answer> {
        let offer =
            Negotiation::parse(body).map_err(|error| Answer::new(400).phrase(&format!("Bad MCP Envelope: {error}")))?;
        if offer.step != Step::Offer {
            return Err(Answer::new(400).phrase("An MCP Answer Where An Offer Belongs"));
        }
        if let Some(header) = capabilities {
            negotiation::check_header(header, &offer)
                .map_err(|_| Answer::new(400).phrase("MCP-Capabilities Contradicts The Envelope"))?;
        }
        let answer = negotiation::answer(&offer, permitted)
            .map_err(|error| Answer::new(488).warning(399, &domain.domain, &error.to_string()))?;
        let asked = !offer.tools.is_empty() || !offer.schemas.is_empty();
        plan.mcp.envelope = true;
        answer.conversation.as_str().clone_into(&mut plan.mcp.conversation);
        plan.mcp.tools = asked.then(|| answer.tools.iter().map(ToString::to_string).collect());
        plan.mcp.schemas.clone_from(&answer.schemas);
        plan.mcp.versions.clone_from(&answer.versions);
        plan.mcp.peer_role = match offer.role {
            Role::Caller => "caller".to_owned(),
            Role::Callee => "callee".to_owned(),
        };
        plan.envelope = Some(answer.to_bytes());
        Ok(())
    }

    /// The 200 of an INVITE.
    pub(super) fn accept_answer(&self, call: &Call, token: &DialogToken) -> Answer {
        let plan = &call.plan;
        let message = &call.request.message;
        let mut answer = Answer::new(200);
        for line in message.headers(HeaderId::RecordRoute) {
            answer = answer.header_bytes(HeaderId::RecordRoute, line);
        }
        answer = answer
            .header(HeaderId::Contact, self.contact(token, &call.request))
            .header(HeaderId::Allow, ALLOW)
            .header(HeaderId::Accept, ACCEPT);
        answer = self.capability_headers(answer, &call.caller.principal, &call.caller.domain, &call.agent);
        if let Some(expires) = &plan.expires {
            answer = answer.header(HeaderId::SessionExpires, expires.to_string());
        }
        if plan.require_timer {
            answer = answer.header(HeaderId::Require, "timer");
        }
        let remote = crate::session_id::remote(message);
        answer = answer.header(HeaderId::SessionId, self.session_id(message.call_id(), remote.as_deref()));
        match (&plan.sdp, &plan.envelope) {
            (Some(sdp), Some(envelope)) => {
                let (content_type, body) = MultipartBuilder::mixed()
                    .part("application/sdp", sdp.clone())
                    .disposition("session", Handling::Required)
                    .part(MCP_JSON, envelope.clone())
                    .disposition("session", Handling::Optional)
                    .build();
                answer.body(content_type, body)
            }
            (Some(sdp), None) => answer.body("application/sdp", sdp.clone()),
            (None, Some(envelope)) => answer.body(MCP_JSON, envelope.clone()),
            (None, None) => answer,
        }
    }

    /// Our Contact in a dialog: the sealed token at the advertised address.
    pub(crate) fn contact(&self, token: &DialogToken, request: &Request) -> String {
        let user = token.user(&self.config.token_keys);
        let host = self.advertised(request.flow.listener, Some(request.flow.local));
        format!("<sip:{user}@{host};transport={};gr>", uri_name(request.flow.transport))
    }
}

/// A description with no media line (RFC 3264 §5 allows it), for a peer that offered none.
pub(crate) fn offer_without_media(origin: &SdpOrigin) -> Bytes {
    let SdpOrigin { session_id, version, address } = origin;
    let bare = address.trim_start_matches('[').trim_end_matches(']');
    let kind = if bare.contains(':') { "IP6" } else { "IP4" };
    Bytes::from(format!("v=0\r\no=- {session_id} {version} IN {kind} {bare}\r\ns=-\r\nc=IN {kind} {bare}\r\nt=0 0\r\n"))
}

/// The record of the dialog that an INVITE makes.
pub(super) fn record(core: &EdgeState, call: &Call, tag: &str, bytes: &Bytes) -> Result<DialogRecord, Answer> {
    let (message, flow) = (&call.request.message, &call.request.flow);
    let state = DialogState::uas(message, tag, Phase::Confirmed, flow.transport == crate::input::Transport::Tls)
        .map_err(|error| Answer::new(400).phrase(&error.to_string()))?;
    let token =
        FlowToken { owner: core.owner, transport: flow.transport, listener: flow.listener, flow: flow.key.clone() };
    let plan = &call.plan;
    Ok(DialogRecord {
        phase: DialogPhase::Accepted,
        call_id: state.call_id,
        local_tag: state.local_tag,
        remote_tag: state.remote_tag,
        local_uri: state.local_uri,
        remote_uri: state.remote_uri,
        remote_target: state.remote_target,
        route_set: state.route_set,
        secure: state.secure,
        cseq_in: state.remote_cseq,
        cseq_out: state.local_cseq,
        principal: call.caller.principal.as_str().to_owned(),
        agent_user: call.agent.user.clone(),
        domain: call.caller.domain.domain.clone(),
        flow: Some(token.text(&core.config.token_keys)),
        local_sdp: plan.sdp.clone(),
        remote_sdp: plan.remote_sdp.clone(),
        sdp_version: 1,
        session_timer: plan.timer.map(|timer| SessionTimerRecord {
            interval_s: timer.interval,
            we_refresh: timer.we_refresh,
            expires_at: core.now.wall.plus_millis(u64::from(timer.interval) * 1000).0,
        }),
        mcp: Some(plan.mcp.clone()),
        accept_bytes: Some(bytes.clone()),
        session_id: crate::session_id::remote(message),
        policy_epoch: core.config.epoch,
        created_at: core.now.wall.0,
        source: source(flow),
        owner: core.owner,
        peer: None,
        we_called: false,
        retention_ms: call.caller.domain.retention_ms,
        extra: offered_tools(plan),
    })
}

/// What was negotiated at the start bounds what `MCP-Select` may choose later.
fn offered_tools(plan: &Plan) -> std::collections::BTreeMap<String, String> {
    let tools = plan.bound.as_ref().map(|tools| (NEGOTIATED.to_owned(), tools.join(",")));
    tools.into_iter().collect()
}

/// Member of a record's `extra`: the tools of the negotiation, comma-separated.
pub(crate) const NEGOTIATED: &str = "mcp.negotiated";
