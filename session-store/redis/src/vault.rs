//! Records in and out of sealed fields. Moments in them are turned from the edge's clock to the store's and back.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use session_store::codec;
use session_store::key::{AorKey, DialogKey, ExchangeKey, GuardKey, SessionKey, Tenant};
use session_store::name::EntryName;
use session_store::op::StoreError;
use session_store::record::{Binding, CallLeg, DialogPhase, DialogRecord, JournalEntry, PeerFlow, SessionRecord};
use session_store::seal::Sealer;

use crate::clock::StoreClock;

/// What seals and opens for one operation: the keys as they were when it began.
pub(crate) struct Vault<'a> {
    pub sealer: Arc<Sealer>,
    pub clock: &'a StoreClock,
}

/// One sealed field: whose, of what kind, under which name.
pub(crate) struct Field {
    tenant: Tenant,
    kind: &'static str,
    name: Vec<u8>,
}

impl Field {
    fn of(name: EntryName, kind: &'static str) -> Field {
        Field { tenant: name.tenant().unwrap_or(0), kind, name: name.to_bytes() }
    }

    pub fn invite(key: &GuardKey) -> Field {
        Field::of(EntryName::Guard(*key), "call.invite")
    }

    pub fn legs(key: &GuardKey) -> Field {
        Field::of(EntryName::Guard(*key), "call.legs")
    }

    pub fn rejection(key: &GuardKey) -> Field {
        Field::of(EntryName::Guard(*key), "call.response")
    }

    fn dialog(key: &DialogKey) -> Field {
        Field::of(EntryName::Dialog(*key), "dialog.record")
    }

    pub fn accept(key: &DialogKey) -> Field {
        Field::of(EntryName::Dialog(*key), "dialog.accept")
    }

    pub fn dialog_flow(key: &DialogKey) -> Field {
        Field::of(EntryName::Dialog(*key), "dialog.flow")
    }

    /// The response to one request: not to be taken for another's.
    pub fn response(key: &DialogKey, cseq: u32) -> Field {
        let mut field = Field::of(EntryName::Dialog(*key), "dialog.response");
        field.name.extend(cseq.to_be_bytes());
        field
    }

    fn session(key: &SessionKey) -> Field {
        Field::of(EntryName::Session(*key), "session.record")
    }

    /// A field of a journal entry.
    pub fn journal(key: &ExchangeKey, kind: &'static str) -> Field {
        Field::of(EntryName::Exchange(*key), kind)
    }

    fn binding(key: &AorKey) -> Field {
        Field::of(EntryName::Aor(*key), "binding.record")
    }
}

/// Kinds of the fields of a journal entry.
pub(crate) mod journal {
    pub const ENTRY: &str = "exchange.entry";
    pub const REQUEST: &str = "exchange.request";
    pub const FLOW: &str = "exchange.flow";
    pub const ANSWER: &str = "exchange.answer";
    pub const EVENT: &str = "exchange.event";
    pub const TASK: &str = "exchange.task";
    pub const UPSTREAM: &str = "exchange.upstream";
    pub const BACKEND: &str = "exchange.backend";
}

/// One letter each in plain fields.
pub(crate) fn phase_letter(phase: DialogPhase) -> &'static str {
    match phase {
        DialogPhase::Early => "e",
        DialogPhase::Accepted => "a",
        DialogPhase::Confirmed => "c",
        DialogPhase::Terminating => "t",
        DialogPhase::Terminated => "d",
    }
}

pub(crate) fn phase_of(letter: &str) -> Result<DialogPhase, StoreError> {
    Ok(match letter {
        "e" => DialogPhase::Early,
        "a" => DialogPhase::Accepted,
        "c" => DialogPhase::Confirmed,
        "t" => DialogPhase::Terminating,
        "d" => DialogPhase::Terminated,
        other => return Err(StoreError::Unreadable { reason: format!("{other:?} is no phase of a dialog") }),
    })
}

impl Vault<'_> {
    pub fn seal(&self, field: &Field, plain: &[u8]) -> Vec<u8> {
        self.sealer.seal(field.tenant, field.kind, &field.name, plain)
    }

    pub fn open(&self, field: &Field, sealed: &[u8]) -> Result<Bytes, StoreError> {
        self.sealer.open(field.tenant, field.kind, &field.name, sealed).map(Bytes::from)
    }

    /// A field that is empty where there is nothing.
    pub fn open_some(&self, field: &Field, sealed: &[u8]) -> Result<Option<Bytes>, StoreError> {
        if sealed.is_empty() { Ok(None) } else { self.open(field, sealed).map(Some) }
    }

    pub fn seal_some(&self, field: &Field, plain: Option<&[u8]>) -> Vec<u8> {
        plain.map(|plain| self.seal(field, plain)).unwrap_or_default()
    }

    fn seal_record<T: Serialize>(&self, field: &Field, record: &T) -> Result<Vec<u8>, StoreError> {
        Ok(self.seal(field, &codec::encode(record)?))
    }

    fn open_record<T: DeserializeOwned>(&self, field: &Field, sealed: &[u8]) -> Result<T, StoreError> {
        codec::decode(&self.open(field, sealed)?)
    }

    pub fn seal_text(&self, field: &Field, text: Option<&String>) -> Vec<u8> {
        self.seal_some(field, text.map(String::as_bytes))
    }

    pub fn open_text(&self, field: &Field, sealed: &[u8]) -> Result<Option<String>, StoreError> {
        let text = |bytes: Bytes| {
            String::from_utf8(bytes.to_vec()).map_err(|_| StoreError::Unreadable { reason: "no text".into() })
        };
        self.open_some(field, sealed)?.map(text).transpose()
    }

    pub fn seal_flow(&self, field: &Field, flow: &PeerFlow) -> Result<Vec<u8>, StoreError> {
        self.seal_record(field, flow)
    }

    pub fn open_flow(&self, field: &Field, sealed: &[u8]) -> Result<PeerFlow, StoreError> {
        if sealed.is_empty() { Ok(PeerFlow::default()) } else { self.open_record(field, sealed) }
    }

    pub fn seal_legs(&self, key: &GuardKey, legs: &Vec<CallLeg>) -> Result<Vec<u8>, StoreError> {
        self.seal_record(&Field::legs(key), legs)
    }

    pub fn open_legs(&self, key: &GuardKey, sealed: &[u8]) -> Result<Vec<CallLeg>, StoreError> {
        if sealed.is_empty() { Ok(Vec::new()) } else { self.open_record(&Field::legs(key), sealed) }
    }

    pub fn seal_session(&self, key: &SessionKey, record: &SessionRecord) -> Result<Vec<u8>, StoreError> {
        self.seal_record(&Field::session(key), record)
    }

    pub fn open_session(&self, key: &SessionKey, sealed: &[u8]) -> Result<SessionRecord, StoreError> {
        self.open_record(&Field::session(key), sealed)
    }

    /// The record without what stands in fields of its own: 2xx bytes, flow and source.
    pub fn seal_dialog(&self, key: &DialogKey, record: &DialogRecord) -> Result<Vec<u8>, StoreError> {
        let mut record = DialogRecord { accept_bytes: None, flow: None, source: String::new(), ..record.clone() };
        self.shift_dialog(&mut record, |clock, ms| clock.to_store(ms));
        self.seal_record(&Field::dialog(key), &record)
    }

    pub fn open_dialog(&self, key: &DialogKey, sealed: &[u8]) -> Result<DialogRecord, StoreError> {
        let mut record: DialogRecord = self.open_record(&Field::dialog(key), sealed)?;
        self.shift_dialog(&mut record, |clock, ms| clock.to_edge(ms));
        Ok(record)
    }

    fn shift_dialog(&self, record: &mut DialogRecord, shift: impl Fn(&StoreClock, u64) -> u64) {
        record.created_at = shift(self.clock, record.created_at);
        if let Some(timer) = &mut record.session_timer {
            timer.expires_at = shift(self.clock, timer.expires_at);
        }
    }

    /// The entry without what stands in fields of its own: request, answer, flow of the leg.
    pub fn seal_entry(&self, key: &ExchangeKey, entry: &JournalEntry) -> Result<Vec<u8>, StoreError> {
        let mut entry = JournalEntry { request: None, answer: None, ..entry.clone() };
        entry.leg.flow = PeerFlow::default();
        entry.deadline = self.clock.to_store(entry.deadline);
        entry.started = self.clock.to_store(entry.started);
        self.seal_record(&Field::journal(key, journal::ENTRY), &entry)
    }

    pub fn open_entry(&self, key: &ExchangeKey, sealed: &[u8]) -> Result<JournalEntry, StoreError> {
        let mut entry: JournalEntry = self.open_record(&Field::journal(key, journal::ENTRY), sealed)?;
        entry.deadline = self.clock.to_edge(entry.deadline);
        entry.started = self.clock.to_edge(entry.started);
        Ok(entry)
    }

    /// Its end stands in the plain part.
    pub fn seal_binding(&self, key: &AorKey, binding: &Binding) -> Result<Vec<u8>, StoreError> {
        self.seal_record(&Field::binding(key), &Binding { expires_at: 0, ..binding.clone() })
    }

    pub fn open_binding(&self, key: &AorKey, store_end_ms: u64, sealed: &[u8]) -> Result<Binding, StoreError> {
        let binding: Binding = self.open_record(&Field::binding(key), sealed)?;
        Ok(Binding { expires_at: self.clock.to_edge(store_end_ms), ..binding })
    }
}
