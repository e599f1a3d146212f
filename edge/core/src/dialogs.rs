//! Dialogs as this edge keeps them: what is continuous (retransmission of a 2xx, session timers), and what it saw of the record last.
//! The store has them all, so that every edge serves every dialog. Only the owner of a record runs its timers, and only while it has its
//! lease; an entry of somebody else's dialog is a copy, looked at again when its time is over. An entry ends with its dialog, or with its
//! session timer.

use std::sync::Arc;

use bytes::Bytes;
use mcp_sip::envelope::Negotiation;
use mcp_sip::policy::{Arguments, Request as Question};
use session_store::key::DialogKey;
use session_store::op::{Fence, StoreError, StoreOp, StoreReply};
use session_store::record::{DialogPhase, DialogRecord, Owner, SessionTimerRecord};
use sip_proto::dialog::{DialogState, Phase, Role};
use sip_proto::message::HeaderId;
use sip_proto::session_timer::SessionTimer;
use sip_proto::time::{Mono, Now, UnixMillis};
use sip_proto::timer::TimerValues;

use crate::answer::Answer;
use crate::audit::{AuditKind, AuditRecord, Outcome as AuditOutcome};
use crate::config::{AgentConfig, DomainConfig};
use crate::effect::Effect;
use crate::engine::{Closing, Leg, LegKey};
use crate::gate::{policies, policy_principal};
use crate::input::{Flow, FlowKey};
use crate::locate::Located;
use crate::page::rule_name;
use crate::purpose::{Outcome, Purpose};
use crate::state::{EdgeState, MAX_WAITING};
use crate::text::shown;
use crate::timers::TimerKey;
use crate::transactions::{ReplyTo, Target};
use crate::waiting::Waiting;

/// A 2xx that is repeated until its ACK (RFC 3261 §13.3.1.4: on every transport).
#[derive(Debug)]
pub(crate) struct Accept {
    pub bytes: Bytes,
    /// `None` while the way is being looked for.
    pub way: Option<Way>,
    interval_ms: u64,
    next: Mono,
    until: Mono,
}

/// Where a 2xx goes.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    /// As its INVITE says.
    Reply(ReplyTo),
    /// Where the peer is reached now.
    Peer(Target),
}

impl Accept {
    pub fn new(bytes: Bytes, reply_to: ReplyTo, now: Mono) -> Accept {
        Accept::by(bytes, Some(Way::Reply(reply_to)), now)
    }

    pub fn by(bytes: Bytes, way: Option<Way>, now: Mono) -> Accept {
        let values = TimerValues::default();
        Accept {
            bytes,
            way,
            interval_ms: values.t1,
            next: now.plus_millis(values.t1),
            until: now.plus_millis(values.life()),
        }
    }
}

/// A session timer with its deadlines on the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunningTimer {
    pub timer: SessionTimer,
    refresh: Option<Mono>,
    bye: Mono,
}

impl RunningTimer {
    pub fn start(timer: SessionTimer, now: Now) -> RunningTimer {
        RunningTimer::since(timer, now.wall, now)
    }

    /// Of a record.
    pub fn of(record: &DialogRecord, now: Now) -> RunningTimer {
        // Every record of ours has one; without it nothing would ever end the entry.
        let known = record.session_timer.unwrap_or(SessionTimerRecord {
            interval_s: 1800,
            we_refresh: false,
            expires_at: record.created_at + 1_800_000,
        });
        let began = known.expires_at.saturating_sub(u64::from(known.interval_s) * 1000);
        let timer = SessionTimer { interval: known.interval_s, we_refresh: known.we_refresh };
        RunningTimer::since(timer, UnixMillis(began), now)
    }

    /// Of a refresh in the past.
    pub fn since(timer: SessionTimer, began: UnixMillis, now: Now) -> RunningTimer {
        let deadlines = timer.deadlines(began);
        let mono = |at: UnixMillis| now.mono.plus_millis(at.0.saturating_sub(now.wall.0));
        RunningTimer { timer, refresh: deadlines.refresh.map(mono), bye: mono(deadlines.bye) }
    }

    /// No further try: the session ends when its time is over.
    pub fn give_up(&mut self) {
        self.refresh = None;
    }

    /// Try again after `millis`.
    pub fn retry_after(&mut self, now: Mono, millis: u64) {
        self.refresh = Some(now.plus_millis(millis));
    }
}

/// What is continuous of one dialog.
#[derive(Debug)]
pub(crate) struct LocalDialog {
    pub leg: Arc<Leg>,
    /// The record as it was seen last, and its version.
    pub record: Box<DialogRecord>,
    pub version: u64,
    /// Somebody else's dialog: when its record is looked at again.
    kept_until: Mono,
    /// Nothing is tried again before.
    not_before: Option<Mono>,
    /// The store did not have it then.
    pub missed_at: Option<Mono>,
    /// The flow that the peer used last.
    pub flow: Arc<Flow>,
    pub accept: Option<Accept>,
    pub timer: Option<RunningTimer>,
    /// A re-INVITE or UPDATE of the peer is being served.
    pub changing: bool,
    /// A request of ours that changes the session is under way.
    pub refreshing: bool,
    /// The peer serves UPDATE (RFC 3311).
    pub peer_updates: bool,
    /// A BYE of ours is under way.
    pub ending: bool,
    /// The other leg has ended: BYE follows the ACK, or the end of the wait for it.
    pub leaves: bool,
    /// It had to wait for a lease, or for the store.
    pub put_off: Option<HangUp>,
    /// The envelope that we offered in the 2xx, until the ACK answers it.
    pub late_offer: Option<Negotiation>,
    pub started: Now,
}

impl LocalDialog {
    /// Of a record; what runs of it depends on its owner.
    pub fn of_record(leg: Arc<Leg>, version: u64, flow: Arc<Flow>, record: Box<DialogRecord>, now: Now) -> LocalDialog {
        LocalDialog {
            leg,
            timer: Some(RunningTimer::of(&record, now)),
            kept_until: now.mono.plus_millis(record_ttl_ms(record.session_timer.as_ref())),
            record,
            version,
            not_before: None,
            missed_at: None,
            flow,
            accept: None,
            changing: false,
            refreshing: false,
            peer_updates: false,
            ending: false,
            leaves: false,
            put_off: None,
            late_offer: None,
            started: now,
        }
    }

    /// The record as the store has it now.
    pub fn take(&mut self, version: u64, record: Box<DialogRecord>, now: Now) {
        if record.session_timer != self.record.session_timer {
            self.timer = Some(RunningTimer::of(&record, now));
        }
        let heard = match record.phase {
            DialogPhase::Confirmed => true,
            // The ACK was noted before the end was.
            DialogPhase::Terminating => record.accept_bytes.is_none(),
            DialogPhase::Early | DialogPhase::Accepted | DialogPhase::Terminated => false,
        };
        if self.record.phase == DialogPhase::Accepted && heard {
            self.accept = None;
        }
        self.kept_until = now.mono.plus_millis(record_ttl_ms(record.session_timer.as_ref()));
        self.record = record;
        self.version = version;
        self.missed_at = None;
    }

    /// The store does not answer: try again in a moment.
    pub fn again_after(&mut self, now: Mono, millis: u64) {
        self.not_before = Some(now.plus_millis(millis));
    }

    fn next(&self, owner: Owner) -> Option<Mono> {
        if self.record.owner != owner {
            return Some(self.not_before.unwrap_or(self.kept_until));
        }
        if self.put_off.is_some() && !self.ending {
            return self.not_before;
        }
        let accept = self.accept.as_ref().filter(|_| !self.ending).map(|a| a.next.min(a.until));
        let timer = self.timer.filter(|_| !self.ending);
        let refresh = timer.and_then(|t| t.refresh).filter(|_| !self.refreshing);
        let next = [accept, refresh, timer.map(|t| t.bye)].into_iter().flatten().min()?;
        Some(self.not_before.map_or(next, |wait| next.max(wait)))
    }
}

/// A BYE of ours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HangUp {
    pub dialog: DialogKey,
    /// Reason header (RFC 3326).
    pub reason: &'static str,
    pub closing: Closing,
    /// A timer's action, or one of the owner alone: what it was decided on.
    pub fence: Option<Fence>,
}

/// Life of a record: 1.5 × Session-Expires, at most 2 h (sip.md, section 6).
pub(crate) fn record_ttl_ms(timer: Option<&SessionTimerRecord>) -> u64 {
    let seconds = timer.map_or(1800, |t| t.interval_s);
    (u64::from(seconds) * 1500).min(2 * 3600 * 1000)
}

/// The dialog as RFC 3261 §12 sees it.
pub(crate) fn dialog_state(record: &DialogRecord) -> DialogState {
    DialogState {
        call_id: record.call_id.clone(),
        local_tag: record.local_tag.clone(),
        remote_tag: record.remote_tag.clone(),
        local_uri: record.local_uri.clone(),
        remote_uri: record.remote_uri.clone(),
        remote_target: record.remote_target.clone(),
        route_set: record.route_set.clone(),
        local_cseq: record.cseq_out,
        remote_cseq: record.cseq_in,
        invite_cseq: record.cseq_in.unwrap_or(0),
        secure: record.secure,
        role: Role::Uas,
        phase: Phase::Confirmed,
    }
}

/// A timer that found the store away, or no lease, looks again so soon.
const RETRY_MS: u64 = 500;
const FENCED_MS: u64 = 500;
/// A copy whose record could not be read.
const LOOK_AGAIN_MS: u64 = 30_000;

/// Waits between the tries of a tombstone: doubling, and no more than so many.
const BURIAL_FIRST_MS: u64 = 100;
const BURIAL_LAST_MS: u64 = 8_000;
const BURIAL_TRIES: u32 = 14;

impl EdgeState {
    /// Keeps what the store said of a dialog: its record, who owns it, and so whose timers it has.
    pub(crate) fn keep(&mut self, dialog: DialogKey, version: u64, record: Box<DialogRecord>) {
        let now = self.now;
        let Some(old) = self.dialogs.get(&dialog) else { return };
        let leg = (old.record.mcp != record.mcp).then(|| {
            let datagram = old.leg.plain_datagram;
            self.leg_of(dialog, &record, datagram)
        });
        let Some(local) = self.dialogs.get_mut(&dialog) else { return };
        local.take(version, record, now);
        if let Some(Some(leg)) = leg {
            local.leg = leg;
        }
        self.settle_owner(dialog);
        self.leave_acknowledged(dialog);
    }

    /// Keeps a dialog that this edge did not have. Above the limit it is served from the store each time.
    pub(crate) fn keep_new(&mut self, dialog: DialogKey, local: LocalDialog) {
        let is_mine = local.record.owner == self.owner;
        let limit = self.config.edge.limits.sessions_per_pod.div_ceil(usize::from(self.shard.count.max(1)));
        if !is_mine && self.foreign.len() >= limit && !self.dialogs.contains_key(&dialog) {
            return self.stats.limit("copiesOfDialogs");
        }
        if local.accept.is_none() {
            self.dialogs.entry(dialog).or_insert(local);
        } else if let Some(early) = self.dialogs.insert(dialog, local)
            && let FlowKey::Stream(conn) = early.flow.key
        {
            // Its early dialog was adopted; the 2xx that is repeated from now on is what counts.
            self.flows.unbind(conn, dialog);
        }
        self.settle_owner(dialog);
    }

    /// Whose it is decides what its timer is for, and whether its connection ends it.
    pub(crate) fn settle_owner(&mut self, dialog: DialogKey) {
        let Some(local) = self.dialogs.get(&dialog) else { return };
        let anonymous = local.leg.principal == crate::engine::Principal::Anonymous;
        let conn = match local.flow.key {
            FlowKey::Stream(conn) if anonymous => Some(conn),
            _ => None,
        };
        if local.record.owner == self.owner {
            self.foreign.remove(&dialog);
        } else {
            self.foreign.insert(dialog);
        }
        if let Some(conn) = conn {
            self.flows.bind(conn, dialog);
        }
        self.arm_dialog(dialog);
    }

    /// Somebody else serves its timers now: here it is a copy, and nothing is said.
    pub(crate) fn disown(&mut self, dialog: DialogKey) {
        self.stats.drop_one("fenced");
        if let Some(local) = self.dialogs.get_mut(&dialog) {
            local.record.owner = Owner::default();
            local.accept = None;
            local.refreshing = false;
            local.ending = false;
            local.leaves = false;
        }
        self.settle_owner(dialog);
    }

    /// A copy whose time is over: is the dialog still there?
    fn look_again(&mut self, dialog: DialogKey) {
        let now = self.now.mono;
        if let Some(local) = self.dialogs.get_mut(&dialog) {
            local.again_after(now, LOOK_AGAIN_MS);
            self.arm_dialog(dialog);
            self.store(StoreOp::ReadDialog { dialog }, Waiting::LookAgain(dialog));
        }
    }

    pub(crate) fn looked_again(&mut self, dialog: DialogKey, reply: Result<StoreReply, StoreError>) {
        match reply {
            Ok(StoreReply::Dialog { version, record }) => {
                if let Some(local) = self.dialogs.get_mut(&dialog) {
                    local.not_before = None;
                }
                self.keep(dialog, version, record);
            }
            Ok(StoreReply::Unknown) if self.may_come_back(dialog) => {}
            Ok(_) => self.end_dialog(dialog, Closing::Expired),
            Err(_) => {}
        }
    }

    /// Whether the flow that the peer used last is still there.
    pub(crate) fn has_flow(&self, dialog: DialogKey) -> bool {
        self.dialogs.get(&dialog).is_some_and(|local| match &local.flow.key {
            FlowKey::Stream(conn) => self.flows.contains(*conn),
            FlowKey::Datagram { .. } => true,
        })
    }

    /// Sets the dialog's timer to the earliest of what it waits for.
    pub(crate) fn arm_dialog(&mut self, dialog: DialogKey) {
        let next = self.dialogs.get(&dialog).and_then(|local| {
            let next = local.next(self.owner)?;
            let is_ours = local.record.owner == self.owner && !local.ending && local.not_before.is_none();
            let left_ms = self.last_moment(local).saturating_sub(self.now.wall.0);
            Some(if is_ours { next.min(self.now.mono.plus_millis(left_ms)) } else { next })
        });
        self.timers.arm(TimerKey::Dialog(dialog), next);
    }

    /// Longer than until then no dialog lasts, however often it is refreshed; wall-clock milliseconds.
    fn last_moment(&self, local: &LocalDialog) -> u64 {
        let longest_ms = self.config.ttl.absolute_ms;
        let longest_ms = local.leg.agent.session.max_duration_ms.map_or(longest_ms, |max| max.min(longest_ms));
        local.record.created_at.saturating_add(longest_ms)
    }

    /// Whether this life owns the dialog, so that its timers are ours.
    pub(crate) fn owns(&self, dialog: DialogKey) -> bool {
        self.dialogs.get(&dialog).is_some_and(|local| local.record.owner == self.owner)
    }

    /// What a timer's action is decided on.
    fn fence(&self, dialog: DialogKey) -> Option<Fence> {
        let version = self.dialogs.get(&dialog).map(|local| local.version);
        Some(Fence { owner: self.owner, version })
    }

    /// For an action of the owner alone, whatever the record says by now.
    pub(crate) fn own_fence(&self) -> Option<Fence> {
        Some(Fence { owner: self.owner, version: None })
    }

    pub(crate) fn dialog_timeout(&mut self, dialog: DialogKey) {
        let now = self.now.mono;
        if !self.owns(dialog) {
            return self.look_again(dialog);
        }
        if !self.may_act() {
            // Somebody else may have it: silence, until there is a lease again (sip.md, section 8, rule 2).
            if let Some(local) = self.dialogs.get_mut(&dialog) {
                local.again_after(now, FENCED_MS);
            }
            return self.arm_dialog(dialog);
        }
        let fence = self.fence(dialog);
        let own_fence = self.own_fence();
        let Some(local) = self.dialogs.get_mut(&dialog) else { return };
        local.not_before = None;
        if let Some(hang_up) = local.put_off.take() {
            self.hang_up(HangUp { fence: own_fence, ..hang_up });
            return self.arm_dialog(dialog);
        }
        if let Some(accept) = local.accept.as_mut().filter(|_| !local.ending) {
            if accept.until <= now {
                let reason = "SIP;cause=408;text=\"No ACK\"";
                self.hang_up(HangUp { dialog, reason, closing: Closing::Expired, fence });
            } else if accept.next <= now {
                accept.interval_ms = (accept.interval_ms * 2).min(TimerValues::default().t2);
                accept.next = now.plus_millis(accept.interval_ms);
                self.send_accept(dialog);
            }
        }
        let going = self.dialogs.get(&dialog).filter(|local| !local.ending);
        let is_over = going.is_some_and(|local| self.last_moment(local) <= self.now.wall.0);
        let timer = going.filter(|_| !is_over).and_then(|local| local.timer);
        if is_over {
            let reason = "SIP;cause=408;text=\"Longest duration reached\"";
            self.hang_up(HangUp { dialog, reason, closing: Closing::Expired, fence });
        }
        if let Some(timer) = timer {
            let refreshing = self.dialogs.get(&dialog).is_some_and(|local| local.refreshing);
            if timer.bye <= now {
                let reason = "SIP;cause=408;text=\"Session expired\"";
                self.hang_up(HangUp { dialog, reason, closing: Closing::Expired, fence });
            } else if !refreshing && timer.refresh.is_some_and(|at| at <= now) {
                self.refresh(dialog);
            }
        }
        self.arm_dialog(dialog);
    }

    /// Sends the 2xx, for the first time here or again.
    pub(crate) fn send_accept(&mut self, dialog: DialogKey) {
        let accept = self.dialogs.get(&dialog).and_then(|local| local.accept.as_ref());
        let Some((bytes, way)) = accept.map(|accept| (accept.bytes.clone(), accept.way.clone())) else { return };
        match way {
            Some(Way::Reply(reply_to)) => self.send_reply(&reply_to, bytes),
            Some(Way::Peer(target)) => self.send_to_target(&target, bytes, None),
            None => {}
        }
    }

    /// The ACK came.
    pub(crate) fn acknowledged(&mut self, dialog: DialogKey) {
        if let Some(local) = self.dialogs.get_mut(&dialog) {
            local.accept = None;
            if local.record.phase == DialogPhase::Accepted {
                local.record.phase = DialogPhase::Confirmed;
                local.record.accept_bytes = None;
            }
            self.arm_dialog(dialog);
        }
        self.leave_acknowledged(dialog);
    }

    /// Ends a dialog from our side: tombstone in state terminating, then BYE.
    pub(crate) fn hang_up(&mut self, hang_up: HangUp) {
        if let Some(local) = self.dialogs.get_mut(&hang_up.dialog) {
            if local.ending {
                return;
            }
            local.ending = true;
        }
        let HangUp { dialog, fence, .. } = hang_up;
        let operation = StoreOp::NextCseq { dialog, terminating: true, close: None, fence };
        self.store(operation, Waiting::HangUp(hang_up));
    }

    pub(crate) fn hang_up_written(&mut self, hang_up: HangUp, reply: Result<StoreReply, StoreError>) {
        let HangUp { dialog, closing, fence, .. } = hang_up;
        let (cseq, record) = match reply {
            Ok(StoreReply::Cseq { cseq, record, .. }) => (cseq, record),
            // Somebody changed it meanwhile: what it says now decides.
            Ok(StoreReply::Conflict { version, record }) => {
                if let Some(local) = self.dialogs.get_mut(&dialog) {
                    local.ending = false;
                }
                return self.keep(dialog, version, record);
            }
            Ok(StoreReply::Fenced) => return self.disown(dialog),
            // Asked again until the store answers: what a timer decided, when the timer is looked at next, what was ordered, as it is.
            // What nobody here holds ends here, and the peer by its own session timer.
            Err(_) => {
                let now = self.now.mono;
                let Some(local) = self.dialogs.get_mut(&dialog).filter(|_| fence.is_some()) else {
                    self.bury(dialog);
                    return self.end_dialog(dialog, closing);
                };
                local.ending = false;
                local.put_off = fence.is_some_and(|fence| fence.version.is_none()).then_some(hang_up);
                local.again_after(now, RETRY_MS);
                return self.arm_dialog(dialog);
            }
            Ok(StoreReply::Unknown) if self.may_come_back(dialog) => {
                if let Some(local) = self.dialogs.get_mut(&dialog) {
                    local.ending = false;
                }
                return self.arm_dialog(dialog);
            }
            Ok(_) => return self.end_dialog(dialog, closing),
        };
        if !self.bridge_hangs_up(dialog, &record) {
            return self.end_dialog(dialog, closing);
        }
        let then = Located::HangUp { hang_up, cseq, record: record.clone() };
        self.reach_dialog(dialog, &record, then);
    }

    pub(crate) fn send_bye(&mut self, hang_up: HangUp, cseq: u32, record: &DialogRecord, target: Option<Target>) {
        let HangUp { dialog, reason, closing, fence } = hang_up;
        if fence.is_some() && !self.may_act() {
            // Whoever adopts the dialog says it, or this edge once it has a lease again.
            let now = self.now.mono;
            if let Some(local) = self.dialogs.get_mut(&dialog) {
                local.ending = false;
                local.put_off = Some(hang_up);
                local.again_after(now, FENCED_MS);
            }
            return self.arm_dialog(dialog);
        }
        let sent = target.is_some_and(|target| {
            let branch = self.new_branch();
            let via = self.via(target.transport(), target.listener(), &branch);
            let session_id = self.session_id(&record.call_id, record.session_id.as_deref());
            let request = dialog_state(record)
                .request_with_cseq("BYE", cseq, &via)
                .header(HeaderId::Reason, reason)
                .header(HeaderId::SessionId, session_id);
            let bytes = request.build();
            self.send_request("BYE", &branch, bytes.clone(), target, Purpose::Bye { dialog, bytes }).is_ok()
        });
        if !sent {
            self.bury(dialog);
        }
        self.end_dialog(dialog, closing);
    }

    /// The tombstone: nothing more will come of this dialog. The end wins over an outage of the store: the write is tried again until
    /// it is taken, about a minute long (after that the record's own end does it).
    pub(crate) fn bury(&mut self, dialog: DialogKey) {
        self.bridge_buried(dialog);
        if self.is_degraded() {
            return self.later("BYE", dialog, StoreOp::Bury { dialog });
        }
        self.store(StoreOp::Bury { dialog }, Waiting::Bury(dialog));
    }

    /// The write that would have made these dialogs had no answer, and the peer hears a refusal: where it was executed, they get their
    /// tombstones. A call that somebody else has taken over since is left alone (sip.md, section 8, rule 9).
    pub(crate) fn undo_answer(&mut self, dialogs: &[DialogKey]) {
        for dialog in dialogs {
            let operation =
                StoreOp::NextCseq { dialog: *dialog, terminating: true, close: None, fence: self.own_fence() };
            self.store(operation, Waiting::AnswerUndone(*dialog));
        }
    }

    pub(crate) fn answer_undone(&mut self, dialog: DialogKey, reply: &Result<StoreReply, StoreError>) {
        match reply {
            Ok(StoreReply::Cseq { .. }) => self.bury(dialog),
            // It was never made, or is somebody else's. Without an answer: the record, if there is one, is adopted with this life's
            // remains, or ends by its time to live.
            Ok(_) | Err(_) => self.bridge_buried(dialog),
        }
    }

    pub(crate) fn buried(&mut self, dialog: DialogKey, reply: &Result<StoreReply, StoreError>) {
        let tries = self.burials.remove(&dialog).unwrap_or(0);
        if reply.is_ok() {
            return;
        }
        if tries >= BURIAL_TRIES || self.burials.len() >= MAX_WAITING {
            self.stats.limit("burials");
            return;
        }
        self.burials.insert(dialog, tries + 1);
        let wait = (BURIAL_FIRST_MS << tries).min(BURIAL_LAST_MS);
        self.timers.arm(TimerKey::Burial(dialog), Some(self.now.mono.plus_millis(wait)));
    }

    /// Forgets what was continuous, and tells the MCP half.
    pub(crate) fn end_dialog(&mut self, dialog: DialogKey, closing: Closing) {
        let Some(local) = self.dialogs.remove(&dialog) else { return };
        self.timers.arm(TimerKey::Dialog(dialog), None);
        self.foreign.remove(&dialog);
        if let FlowKey::Stream(conn) = local.flow.key {
            self.flows.unbind(conn, dialog);
        }
        let how = match closing {
            Closing::Bye => "bye",
            Closing::Expired => "expired",
            Closing::Local => "local",
        };
        *self.stats.ended.entry(how).or_default() += 1;
        let began = local.started.mono.0;
        let record = self.session_audit(&local.leg, AuditKind::SessionEnd, Some(self.now.mono.0.saturating_sub(began)));
        self.emit(Effect::Audit(record));
        let key = LegKey::Dialog(dialog);
        // Between two legs the MCP half has no part.
        if local.record.peer.is_none() {
            self.with_engine(|engine, ctx| engine.leg_closed(ctx, &key, closing));
        }
    }

    /// An audit record of a session's start or end.
    pub(crate) fn session_audit(&self, leg: &Leg, kind: AuditKind, duration_us: Option<u64>) -> AuditRecord {
        // The rule that shows this address to this caller: `initialize` needs no other.
        let question = Question::method(policy_principal(&leg.principal), "initialize", None, Arguments::Unknown);
        let rule = rule_name(&policies(&leg.agent, &leg.domain).evaluate(&question));
        AuditRecord {
            at: self.now.wall,
            kind,
            domain: leg.domain.domain.clone(),
            principal: shown(leg.principal.as_str()),
            agent: format!("sip:{}@{}", leg.agent.user, leg.agent.domain),
            method: None,
            tool: None,
            rule,
            outcome: AuditOutcome::Ok,
            call_id: shown(&leg.call_id),
            exchange: None,
            conversation: leg.mcp.as_ref().map(|mcp| mcp.conversation.clone()),
            duration_us,
        }
    }

    /// A response to a request of ours in a dialog may say that the dialog is gone (RFC 3261 §12.2.1.2; RFC 5057).
    pub(crate) fn after_dialog_response(&mut self, dialog: DialogKey, outcome: &Outcome<'_>) {
        let gone = match outcome {
            Outcome::Response(message) => matches!(message.status(), Some(481)),
            // A failed MESSAGE or INFO leaves the dialog untouched (XCH-4); the session timer finds a peer that is gone.
            Outcome::Timeout | Outcome::TransportError => false,
        };
        if gone {
            self.hang_up(HangUp { dialog, reason: "SIP;cause=481", closing: Closing::Expired, fence: None });
        }
    }

    /// New configuration: sessions go by it at once, and those that nobody may have any more end (SEC-16).
    pub(crate) fn read_policy_again(&mut self) {
        let mut revoked = Vec::new();
        for (dialog, local) in &mut self.dialogs {
            let old = &local.leg;
            let domain = self.config.domains.get(&old.domain.domain);
            let agent = self.config.agents.get(&(old.agent.domain.clone(), old.agent.user.clone()));
            // A user that registers is no agent of the configuration; of two legs the caller's is judged, and the other one goes with it.
            let agent = agent.cloned().or_else(|| local.record.peer.map(|_| old.agent.clone()));
            let (Some(domain), Some(agent)) = (domain, agent) else {
                revoked.push(*dialog);
                continue;
            };
            let (policies, principal) = (policies(&agent, domain), policy_principal(&old.principal));
            let has_mcp = local.record.peer.is_none() || local.record.mcp.is_some();
            let left = local.record.we_called
                || (policies.visible(principal)
                    && (!has_mcp
                        || (policies.mcp_denied_for_all().is_none() && policies.nothing_left(principal).is_none())));
            if !left {
                revoked.push(*dialog);
            }
            local.leg = Arc::new(Leg { domain: domain.clone(), agent, ..Leg::clone(old) });
        }
        let fence = self.own_fence();
        for dialog in revoked {
            if self.owns(dialog) {
                let reason = "SIP;cause=403;text=\"Revoked\"";
                self.hang_up(HangUp { dialog, reason, closing: Closing::Local, fence });
            } else {
                // Its owner hangs up; here nothing goes on.
                self.end_dialog(dialog, Closing::Local);
            }
        }
        // How long they may last is of the configuration, too.
        let all: Vec<_> = self.dialogs.keys().copied().collect();
        for dialog in all {
            self.arm_dialog(dialog);
        }
    }

    /// Whether another session fits.
    pub(crate) fn is_full(&self) -> bool {
        let count = usize::from(self.shard.count.max(1));
        self.dialogs.len() - self.foreign.len() + self.opening
            >= self.config.edge.limits.sessions_per_pod.div_ceil(count)
    }

    /// Whether another session with this agent fits: so many at one time in one edge, of which each core has its share.
    ///
    /// # Errors
    /// 486: the agent is busy, nobody else.
    pub(crate) fn check_agent(&mut self, agent: &AgentConfig) -> Result<(), Answer> {
        let Some(limit) = agent.session.max_concurrent else { return Ok(()) };
        let share = limit.div_ceil(usize::from(self.shard.count.max(1)));
        // Of two legs the caller's counts.
        let is_session = |local: &&LocalDialog| {
            local.record.owner == self.owner && !local.record.we_called && local.leg.agent.key == agent.key
        };
        let standing = self.dialogs.values().filter(is_session).count();
        if standing + self.opening_with(&agent.key) + self.bridges.setups_with(&agent.key) < share {
            return Ok(());
        }
        self.stats.limit("maxConcurrent");
        let seconds = (1 + self.random.below(5)).to_string();
        Err(Answer::new(486).header(HeaderId::RetryAfter, seconds))
    }

    /// Whether another session with an agent of this domain fits: so many at one time in one edge, of which each core has its share.
    ///
    /// # Errors
    /// 480: a tenant's quota is no statement about the server, so never 503 (sip.md, section 14).
    pub(crate) fn check_domain(&mut self, domain: &DomainConfig) -> Result<(), Answer> {
        let Some(limit) = domain.max_sessions else { return Ok(()) };
        let share = limit.div_ceil(usize::from(self.shard.count.max(1)));
        // Of two legs the caller's counts.
        let is_session = |local: &&LocalDialog| {
            local.record.owner == self.owner && !local.record.we_called && local.leg.domain.domain == domain.domain
        };
        let standing = self.dialogs.values().filter(is_session).count();
        if standing + self.opening_in(&domain.domain) + self.bridges.setups_in(&domain.domain) < share {
            return Ok(());
        }
        self.stats.limit("sessions");
        let seconds = (1 + self.random.below(5)).to_string();
        Err(Answer::new(480).phrase("Session Quota Reached").header(HeaderId::RetryAfter, seconds))
    }
}
