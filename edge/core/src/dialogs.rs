//! Dialogs as this edge keeps them: only what is continuous (retransmission of a 2xx, session timers, the flow that was used last).
//! Everything else is in the store, so that another edge serves the same dialog. An entry ends with its dialog, or with its session timer.

use std::sync::Arc;

use bytes::Bytes;
use mcp_sip::envelope::Negotiation;
use mcp_sip::policy::Request as Question;
use session_store::key::DialogKey;
use session_store::op::{StoreError, StoreOp, StoreReply};
use session_store::record::{DialogRecord, SessionTimerRecord};
use sip_proto::dialog::{DialogState, Phase, Role};
use sip_proto::message::HeaderId;
use sip_proto::session_timer::SessionTimer;
use sip_proto::time::{Mono, Now, UnixMillis};
use sip_proto::timer::TimerValues;

use crate::audit::{AuditKind, AuditRecord, Outcome as AuditOutcome};
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
use crate::token::FlowToken;
use crate::transactions::{ReplyTo, Target};
use crate::waiting::Waiting;

/// A 2xx that is repeated until its ACK (RFC 3261 §13.3.1.4: on every transport).
#[derive(Debug)]
pub(crate) struct Accept {
    pub bytes: Bytes,
    pub reply_to: ReplyTo,
    interval_ms: u64,
    next: Mono,
    until: Mono,
}

impl Accept {
    pub fn new(bytes: Bytes, reply_to: ReplyTo, now: Mono) -> Accept {
        let values = TimerValues::default();
        Accept {
            bytes,
            reply_to,
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
    /// Version of the record that `leg` was made from.
    pub version: u64,
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
    /// The envelope that we offered in the 2xx, until the ACK answers it.
    pub late_offer: Option<Negotiation>,
    pub started: Now,
}

impl LocalDialog {
    /// Of a dialog that another edge, or an earlier life of this one, began.
    pub fn adopted(leg: Arc<Leg>, version: u64, flow: Arc<Flow>, record: &DialogRecord, now: Now) -> LocalDialog {
        // Every record of ours has one; without it nothing would ever end the entry.
        let known = record.session_timer.unwrap_or(SessionTimerRecord {
            interval_s: 1800,
            we_refresh: false,
            expires_at: record.created_at + 1_800_000,
        });
        let began = known.expires_at.saturating_sub(u64::from(known.interval_s) * 1000);
        let timer = SessionTimer { interval: known.interval_s, we_refresh: known.we_refresh };
        let timer = Some(RunningTimer::since(timer, UnixMillis(began), now));
        LocalDialog {
            leg,
            version,
            flow,
            accept: None,
            timer,
            changing: false,
            refreshing: false,
            peer_updates: false,
            ending: false,
            late_offer: None,
            started: now,
        }
    }

    fn next(&self) -> Option<Mono> {
        let accept = self.accept.as_ref().map(|a| a.next.min(a.until));
        let timer = self.timer.filter(|_| !self.ending);
        let refresh = timer.and_then(|t| t.refresh).filter(|_| !self.refreshing);
        [accept, refresh, timer.map(|t| t.bye)].into_iter().flatten().min()
    }
}

/// A BYE of ours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HangUp {
    pub dialog: DialogKey,
    /// Reason header (RFC 3326).
    pub reason: &'static str,
    pub closing: Closing,
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

/// Waits between the tries of a tombstone: doubling, and no more than so many.
const BURIAL_FIRST_MS: u64 = 100;
const BURIAL_LAST_MS: u64 = 8_000;
const BURIAL_TRIES: u32 = 14;

impl EdgeState {
    /// A flow on which the peer of this dialog is reached: the one that it used last, or the one that it came on.
    pub(crate) fn flow_of_dialog(&self, record: &DialogRecord, dialog: DialogKey) -> Option<Target> {
        if let Some(local) = self.dialogs.get(&dialog).filter(|_| self.has_flow(dialog)) {
            return Some(Target::of_flow(&local.flow));
        }
        let token = record.flow.as_deref().and_then(|text| FlowToken::from_text(&self.config.token_keys, text));
        token.filter(|t| t.owner == self.owner).and_then(|t| self.token_target(&t))
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
        let next = self.dialogs.get(&dialog).and_then(LocalDialog::next);
        self.timers.arm(TimerKey::Dialog(dialog), next);
    }

    pub(crate) fn dialog_timeout(&mut self, dialog: DialogKey) {
        let now = self.now.mono;
        let Some(local) = self.dialogs.get_mut(&dialog) else { return };
        if let Some(accept) = &mut local.accept {
            if accept.until <= now {
                local.accept = None;
                self.hang_up(HangUp { dialog, reason: "SIP;cause=408;text=\"No ACK\"", closing: Closing::Expired });
            } else if accept.next <= now {
                accept.interval_ms = (accept.interval_ms * 2).min(TimerValues::default().t2);
                accept.next = now.plus_millis(accept.interval_ms);
                let (reply_to, bytes) = (accept.reply_to.clone(), accept.bytes.clone());
                self.send_reply(&reply_to, bytes);
            }
        }
        let timer = self.dialogs.get(&dialog).filter(|local| !local.ending).and_then(|local| local.timer);
        if let Some(timer) = timer {
            let refreshing = self.dialogs.get(&dialog).is_some_and(|local| local.refreshing);
            if timer.bye <= now {
                self.hang_up(HangUp {
                    dialog,
                    reason: "SIP;cause=408;text=\"Session expired\"",
                    closing: Closing::Expired,
                });
            } else if !refreshing && timer.refresh.is_some_and(|at| at <= now) {
                self.refresh(dialog);
            }
        }
        self.arm_dialog(dialog);
    }

    /// The ACK came.
    pub(crate) fn acknowledged(&mut self, dialog: DialogKey) {
        if let Some(local) = self.dialogs.get_mut(&dialog) {
            local.accept = None;
            self.arm_dialog(dialog);
        }
    }

    /// Ends a dialog from our side: tombstone in state terminating, then BYE.
    pub(crate) fn hang_up(&mut self, hang_up: HangUp) {
        if let Some(local) = self.dialogs.get_mut(&hang_up.dialog) {
            if local.ending {
                return;
            }
            local.ending = true;
        }
        let operation = StoreOp::NextCseq { dialog: hang_up.dialog, terminating: true, close: None, fence: None };
        self.store(operation, Waiting::HangUp(hang_up));
    }

    pub(crate) fn hang_up_written(&mut self, hang_up: HangUp, reply: Result<StoreReply, StoreError>) {
        let HangUp { dialog, closing, .. } = hang_up;
        let (cseq, record) = match reply {
            Ok(StoreReply::Cseq { cseq, record, .. }) => (cseq, record),
            // The record ends by its TTL, and the peer by its own session timer.
            _ => return self.end_dialog(dialog, closing),
        };
        self.bridge_ended(dialog, &record);
        let then = Located::HangUp { hang_up, cseq, record: record.clone() };
        self.reach_dialog(dialog, &record, then);
    }

    pub(crate) fn send_bye(&mut self, hang_up: HangUp, cseq: u32, record: &DialogRecord, target: Option<Target>) {
        let HangUp { dialog, reason, closing } = hang_up;
        let sent = target.is_some_and(|target| {
            let branch = self.new_branch();
            let via = self.via(target.transport(), target.listener(), &branch);
            let session_id = self.session_id(&record.call_id, record.session_id.as_deref());
            let request = dialog_state(record)
                .request_with_cseq("BYE", cseq, &via)
                .header(HeaderId::Reason, reason)
                .header(HeaderId::SessionId, session_id);
            self.send_request("BYE", &branch, request.build(), target, Purpose::Bye(dialog)).is_ok()
        });
        if !sent {
            self.bury(dialog);
        }
        self.end_dialog(dialog, closing);
    }

    /// The tombstone: nothing more will come of this dialog. The end wins over an outage of the store: the write is tried again until
    /// it is taken, about a minute long (after that the record's own end does it).
    pub(crate) fn bury(&mut self, dialog: DialogKey) {
        self.store(StoreOp::Bury { dialog }, Waiting::Bury(dialog));
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
        self.with_engine(|engine, ctx| engine.leg_closed(ctx, &key, closing));
    }

    /// An audit record of a session's start or end.
    pub(crate) fn session_audit(&self, leg: &Leg, kind: AuditKind, duration_us: Option<u64>) -> AuditRecord {
        // The rule that shows this address to this caller: `initialize` needs no other.
        let question = Question::method(policy_principal(&leg.principal), "initialize", None);
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
            self.hang_up(HangUp { dialog, reason: "SIP;cause=481", closing: Closing::Expired });
        }
    }

    /// New configuration: sessions go by it at once, and those that nobody may have any more end (SEC-16).
    pub(crate) fn read_policy_again(&mut self) {
        let mut revoked = Vec::new();
        for (dialog, local) in &mut self.dialogs {
            let old = &local.leg;
            let domain = self.config.domains.get(&old.domain.domain);
            let agent = self.config.agents.get(&(old.agent.domain.clone(), old.agent.user.clone()));
            let (Some(domain), Some(agent)) = (domain, agent) else {
                revoked.push(*dialog);
                continue;
            };
            let (policies, principal) = (policies(agent, domain), policy_principal(&old.principal));
            let left = policies.visible(principal)
                && policies.mcp_denied_for_all().is_none()
                && policies.nothing_left(principal).is_none();
            if !left {
                revoked.push(*dialog);
            }
            local.leg = Arc::new(Leg { domain: domain.clone(), agent: agent.clone(), ..Leg::clone(old) });
        }
        for dialog in revoked {
            self.hang_up(HangUp { dialog, reason: "SIP;cause=403;text=\"Revoked\"", closing: Closing::Local });
        }
    }

    /// Whether another session fits.
    pub(crate) fn is_full(&self) -> bool {
        let count = usize::from(self.shard.count.max(1));
        self.dialogs.len() + self.opening >= self.config.edge.limits.sessions_per_pod.div_ceil(count)
    }

    /// Sessions of one domain on this core.
    pub(crate) fn sessions_of(&self, domain: &str) -> usize {
        self.dialogs.values().filter(|local| local.leg.domain.domain == domain).count()
    }
}
