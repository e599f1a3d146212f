//! The calling side: INVITE, CANCEL, and requests in the dialog.

use serde_json::json;
use sip_proto::dialog::{DialogState, ack_failure, cancel};
use sip_proto::message::{HeaderId, Message};

use super::{CALM_FROM_MS, Caller, Fate, LIFE_MS, Out, PATIENCE_MS, Step, parse, sdp};
use crate::model::Model;
use crate::rng::Rng;
use crate::setup::{DOMAIN, PHONE, caller_address};

impl Caller {
    /// To a phone, or to the agent.
    pub(super) fn invite(&mut self, now: u64, phone: Option<Fate>, ack: bool, rng: &mut Rng, out: &mut Vec<Out>) {
        let branch = format!("z9hG4bK{}", rng.token(16));
        let call_id = rng.token(24);
        let user = if phone.is_some() { PHONE } else { "agent" };
        let uri = format!("sip:{user}@{DOMAIN}");
        let contact = self.contact();
        let mut request = self
            .head("INVITE", &uri, &uri, &call_id, &branch)
            .header(HeaderId::Contact, format!("<{contact}>"))
            .header(HeaderId::Allow, "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, MESSAGE, UPDATE");
        if rng.chance(300) {
            // Short enough that the edge refreshes it while things go wrong.
            request = request.header(HeaderId::SessionExpires, "90;refresher=uas").header(HeaderId::MinSe, "90");
        }
        request = match phone {
            Some(fate) => request
                .header(HeaderId::Supported, "timer")
                .header(HeaderId::Subject, fate.subject())
                .body("application/sdp", sdp(&self.user, 1)),
            None => {
                let offer = json!({
                    "mcp_version": "1.0", "type": "offer", "conversation": "6f2d0c2e-9a1e-4b7c-8d5f-0123456789ab",
                    "payload": { "role": "caller", "tools": [], "schemas": [], "versions": ["2026-07-28"] },
                });
                request
                    .header(HeaderId::Supported, "mcp, x-mcp, timer")
                    .header(HeaderId::Accept, "application/sdp, application/mcp+json, multipart/mixed")
                    .header_named("Recv-Info", "mcp")
                    .body("application/mcp+json", offer.to_string())
            }
        };
        let bytes = request.build();
        if let Some(message) = parse(&bytes) {
            self.invite = Some((branch.clone(), message));
        }
        self.dialog = None;
        self.ended = false;
        self.cancelled = false;
        self.unacknowledged = false;
        self.fate = phone;
        self.acknowledges = ack;
        self.bye = None;
        self.bye_answered = None;
        self.start(now, branch, bytes, "INVITE", Step::Invite { ack }, out);
    }

    /// It is on its way: Timer A stops with the first provisional response, and a final one has to come.
    pub(super) fn on_provisional(&mut self, now: u64, status: u16, branch: &str, rng: &mut Rng, out: &mut Vec<Out>) {
        let impatient = self.impatient;
        let Some(pending) = self.pending.get_mut(branch) else { return };
        if !pending.rings {
            pending.rings = true;
            pending.ends = now.max(CALM_FROM_MS) + PATIENCE_MS;
        }
        if !impatient {
            pending.next = pending.ends;
        }
        let wants = self.fate == Some(Fate::Cancel) && !self.cancelled && (status > 100 || rng.chance(300));
        if let Some(bytes) = self.invite.as_ref().filter(|_| wants).and_then(|(_, invite)| cancel(invite, None)) {
            self.cancelled = true;
            // Without a final response by then it counts as cancelled (RFC 3261 §9.1).
            pending.ends = now + LIFE_MS;
            self.start(now, format!("{branch} CANCEL"), bytes, "CANCEL", Step::Cancel, out);
        }
    }

    /// What is due where this one was called.
    pub(super) fn phone_timeout(&mut self, now: u64, rng: &mut Rng, out: &mut Vec<Out>) {
        let (contact, address) = (self.contact(), caller_address(self.index));
        let via = |branch: &str| format!("SIP/2.0/UDP {address};branch={branch};rport");
        let due = self.phone.on_timeout(now, &contact, via, rng);
        out.extend(due.responses.into_iter().map(Out::Any));
        for (branch, bytes) in due.byes {
            self.start(now, branch, bytes, "BYE", Step::ByeOfPhone, out);
        }
    }

    pub(super) fn in_dialog(&mut self, now: u64, method: &str, step: Step, rng: &mut Rng, out: &mut Vec<Out>) {
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

    pub(super) fn on_invite_final(
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
            self.counters.bridged += u64::from(self.fate.is_some());
            self.dialog = DialogState::uac(&invite, message, false).ok();
            self.unacknowledged = !self.acknowledges;
            if self.cancelled {
                // The answer was faster.
                self.steps.push(Step::Bye);
            }
        }
        if !self.acknowledges {
            return;
        }
        // Every copy of the 2xx gets an ACK (RFC 3261 §13.2.2.4).
        let via = self.via(&format!("z9hG4bK{}", rng.token(16)));
        if let Some(dialog) = &self.dialog {
            out.push(Out::Any(dialog.ack_2xx(invite.cseq().seq, &via).build()));
        }
    }
}
