//! What goes wrong in a run, and when.

use session_store::op::StoreOp;

use super::{CALM_FROM_MS, EDGES, Event, World};

/// Something that goes wrong.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// kill -9.
    Kill { edge: usize },
    /// SIGSTOP and, later, SIGCONT.
    Stop { edge: usize, until: u64 },
    /// One edge does not reach the store.
    Cut { edge: usize, until: u64 },
    /// Two edges do not reach each other.
    Apart { one: usize, other: usize, until: u64 },
    /// Nobody reaches the store.
    StoreDown { until: u64 },
    /// 750 ms more for every answer.
    StoreSlow { until: u64 },
    /// The primary dies; the replica takes over after `until`.
    FailOver { until: u64 },
    /// The store comes back empty.
    Wipe,
}

/// An arrow of the write-ahead table: an edge dies at its n-th operation of that name, just before the write or just after it.
#[derive(Clone, Copy, Debug)]
pub struct Arrow {
    pub operation: &'static str,
    pub written: bool,
    pub count: u32,
}

/// The operations that let a peer go on (sip.md, section 7).
pub const ARROWS: [&str; 19] = [
    "register",
    "open_call",
    "place_legs",
    "early_call",
    "answer_call",
    "reject_call",
    "confirm",
    "begin",
    "commit",
    "terminate",
    "next_cseq",
    "bury",
    "open_exchange",
    "close_exchange",
    "cancel_call",
    "update_dialog",
    "take_epoch",
    "adopt",
    "heartbeat",
];

/// The operation's name.
pub fn operation_name(operation: &StoreOp) -> &'static str {
    match operation {
        StoreOp::Register { .. } => "register",
        StoreOp::OpenCall { .. } => "open_call",
        StoreOp::PlaceLegs { .. } => "place_legs",
        StoreOp::EarlyCall { .. } => "early_call",
        StoreOp::AnswerCall { .. } => "answer_call",
        StoreOp::RejectCall { .. } => "reject_call",
        StoreOp::Confirm { .. } => "confirm",
        StoreOp::Begin { .. } => "begin",
        StoreOp::Commit { .. } => "commit",
        StoreOp::Terminate { .. } => "terminate",
        StoreOp::NextCseq { .. } => "next_cseq",
        StoreOp::Bury { .. } => "bury",
        StoreOp::OpenExchange { .. } => "open_exchange",
        StoreOp::CloseExchange(_) => "close_exchange",
        StoreOp::CancelCall { .. } => "cancel_call",
        StoreOp::UpdateDialog { .. } => "update_dialog",
        StoreOp::TakeEpoch { .. } => "take_epoch",
        StoreOp::Adopt { .. } => "adopt",
        StoreOp::Heartbeat { .. } => "heartbeat",
        _ => "other",
    }
}

/// At which operation an edge may die in that run: the seed chooses, so that few seeds strike every arrow.
pub fn arrow_of(seed: u64) -> &'static str {
    ARROWS[(seed / 2 % ARROWS.len() as u64) as usize]
}

impl World {
    fn some_edge(&mut self) -> usize {
        self.rng.below(EDGES as u64) as usize
    }

    pub(super) fn plan_faults(&mut self, seed: u64) {
        for _ in 0..self.rng.below(3) {
            let (at, edge) = (self.rng.range(500, 60_000), self.some_edge());
            self.at(at, Event::Fault(Fault::Kill { edge }));
        }
        if self.rng.chance(700) {
            let operation = arrow_of(seed);
            let count = match operation {
                "adopt" | "heartbeat" => self.rng.range(1, 6),
                "register" | "open_call" | "begin" | "next_cseq" => self.rng.range(1, 3),
                _ => 1 + u64::from(self.rng.chance(200)),
            };
            let (written, count) = (seed % 2 == 1, count as u32);
            self.arrow = Some(Arrow { operation, written, count });
        }
        for _ in 0..self.rng.below(3) {
            let at = self.rng.range(500, 50_000);
            let until = |world: &mut World, low, high| at + world.rng.range(low, high);
            let fault = match self.rng.below(14) {
                0..=2 => Fault::Stop { edge: self.some_edge(), until: until(self, 1_000, 20_000) },
                3..=5 => Fault::Cut { edge: self.some_edge(), until: until(self, 500, 20_000) },
                6..=7 => {
                    let one = self.some_edge();
                    let other = (one + 1 + self.rng.below(EDGES as u64 - 1) as usize) % EDGES;
                    Fault::Apart { one, other, until: until(self, 500, 30_000) }
                }
                8..=9 => Fault::StoreDown { until: until(self, 500, 30_000) },
                10 => Fault::StoreSlow { until: until(self, 2_000, 20_000) },
                11..=12 => Fault::FailOver { until: until(self, 200, 8_000) },
                _ => Fault::Wipe,
            };
            self.at(at, Event::Fault(fault));
        }
    }

    /// Whether the planned kill strikes here.
    pub(super) fn arrow_hits(&mut self, edge: usize, life: u32, name: &'static str, written: bool) -> bool {
        let Some(arrow) = &mut self.arrow else { return false };
        if self.now >= CALM_FROM_MS
            || arrow.operation != name
            || arrow.written != written
            || self.edges[edge].life != life
        {
            return false;
        }
        arrow.count -= 1;
        if arrow.count > 0 {
            return false;
        }
        self.arrow = None;
        *self.report.arrows.entry((name, written)).or_default() += 1;
        self.kill(edge);
        true
    }

    pub(super) fn strike(&mut self, fault: Fault) {
        self.report.faults += 1;
        match fault {
            Fault::Kill { edge } => self.kill(edge),
            Fault::Stop { edge, until } => self.edges[edge].stopped_until = until,
            Fault::Cut { edge, until } => self.edges[edge].cut_until = until,
            Fault::Apart { one, other, until } => {
                self.apart.insert((one.min(other), one.max(other)), until);
            }
            Fault::StoreDown { until } => self.store_down_until = self.store_down_until.max(until),
            Fault::StoreSlow { until } => self.store_slow_until = until,
            Fault::FailOver { until } => {
                let rng = &mut self.rng;
                let lost = self.store.fail_over(|| rng.chance(500));
                self.model.failed_over();
                self.store_life += 1;
                self.store_down_until = self.store_down_until.max(until);
                if self.trace {
                    println!("{:>8} ms  {lost} writes that nobody heard of are lost", self.now);
                }
            }
            Fault::Wipe => {
                self.store.wipe();
                self.store_life += 1;
                // What was acknowledged only there is lost, by the class; what follows from that is not judged.
                self.model.amnesty();
            }
        }
    }
}
