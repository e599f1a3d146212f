//! ACKs between the legs. An INVITE that we sent on one leg for the other one's is acknowledged when the ACK there comes: it may bring the
//! answer to an offer in the 2xx (RFC 3261 §13.2.2.4), and until then the copies of the far end's 2xx drive ours. What is owed stands in the
//! record, too, so that an ACK that reaches another edge is passed on there.

use bytes::Bytes;
use session_store::key::DialogKey;
use session_store::op::{StoreError, StoreOp, StoreReply};
use session_store::record::DialogRecord;

use super::bodies::{Mcp, Parts, Passed};
use super::{OWED_ACK, Step};
use crate::dialogs::{dialog_state, record_ttl_ms};
use crate::locate::Located;
use crate::request::Request;
use crate::state::EdgeState;
use crate::token::DialogToken;
use crate::transactions::Target;
use crate::waiting::Waiting;

/// An ACK of ours that waits for the other leg's.
#[derive(Debug)]
pub(crate) struct PendingAck {
    client: u64,
    peer: DialogKey,
    record: Box<DialogRecord>,
    cseq: u32,
    target: Target,
    /// What the caller of the re-INVITE got, for when the far end repeats its 2xx.
    again: Option<(Request, Bytes)>,
}

/// An ACK on an edge that has nothing of its INVITE.
#[derive(Debug)]
pub(crate) struct AckWait {
    request: Request,
    dialog: DialogKey,
    cseq: u32,
    peer: DialogKey,
    relayed: bool,
}

/// An ACK with its way.
#[derive(Debug)]
pub(crate) struct AckOut {
    pub request: Request,
    pub cseq: u32,
    pub peer: DialogKey,
    pub record: Box<DialogRecord>,
}

impl EdgeState {
    pub(super) fn owe_ack(
        &mut self,
        dialog: DialogKey,
        client: u64,
        peer: DialogKey,
        record: &DialogRecord,
        cseq: u32,
        target: &Target,
    ) {
        let record = Box::new(record.clone());
        let owed = PendingAck { client, peer, record, cseq, target: target.clone(), again: None };
        self.bridges.acks.insert(dialog, owed);
    }

    pub(super) fn owe_again(&mut self, dialog: DialogKey, request: Request, response: Bytes) {
        if let Some(owed) = self.bridges.acks.get_mut(&dialog) {
            owed.again = Some((request, response));
        }
    }

    /// The far end repeats a 2xx whose ACK is owed.
    pub(crate) fn owed_again(&mut self, client: u64) {
        let again = self.bridges.acks.values().find(|owed| owed.client == client).and_then(|owed| owed.again.clone());
        if let Some((request, response)) = again {
            let to = crate::transactions::ReplyTo::new(&request.flow, &request.message.top_via());
            self.send_reply(&to, response);
        }
    }

    /// The transaction of an INVITE is over: nobody waits for its ACK any more.
    pub(crate) fn owed_no_more(&mut self, client: u64) {
        self.bridges.acks.retain(|_, owed| owed.client != client);
    }

    /// An ACK in a dialog with another leg. `relayed`: another edge took it in for us.
    pub(crate) fn bridge_ack(&mut self, request: &Request, token: DialogToken, relayed: bool) {
        let dialog = token.key;
        let owed = self.bridges.acks.remove(&dialog);
        let mine = self.owns(dialog);
        let news = self.dialogs.get(&dialog).is_some_and(|local| local.accept.is_some());
        if mine {
            self.acknowledged(dialog);
            if news {
                self.confirm(dialog);
            }
        }
        if let Some(owed) = owed {
            return self.pay_ack(request, owed);
        }
        if !mine && self.has_room() && !self.is_degraded() {
            let wait = AckWait { request: request.clone(), dialog, cseq: 0, peer: dialog, relayed };
            self.bridge_store(StoreOp::ReadDialog { dialog }, Step::AckHere(Box::new(wait)));
        }
    }

    /// The ACK for the far end, on the transaction that waits for it.
    fn pay_ack(&mut self, request: &Request, owed: PendingAck) {
        let PendingAck { client, peer, record, cseq, target, .. } = owed;
        let (ack, sent) = self.ack_bytes(request, cseq, &record, &target);
        self.acknowledge(client, ack);
        self.note_answer(peer, sent, 0);
    }

    fn ack_bytes(
        &mut self,
        request: &Request,
        cseq: u32,
        record: &DialogRecord,
        target: &Target,
    ) -> (Bytes, Option<Passed>) {
        let branch = self.new_branch();
        let via = self.via(target.transport(), target.listener(), &branch);
        let parts = Parts::read(&request.message).unwrap_or_default();
        let theirs = parts.sdp.clone();
        let sent = theirs.and_then(|sdp| self.pass_sdp(&sdp, Passed::of(record).as_ref(), target.listener()).ok());
        let mut ack = dialog_state(record).ack_2xx(cseq, &via);
        if let Some((content_type, body)) = parts.with(sent.as_ref().map(|passed| &passed.sdp), &Mcp::Keep) {
            for line in super::copied::lines(&request.message, true, record.mcp.is_some()) {
                ack = ack.header_named(line.name, line.value);
            }
            ack = ack.body(content_type, body);
        }
        (ack.build(), sent)
    }

    /// What the ACK answered is what that leg sent last.
    fn note_answer(&mut self, dialog: DialogKey, sent: Option<Passed>, tries: u8) {
        if let Some(sent) = sent {
            let then = Waiting::BridgeAnswer { dialog, sdp: sent.sdp, id: sent.id, version: sent.version, tries };
            self.store(StoreOp::ReadDialog { dialog }, then);
        }
    }

    /// The record, to note the description of an ACK in it.
    pub(crate) fn ack_noted(
        &mut self,
        dialog: DialogKey,
        sent: (Bytes, u64, u64),
        tries: u8,
        reply: Result<StoreReply, StoreError>,
    ) {
        let (sdp, id, sdp_version) = sent;
        match reply {
            Ok(StoreReply::Dialog { version, mut record } | StoreReply::Conflict { version, mut record })
                if tries < 3 =>
            {
                Passed { sdp: sdp.clone(), id, version: sdp_version }.note(&mut record);
                let ttl_ms = record_ttl_ms(record.session_timer.as_ref());
                let then = Waiting::BridgeAnswer { dialog, sdp, id, version: sdp_version, tries: tries + 1 };
                self.store(StoreOp::UpdateDialog { dialog, version, record, ttl_ms }, then);
            }
            Ok(StoreReply::Version(version)) => {
                if let Some(local) = self.dialogs.get_mut(&dialog) {
                    local.version = version;
                }
            }
            Ok(_) | Err(_) => {}
        }
    }

    pub(super) fn owed_here(&mut self, mut wait: AckWait, reply: Result<StoreReply, StoreError>) {
        let Ok(StoreReply::Dialog { record, .. }) = reply else { return self.stats.drop_one("stray ACK") };
        let owner = record.owner.pod;
        if record.accept_bytes.is_some() {
            // Whoever repeats the 2xx hears of it; what it owes the far end it pays.
            if !wait.relayed && owner != self.owner.pod && self.lives(owner) {
                let failed = crate::fleet::Meshed::Ack(wait.dialog);
                return self.relay(owner, &wait.request.flow, &wait.request.message, Some(failed));
            }
            self.confirm(wait.dialog);
        }
        let owed = record.extra.get(OWED_ACK).and_then(|cseq| cseq.parse().ok());
        let (Some(cseq), Some(peer)) = (owed, record.peer) else { return };
        debug_assert_ne!(wait.dialog, peer);
        (wait.cseq, wait.peer) = (cseq, peer);
        self.bridge_store(StoreOp::ReadDialog { dialog: peer }, Step::AckPeer(Box::new(wait)));
    }

    pub(super) fn ack_peer(&mut self, wait: AckWait, reply: Result<StoreReply, StoreError>) {
        let Ok(StoreReply::Dialog { record, .. }) = reply else { return self.stats.drop_one("stray ACK") };
        let AckWait { request, cseq, peer, .. } = wait;
        let out = AckOut { request, cseq, peer, record: record.clone() };
        self.reach_dialog(peer, &record, Located::Ack(Box::new(out)));
    }

    pub(crate) fn send_ack(&mut self, out: &AckOut, target: Option<Target>) {
        let Some(target) = target else { return self.stats.drop_one("ACK without a way") };
        let (bytes, sent) = self.ack_bytes(&out.request, out.cseq, &out.record, &target);
        self.send_to_target(&target, bytes, None);
        self.note_answer(out.peer, sent, 0);
    }
}
