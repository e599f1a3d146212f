//! Whatever happens in whatever order, nothing panics, and in the end nothing is left: no record, no transaction, no dialog.

use proptest::prelude::*;
use sip_proto::message::Message;

use crate::driver::DOMAIN;
use crate::fleet::*;

#[derive(Clone, Debug)]
enum Act {
    /// Alice calls (again).
    Invite {
        edge: usize,
        offer: bool,
    },
    /// Alice, or Sam, sends something in the dialog, by that edge.
    Say {
        by_alice: bool,
        edge: usize,
        method: usize,
    },
    /// Alice, or Sam, answers the oldest request that it has.
    Answer {
        by_alice: bool,
        edge: usize,
        status: u16,
    },
    Copy {
        by_alice: bool,
    },
    CloseSam,
    Register {
        edge: usize,
    },
    Advance(u64),
    KillOne,
    Hold,
    Release,
}

fn act() -> impl Strategy<Value = Act> {
    let status = prop_oneof![
        Just(180u16),
        Just(183),
        Just(200),
        Just(200),
        Just(200),
        Just(430),
        Just(486),
        Just(491),
        Just(481),
        Just(603)
    ];
    prop_oneof![
        2 => (0..2usize, any::<bool>()).prop_map(|(edge, offer)| Act::Invite { edge, offer }),
        6 => (any::<bool>(), 0..2usize, 0..8usize).prop_map(|(by_alice, edge, method)| Act::Say { by_alice, edge, method }),
        8 => (any::<bool>(), 0..2usize, status).prop_map(|(by_alice, edge, status)| Act::Answer { by_alice, edge, status }),
        1 => any::<bool>().prop_map(|by_alice| Act::Copy { by_alice }),
        1 => Just(Act::CloseSam),
        2 => (0..2usize).prop_map(|edge| Act::Register { edge }),
        3 => (1..40_000u64).prop_map(Act::Advance),
        1 => Just(Act::KillOne),
        1 => Just(Act::Hold),
        2 => Just(Act::Release),
    ]
}

struct Play {
    fleet: Fleet,
    alice: Phone,
    sam: Phone,
    for_alice: Vec<Message>,
    for_sam: Vec<Message>,
    last: [Option<String>; 2],
    killed: bool,
}

const INSTANCE: &str = ";+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-00000000000A>\";reg-id=1";

impl Play {
    fn new() -> Play {
        let mut fleet = Fleet::new(2);
        let sam = Phone::new(&mut fleet, 0, "sam");
        let alice = Phone::new(&mut fleet, 0, "alice");
        let mut play =
            Play { fleet, alice, sam, for_alice: Vec::new(), for_sam: Vec::new(), last: [None, None], killed: false };
        play.register(0);
        play
    }

    fn register(&mut self, edge: usize) {
        let mut fresh = Phone::new(&mut self.fleet, edge, "sam");
        if self.fleet.edges[edge].alive && !self.fleet.holding {
            fresh.register(&mut self.fleet, INSTANCE, "Supported: outbound\r\n");
        }
        self.sam = Phone { edge, flow: fresh.flow, ..self.sam.clone() };
    }

    /// Both take what came for them, on whatever connection.
    fn hear(&mut self) {
        while let Some((_, _, message)) = self.fleet.sent.pop_front() {
            let for_alice = message.call_id() == self.alice.call_id;
            if message.is_request() {
                let whose = if for_alice { &mut self.for_alice } else { &mut self.for_sam };
                if message.cseq().method.as_str() == "INVITE" && message.to_tag().is_none() {
                    self.sam.called(&message);
                }
                whose.push(message);
                continue;
            }
            let is_2xx = message.status().is_some_and(|s| (200..300).contains(&s));
            if is_2xx && message.cseq().method.as_str() == "INVITE" {
                let edge = if self.fleet.edges[0].alive { 0 } else { 1 };
                let phone = if for_alice { &mut self.alice } else { &mut self.sam };
                if for_alice {
                    phone.established(&message);
                }
                let mut ack = phone.clone();
                ack.cseq = message.cseq().seq;
                ack.send_at(&mut self.fleet, edge, "ACK", "", "");
            }
        }
    }

    fn run(&mut self, act: &Act) {
        match act {
            Act::Invite { edge, offer } => {
                let flow = self.alice.flow.clone();
                self.alice = Phone { flow, ..Phone::new(&mut self.fleet, *edge, "alice") };
                let body = if *offer { sdp("alice") } else { String::new() };
                self.alice.edge = *edge;
                self.alice.invite(&mut self.fleet, &format!("sip:sam@{DOMAIN}"), "", &body);
            }
            Act::Say { by_alice, edge, method } => {
                let phone = if *by_alice { &mut self.alice } else { &mut self.sam };
                let methods = ["INFO", "MESSAGE", "INVITE", "UPDATE", "BYE", "CANCEL", "ACK", "UPDATE"];
                let method = methods[*method];
                if phone.to.is_empty() || (phone.peer_tag.is_empty() && !matches!(method, "CANCEL" | "ACK")) {
                    return;
                }
                let (extra, body) = match method {
                    "INFO" | "MESSAGE" => ("Content-Type: text/plain\r\n", "x".to_owned()),
                    "INVITE" => ("", sdp(&phone.user.clone())),
                    _ => ("", String::new()),
                };
                let text = phone.request(&mut self.fleet, method, extra, &body);
                self.last[usize::from(*by_alice)] = Some(text.clone());
                let flow = phone.flow.clone();
                self.fleet.arrive(*edge, &flow, text);
            }
            Act::Answer { by_alice, edge, status } => {
                let waiting = if *by_alice { &mut self.for_alice } else { &mut self.for_sam };
                let Some(at) = waiting.iter().position(|m| m.cseq().method.as_str() != "ACK") else { return };
                let request = waiting[at].clone();
                if *status >= 200 {
                    waiting.remove(at);
                }
                let invite = request.cseq().method.as_str() == "INVITE";
                let status = if invite { *status } else { (*status).max(200) };
                let phone = if *by_alice { &self.alice } else { &self.sam };
                let body = if invite && (183..300).contains(&status) { sdp(&phone.user) } else { String::new() };
                phone.reply_at(&mut self.fleet, *edge, &request, status, "", &body);
            }
            Act::Copy { by_alice } => {
                let phone = if *by_alice { &self.alice } else { &self.sam };
                if let Some(text) = self.last[usize::from(*by_alice)].clone() {
                    let (edge, flow) = (phone.edge, phone.flow.clone());
                    self.fleet.arrive(edge, &flow, text);
                }
            }
            Act::CloseSam => {
                let sam = self.sam.clone();
                self.fleet.close(&sam);
            }
            Act::Register { edge } => {
                self.hear();
                self.register(*edge);
            }
            Act::Advance(millis) => self.fleet.advance(*millis),
            Act::KillOne if !self.killed => {
                self.killed = true;
                self.fleet.kill(0);
                self.fleet.adopt(0, 1);
            }
            Act::KillOne => {}
            Act::Hold => self.fleet.holding = true,
            Act::Release => self.fleet.release(),
        }
        self.hear();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]
    #[test]
    fn nothing_panics_and_nothing_is_left(acts in prop::collection::vec(act(), 1..40)) {
        let mut play = Play::new();
        for act in &acts {
            play.run(act);
        }
        play.fleet.release();
        play.hear();
        play.fleet.assert_empty();
    }
}
