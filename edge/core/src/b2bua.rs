//! Between two legs: calls to agents that register themselves (sip.md, section 2). One leg is a dialog with the caller, where we are the
//! UAS; the other one with the registered agent, where we are the UAC. Both stand in the store and name each other, so that any edge
//! serves a request of either side: nothing here outlives one transaction, but for the timers of the owner ([`crate::dialogs`]).
//!
//! What other parts hand over comes in here; [`DialogToken::bridged`](crate::token::DialogToken) in our tag says that a dialog has
//! another leg.

pub(crate) mod acks;
mod answer;
mod bodies;
mod copied;
mod ended;
pub(crate) mod legs;
mod metered;
pub(crate) mod paged;
mod policy;
pub(crate) mod reach;
pub(crate) mod relay;
pub(crate) mod relayed;
mod setup;
mod stray;
mod targets;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use session_store::key::{DialogKey, GuardKey};
use session_store::op::{StoreError, StoreReply};
use session_store::record::{CallLeg, DialogRecord};
use sip_proto::message::{Message, Transportation};

use crate::answer::Answer;
use crate::config::{AgentBackend, AgentConfig, Capabilities, Failovers, RegistrationProfile, SessionLimits};
use crate::dialogs::HangUp;
use crate::gruu::Named;
use crate::router::Callee;
use crate::state::EdgeState;
use acks::{AckWait, PendingAck};
use reach::Parked;
use relay::Relay;
use setup::Setup;

pub(crate) use setup::address;

/// Members of a record's `extra`: whose registration leads to the peer, and which instance of it.
pub(crate) const PEER_AOR: &str = "peer.aor";
pub(crate) const PEER_INSTANCE: &str = "peer.instance";
/// The contact that a GRUU in the remote target stands for.
const PEER_CONTACT: &str = "peer.contact";
/// Our INVITE in this dialog had no offer: its ACK has the answer.
const LATE_OFFER: &str = "late.offer";
/// CSeq of an INVITE of ours on the *other* leg whose ACK waits for the ACK on this one.
const OWED_ACK: &str = "owed.ack";

/// What is under way between legs on this core.
#[derive(Debug, Default)]
pub(crate) struct Bridges {
    calls: BTreeMap<u64, Setup>,
    by_guard: BTreeMap<GuardKey, u64>,
    /// Requests out of a dialog that are passed on; each has a server transaction.
    pages: BTreeMap<u64, paged::Paged>,
    /// Requests that wait for their peer to register again; at most [`reach::MAX_PARKED`].
    parked: BTreeMap<u64, Parked>,
    /// By the dialog whose ACK we wait for; ends with the client transaction of the INVITE (Timer M).
    acks: BTreeMap<DialogKey, PendingAck>,
    /// Dialogs whose peer changes the session, and dialogs in which we do, because the other side does.
    changing: BTreeSet<DialogKey>,
    asked: BTreeSet<DialogKey>,
    /// Dialogs whose BYE of ours is on its way; each ends with its tombstone.
    leaving: BTreeSet<DialogKey>,
    /// Dialogs whose BYE waits here: for the ACK that another edge has to hear, or for the store. At most
    /// [`reach::MAX_PARKED`].
    staying: BTreeMap<u64, DialogKey>,
}

impl Bridges {
    /// Calls to this agent (namespace/name) that are being set up.
    pub fn setups_with(&self, agent: &str) -> usize {
        self.calls.values().filter(|setup| setup.agent.key == agent).count()
    }

    /// Calls to agents of this domain that are being set up.
    pub fn setups_in(&self, domain: &str) -> usize {
        self.calls.values().filter(|setup| setup.caller.domain.domain == domain).count()
    }

    /// Calls, requests and ACKs that are not done.
    pub fn len(&self) -> usize {
        self.calls.len()
            + self.pages.len()
            + self.parked.len()
            + self.acks.len()
            + self.changing.len()
            + self.leaving.len()
            + self.staying.len()
    }
}

/// What goes on when a store operation of a bridge is answered.
#[derive(Debug)]
pub(crate) enum Step {
    Opened(u64),
    Bindings(u64),
    Capable(u64),
    Paged(u64),
    Placed(u64),
    /// An early dialog: the bytes of the provisional response.
    Early(u64, u16, bytes::Bytes),
    Answered(u64),
    /// Whether it was is not known.
    TakenBack(Box<answer::Doubt>),
    Doubted(Box<answer::Doubt>),
    /// In a dialog.
    Begun(Box<Relay>),
    Cseq(Box<Relay>),
    Committed(Box<Relay>),
    PeerChanged(Box<Relay>),
    /// An ACK that arrived on an edge that had nothing of its INVITE.
    AckHere(Box<AckWait>),
    AckPeer(Box<AckWait>),
    /// A 2xx for which nobody here waits: is there a dialog?
    Stray(Box<stray::Stray>),
    /// Bindings of a peer whose flow is gone.
    Reach(Box<reach::Reach>),
    /// The other leg's BYE.
    HangUp(HangUp),
    /// An error of ours to a message that policy refused.
    Refusal(Box<relayed::Refusal>),
}

impl EdgeState {
    pub(crate) fn bridge_resume(&mut self, step: Step, reply: Result<StoreReply, StoreError>) {
        match step {
            Step::Opened(call) => self.setup_opened(call, reply),
            Step::Bindings(call) => self.setup_bindings(call, reply),
            Step::Capable(call) => self.setup_capable(call, reply),
            Step::Paged(page) => self.page_told(page, reply),
            Step::Placed(call) => self.setup_placed(call, reply),
            Step::Early(call, status, bytes) => self.setup_early(call, status, bytes, reply),
            Step::Answered(call) => self.setup_answered(call, reply),
            Step::TakenBack(doubt) => self.setup_taken_back(*doubt, &reply),
            Step::Doubted(doubt) => self.setup_doubted(&doubt, &reply),
            Step::Begun(relay) => self.relay_begun(*relay, reply),
            Step::Cseq(relay) => self.relay_cseq(*relay, reply),
            Step::Committed(relay) => self.relay_committed(*relay, reply),
            Step::PeerChanged(relay) => self.relay_peer_changed(*relay, reply),
            Step::AckHere(wait) => self.owed_here(*wait, reply),
            Step::AckPeer(wait) => self.ack_peer(*wait, reply),
            Step::Stray(stray) => self.stray_read(&stray, reply),
            Step::Reach(reach) => self.reach_bindings(*reach, reply),
            Step::HangUp(hang_up) => self.bridge_bye(hang_up, reply),
            Step::Refusal(refusal) => self.refusal_cseq(*refusal, reply),
        }
    }

    /// Whom a request out of a dialog means: the agent at its Request-URI, and which of its bindings where that is a GRUU (RFC 5627). By
    /// capability it is nobody yet: who it is will be found.
    ///
    /// # Errors
    /// 404 where nobody can have that address.
    fn called(
        &self,
        message: &Message,
        callee: &Callee,
        domain: &str,
    ) -> Result<(Arc<AgentConfig>, Option<Named>), Answer> {
        let uri = sip_proto::uri::Uri::parse(message.request_uri().unwrap_or_default()).ok().and_then(|uri| uri.sip());
        let named = uri.as_ref().and_then(|uri| self.gruu(uri).ok().flatten());
        let user = match (&named, &uri) {
            (Some(named), _) => named.user.clone(),
            (None, Some(uri)) => uri.user_unescaped().unwrap_or_default().into_owned(),
            (None, None) => String::new(),
        };
        let agent = match callee {
            Callee::Agent(agent) => Some(agent.clone()),
            Callee::User | Callee::Offers(_) => self.agent_at(domain, &user),
        };
        Ok((agent.ok_or_else(|| Answer::new(404))?, named))
    }

    /// The agent at an address; a user of the domain counts as one that registers and declares nothing.
    pub(crate) fn agent_at(&self, domain: &str, user: &str) -> Option<Arc<AgentConfig>> {
        if let Some(agent) = self.config.agents.get(&(domain.to_owned(), user.to_owned())) {
            return Some(agent.clone());
        }
        let known = self.config.domains.get(domain)?;
        Some(Arc::new(AgentConfig {
            key: format!("{}/{user}", known.domain),
            user: user.to_owned(),
            domain: known.domain.clone(),
            backend: AgentBackend::SipContact { by_certificate: false },
            capabilities: Capabilities::default(),
            registration: RegistrationProfile { min: 1800, max: 7200, default: 3600, jitter: false },
            policies: Vec::new(),
            timeout_ms: 0,
            on_failover: Failovers::default(),
            session: SessionLimits::default(),
        }))
    }

    /// The agent of a record, also where it is a user that registered.
    pub(crate) fn agent_of(&self, record: &DialogRecord) -> Option<Arc<AgentConfig>> {
        if record.peer.is_some() {
            return self.agent_at(&record.domain, &record.agent_user);
        }
        self.config.agents.get(&(record.domain.clone(), record.agent_user.clone())).cloned()
    }

    /// The guard is cancelled, and the INVITE has its 487: the legs that were opened for it. `invite`: as the guard has it.
    pub(crate) fn bridge_cancel(&mut self, guard: GuardKey, legs: &[CallLeg], invite: &bytes::Bytes) {
        if let Some(call) = self.bridges.by_guard.get(&guard).copied() {
            return self.setup_cancelled(call);
        }
        if legs.is_empty() {
            return;
        }
        let message = match self.restored_invite(invite) {
            Some(restored) => restored.message,
            None => match Message::parse(invite.clone(), Transportation::Stream) {
                Ok(message) => message,
                Err(_) => return self.stats.drop_one("unreadable INVITE in a guard"),
            },
        };
        self.cancel_legs(legs, &message);
    }

    pub(crate) fn bridge_store(&mut self, operation: session_store::op::StoreOp, step: Step) {
        self.store(operation, crate::waiting::Waiting::Bridge(Box::new(step)));
    }

    pub(crate) fn bridge_timeout(&mut self, id: u64) {
        if self.bridges.calls.contains_key(&id) {
            self.setup_timeout(id);
        } else if self.bridges.parked.contains_key(&id) {
            self.parked_timeout(id);
        } else if !self.stayed(id) {
            self.cancel_client(id);
        }
    }
}
