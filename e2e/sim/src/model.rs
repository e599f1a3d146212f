//! The reference model: what must hold whatever is lost, repeated, reordered, delayed or killed. It sees the wire and the store
//! from outside, never the inside of a core.

use std::collections::{BTreeMap, BTreeSet};

use session_store::key::{DialogKey, ExchangeKey, GuardKey};
use session_store::op::{StoreOp, StoreReply};
use session_store::record::Owner;

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
    answered: BTreeMap<String, String>,
    /// The store failed for a BYE: it was answered all the same, and its tombstone follows as soon as it can (the end wins over an
    /// outage), so a request right after it may still find the dialog.
    pub bye_outage: bool,
}

impl Model {
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
            self.violated(format!("an unsafe tool ran {count} times for {token}"));
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
                self.violated(format!("two requests with CSeq {cseq} in the dialog of {call_id}"));
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
                self.violated(format!("INVITE {transaction} was accepted twice, with two To tags"));
            }
            Some(_) => {}
            None => {
                self.answered.insert(transaction.to_owned(), to_tag.to_owned());
            }
        }
    }

    /// A store operation was executed.
    pub fn stored(&mut self, operation: &StoreOp, reply: &StoreReply) {
        match (operation, reply) {
            (StoreOp::OpenCall { guard, owner, .. }, StoreReply::CallOpened | StoreReply::CallAdopted { .. }) => {
                self.guards.insert(*guard, *owner);
            }
            (StoreOp::AnswerCall { guard, owner, .. }, StoreReply::Answered { .. })
            | (StoreOp::RejectCall { guard, owner, .. }, StoreReply::Done)
                if self.guards.get(guard).is_some_and(|known| known != owner) =>
            {
                self.violated("an INVITE was answered by an edge that did not own it any more".into());
            }
            (
                StoreOp::OpenExchange { open, .. },
                StoreReply::Exchange(session_store::op::OpenOutcome::Opened { .. }),
            ) => {
                self.exchanges.insert(open.key, open.entry.owner);
            }
            (
                StoreOp::Begin { exchange: Some(open), .. },
                StoreReply::Begun { exchange: Some(session_store::op::OpenOutcome::Opened { .. }), .. },
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
                    self.violated(text);
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
