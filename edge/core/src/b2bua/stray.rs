//! What is left of calls whose edge is gone: responses to INVITEs that it sent, and INVITEs that it never answered. Never silence: the agent
//! hears ACK and BYE, the caller 500.

use session_store::key::{DialogKey, GuardKey};
use session_store::op::{StoreError, StoreOp, StoreReply};
use session_store::record::{CallLeg, DialogPhase};
use sip_proto::message::{HeaderId, Message, Request as Outgoing};
use sip_proto::method::Method;

use super::{LATE_OFFER, Step};
use crate::answer::Answer;
use crate::arrival::Restored;
use crate::dialogs::dialog_state;
use crate::gate::Caller;
use crate::input::{Flow, FlowKey};
use crate::outgoing::MAX_FORWARDS;
use crate::state::EdgeState;
use crate::token::DialogToken;
use crate::transactions::Target;

/// A 2xx for which nobody here waits.
#[derive(Debug)]
pub(crate) struct Stray {
    message: Message,
    target: Target,
}

impl EdgeState {
    /// A response to a request that no transaction here has. `true` where it was one to an INVITE of a leg: it is dealt with.
    pub(crate) fn bridge_response(&mut self, flow: &Flow, message: &Message) -> bool {
        if message.cseq().method != Method::Invite {
            return false;
        }
        let token = message.from_tag().and_then(|tag| DialogToken::from_tag(&self.config.token_keys, tag));
        let Some(token) = token.filter(|token| token.bridged) else { return false };
        let target = Target::of_flow(flow);
        match message.status() {
            Some(200..=299) if self.has_room() => {
                let stray = Stray { message: message.clone(), target };
                self.bridge_store(StoreOp::ReadDialog { dialog: token.key }, Step::Stray(Box::new(stray)));
            }
            Some(300..) => self.ack_stray(message, &target),
            _ => {}
        }
        true
    }

    /// The ACK of a failure, hop by hop: what makes the peer stop repeating it is the branch.
    fn ack_stray(&mut self, message: &Message, target: &Target) {
        let (Some(from), Some(to)) = (message.header(HeaderId::From), message.header(HeaderId::To)) else { return };
        let ack = Outgoing::new("ACK", message.to().uri())
            .via(message.top_via().raw())
            .header(HeaderId::MaxForwards, MAX_FORWARDS)
            .header(HeaderId::From, from)
            .header(HeaderId::To, to)
            .header(HeaderId::CallId, message.call_id())
            .header(HeaderId::CSeq, format!("{} ACK", message.cseq().seq))
            .build();
        self.send_to_target(target, ack, None);
    }

    /// A dialog of ours: its ACK was lost, or went with its edge. None: nobody wants it, ACK and BYE.
    pub(super) fn stray_read(&mut self, stray: &Stray, reply: Result<StoreReply, StoreError>) {
        let Stray { message, target } = stray;
        let cseq = message.cseq().seq;
        match reply {
            Ok(StoreReply::Dialog { record, .. })
                if record.phase != DialogPhase::Terminating
                    && record.remote_tag == message.to_tag().unwrap_or_default() =>
            {
                let late = record.extra.contains_key(LATE_OFFER);
                if late && record.local_sdp.is_none() {
                    // The answer to its offer is the caller's to give.
                    return self.stats.drop_one("2xx whose ACK is owed");
                }
                let branch = self.new_branch();
                let via = self.via(target.transport(), target.listener(), &branch);
                let mut ack = dialog_state(&record).ack_2xx(cseq, &via);
                if let Some(sdp) = record.local_sdp.clone().filter(|_| late) {
                    ack = ack.body("application/sdp", sdp);
                }
                self.send_to_target(target, ack.build(), None);
            }
            Ok(_) => self.acknowledge_and_end(message, target, "SIP;cause=487;text=\"Nobody waits for it\""),
            // Nothing is known: it comes again.
            Err(_) => self.stats.drop_one("stray response"),
        }
    }

    /// A call that another edge left without a final response, and that is ours now. What rang stops ringing; a caller whom we can reach
    /// is called for anew, the others hear that they may try again. Never silence.
    pub(crate) fn bridge_adopt(&mut self, guard: GuardKey, dialog: DialogKey, restored: Restored, legs: &[CallLeg]) {
        let Restored { message, flow, principal, proven } = restored;
        self.cancel_legs(legs, &message);
        let reachable = match &flow.key {
            FlowKey::Datagram { .. } => true,
            FlowKey::Stream(conn) => self.flows.contains(*conn),
        };
        let host = sip_proto::uri::Uri::parse(message.request_uri().unwrap_or_default()).ok().and_then(|uri| uri.sip());
        let host = host.map(|uri| uri.host_str().to_ascii_lowercase()).unwrap_or_default();
        let domain = self.config.domains.get(&host).cloned();
        let mut request = self.request(flow, message);
        request.server = self.adopted_transaction(&request, guard);
        let seconds = (1 + self.random.below(5)).to_string();
        let gone = Answer::new(500).phrase("The Edge That Rang Is Gone").header(HeaderId::RetryAfter, seconds);
        let Some(domain) = domain.filter(|_| reachable && !self.drain.is_on()) else {
            return self.refuse_adopted(guard, &request, &gone);
        };
        let caller = Caller { domain, principal, nonce: None, certified: false, proven };
        self.stats.adopted("call");
        if let Err(answer) = self.bridge_again(&request, caller, guard, dialog) {
            self.refuse_adopted(guard, &request, &answer);
        }
    }
}
