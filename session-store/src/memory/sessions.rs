//! Sessions that exchanges belong to.

use super::MemoryStore;
use super::entries::StoredSession;
use crate::key::{ExchangeKey, SessionKey};
use crate::name::EntryName;
use crate::op::{StoreError, StoreReply};
use crate::record::SessionRecord;

impl MemoryStore {
    pub(super) fn live_session(&self, now_ms: u64, key: SessionKey) -> Option<&StoredSession> {
        self.sessions.get(&key).filter(|s| s.expires_at > now_ms)
    }

    /// Moves the idle end, never back; 0 leaves it.
    pub(super) fn touch_session(&mut self, now_ms: u64, key: SessionKey, ttl_ms: u64) -> Option<&StoredSession> {
        let session = self.sessions.get_mut(&key).filter(|s| s.expires_at > now_ms)?;
        let end = now_ms.saturating_add(ttl_ms);
        if ttl_ms > 0 && end > session.expires_at {
            session.expires_at = end;
            self.changed(EntryName::Session(key));
        }
        self.sessions.get(&key)
    }

    pub(super) fn read_session(&mut self, now_ms: u64, key: SessionKey, ttl_ms: u64) -> StoreReply {
        let Some(session) = self.touch_session(now_ms, key, ttl_ms) else { return StoreReply::Unknown };
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
        let current = self.live_session(now_ms, key);
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
        self.keep_session(now_ms, key, &record);
        self.sessions.insert(key, StoredSession { version: version + 1, record, expires_at });
        self.ends(EntryName::Session(key), expires_at);
        Ok(StoreReply::Version(version + 1))
    }

    pub(super) fn drop_session(&mut self, now_ms: u64, key: SessionKey, if_ends_within_ms: Option<u64>) -> StoreReply {
        let end = if_ends_within_ms.map(|ms| now_ms.saturating_add(ms));
        let live = self.live_session(now_ms, key);
        if let (Some(end), Some(session)) = (end, live)
            && session.expires_at > end
        {
            return StoreReply::Session { version: session.version, record: Box::new(session.record.clone()) };
        }
        let reply = if live.is_some() { StoreReply::Done } else { StoreReply::Unknown };
        self.forget_session(key);
        reply
    }

    /// The record and its journal. Gives how many entries went.
    pub(super) fn forget_session(&mut self, key: SessionKey) -> usize {
        let names: Vec<ExchangeKey> = self.exchanges.range(key.exchanges()).map(|(name, _)| *name).collect();
        for name in &names {
            self.remove_exchange(*name);
        }
        let session = self.sessions.remove(&key);
        if session.is_some() {
            self.changed(EntryName::Session(key));
        }
        names.len() + usize::from(session.is_some())
    }
}
