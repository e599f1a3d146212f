//! CANCEL (RFC 3261 §9.2): of an INVITE here, else of one that another edge has begun; its guard is in the store. Only who knows Call-ID, From
//! tag and CSeq of the INVITE finds it, so it is taken from any connection.

use session_store::key::GuardKey;
use session_store::op::{StoreError, StoreOp, StoreReply};
use sip_proto::message::{Message, Transportation};

use crate::answer::Answer;
use crate::fleet::Meshed;
use crate::mesh::MeshMessage;
use crate::random::keyed_hash;
use crate::request::Request;
use crate::state::EdgeState;
use crate::transactions::ReplyTo;
use crate::waiting::Waiting;

/// A CANCEL whose write is under way.
#[derive(Clone, Debug)]
pub(crate) struct Cancel {
    /// `None`: another edge took it in and answered it.
    pub request: Option<Request>,
    invite: Option<u64>,
    guard: GuardKey,
}

impl EdgeState {
    pub(crate) fn on_cancel(&mut self, mut request: Request) {
        let key = crate::transactions::server_key(&request.message).cancelled();
        let invite = self.servers.find(&key);
        let merged = keyed_hash(self.naming_key(), "merged", &[&request.transaction, b"CANCEL"]);
        let guard = match invite.and_then(|id| self.servers.get(id)) {
            Some(entry) => match &entry.invite {
                Some(progress) => Some(progress.guard),
                None => {
                    // It has its final response; CANCEL has no effect (§9.2).
                    return self.answer(&request, &Answer::new(200));
                }
            },
            None => self.guard_of_cancel(&request),
        };
        let Some(guard) = guard else { return self.answer(&request, &Answer::new(481)) };
        // By another connection its Via is another one, too; the INVITE may be here all the same.
        let invite = invite.or_else(|| self.servers.of_guard(&guard));
        if !self.has_room() {
            let answer = self.unavailable("Too Much Work");
            return self.answer(&request, &answer);
        }
        request.server = self.open_server(&request.flow, &request.message, merged);
        let cancel = Cancel { request: Some(request), invite, guard };
        self.store(StoreOp::CancelCall { guard }, Waiting::Cancel(Box::new(cancel)));
    }

    /// Another edge took in a CANCEL for an INVITE of ours: the guard says so, and which legs there are.
    pub(crate) fn cancelled_elsewhere(&mut self, guard: GuardKey) {
        let invite = self.servers.of_guard(&guard);
        let cancel = Cancel { request: None, invite, guard };
        self.store(StoreOp::CancelCall { guard }, Waiting::Cancel(Box::new(cancel)));
    }

    fn guard_of_cancel(&self, request: &Request) -> Option<GuardKey> {
        let uri = sip_proto::uri::Uri::parse(request.message.request_uri()?).ok()?.sip()?;
        let tenant = self.config.domains.get(&uri.host_str().to_ascii_lowercase())?.tenant;
        let from_tag = request.message.from_tag().unwrap_or_default().to_ascii_lowercase();
        let slot = self.slot(tenant, request.message.call_id(), &from_tag);
        Some(self.guard_key(request, tenant, slot))
    }

    pub(crate) fn cancel_written(&mut self, cancel: Cancel, reply: Result<StoreReply, StoreError>) {
        let Cancel { request, invite, guard } = &cancel;
        let answer = |core: &mut EdgeState, status: u16| {
            if let Some(request) = request {
                core.answer(request, &Answer::new(status));
            }
        };
        match (reply, invite) {
            (Ok(StoreReply::Cancelled { invite, legs, .. }), Some(id)) => {
                answer(self, 200);
                self.refuse_cancelled(*id);
                self.bridge_cancel(*guard, &legs, &invite);
            }
            (Ok(StoreReply::Unknown), Some(id)) => {
                answer(self, 200);
                self.refuse_cancelled(*id);
            }
            (Err(_), Some(id)) => {
                // The INVITE ends here whatever the store says; it learns that later.
                answer(self, 200);
                self.refuse_cancelled(*id);
                self.cancel_later(*guard);
            }
            (Ok(StoreReply::Cancelled { invite, owner, legs, .. }), None) => {
                answer(self, 200);
                if owner.pod != self.owner.pod && self.lives(owner.pod) && request.is_some() {
                    let call_id = request.as_ref().map(|r| r.message.call_id().to_owned()).unwrap_or_default();
                    let message = MeshMessage::Cancelled { guard: *guard, tag: None, call_id };
                    return self.tell_edge(owner.pod, message, Some(Meshed::Cancel(Box::new(cancel), invite)));
                }
                self.cancelled_here(&cancel, &invite);
                self.bridge_cancel(*guard, &legs, &invite);
            }
            (Ok(StoreReply::CancelTooLate), _) | (Ok(_), Some(_)) => answer(self, 200),
            (Ok(_), None) => answer(self, 481),
            (Err(_), None) => {
                let unavailable = self.unavailable("Store Unavailable");
                if let Some(request) = request {
                    self.answer(request, &unavailable);
                }
            }
        }
    }

    /// The edge that had the INVITE is gone: its peer hears 487 here, on the way that the CANCEL came, else as the INVITE says.
    pub(crate) fn cancelled_here(&mut self, cancel: &Cancel, invite: &[u8]) {
        let stored = self.restored_invite(invite);
        let invite = match &stored {
            Some(stored) => stored.message.clone(),
            None => match Message::parse(invite.to_vec().into(), Transportation::Stream) {
                Ok(message) => message,
                Err(_) => return self.stats.drop_one("unreadable INVITE in a guard"),
            },
        };
        let flow = cancel.request.as_ref().map(|request| request.flow.clone()).or(stored.map(|stored| stored.flow));
        let Some(flow) = flow else { return };
        let tag = self.request(flow.clone(), invite.clone()).tag;
        let bytes = Answer::new(487).build(&invite, &flow, &tag);
        let to = ReplyTo::new(&flow, &invite.top_via());
        *self.stats.answers.entry(487).or_default() += 1;
        self.send_reply(&to, bytes);
    }

    /// 487 to the INVITE.
    fn refuse_cancelled(&mut self, id: u64) {
        let Some(entry) = self.servers.get(id).filter(|entry| entry.is_proceeding_invite()) else { return };
        let (Some(message), flow) = (entry.message.clone(), entry.flow.clone()) else { return };
        let request = self.request(flow, message);
        self.answer(&Request { server: Some(id), ..request }, &Answer::new(487));
    }
}
