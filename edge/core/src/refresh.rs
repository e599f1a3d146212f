//! Session timer refreshes of ours (RFC 4028 §7.4, §10): UPDATE where the peer serves it, else a re-INVITE with the same description.

use session_store::key::DialogKey;
use session_store::op::{Fence, StoreError, StoreOp, StoreReply};
use session_store::record::{DialogRecord, SessionTimerRecord};
use sip_proto::message::{HeaderId, Message};
use sip_proto::session_timer::{
    AfterRefresh, SessionExpires, SessionTimer, SessionTimerPolicy, UacTimer, after_failed_refresh,
};
use sip_proto::time::UnixMillis;

use crate::answer::{ACCEPT, ALLOW};
use crate::dialogs::{HangUp, RunningTimer, dialog_state, record_ttl_ms};
use crate::engine::{Closing, Principal};
use crate::locate::Located;
use crate::negotiate::supported;
use crate::outgoing::uri_name;
use crate::purpose::{Outcome, Purpose};
use crate::state::EdgeState;
use crate::token::DialogToken;
use crate::transactions::Target;
use crate::waiting::Waiting;

/// A lost race against another writer is run again so often.
const MAX_TRIES: u8 = 3;

/// A refresh under way.
#[derive(Clone, Debug)]
pub(crate) struct Refresh {
    dialog: DialogKey,
    uac: UacTimer,
    /// UPDATE, else re-INVITE.
    update: bool,
    /// The other method was tried.
    switched: bool,
    /// The agreed timer, once the peer said 2xx.
    agreed: Option<SessionTimer>,
    tries: u8,
    cseq: u32,
    record: Option<Box<DialogRecord>>,
}

/// A timer that begins now, for the record.
fn session_timer(timer: &SessionTimer, now: UnixMillis) -> SessionTimerRecord {
    SessionTimerRecord {
        interval_s: timer.interval,
        we_refresh: timer.we_refresh,
        expires_at: now.plus_millis(u64::from(timer.interval) * 1000).0,
    }
}

impl EdgeState {
    /// It is time to refresh.
    pub(crate) fn refresh(&mut self, dialog: DialogKey) {
        let Some(local) = self.dialogs.get_mut(&dialog) else { return };
        let Some(timer) = local.timer else { return };
        local.refreshing = true;
        let refresh = Refresh {
            dialog,
            uac: UacTimer::refresh(&timer.timer, &SessionTimerPolicy::default()),
            update: local.peer_updates,
            switched: false,
            agreed: None,
            tries: 0,
            cseq: 0,
            record: None,
        };
        self.next_refresh(refresh);
    }

    fn next_refresh(&mut self, refresh: Refresh) {
        let dialog = refresh.dialog;
        let version = self.dialogs.get(&dialog).map(|local| local.version);
        let fence = Some(Fence { owner: self.owner, version });
        let operation = StoreOp::NextCseq { dialog, terminating: false, close: None, fence };
        self.store(operation, Waiting::Refresh(Box::new(refresh)));
    }

    pub(crate) fn refresh_cseq(&mut self, refresh: Refresh, reply: Result<StoreReply, StoreError>) {
        let dialog = refresh.dialog;
        let (cseq, record) = match reply {
            Ok(StoreReply::Cseq { cseq, record, .. }) => (cseq, record),
            // The peer, or another edge for it, was faster: what the record says now decides when the next one is due.
            Ok(StoreReply::Conflict { version, record }) => {
                if let Some(local) = self.dialogs.get_mut(&dialog) {
                    local.refreshing = false;
                }
                return self.keep(dialog, version, record);
            }
            Ok(StoreReply::Fenced) => return self.disown(dialog),
            Ok(StoreReply::Unknown) if self.may_come_back(dialog) => {
                if let Some(local) = self.dialogs.get_mut(&dialog) {
                    local.refreshing = false;
                }
                return self.arm_dialog(dialog);
            }
            Ok(_) => return self.end_dialog(dialog, Closing::Expired),
            Err(_) => return self.refresh_later(dialog),
        };
        let then = Located::Refresh { refresh: Box::new(refresh), cseq, record: record.clone() };
        self.reach_dialog(dialog, &record, then);
    }

    pub(crate) fn send_refresh(
        &mut self,
        mut refresh: Refresh,
        cseq: u32,
        record: Box<DialogRecord>,
        target: Option<Target>,
    ) {
        let dialog = refresh.dialog;
        let (Some(target), Some(local), true) = (target, self.dialogs.get(&dialog), self.may_act()) else {
            return self.refresh_later(dialog);
        };
        let anonymous = local.leg.principal == Principal::Anonymous;
        let user = DialogToken { key: dialog, anonymous, bridged: false }.user(&self.config.token_keys);
        let host = self.advertised(target.listener(), Some(local.flow.local));
        let contact = format!("<sip:{user}@{host};transport={};gr>", uri_name(target.transport()));
        let supported = supported(&local.leg.domain);
        let branch = self.new_branch();
        let via = self.via(target.transport(), target.listener(), &branch);
        let method = if refresh.update { "UPDATE" } else { "INVITE" };
        let session_id = self.session_id(&record.call_id, record.session_id.as_deref());
        let mut request = dialog_state(&record)
            .request_with_cseq(method, cseq, &via)
            .header(HeaderId::Contact, contact)
            .header(HeaderId::Supported, supported)
            .header(HeaderId::RecvInfo, mcp_sip::INFO_PACKAGE)
            .header(HeaderId::Allow, ALLOW)
            .header(HeaderId::SessionExpires, refresh.uac.header.to_string())
            .header(HeaderId::MinSe, refresh.uac.min_se.to_string())
            .header(HeaderId::SessionId, session_id);
        if !refresh.update {
            request = request.header(HeaderId::Accept, ACCEPT);
            if let Some(sdp) = &record.local_sdp {
                request = request.body("application/sdp", sdp.clone());
            }
        }
        refresh.cseq = cseq;
        refresh.record = Some(record);
        let purpose = Purpose::Refresh(Box::new(refresh));
        if self.send_request(method, &branch, request.build(), target, purpose).is_err() {
            self.refresh_later(dialog);
        }
    }

    /// Tries again in a moment, while the session lasts.
    fn refresh_later(&mut self, dialog: DialogKey) {
        let millis = 500 + self.random.below(1500);
        let now = self.now.mono;
        if let Some(local) = self.dialogs.get_mut(&dialog) {
            local.refreshing = false;
            if let Some(timer) = &mut local.timer {
                timer.retry_after(now, millis);
            }
        }
        self.arm_dialog(dialog);
    }

    pub(crate) fn refresh_concluded(&mut self, mut refresh: Refresh, transaction: u64, outcome: Outcome<'_>) {
        let dialog = refresh.dialog;
        let status = match &outcome {
            Outcome::Response(message) => message.status().unwrap_or(500),
            Outcome::Timeout => 408,
            Outcome::TransportError => 503,
        };
        let response = match &outcome {
            Outcome::Response(message) => Some(*message),
            _ => None,
        };
        if let (200..=299, Some(message)) = (status, response) {
            return self.refreshed(refresh, transaction, message);
        }
        match after_failed_refresh(status) {
            AfterRefresh::Bye => {
                let reason = "SIP;cause=408;text=\"Refresh failed\"";
                let fence = self.own_fence();
                self.hang_up(HangUp { dialog, reason, closing: Closing::Expired, fence });
            }
            AfterRefresh::LargerInterval => {
                let min_se = response.and_then(Message::min_se);
                match refresh.uac.on_422(min_se) {
                    Ok(uac) => {
                        refresh.uac = uac;
                        self.next_refresh(refresh);
                    }
                    Err(_) => self.refresh_given_up(dialog),
                }
            }
            AfterRefresh::OtherMethod if !refresh.switched => {
                refresh.update = !refresh.update;
                refresh.switched = true;
                if let Some(local) = self.dialogs.get_mut(&dialog) {
                    local.peer_updates = refresh.update;
                }
                self.next_refresh(refresh);
            }
            AfterRefresh::TryLater => self.refresh_later(dialog),
            AfterRefresh::OtherMethod | AfterRefresh::Keep => self.refresh_given_up(dialog),
        }
    }

    /// The session goes on until its BYE is due.
    fn refresh_given_up(&mut self, dialog: DialogKey) {
        if let Some(local) = self.dialogs.get_mut(&dialog) {
            local.refreshing = false;
            if let Some(timer) = &mut local.timer {
                timer.give_up();
            }
        }
        self.arm_dialog(dialog);
    }

    fn refreshed(&mut self, mut refresh: Refresh, transaction: u64, response: &Message) {
        let dialog = refresh.dialog;
        let Some(mut record) = refresh.record.take() else { return };
        let mut state = dialog_state(&record);
        state.refresh_target(response);
        if !refresh.update {
            // On the way that the INVITE went, with a branch of its own (RFC 3261 §13.2.2.4).
            let branch = self.new_branch();
            if let Some((transport, listener)) = self.client_way(transaction) {
                let via = self.via(transport, listener, &branch);
                let ack = state.ack_2xx(refresh.cseq, &via).build();
                self.acknowledge(transaction, ack);
            }
        }
        let header = response.header(HeaderId::SessionExpires).and_then(|v| SessionExpires::parse(v).ok());
        let agreed = refresh.uac.on_success(header);
        refresh.agreed = Some(agreed);
        let now = self.now;
        let version = match self.dialogs.get_mut(&dialog) {
            Some(local) => {
                local.refreshing = false;
                local.timer = Some(RunningTimer::start(agreed, now));
                if response.has(HeaderId::Allow) {
                    local.peer_updates = response.list_has(HeaderId::Allow, "UPDATE");
                }
                local.version
            }
            None => return,
        };
        self.arm_dialog(dialog);
        record.remote_target = state.remote_target;
        self.write_refresh(refresh, version, record);
    }

    fn write_refresh(&mut self, refresh: Refresh, version: u64, mut record: Box<DialogRecord>) {
        let Some(agreed) = refresh.agreed else { return };
        record.session_timer = Some(session_timer(&agreed, self.now.wall));
        let ttl_ms = record_ttl_ms(record.session_timer.as_ref());
        let operation = StoreOp::UpdateDialog { dialog: refresh.dialog, version, record, ttl_ms };
        self.store(operation, Waiting::Refreshed(Box::new(refresh)));
    }

    pub(crate) fn refresh_written(&mut self, mut refresh: Refresh, reply: Result<StoreReply, StoreError>) {
        let dialog = refresh.dialog;
        match reply {
            Ok(StoreReply::Version(version)) => {
                if let Some(local) = self.dialogs.get_mut(&dialog) {
                    local.version = version;
                    local.record.session_timer = refresh.agreed.map(|agreed| session_timer(&agreed, self.now.wall));
                }
            }
            Ok(StoreReply::Conflict { version, record }) if refresh.tries < MAX_TRIES => {
                refresh.tries += 1;
                self.write_refresh(refresh, version, record);
            }
            Ok(StoreReply::Gone | StoreReply::Unknown) => self.end_dialog(dialog, Closing::Expired),
            // The record lives 1.5 intervals, so that one write may fail.
            Ok(_) | Err(_) => {}
        }
    }
}
