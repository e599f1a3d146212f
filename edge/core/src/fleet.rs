//! A core among others: its lease, what it adopts, and what other edges tell it.

use std::sync::Arc;

use bytes::Bytes;
use session_store::key::{DialogKey, ExchangeKey};
use session_store::op::Adopted;
use session_store::record::Owner;
use sip_proto::message::{Message, Transportation};
use sip_proto::method::Method;

use crate::call::cancel::Cancel;
use crate::effect::Effect;
use crate::engine::{Closing, Engine, TakeBack};
use crate::input::{ConnId, Flow, FlowKey};
use crate::lease::Membership;
use crate::mesh::{Arrival, MeshMessage};
use crate::state::{EdgeState, MAX_WAITING};
use crate::timers::TimerKey;
use crate::transactions::server_key;

/// What is done where a message to another edge could not be delivered.
#[derive(Debug)]
pub(crate) enum Meshed {
    /// The record learns of the ACK here.
    Ack(DialogKey),
    /// The INVITE (as the guard has it) is answered here.
    Cancel(Box<Cancel>, Bytes),
    /// The edge that wanted something written on a connection of ours hears that it could not be.
    Sent { from: u64, conn: ConnId, tag: u64, call_id: String },
    /// The engine asks again.
    Holds(ExchangeKey, Owner),
}

/// Nothing was heard of a message for so long: it has arrived; milliseconds.
const MESHED_MS: u64 = 5_000;

impl EdgeState {
    /// Whether something continuous may be done now: asked right before each such action (sip.md, section 8, rule 2).
    pub(crate) fn may_act(&self) -> bool {
        self.membership.as_ref().is_none_or(|membership| membership.holds(self.now.mono))
    }

    /// Whether that edge has its lease.
    pub(crate) fn lives(&self, pod: u64) -> bool {
        self.membership.as_ref().is_some_and(|membership| membership.living_pod(pod).is_some())
    }

    pub(crate) fn membership(&mut self, membership: Arc<Membership>) {
        let before = self.membership.replace(membership.clone());
        let old_owner = self.owner;
        self.owner = membership.owner;
        let emptied = before.as_ref().is_some_and(|before| before.generation != membership.generation);
        if old_owner != self.owner {
            // What an earlier life owned is ours again once it was adopted, or written anew.
            self.foreign = self.dialogs.iter().filter(|(_, l)| l.record.owner != self.owner).map(|(d, _)| *d).collect();
            let dialogs: Vec<DialogKey> = self.dialogs.keys().copied().collect();
            for dialog in dialogs {
                self.arm_dialog(dialog);
            }
        }
        if emptied {
            let was_alone = before.is_none_or(|before| before.is_alone());
            self.store_was_emptied(old_owner, was_alone);
        }
        self.store_was_seen(membership.renewed_at);
    }

    pub(crate) fn adopt(&mut self, items: Vec<Adopted>) {
        if !self.may_act() {
            // The lease ended on the way; the next life finds them among its own remains.
            return self.stats.drop_one("adopted without a lease");
        }
        for item in items {
            match item {
                Adopted::Call { guard, dialog, invite, legs } => self.call_adopted(guard, dialog, &invite, legs),
                Adopted::Dialog { dialog, version, record } => self.dialog_adopted(dialog, version, record),
                Adopted::Exchange { key, entry } => {
                    self.stats.adopted("exchange");
                    let local = entry.leg.dialog.and_then(|dialog| self.dialogs.get(&dialog));
                    let record = local.map(|local| local.record.clone());
                    self.with_engine(|engine, ctx| Engine::adopted(engine, ctx, key, entry, record.as_deref()));
                }
            }
        }
    }

    /// Says something to another edge. `failed`: what is done where it cannot be delivered.
    pub(crate) fn tell_edge(&mut self, to: u64, mut message: MeshMessage, failed: Option<Meshed>) {
        if let Some(failed) = failed {
            if self.meshed.len() >= MAX_WAITING {
                self.stats.limit("meshMessages");
                return self.not_delivered(failed);
            }
            let number = self.ids.number();
            self.meshed.insert(number, failed);
            self.timers.arm(TimerKey::Meshed(number), Some(self.now.mono.plus_millis(MESHED_MS)));
            match &mut message {
                MeshMessage::Send { tag, .. }
                | MeshMessage::Relay { tag, .. }
                | MeshMessage::Cancelled { tag, .. }
                | MeshMessage::Holds { tag, .. } => *tag = Some(number),
                MeshMessage::SendFailed { .. }
                | MeshMessage::Ended { .. }
                | MeshMessage::Held { .. }
                | MeshMessage::TakenBack { .. } => {}
            }
        }
        self.emit(Effect::Mesh { to, message });
    }

    /// A SIP message that belongs to another edge.
    pub(crate) fn relay(&mut self, to: u64, flow: &Flow, message: &Message, failed: Option<Meshed>) {
        let (bytes, call_id) = (message.bytes().clone(), message.call_id().to_owned());
        let relay = MeshMessage::Relay { arrival: Arrival::of(flow), bytes, tag: None, call_id };
        self.tell_edge(to, relay, failed);
    }

    pub(crate) fn on_mesh(&mut self, from: u64, message: MeshMessage) {
        self.deaf.remove(&from);
        match message {
            MeshMessage::Send { boot, conn, bytes, tag, call_id } => {
                if boot == self.owner.boot && self.flows.contains(conn) {
                    let told = tag.map(|tag| {
                        let number = self.ids.number();
                        self.meshed.insert(number, Meshed::Sent { from, conn, tag, call_id });
                        self.timers.arm(TimerKey::Meshed(number), Some(self.now.mono.plus_millis(MESHED_MS)));
                        number
                    });
                    self.emit(Effect::Send { flow: FlowKey::Stream(conn), bytes, tag: told });
                } else if let Some(tag) = tag {
                    self.tell_edge(from, MeshMessage::SendFailed { tag, call_id }, None);
                }
            }
            MeshMessage::SendFailed { tag, .. } => self.send_failed(tag),
            MeshMessage::Relay { arrival, bytes, .. } => self.relayed(&arrival, bytes),
            MeshMessage::Cancelled { guard, .. } => self.cancelled_elsewhere(guard),
            MeshMessage::Ended { dialog, says_bye: true, .. } => self.bridge_ended_elsewhere(dialog),
            MeshMessage::Ended { dialog, says_bye: false, .. } => self.end_dialog(dialog, Closing::Bye),
            MeshMessage::Holds { exchange, owner, tag: Some(tag), call_id } => {
                // Of another life this process remembers nothing.
                if (owner.pod, owner.boot) == (self.owner.pod, self.owner.boot)
                    && let Some(held) = self.with_engine(|engine, ctx| engine.holds(ctx, exchange))
                {
                    self.tell_edge(from, MeshMessage::Held { tag, held, call_id }, None);
                }
            }
            MeshMessage::Holds { tag: None, .. } => self.stats.drop_one("question of another edge without a tag"),
            MeshMessage::Held { tag, held, .. } => self.told_who_holds(from, tag, held),
            MeshMessage::TakenBack { session, exchange, body, .. } => {
                self.with_engine(|engine, ctx| engine.taken_back(ctx, session, exchange.as_ref(), &body));
            }
        }
    }

    /// The engine wants to know whether that edge serves an exchange. The dead are not asked: what they left is adopted.
    pub(crate) fn ask_who_holds(&mut self, owner: Owner, exchange: ExchangeKey, call_id: String) {
        let living = self.membership.as_ref().and_then(|membership| membership.living_pod(owner.pod));
        if living.is_some_and(|pod| pod.owner == owner) {
            let question = MeshMessage::Holds { exchange, owner, tag: None, call_id };
            self.tell_edge(owner.pod, question, Some(Meshed::Holds(exchange, owner)));
        }
    }

    /// A caller takes a request back that is served by another edge, or by nobody until it is adopted. Which edge it is, only the journal
    /// knows; all hear of it, also those whose lease ran out, because they may still be running it.
    pub(crate) fn take_back_elsewhere(&mut self, taken: &TakeBack) {
        let Some(membership) = self.membership.clone() else { return };
        let me = self.owner.pod;
        for other in membership.pods.iter().filter(|pod| pod.owner.pod != me && !pod.address.is_empty()) {
            let TakeBack { session, exchange, body, call_id } = taken.clone();
            self.tell_edge(other.owner.pod, MeshMessage::TakenBack { session, exchange, body, call_id }, None);
        }
    }

    fn told_who_holds(&mut self, from: u64, tag: u64, held: bool) {
        let Some(Meshed::Holds(exchange, owner)) = self.meshed.get(&tag) else { return };
        let (exchange, owner) = (*exchange, *owner);
        if owner.pod != from {
            return;
        }
        self.meshed.remove(&tag);
        self.timers.arm(TimerKey::Meshed(tag), None);
        self.with_engine(|engine, ctx| engine.told(ctx, exchange, owner, held));
    }

    /// Only what nobody has to be asked about travels so: responses, and ACK.
    fn relayed(&mut self, arrival: &Arrival, bytes: Bytes) {
        let Ok(message) = Message::parse(bytes, Transportation::Stream) else {
            return self.stats.drop_one("unreadable message of another edge");
        };
        let flow = arrival.flow();
        if !message.is_request() {
            return self.on_response(&flow, &message, true);
        }
        if message.cseq().method != Method::Ack {
            return self.stats.drop_one("request of another edge");
        }
        match self.servers.find(&server_key(&message)) {
            Some(id) => self.server_again(id, true),
            None => {
                let request = self.request(Arc::new(flow), message);
                self.on_ack(&request, true);
            }
        }
    }

    pub(crate) fn mesh_failed(&mut self, to: u64, tag: u64) {
        self.not_reached(to);
        match self.meshed.remove(&tag) {
            Some(failed) => {
                self.timers.arm(TimerKey::Meshed(tag), None);
                self.not_delivered(failed);
            }
            None => self.not_carried(tag),
        }
    }

    /// A connection is gone on which others have just written: they hear of it, because no answer will come.
    pub(crate) fn mesh_flow_closed(&mut self, closed: ConnId) {
        let on_it = |failed: &Meshed| matches!(failed, Meshed::Sent { conn, .. } if *conn == closed);
        let tags: Vec<u64> = self.meshed.iter().filter(|(_, f)| on_it(f)).map(|(tag, _)| *tag).collect();
        for tag in tags {
            self.tagged_send_failed(tag);
        }
    }

    fn not_delivered(&mut self, failed: Meshed) {
        match failed {
            Meshed::Ack(dialog) => self.confirm(dialog),
            Meshed::Cancel(cancel, invite) => self.cancelled_here(&cancel, &invite),
            Meshed::Sent { from, tag, call_id, .. } => {
                self.tell_edge(from, MeshMessage::SendFailed { tag, call_id }, None);
            }
            Meshed::Holds(..) => {}
        }
    }

    /// A send of ours, or for another edge, failed.
    pub(crate) fn tagged_send_failed(&mut self, tag: u64) {
        if let Some(failed) = self.meshed.remove(&tag) {
            self.timers.arm(TimerKey::Meshed(tag), None);
            return self.not_delivered(failed);
        }
        self.send_failed(tag);
    }
}
