//! The journal of exchanges.

use super::MemoryStore;
use super::entries::{ExchangeState, StoredExchange};
use crate::key::ExchangeKey;
use crate::name::EntryName;
use crate::op::{ANSWER_MS, CloseExchange, OpenExchange, OpenOutcome, StoreError, StoreReply};
use crate::record::{ExchangeNote, Owner};

impl MemoryStore {
    fn live_exchange(&self, now_ms: u64, key: ExchangeKey) -> Option<&StoredExchange> {
        self.exchanges.get(&key).filter(|e| e.expires_at > now_ms)
    }

    pub(super) fn open_exchange(&mut self, now_ms: u64, open: OpenExchange) -> Result<OpenOutcome, StoreError> {
        let OpenExchange { key, mut entry, limit, ttl_ms, session_ttl_ms, instead_of } = open;
        // The store's word.
        entry.answer = None;
        let mut takes_over = false;
        if let Some(known) = self.live_exchange(now_ms, key) {
            let same = known.entry.digest == entry.digest;
            match &known.state {
                ExchangeState::InFlight if same && !known.adopted && instead_of == Some(known.entry.owner) => {
                    takes_over = true;
                }
                ExchangeState::InFlight if same => {
                    let owner = known.entry.owner;
                    if known.entry.leg.flow != entry.leg.flow {
                        self.change_exchange(key, |known| known.entry.leg.flow = entry.leg.flow);
                    }
                    return Ok(OpenOutcome::RepeatInFlight { owner });
                }
                ExchangeState::InFlight => return Ok(OpenOutcome::Taken),
                // Safe to run again: no answer was kept, so it is a new request.
                ExchangeState::Held(None) | ExchangeState::Answered(None) if same && known.entry.repeatable => {}
                ExchangeState::Held(answer) | ExchangeState::Answered(answer) if same => {
                    return Ok(OpenOutcome::RepeatAnswered { answer: answer.clone() });
                }
                // Answered, and this is another request by the same name.
                ExchangeState::Held(_) | ExchangeState::Answered(_) => {}
            }
        }
        let of_session = self.exchanges.range(key.session.exchanges());
        let in_flight = of_session.filter(|(_, e)| e.is_in_flight() && e.expires_at > now_ms).count();
        if !takes_over && in_flight >= limit {
            return Ok(OpenOutcome::Full);
        }
        if self.exchanges.len() >= self.capacity.exchanges && !self.exchanges.contains_key(&key) {
            return Err(StoreError::Full { what: "exchanges" });
        }
        let expires_at = now_ms.saturating_add(ttl_ms);
        let state = ExchangeState::InFlight;
        self.put_exchange(key, StoredExchange { entry, state, adopted: false, expires_at });
        let session = self.touch_session(now_ms, key.session, session_ttl_ms);
        Ok(OpenOutcome::Opened { session: session.map(|s| (s.version, Box::new(s.record.clone()))) })
    }

    /// Why this owner may not write to this exchange, if so.
    fn refuse_writer(&self, now_ms: u64, key: ExchangeKey, owner: Owner) -> Option<StoreReply> {
        match self.live_exchange(now_ms, key) {
            None => Some(StoreReply::Unknown),
            Some(known) if known.entry.owner != owner => Some(StoreReply::Fenced),
            Some(known) if matches!(known.state, ExchangeState::Answered(_)) => Some(StoreReply::Unknown),
            Some(_) => None,
        }
    }

    pub(super) fn close_exchange(&mut self, now_ms: u64, close: CloseExchange) -> StoreReply {
        if let Some(reply) = self.refuse_writer(now_ms, close.key, close.owner) {
            return reply;
        }
        let flow = self.change_exchange(close.key, |known| {
            let before = match std::mem::replace(&mut known.state, ExchangeState::InFlight) {
                ExchangeState::Held(answer) => answer,
                _ => None,
            };
            let answer = close.answer.or(before);
            let kept_until = now_ms.saturating_add(ANSWER_MS);
            known.state = if close.is_held { ExchangeState::Held(answer) } else { ExchangeState::Answered(answer) };
            known.expires_at = if close.is_held { known.expires_at.max(kept_until) } else { kept_until };
            if known.owned_by().is_none() {
                // Only a repetition asks for it now, and that brings its own.
                known.entry.request = None;
            }
            let kept = match &known.state {
                ExchangeState::Answered(answer) => Some((known.entry.clone(), answer.clone())),
                ExchangeState::InFlight | ExchangeState::Held(_) => None,
            };
            (known.entry.leg.flow.clone(), kept)
        });
        let (flow, kept) = flow.unwrap_or_default();
        if let Some((entry, answer)) = kept {
            self.keep_exchange(now_ms, close.key, entry, answer);
        }
        StoreReply::Closed { flow }
    }

    pub(super) fn note_exchange(
        &mut self,
        now_ms: u64,
        key: ExchangeKey,
        owner: Owner,
        note: ExchangeNote,
    ) -> StoreReply {
        if let Some(reply) = self.refuse_writer(now_ms, key, owner) {
            return reply;
        }
        self.change_exchange(key, |known| {
            let entry = &mut known.entry;
            for (member, noted) in [
                (&mut entry.event_id, note.event_id),
                (&mut entry.task, note.task),
                (&mut entry.upstream_id, note.upstream_id),
                (&mut entry.backend_session, note.backend_session),
            ] {
                if noted.is_some() {
                    *member = noted;
                }
            }
        });
        StoreReply::Done
    }

    pub(super) fn once(&mut self, now_ms: u64, key: ExchangeKey, ttl_ms: u64) -> Result<StoreReply, StoreError> {
        if self.once.get(&key).is_some_and(|end| *end > now_ms) {
            return Ok(StoreReply::First(false));
        }
        if self.once.len() >= self.capacity.exchanges && !self.once.contains_key(&key) {
            return Err(StoreError::Full { what: "messages" });
        }
        let end = now_ms.saturating_add(ttl_ms);
        self.once.insert(key, end);
        self.ends(EntryName::Once(key), end);
        Ok(StoreReply::First(true))
    }
}
