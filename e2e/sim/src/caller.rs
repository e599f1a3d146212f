//! A caller: an ordinary SIP UA that knows nothing of the edges' inside. It registers, calls, runs tools, hangs up, and tries every
//! request at any edge. Over UDP it retransmits (RFC 3261 §17.1), to another edge when the first stays silent. Over a stream it keeps one
//! connection; where that breaks it opens one to another edge and sends there what was not answered.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};
use sip_proto::dialog::{DialogState, ack_failure};
use sip_proto::message::build::{Request, Response};
use sip_proto::message::{HeaderId, Message};

use crate::model::Model;
use crate::rng::Rng;
use crate::setup::{DOMAIN, caller_address};
use crate::world::CALM_FROM_MS;

/// 64·T1 in milliseconds.
const LIFE_MS: u64 = 32_000;

/// So long a tool call is repeated; the slowest store and network of a run stay well inside 64·T1 then.
const REPEAT_MS: u64 = 12_000;

/// So long after the last fault an accepted exchange may take: lease, adoption, the backend's time, an answer's own time.
const PATIENCE_MS: u64 = 90_000;

/// What the caller wants to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Register,
    Query,
    Invite,
    Tool { unsafe_tool: bool, in_dialog: bool },
    Probe,
    Bye,
    ByeAgain,
    AfterBye,
    Deregister,
}

/// A request on its way.
#[derive(Debug)]
struct Pending {
    /// The exchange that it carries.
    exchange: Option<String>,
    bytes: Bytes,
    method: String,
    step: Step,
    next: u64,
    interval: u64,
    ends: u64,
}

/// An exchange without its final answer.
#[derive(Clone, Debug)]
struct Open {
    body: Bytes,
    in_dialog: bool,
    ends: u64,
    tries: u32,
    /// No copy leaves after this: the stored answer lives 64·T1, and what comes later is a new request (binding, 5.4).
    last: u64,
    /// A 200 said that somebody has taken care of it.
    accepted: bool,
    /// Without an answer by then, an accepted exchange was met with silence.
    silent_at: u64,
}

/// What goes onto the network: to any core, or back to where something came from.
#[derive(Debug)]
pub enum Out {
    Any(Bytes),
    Back(Bytes),
}

#[derive(Debug)]
pub struct Caller {
    pub index: usize,
    user: String,
    steps: Vec<Step>,
    pending: BTreeMap<String, Pending>,
    open: BTreeMap<String, Open>,
    answers: BTreeMap<String, Bytes>,
    register_call_id: String,
    page_call_id: String,
    from_tag: String,
    /// One connection of its own, instead of datagrams.
    pub uses_streams: bool,
    /// Sends its INVITE again in spite of a 100, as what sits behind a proxy that fails over.
    impatient: bool,
    cseq: u32,
    dialog: Option<DialogState>,
    invite: Option<(String, Message)>,
    /// The edge ended the dialog, or the caller did.
    ended: bool,
    bye: Option<Bytes>,
    bye_answered: Option<u64>,
    lost_dialog: Option<String>,
    registered_until: u64,
    /// Requests of the edges that were answered: branch → response.
    served: BTreeMap<String, Bytes>,
    pub next_step: u64,
    pub counters: Counters,
}

/// What happened to one caller.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    pub requests: u64,
    pub calls: u64,
    pub exchanges: u64,
    pub answers: u64,
    pub retryable: u64,
    pub given_up: u64,
}

impl Caller {
    pub fn new(index: usize, rng: &mut Rng) -> Caller {
        let mut steps = Vec::new();
        if rng.chance(500) {
            steps.push(Step::Register);
            if rng.chance(500) {
                steps.push(Step::Query);
            }
        }
        for _ in 0..rng.below(3) {
            steps.push(Step::Tool { unsafe_tool: rng.chance(700), in_dialog: false });
        }
        if rng.chance(800) {
            steps.push(Step::Invite);
            for _ in 0..rng.below(5) {
                steps.push(if rng.chance(200) {
                    Step::Probe
                } else {
                    Step::Tool { unsafe_tool: rng.chance(700), in_dialog: true }
                });
            }
            if rng.chance(850) {
                steps.extend([Step::Bye, Step::AfterBye, Step::ByeAgain]);
            }
        }
        if steps.first() == Some(&Step::Register) {
            steps.push(Step::Query);
            if rng.chance(500) {
                steps.extend([Step::Deregister, Step::Query]);
            }
        }
        steps.reverse();
        Caller {
            index,
            user: format!("u{index}"),
            steps,
            pending: BTreeMap::new(),
            open: BTreeMap::new(),
            answers: BTreeMap::new(),
            register_call_id: rng.token(20),
            page_call_id: rng.token(20),
            from_tag: rng.token(10),
            uses_streams: rng.chance(400),
            impatient: rng.chance(250),
            cseq: 0,
            dialog: None,
            invite: None,
            ended: false,
            bye: None,
            bye_answered: None,
            lost_dialog: None,
            registered_until: 0,
            served: BTreeMap::new(),
            next_step: 0,
            counters: Counters::default(),
        }
    }

    pub fn aor(&self) -> String {
        format!("sip:{}@{DOMAIN}", self.user)
    }

    fn contact(&self) -> String {
        format!("sip:{}@{}", self.user, caller_address(self.index))
    }

    /// At the end of the run.
    pub fn conclude(&mut self, model: &mut Model) {
        if let Some(text) = self.lost_dialog.take() {
            model.lost(text);
        }
    }

    /// When something is due.
    pub fn poll_timeout(&self) -> Option<u64> {
        let pending = self.pending.values().map(|p| p.next.min(p.ends));
        let open = self.open.values().map(|o| o.ends.min(o.silent_at));
        let step =
            (!self.steps.is_empty() && self.pending.is_empty() && self.open.is_empty()).then_some(self.next_step);
        pending.chain(open).chain(step).min()
    }

    pub fn is_done(&self) -> bool {
        self.steps.is_empty() && self.pending.is_empty() && self.open.is_empty()
    }

    /// The connection broke: what is not answered goes to another edge.
    pub fn on_lost(&mut self, now: u64, rng: &mut Rng, out: &mut Vec<Out>) {
        for pending in self.pending.values_mut() {
            out.push(Out::Any(pending.bytes.clone()));
            pending.next = now + 2_000;
        }
        // The same exchange and id, a new CSeq.
        let waiting: Vec<String> =
            self.open.iter().filter(|(_, open)| open.accepted && now < open.last).map(|(k, _)| k.clone()).collect();
        for exchange in waiting {
            let Some(open) = self.open.get(&exchange).cloned() else { continue };
            if !(open.in_dialog && self.ended) {
                self.send_tool(now, &exchange, &open, rng, out);
            }
        }
    }

    pub fn on_timeout(&mut self, now: u64, rng: &mut Rng, model: &mut Model, out: &mut Vec<Out>) {
        let mut over = Vec::new();
        for (branch, p) in &mut self.pending {
            if p.ends <= now {
                over.push(branch.clone());
            } else if p.next <= now {
                out.push(Out::Any(p.bytes.clone()));
                p.interval = (p.interval * 2).min(4_000);
                p.next = now + p.interval;
            }
        }
        for branch in over {
            if let Some(p) = self.pending.remove(&branch) {
                self.counters.given_up += 1;
                self.after(now, p.step, rng);
            }
        }
        let late: Vec<String> = self.open.iter().filter(|(_, o)| o.ends <= now).map(|(k, _)| k.clone()).collect();
        for exchange in late {
            self.repeat(now, &exchange, rng, model, out);
        }
        if self.pending.is_empty() && self.open.is_empty() && self.next_step <= now {
            self.begin(now, rng, out);
        }
    }

    /// No final answer came: the same exchange, id and body again, or give up.
    fn repeat(&mut self, now: u64, exchange: &str, rng: &mut Rng, model: &mut Model, out: &mut Vec<Out>) {
        let Some(open) = self.open.get_mut(exchange) else { return };
        open.tries += 1;
        open.ends = now + rng.range(1_000, 8_000);
        if open.tries > 3 || now >= open.last || (open.in_dialog && self.ended) {
            let is_over = open.in_dialog && self.ended;
            if open.accepted && !is_over && now < open.silent_at {
                // Nothing more is sent; its fate must come by itself.
                open.ends = open.silent_at;
                return;
            }
            if open.accepted && !is_over {
                model.lost(format!("an accepted exchange of {} ({exchange}) was met with silence", self.user));
            }
            self.open.remove(exchange);
            self.counters.given_up += 1;
            return;
        }
        let open = open.clone();
        self.send_tool(now, exchange, &open, rng, out);
    }

    fn begin(&mut self, now: u64, rng: &mut Rng, out: &mut Vec<Out>) {
        let Some(step) = self.steps.pop() else { return };
        self.next_step = now + rng.range(1, 3_000);
        let needs_dialog = matches!(step, Step::Probe | Step::Bye | Step::Tool { in_dialog: true, .. })
            && (self.dialog.is_none() || self.ended);
        let needs_bye = matches!(step, Step::AfterBye | Step::ByeAgain) && self.bye.is_none();
        if needs_dialog || needs_bye {
            return;
        }
        match step {
            Step::Register | Step::Query | Step::Deregister => self.register(now, step, rng, out),
            Step::Invite => self.invite(now, rng, out),
            Step::Tool { unsafe_tool, in_dialog } => {
                let exchange = rng.token(26);
                let (name, token) = (if unsafe_tool { "pay" } else { "look" }, rng.token(16));
                let body = json!({
                    "jsonrpc": "2.0", "id": self.counters.exchanges + 1, "method": "tools/call",
                    "params": {
                        "name": name, "arguments": { "token": token },
                        "_meta": {
                            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                            "io.modelcontextprotocol/clientCapabilities": {},
                        },
                    },
                });
                self.counters.exchanges += 1;
                let (ends, last) = (now + rng.range(2_000, 30_000), now + REPEAT_MS);
                // A connection may stand on an edge that is frozen, and out of a dialog it is the only way back to a caller without a
                // binding: who hears nothing asks once more while the answer is kept.
                let ends = if self.uses_streams && !in_dialog { ends.min(last - 1_000) } else { ends };
                let open = Open {
                    body: Bytes::from(body.to_string()),
                    in_dialog,
                    ends,
                    tries: 0,
                    last,
                    accepted: false,
                    silent_at: u64::MAX,
                };
                self.open.insert(exchange.clone(), open.clone());
                self.send_tool(now, &exchange, &open, rng, out);
            }
            Step::Probe | Step::AfterBye => self.in_dialog(now, "OPTIONS", step, rng, out),
            Step::Bye => self.in_dialog(now, "BYE", step, rng, out),
            Step::ByeAgain => {
                // The very same bytes, long after: a retransmission that was under way.
                if let Some(bytes) = self.bye.clone() {
                    let branch = branch_of(&bytes);
                    self.start(now, branch, bytes, "BYE", step, out);
                }
            }
        }
    }

    fn start(&mut self, now: u64, branch: String, bytes: Bytes, method: &str, step: Step, out: &mut Vec<Out>) {
        self.counters.requests += 1;
        out.push(Out::Any(bytes.clone()));
        let pending = Pending {
            exchange: None,
            bytes,
            method: method.to_owned(),
            step,
            next: now + 500,
            interval: 500,
            ends: now + LIFE_MS,
        };
        self.pending.insert(branch, pending);
    }

    fn via(&self, branch: &str) -> String {
        format!("SIP/2.0/UDP {};branch={branch};rport", caller_address(self.index))
    }

    fn head(&mut self, method: &str, uri: &str, to: &str, call_id: &str, branch: &str) -> Request {
        self.cseq += 1;
        Request::new(method, uri)
            .via(self.via(branch))
            .header(HeaderId::MaxForwards, "70")
            .header(HeaderId::From, format!("<{}>;tag={}", self.aor(), self.from_tag))
            .header(HeaderId::To, format!("<{to}>"))
            .header(HeaderId::CallId, call_id)
            .header(HeaderId::CSeq, format!("{} {method}", self.cseq))
    }

    fn register(&mut self, now: u64, step: Step, rng: &mut Rng, out: &mut Vec<Out>) {
        if step == Step::Deregister {
            // From here on it may be gone, whatever the caller hears of it.
            self.registered_until = 0;
        }
        let branch = format!("z9hG4bK{}", rng.token(16));
        let (aor, call_id, contact) = (self.aor(), self.register_call_id.clone(), self.contact());
        let mut request = self.head("REGISTER", &format!("sip:{DOMAIN}"), &aor, &call_id, &branch);
        if step != Step::Query {
            let expires = if step == Step::Deregister { 0 } else { 3600 };
            request = request
                .header(HeaderId::Contact, format!("<{contact}>;+mcp.cap=\"look@1\""))
                .header(HeaderId::Expires, expires.to_string());
        }
        self.start(now, branch, request.build(), "REGISTER", step, out);
    }

    fn invite(&mut self, now: u64, rng: &mut Rng, out: &mut Vec<Out>) {
        let branch = format!("z9hG4bK{}", rng.token(16));
        let call_id = rng.token(24);
        let uri = format!("sip:agent@{DOMAIN}");
        let offer = json!({
            "mcp_version": "1.0", "type": "offer", "conversation": "6f2d0c2e-9a1e-4b7c-8d5f-0123456789ab",
            "payload": { "role": "caller", "tools": [], "schemas": [], "versions": ["2026-07-28"] },
        });
        let contact = self.contact();
        let request = self
            .head("INVITE", &uri, &uri, &call_id, &branch)
            .header(HeaderId::Contact, format!("<{contact}>"))
            .header(HeaderId::Supported, "mcp, x-mcp, timer")
            .header(HeaderId::Accept, "application/sdp, application/mcp+json, multipart/mixed")
            .header_named("Recv-Info", "mcp")
            .body("application/mcp+json", offer.to_string());
        let bytes = request.build();
        if let Some(message) = parse(&bytes) {
            self.invite = Some((branch.clone(), message));
        }
        self.dialog = None;
        self.ended = false;
        self.start(now, branch, bytes, "INVITE", Step::Invite, out);
    }

    fn in_dialog(&mut self, now: u64, method: &str, step: Step, rng: &mut Rng, out: &mut Vec<Out>) {
        let branch = format!("z9hG4bK{}", rng.token(16));
        let via = self.via(&branch);
        let Some(request) = self.dialog.as_mut().and_then(|d| d.in_dialog_request(method, &via)) else { return };
        let bytes = request.build();
        if step == Step::Bye {
            self.bye = Some(bytes.clone());
            self.ended = true;
        }
        self.start(now, branch, bytes, method, step, out);
    }

    fn send_tool(&mut self, now: u64, exchange: &str, open: &Open, rng: &mut Rng, out: &mut Vec<Out>) {
        let branch = format!("z9hG4bK{}", rng.token(16));
        let via = self.via(&branch);
        let step = Step::Tool { unsafe_tool: false, in_dialog: open.in_dialog };
        let request = if open.in_dialog {
            let Some(request) = self.dialog.as_mut().and_then(|d| d.in_dialog_request("INFO", &via)) else { return };
            request.header_named("Info-Package", "mcp")
        } else {
            let (uri, call_id) = (format!("sip:agent@{DOMAIN}"), self.page_call_id.clone());
            self.head("MESSAGE", &uri, &uri, &call_id, &branch)
        };
        let bytes = request
            .header_named("MCP-Exchange", format!("{exchange};rel=caller"))
            .body("application/mcp+json", open.body.clone())
            .build();
        let method = if open.in_dialog { "INFO" } else { "MESSAGE" };
        self.start(now, branch.clone(), bytes, method, step, out);
        if let Some(pending) = self.pending.get_mut(&branch) {
            pending.ends = pending.ends.min(open.last.max(now + 1));
            pending.exchange = Some(exchange.to_owned());
        }
    }

    /// Something arrived.
    pub fn on_bytes(&mut self, now: u64, bytes: &Bytes, rng: &mut Rng, model: &mut Model, out: &mut Vec<Out>) {
        let Some(message) = parse(bytes) else {
            model.violated(format!(
                "an edge sent what is no SIP: {:?}",
                String::from_utf8_lossy(&bytes[..bytes.len().min(200)])
            ));
            return;
        };
        if message.is_request() {
            self.on_request(&message, out)
        } else {
            self.on_response(now, &message, rng, model, out)
        }
    }

    fn on_response(&mut self, now: u64, message: &Message, rng: &mut Rng, model: &mut Model, out: &mut Vec<Out>) {
        let status = message.status().unwrap_or(0);
        let branch = message.top_via().branch().unwrap_or_default().to_owned();
        let is_invite = message.cseq().method.as_str() == "INVITE";
        if status < 200 {
            if let Some(p) = self.pending.get_mut(&branch)
                && is_invite
                && !self.impatient
            {
                // Timer A stops with the first provisional response.
                p.next = p.ends;
            }
            return;
        }
        if is_invite && self.invite.as_ref().is_some_and(|(b, _)| *b == branch) {
            self.on_invite_final(status, &branch, message, rng, model, out);
        }
        let Some(p) = self.pending.remove(&branch) else { return };
        self.judge(now, &p, status, message, model);
        self.after(now, p.step, rng);
    }

    fn on_invite_final(
        &mut self,
        status: u16,
        branch: &str,
        message: &Message,
        rng: &mut Rng,
        model: &mut Model,
        out: &mut Vec<Out>,
    ) {
        let Some((_, invite)) = self.invite.clone() else { return };
        if status >= 300 {
            if let Some(ack) = ack_failure(&invite, message) {
                out.push(Out::Any(ack));
            }
            return;
        }
        model.invite_answered(branch, message.to_tag().unwrap_or_default());
        if self.dialog.is_none() {
            self.counters.calls += 1;
            self.dialog = DialogState::uac(&invite, message, false).ok();
        }
        // Every copy of the 2xx gets an ACK (RFC 3261 §13.2.2.4).
        let via = self.via(&format!("z9hG4bK{}", rng.token(16)));
        if let Some(dialog) = &self.dialog {
            out.push(Out::Any(dialog.ack_2xx(invite.cseq().seq, &via).build()));
        }
    }

    /// What a final response must not say.
    fn judge(&mut self, now: u64, p: &Pending, status: u16, message: &Message, model: &mut Model) {
        match p.step {
            Step::Register if status == 200 => self.registered_until = now + 1_700_000,
            Step::Deregister if status == 200 => self.registered_until = 0,
            Step::Query if status == 200 => {
                let there = message.contacts().iter().any(|c| c.uri() == self.contact());
                if !there && now < self.registered_until {
                    model.lost(format!("the registration of {} was acknowledged and is lost", self.user));
                }
            }
            Step::Probe | Step::Tool { in_dialog: true, .. } if status == 481 && !self.ended => {
                // Unless a BYE of the edge is on its way: known at the end.
                self.lost_dialog = Some(format!("an acknowledged dialog of {} is unknown ({})", self.user, p.method));
                self.ended = true;
            }
            Step::AfterBye if (200..300).contains(&status) && self.bye_answered.is_some() => {
                model.served_after_bye(message.call_id(), &self.user);
            }
            Step::Bye if status != 200 && status < 500 && status != 408 => {
                // The edge may have ended the dialog itself meanwhile.
                if status != 481 {
                    model.lost(format!("BYE of {} got {status}", self.user));
                }
                self.bye = None;
            }
            Step::Bye if status != 200 => self.bye = None,
            Step::Bye => self.bye_answered = Some(now),
            // The tombstone lives 32 s.
            Step::ByeAgain if status == 481 && self.bye_answered.is_some_and(|at| now < at + 25_000) => {
                model.lost(format!("a retransmitted BYE of {} got 481, the first one got 200", self.user));
            }
            Step::Tool { .. } if (200..300).contains(&status) => {
                if let Some(open) = p.exchange.as_ref().and_then(|exchange| self.open.get_mut(exchange)) {
                    open.accepted = true;
                    open.silent_at = now.max(CALM_FROM_MS) + PATIENCE_MS;
                }
            }
            Step::Tool { .. } if status >= 300 => {
                // Not accepted: repeated by its own clock, or given up.
            }
            _ => {}
        }
    }

    fn after(&mut self, now: u64, step: Step, rng: &mut Rng) {
        if step == Step::Bye && self.pending.is_empty() && self.bye.is_none() {
            self.steps.retain(|s| !matches!(s, Step::AfterBye | Step::ByeAgain));
        }
        self.next_step = now + rng.range(1, 2_000);
    }

    fn on_request(&mut self, message: &Message, out: &mut Vec<Out>) {
        let method = message.method().map(|m| m.as_str().to_owned()).unwrap_or_default();
        if method == "ACK" {
            return;
        }
        let branch = format!("{} {method}", message.top_via().branch().unwrap_or_default());
        if let Some(response) = self.served.get(&branch) {
            out.push(Out::Back(response.clone()));
            return;
        }
        let mine = message.to_tag().is_none()
            || self.dialog.as_ref().is_some_and(|d| d.call_id == message.call_id())
            || message.call_id() == self.page_call_id;
        let status = if mine { 200 } else { 481 };
        if method == "BYE" && mine {
            self.ended = true;
            self.lost_dialog = None;
        }
        let mut response = Response::to_request(message, status, None);
        if message.to_tag().is_none() {
            response = response.to_tag(&self.from_tag);
        }
        if method == "UPDATE" && mine {
            if let Some(expires) = message.header(HeaderId::SessionExpires) {
                response = response.header(HeaderId::SessionExpires, expires).header(HeaderId::Require, "timer");
            }
            response = response.header(HeaderId::Contact, format!("<{}>", self.contact()));
        }
        let bytes = response.build();
        self.served.insert(branch, bytes.clone());
        out.push(Out::Back(bytes));
        if mine && matches!(method.as_str(), "MESSAGE" | "INFO") {
            self.on_mcp(message);
        }
    }

    fn on_mcp(&mut self, message: &Message) {
        let Ok(body) = serde_json::from_slice::<Value>(&message.body()) else { return };
        if body.get("method").is_some() {
            return;
        }
        let exchange = message.headers_named("MCP-Exchange").next().map(|v| String::from_utf8_lossy(v).into_owned());
        let Some(exchange) = exchange.and_then(|v| v.split(';').next().map(str::to_owned)) else { return };
        if self.open.remove(&exchange).is_some() {
            self.counters.answers += 1;
            if body.pointer("/error/code") == Some(&json!(-31001)) {
                self.counters.retryable += 1;
            }
        }
        self.answers.insert(exchange, message.body());
    }
}

fn parse(bytes: &Bytes) -> Option<Message> {
    Message::parse(bytes.clone(), sip_proto::message::Transportation::Datagram).ok()
}

fn branch_of(bytes: &Bytes) -> String {
    parse(bytes).and_then(|m| m.top_via().branch().map(str::to_owned)).unwrap_or_default()
}
