//! The way to the store: slow, deaf, or gone; and the breaker that every edge keeps.

use edge_core::input::{Input, OpId, StoreHealth};
use edge_core::node::NodeInput;
use session_store::op::{StoreError, StoreOp, StoreReply};

use super::faults::operation_name;
use super::{EPOCH_MS, Event, Link, World};

/// An operation fails after so long; a heartbeat has its own connection and more patience.
const DEADLINE_MS: u64 = 150;
const HEARTBEAT_DEADLINE_MS: u64 = 1_400;
/// So many unanswered operations in a row open the breaker; it is probed so often.
const OPENS_AFTER: u32 = 5;
const PROBE_MS: u64 = 500;
/// Between the steps of the recovery.
const STEP_MS: u64 = 500;
/// The steps of the recovery, the longest wait between two tries of a tombstone, the longest way of a write, and a little.
const RECOVERY_MS: u64 = 30_000;

impl World {
    fn deadline(link: Link) -> u64 {
        match link {
            Link::Core => DEADLINE_MS,
            Link::Node => HEARTBEAT_DEADLINE_MS,
        }
    }

    pub(super) fn reaches_store(&self, edge: usize) -> bool {
        self.now >= self.store_down_until && self.now >= self.edges[edge].cut_until
    }

    pub(super) fn store_effect(&mut self, edge: usize, link: Link, op: OpId, operation: StoreOp) {
        let life = self.edges[edge].life;
        let error = |reply| Event::StoreReply { edge, life, link, op, reply: Err(reply), written: None };
        if link == Link::Core && self.edges[edge].health == StoreHealth::Open {
            return self.at(self.now, error(StoreError::Unavailable));
        }
        let (mut there, mut back) = (self.rng.range(0, 5), self.rng.range(0, 5));
        let mut lose_reply = false;
        if !self.reaches_store(edge) {
            self.note_outage(edge, &operation);
            let at = self.now + Self::deadline(link);
            return self.at(at, error(StoreError::Unavailable));
        }
        if self.now < self.store_slow_until {
            back += 750;
        }
        if !self.is_calm() {
            let fate = self.rng.below(1000);
            if matches!(operation, StoreOp::AnswerCall { .. }) && self.rng.chance(15) {
                // The write that decides a call, later than its lease: another edge may have taken the call over.
                self.report.faults += 1;
                there = self.rng.range(10_000, 16_000);
            } else if fate < 4 {
                self.report.faults += 1;
                there += self.rng.range(100, 2_000);
            } else if fate < 8 {
                // Longer than any lease.
                self.report.faults += 1;
                there += self.rng.range(8_000, 16_000);
            } else if fate < 14 {
                self.report.faults += 1;
                back += self.rng.range(100, 2_000);
            } else if fate < 18 {
                self.report.faults += 1;
                lose_reply = true;
            } else if fate < 22 {
                self.report.faults += 1;
                self.note_outage(edge, &operation);
                let at = self.now + Self::deadline(link);
                return self.at(at, error(StoreError::Unavailable));
            }
        }
        // The edge stops waiting at its deadline; the write may still be done.
        if there + back > Self::deadline(link) {
            self.note_outage(edge, &operation);
            let at = self.now + Self::deadline(link);
            self.at(at, error(StoreError::Unavailable));
            let at = self.now + there;
            return self
                .at(at, Event::StoreDo { edge, life, link, op: OpId(u64::MAX), operation, back: 0, lose_reply: true });
        }
        if let Some(reply) = self.store.invented(EPOCH_MS + self.now, &operation) {
            // The planted fault: the reply now, the write in a while, if the edge still lives then.
            self.at(self.now, Event::StoreReply { edge, life, link, op, reply: Ok(reply), written: None });
            if self.rng.chance(200) && !self.is_calm() {
                return self.kill(edge);
            }
            let at = self.now + there;
            return self
                .at(at, Event::StoreDo { edge, life, link, op: OpId(u64::MAX), operation, back: 0, lose_reply: true });
        }
        let at = self.now + there;
        self.at(at, Event::StoreDo { edge, life, link, op, operation, back, lose_reply });
    }

    /// The store does not take the end of a dialog now: until it does, a request may still find it.
    fn note_outage(&mut self, edge: usize, operation: &StoreOp) {
        if let StoreOp::Terminate { dialog, .. } | StoreOp::Bury { dialog } = operation {
            let until = self.outage_is_over(edge);
            self.model.end_held_up(*dialog, edge, until);
        }
    }

    /// When what that edge could not write is in the store at the latest, if it lives.
    pub(super) fn outage_is_over(&self, edge: usize) -> u64 {
        let process = &self.edges[edge];
        let reached =
            [self.now, self.store_down_until, self.store_slow_until, process.cut_until, process.stopped_until];
        reached.into_iter().max().unwrap_or(self.now) + RECOVERY_MS
    }

    #[allow(clippy::too_many_arguments, reason = "the members of one event")]
    pub(super) fn store_do(
        &mut self,
        edge: usize,
        life: u32,
        link: Link,
        op: OpId,
        operation: StoreOp,
        back: u64,
        lose_reply: bool,
    ) {
        let name = operation_name(&operation);
        if self.arrow_hits(edge, life, name, false) {
            return;
        }
        if lose_reply {
            self.note_outage(edge, &operation);
        }
        if let StoreOp::TakeEpoch { lease_ms, .. } = &operation
            && self.edges[edge].life != life
        {
            // Sent by a process that is gone: it looks like another one under the same id, until its lease is over.
            self.ghosts.insert(edge, self.now + lease_ms);
        }
        self.store.may_fail_over = !self.is_calm();
        let reply = self.store.execute(EPOCH_MS + self.now, operation, &mut self.model, &mut self.rng);
        let written = Some((self.store_life, self.store.last()));
        if self.arrow_hits(edge, life, name, true) {
            return;
        }
        // The arrow between a write and what it allows: here an edge may die.
        if !self.is_calm() && link == Link::Core && self.rng.chance(3) && self.edges[edge].life == life {
            return self.kill(edge);
        }
        if op == OpId(u64::MAX) {
            return;
        }
        let reply = if lose_reply { Err(StoreError::Unavailable) } else { reply };
        let wait = if lose_reply { Self::deadline(link) } else { back };
        let at = self.now + wait;
        self.at(at, Event::StoreReply { edge, life, link, op, reply, written });
    }

    pub(super) fn store_replied(
        &mut self,
        edge: usize,
        life: u32,
        link: Link,
        op: OpId,
        reply: Result<StoreReply, StoreError>,
        written: Option<(u32, usize)>,
    ) {
        // A connection to a primary that died brings nothing more.
        let reply = match written {
            Some((store, _)) if store != self.store_life => Err(StoreError::Unavailable),
            _ => reply,
        };
        if let (Some((_, number)), Ok(_)) = (written, &reply) {
            self.store.acknowledged(number);
        }
        if self.edges[edge].life != life {
            return;
        }
        if let Ok(StoreReply::Cseq { cseq, record, .. }) = &reply {
            self.model.cseq_given(&record.call_id, &record.local_tag, *cseq);
        }
        if link == Link::Node {
            return self.node_input(edge, NodeInput::Store { op, reply });
        }
        self.count_for_breaker(edge, &reply);
        self.input(edge, Input::Store { op, reply });
    }

    fn count_for_breaker(&mut self, edge: usize, reply: &Result<StoreReply, StoreError>) {
        let life = self.edges[edge].life;
        let process = &mut self.edges[edge];
        if !matches!(reply, Err(StoreError::Unavailable)) {
            process.unanswered = 0;
            return;
        }
        process.unanswered += 1;
        if process.unanswered >= OPENS_AFTER && process.health != StoreHealth::Open {
            process.health = StoreHealth::Open;
            self.input(edge, Input::StoreHealth(StoreHealth::Open));
            let at = self.now + PROBE_MS;
            self.at(at, Event::Health { edge, life, health: StoreHealth::Recovering { percent: 10 } });
        }
    }

    /// The next step of the breaker is due.
    pub(super) fn health(&mut self, edge: usize, life: u32, health: StoreHealth) {
        if self.edges[edge].life != life {
            return;
        }
        let from_open = self.edges[edge].health == StoreHealth::Open;
        if from_open && (!self.reaches_store(edge) || self.now < self.store_slow_until) {
            let at = self.now + PROBE_MS;
            return self.at(at, Event::Health { edge, life, health: StoreHealth::Recovering { percent: 10 } });
        }
        // It opened again meanwhile: that has a probe of its own.
        if from_open != (health == StoreHealth::Recovering { percent: 10 }) {
            return;
        }
        self.edges[edge].health = health;
        self.edges[edge].unanswered = 0;
        self.input(edge, Input::StoreHealth(health));
        let next = match health {
            StoreHealth::Recovering { percent: 10 } => StoreHealth::Recovering { percent: 50 },
            StoreHealth::Recovering { .. } => StoreHealth::Closed,
            StoreHealth::Closed | StoreHealth::Open => return,
        };
        let at = self.now + STEP_MS;
        self.at(at, Event::Health { edge, life, health: next });
    }
}
