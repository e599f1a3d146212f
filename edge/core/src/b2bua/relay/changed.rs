//! What changes the session, on its way between the legs: the far end's 2xx changes both records, and it is passed on when they stand.

use session_store::op::{StoreError, StoreOp, StoreReply};
use session_store::record::{DialogRecord, SessionTimerRecord};
use sip_proto::message::{HeaderId, Message};
use sip_proto::session_timer::{SessionExpires, SessionTimer};

use super::{MAX_TRIES, Relay, principal_of};
use crate::answer::Answer;
use crate::b2bua::bodies::{Mcp, Parts, Passed};
use crate::b2bua::copied::ALLOW;
use crate::b2bua::{OWED_ACK, PEER_CONTACT, Step};
use crate::call::plan::negotiate_timer;
use crate::dialogs::{dialog_state, record_ttl_ms};
use crate::state::EdgeState;

impl EdgeState {
    /// UPDATE without a body: the session timer of this leg alone (RFC 4028 §7.4).
    pub(super) fn refreshed_here(&mut self, mut relay: Relay) -> Result<(), Box<(Relay, Answer)>> {
        let Some(mut record) = relay.record.clone() else { return Ok(()) };
        let flow = relay.request.flow.clone();
        let header = match self.changed_timer(&mut relay, &mut record) {
            Ok(header) => header,
            Err(answer) => return Err(Box::new((relay, answer))),
        };
        let mut answer = Answer::new(200)
            .header(HeaderId::Contact, self.leg_contact(relay.dialog, flow.transport, flow.listener))
            .header(HeaderId::Allow, ALLOW)
            .header(HeaderId::Supported, "timer");
        for (id, value) in header {
            answer = answer.header(id, value);
        }
        relay.response = answer.build(&relay.request.message, &flow, &relay.request.tag);
        self.commit_relay(relay, record);
        Ok(())
    }

    /// The session timer that a request changes, and the header fields of its 2xx.
    fn changed_timer(&self, relay: &mut Relay, record: &mut DialogRecord) -> Result<Vec<(HeaderId, String)>, Answer> {
        let current = record.session_timer.map(|t| SessionTimer { interval: t.interval_s, we_refresh: t.we_refresh });
        let (timer, header, require) = negotiate_timer(&relay.request.message, current.as_ref())?;
        record.session_timer = Some(SessionTimerRecord {
            interval_s: timer.interval,
            we_refresh: timer.we_refresh,
            expires_at: self.now.wall.plus_millis(u64::from(timer.interval) * 1000).0,
        });
        let mut state = dialog_state(record);
        if state.refresh_target(&relay.request.message) {
            record.remote_target = state.remote_target;
        }
        relay.timer = Some(timer);
        let mut lines = vec![(HeaderId::SessionExpires, header.to_string())];
        if require {
            lines.push((HeaderId::Require, "timer".to_owned()));
        }
        Ok(lines)
    }

    /// 2xx to a re-INVITE or UPDATE: both records change, then it is passed on.
    pub(super) fn relay_changed(&mut self, mut relay: Relay, message: &Message) {
        let (Some(mut record), Some(peer_record), Some(peer)) =
            (relay.record.clone(), relay.peer_record.clone(), relay.peer)
        else {
            return;
        };
        let flow = relay.request.flow.clone();
        let parts = Parts::read(message).unwrap_or_default();
        relay.given = parts
            .sdp
            .as_ref()
            .and_then(|theirs| self.pass_sdp(theirs, Passed::of(&record).as_ref(), flow.listener).ok());
        let lines = match self.changed_timer(&mut relay, &mut record) {
            Ok(lines) => lines,
            Err(answer) => return self.relay_refused(&relay, &answer),
        };
        let principal = principal_of(if record.we_called { &peer_record } else { &record });
        let mut mcp = Mcp::Keep;
        if !record.we_called
            && let (Some(domain), Some(agent)) =
                (self.config.domains.get(&record.domain).cloned(), self.agent_at(&record.domain, &record.agent_user))
        {
            mcp = self.judge_answer(message, &parts, &agent, &domain, &principal, record.mcp.is_some()).mcp;
        }
        let body = parts.with(relay.given.as_ref().map(|passed| &passed.sdp), &mcp);
        let mut all = vec![
            (HeaderId::Contact, self.leg_contact(relay.dialog, flow.transport, flow.listener)),
            self.session_line(&relay, message),
        ];
        all.extend(lines);
        let domain = relay.caller.domain.domain.clone();
        relay.response =
            self.passed_response(&relay.request, "", 200, message, &domain, record.mcp.is_some(), all, body);
        relay.answer = Some(message.clone());
        relay.record = Some(record);
        let changed = self.changed_peer(&relay, peer_record);
        let ttl_ms = record_ttl_ms(changed.session_timer.as_ref());
        let operation = StoreOp::UpdateDialog { dialog: peer, version: relay.peer_version, record: changed, ttl_ms };
        self.bridge_store(operation, Step::PeerChanged(Box::new(relay)));
    }

    /// The other leg's record after its 2xx.
    fn changed_peer(&self, relay: &Relay, mut record: Box<DialogRecord>) -> Box<DialogRecord> {
        let Some(message) = &relay.answer else { return record };
        if let Some(sent) = &relay.sent {
            sent.note(&mut record);
        }
        if let Ok(Parts { sdp: Some(sdp), .. }) = Parts::read(message) {
            record.remote_sdp = Some(sdp);
        }
        let mut state = dialog_state(&record);
        if state.refresh_target(message) {
            record.extra.insert(PEER_CONTACT.to_owned(), state.remote_target.clone());
            record.remote_target = state.remote_target;
        }
        if let Some(uac) = &relay.uac {
            let header = message.header(HeaderId::SessionExpires).and_then(|v| SessionExpires::parse(v).ok());
            let timer = uac.on_success(header);
            record.session_timer = Some(SessionTimerRecord {
                interval_s: timer.interval,
                we_refresh: timer.we_refresh,
                expires_at: self.now.wall.plus_millis(u64::from(timer.interval) * 1000).0,
            });
        }
        record
    }

    pub(crate) fn relay_peer_changed(&mut self, mut relay: Relay, reply: Result<StoreReply, StoreError>) {
        let Some(peer) = relay.peer else { return };
        match reply {
            Ok(StoreReply::Version(version)) => {
                if let Some(record) = relay.peer_record.clone() {
                    let record = self.changed_peer(&relay, record);
                    let timer =
                        record.session_timer.map(|t| SessionTimer { interval: t.interval_s, we_refresh: t.we_refresh });
                    let request = relay.request.clone();
                    self.take_over(peer, &request, version, &record, timer);
                    self.arm_dialog(peer);
                    relay.peer_record = Some(record);
                }
                let Some(mut record) = relay.record.clone() else { return };
                self.changed_own(&relay, &mut record);
                self.commit_relay(relay, record);
            }
            Ok(StoreReply::Conflict { version, record }) if relay.tries < MAX_TRIES => {
                relay.tries += 1;
                relay.peer_version = version;
                relay.peer_record = Some(record.clone());
                let changed = self.changed_peer(&relay, record);
                let ttl_ms = record_ttl_ms(changed.session_timer.as_ref());
                let operation = StoreOp::UpdateDialog { dialog: peer, version, record: changed, ttl_ms };
                self.bridge_store(operation, Step::PeerChanged(Box::new(relay)));
            }
            Ok(_) => self.relay_undone(&relay, &Answer::new(481)),
            Err(_) => {
                let answer = self.unavailable("Store Unavailable");
                self.relay_undone(&relay, &answer);
            }
        }
    }

    /// The far end said 2xx, and its requester hears something else: the two disagree about the session, so it ends.
    fn relay_undone(&mut self, relay: &Relay, answer: &Answer) {
        if relay.is_invite()
            && let (Some(client), Some(record), Some(target)) = (relay.client, &relay.peer_record, &relay.target)
        {
            let branch = self.new_branch();
            let via = self.via(target.transport(), target.listener(), &branch);
            let ack = dialog_state(record).ack_2xx(relay.cseq, &via).build();
            self.acknowledge(client, ack);
        }
        self.relay_refused(relay, answer);
    }

    /// The own leg's record with what the exchange agreed on.
    fn changed_own(&self, relay: &Relay, record: &mut DialogRecord) {
        if let Some(given) = &relay.given {
            given.note(record);
        }
        if let Some(sdp) = &relay.parts.sdp {
            record.remote_sdp = Some(sdp.clone());
        }
        if relay.is_invite() && relay.client.is_some() {
            record.extra.insert(OWED_ACK.to_owned(), relay.cseq.to_string());
        }
        record.policy_epoch = self.config.epoch;
    }

    fn commit_relay(&mut self, mut relay: Relay, record: Box<DialogRecord>) {
        let ttl_ms = record_ttl_ms(record.session_timer.as_ref());
        let operation = StoreOp::Commit {
            dialog: relay.dialog,
            cseq: relay.request.message.cseq().seq,
            response: relay.response.clone(),
            record: Some((relay.version, record.clone(), ttl_ms)),
        };
        relay.record = Some(record);
        self.bridge_store(operation, Step::Committed(Box::new(relay)));
    }

    pub(crate) fn relay_committed(&mut self, mut relay: Relay, reply: Result<StoreReply, StoreError>) {
        match reply {
            Ok(StoreReply::Version(version)) => {
                if let Some(record) = relay.record.clone() {
                    let (request, timer) = (relay.request.clone(), relay.timer);
                    self.take_over(relay.dialog, &request, version, &record, timer);
                    self.arm_dialog(relay.dialog);
                }
                self.unmark(&relay);
                let (request, response) = (relay.request.clone(), relay.response.clone());
                if relay.is_invite() {
                    self.owe_relay(relay);
                }
                self.answer_bytes(&request, 200, response);
            }
            Ok(StoreReply::Conflict { version, mut record }) if relay.tries < MAX_TRIES => {
                relay.tries += 1;
                relay.version = version;
                if let Err(answer) = self.changed_timer(&mut relay, &mut record) {
                    return self.relay_undone(&relay, &answer);
                }
                self.changed_own(&relay, &mut record);
                self.commit_relay(relay, record);
            }
            Ok(StoreReply::Conflict { .. }) => {
                let answer = Answer::new(500).phrase("Too Many Changes").header(HeaderId::RetryAfter, "1");
                self.relay_undone(&relay, &answer);
            }
            Ok(_) => self.relay_undone(&relay, &Answer::new(481)),
            Err(_) => {
                let answer = self.unavailable("Store Unavailable");
                self.relay_undone(&relay, &answer);
            }
        }
    }

    /// The far end's ACK waits for the one that answers our 2xx.
    fn owe_relay(&mut self, relay: Relay) {
        let (Some(client), Some(peer), Some(record), Some(target)) =
            (relay.client, relay.peer, relay.peer_record, relay.target)
        else {
            return;
        };
        self.owe_ack(relay.dialog, client, peer, &record, relay.cseq, &target);
        self.owe_again(relay.dialog, relay.request, relay.response);
    }
}
