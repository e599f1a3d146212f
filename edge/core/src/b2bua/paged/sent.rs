//! A request out of a dialog on its way to a contact, and the answer on its way back.

use bytes::Bytes;
use sip_proto::message::{HeaderId, Message, Request as Outgoing, Response};

use super::Paged;
use crate::answer::Answer;
use crate::b2bua::bodies::Parts;
use crate::b2bua::copied::{self, ALLOW};
use crate::b2bua::legs::asserted;
use crate::b2bua::setup::address;
use crate::carrier::DATAGRAM_BYTES;
use crate::engine::Principal;
use crate::input::Transport;
use crate::locate::Located;
use crate::page::MCP_JSON;
use crate::purpose::{Outcome, Purpose};
use crate::random::keyed_hash;
use crate::state::{BESIDE, EdgeState, call_hash};
use crate::text;
use crate::token::FlowToken;
use crate::transactions::Target;

impl EdgeState {
    /// The next contact, or the end.
    pub(super) fn page_next(&mut self, number: u64, mut page: Paged) {
        while let Some(way) = page.ways.front().cloned() {
            let token = way.flow.as_deref().and_then(|text| FlowToken::from_text(&self.config.token_keys, text));
            if let Some(target) = token.and_then(|token| self.way_of(&token, None)) {
                self.bridges.pages.insert(number, page);
                return self.page_at_contact(number, Some(target));
            }
            if !way.flow_only {
                let next_hop = way.route_set.first().unwrap_or(&way.uri).clone();
                self.bridges.pages.insert(number, page);
                return self.locate(&next_hop, 0, Located::Paged(number));
            }
            page.last = Some(430);
            page.ways.pop_front();
        }
        let answer = match page.last {
            Some(513) => Answer::new(513),
            Some(_) => Answer::new(480),
            None => Answer::new(480).phrase("Not Registered"),
        };
        self.leave_places(page.places);
        self.answer(&page.request, &answer);
    }

    /// Where its contact is, is known.
    pub(crate) fn page_at_contact(&mut self, number: u64, target: Option<Target>) {
        let Some(mut page) = self.bridges.pages.remove(&number) else { return };
        let Some(mut target) = target else { return self.page_failed(number, page, 480) };
        let branch = self.new_branch();
        let mut bytes = self.page_bytes(&page, &target, &branch);
        page.by_tcp = target.transport() == Transport::Udp && bytes.len() > DATAGRAM_BYTES;
        if page.by_tcp {
            // RFC 3261 §18.1.1, RFC 3428 §8.
            let Some(tcp) = self.by_tcp(&target) else { return self.page_failed(number, page, 513) };
            bytes = self.page_bytes(&page, &tcp, &branch);
            target = tcp;
        }
        let method = page.request.method().to_owned();
        self.bridges.pages.insert(number, page);
        if self.send_request(&method, &branch, bytes, target, Purpose::Paged(number)).is_err()
            && let Some(page) = self.bridges.pages.remove(&number)
        {
            self.leave_places(page.places);
            let answer = self.unavailable("Too Many Transactions");
            self.answer(&page.request, &answer);
        }
    }

    fn page_failed(&mut self, number: u64, mut page: Paged, status: u16) {
        page.ways.pop_front();
        page.last = Some(status);
        self.page_next(number, page);
    }

    fn page_bytes(&self, page: &Paged, target: &Target, branch: &str) -> Bytes {
        let message = &page.request.message;
        let method = page.request.method();
        let Some(way) = page.ways.front() else { return Bytes::new() };
        let of = |purpose: &str| {
            let hash = keyed_hash(self.naming_key(), purpose, &[&page.request.transaction, method.as_bytes()]);
            text::base32(&hash)
        };
        // A shard serves what was made of a Call-ID of its own.
        let call_id = format!("{}{BESIDE}{:08x}", of("paged call"), call_hash(message.call_id()));
        let hops = message.max_forwards().unwrap_or(70).saturating_sub(1);
        let from = message.from();
        let party = copied::party(&from, &asserted(&page.caller, &from), Some(&of("paged tag")));
        let domain = page.caller.domain.domain.as_str();
        let mut request = Outgoing::new(method, &way.uri).via(self.via(target.transport(), target.listener(), branch));
        for route in &way.route_set {
            request = request.header(HeaderId::Route, format!("<{route}>"));
        }
        let uuid = crate::session_id::remote(message);
        request = request
            .header(HeaderId::MaxForwards, hops.to_string())
            .header(HeaderId::From, party)
            .header(HeaderId::To, format!("<{}>", address(&page.agent)))
            .header(HeaderId::CallId, call_id)
            .header(HeaderId::CSeq, format!("{} {method}", message.cseq().seq))
            .header(HeaderId::SessionId, self.passed_session_id(uuid.as_deref(), message.call_id(), None));
        for id in [HeaderId::Supported, HeaderId::Require] {
            let tags = self.passed_tags(domain, message, id, page.with_mcp);
            if !tags.is_empty() {
                request = request.header(id, tags.join(", "));
            }
        }
        if let Principal::User(user) = &page.caller.principal {
            request = request.header(HeaderId::PAssertedIdentity, format!("<{user}>"));
        }
        let body = page.parts.with(None, &page.mcp);
        for line in copied::lines(message, body.is_some(), page.with_mcp) {
            request = request.header_named(line.name, line.value);
        }
        match body {
            Some((content_type, body)) => request.body(content_type, body).build(),
            None => request.build(),
        }
    }

    /// The far end's final answer, or none.
    pub(crate) fn page_concluded(&mut self, number: u64, outcome: &Outcome<'_>) {
        let Some(page) = self.bridges.pages.remove(&number) else { return };
        if let Outcome::Response(message) = outcome
            && message.status().is_none_or(|status| status >= 300 && status != 430)
        {
            self.leave_places(page.places);
        }
        match outcome {
            Outcome::Response(message) => match message.status().unwrap_or(500) {
                // The flow has failed (RFC 5626 §5.3).
                430 => self.page_failed(number, page, 430),
                // Nobody's credentials are asked for but ours, and nobody is followed elsewhere.
                300..=399 | 401 | 407 => self.answer(&page.request, &Answer::new(480)),
                // It is the far end's, not ours (RFC 3261 §16.7).
                503 => self.answer(&page.request, &Answer::new(500)),
                status => {
                    let bytes = self.page_answer(&page, status, message);
                    self.answer_bytes(&page.request, status, bytes);
                }
            },
            Outcome::TransportError if page.by_tcp => self.page_failed(number, page, 513),
            Outcome::TransportError => self.page_failed(number, page, 430),
            // Its sender's time is over, too, and no 408 is sent (RFC 4320 §4.2).
            Outcome::Timeout => self.forget_server(page.request.server),
        }
    }

    fn page_answer(&mut self, page: &Paged, status: u16, message: &Message) -> Bytes {
        let request = &page.request;
        let is_options = request.method() == "OPTIONS";
        let parts = Parts::read(message).unwrap_or_default();
        let (domain, principal) = (&page.caller.domain, &page.caller.principal);
        let offer = self.judge_answer(message, &parts, &page.agent, domain, principal, page.with_mcp);
        let phrase = message.reason().and_then(|reason| std::str::from_utf8(reason).ok());
        let theirs = crate::session_id::remote(message);
        let own = crate::session_id::remote(&request.message);
        let session_id = self.passed_session_id(theirs.as_deref(), message.call_id(), own.as_deref());
        let mut response = Response::to_request(&request.message, status, phrase)
            .received(request.flow.remote)
            .to_tag(&request.tag)
            .header(HeaderId::SessionId, session_id);
        if is_options {
            response = response.header(HeaderId::Allow, ALLOW);
            let supported = self.passed_tags(&domain.domain, message, HeaderId::Supported, page.with_mcp);
            if !supported.is_empty() {
                response = response.header(HeaderId::Supported, supported.join(", "));
            }
        }
        // A 2xx to MESSAGE has no body (RFC 3428 §7).
        let body = parts.with(parts.sdp.as_ref(), &offer.mcp).filter(|_| is_options);
        for line in copied::lines(message, body.is_some(), page.with_mcp) {
            if line.id != HeaderId::McpCapabilities || offer.capabilities.is_none() {
                response = response.header_named(line.name, line.value);
            }
        }
        if let Some(value) = offer.capabilities {
            response = response.header(HeaderId::McpCapabilities, value);
        }
        match body {
            Some((content_type, body)) => response.body(content_type, body).build(),
            None => response.build(),
        }
    }

    /// 200, and the error as a message of its own (NEG-12), where the request came from.
    pub(super) fn page_denied(&mut self, page: &Paged, body: Bytes) {
        let message = &page.request.message;
        self.answer(&page.request, &Answer::new(200));
        let target = Target::of_flow(&page.request.flow);
        let (branch, call_id, tag) = (self.new_branch(), self.new_call_id(), self.new_tag());
        let exchange = message.header(HeaderId::McpExchange);
        let request = Outgoing::new("MESSAGE", message.from().uri())
            .via(self.via(target.transport(), target.listener(), &branch))
            .header(HeaderId::MaxForwards, crate::outgoing::MAX_FORWARDS)
            .header(HeaderId::From, format!("<{}>;tag={tag}", message.to().uri()))
            .header(HeaderId::To, format!("<{}>", message.from().uri()))
            .header(HeaderId::CallId, call_id)
            .header(HeaderId::CSeq, "1 MESSAGE")
            .header(HeaderId::InReplyTo, message.call_id())
            .header_if(HeaderId::McpExchange, exchange);
        let bytes = request.body(MCP_JSON, body).build();
        if self.send_request("MESSAGE", &branch, bytes, target, Purpose::Nothing).is_err() {
            self.stats.drop_one("refusal without a way");
        }
    }
}
