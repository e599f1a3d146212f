use super::*;
use crate::key::Kind;
use crate::peers::telling::Telling;
use crate::plan::fleet::AgentState;
use crds::manifest::ObjectKey;
use edge_api::control::{DrainReport, Hello, Results, ToolList, ToolReport, Versioned};
use proptest::prelude::*;

fn name() -> ObjectKey {
    ObjectKey::new("system", "e")
}

fn e0() -> Identity {
    Identity { edge: name(), pod: "e-0".into() }
}

fn agent_key(number: usize) -> Key {
    Key::of(Kind::McpAgent, "acme", format!("a{number}"))
}

/// A replica with edges of its own, and a holder that it tells of them.
#[derive(Default)]
struct Pair {
    replica: State,
    telling: Telling,
    holder: State,
    taking: Option<Taking>,
    mirror: u64,
}

impl Pair {
    fn attach(&mut self, number: u64, held: &[(usize, &str)], since_ms: i64) {
        let mut session = Session::default();
        let object = |(at, version): &(usize, &str)| Versioned {
            key: Some(agent_key(*at).to_message()),
            version: (*version).to_owned(),
        };
        session.hello(&Hello { held: held.iter().map(object).collect(), ..Hello::default() }).unwrap();
        let edge = Edge { attachment: Attachment::Here { number }, since_ms, session, ..Edge::default() };
        self.replica.fleets.entry(name()).or_default().attach("e-0", edge);
    }

    /// Another stream between them.
    fn connect(&mut self) {
        self.mirror += 1;
        self.telling = Telling::default();
        self.taking = Some(Taking::new("system/b".into(), self.mirror));
    }

    /// Everything that there is to tell. How many messages it took.
    fn tell(&mut self) -> usize {
        let taking = self.taking.as_mut().expect("connected");
        let mut messages = 0;
        for left in self.telling.left(&self.replica.fleets) {
            taking.left(&mut self.holder.fleets, &left).unwrap();
            messages += 1;
        }
        for edge in self.telling.changed(&self.replica.fleets) {
            for message in self.telling.edge(&self.replica.fleets, &edge, 1000) {
                messages += 1;
                if let Some(change) = taking.edge(message).unwrap() {
                    change.apply(&mut self.holder, 5000).unwrap();
                }
            }
        }
        taking.told(&mut self.holder.fleets);
        messages
    }

    fn edge(&mut self) -> &mut Edge {
        self.replica.fleets.get_mut(&name()).unwrap().edges.get_mut("e-0").unwrap()
    }

    fn mirrored(&self) -> Option<&Edge> {
        self.holder.fleets.get(&name())?.edges.get("e-0")
    }

    /// What is known there is what is known here.
    fn agree(&mut self) {
        let edge = self.replica.fleets.get(&name()).and_then(|fleet| fleet.edges.get("e-0"));
        let (Some(edge), Some(there)) = (edge, self.mirrored()) else {
            assert!(edge.is_none() && self.mirrored().is_none());
            return;
        };
        let facts = |edge: &Edge| {
            let facts = edge.session.facts();
            facts.map(|(key, held, verdict)| (key.clone(), held.clone(), verdict.cloned())).collect::<Vec<_>>()
        };
        assert_eq!(facts(edge), facts(there));
        assert_eq!(edge.session.progress(), there.session.progress());
        assert_eq!(edge.agents, there.agents);
        assert_eq!((edge.sessions, edge.in_flight, edge.epoch), (there.sessions, there.in_flight, there.epoch));
        assert_eq!((&edge.store, &edge.drain), (&there.store, &there.drain));
    }
}

#[test]
fn an_edge_of_another_replica_is_known_with_all_that_it_has_and_said() {
    let mut pair = Pair::default();
    pair.connect();
    pair.attach(3, &[(0, "u/1"), (1, "u/1")], 400);
    assert_eq!(pair.tell(), 1);
    pair.agree();
    let there = pair.mirrored().unwrap();
    let attachment = Attachment::There { replica: "system/b".into(), mirror: 1, number: 3 };
    assert_eq!((&there.attachment, there.since_ms), (&attachment, 5000 - 600), "by the holder's own clock");
    assert_eq!(pair.tell(), 0, "nothing changed");

    let items = vec![control::Result {
        key: Some(agent_key(1).to_message()),
        version: "u/1".into(),
        outcome: control::Outcome::Rejected.into(),
        field_path: "spec.backend".into(),
        message: "unknown CA".into(),
    }];
    pair.edge().session.results(&Results { nonce: 0, items }).unwrap();
    let tools = ToolList { tools: vec![ToolReport { name: "echo".into(), ..ToolReport::default() }] };
    let report = AgentReport { agent: Some(agent_key(0).to_message()), tools: Some(tools), ..AgentReport::default() };
    let drain = Some(DrainReport { dialogs: 4, ..DrainReport::default() });
    pair.edge().report(Report { agents: vec![report], sessions: 7, drain, ..Report::default() });
    assert_eq!(pair.tell(), 1);
    pair.agree();
    let verdict = pair.mirrored().unwrap().session.verdict(&agent_key(1)).unwrap();
    assert_eq!((verdict.outcome, &*verdict.message), (Outcome::Rejected, "unknown CA"));

    // It goes, and with it what is known of it.
    pair.replica.fleets.get_mut(&name()).unwrap().detach(|_, _| true);
    assert_eq!(pair.tell(), 1);
    pair.agree();
}

#[test]
fn n7_what_a_replica_told_stays_until_it_tells_anew_or_not_again() {
    let mut pair = Pair::default();
    pair.connect();
    pair.attach(1, &[(0, "u/1")], 0);
    pair.tell();
    // The stream breaks and another one begins: nobody is missed between them.
    let over = pair.taking.take().unwrap();
    assert!(pair.mirrored().is_some());
    pair.connect();
    pair.tell();
    pair.agree();
    assert!(!over.over(&mut pair.holder.fleets), "it has nothing left");
    // An edge that left while no stream stood.
    pair.connect();
    pair.replica.fleets.clear();
    pair.tell();
    assert!(pair.mirrored().is_none());
    // A replica that does not come back.
    pair.attach(2, &[], 0);
    pair.tell();
    assert!(pair.taking.as_ref().unwrap().over(&mut pair.holder.fleets));
    assert!(pair.mirrored().is_none());
}

#[test]
fn what_does_not_fit_into_one_message_counts_from_the_last_one() {
    let mut pair = Pair::default();
    pair.connect();
    let held: Vec<(usize, &str)> = (0..9000).map(|at| (at, "u/1")).collect();
    pair.attach(1, &held, 0);
    let messages = pair.telling.edge(&pair.replica.fleets, &e0(), 0);
    assert!(messages.len() >= 3, "{}", messages.len());
    let taking = pair.taking.as_mut().unwrap();
    let mut other = messages[1].clone();
    other.pod.as_mut().unwrap().name = "e-1".into();
    assert_eq!(taking.edge(messages[0].clone()).unwrap().map(|_| ()), None);
    assert_eq!(taking.edge(other).unwrap_err(), Wrong::Mixed("system/e-1".into()));
    let mut taking = Taking::new("system/b".into(), 1);
    let last = messages.len() - 1;
    for (at, message) in messages.into_iter().enumerate() {
        let change = taking.edge(message).unwrap();
        assert_eq!(change.is_some(), at == last);
        if let Some(change) = change {
            change.apply(&mut pair.holder, 0).unwrap();
        }
    }
    pair.agree();
}

#[test]
fn nonsense_of_a_replica_is_refused() {
    let mut pair = Pair::default();
    pair.connect();
    pair.attach(1, &[(0, "u/1")], 0);
    let mut message = pair.telling.edge(&pair.replica.fleets, &e0(), 0).remove(0);
    let refused = |message: EdgeState| {
        let mut holder = State::default();
        let change = Taking::new("system/b".into(), 1).edge(message)?;
        change.expect("whole").apply(&mut holder, 0)
    };
    assert_eq!(refused(EdgeState { pod: None, ..message.clone() }), Err(Wrong::Nameless));
    assert_eq!(refused(EdgeState { whole: false, ..message.clone() }), Err(Wrong::Unknown("e-0".into())));
    let many = vec![message.facts[0].clone(); MAX_ENTRIES + 1];
    assert!(refused(EdgeState { facts: many, ..message.clone() }).unwrap_err().is_limit());
    message.facts[0].held = "x".repeat(97);
    assert_eq!(refused(message), Err(Wrong::Breach(Breach::LongVersion)));
}

#[derive(Clone, Debug)]
enum Step {
    Attach(Vec<usize>),
    Leave,
    Judge(usize, bool),
    Report(usize, u32, bool),
    Reconnect,
    Tell,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        proptest::collection::vec(0_usize..6, 0..5).prop_map(Step::Attach),
        Just(Step::Leave),
        (0_usize..6, any::<bool>()).prop_map(|(at, good)| Step::Judge(at, good)),
        (0_usize..6, 0_u32..3, any::<bool>()).prop_map(|(at, sessions, gone)| Step::Report(at, sessions, gone)),
        Just(Step::Reconnect),
        Just(Step::Tell),
    ]
}

proptest! {
    /// Whatever happens between two tellings: after each of them both sides agree.
    #[test]
    fn telling_and_taking_agree(steps in proptest::collection::vec(step(), 1..40)) {
        let mut pair = Pair::default();
        pair.connect();
        let mut number = 0;
        for step in steps {
            let there = pair.replica.fleets.get(&name()).is_some_and(|fleet| !fleet.edges.is_empty());
            match step {
                Step::Attach(held) => {
                    number += 1;
                    let held: Vec<_> = held.into_iter().map(|at| (at, "u/1")).collect();
                    pair.attach(number, &held, 0);
                }
                Step::Leave => {
                    for fleet in pair.replica.fleets.values_mut() {
                        fleet.detach(|_, _| true);
                    }
                }
                Step::Judge(at, good) if there => {
                    let outcome = if good { control::Outcome::Applied } else { control::Outcome::Rejected };
                    let item = control::Result {
                        key: Some(agent_key(at).to_message()),
                        version: "u/1".into(),
                        outcome: outcome.into(),
                        ..control::Result::default()
                    };
                    let edge = pair.edge();
                    edge.session.results(&Results { nonce: 0, items: vec![item] }).unwrap();
                    edge.revision += 1;
                }
                Step::Report(at, sessions, gone) if there => {
                    let agent = Some(agent_key(at).to_message());
                    let agents = vec![AgentReport { agent, sessions, gone, ..AgentReport::default() }];
                    pair.edge().report(Report { agents, sessions, ..Report::default() });
                }
                Step::Judge(..) | Step::Report(..) => {}
                Step::Reconnect => {
                    pair.connect();
                    pair.tell();
                    pair.agree();
                }
                Step::Tell => {
                    pair.tell();
                    pair.agree();
                }
            }
        }
        pair.tell();
        pair.agree();
        prop_assert!(pair.tell() == 0);
    }
}

#[test]
fn agents_of_a_mirrored_edge_are_bounded() {
    let mut edge = Edge::default();
    edge.agents.insert(ObjectKey::new("acme", "a0"), AgentState::default());
    let agents = vec![AgentReport { agent: Some(agent_key(0).to_message()), gone: true, ..AgentReport::default() }];
    assert!(edge.mirror(Report { agents, ..Report::default() }));
    assert!(edge.agents.is_empty());
}
