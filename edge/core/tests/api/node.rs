//! The node against the memory store: no two living owners, nothing left behind, whatever is lost, late, stopped or killed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use edge_core::lease::{Lease, Membership};
use edge_core::node::{Node, NodeConfig, NodeEffect, NodeInput};
use proptest::prelude::*;
use session_store::key::DialogKey;
use session_store::memory::{Capacity, MemoryStore};
use session_store::op::{Adopted, StoreError, StoreOp, StoreReply};
use session_store::record::{DialogPhase, DialogRecord, Owner};
use sip_proto::time::{Mono, Now, UnixMillis};

const WALL: u64 = 1_800_000_000_000;

/// A record of which only the owner matters.
fn record(owner: Owner) -> DialogRecord {
    DialogRecord {
        phase: DialogPhase::Confirmed,
        call_id: "c".into(),
        local_tag: "l".into(),
        remote_tag: "r".into(),
        local_uri: "sip:a@acme.example".into(),
        remote_uri: "sip:b@acme.example".into(),
        remote_target: "sip:b@192.0.2.1".into(),
        route_set: Vec::new(),
        secure: false,
        cseq_in: None,
        cseq_out: 0,
        principal: "sip:b@acme.example".into(),
        agent_user: "a".into(),
        domain: "acme.example".into(),
        flow: None,
        local_sdp: None,
        remote_sdp: None,
        sdp_version: 0,
        session_timer: None,
        mcp: None,
        accept_bytes: None,
        session_id: None,
        policy_epoch: 0,
        created_at: 0,
        source: String::new(),
        owner,
        peer: None,
        we_called: false,
        retention_ms: 0,
        extra: BTreeMap::new(),
    }
}

fn dialog(n: u16) -> DialogKey {
    DialogKey { slot: n * 97 % 1024, tenant: 1, id: [u8::try_from(n % 256).unwrap(); 16] }
}

/// One process.
struct Process {
    node: Node,
    /// What it holds, and in which life it came.
    held: BTreeMap<DialogKey, Owner>,
    membership: Option<Arc<Membership>>,
    stopped_until: u64,
    over: Option<NodeEffect>,
}

impl Process {
    /// What it would act on now.
    fn acts_on(&self, now: u64) -> BTreeSet<DialogKey> {
        let Some(membership) = self.membership.as_ref().filter(|m| m.holds(Mono(now * 1000))) else {
            return BTreeSet::new();
        };
        if self.stopped_until > now || self.over.is_some() {
            return BTreeSet::new();
        }
        self.held.iter().filter(|(_, owner)| **owner == membership.owner).map(|(dialog, _)| *dialog).collect()
    }
}

enum Event {
    /// It reaches the store, or never does.
    Arrives {
        process: usize,
        op: edge_core::input::OpId,
        operation: StoreOp,
    },
    Reply {
        process: usize,
        op: edge_core::input::OpId,
        reply: Result<StoreReply, StoreError>,
    },
}

/// Processes, a store, and time in milliseconds.
struct Fleet {
    now: u64,
    store: MemoryStore,
    /// `None`: killed.
    processes: Vec<Option<Process>>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    number: u64,
    /// Where delays and losses come from.
    noise: u64,
    /// In a hundred.
    losses: u64,
    /// Nothing reaches the store.
    away: bool,
    boots: u64,
}

impl Fleet {
    fn new(count: usize, noise: u64) -> Fleet {
        let mut fleet = Fleet {
            now: 1_000,
            store: MemoryStore::new(Capacity::default()),
            processes: Vec::new(),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            number: 0,
            noise,
            losses: 0,
            away: false,
            boots: 0,
        };
        for pod in 0..count {
            fleet.processes.push(None);
            fleet.start(pod, pod as u64);
        }
        fleet
    }

    fn random(&mut self, below: u64) -> u64 {
        self.noise = self.noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.noise >> 33) % below
    }

    fn clock(&self) -> Now {
        Now { mono: Mono(self.now * 1000), wall: UnixMillis(WALL + self.now) }
    }

    fn start(&mut self, place: usize, pod: u64) {
        self.boots += 1;
        let (boot, seed) = (self.boots, [u8::try_from(self.boots % 256).unwrap(); 32]);
        let config = NodeConfig { pod, boot, address: String::new(), lease: Lease::default(), generation: [9; 16] };
        let node = Node::new(config, self.clock(), seed);
        let held = BTreeMap::new();
        self.processes[place] = Some(Process { node, held, membership: None, stopped_until: 0, over: None });
        self.pump(place);
    }

    fn schedule(&mut self, at: u64, event: Event) {
        self.number += 1;
        self.queue.push(Reverse((at, self.number)));
        self.events.insert(self.number, event);
    }

    fn pump(&mut self, place: usize) {
        loop {
            let Some(process) = &mut self.processes[place] else { return };
            let Some(effect) = process.node.poll_effect() else { return };
            match effect {
                NodeEffect::Store { op, operation } => {
                    let there = self.now + self.random(40);
                    self.schedule(there, Event::Arrives { process: place, op, operation });
                }
                NodeEffect::Membership(membership) => process.membership = Some(membership),
                NodeEffect::Adopted(items) => {
                    for item in items {
                        let Adopted::Dialog { dialog, record, .. } = item else { panic!("{item:?}") };
                        process.held.insert(dialog, record.owner);
                    }
                }
                end @ (NodeEffect::Duplicate { .. } | NodeEffect::Left) => process.over = Some(end),
                NodeEffect::Log { .. } => {}
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrives { process, op, operation } => {
                let lost = self.away || self.random(100) < self.losses;
                let executed = !self.away && (!lost || self.random(2) == 0);
                let reply = if executed {
                    self.store.execute(WALL + self.now, operation)
                } else {
                    Err(StoreError::Unavailable)
                };
                // A lost reply is a deadline that passes.
                let (after, reply) =
                    if lost { (1_400, Err(StoreError::Unavailable)) } else { (self.random(40), reply) };
                let at = self.now + after;
                self.schedule(at, Event::Reply { process, op, reply });
            }
            Event::Reply { process: place, op, reply } => {
                let clock = self.clock();
                let Some(process) = &mut self.processes[place] else { return };
                if process.stopped_until > self.now {
                    let at = process.stopped_until;
                    return self.schedule(at, Event::Reply { process: place, op, reply });
                }
                process.node.handle(clock, NodeInput::Store { op, reply });
                self.pump(place);
            }
        }
    }

    /// Runs on, and checks at every step that nobody acts on what somebody else acts on.
    fn run(&mut self, millis: u64) {
        let end = self.now + millis;
        while self.now < end {
            while let Some(Reverse((at, number))) =
                self.queue.peek().copied().filter(|Reverse((at, _))| *at <= self.now)
            {
                let _ = at;
                self.queue.pop();
                let event = self.events.remove(&number).unwrap();
                self.happen(event);
            }
            let clock = self.clock();
            for place in 0..self.processes.len() {
                let Some(process) = &mut self.processes[place] else { continue };
                let due = process.node.poll_timeout().is_some_and(|(at, _)| at <= clock.mono);
                if process.stopped_until <= self.now && process.over.is_none() && due {
                    process.node.handle_timeout(clock);
                    self.pump(place);
                    let process = self.processes[place].as_ref().unwrap();
                    let again = process.node.poll_timeout().is_some_and(|(at, _)| at <= clock.mono);
                    assert!(!again || process.over.is_some(), "a deadline that is met stays");
                }
            }
            self.check();
            self.now += 5;
        }
    }

    fn check(&self) {
        let mut seen = BTreeSet::new();
        for process in self.processes.iter().flatten() {
            for dialog in process.acts_on(self.now) {
                assert!(seen.insert(dialog), "two act on {dialog:?} at {}", self.now);
            }
        }
    }

    fn lease(&mut self, place: usize, seconds: u32) {
        let clock = self.clock();
        if let Some(process) = &mut self.processes[place] {
            process.node.handle(clock, NodeInput::Lease(Lease::of_seconds(seconds)));
            self.pump(place);
        }
    }

    /// A dialog begins at a process, if it has its lease.
    fn begin(&mut self, place: usize, n: u16) -> bool {
        let now = self.now;
        let Some(process) = &mut self.processes[place] else { return false };
        let lease = process.membership.as_ref().filter(|m| m.holds(Mono(now * 1000)));
        let Some(owner) = lease.filter(|_| process.stopped_until <= now && process.over.is_none()).map(|m| m.owner)
        else {
            return false;
        };
        let record = Box::new(record(owner));
        let operation = StoreOp::RestoreDialog { dialog: dialog(n), record, ttl_ms: 3_600_000, conversation: None };
        assert_eq!(self.store.execute(WALL + now, operation), Ok(StoreReply::Version(1)));
        process.held.insert(dialog(n), owner);
        true
    }
}

#[test]
fn a_dead_edge_is_taken_over_by_the_others_and_nothing_of_it_is_left() {
    let mut fleet = Fleet::new(3, 1);
    fleet.run(1_000);
    for n in 0..60 {
        assert!(fleet.begin(0, n));
    }
    fleet.processes[0] = None;
    fleet.run(4_000);
    assert!(fleet.processes[1].as_ref().unwrap().held.is_empty(), "its lease runs");
    fleet.run(4_000);
    let shares: Vec<usize> = fleet.processes.iter().flatten().map(|p| p.acts_on(fleet.now).len()).collect();
    assert_eq!(shares.iter().sum::<usize>(), 60, "{shares:?}");
    assert!(shares.iter().all(|share| *share >= 10), "the survivors share the work: {shares:?}");
}

#[test]
fn a_lease_travels_with_its_renewal() {
    let mut fleet = Fleet::new(3, 9);
    fleet.lease(0, 30);
    fleet.lease(1, 3);
    // The first renewals are still due by the first lease.
    fleet.run(8_000);
    for n in 0..30 {
        assert!(fleet.begin(0, n) && fleet.begin(1, n + 100));
    }
    fleet.processes[0] = None;
    fleet.processes[1] = None;
    let share = |fleet: &Fleet| fleet.processes[2].as_ref().unwrap().acts_on(fleet.now).len();
    fleet.run(6_500);
    assert_eq!(share(&fleet), 30, "what had 3 s is taken over");
    fleet.run(10_000);
    assert_eq!(share(&fleet), 30, "what had 30 s is not");
    fleet.run(20_000);
    assert_eq!(share(&fleet), 60);
}

#[test]
fn a_restarted_edge_takes_its_own_back_without_waiting_for_the_lease() {
    let mut fleet = Fleet::new(2, 2);
    fleet.run(1_000);
    for n in 0..40 {
        assert!(fleet.begin(0, n));
    }
    fleet.start(0, 0);
    fleet.run(1_500);
    assert_eq!(fleet.processes[0].as_ref().unwrap().acts_on(fleet.now).len(), 40);
}

#[test]
fn a_stopped_and_resumed_edge_is_silent_takes_a_new_epoch_and_owns_nothing_of_before() {
    let mut fleet = Fleet::new(2, 3);
    fleet.run(1_000);
    for n in 0..40 {
        assert!(fleet.begin(0, n));
    }
    fleet.processes[0].as_mut().unwrap().stopped_until = fleet.now + 9_000;
    fleet.run(9_000);
    let zombie = fleet.processes[0].as_ref().unwrap();
    assert!(!zombie.membership.as_ref().unwrap().holds(Mono(fleet.now * 1000)));
    assert_eq!(fleet.processes[1].as_ref().unwrap().acts_on(fleet.now).len(), 40);
    fleet.run(2_000);
    let process = fleet.processes[0].as_ref().unwrap();
    let membership = process.membership.as_ref().unwrap();
    assert_eq!(membership.owner.epoch, 2);
    assert!(membership.holds(Mono(fleet.now * 1000)));
    assert!(process.acts_on(fleet.now).is_empty());
}

#[test]
fn of_two_processes_under_one_id_the_fenced_one_ends_and_says_why() {
    let mut fleet = Fleet::new(1, 4);
    fleet.run(1_000);
    fleet.processes.push(None);
    fleet.start(1, 0);
    fleet.run(5_000);
    let Some(NodeEffect::Duplicate { message }) = &fleet.processes[0].as_ref().unwrap().over else {
        panic!("it goes on")
    };
    assert!(message.contains("another process runs as edge 0"), "{message}");
    let newer = fleet.processes[1].as_ref().unwrap();
    assert!(newer.over.is_none() && newer.membership.as_ref().unwrap().holds(Mono(fleet.now * 1000)));
}

#[test]
fn an_emptied_store_is_seen_by_its_generation_and_a_higher_epoch_is_taken_first() {
    let mut fleet = Fleet::new(2, 5);
    fleet.run(1_000);
    let before: Vec<_> = fleet.processes.iter().flatten().map(|p| p.membership.clone().unwrap()).collect();
    fleet.store = MemoryStore::new(Capacity::default());
    fleet.run(3_000);
    for (process, before) in fleet.processes.iter().flatten().zip(before) {
        let now = process.membership.as_ref().unwrap();
        assert_ne!(now.generation, before.generation);
        assert_eq!(now.owner.epoch, before.owner.epoch + 1);
        assert!(now.holds(Mono(fleet.now * 1000)));
    }
}

#[test]
fn after_an_outage_of_the_store_everybody_keeps_what_it_had() {
    let mut fleet = Fleet::new(3, 7);
    fleet.run(1_000);
    for n in 0..30 {
        assert!(fleet.begin(usize::from(n % 3), n));
    }
    let before: Vec<_> = fleet.processes.iter().flatten().map(|p| p.acts_on(fleet.now)).collect();
    fleet.away = true;
    fleet.run(60_000);
    assert!(fleet.processes.iter().flatten().all(|p| p.acts_on(fleet.now).is_empty()));
    fleet.away = false;
    fleet.run(10_000);
    let after: Vec<_> = fleet.processes.iter().flatten().map(|p| p.acts_on(fleet.now)).collect();
    assert_eq!(before, after);
}

#[test]
fn a_claim_whose_reply_was_lost_is_found_under_a_new_epoch() {
    let mut fleet = Fleet::new(2, 8);
    fleet.run(1_000);
    for n in 0..60 {
        assert!(fleet.begin(0, n));
    }
    fleet.processes[0] = None;
    fleet.run(4_500);
    fleet.losses = 50;
    fleet.run(4_000);
    fleet.losses = 0;
    fleet.run(30_000);
    let survivor = fleet.processes[1].as_ref().unwrap();
    assert_eq!(survivor.acts_on(fleet.now).len(), 60);
    assert!(survivor.membership.as_ref().unwrap().owner.epoch > 1);
}

#[test]
fn who_leaves_is_adopted_at_once_and_says_nothing_more() {
    let mut fleet = Fleet::new(2, 6);
    fleet.run(1_000);
    for n in 0..20 {
        assert!(fleet.begin(0, n));
    }
    let clock = fleet.clock();
    fleet.processes[0].as_mut().unwrap().node.handle(clock, NodeInput::Drain);
    fleet.pump(0);
    fleet.run(200);
    let seen = fleet.processes[1].as_ref().unwrap().membership.clone().unwrap();
    fleet.run(1_600);
    let now = fleet.processes[1].as_ref().unwrap().membership.clone().unwrap();
    assert!(!seen.pods.iter().any(|p| p.draining) || now.pods.iter().any(|p| p.owner.pod == 0 && p.draining));
    let clock = fleet.clock();
    fleet.processes[0].as_mut().unwrap().node.handle(clock, NodeInput::Leave);
    fleet.pump(0);
    assert!(fleet.processes[0].as_ref().unwrap().acts_on(fleet.now).is_empty(), "from the order on");
    fleet.run(2_500);
    assert_eq!(fleet.processes[0].as_ref().unwrap().over, Some(NodeEffect::Left));
    assert_eq!(fleet.processes[1].as_ref().unwrap().acts_on(fleet.now).len(), 20);
}

#[derive(Clone, Debug)]
enum Fault {
    Run(u64),
    Begin(usize),
    Kill(usize),
    Restart(usize),
    Stop(usize, u64),
    Losses(u64),
    Lease(usize, u32),
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        4 => (200u64..4_000).prop_map(Fault::Run),
        4 => (0usize..3).prop_map(Fault::Begin),
        1 => (0usize..3).prop_map(Fault::Kill),
        1 => (0usize..3).prop_map(Fault::Restart),
        1 => ((0usize..3), (500u64..12_000)).prop_map(|(place, millis)| Fault::Stop(place, millis)),
        1 => prop_oneof![Just(0u64), Just(20), Just(60)].prop_map(Fault::Losses),
        1 => ((0usize..3), prop_oneof![Just(3u32), Just(5), Just(30)]).prop_map(|(place, s)| Fault::Lease(place, s)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn never_two_owners_and_in_the_end_one(noise: u64, faults in prop::collection::vec(fault(), 1..24)) {
        let mut fleet = Fleet::new(3, noise);
        fleet.run(500);
        let mut begun = BTreeSet::new();
        for fault in faults {
            match fault {
                Fault::Run(millis) => fleet.run(millis),
                Fault::Begin(place) => {
                    let n = u16::try_from(begun.len()).unwrap();
                    if fleet.begin(place, n) {
                        begun.insert(dialog(n));
                    }
                }
                Fault::Kill(place) => fleet.processes[place] = None,
                Fault::Restart(place) => fleet.start(place, place as u64),
                Fault::Stop(place, millis) => {
                    let until = fleet.now + millis;
                    if let Some(process) = &mut fleet.processes[place] {
                        process.stopped_until = until;
                    }
                }
                Fault::Losses(losses) => fleet.losses = losses,
                Fault::Lease(place, seconds) => fleet.lease(place, seconds),
            }
        }
        fleet.losses = 0;
        // Whoever watches the processes starts one again. A second time, because what a dead process had on its way to the store may still
        // take an epoch there, and end the living one as its double.
        for _ in 0..2 {
            if fleet.processes.iter().all(|p| p.as_ref().is_none_or(|p| p.over.is_some())) {
                fleet.start(0, 0);
            }
            fleet.run(130_000);
        }
        let acted: BTreeSet<DialogKey> =
            fleet.processes.iter().flatten().flat_map(|p| p.acts_on(fleet.now)).collect();
        prop_assert_eq!(acted, begun);
    }
}
