//! Agents that are found by what they offer (REG-2): one that this caller may see and use.

use std::collections::BTreeMap;
use std::sync::Arc;

use session_store::op::{StoreError, StoreReply};
use session_store::record::Binding;
use sip_proto::message::{HeaderId, Message};
use sip_proto::preferences::Preferences;

use super::address;
use crate::answer::Answer;
use crate::config::AgentConfig;
use crate::gate::{Caller, policies, policy_principal};
use crate::negotiate::shows;
use crate::state::EdgeState;

/// Capabilities that are looked up for one request.
const MAX_CAPABILITIES: usize = 8;

impl EdgeState {
    /// The capabilities that a request to the domain itself is for: of Accept-Contact (RFC 3841), else of `MCP-Select` (REG-2).
    pub(crate) fn capabilities_wanted(&self, message: &Message) -> Vec<String> {
        let wanted = Preferences::of(message);
        let mut names: Vec<String> = wanted.wanted("+mcp.cap").map(str::to_owned).collect();
        if names.is_empty()
            && let Some(value) = message.headers(HeaderId::McpSelect).next()
            && let Ok(select) = mcp_sip::headers::Select::parse(value, mcp_sip::headers::Mode::Lenient)
        {
            names = select.tools.iter().flatten().map(ToString::to_string).collect();
        }
        names.truncate(MAX_CAPABILITIES);
        names
    }

    /// Agents that offer one of the capabilities.
    pub(crate) fn setup_capable(&mut self, call: u64, reply: Result<StoreReply, StoreError>) {
        let Some(setup) = self.bridges.calls.get_mut(&call) else { return };
        setup.asking -= 1;
        match reply {
            Ok(StoreReply::Bindings(bindings)) => {
                for binding in bindings {
                    if !setup.found.iter().any(|known| known.aor == binding.aor && known.key == binding.key) {
                        setup.found.push(binding);
                    }
                }
            }
            Ok(_) => {}
            Err(error) => setup.failed = Some(error),
        }
        self.setup_ready(call);
    }

    /// By capability: one agent that this caller may see and use.
    pub(super) fn choose_agent(&mut self, call: u64) -> Result<(), Answer> {
        let Some(setup) = self.bridges.calls.get(&call) else { return Err(Answer::new(500)) };
        let caller = setup.caller.clone();
        let (wanted, capabilities, found) = (setup.wanted.clone(), setup.capabilities.clone(), setup.found.clone());
        let (aor, agent) = self.pick_agent(&caller, &wanted, &capabilities, &found)?;
        self.check_agent(&agent)?;
        let Some(setup) = self.bridges.calls.get(&call) else { return Err(Answer::new(500)) };
        let (request, parts) = (setup.request.clone(), setup.parts.clone());
        let offer = self.judge_offer(&request, &caller, &agent, &parts)?;
        if let Some(setup) = self.bridges.calls.get_mut(&call) {
            setup.found.retain(|binding| binding.aor == aor);
            setup.callee = address(&agent);
            setup.agent = agent;
            setup.offer = offer;
        }
        Ok(())
    }

    /// One agent that this caller may see and use and that offers one of these capabilities, among the best one at random; with its
    /// address of record.
    pub(in crate::b2bua) fn pick_agent(
        &mut self,
        caller: &Caller,
        wanted: &Preferences,
        capabilities: &[String],
        found: &[Binding],
    ) -> Result<(String, Arc<AgentConfig>), Answer> {
        let domain = caller.domain.clone();
        let principal = caller.principal.clone();
        let mut by_rank: BTreeMap<(u16, u16), Vec<String>> = BTreeMap::new();
        for binding in found {
            let user = sip_proto::uri::Uri::parse(&binding.aor).ok().and_then(|uri| uri.sip());
            let user = user.and_then(|uri| Some(uri.user_unescaped()?.into_owned())).unwrap_or_default();
            let Some(agent) = self.config.agents.get(&(domain.domain.clone(), user)) else { continue };
            let held = policies(agent, &domain);
            let who = policy_principal(&principal);
            let may = held.visible(who) && held.mcp_denied_for_all().is_none() && held.nothing_left(who).is_none();
            let offered = |name: &&String| {
                let hash = self.capability_key(domain.tenant, name).hash;
                let tool = name.split_once('@').map_or(name.as_str(), |(tool, _)| tool);
                binding.capabilities.contains(&hash)
                    && (name.contains(':') || shown_alike(agent, &domain, &principal, tool))
            };
            let Ok(contact) = sip_proto::header::NameAddr::parse(&binding.contact) else { continue };
            let Some(score) = wanted.score(&contact) else { continue };
            if may && agent.backend.is_sip_contact() && capabilities.iter().any(|name| offered(&name)) {
                let rank = (1000 - contact.q().unwrap_or(1000).min(1000), 1000 - score.min(1000));
                let aors = by_rank.entry(rank).or_default();
                if !aors.contains(&binding.aor) {
                    aors.push(binding.aor.clone());
                }
            }
        }
        // Nobody, and nobody whom this caller may see, look alike.
        let Some(mut aors) = by_rank.into_values().next() else { return Err(Answer::new(404)) };
        aors.sort_unstable();
        let count = u64::try_from(aors.len()).unwrap_or(1);
        let pick = usize::try_from(self.random.below(count)).unwrap_or(0);
        let aor = aors.swap_remove(pick);
        let user = sip_proto::uri::Uri::parse(&aor).ok().and_then(|uri| uri.sip());
        let user = user.and_then(|uri| Some(uri.user_unescaped()?.into_owned())).unwrap_or_default();
        let agent = self.agent_at(&domain.domain, &user).ok_or_else(|| Answer::new(404))?;
        Ok((aor, agent))
    }
}

fn shown_alike(
    agent: &AgentConfig,
    domain: &crate::config::DomainConfig,
    principal: &crate::engine::Principal,
    tool: &str,
) -> bool {
    // Names in capabilities are compared without regard to case, those in policies are not: the declared spelling decides.
    let declared = agent.capabilities.tools.iter().find(|t| t.name.eq_ignore_ascii_case(tool));
    shows(agent, domain, principal, declared.map_or(tool, |t| t.name.as_str()))
}
