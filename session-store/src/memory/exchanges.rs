//! The journal of exchanges and the sessions they belong to.

use super::{MemoryStore, StoredExchange, StoredSession, expiry::Name};
use crate::key::{ExchangeKey, SessionKey};
use crate::op::{ANSWER_MS, CloseExchange, OpenExchange, OpenOutcome, StoreError, StoreReply};
use crate::record::SessionRecord;

impl MemoryStore {
    pub(super) fn open_exchange(&mut self, now_ms: u64, open: OpenExchange) -> Result<OpenOutcome, StoreError> {
        let OpenExchange { key, entry, limit, ttl_ms, session_ttl_ms } = open;
        if let Some(known) = self.exchanges.get(&key).filter(|e| e.expires_at > now_ms) {
            let same = known.entry.digest == entry.digest;
            match &known.answer {
                None if same => return Ok(OpenOutcome::RepeatInFlight { owner: known.entry.owner }),
                None => return Ok(OpenOutcome::Taken),
                // Safe to run again: no answer was kept, so it is a new request.
                Some(None) if same && known.entry.repeatable => {}
                Some(answer) if same => return Ok(OpenOutcome::RepeatAnswered { answer: answer.clone() }),
                // Answered, and this is another request by the same name.
                Some(_) => {}
            }
        }
        let from = ExchangeKey { session: key.session, hash: [0; 16] };
        let to = ExchangeKey { session: key.session, hash: [0xff; 16] };
        let in_flight =
            self.exchanges.range(from..=to).filter(|(_, e)| e.answer.is_none() && e.expires_at > now_ms).count();
        if in_flight >= limit {
            return Ok(OpenOutcome::Full);
        }
        if self.exchanges.len() >= self.capacity.exchanges && !self.exchanges.contains_key(&key) {
            return Err(StoreError::Full { what: "exchanges" });
        }
        let expires_at = now_ms.saturating_add(ttl_ms);
        self.expiry.add(expires_at, Name::Exchange(key));
        self.exchanges.insert(key, StoredExchange { entry, answer: None, expires_at });
        let session = self.live_session(now_ms, key.session).map(|s| {
            if session_ttl_ms > 0 {
                s.expires_at = s.expires_at.max(now_ms.saturating_add(session_ttl_ms));
            }
            (s.version, Box::new(s.record.clone()))
        });
        Ok(OpenOutcome::Opened { session })
    }

    fn live_session(&mut self, now_ms: u64, key: SessionKey) -> Option<&mut StoredSession> {
        self.sessions.get_mut(&key).filter(|s| s.expires_at > now_ms)
    }

    pub(super) fn close_exchange(&mut self, now_ms: u64, close: CloseExchange) -> StoreReply {
        let Some(known) = self.exchanges.get_mut(&close.key).filter(|e| e.expires_at > now_ms) else {
            return StoreReply::Unknown;
        };
        if known.entry.owner != close.owner {
            return StoreReply::Fenced;
        }
        if known.answer.is_some() {
            return StoreReply::Unknown;
        }
        known.answer = Some(close.answer);
        known.expires_at = now_ms.saturating_add(ANSWER_MS);
        let (end, flow) = (known.expires_at, known.entry.leg.flow.clone());
        self.expiry.add(end, Name::Exchange(close.key));
        StoreReply::Closed { flow }
    }

    pub(super) fn once(&mut self, now_ms: u64, key: ExchangeKey, ttl_ms: u64) -> Result<StoreReply, StoreError> {
        if self.once.get(&key).is_some_and(|end| *end > now_ms) {
            return Ok(StoreReply::First(false));
        }
        if self.once.len() >= self.capacity.exchanges {
            return Err(StoreError::Full { what: "messages" });
        }
        let end = now_ms.saturating_add(ttl_ms);
        self.expiry.add(end, Name::Once(key));
        self.once.insert(key, end);
        Ok(StoreReply::First(true))
    }

    pub(super) fn read_session(&mut self, now_ms: u64, key: SessionKey, ttl_ms: u64) -> StoreReply {
        let Some(session) = self.live_session(now_ms, key) else { return StoreReply::Unknown };
        session.expires_at = session.expires_at.max(now_ms.saturating_add(ttl_ms));
        StoreReply::Session { version: session.version, record: Box::new(session.record.clone()) }
    }

    pub(super) fn write_session(
        &mut self,
        now_ms: u64,
        key: SessionKey,
        version: u64,
        record: SessionRecord,
        ttl_ms: u64,
    ) -> Result<StoreReply, StoreError> {
        let current = self.sessions.get(&key).filter(|s| s.expires_at > now_ms);
        if current.map_or(0, |s| s.version) != version {
            return Ok(match current {
                Some(s) => StoreReply::SessionConflict { version: s.version, record: Box::new(s.record.clone()) },
                None => StoreReply::Unknown,
            });
        }
        if self.sessions.len() >= self.capacity.sessions && !self.sessions.contains_key(&key) {
            return Err(StoreError::Full { what: "sessions" });
        }
        let expires_at = now_ms.saturating_add(ttl_ms);
        self.expiry.add(expires_at, Name::Session(key));
        self.sessions.insert(key, StoredSession { version: version + 1, record, expires_at });
        Ok(StoreReply::Version(version + 1))
    }

    pub(super) fn drop_session(&mut self, now_ms: u64, key: SessionKey, if_ends_within_ms: Option<u64>) -> StoreReply {
        let end = if_ends_within_ms.map(|ms| now_ms.saturating_add(ms));
        if let (Some(end), Some(session)) = (end, self.live_session(now_ms, key))
            && session.expires_at > end
        {
            return StoreReply::Session { version: session.version, record: Box::new(session.record.clone()) };
        }
        let from = ExchangeKey { session: key, hash: [0; 16] };
        let to = ExchangeKey { session: key, hash: [0xff; 16] };
        let names: Vec<ExchangeKey> = self.exchanges.range(from..=to).map(|(k, _)| *k).collect();
        for name in names {
            self.exchanges.remove(&name);
        }
        match self.sessions.remove(&key) {
            Some(_) => StoreReply::Done,
            None => StoreReply::Unknown,
        }
    }
}
