//! The reference model: what must hold whatever is lost, repeated, reordered, delayed or killed. It sees the wire and the store
//! from outside, never the inside of a core.

use std::collections::{BTreeMap, BTreeSet};

use session_store::key::{DialogKey, ExchangeKey, GuardKey};
use session_store::op::{Adopted, OpenOutcome, StoreOp, StoreReply};
use session_store::record::Owner;
use sip_proto::message::{Message, Transportation};

use crate::world::EPOCH_MS;

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Model {
    pub violations: Vec<String>,
    /// Executions of the unsafe tool, by the token in its arguments.
    executions: BTreeMap<String, u32>,
    /// Requests of the edges in a dialog: (Call-ID, CSeq) → branch.
    cseqs: BTreeMap<(String, u32), String>,
    guards: BTreeMap<GuardKey, Owner>,
    exchanges: BTreeMap<ExchangeKey, Owner>,
    highest_out: BTreeMap<DialogKey, u32>,
    /// Call-ID, our tag and number of requests in dialogs, as edges heard them.
    given: BTreeSet<(String, String, u32)>,
    answered: BTreeMap<String, String>,
    /// Dialogs whose tombstone an outage of the store holds up: their BYE is answered all the same (the end wins over an outage), so a
    /// request right after it may still find the dialog.
    held_up: BTreeMap<DialogKey, HeldUp>,
    /// Requests in a dialog that an edge answered from its cache, because it did not reach the store: their branches.
    from_cache_alone: BTreeSet<String>,
    /// Requests that the store let begin in such a dialog before it had the tombstone: (dialog, CSeq).
    begun_before_end: BTreeSet<(DialogKey, u32)>,
    /// Dialogs that have their tombstone.
    ended: BTreeSet<DialogKey>,
    /// Calls that have a final response other than 2xx, by Call-ID.
    refused: BTreeSet<String>,
    /// Call-ID → our dialog.
    dialogs: BTreeMap<String, DialogKey>,
    /// Requests that were served after such a BYE.
    pub from_cache: u64,
    /// Until when each life of an edge has its lease, by the store's clock; and whose each (pod, epoch) is.
    leases: BTreeMap<Owner, u64>,
    epochs: BTreeMap<(u64, u64), u64>,
    /// The store lost what it had acknowledged: what follows from that is not judged any more.
    amnesty: bool,
}

/// A dialog whose end the store has not heard of.
#[derive(Clone, Copy, Debug)]
struct HeldUp {
    /// Who knows it.
    edge: usize,
    /// The outage is over then, and what was written down is in the store.
    until: u64,
}

impl Model {
    /// The store came back empty. From here on only what an empty store cannot excuse is judged.
    pub fn amnesty(&mut self) {
        self.amnesty = true;
        self.leases.clear();
        self.epochs.clear();
        self.guards.clear();
        self.exchanges.clear();
        self.highest_out.clear();
    }

    /// The replica took over: numbers that nobody heard of are lost with the primary, and given again.
    pub fn failed_over(&mut self) {
        self.highest_out.clear();
    }

    /// An edge heard its number for a request in a dialog: nobody hears the same one again.
    pub fn cseq_given(&mut self, call_id: &str, local_tag: &str, cseq: u32) {
        if !self.given.insert((call_id.to_owned(), local_tag.to_owned(), cseq)) {
            self.lost(format!("CSeq {cseq} of {call_id} was given twice"));
        }
    }

    /// A violation that a store without its content would explain.
    pub fn lost(&mut self, what: String) {
        if !self.amnesty {
            self.violated(what);
        }
    }

    /// The store did not take the end of this dialog from that edge; it will by `until`, if the edge lives.
    pub fn end_held_up(&mut self, dialog: DialogKey, edge: usize, until: u64) {
        self.held_up.insert(dialog, HeldUp { edge, until });
    }

    /// An edge answered a request in a dialog while it did not reach the store (sip.md, section 11).
    pub fn answered_in_outage(&mut self, answer: &Message, edge: usize, until: u64) {
        if answer.cseq().method.as_str() != "BYE" {
            self.from_cache_alone.insert(answer.top_via().branch().unwrap_or_default().to_owned());
            return;
        }
        if let Some(dialog) = self.dialogs.get(answer.call_id()).filter(|dialog| !self.ended.contains(dialog)) {
            self.held_up.insert(*dialog, HeldUp { edge, until });
        }
    }

    /// The edge died, and with it what it had written down for the time after the outage.
    pub fn died(&mut self, edge: usize) {
        for held in self.held_up.values_mut().filter(|held| held.edge == edge) {
            held.until = u64::MAX;
        }
    }

    /// A request got an answer after the BYE of its dialog did. Where an outage holds the tombstone up, any edge may still begin one,
    /// and from then on its answer is the peer's to give: a request that is pending when the dialog ends is answered all the same
    /// (RFC 3261 §15.1.2), however short a time after the tombstone. What begins later hears 481 from the store.
    pub fn served_after_bye(&mut self, now: u64, answer: &Message, who: &str) {
        let branch = answer.top_via().branch().unwrap_or_default();
        let excused = self.from_cache_alone.contains(branch)
            || self.dialogs.get(answer.call_id()).is_some_and(|dialog| {
                self.is_held_up(dialog, now) || self.begun_before_end.contains(&(*dialog, answer.cseq().seq))
            });
        if excused {
            self.from_cache += 1;
        } else {
            self.lost(format!("a request after the BYE of {who} was served"));
        }
    }

    fn is_held_up(&self, dialog: &DialogKey, now: u64) -> bool {
        self.held_up.get(dialog).is_some_and(|held| now <= held.until)
    }

    /// Whether an edge refused that call.
    pub fn is_refused(&self, call_id: &str) -> bool {
        self.refused.contains(call_id)
    }

    pub fn violated(&mut self, what: String) {
        // One seed can break one rule many times; the first few tell enough.
        if self.violations.len() < 8 {
            self.violations.push(what);
        }
    }

    /// The backend ran the unsafe tool.
    pub fn executed(&mut self, token: &str) {
        let count = self.executions.entry(token.to_owned()).or_default();
        *count += 1;
        if *count > 1 {
            let count = *count;
            self.lost(format!("an unsafe tool ran {count} times for {token}"));
        }
    }

    pub fn executions(&self) -> usize {
        self.executions.len()
    }

    /// An edge sends a request in a dialog: a CSeq number names one request only.
    pub fn request_out(&mut self, call_id: &str, cseq: u32, method: &str, branch: &str) {
        if matches!(method, "ACK" | "CANCEL") {
            return;
        }
        let key = (call_id.to_owned(), cseq);
        match self.cseqs.get(&key) {
            Some(known) if known != branch => {
                self.lost(format!("two requests with CSeq {cseq} in the dialog of {call_id}"));
            }
            Some(_) => {}
            None => {
                self.cseqs.insert(key, branch.to_owned());
            }
        }
    }

    /// A 2xx to an INVITE reached its caller: every 2xx of one INVITE has the same To tag.
    pub fn invite_answered(&mut self, transaction: &str, to_tag: &str) {
        match self.answered.get(transaction) {
            Some(known) if known != to_tag => {
                self.lost(format!("INVITE {transaction} was accepted twice, with two To tags"));
            }
            Some(_) => {}
            None => {
                self.answered.insert(transaction.to_owned(), to_tag.to_owned());
            }
        }
    }

    /// A store operation was executed.
    pub fn stored(&mut self, now_ms: u64, operation: &StoreOp, reply: &StoreReply) {
        match (operation, reply) {
            (StoreOp::TakeEpoch { boot, lease_ms, .. }, StoreReply::Epoch { owner, .. }) => {
                if self.epochs.insert((owner.pod, owner.epoch), *boot).is_some_and(|known| known != *boot) {
                    self.violated(format!("epoch {} of edge {} was given twice", owner.epoch, owner.pod));
                }
                // The higher epoch ends the lower ones.
                self.leases.retain(|known, _| known.pod != owner.pod);
                self.leases.insert(*owner, now_ms + lease_ms);
            }
            (StoreOp::Heartbeat { owner, lease_ms, .. }, StoreReply::Pods { .. }) => {
                self.leases.insert(*owner, now_ms + lease_ms);
            }
            (StoreOp::Leave { owner }, StoreReply::Done) => {
                self.leases.remove(owner);
            }
            (StoreOp::Adopt { from, by, .. }, StoreReply::Adopted { items, .. }) => {
                if from.pod != by.pod && !items.is_empty() {
                    let living = self
                        .leases
                        .iter()
                        .any(|(known, until)| known.pod == from.pod && known.epoch <= from.epoch && *until > now_ms);
                    if living {
                        self.violated(format!("edge {} took over what the living edge {} owned", by.pod, from.pod));
                    }
                }
                for item in items {
                    match item {
                        Adopted::Call { guard, .. } => {
                            self.guards.insert(*guard, *by);
                        }
                        Adopted::Exchange { key, .. } => {
                            self.exchanges.insert(*key, *by);
                        }
                        Adopted::Dialog { .. } => {}
                    }
                }
            }
            (
                StoreOp::Terminate { dialog, .. } | StoreOp::Bury { dialog },
                StoreReply::Dialog { .. } | StoreReply::Gone | StoreReply::Replay { .. },
            ) => {
                self.held_up.remove(dialog);
                self.ended.insert(*dialog);
            }
            (StoreOp::OpenCall { guard, owner, .. }, StoreReply::CallOpened | StoreReply::CallAdopted { .. }) => {
                self.guards.insert(*guard, *owner);
            }
            (StoreOp::AnswerCall { guard, owner, dialog, record, peer, .. }, StoreReply::Answered { .. }) => {
                self.dialogs.insert(record.call_id.clone(), *dialog);
                if let Some((dialog, record)) = peer.as_deref() {
                    self.dialogs.insert(record.call_id.clone(), *dialog);
                }
                if self.guards.get(guard).is_some_and(|known| known != owner) {
                    self.violated("an INVITE was answered by an edge that did not own it any more".into());
                }
            }
            (StoreOp::RejectCall { guard, owner, response }, StoreReply::Done) => {
                if let Ok(response) = Message::parse(response.clone(), Transportation::Datagram) {
                    self.refused.insert(response.call_id().to_owned());
                }
                if self.guards.get(guard).is_some_and(|known| known != owner) {
                    self.violated("an INVITE was answered by an edge that did not own it any more".into());
                }
            }
            (StoreOp::OpenExchange { open, .. }, StoreReply::Exchange(OpenOutcome::Opened { .. })) => {
                self.exchanges.insert(open.key, open.entry.owner);
            }
            (StoreOp::Begin { dialog, cseq, exchange: None, .. }, StoreReply::Begun { .. })
                if self.is_held_up(dialog, now_ms.saturating_sub(EPOCH_MS)) =>
            {
                self.begun_before_end.insert((*dialog, *cseq));
            }
            (
                StoreOp::Begin { exchange: Some(open), .. },
                StoreReply::Begun { exchange: Some(OpenOutcome::Opened { .. }), .. },
            ) => {
                self.exchanges.insert(open.key, open.entry.owner);
            }
            (StoreOp::CloseExchange(close), StoreReply::Closed { .. })
                if self.exchanges.get(&close.key).is_some_and(|known| *known != close.owner) =>
            {
                self.violated("an exchange was closed by an edge that did not own it".into());
            }
            (StoreOp::NextCseq { dialog, .. }, StoreReply::Cseq { cseq, .. }) => {
                let highest = self.highest_out.entry(*dialog).or_default();
                if cseq <= highest {
                    let text = format!("CSeq went from {highest} to {cseq}");
                    self.lost(text);
                } else {
                    *highest = *cseq;
                }
            }
            _ => {}
        }
    }

    /// At the very end, long after the last TTL.
    pub fn nothing_left(&mut self, what: &str, left: &BTreeSet<String>) {
        if !left.is_empty() {
            let list: Vec<&str> = left.iter().map(String::as_str).collect();
            self.violated(format!("{what} is not empty after everything ended: {}", list.join(", ")));
        }
    }
}
