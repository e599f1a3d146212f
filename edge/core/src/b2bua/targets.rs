//! Which contacts a call goes to, and in which order: by `q`, then by caller preferences (RFC 3841 §7.2.4), those alike at once
//! (RFC 3261 §16.6); the flows of one instance one after the other (RFC 5626 §5.3).

use std::collections::{BTreeMap, VecDeque};

use session_store::record::Binding;
use sip_proto::header::NameAddr;
use sip_proto::preferences::Preferences;

use crate::gruu::{Named, instance, reg_id};
use crate::state::EdgeState;
use crate::token::FlowToken;

/// One way to one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub uri: String,
    pub flow: Option<String>,
    pub route_set: Vec<String>,
    pub aor: String,
    pub instance: Option<String>,
    /// Nobody can open a connection to it: the flow, or nothing.
    pub flow_only: bool,
}

/// By instance: its ways, those that are dead and their reg-ids.
type Instances = BTreeMap<String, Vec<(bool, u32, Way)>>;

/// The ways to one instance, the best first.
pub(super) type Ways = VecDeque<Way>;

impl EdgeState {
    /// The groups of targets in the order in which they are tried; each group at once.
    pub(super) fn targets(
        &self,
        bindings: &[Binding],
        wanted: &Preferences,
        named: Option<&Named>,
    ) -> VecDeque<Vec<Ways>> {
        // By AOR, q and score, then by instance; the order of the map is the order of the tries.
        let mut groups: BTreeMap<(u16, u16, String), Instances> = BTreeMap::new();
        for binding in bindings {
            if named.is_some_and(|named| !self.is_named(named, binding)) {
                continue;
            }
            let Ok(contact) = NameAddr::parse(&binding.contact) else { continue };
            let Some(score) = wanted.score(&contact) else { continue };
            let q = contact.q().unwrap_or(1000).min(1000);
            let (instance, reg) = (instance(&binding.contact), reg_id(&binding.contact));
            let token = binding.flow.as_deref().and_then(|text| FlowToken::from_text(&self.config.token_keys, text));
            let alive = token.as_ref().is_some_and(|token| self.way_of(token, None).is_some());
            let one = instance.clone().map_or_else(|| binding.key.clone(), |own| own.to_ascii_lowercase());
            let way = Way {
                uri: binding.uri.clone(),
                flow: binding.flow.clone(),
                route_set: routes(&binding.path),
                aor: binding.aor.clone(),
                instance,
                flow_only: reg.is_some() && binding.flow.is_some(),
            };
            // Several agents are never called at once: a group is of one address.
            let group = groups.entry((1000 - q, 1000 - score.min(1000), binding.aor.clone())).or_default();
            group.entry(one).or_default().push((!alive, reg.unwrap_or(0), way));
        }
        let in_order = |mut ways: Vec<(bool, u32, Way)>| {
            ways.sort_by_key(|(dead, reg, _)| (*dead, *reg));
            ways.into_iter().map(|(_, _, way)| way).collect()
        };
        groups.into_values().map(|group| group.into_values().map(in_order).collect()).collect()
    }
}

/// Path values as routes.
fn routes(path: &[String]) -> Vec<String> {
    path.iter().filter_map(|value| Some(NameAddr::parse(value.as_bytes()).ok()?.uri().to_owned())).collect()
}
