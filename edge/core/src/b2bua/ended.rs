//! The end of one leg is the end of the other: its BYE, once it may be said. Our side of a caller's dialog is a callee's: no BYE before the
//! ACK of the 2xx, or the end of the wait for it (RFC 3261 §15); until then the 2xx is repeated, because without it the caller has no
//! dialog that a BYE could end. That is the work of whoever owns the dialog; the record says `Terminating`, and has the 2xx.

use session_store::key::DialogKey;
use session_store::op::{StoreError, StoreOp, StoreReply};
use session_store::record::DialogRecord;
use sip_proto::timer::TimerValues;

use super::Step;
use super::reach::MAX_PARKED;
use crate::dialogs::HangUp;
use crate::engine::Closing;
use crate::locate::Located;
use crate::mesh::MeshMessage;
use crate::state::EdgeState;
use crate::timers::TimerKey;

/// Other edges may have used so many numbers of a dialog since it was seen here last.
const CSEQ_MARGIN: u32 = 100;
/// Beyond them a number is drawn, so that edges which do not hear of each other take different ones.
const CSEQ_SPREAD: u64 = 1 << 20;
/// Numbers end here (RFC 3261 §8.1.1.5).
const CSEQ_LAST: u32 = u32::MAX >> 1;

/// Reason header (RFC 3326).
const OTHER_LEG: &str = "SIP;cause=200;text=\"The other leg ended\"";

/// The store did not answer: BYE is tried again so soon; milliseconds.
const AGAIN_MS: u64 = 1_000;

impl EdgeState {
    /// One leg has its tombstone or its BYE (of the peer, or ours), and `record` is what it was: the other leg is `Terminating` in the
    /// store, and its BYE is to be sent.
    pub(crate) fn bridge_ended(&mut self, dialog: DialogKey, record: &DialogRecord) {
        let Some(peer) = record.peer.filter(|peer| *peer != dialog) else { return };
        self.bridges.acks.remove(&dialog);
        self.bridges.acks.remove(&peer);
        self.bridge_leaves_in_time(peer);
    }

    /// Another edge ended the other leg of a dialog whose 2xx is repeated here, as far as its record says.
    pub(crate) fn bridge_ended_elsewhere(&mut self, dialog: DialogKey) {
        // Whoever owns it by now finds it in the record.
        if self.owns(dialog) {
            self.bridges.acks.remove(&dialog);
            self.bridge_leaves_in_time(dialog);
        }
    }

    /// BYE now, or with the ACK that is waited for here.
    fn bridge_leaves_in_time(&mut self, dialog: DialogKey) {
        let own = self.owner;
        match self.dialogs.get_mut(&dialog).filter(|local| local.record.owner == own && local.accept.is_some()) {
            Some(local) => local.leaves = true,
            None => self.bridge_leaves(dialog),
        }
    }

    /// The ACK is there, or was noted by somebody else: what waited for it is said.
    pub(crate) fn leave_acknowledged(&mut self, dialog: DialogKey) {
        let Some(local) = self.dialogs.get_mut(&dialog).filter(|local| local.leaves && local.accept.is_none()) else {
            return;
        };
        local.leaves = false;
        if self.owns(dialog) {
            self.bridge_leaves(dialog);
        }
    }

    /// So long the peer of a dialog may still be waiting for a copy of our 2xx, as far as the record says; milliseconds. `None`: its ACK
    /// came, it owes none, or it had the time for it.
    pub(crate) fn ack_wait_ms(&self, record: &DialogRecord) -> Option<u64> {
        let life = TimerValues::default().life();
        let left = record.created_at.saturating_add(life).saturating_sub(self.now.wall.0).min(life);
        (record.accept_bytes.is_some() && !record.we_called && left > 0).then_some(left)
    }

    /// BYE in a dialog whose other leg has ended.
    fn bridge_leaves(&mut self, peer: DialogKey) {
        if !self.bridges.leaving.insert(peer) {
            return;
        }
        if let Some(local) = self.dialogs.get_mut(&peer) {
            local.ending = true;
        }
        if self.is_degraded() {
            return self.bye_from_cache(peer);
        }
        let hang_up = HangUp { dialog: peer, reason: OTHER_LEG, closing: Closing::Bye, fence: None };
        let operation = StoreOp::NextCseq { dialog: peer, terminating: true, close: None, fence: None };
        self.bridge_store(operation, Step::HangUp(hang_up));
    }

    /// A number for a request that ends a dialog while the store gives none: nobody has used it and nobody will (gaps are legal, RFC 3261
    /// §12.2.2). `last`: the highest number of ours in the dialog that is known here.
    pub(crate) fn cseq_of_nobody(&mut self, last: u32) -> u32 {
        let drawn = u32::try_from(self.random.below(CSEQ_SPREAD)).unwrap_or(0);
        last.saturating_add(CSEQ_MARGIN).saturating_add(drawn).min(CSEQ_LAST)
    }

    /// The other leg's BYE while the store is away.
    fn bye_from_cache(&mut self, peer: DialogKey) {
        let Some(record) = self.dialogs.get(&peer).map(|local| local.record.clone()) else {
            // Where it is, the store knows.
            return self.stay(peer, AGAIN_MS);
        };
        if self.waits_for_ack(peer, &record) {
            return;
        }
        let cseq = self.cseq_of_nobody(record.cseq_out);
        let hang_up = HangUp { dialog: peer, reason: OTHER_LEG, closing: Closing::Bye, fence: None };
        self.reach_dialog(peer, &record, Located::HangUp { hang_up, cseq, record: record.clone() });
    }

    /// The other leg's number for its BYE. Gone: its peer said BYE, too.
    pub(super) fn bridge_bye(&mut self, hang_up: HangUp, reply: Result<StoreReply, StoreError>) {
        let dialog = hang_up.dialog;
        match reply {
            Ok(StoreReply::Cseq { cseq, record, .. }) => {
                if self.waits_for_ack(dialog, &record) {
                    return;
                }
                let owner = record.owner.pod;
                if owner != self.owner.pod && self.lives(owner) {
                    let call_id = record.call_id.clone();
                    self.tell_edge(owner, MeshMessage::Ended { dialog, says_bye: false, call_id }, None);
                }
                let then = Located::HangUp { hang_up, cseq, record: record.clone() };
                self.reach_dialog(dialog, &record, then);
            }
            Err(_) => self.stay(dialog, AGAIN_MS),
            Ok(_) => {
                self.bridge_buried(dialog);
                self.end_dialog(dialog, hang_up.closing);
            }
        }
    }

    /// Whether BYE is too early, by the record: then it is the owner's to say, and this edge's where nobody did in time.
    fn waits_for_ack(&mut self, dialog: DialogKey, record: &DialogRecord) -> bool {
        let own = self.owner;
        let left = self.ack_wait_ms(record);
        let local = self.dialogs.get_mut(&dialog).filter(|local| local.record.owner == own && record.owner == own);
        match (left, local) {
            (None, _) => return false,
            // Heard here, whatever the record says.
            (Some(_), Some(local)) if local.accept.is_none() => return false,
            (Some(_), Some(local)) => {
                local.leaves = true;
                local.ending = false;
                self.bridge_buried(dialog);
                self.arm_dialog(dialog);
            }
            (Some(left), None) => {
                let owner = record.owner.pod;
                if owner != self.owner.pod && self.lives(owner) {
                    let call_id = record.call_id.clone();
                    self.tell_edge(owner, MeshMessage::Ended { dialog, says_bye: true, call_id }, None);
                }
                self.stay(dialog, left + AGAIN_MS);
                self.end_dialog(dialog, Closing::Bye);
            }
        }
        true
    }

    /// BYE is looked at again later.
    fn stay(&mut self, dialog: DialogKey, millis: u64) {
        self.bridge_buried(dialog);
        if let Some(local) = self.dialogs.get_mut(&dialog) {
            local.ending = false;
            self.arm_dialog(dialog);
        }
        if self.bridges.staying.len() >= MAX_PARKED {
            // Its owner, or its own session timer, ends it.
            return self.stats.limit("byes");
        }
        let id = self.ids.number();
        self.timers.arm(TimerKey::Bridge(id), Some(self.now.mono.plus_millis(millis)));
        self.bridges.staying.insert(id, dialog);
    }

    /// Where nobody said it meanwhile, BYE. `false`: there is none of that number.
    pub(super) fn stayed(&mut self, id: u64) -> bool {
        let dialog = self.bridges.staying.remove(&id);
        if let Some(dialog) = dialog {
            self.bridge_leaves_in_time(dialog);
        }
        dialog.is_some()
    }

    /// We say BYE in a dialog; where it has another leg, there, too. `false`: that one said it for both already.
    pub(crate) fn bridge_hangs_up(&mut self, dialog: DialogKey, record: &DialogRecord) -> bool {
        if record.peer.is_none() {
            return true;
        }
        let first = self.bridges.leaving.insert(dialog);
        if first {
            self.bridge_ended(dialog, record);
        }
        first
    }

    /// A dialog has its tombstone.
    pub(crate) fn bridge_buried(&mut self, dialog: DialogKey) {
        self.bridges.leaving.remove(&dialog);
    }
}
