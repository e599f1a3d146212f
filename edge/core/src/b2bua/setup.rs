//! A call to a registered agent, from its INVITE to its final answer (sip.md, section 7): the guard, the bindings, the legs in the guard
//! before any INVITE leaves, then one winner.

mod ended;
mod found;

use std::collections::VecDeque;
use std::sync::Arc;

use session_store::key::{DialogKey, GuardKey};
use session_store::op::{StoreError, StoreOp, StoreReply};
use session_store::record::Binding;
use sip_proto::dialog::{DialogState, Phase};
use sip_proto::message::{HeaderId, Message};
use sip_proto::preferences::Preferences;
use sip_proto::session_timer::{SessionExpires, SessionTimer};

use super::Step;
use super::answer::Accepted;
use super::bodies::{Parts, Passed};
use super::legs::BridgeLeg;
use super::policy::Offer;
use super::targets::Ways;
use crate::answer::Answer;
use crate::call::LEASE_MS;
use crate::call::plan::negotiate_timer;
use crate::config::AgentConfig;
use crate::gate::{Caller, canonical};
use crate::gruu::Named;
use crate::negotiate::option_tags;
use crate::request::Request;
use crate::router::Callee;
use crate::state::EdgeState;
use crate::text::shown;
use crate::timers::TimerKey;
use crate::transactions::{InviteProgress, RING_MS};

/// Agents that are found by one capability.
pub(super) const MAX_FOUND: usize = 64;

/// Where a call stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Opening,
    Trying,
    /// This leg accepted; the records are being written.
    Answering(usize),
}

/// A call that is being set up.
#[derive(Debug)]
pub(super) struct Setup {
    pub request: Request,
    pub caller: Caller,
    pub agent: Arc<AgentConfig>,
    /// What is called: the AOR, as From and To say it.
    pub callee: String,
    pub guard: GuardKey,
    pub dialog: DialogKey,
    pub parts: Parts,
    pub offer: Offer,
    /// The caller's session timer, as the 2xx says it.
    pub timer: (SessionTimer, SessionExpires, bool),
    pub stage: Stage,
    pub legs: Vec<BridgeLeg>,
    pub accepted: Option<Accepted>,
    /// The description that the caller got in a provisional response.
    pub given: Option<Passed>,
    named: Option<Named>,
    wanted: Preferences,
    /// By capability: any of these names, until the agent is chosen.
    capabilities: Vec<String>,
    asking: usize,
    found: Vec<Binding>,
    failed: Option<StoreError>,
    opened: bool,
    groups: VecDeque<Vec<Ways>>,
    best: Option<(u16, Option<Message>)>,
    /// An early dialog is in the store.
    pub early: bool,
}

/// What is known of a call before the store is asked.
struct Prepared {
    agent: Arc<AgentConfig>,
    capabilities: Vec<String>,
    named: Option<Named>,
    parts: Parts,
    offer: Offer,
    timer: (SessionTimer, SessionExpires, bool),
}

impl EdgeState {
    /// An INVITE to an address that is no declared agent of ours: to its bindings. No server transaction is open yet; `merged` is its
    /// merge key.
    pub(crate) fn bridge_call(
        &mut self,
        request: &Request,
        caller: Caller,
        callee: &Callee,
        merged: [u8; 16],
    ) -> Result<(), Answer> {
        self.check_places(&caller)?;
        let prepared = self.prepare(request, &caller, callee)?;
        self.check_agent(&prepared.agent)?;
        let message = &request.message;
        let tenant = caller.domain.tenant;
        let from_tag = message.from_tag().unwrap_or_default().to_ascii_lowercase();
        let slot = self.slot(tenant, message.call_id(), &from_tag);
        let guard = self.guard_key(request, tenant, slot);
        let dialog = DialogKey { slot, tenant, id: self.random.bytes() };
        let mut request = request.clone();
        let Some(id) = self.open_server(&request.flow, &request.message, merged) else {
            self.stats.limit("serverTransactions");
            return Err(self.unavailable("Too Many Transactions"));
        };
        request.server = Some(id);
        self.servers.set_invite(id, InviteProgress { guard, opened: false, trying_due: false });
        let open = StoreOp::OpenCall {
            guard,
            dialog,
            invite: self.invite_to_store(&request, &caller),
            owner: self.owner,
            lease_ms: LEASE_MS,
            nonce: caller.nonce.clone(),
        };
        // Both at once: one round trip for the guard and the bindings.
        let call = self.ids.number();
        self.bridge_store(open, Step::Opened(call));
        self.begin_setup(call, request, caller, prepared, guard, dialog, false);
        Ok(())
    }

    /// The same for an INVITE that another edge left: its guard is ours, its transaction is open.
    pub(super) fn bridge_again(
        &mut self,
        request: &Request,
        caller: Caller,
        guard: GuardKey,
        dialog: DialogKey,
    ) -> Result<(), Answer> {
        self.check_places(&caller)?;
        let callee = self.callee_of(&request.message);
        let callee = self.visible(request, &caller, callee)?;
        if !callee.registers() {
            return Err(Answer::new(480));
        }
        let prepared = self.prepare(request, &caller, &callee)?;
        self.check_agent(&prepared.agent)?;
        let call = self.ids.number();
        self.begin_setup(call, request.clone(), caller, prepared, guard, dialog, true);
        Ok(())
    }

    /// Everything about an INVITE that can be refused before the store is asked.
    fn prepare(&mut self, request: &Request, caller: &Caller, callee: &Callee) -> Result<Prepared, Answer> {
        let message = &request.message;
        let domain = caller.domain.clone();
        let tags = option_tags(&domain);
        let known =
            |tag: &str| tags.is_mcp(tag) || ["timer", "gruu", "outbound"].iter().any(|t| t.eq_ignore_ascii_case(tag));
        let unknown: Vec<&str> = message.list_values(HeaderId::Require).filter(|tag| !known(tag)).collect();
        if !unknown.is_empty() {
            return Err(Answer::new(420).header(HeaderId::Unsupported, unknown.join(", ")));
        }
        DialogState::uas(message, "", Phase::Confirmed, false)
            .map_err(|error| Answer::new(400).phrase(&error.to_string()))?;
        let parts = Parts::read(message)?;
        if parts.largest() > self.body_limit(&domain) {
            self.stats.limit("sipBodyBytes");
            return Err(Answer::new(413));
        }
        if let Some(sdp) = &parts.sdp {
            sip_proto::sdp::parse(sdp).map_err(|error| crate::call::plan::sdp_refusal(&error, &domain))?;
        }
        let timer = negotiate_timer(message, None)?;
        let (agent, named) = self.called(message, callee, &domain.domain)?;
        let (capabilities, offer) = match callee {
            Callee::Offers(names) => (names.clone(), Offer::default()),
            Callee::Agent(_) | Callee::User => (Vec::new(), self.judge_offer(request, caller, &agent, &parts)?),
        };
        Ok(Prepared { agent, capabilities, named, parts, offer, timer })
    }

    #[allow(clippy::too_many_arguments, reason = "one call is these facts")]
    fn begin_setup(
        &mut self,
        call: u64,
        request: Request,
        caller: Caller,
        prepared: Prepared,
        guard: GuardKey,
        dialog: DialogKey,
        opened: bool,
    ) {
        let Prepared { agent, capabilities, named, parts, offer, timer } = prepared;
        let tenant = caller.domain.tenant;
        let wanted = Preferences::of(&request.message);
        let setup = Setup {
            callee: address(&agent),
            request,
            caller,
            agent,
            guard,
            dialog,
            parts,
            offer,
            timer,
            stage: Stage::Opening,
            legs: Vec::new(),
            accepted: None,
            given: None,
            named,
            wanted,
            asking: capabilities.len().max(1),
            capabilities,
            found: Vec::new(),
            failed: None,
            opened,
            groups: VecDeque::new(),
            best: None,
            early: false,
        };
        self.opening += 1;
        if setup.capabilities.is_empty() {
            let aor = self.aor_key(tenant, &setup.callee);
            self.bridge_store(StoreOp::ReadBindings { aor }, Step::Bindings(call));
        } else {
            for name in &setup.capabilities {
                let capability = self.capability_key(tenant, name);
                self.bridge_store(StoreOp::FindCapability { capability, limit: MAX_FOUND }, Step::Capable(call));
            }
        }
        if let Some(earlier) = self.bridges.by_guard.get(&guard).copied() {
            // Our own remains, adopted again: what the legs of the earlier try say decides nothing any more.
            self.cancel_ringing(earlier, None);
            self.setup_over(earlier);
        }
        self.bridges.by_guard.insert(guard, call);
        self.bridges.calls.insert(call, setup);
        self.timers.arm(TimerKey::Bridge(call), Some(self.now.mono.plus_millis(RING_MS)));
    }

    /// Whether there is a place for another call.
    fn check_places(&mut self, caller: &Caller) -> Result<(), Answer> {
        if self.is_full() {
            self.stats.limit("sessionsPerPod");
            return Err(self.unavailable("Full"));
        }
        self.check_domain(&caller.domain)
    }

    /// Whether the caller still waits for its final answer.
    pub(super) fn is_waiting(&self, request: &Request) -> bool {
        request.server.and_then(|id| self.servers.get(id)).is_some_and(|entry| entry.is_proceeding_invite())
    }

    /// Forgets a call that needs nothing more; its legs' transactions end by themselves.
    pub(super) fn setup_over(&mut self, call: u64) -> Option<Setup> {
        let setup = self.bridges.calls.remove(&call)?;
        if self.bridges.by_guard.get(&setup.guard) == Some(&call) {
            self.bridges.by_guard.remove(&setup.guard);
        }
        self.timers.arm(TimerKey::Bridge(call), None);
        self.opening = self.opening.saturating_sub(1);
        Some(setup)
    }

    pub(super) fn setup_opened(&mut self, call: u64, reply: Result<StoreReply, StoreError>) {
        let Some(setup) = self.bridges.calls.get_mut(&call) else { return };
        let (request, caller) = (setup.request.clone(), setup.caller.clone());
        match reply {
            Ok(StoreReply::CallOpened) => {}
            Ok(StoreReply::CallAdopted { dialog, invite, legs }) => {
                // The same INVITE was begun by an edge that is gone: the same dialog id gives the same tag, and its legs ring no longer.
                setup.dialog = dialog;
                if let Some(restored) = self.restored_invite(&invite) {
                    self.cancel_legs(&legs, &restored.message);
                }
            }
            other => {
                self.setup_over(call);
                match other {
                    Ok(StoreReply::CallKnown { state, .. }) => return self.call_known(&request, state),
                    Ok(StoreReply::NonceReplayed) => {
                        self.stats.failed_authentications += 1;
                        let answer = self.challenge(&caller.domain, true);
                        return self.answer_waiting(&request, &answer);
                    }
                    _ => {
                        let answer = self.unavailable("Store Unavailable");
                        return self.answer_waiting(&request, &answer);
                    }
                }
            }
        }
        self.authenticated(&request, &caller);
        if let Some(id) = request.server {
            self.invite_opened(id);
        }
        if let Some(setup) = self.bridges.calls.get_mut(&call) {
            setup.opened = true;
        }
        self.setup_ready(call);
    }

    pub(crate) fn answer_waiting(&mut self, request: &Request, answer: &Answer) {
        if self.is_waiting(request) {
            self.answer(request, answer);
        }
    }

    pub(super) fn setup_bindings(&mut self, call: u64, reply: Result<StoreReply, StoreError>) {
        let Some(setup) = self.bridges.calls.get_mut(&call) else { return };
        setup.asking -= 1;
        match reply {
            Ok(StoreReply::Bindings(bindings)) => setup.found = bindings,
            Ok(_) => {}
            Err(error) => setup.failed = Some(error),
        }
        self.setup_ready(call);
    }

    /// The guard stands and the bindings are known: off it goes.
    fn setup_ready(&mut self, call: u64) {
        let Some(setup) = self.bridges.calls.get(&call) else { return };
        if !setup.opened || setup.asking > 0 {
            return;
        }
        if !self.is_waiting(&setup.request) {
            // A CANCEL was faster. The guard learns it, so that nobody takes this INVITE up later.
            return self.setup_refused(call, &Answer::new(487));
        }
        if setup.failed.is_some() {
            let answer = self.unavailable("Store Unavailable");
            return self.setup_refused(call, &answer);
        }
        if !setup.capabilities.is_empty()
            && let Err(answer) = self.choose_agent(call)
        {
            return self.setup_refused(call, &answer);
        }
        let Some(setup) = self.bridges.calls.get(&call) else { return };
        let groups = self.targets(&setup.found, &setup.wanted, setup.named.as_ref());
        if let Some(setup) = self.bridges.calls.get_mut(&call) {
            setup.groups = groups;
            setup.stage = Stage::Trying;
        }
        self.next_group(call);
    }

    /// The next group of targets, or the end.
    pub(super) fn next_group(&mut self, call: u64) {
        let Some(setup) = self.bridges.calls.get_mut(&call) else { return };
        let Some(group) = setup.groups.pop_front() else { return self.setup_exhausted(call) };
        for ways in group {
            self.add_leg(call, ways);
        }
        self.place_legs(call);
    }

    /// Writes all legs into the guard; what is new leaves after it.
    pub(super) fn place_legs(&mut self, call: u64) {
        let Some(setup) = self.bridges.calls.get(&call) else { return };
        let legs = setup.legs.iter().map(|leg| leg.placed.clone()).collect();
        let operation = StoreOp::PlaceLegs { guard: setup.guard, owner: self.owner, legs };
        self.bridge_store(operation, Step::Placed(call));
    }

    pub(super) fn setup_placed(&mut self, call: u64, reply: Result<StoreReply, StoreError>) {
        match reply {
            Ok(StoreReply::Done) => {
                let Some(setup) = self.bridges.calls.get(&call) else { return };
                if !self.is_waiting(&setup.request) {
                    return self.setup_cancelled(call);
                }
                let count = setup.legs.len();
                for index in 0..count {
                    self.send_leg(call, index);
                }
            }
            // Somebody else has this call now, and answers it.
            Ok(StoreReply::Fenced) => {
                if let Some(setup) = self.setup_over(call) {
                    self.forget_server(setup.request.server);
                    self.stats.drop_one("fenced");
                }
            }
            Ok(StoreReply::CallCancelled) => {
                let Some(request) = self.bridges.calls.get(&call).map(|setup| setup.request.clone()) else { return };
                self.answer_waiting(&request, &Answer::new(487));
                self.setup_cancelled(call);
            }
            Ok(_) | Err(_) => {
                let answer = self.unavailable("Store Unavailable");
                self.cancel_ringing(call, None);
                self.setup_refused(call, &answer);
            }
        }
    }
}

/// The canonical address of record of an agent.
pub(crate) fn address(agent: &AgentConfig) -> String {
    let text = format!("sip:{}@{}", escaped_user(&agent.user), agent.domain);
    let parsed = sip_proto::uri::Uri::parse(&text).ok().and_then(|uri| uri.sip()).map(|uri| canonical(&uri.aor()));
    parsed.unwrap_or_else(|| shown(&text))
}

/// A user part with what may not stand in one escaped (RFC 3261 §25.1).
fn escaped_user(user: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/".contains(&b);
    user.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
