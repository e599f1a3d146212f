//! A client and a server machine over a network that loses, doubles and reorders, and over one that does not, with a virtual
//! clock. The users are reference models: what they see must be one of the histories that RFC 3261 §17, RFC 6026 and
//! RFC 4320 allow, and after the end nothing runs.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use sip_proto::time::Mono;
use sip_proto::timer::TimerValues;
use sip_proto::transaction::{
    Action, Cause, ClientInvite, ClientNonInvite, Reliability, ServerInvite, ServerNonInvite, ToUser,
};

/// What happens to one packet: how often it arrives, and when.
#[derive(Clone, Debug)]
struct Fate(Vec<u64>);

#[derive(Clone, Debug)]
struct Plan {
    invite: bool,
    reliability: Reliability,
    /// Fates of packets in order of sending; after the last one every packet arrives after 20 ms.
    fates: Vec<Fate>,
    /// What the server's user answers: (milliseconds after the request, status).
    answers: Vec<(u64, u16)>,
    /// When the client's user cancels (INVITE only).
    cancel: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Packet {
    Request,
    Response(u16),
    Ack,
    Cancel,
}

impl Packet {
    fn bytes(&self) -> Bytes {
        Bytes::from(match self {
            Packet::Request => "R".to_owned(),
            Packet::Ack => "A".to_owned(),
            Packet::Cancel => "C".to_owned(),
            Packet::Response(status) => status.to_string(),
        })
    }

    fn of(bytes: &Bytes) -> Packet {
        match bytes.as_ref() {
            b"R" => Packet::Request,
            b"A" => Packet::Ack,
            b"C" => Packet::Cancel,
            status => Packet::Response(std::str::from_utf8(status).unwrap().parse().unwrap()),
        }
    }
}

enum Client {
    Invite(ClientInvite),
    Other(ClientNonInvite),
}

enum Server {
    Invite(ServerInvite),
    Other(ServerNonInvite),
}

macro_rules! both {
    ($machine:expr, $kind:ident, $m:ident => $call:expr) => {
        match $machine {
            $kind::Invite($m) => $call,
            $kind::Other($m) => $call,
        }
    };
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    ToServer(Packet),
    ToClient(Packet),
    Answer(u16),
    UserCancels,
    /// The server's user repeats its 2xx (RFC 3261 §13.3.1.4); the number is the interval.
    Repeat2xx(u64),
}

#[derive(Default)]
struct World {
    now: u64,
    queue: BTreeMap<(u64, u64), Event>,
    sent: usize,
    serial: u64,
    client: Option<Client>,
    server: Option<Server>,
    server_started: Option<u64>,
    client_saw: Vec<u16>,
    client_end: Option<Cause>,
    server_end: Option<Cause>,
    server_said_final: Option<u16>,
    acked_2xx: bool,
    arrived: Vec<Packet>,
    requests_sent: usize,
}

const V: TimerValues = TimerValues { t1: 500, t2: 4_000, t4: 5_000 };

impl World {
    fn at(&mut self, at: u64, event: Event) {
        self.serial += 1;
        self.queue.insert((at, self.serial), event);
    }

    fn network(&mut self, plan: &Plan, packet: &Packet, to_server: bool) {
        let wrap = if to_server { Event::ToServer } else { Event::ToClient };
        let delays = match plan.reliability {
            Reliability::Reliable => vec![20],
            Reliability::Unreliable => plan.fates.get(self.sent).map_or(vec![20], |fate| fate.0.clone()),
        };
        self.sent += 1;
        for delay in delays {
            self.at(self.now + delay, wrap(packet.clone()));
        }
    }

    fn client_actions(&mut self, plan: &Plan, actions: Vec<Action>) {
        for action in actions {
            assert_eq!(self.client_end, None, "an action after the end: {action:?}");
            match action {
                Action::Send(bytes) => {
                    let packet = Packet::of(&bytes);
                    self.requests_sent += usize::from(packet == Packet::Request);
                    self.network(plan, &packet, true);
                }
                Action::ToUser(ToUser::Response(status)) => {
                    self.client_saw.push(status);
                    if plan.invite && (200..300).contains(&status) {
                        // The user acknowledges every 2xx; its ACK is no part of the transaction.
                        self.network(plan, &Packet::Ack, true);
                    }
                }
                Action::ToUser(ToUser::CancelNow) => {
                    let proceeding = self.client_saw.last().is_some_and(|status| *status < 200);
                    assert!(proceeding, "CANCEL only between a provisional and a final response");
                    self.network(plan, &Packet::Cancel, true);
                }
                Action::ToUser(other) => panic!("client user told {other:?}"),
                Action::Terminated(cause) => self.client_end = Some(cause),
            }
        }
    }

    fn server_actions(&mut self, plan: &Plan, actions: Vec<Action>) {
        for action in actions {
            assert_eq!(self.server_end, None, "an action after the end: {action:?}");
            match action {
                Action::Send(bytes) => self.network(plan, &Packet::of(&bytes), false),
                Action::ToUser(ToUser::TryingDue) => self.server_responds(plan, 100),
                Action::ToUser(ToUser::Ack) => self.acked_2xx = true,
                Action::ToUser(other) => panic!("server user told {other:?}"),
                Action::Terminated(cause) => self.server_end = Some(cause),
            }
        }
    }

    fn server_responds(&mut self, plan: &Plan, status: u16) {
        let (now, mut out) = (Mono(self.now * 1000), Vec::new());
        match self.server.as_mut() {
            Some(Server::Invite(machine)) => {
                let first_final = machine.is_proceeding() && status >= 200;
                machine.on_response(now, status, Packet::Response(status).bytes(), &mut out);
                if first_final {
                    self.server_said_final = Some(status);
                    if status < 300 {
                        self.at(self.now + V.t1, Event::Repeat2xx(V.t1));
                    }
                }
            }
            Some(Server::Other(machine)) => {
                if machine.on_response(now, status, Packet::Response(status).bytes(), &mut out) && status >= 200 {
                    self.server_said_final = Some(status);
                }
                if out.iter().any(|a| *a == Action::Send(Packet::Response(100).bytes()))
                    && plan.reliability == Reliability::Unreliable
                {
                    let waited = self.now - self.server_started.unwrap();
                    assert!(waited >= 3_500, "RFC 4320: a 100 after {waited} ms");
                }
            }
            None => {}
        }
        self.server_actions(plan, out);
    }

    fn step(&mut self, plan: &Plan, event: Event) {
        let (now, mut out) = (Mono(self.now * 1000), Vec::new());
        match event {
            Event::ToServer(packet) => {
                self.arrived.push(packet.clone());
                match (packet, self.server.as_mut()) {
                    (Packet::Request, None) => {
                        self.server_started = Some(self.now);
                        self.server = Some(if plan.invite {
                            Server::Invite(ServerInvite::new(now, plan.reliability, V))
                        } else {
                            Server::Other(ServerNonInvite::new(now, plan.reliability, V))
                        });
                        for (after, status) in &plan.answers {
                            self.at(self.now + after, Event::Answer(*status));
                        }
                    }
                    (Packet::Request, Some(machine)) => both!(machine, Server, m => m.on_request(now, &mut out)),
                    (Packet::Ack, Some(Server::Invite(machine))) => {
                        if self.server_said_final.is_some_and(|status| status < 300) {
                            // Comes by another branch; the dialog's business.
                            self.acked_2xx = true;
                        } else {
                            machine.on_ack(now, &mut out);
                        }
                    }
                    (Packet::Cancel, Some(Server::Invite(machine))) if machine.is_proceeding() => {
                        self.at(self.now, Event::Answer(487));
                    }
                    _ => {}
                }
                self.server_actions(plan, out);
            }
            Event::ToClient(packet) => {
                let Packet::Response(status) = packet else { panic!("{packet:?} to the client") };
                match self.client.as_mut().unwrap() {
                    Client::Invite(machine) => machine.on_response(now, status, || Packet::Ack.bytes(), &mut out),
                    Client::Other(machine) => machine.on_response(now, status, &mut out),
                }
                self.client_actions(plan, out);
            }
            // A user that accepted once repeats only that 2xx.
            Event::Answer(200..300) if plan.invite && self.server_said_final.is_some() => {}
            Event::Answer(status) => self.server_responds(plan, status),
            Event::UserCancels => {
                if let Some(Client::Invite(machine)) = self.client.as_mut() {
                    machine.cancel(now, &mut out);
                }
                self.client_actions(plan, out);
            }
            Event::Repeat2xx(interval) => {
                if !self.acked_2xx && self.server_end.is_none() {
                    self.server_responds(plan, self.server_said_final.unwrap());
                    let next = (interval * 2).min(V.t2);
                    self.at(self.now + next, Event::Repeat2xx(next));
                }
            }
        }
    }

    /// The earliest thing to happen, as (milliseconds, which machine's timer or the queue).
    fn next(&self) -> Option<(u64, u8)> {
        let ms = |at: Mono| at.0.div_ceil(1000);
        let client = self.client.as_ref().and_then(|m| both!(m, Client, m => m.poll_timeout()));
        let server = self.server.as_ref().and_then(|m| both!(m, Server, m => m.poll_timeout()));
        let queued = self.queue.keys().next().map(|(at, _)| (*at, 0));
        [queued, client.map(|at| (ms(at), 1)), server.map(|at| (ms(at), 2))].into_iter().flatten().min()
    }

    fn run(plan: &Plan) -> World {
        let mut world = World::default();
        let mut out = Vec::new();
        let request = Packet::Request.bytes();
        world.client = Some(if plan.invite {
            Client::Invite(ClientInvite::new(Mono(0), request, plan.reliability, V, &mut out))
        } else {
            Client::Other(ClientNonInvite::new(Mono(0), request, plan.reliability, V, &mut out))
        });
        world.client_actions(plan, out);
        if let Some(at) = plan.cancel.filter(|_| plan.invite) {
            world.at(at, Event::UserCancels);
        }
        let mut steps = 0;
        while let Some((at, what)) = world.next() {
            steps += 1;
            assert!(steps < 5_000, "no end");
            world.now = world.now.max(at);
            let (now, mut out) = (Mono(world.now * 1000), Vec::new());
            match what {
                0 => {
                    let (_, event) = world.queue.pop_first().unwrap();
                    world.step(plan, event);
                }
                1 => {
                    both!(world.client.as_mut().unwrap(), Client, m => m.handle_timeout(now, &mut out));
                    world.client_actions(plan, out);
                }
                _ => {
                    both!(world.server.as_mut().unwrap(), Server, m => m.handle_timeout(now, &mut out));
                    world.server_actions(plan, out);
                }
            }
        }
        world
    }
}

fn check(plan: &Plan, world: &World) {
    let finals: Vec<u16> = world.client_saw.iter().copied().filter(|status| *status >= 200).collect();
    let said = world.server_said_final;

    // The client's user sees one final response (2xx to INVITE may repeat), and it is the one that the server's user gave.
    assert!(finals.iter().all(|status| Some(*status) == said), "saw {finals:?}, said {said:?}");
    assert!(finals.len() <= 1 || (plan.invite && finals[0] < 300), "saw {finals:?}");
    let first_final = world.client_saw.iter().position(|status| *status >= 200).unwrap_or(world.client_saw.len());
    assert!(world.client_saw[first_final..].iter().all(|status| *status >= 200), "{:?}", world.client_saw);
    if !plan.invite {
        assert!(world.client_saw.iter().all(|s| *s == 100 || *s >= 200 && *s != 408), "{:?}", world.client_saw);
    }

    // Drain: what has ended has no timer; what has not, waits for the other side in Proceeding.
    let waits = |ended: bool, timer: Option<Mono>, proceeding: bool| {
        assert_eq!(timer, None);
        assert!(ended || proceeding, "neither over nor waiting: {plan:?}");
    };
    match world.client.as_ref().unwrap() {
        Client::Invite(m) => waits(m.is_terminated(), m.poll_timeout(), m.is_proceeding()),
        Client::Other(m) => waits(m.is_terminated(), m.poll_timeout(), false),
    }
    match world.server.as_ref() {
        Some(Server::Invite(m)) => waits(m.is_terminated(), m.poll_timeout(), m.is_proceeding()),
        Some(Server::Other(m)) => waits(m.is_terminated(), m.poll_timeout(), false),
        None => {}
    }

    // Ends fit what was seen. (A cancelled INVITE may end by timeout after provisional responses.)
    match world.client_end {
        Some(Cause::Normal) => assert!(!finals.is_empty()),
        Some(Cause::Timeout) => assert!(finals.is_empty()),
        Some(Cause::TransportError) => panic!("no transport failed"),
        None => assert!(plan.invite && finals.is_empty() && !world.client_saw.is_empty()),
    }

    // Retransmissions are bounded, and there are none over a stream.
    let most = match (plan.reliability, plan.invite) {
        (Reliability::Reliable, _) => 1,
        (_, true) => 7,
        (_, false) => 11,
    };
    assert!(world.requests_sent <= most, "{} requests", world.requests_sent);

    // A network that delivers lets a user that answers in time be heard.
    let all_delivered = plan.reliability == Reliability::Reliable || plan.fates.is_empty();
    let prompt =
        plan.answers.iter().any(|(at, status)| *at < 30_000 && *status >= 200 && (plan.invite || *status != 408));
    if all_delivered && prompt && plan.cancel.is_none() {
        assert_eq!(finals.first().copied(), said, "{plan:?}");
        assert!(said.is_some());
        assert_eq!(world.client_end, Some(Cause::Normal));
        assert_eq!(world.server_end, Some(Cause::Normal));
    }
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        3 => Just(Fate(vec![])),
        4 => (1u64..200).prop_map(|delay| Fate(vec![delay])),
        2 => (1u64..200, 1u64..9_000).prop_map(|(a, b)| Fate(vec![a, b])),
        1 => (1u64..9_000).prop_map(|delay| Fate(vec![delay])),
    ]
}

fn plan() -> impl Strategy<Value = Plan> {
    let status = prop_oneof![
        Just(100u16),
        Just(180),
        Just(183),
        Just(200),
        Just(202),
        Just(302),
        Just(404),
        Just(408),
        Just(500),
        Just(603)
    ];
    (
        any::<bool>(),
        prop_oneof![Just(Reliability::Reliable), Just(Reliability::Unreliable)],
        prop::collection::vec(fate(), 0..40),
        prop::collection::vec((0u64..40_000, status), 0..5),
        prop::option::of(0u64..20_000),
    )
        .prop_map(|(invite, reliability, fates, mut answers, cancel)| {
            answers.sort_unstable();
            Plan { invite, reliability, fates, answers, cancel }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_is_allowed_and_nothing_runs_after_the_end(plan in plan()) {
        let world = World::run(&plan);
        check(&plan, &world);
    }

    #[test]
    fn the_same_plan_gives_the_same_history(plan in plan()) {
        let (a, b) = (World::run(&plan), World::run(&plan));
        prop_assert_eq!(a.client_saw, b.client_saw);
        prop_assert_eq!((a.now, a.sent, a.client_end, a.server_end), (b.now, b.sent, b.client_end, b.server_end));
    }

    #[test]
    fn events_after_the_end_do_nothing(invite in any::<bool>(), statuses in prop::collection::vec(100u16..700, 0..8)) {
        let (mut out, end) = (Vec::new(), Mono(u64::MAX / 2));
        let bytes = Bytes::from_static(b"x");
        if invite {
            let mut client = ClientInvite::new(Mono(0), bytes.clone(), Reliability::Unreliable, V, &mut out);
            client.handle_timeout(end, &mut out);
            prop_assert!(client.is_terminated());
            let mut server = ServerInvite::new(Mono(0), Reliability::Unreliable, V);
            server.on_response(Mono(0), 404, bytes.clone(), &mut out);
            server.handle_timeout(end, &mut out);
            prop_assert!(server.is_terminated());
            out.clear();
            let before = (client.clone(), server.clone());
            for status in statuses {
                client.on_response(end, status, || unreachable!(), &mut out);
                server.on_response(end, status, bytes.clone(), &mut out);
            }
            client.cancel(end, &mut out);
            client.on_transport_error(end, &mut out);
            server.on_request(end, &mut out);
            server.on_ack(end, &mut out);
            server.on_transport_error(end, &mut out);
            prop_assert_eq!((client, server), before);
        } else {
            let mut client = ClientNonInvite::new(Mono(0), bytes.clone(), Reliability::Unreliable, V, &mut out);
            client.handle_timeout(end, &mut out);
            let mut server = ServerNonInvite::new(Mono(0), Reliability::Unreliable, V);
            server.handle_timeout(end, &mut out);
            prop_assert!(client.is_terminated() && server.is_terminated());
            out.clear();
            let before = (client.clone(), server.clone());
            for status in statuses {
                client.on_response(end, status, &mut out);
                prop_assert!(!server.on_response(end, status, bytes.clone(), &mut out));
            }
            client.on_transport_error(end, &mut out);
            server.on_request(end, &mut out);
            server.on_transport_error(end, &mut out);
            prop_assert_eq!((client, server), before);
        }
        prop_assert_eq!(out, vec![]);
    }
}
