use super::*;
use crate::testing::{agent, domain, edge, index, key, policy};
use edge_api::control::{self, Delta, Hello, Outcome as Said, Result as Word, Results, Versioned};
use proptest::prelude::*;

/// An edge as the contract asks for it: it keeps what it was given over the loss of a stream.
#[derive(Debug, Default)]
struct Edge {
    held: BTreeMap<Key, (String, Bytes)>,
    complete: bool,
    /// The generation that it last held of each object, over its whole life.
    seen: BTreeMap<Key, i64>,
}

impl Edge {
    fn hello(&mut self) -> Hello {
        self.complete = false;
        let versioned = |(key, (version, _)): (&Key, &(String, Bytes))| Versioned {
            key: Some(key.to_message()),
            version: version.clone(),
        };
        Hello { held: self.held.iter().map(versioned).collect(), ..Hello::default() }
    }

    fn take(&mut self, delta: &Delta) -> Results {
        let mut results = Results { nonce: delta.nonce, items: Vec::new() };
        for upsert in &delta.upserts {
            let key = Key::from_message(upsert.key.as_ref().unwrap()).unwrap();
            if key.kind.is_ours() {
                let generation: i64 = upsert.version.split('/').nth(1).unwrap().parse().unwrap();
                let seen = self.seen.insert(key.clone(), generation);
                assert!(seen.is_none_or(|seen| seen <= generation), "{key} went back from {seen:?} to {generation}");
            }
            self.held.insert(key, (upsert.version.clone(), upsert.json.clone()));
            results.items.push(word(upsert.key.clone(), &upsert.version, Said::Applied, ""));
        }
        assert!(delta.removals.is_empty() || self.complete || delta.initial_done, "a removal before initial_done");
        self.complete |= delta.initial_done;
        for removal in &delta.removals {
            self.held.remove(&Key::from_message(removal).unwrap());
        }
        results
    }
}

fn word(key: Option<control::Key>, version: &str, outcome: Said, message: &str) -> Word {
    let field_path = if message.is_empty() { String::new() } else { "spec.backend".to_owned() };
    Word { key, version: version.to_owned(), outcome: outcome.into(), field_path, message: message.to_owned() }
}

fn item(version: &str, bytes: usize) -> Item {
    Item { version: version.into(), json: Bytes::from(vec![b'x'; bytes]), tenant: None }
}

fn agents(versions: &[(usize, u32)]) -> Arc<Wanted> {
    let name = |number: &usize| Key::of(Kind::McpAgent, "acme", format!("a{number}"));
    Arc::new(
        versions.iter().map(|(number, version)| (name(number), item(&format!("uid{number}/{version}"), 10))).collect(),
    )
}

fn greeted(wanted: Arc<Wanted>) -> Session {
    let mut session = Session::default();
    assert_eq!(session.poll(0), None, "nothing before Hello");
    assert_eq!(session.hello(&Hello::default()), Ok(true));
    session.want(wanted, true);
    session
}

#[test]
fn one_changed_agent_is_one_delta_for_its_edges_and_nothing_for_others() {
    let all =
        [edge("e", 1), domain("d0", 1), agent("a", 1, "d0", None), agent("b", 1, "d0", None), policy("p", 1, "a")];
    let mut index = index(all);
    let (mut wants, e) = (Wants::default(), ObjectKey::new("system", "e"));
    assert_eq!(wants.update(&index), [e.clone()].into());
    assert_eq!(wants.update(&index), BTreeSet::new());
    let mut session = greeted(wants.of(&e).unwrap().clone());
    let first = session.poll(0).unwrap();
    assert_eq!((first.upserts.len(), first.initial_done), (5, true));
    session.results(&Edge::default().take(&first)).unwrap();
    assert!(session.is_programmed());

    index.apply(agent("a", 2, "d0", None)).unwrap();
    assert_eq!(wants.update(&index), [e.clone()].into());
    session.want(wants.of(&e).unwrap().clone(), true);
    assert!(!session.is_programmed());
    let delta = session.poll(0).unwrap();
    let keys: Vec<_> =
        delta.upserts.iter().map(|upsert| Key::from_message(upsert.key.as_ref().unwrap()).unwrap()).collect();
    assert_eq!((keys, delta.removals.len()), (vec![key(Kind::McpAgent, "a")], 0));
    assert_eq!(session.poll(0), None);

    index.apply(domain("d1", 1)).unwrap();
    index.apply(policy("stray", 1, "nobody")).unwrap();
    assert_eq!(wants.update(&index), BTreeSet::new(), "no edge is told of what it does not serve");
    index.delete(&key(Kind::SipEdge, "e"), None);
    assert_eq!(wants.update(&index), [e.clone()].into());
    assert!(wants.of(&e).is_none());
}

#[test]
fn a_slow_edge_gets_the_newest_version_and_costs_no_more() {
    let mut session = greeted(agents(&[(0, 1)]));
    let mut sent = vec![session.poll(0).unwrap()];
    for version in 2..100 {
        session.want(agents(&[(0, version)]), true);
        sent.extend(session.poll(0));
    }
    assert_eq!(sent.len(), MAX_OUTSTANDING, "no more without an answer");
    assert!(!session.is_overdue(UNANSWERED_MS - 1) && session.is_overdue(UNANSWERED_MS));
    let mut edge = Edge::default();
    session.results(&edge.take(&sent[0])).unwrap();
    let next = session.poll(5).unwrap();
    assert_eq!(next.upserts[0].version, "uid0/99");
    for delta in sent[1..].iter().chain([&next]) {
        session.results(&edge.take(delta)).unwrap();
    }
    assert!(session.is_programmed() && session.poll(9).is_none());
}

#[test]
fn large_sets_travel_in_pieces_and_only_the_last_one_is_the_end() {
    let large = |number| (Key::of(Kind::McpAgent, "acme", format!("a{number}")), item("u/1", MAX_DELTA_BYTES / 3));
    let mut wanted: Wanted = (0..7).map(large).collect();
    wanted.insert(Key::of(Kind::Secret, "acme", "huge"), item("sha256:0", 2 * MAX_DELTA_BYTES));
    let mut session = greeted(Arc::new(wanted));
    let deltas: Vec<_> = std::iter::from_fn(|| session.poll(0)).collect();
    assert_eq!(deltas.iter().map(|delta| delta.upserts.len()).collect::<Vec<_>>(), [1, 3, 3, 1]);
    assert_eq!(deltas.iter().map(|delta| delta.initial_done).collect::<Vec<_>>(), [false, false, false, true]);
}

#[test]
fn nothing_is_taken_away_until_everything_is_known() {
    let mut edge = Edge::default();
    let mut before = greeted(agents(&[(0, 1), (1, 1)]));
    edge.take(&before.poll(0).unwrap());

    let mut session = Session::default();
    session.hello(&edge.hello()).unwrap();
    session.want(agents(&[(0, 1)]), false);
    assert_eq!(session.poll(0), None, "the operator does not know everything yet");
    session.want(agents(&[(0, 2)]), false);
    let delta = session.poll(0).unwrap();
    assert_eq!((delta.upserts.len(), delta.removals.len(), delta.initial_done), (1, 0, false));
    session.want(agents(&[(0, 2)]), true);
    let delta = session.poll(0).unwrap();
    assert_eq!((delta.upserts.len(), delta.removals.len(), delta.initial_done), (0, 1, true));
}

#[test]
fn an_edge_that_holds_everything_hears_only_that_this_is_all() {
    let mut edge = Edge::default();
    edge.take(&greeted(agents(&[(0, 3)])).poll(0).unwrap());
    let mut session = Session::default();
    session.hello(&edge.hello()).unwrap();
    session.want(agents(&[(0, 3)]), true);
    let delta = session.poll(0).unwrap();
    assert_eq!(delta, Delta { nonce: 1, initial_done: true, ..Delta::default() });
    assert!(session.results(&Results { nonce: 1, items: Vec::new() }).unwrap().is_empty());
    assert!(session.is_programmed());

    // Another replica of the operator is behind what this edge was told elsewhere.
    session.want(agents(&[(0, 2)]), true);
    assert_eq!(session.poll(0), None, "no generation goes back");
    assert!(!session.is_programmed());
}

#[test]
fn each_object_has_its_own_result_and_may_change_it() {
    let wanted = agents(&[(0, 1), (1, 1)]);
    let mut session = greeted(wanted.clone());
    let delta = session.poll(0).unwrap();
    let mut results = Edge::default().take(&delta);
    let refused = Key::of(Kind::McpAgent, "acme", "a1");
    results.items[1] = word(Some(refused.to_message()), "uid1/1", Said::Rejected, &"unknown CA ü".repeat(1000));
    assert_eq!(session.results(&results).unwrap().len(), 1 + 1);
    let verdict = session.verdict(&refused).unwrap();
    assert_eq!((verdict.outcome, &*verdict.field), (Outcome::Rejected, "spec.backend"));
    assert!(verdict.message.len() <= 4096 && verdict.message.starts_with("unknown CA"));
    assert!(!session.is_programmed());

    let again =
        |version: &str| Results { nonce: 0, items: vec![word(Some(refused.to_message()), version, Said::Applied, "")] };
    assert!(session.results(&again("uid1/0")).unwrap().is_empty(), "a word about another version");
    assert_eq!(session.results(&again("uid1/1")).unwrap(), [refused].into());
    assert!(session.is_programmed());
}

#[test]
fn whoever_breaks_the_contract_is_told_how() {
    let mut session = Session::default();
    assert_eq!(session.results(&Results::default()), Err(Breach::BeforeHello));
    assert_eq!(session.hello(&Hello { more: true, ..Hello::default() }), Ok(false));
    assert_eq!(session.poll(0), None, "more follows");
    let long = Versioned { key: Some(key(Kind::McpAgent, "a").to_message()), version: "v".repeat(97) };
    assert_eq!(session.hello(&Hello { held: vec![long], ..Hello::default() }), Err(Breach::LongVersion));
    let many = vec![Versioned::default(); MAX_HELD + 1];
    assert_eq!(session.hello(&Hello { held: many, ..Hello::default() }), Err(Breach::TooManyHeld));
    assert_eq!(session.hello(&Hello::default()), Ok(true));
    assert_eq!(session.hello(&Hello::default()), Err(Breach::SecondHello));
    assert_eq!(session.results(&Results { nonce: 4, items: Vec::new() }), Err(Breach::UnknownNonce(4)));
    let items = vec![Word::default(); MAX_ENTRIES + 1];
    assert_eq!(session.results(&Results { nonce: 0, items }), Err(Breach::TooManyResults));
}

#[derive(Clone, Debug)]
enum Step {
    /// The API server has these agents now; each stays or has its next generation.
    Change(Vec<(usize, bool)>),
    Send,
    Arrive,
    Answer,
    /// The stream is lost with everything on its way; the edge comes again.
    Lose {
        complete: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => proptest::collection::vec((0_usize..12, any::<bool>()), 0..8).prop_map(Step::Change),
        4 => Just(Step::Send),
        4 => Just(Step::Arrive),
        3 => Just(Step::Answer),
        1 => any::<bool>().prop_map(|complete| Step::Lose { complete }),
    ]
}

proptest! {
    /// Wherever the stream breaks: in the end the edge holds exactly what it should, and on the way nothing was taken away before it had
    /// everything and no generation went back.
    #[test]
    fn an_edge_ends_with_exactly_what_it_should_hold(steps in proptest::collection::vec(step(), 0..80)) {
        let mut edge = Edge::default();
        let mut generations = BTreeMap::<usize, u32>::new();
        let mut wanted = agents(&[]);
        let mut session = Session::default();
        session.hello(&edge.hello()).unwrap();
        let (mut there, mut back) = (Vec::<Delta>::new(), Vec::<Results>::new());
        for step in steps {
            match step {
                Step::Change(agents_now) => {
                    let mut now = BTreeMap::new();
                    for (number, next) in agents_now {
                        let generation = generations.entry(number).or_insert(1);
                        *generation += u32::from(next);
                        now.insert(number, *generation);
                    }
                    wanted = agents(&now.into_iter().collect::<Vec<_>>());
                    session.want(wanted.clone(), false);
                }
                Step::Send => there.extend(session.poll(0)),
                Step::Arrive if !there.is_empty() => back.push(edge.take(&there.remove(0))),
                Step::Answer if !back.is_empty() => {
                    session.results(&back.remove(0)).unwrap();
                }
                Step::Arrive | Step::Answer => {}
                Step::Lose { complete } => {
                    there.clear();
                    back.clear();
                    session = Session::default();
                    session.hello(&edge.hello()).unwrap();
                    session.want(wanted.clone(), complete);
                }
            }
            prop_assert!(there.len() + back.len() <= MAX_OUTSTANDING);
        }
        session.want(wanted.clone(), true);
        loop {
            while let Some(delta) = session.poll(0) {
                there.push(delta);
            }
            if there.is_empty() && back.is_empty() {
                break;
            }
            back.extend(there.drain(..).map(|delta| edge.take(&delta)));
            for results in back.drain(..) {
                session.results(&results).unwrap();
            }
        }
        let holds: BTreeMap<_, _> = edge.held.iter().map(|(key, (version, _))| (key.clone(), version.clone())).collect();
        let should: BTreeMap<_, _> = wanted.iter().map(|(key, item)| (key.clone(), item.version.to_string())).collect();
        prop_assert_eq!(holds, should);
        prop_assert!(session.is_programmed());
    }
}
