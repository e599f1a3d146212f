//! Policies for which there was no room. Nobody can tell what they would have denied, so what they select is closed until they are held or gone.

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::manifest::{ObjectKey, Origin};
use crds::v1alpha1::TargetKind;
use crds::validate::references::RefusedPolicy;

use super::{Key, Kind};

/// So many are told apart; with more, everything is closed.
const MAX_POLICIES: usize = 4096;

type Targets = Option<Vec<(TargetKind, String)>>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct TurnedAway {
    policies: BTreeMap<ObjectKey, Entry>,
    /// More than are told apart: the number of the stream that last said so.
    more: Option<u64>,
    /// Counts the streams.
    stream: u64,
}

#[derive(Debug)]
struct Entry {
    targets: Targets,
    /// The number of the stream that last brought it.
    stream: u64,
}

impl TurnedAway {
    /// A stream begins: it will bring each of them again that is still there.
    pub fn begin(&mut self) {
        self.stream += 1;
    }

    pub fn add(&mut self, key: &ObjectKey, targets: Targets) {
        if self.policies.len() >= MAX_POLICIES && !self.policies.contains_key(key) {
            self.more = Some(self.stream);
        } else {
            self.policies.insert(key.clone(), Entry { targets, stream: self.stream });
        }
    }

    /// True where it was one of them.
    pub fn remove(&mut self, key: &ObjectKey) -> bool {
        self.policies.remove(key).is_some()
    }

    /// The operator has said everything. True where some were not among it.
    pub fn complete(&mut self) -> bool {
        let (stream, before) = (self.stream, self.policies.len());
        self.policies.retain(|_, entry| entry.stream == stream);
        let more = self.more.take_if(|said| *said != stream);
        more.is_some() || self.policies.len() != before
    }

    pub fn refused(&self) -> impl Iterator<Item = RefusedPolicy> {
        let listed = self.policies.iter().map(|(key, entry)| RefusedPolicy {
            key: Some(key.clone()),
            origin: Key::new(Kind::McpCapabilityPolicy, key.clone()).origin(),
            targets: entry.targets.clone(),
        });
        let all = || {
            let origin = Arc::new(Origin::object("McpCapabilityPolicy", &ObjectKey::new("", "(some)")));
            RefusedPolicy { key: None, origin, targets: None }
        };
        listed.chain(self.more.map(|_| all()))
    }
}
