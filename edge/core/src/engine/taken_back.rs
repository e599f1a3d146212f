//! `notifications/cancelled` (mcp.md 5.6): the caller takes a request back, and gets no answer. It may come to another edge than the one that
//! serves the request; then all edges hear of it. Where the serving edge is dead, whoever adopts the request remembers.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use mcp_sip::exchange::{Exchange as Named, McpExchange};
use mcp_sip::jsonrpc::{Envelope, RawId};
use session_store::key::SessionKey;
use session_store::record::JournalEntry;
use sip_proto::time::{Mono, Now, UnixMillis};

use super::Engine;
use super::exchange::Exchange;
use super::judge::{reread, serves_legacy};
use super::pending::{Fate, Judged};
use super::session::{Session, Waiting};
use super::types::{Ctx, EngineOut, Leg, TakeBack};
use super::written::{admit_client, is_open_here, slot_of};
use crate::audit::Outcome;

/// Requests that were taken back and are not known here, at once. Above that the oldest is forgotten.
const MAX_KNOWN: usize = 4_096;
/// Until then a dead edge's exchanges are adopted: the longest lease and the sweep; milliseconds.
const ADOPTED_MS: u64 = 90_000;
/// The same notification within so long is one that waited for its session; milliseconds.
const AGAIN_MS: u64 = 1_000;

/// What was taken back and may still be adopted here. By session and id, in its canonical form.
#[derive(Debug, Default)]
pub(super) struct TakenBack {
    known: BTreeMap<(SessionKey, Vec<u8>), Known>,
}

#[derive(Debug)]
struct Known {
    exchange: Option<String>,
    at: Mono,
    /// A request that came later is another one.
    wall: UnixMillis,
}

impl TakenBack {
    /// `false`: it was noted a moment ago.
    fn note(&mut self, now: Now, session: SessionKey, id: &RawId, header: Option<&McpExchange>) -> bool {
        self.known.retain(|_, known| now.mono.millis_since(known.at) < ADOPTED_MS);
        let key = (session, id.canonical().raw().to_vec());
        if self.known.len() >= MAX_KNOWN && !self.known.contains_key(&key) {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.at).map(|(key, _)| key.clone());
            oldest.map(|key| self.known.remove(&key));
        }
        let exchange = header.and_then(|header| match header.exchange {
            Named::Id(id) => Some(id.as_str().to_owned()),
            Named::Session => None,
        });
        let before = self.known.insert(key, Known { exchange, at: now.mono, wall: now.wall });
        before.is_none_or(|before| now.mono.millis_since(before.at) >= AGAIN_MS)
    }

    /// Whether the request of this entry was taken back.
    pub(super) fn has(&self, now: Now, session: SessionKey, entry: &JournalEntry) -> bool {
        let Ok(id) = RawId::parse(entry.id.clone()) else { return false };
        let known = self.known.get(&(session, id.canonical().raw().to_vec()));
        known.is_some_and(|known| {
            now.mono.millis_since(known.at) < ADOPTED_MS
                && entry.started <= known.wall.0
                && known.exchange.as_ref().is_none_or(|exchange| entry.exchange.as_ref() == Some(exchange))
        })
    }
}

impl Engine {
    /// The caller takes a request back.
    pub(super) fn cancelled(
        &mut self,
        ctx: &mut Ctx<'_>,
        leg: &Arc<Leg>,
        header: Option<&McpExchange>,
        envelope: &Envelope,
    ) {
        if !self.take_back(ctx, leg.session, header, envelope) {
            self.cancelled_elsewhere(ctx, leg, header, envelope);
        }
    }

    /// A caller took a request back at another edge. Whose session it is was seen there.
    pub fn taken_back(&mut self, ctx: &mut Ctx<'_>, session: SessionKey, header: Option<&McpExchange>, body: &Bytes) {
        let envelope = reread(body).filter(|envelope| envelope.method() == Some("notifications/cancelled"));
        let Some((envelope, id)) = envelope.and_then(|envelope| envelope.request_id().map(|id| (envelope, id))) else {
            self.stats.unmatched += 1;
            return;
        };
        if !self.take_back(ctx, session, header, &envelope) {
            self.taken_back.note(ctx.now, session, &id, header);
        }
    }

    /// `false`: the request is not known here.
    fn take_back(
        &mut self,
        ctx: &mut Ctx<'_>,
        key: SessionKey,
        header: Option<&McpExchange>,
        envelope: &Envelope,
    ) -> bool {
        if let Some(id) = envelope.request_id() {
            self.doubt_cancelled(key, &id);
        }
        let session = self.sessions.get_mut(&key);
        let known = |session: &Session| envelope.request_id().and_then(|id| session.table.exchange_of(&id));
        let Some((session, slot)) = session.and_then(|session| known(session).map(|slot| (session, slot))) else {
            return false;
        };
        let open = session.open.get(&slot).copied();
        // A client must not cancel `initialize`.
        let is_initialize = open.and_then(|no| self.exchanges.get(&no)).is_some_and(Exchange::is_initialize);
        if is_initialize || admit_client(ctx, session, header, envelope).is_err() {
            self.stats.unmatched += 1;
        } else if let Some(no) = open {
            self.stop(ctx, no, Some(envelope.bytes().clone()));
            self.conclude(ctx, no, None, Outcome::Cancelled);
        } else {
            // Its write is not answered yet.
            let is_it = |judged: &&mut Judged| judged.leg.session == key && slot_of(&judged.what) == Some(slot);
            if let Some(judged) = self.tickets.values_mut().find(is_it) {
                judged.fate = Fate::Cancelled;
            }
        }
        true
    }

    /// The request is not served here. Whoever serves it is told; a legacy backend can be told in its session from here, too, which is all
    /// that reaches it where its edge is dead.
    fn cancelled_elsewhere(
        &mut self,
        ctx: &mut Ctx<'_>,
        leg: &Arc<Leg>,
        header: Option<&McpExchange>,
        envelope: &Envelope,
    ) {
        let (key, body) = (leg.session, envelope.bytes());
        let Some(id) = envelope.request_id().filter(|_| ctx.is_in_fleet()) else {
            self.stats.unmatched += 1;
            return;
        };
        if self.taken_back.note(ctx.now, key, &id, header) {
            let (exchange, body, call_id) = (header.cloned(), body.clone(), leg.call_id.clone());
            self.out.push_back(EngineOut::TakeBack(TakeBack { session: key, exchange, body, call_id }));
        }
        match self.sessions.get(&key) {
            Some(session) if session.legacy.is_some() && !is_open_here(session, header) => {
                self.post_or_queue(ctx, key, body.clone());
            }
            None if serves_legacy(leg) => {
                self.load(ctx, leg, Waiting { header: header.cloned(), body: body.clone() });
            }
            _ => {}
        }
    }
}
