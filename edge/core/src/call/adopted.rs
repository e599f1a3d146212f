//! What another edge left of a call: an INVITE without its final response, a 2xx without its ACK, a session, a BYE (sip.md, sections 7, 8).

use std::sync::Arc;

use bytes::Bytes;
use session_store::key::{DialogKey, GuardKey};
use session_store::op::StoreOp;
use session_store::record::{CallLeg, DialogPhase, DialogRecord};
use sip_proto::message::{HeaderId, Message, Transportation};

use super::Call;
use crate::answer::Answer;
use crate::arrival::Restored;
use crate::dialogs::{Accept, HangUp, LocalDialog, Way};
use crate::engine::Closing;
use crate::gate::Caller;
use crate::input::{FlowKey, Transport};
use crate::locate::Located;
use crate::request::Request;
use crate::state::EdgeState;
use crate::transactions::{InviteProgress, ReplyTo, Target};
use crate::waiting::Waiting;

impl EdgeState {
    /// An INVITE that its edge did not answer: as if it came now. Never silence.
    pub(crate) fn call_adopted(&mut self, guard: GuardKey, dialog: DialogKey, invite: &Bytes, legs: Vec<CallLeg>) {
        let Some(Restored { message, flow, principal, proven }) = self.restored_invite(invite) else {
            return self.unfinished(guard, invite, &legs);
        };
        let uri = message.request_uri().and_then(|text| sip_proto::uri::Uri::parse(text).ok());
        let uri = uri.and_then(|uri| uri.sip());
        let host = uri.as_ref().map(|uri| uri.host_str().to_ascii_lowercase()).unwrap_or_default();
        let user = uri.as_ref().and_then(|uri| uri.user_unescaped()).unwrap_or_default().into_owned();
        let domain = self.config.domains.get(&host).cloned();
        let agent = self.config.agents.get(&(host, user)).filter(|agent| !agent.backend.is_sip_contact()).cloned();
        if !legs.is_empty() || agent.is_none() {
            let restored = Restored { message, flow, principal, proven };
            return self.bridge_adopt(guard, dialog, restored, &legs);
        }
        let mut request = self.request(flow, message);
        request.server = self.adopted_transaction(&request, guard);
        let (Some(domain), Some(agent)) = (domain, agent) else {
            return self.refuse_adopted(guard, &request, &Answer::new(404));
        };
        if self.is_full() || self.drain.is_on() {
            let answer = self.unavailable("Full");
            return self.refuse_adopted(guard, &request, &answer);
        }
        if let Err(answer) = self.check_domain(&domain).and_then(|()| self.check_agent(&agent)) {
            return self.refuse_adopted(guard, &request, &answer);
        }
        let caller = Caller { domain, principal, nonce: None, certified: false, proven };
        match self.plan(&request, &caller, &agent) {
            Ok(plan) => {
                self.stats.adopted("call");
                let attempt = self.servers.attempt(request.server);
                self.accept_call(Call { request, caller, agent, guard, dialog, plan, attempt, accepted: None });
            }
            Err(answer) => self.refuse_adopted(guard, &request, &answer),
        }
    }

    /// The transaction of an INVITE in this process (it may still have it, after its lease ended for a while), else a new one.
    pub(crate) fn adopted_transaction(&mut self, request: &Request, guard: GuardKey) -> Option<u64> {
        if let Some(id) = self.servers.of_guard(&guard) {
            self.servers.begin_again(id);
            return Some(id);
        }
        let merged = self.merged_key(request);
        let id = self.open_server(&request.flow, &request.message, merged)?;
        self.servers.set_invite(id, InviteProgress { guard, opened: true, trying_due: false });
        Some(id)
    }

    pub(crate) fn refuse_adopted(&mut self, guard: GuardKey, request: &Request, answer: &Answer) {
        self.stats.adopted("refusedCall");
        let response = answer.build(&request.message, &request.flow, &request.tag);
        let operation = StoreOp::RejectCall { guard, owner: self.owner, response: response.clone() };
        self.store(operation, Waiting::Nobody);
        self.answer_bytes(request, answer.status, response);
    }

    /// How it arrived is not known (its keys are gone): what can be said is said to its Via.
    fn unfinished(&mut self, guard: GuardKey, invite: &Bytes, legs: &[CallLeg]) {
        let Ok(message) = Message::parse(invite.clone(), Transportation::Stream) else {
            return self.stats.drop_one("unreadable INVITE in a guard");
        };
        self.cancel_legs(legs, &message);
        let Some(flow) = self.flow_of_via(&message) else { return self.stats.drop_one("no way to an adopted INVITE") };
        let request = self.request(Arc::new(flow), message);
        let seconds = (1 + self.random.below(5)).to_string();
        let answer = Answer::new(500).phrase("Its Edge Is Gone").header(HeaderId::RetryAfter, seconds);
        self.refuse_adopted(guard, &request, &answer);
    }

    /// Where the top Via says, if that is an address (RFC 3261 §18.2.2).
    fn flow_of_via(&self, message: &Message) -> Option<crate::input::Flow> {
        let via = message.top_via();
        let ip: std::net::IpAddr = via.host_str().trim_matches(['[', ']']).parse().ok()?;
        let index = self.config.listeners.iter().position(|l| l.transport == Transport::Udp)?;
        let listener = u16::try_from(index).ok()?;
        let remote = std::net::SocketAddr::new(ip, via.port().unwrap_or(5060));
        let key = FlowKey::Datagram { listener, remote };
        let local = self.config.listeners[index].address;
        Some(crate::input::Flow { key, transport: Transport::Udp, listener, local, remote, certificate: None })
    }

    /// A dialog whose timers are ours now.
    pub(crate) fn dialog_adopted(&mut self, dialog: DialogKey, version: u64, record: Box<DialogRecord>) {
        self.stats.adopted("dialog");
        let known = self.dialogs.contains_key(&dialog);
        let phase = record.phase;
        // Our own remains, of a life that had heard the ACK and had not written it.
        let heard = self.dialogs.get(&dialog).is_some_and(|local| local.record.phase == DialogPhase::Confirmed);
        if known {
            self.keep(dialog, version, record.clone());
        } else {
            let flow = Arc::new(self.flow_of_record(&record));
            let datagram = flow.transport == Transport::Udp;
            let Some(leg) = self.leg_of(dialog, &record, datagram) else {
                // The agent is gone from the configuration: nobody may have it any more.
                let fence = self.own_fence();
                let reason = "SIP;cause=403;text=\"Revoked\"";
                return self.hang_up(HangUp { dialog, reason, closing: Closing::Local, fence });
            };
            self.keep_new(dialog, LocalDialog::of_record(leg, version, flow, record.clone(), self.now));
        }
        if record.principal == "anonymous" && !known && self.flow_of_dialog(&record, dialog).is_none() {
            // Nothing else vouches for its peer, and its connection is gone with its edge.
            self.end_dialog(dialog, Closing::Expired);
            return self.bury(dialog);
        }
        match phase {
            DialogPhase::Accepted if heard => {
                self.acknowledged(dialog);
                self.confirm(dialog);
            }
            DialogPhase::Accepted => self.repeat_accept(dialog, &record),
            DialogPhase::Terminating => {
                let ending = self.dialogs.get(&dialog).is_some_and(|local| local.ending);
                if known && ending {
                    return;
                }
                let waits = !heard && record.peer.is_some() && self.ack_wait_ms(&record).is_some();
                if let Some(local) = self.dialogs.get_mut(&dialog).filter(|_| waits) {
                    // The other leg ended before the ACK: no BYE without it yet (RFC 3261 §15).
                    local.leaves = true;
                    self.repeat_accept(dialog, &record);
                } else {
                    let fence = self.own_fence();
                    let reason = "SIP;cause=408;text=\"Its edge is gone\"";
                    self.hang_up(HangUp { dialog, reason, closing: Closing::Local, fence });
                }
            }
            DialogPhase::Early | DialogPhase::Confirmed | DialogPhase::Terminated => {}
        }
    }

    /// The 2xx again, until its ACK comes or 64·T1 are over.
    fn repeat_accept(&mut self, dialog: DialogKey, record: &DialogRecord) {
        let Some(bytes) = record.accept_bytes.clone() else { return };
        let now = self.now.mono;
        let way = self.flow_of_dialog(record, dialog).map(Way::Peer);
        let known = way.is_some();
        let Some(local) = self.dialogs.get_mut(&dialog) else { return };
        if local.accept.is_some() {
            return self.arm_dialog(dialog);
        }
        local.accept = Some(Accept::by(bytes.clone(), way, now));
        self.arm_dialog(dialog);
        if known {
            return self.send_accept(dialog);
        }
        // Its connection is gone: as its Via says, else where its Contact is.
        let via = Message::parse(bytes, Transportation::Stream).ok().map(|message| {
            let flow = self.flow_of_record(record);
            ReplyTo::new(&flow, &message.top_via())
        });
        match via.filter(|to| to.can_open()) {
            Some(to) => {
                if let Some(accept) = self.dialogs.get_mut(&dialog).and_then(|local| local.accept.as_mut()) {
                    accept.way = Some(Way::Reply(to));
                }
                self.send_accept(dialog);
            }
            None => {
                let target = record.remote_target.clone();
                self.locate(&target, 0, Located::Accept(dialog));
            }
        }
    }

    /// The way of an adopted 2xx was found, or there is none.
    pub(crate) fn accept_at(&mut self, dialog: DialogKey, target: Option<Target>) {
        let accept = self.dialogs.get_mut(&dialog).and_then(|local| local.accept.as_mut());
        if let (Some(accept), Some(target)) = (accept, target) {
            accept.way = Some(Way::Peer(target));
            if self.may_act() {
                self.send_accept(dialog);
            }
        }
    }
}
