//! The live sessions of an edge as it tells of them: who speaks with which agent since when, and how much is in flight. Nothing of what they
//! say: no body, no SDP, no header of the call, no credential.

use std::collections::BTreeMap;

use sip_proto::time::{Now, UnixMillis};

use crate::engine::LegKey;
use crate::outgoing::via_name;
use crate::state::EdgeState;

/// Which sessions are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Lower case.
    pub domain: String,
    /// `AgentConfig::key`; `None`: every agent of the domain.
    pub agent: Option<String>,
    /// Only those behind this one.
    pub after: Option<[u8; 16]>,
    /// At most so many.
    pub limit: usize,
}

/// One session: a dialog that this edge owns, or what a caller out of a dialog has open here. Ordered by `id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveSession {
    /// Its name in the store: a keyed hash.
    pub id: [u8; 16],
    /// `AgentConfig::key`.
    pub agent: String,
    /// Canonical URI, or `anonymous`.
    pub caller: String,
    /// The UUID of the conversation; empty where none was agreed on.
    pub conversation: String,
    pub begun: UnixMillis,
    pub last_used: UnixMillis,
    pub in_flight: usize,
    /// Of the caller's leg, as a listener's `protocol` has it: `TLS`; empty where it is not known any more.
    pub transport: &'static str,
}

impl EdgeState {
    /// The sessions of this core, by their ids.
    #[must_use]
    pub fn sessions(&self, now: Now, asked: &Asked) -> Vec<LiveSession> {
        let mut found = BTreeMap::new();
        let mut take = |session: LiveSession| {
            if asked.after.is_some_and(|after| session.id <= after) {
                return;
            }
            found.insert(session.id, session);
            if found.len() > asked.limit {
                found.pop_last();
            }
        };
        let wanted = |domain: &str, agent: &str| {
            domain == asked.domain && asked.agent.as_deref().is_none_or(|wanted| wanted == agent)
        };
        for (key, dialog) in &self.dialogs {
            let (leg, record) = (&dialog.leg, &dialog.record);
            // The leg to the agent is the other end of the same session.
            if record.owner != self.owner || record.we_called || !wanted(&leg.domain.domain, &leg.agent.key) {
                continue;
            }
            let open = self.engine.use_of(leg.session);
            take(LiveSession {
                id: key.id,
                agent: leg.agent.key.clone(),
                caller: leg.principal.as_str().to_owned(),
                conversation: record.mcp.as_ref().map(|mcp| mcp.conversation.clone()).unwrap_or_default(),
                begun: UnixMillis(record.created_at),
                last_used: open.map_or(dialog.started.wall, |open| wall(now, open.last_used)),
                in_flight: open.map_or(0, |open| open.in_flight),
                transport: via_name(dialog.flow.transport),
            });
        }
        for (leg, open) in self.engine.uses() {
            let LegKey::OutOfDialog(key) = leg.key else { continue };
            if !wanted(&leg.domain.domain, &leg.agent.key) {
                continue;
            }
            take(LiveSession {
                id: key.hash,
                agent: leg.agent.key.clone(),
                caller: leg.principal.as_str().to_owned(),
                conversation: String::new(),
                begun: wall(now, open.begun),
                last_used: wall(now, open.last_used),
                in_flight: open.in_flight,
                // The way back ends a moment before the session may.
                transport: self.routes.get(&leg.key).map_or("", |route| via_name(route.flow.transport)),
            });
        }
        found.into_values().collect()
    }
}

/// A moment of the monotonic clock on the other one.
fn wall(now: Now, at: sip_proto::time::Mono) -> UnixMillis {
    UnixMillis(now.wall.0.saturating_sub(now.mono.millis_since(at)))
}
