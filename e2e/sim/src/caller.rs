//! A caller: an ordinary SIP UA that knows nothing of the edges' inside. It registers, calls, runs tools, hangs up, and tries every
//! request at any edge. Over UDP it retransmits (RFC 3261 §17.1), to another edge when the first stays silent. Over a stream it keeps one
//! connection; where that breaks it opens one to another edge and sends there what was not answered.

mod calls;
mod exchange;
mod phone;

use std::collections::BTreeMap;

use bytes::Bytes;
use sip_proto::dialog::DialogState;
use sip_proto::message::build::{Request, Response};
use sip_proto::message::{HeaderId, Message};

use crate::model::Model;
use crate::rng::Rng;
use crate::setup::{DOMAIN, PHONE, caller_address};
use crate::world::CALM_FROM_MS;
use exchange::Open;
pub use phone::Fate;
use phone::{Phone, sdp};

/// 64·T1 in milliseconds.
const LIFE_MS: u64 = 32_000;

/// So long after the last fault an accepted exchange, or a call that rings, may take: lease, adoption, the backend's time, an answer's
/// own time.
const PATIENCE_MS: u64 = 90_000;

/// So long after the last fault a caller that never hung up is gone.
const GONE_AFTER_MS: u64 = 120_000;

/// What the caller wants to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Register,
    Query,
    /// To the agent; `ack`: its 2xx is acknowledged.
    Invite {
        ack: bool,
    },
    /// To a phone.
    Call {
        fate: Fate,
    },
    Cancel,
    Tool {
        unsafe_tool: bool,
        in_dialog: bool,
    },
    Probe,
    Bye,
    /// By the phone that was called.
    ByeOfPhone,
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
    /// No copy leaves after it.
    last: u64,
    /// An INVITE with a provisional response.
    rings: bool,
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
    /// What is to come of the call; `None`: a talk with the agent.
    fate: Option<Fate>,
    /// Its 2xx is not acknowledged.
    unacknowledged: bool,
    acknowledges: bool,
    cancelled: bool,
    /// Calls that came here.
    phone: Phone,
    /// The edge ended the dialog, or the caller did.
    ended: bool,
    bye: Option<Bytes>,
    bye_answered: Option<u64>,
    lost_dialog: Option<String>,
    registered_until: u64,
    /// The connection that registered, or that the dialog was on, is gone: the edges are told of the new one then.
    tell_at: Option<u64>,
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
    pub no_way_back: u64,
    pub bridged: u64,
    /// Calls that were refused and did not hear of it, because the edge that said so died.
    pub unheard: u64,
}

impl Caller {
    /// `phone`: there is one that can be called, besides the agent.
    pub fn new(index: usize, phone: bool, rng: &mut Rng) -> Caller {
        let steps = Caller::plan(phone, rng);
        Caller::with(index, steps, rng)
    }

    /// Before everything else it calls the phone and thinks better of it.
    pub fn begins_with_a_cancel(&mut self) {
        self.steps.push(Step::Call { fate: Fate::Cancel });
    }

    /// One that is called.
    pub fn phone(index: usize, rng: &mut Rng) -> Caller {
        // Who was not taken registers again.
        Caller { user: PHONE.to_owned(), ..Caller::with(index, vec![Step::Register; 3], rng) }
    }

    fn plan(phone: bool, rng: &mut Rng) -> Vec<Step> {
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
        if phone && rng.chance(500) {
            for _ in 0..rng.range(1, 2) {
                let fate = Fate::of(rng);
                steps.push(Step::Call { fate });
                if fate == Fate::Talk {
                    steps.extend(vec![Step::Probe; rng.below(4) as usize]);
                    steps.extend([Step::Bye, Step::AfterBye, Step::ByeAgain]);
                }
            }
        } else if rng.chance(800) {
            let ack = rng.chance(920);
            steps.push(Step::Invite { ack });
            for _ in 0..if ack { rng.below(5) } else { 0 } {
                steps.push(if rng.chance(200) {
                    Step::Probe
                } else {
                    Step::Tool { unsafe_tool: rng.chance(700), in_dialog: true }
                });
            }
            if ack && rng.chance(850) {
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
        steps
    }

    fn with(index: usize, steps: Vec<Step>, rng: &mut Rng) -> Caller {
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
            fate: None,
            unacknowledged: false,
            acknowledges: true,
            cancelled: false,
            phone: Phone::default(),
            ended: false,
            bye: None,
            bye_answered: None,
            lost_dialog: None,
            registered_until: 0,
            tell_at: None,
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

    /// At the end of the run, long after every session timer.
    pub fn conclude(&mut self, model: &mut Model) {
        if self.unacknowledged && !self.ended {
            model.lost(format!("a call of {} without an ACK was never ended", self.user));
        }
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
        pending.chain(open).chain(step).chain(self.tell_at).chain(self.phone.poll_timeout()).min()
    }

    pub fn is_done(&self) -> bool {
        self.steps.is_empty() && self.pending.is_empty() && self.open.is_empty()
    }

    /// The connection broke: what is not answered goes to another edge.
    pub fn on_lost(&mut self, now: u64, rng: &mut Rng, out: &mut Vec<Out>) {
        for pending in self.pending.values_mut() {
            out.push(Out::Any(pending.bytes.clone()));
            pending.next = (now + 2_000).min(pending.ends);
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
        let is_registered = self.registered_until > now;
        // Until a copy is on a connection again.
        for open in self.open.values_mut().filter(|open| !open.in_dialog) {
            open.no_way_back = !is_registered;
        }
        self.tell_new_connection(now, rng, out);
    }

    /// This left on a connection to an edge that listens.
    pub fn on_its_way(&mut self, bytes: &Bytes) {
        let exchange = self.pending.get(&branch_of(bytes)).and_then(|pending| pending.exchange.as_ref());
        if let Some(open) = exchange.and_then(|exchange| self.open.get_mut(exchange)) {
            open.no_way_back = false;
        }
    }

    /// Registers again (RFC 5626 §4.4.1), and lets the dialog's edge see where the peer is now, as long as an answer is due there.
    fn tell_new_connection(&mut self, now: u64, rng: &mut Rng, out: &mut Vec<Out>) {
        self.tell_at = None;
        if self.registered_until > now {
            self.register(now, Step::Register, rng, out);
        }
        if !self.ended && self.open.values().any(|open| open.in_dialog) {
            self.in_dialog(now, "OPTIONS", Step::Probe, rng, out);
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
                // What comes later than 64·T1 is another request.
                p.next = if now < p.last { now + p.interval } else { p.ends };
            }
        }
        for branch in over {
            if let Some(p) = self.pending.remove(&branch) {
                self.counters.given_up += 1;
                if p.rings && !self.cancelled {
                    let call_id = self.invite.as_ref().map(|(_, invite)| invite.call_id()).unwrap_or_default();
                    if model.is_refused(call_id) {
                        self.counters.unheard += 1;
                    } else {
                        model.lost(format!("an INVITE of {} rang and was met with silence", self.user));
                    }
                }
                self.after(now, p.step, rng);
            }
        }
        let late: Vec<String> = self.open.iter().filter(|(_, o)| o.ends <= now).map(|(k, _)| k.clone()).collect();
        for exchange in late {
            self.repeat(now, &exchange, rng, model, out);
        }
        self.phone_timeout(now, rng, out);
        if self.tell_at.is_some_and(|at| at <= now) {
            self.tell_new_connection(now, rng, out);
        }
        if self.pending.is_empty() && self.open.is_empty() && self.next_step <= now {
            self.begin(now, rng, out);
        }
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
            Step::Invite { ack } => self.invite(now, None, ack, rng, out),
            Step::Call { fate } => self.invite(now, Some(fate), fate != Fate::NoAck, rng, out),
            Step::Tool { unsafe_tool, in_dialog } => {
                self.begin_tool(now, unsafe_tool, in_dialog, rng, out);
            }
            Step::Probe | Step::AfterBye => self.in_dialog(now, "OPTIONS", step, rng, out),
            Step::Bye => self.in_dialog(now, "BYE", step, rng, out),
            Step::Cancel | Step::ByeOfPhone => {}
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
            last: now + LIFE_MS,
            rings: false,
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
            self.on_request(now, &message, rng, out)
        } else {
            self.on_response(now, &message, rng, model, out)
        }
    }

    fn on_response(&mut self, now: u64, message: &Message, rng: &mut Rng, model: &mut Model, out: &mut Vec<Out>) {
        let status = message.status().unwrap_or(0);
        let branch = pending_key(message);
        let is_invite = message.cseq().method.as_str() == "INVITE";
        if status < 200 {
            if is_invite {
                self.on_provisional(now, status, &branch, rng, out);
            }
            return;
        }
        if is_invite && self.invite.as_ref().is_some_and(|(b, _)| *b == branch) {
            self.on_invite_final(status, &branch, message, rng, model, out);
        }
        let Some(p) = self.pending.remove(&branch) else { return };
        self.judge(now, &p, status, message, model);
        if self.uses_streams && status >= 500 && matches!(p.step, Step::Register | Step::Probe) {
            self.tell_at = Some(now + 1_500);
        }
        self.after(now, p.step, rng);
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
                model.served_after_bye(now, message, &self.user);
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
            Step::Cancel | Step::ByeOfPhone => {}
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

    fn on_request(&mut self, now: u64, message: &Message, rng: &mut Rng, out: &mut Vec<Out>) {
        let method = message.method().map(|m| m.as_str().to_owned()).unwrap_or_default();
        if method == "ACK" {
            return self.phone.on_ack(now, message.call_id(), rng);
        }
        if method == "INVITE" && message.to_tag().is_none() {
            let contact = self.contact();
            let said = self.phone.on_invite(now, message, &contact, rng);
            return out.push(Out::Back(said));
        }
        let branch = format!("{} {method}", message.top_via().branch().unwrap_or_default());
        if let Some(response) = self.served.get(&branch) {
            out.push(Out::Back(response.clone()));
            return;
        }
        let of_phone =
            self.phone.has(message.call_id()) && (method == "CANCEL" || !self.phone.is_over(message.call_id()));
        let mine = message.to_tag().is_none()
            || of_phone
            || self.dialog.as_ref().is_some_and(|d| d.call_id == message.call_id())
            || message.call_id() == self.page_call_id;
        // Long after, nobody is there any more: what still refreshes the session hears so.
        let is_gone = now > CALM_FROM_MS + GONE_AFTER_MS && matches!(method.as_str(), "UPDATE" | "INVITE");
        let status = if mine && !is_gone { 200 } else { 481 };
        match method.as_str() {
            "CANCEL" => out.extend(self.phone.on_cancel(now, message.call_id()).map(Out::Back)),
            "BYE" if self.phone.on_bye(message.call_id()) => {}
            "BYE" if mine => {
                self.ended = true;
                self.lost_dialog = None;
            }
            _ => {}
        }
        let mut response = Response::to_request(message, status, None);
        if message.to_tag().is_none() {
            response = response.to_tag(&self.from_tag);
        }
        if matches!(method.as_str(), "UPDATE" | "INVITE") && mine {
            if let Some(expires) = message.header(HeaderId::SessionExpires) {
                response = response.header(HeaderId::SessionExpires, expires).header(HeaderId::Require, "timer");
            }
            response = response.header(HeaderId::Contact, format!("<{}>", self.contact()));
            if method == "INVITE" {
                response = response.body("application/sdp", sdp(&self.user, 1));
            }
        }
        let bytes = response.build();
        self.served.insert(branch, bytes.clone());
        out.push(Out::Back(bytes));
        if mine && matches!(method.as_str(), "MESSAGE" | "INFO") {
            self.on_mcp(message);
        }
    }
}

fn parse(bytes: &Bytes) -> Option<Message> {
    Message::parse(bytes.clone(), sip_proto::message::Transportation::Datagram).ok()
}

fn branch_of(bytes: &Bytes) -> String {
    parse(bytes).map(|message| pending_key(&message)).unwrap_or_default()
}

/// A CANCEL has the branch of its INVITE.
fn pending_key(message: &Message) -> String {
    let branch = message.top_via().branch().unwrap_or_default();
    if message.cseq().method.as_str() == "CANCEL" { format!("{branch} CANCEL") } else { branch.to_owned() }
}
