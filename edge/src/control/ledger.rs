//! Which Deltas wait for their results, and the last word about each object. Without a clock and without a socket.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use edge_api::control::{Outcome, Result as Item, Results};
use prost::Message as _;

use super::held::{Held, Key, Taken};

/// Results in one message, as the contract has it.
const MAX_ITEMS: usize = 4096;
/// Octets of a field path and of a message, as the contract has it.
const MAX_FIELD: usize = 1024;
const MAX_MESSAGE: usize = 4096;
/// Octets of one Results, a quarter of what the contract allows. The answer to a Delta is one message and may be twice as large: it has this much
/// of each text, and the whole texts follow.
const MAX_OCTETS: usize = 1 << 20;
const SHORT: usize = 64;
/// Octets of what everything waits for: it is said of each object.
const MAX_WAITING: usize = 256;

/// What is wrong with an object that is not simply in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    pub outcome: Outcome,
    pub field: String,
    pub message: String,
}

/// What became of everything.
#[derive(Clone, Debug)]
pub enum Verdicts {
    /// All is in use but what stands here.
    Judged(BTreeMap<Key, Word>),
    /// Nothing is in use yet, for this reason.
    Waiting(String),
}

#[derive(Debug)]
struct Open {
    nonce: u64,
    items: Vec<Taken>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Not looked at yet.
    open: Vec<Open>,
    /// Being applied.
    applying: Vec<Open>,
    /// With the version that each is about.
    words: BTreeMap<Key, (String, Word)>,
    /// To be sent.
    out: VecDeque<Results>,
}

impl Ledger {
    /// A stream begins: what was not answered on the one before never will be. Returns what is to be said directly after Hello.
    pub fn begin(&mut self) -> Vec<Results> {
        self.open.clear();
        self.applying.clear();
        self.out.clear();
        let items = self.words.iter().map(|(key, (version, word))| item(key.to_message(), version, Some(word)));
        in_pieces(items.collect())
    }

    /// A Delta came.
    pub fn taken(&mut self, nonce: u64, items: Vec<Taken>) {
        self.open.push(Open { nonce, items });
    }

    /// Answers what came, where nothing of it is an object and nothing else waits before it.
    pub fn answer_empty(&mut self) -> bool {
        let empty = self.applying.is_empty() && self.open.iter().all(|open| open.items.is_empty());
        if empty {
            self.out.extend(self.open.drain(..).map(|open| Results { nonce: open.nonce, items: Vec::new() }));
        }
        empty
    }

    /// What came until now is what is applied next.
    pub fn apply(&mut self) {
        self.applying.append(&mut self.open);
    }

    /// What became of it. Answers every Delta that was applied, and tells what changed beside them.
    pub fn applied(&mut self, held: &Held, verdicts: Verdicts) {
        let mut words = BTreeMap::new();
        match verdicts {
            Verdicts::Judged(said) => {
                for (key, word) in said {
                    if let Some(version) = held.version(&key) {
                        words.insert(key, (version.to_owned(), word));
                    }
                }
            }
            Verdicts::Waiting(message) => {
                let message = cut(&message, MAX_WAITING);
                let word = Word { outcome: Outcome::Rejected, field: String::new(), message };
                for key in held.keys() {
                    words.insert(key.clone(), (held.version(key).unwrap_or_default().to_owned(), word.clone()));
                }
            }
        }
        let mut answered = BTreeSet::new();
        let mut whole = Vec::new();
        for Open { nonce, items } in std::mem::take(&mut self.applying) {
            let items = items.into_iter().map(|Taken { key, version, refused }| {
                let known = Key::from_message(&key);
                let word = match refused {
                    Some(message) => Some(Word { outcome: Outcome::Rejected, field: String::new(), message }),
                    None => known.as_ref().and_then(|key| words.get(key)).map(|(_, word)| word.clone()),
                };
                answered.extend(known);
                item(key, &version, word.as_ref())
            });
            let mut answer = Results { nonce, items: items.collect() };
            if answer.encoded_len() > MAX_OCTETS {
                for item in &mut answer.items {
                    if item.field_path.len() > SHORT || item.message.len() > SHORT {
                        whole.push(item.clone());
                        item.field_path = cut(&item.field_path, SHORT);
                        item.message = cut(&item.message, SHORT);
                    }
                }
            }
            self.out.push_back(answer);
        }
        let both: BTreeSet<&Key> = self.words.keys().chain(words.keys()).collect();
        let changed = both.into_iter().filter(|key| {
            !answered.contains(*key) && held.version(key).is_some() && self.words.get(*key) != words.get(*key)
        });
        let items = changed.map(|key| {
            let word = words.get(key).map(|(_, word)| word);
            item(key.to_message(), held.version(key).unwrap_or_default(), word)
        });
        whole.extend(items);
        self.out.extend(in_pieces(whole));
        self.words = words;
    }

    /// The next thing to say.
    pub fn pop(&mut self) -> Option<Results> {
        self.out.pop_front()
    }

    /// Objects that are not in use as they were given last.
    #[must_use]
    pub fn rejected(&self) -> usize {
        self.words.values().filter(|(_, word)| word.outcome == Outcome::Rejected).count()
    }
}

/// Results beside the Deltas.
fn in_pieces(items: Vec<Item>) -> Vec<Results> {
    let mut pieces: Vec<Results> = Vec::new();
    let mut room = 0;
    for item in items {
        // With the tag and the length of an item in its message.
        let octets = item.encoded_len() + 8;
        match pieces.last_mut().filter(|piece| octets <= room && piece.items.len() < MAX_ITEMS) {
            Some(piece) => piece.items.push(item),
            None => {
                pieces.push(Results { nonce: 0, items: vec![item] });
                room = MAX_OCTETS;
            }
        }
        room = room.saturating_sub(octets);
    }
    pieces
}

fn item(key: edge_api::control::Key, version: &str, word: Option<&Word>) -> Item {
    let (outcome, field, message) = match word {
        None => (Outcome::Applied, "", ""),
        Some(Word { outcome, field, message }) => (*outcome, &**field, &**message),
    };
    Item {
        key: Some(key),
        version: version.to_owned(),
        outcome: outcome.into(),
        field_path: cut(field, MAX_FIELD),
        message: cut(message, MAX_MESSAGE),
    }
}

fn cut(text: &str, most: usize) -> String {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::manifest::ObjectKey;
    use edge_api::control::{Delta, Kind, Upsert};

    fn key(name: &str) -> Key {
        Key::new(Kind::Endpoints, ObjectKey::new("acme", name))
    }

    fn given(held: &mut Held, ledger: &mut Ledger, nonce: u64, objects: &[(&str, &str)]) {
        let upsert = |(name, version): &(&str, &str)| Upsert {
            key: Some(key(name).to_message()),
            version: (*version).to_owned(),
            ..Upsert::default()
        };
        let upserts = objects.iter().map(upsert).collect();
        ledger.taken(nonce, held.take(Delta { upserts, ..Delta::default() }));
    }

    fn rejected(name: &str) -> Verdicts {
        let word = Word { outcome: Outcome::Rejected, field: "spec".into(), message: "no".into() };
        Verdicts::Judged([(key(name), word)].into())
    }

    /// Name, version and outcome.
    type Told = (String, String, Outcome);

    /// Nonce, then each item.
    fn said(ledger: &mut Ledger) -> Vec<(u64, Vec<Told>)> {
        let item = |item: &Item| (item.key.clone().unwrap_or_default().name, item.version.clone(), item.outcome());
        std::iter::from_fn(|| ledger.pop()).map(|r| (r.nonce, r.items.iter().map(item).collect())).collect()
    }

    fn one(name: &str, version: &str, outcome: Outcome) -> Told {
        (name.to_owned(), version.to_owned(), outcome)
    }

    #[test]
    fn each_delta_is_answered_once_and_a_change_of_mind_is_told_beside_it() {
        let (mut held, mut ledger) = (Held::default(), Ledger::default());
        given(&mut held, &mut ledger, 1, &[("a", "1"), ("b", "1")]);
        ledger.apply();
        // What comes while the first one is applied waits for the next time.
        given(&mut held, &mut ledger, 2, &[("c", "1")]);
        ledger.applied(&held, rejected("b"));
        let first = vec![one("a", "1", Outcome::Applied), one("b", "1", Outcome::Rejected)];
        assert_eq!(said(&mut ledger), [(1, first)]);
        assert_eq!(ledger.rejected(), 1);
        ledger.apply();
        ledger.applied(&held, Verdicts::Judged(BTreeMap::new()));
        let beside = vec![one("b", "1", Outcome::Applied)];
        assert_eq!(said(&mut ledger), [(2, vec![one("c", "1", Outcome::Applied)]), (0, beside)]);
        ledger.applied(&held, Verdicts::Judged(BTreeMap::new()));
        assert_eq!(said(&mut ledger), []);
    }

    #[test]
    fn a_new_stream_hears_what_is_not_in_use_and_nothing_of_the_old_one() {
        let (mut held, mut ledger) = (Held::default(), Ledger::default());
        given(&mut held, &mut ledger, 1, &[("a", "1"), ("b", "1")]);
        ledger.apply();
        ledger.applied(&held, rejected("b"));
        given(&mut held, &mut ledger, 2, &[("a", "2")]);
        let told = ledger.begin();
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].nonce, told[0].items.len(), told[0].items[0].outcome()), (0, 1, Outcome::Rejected));
        ledger.apply();
        ledger.applied(&held, rejected("b"));
        assert_eq!(said(&mut ledger), [], "the second Delta was of the old stream");
    }

    #[test]
    fn while_an_edge_waits_nothing_is_in_use_and_then_everything_is() {
        let (mut held, mut ledger) = (Held::default(), Ledger::default());
        given(&mut held, &mut ledger, 1, &[("a", "1")]);
        ledger.apply();
        ledger.applied(&held, Verdicts::Waiting("waits for the store".into()));
        assert_eq!(said(&mut ledger), [(1, vec![one("a", "1", Outcome::Rejected)])]);
        ledger.applied(&held, Verdicts::Judged(BTreeMap::new()));
        assert_eq!(said(&mut ledger), [(0, vec![one("a", "1", Outcome::Applied)])]);
    }

    #[test]
    fn a_delta_without_objects_needs_nobody_to_apply_it() {
        let (mut held, mut ledger) = (Held::default(), Ledger::default());
        given(&mut held, &mut ledger, 1, &[]);
        assert!(ledger.answer_empty());
        assert_eq!(said(&mut ledger), [(1, Vec::new())]);
        given(&mut held, &mut ledger, 2, &[("a", "1")]);
        assert!(!ledger.answer_empty());
    }

    fn octets(results: &Results) -> usize {
        results.encoded_len()
    }

    /// Names that are as long as they may be.
    fn long(number: usize) -> Key {
        Key::new(Kind::McpAgent, ObjectKey::new("n".repeat(63), format!("{number:0>253}")))
    }

    fn many_given(held: &mut Held, ledger: &mut Ledger, nonce: u64, numbers: std::ops::Range<usize>) {
        let version = "v".repeat(96);
        let upsert =
            |number| Upsert { key: Some(long(number).to_message()), version: version.clone(), ..Upsert::default() };
        let upserts = numbers.map(upsert).collect();
        ledger.taken(nonce, held.take(Delta { upserts, ..Delta::default() }));
    }

    #[test]
    fn results_fit_into_a_message_however_much_there_is_to_say() {
        let (mut held, mut ledger) = (Held::default(), Ledger::default());
        many_given(&mut held, &mut ledger, 1, 0..4096);
        many_given(&mut held, &mut ledger, 2, 4096..5000);
        ledger.apply();
        let (field, message) = ("f".repeat(MAX_FIELD), "m".repeat(MAX_MESSAGE));
        let word = Word { outcome: Outcome::Rejected, field: field.clone(), message: message.clone() };
        let all = (0..5000).map(|number| (long(number), word.clone())).collect();
        ledger.applied(&held, Verdicts::Judged(all));
        let told: Vec<Results> = std::iter::from_fn(|| ledger.pop()).collect();
        let again = ledger.begin();
        assert_eq!(again.iter().map(|results| results.items.len()).sum::<usize>(), 5000);
        for results in told.iter().chain(&again) {
            assert!(octets(results) < 4 << 20, "{} octets", octets(results));
            assert!(results.items.len() <= MAX_ITEMS);
        }
        // Each Delta has one answer, with every object of it; what is cut there comes whole beside it.
        let nonces: Vec<u64> = told.iter().map(|results| results.nonce).filter(|nonce| *nonce > 0).collect();
        assert_eq!(nonces, [1, 2]);
        let mut last: BTreeMap<String, Item> = BTreeMap::new();
        for item in told.iter().flat_map(|results| &results.items) {
            assert_eq!(item.outcome(), Outcome::Rejected);
            last.insert(item.key.clone().unwrap_or_default().name, item.clone());
        }
        assert_eq!(last.len(), 5000);
        assert!(last.values().all(|item| (&item.field_path, &item.message) == (&field, &message)));
    }

    #[test]
    fn what_everything_waits_for_is_said_in_few_words() {
        let (mut held, mut ledger) = (Held::default(), Ledger::default());
        many_given(&mut held, &mut ledger, 1, 0..4096);
        ledger.apply();
        ledger.applied(&held, Verdicts::Waiting("waits for ".to_owned() + &"x".repeat(4000)));
        let told: Vec<Results> = std::iter::from_fn(|| ledger.pop()).collect();
        assert!(told.iter().all(|results| octets(results) < 4 << 20));
        let items: Vec<&Item> = told.iter().flat_map(|results| &results.items).collect();
        assert!(items.iter().all(|item| item.message.starts_with("waits for ") && item.message.len() <= 256));
        assert!(ledger.begin().iter().all(|results| octets(results) < 2 << 20));
    }
}
