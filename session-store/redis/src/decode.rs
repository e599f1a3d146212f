//! Replies of functions as replies of the store: a tag, then what belongs to it. What is not of that shape is refused, never guessed.

use bytes::Bytes;
use redis::Value;
use session_store::key::{AorKey, DialogKey, ExchangeKey, GuardKey, SessionKey, Slot};
use session_store::op::{Adopted, CallState, OpenOutcome, StoreError, StoreOp, StoreReply};
use session_store::record::{Binding, DialogRecord, JournalEntry, PodState, SessionRecord};

use crate::names::{self, from_hex};
use crate::vault::{Field, Vault, journal, phase_of};

fn unreadable(what: &str) -> StoreError {
    StoreError::Unreadable { reason: format!("a reply of the store: {what}") }
}

/// The elements of an array, one after another.
pub(crate) struct Row(std::vec::IntoIter<Value>);

impl Row {
    pub fn of(value: Value) -> Result<Row, StoreError> {
        match value {
            Value::Array(values) => Ok(Row(values.into_iter())),
            other => Err(unreadable(&format!("{other:?} is no list"))),
        }
    }

    pub fn bytes(&mut self) -> Result<Vec<u8>, StoreError> {
        match self.0.next() {
            Some(Value::BulkString(bytes)) => Ok(bytes),
            Some(Value::SimpleString(text)) => Ok(text.into_bytes()),
            Some(Value::Int(number)) => Ok(number.to_string().into_bytes()),
            other => Err(unreadable(&format!("{other:?} is no text"))),
        }
    }

    pub fn text(&mut self) -> Result<String, StoreError> {
        String::from_utf8(self.bytes()?).map_err(|_| unreadable("no text"))
    }

    pub fn number<T: std::str::FromStr>(&mut self) -> Result<T, StoreError> {
        let text = self.text()?;
        text.parse().map_err(|_| unreadable(&format!("{text:?} is no such number")))
    }

    pub fn row(&mut self) -> Result<Row, StoreError> {
        self.0.next().map_or_else(|| Err(unreadable("it ends early")), Row::of)
    }

    pub fn is_empty(&self) -> bool {
        self.0.len() == 0
    }

    fn hash(&mut self) -> Result<[u8; 16], StoreError> {
        from_hex(&self.text()?).ok_or_else(|| unreadable("no hash"))
    }
}

/// What the names in a reply belong to.
fn dialog_of(op: &StoreOp) -> Option<DialogKey> {
    match op {
        StoreOp::ReadDialog { dialog }
        | StoreOp::Confirm { dialog }
        | StoreOp::Begin { dialog, .. }
        | StoreOp::Commit { dialog, .. }
        | StoreOp::Terminate { dialog, .. }
        | StoreOp::NextCseq { dialog, .. }
        | StoreOp::UpdateDialog { dialog, .. }
        | StoreOp::Bury { dialog }
        | StoreOp::RestoreDialog { dialog, .. } => Some(*dialog),
        _ => None,
    }
}

fn guard_of(op: &StoreOp) -> Option<GuardKey> {
    match op {
        StoreOp::OpenCall { guard, .. } | StoreOp::CancelCall { guard } => Some(*guard),
        _ => None,
    }
}

fn exchange_of(op: &StoreOp) -> Option<ExchangeKey> {
    match op {
        StoreOp::OpenExchange { open, .. } => Some(open.key),
        StoreOp::Begin { exchange: Some(open), .. } => Some(open.key),
        StoreOp::CloseExchange(close) => Some(close.key),
        _ => None,
    }
}

fn session_of(op: &StoreOp) -> Option<SessionKey> {
    match op {
        StoreOp::ReadSession { session, .. }
        | StoreOp::WriteSession { session, .. }
        | StoreOp::DropSession { session, .. } => Some(*session),
        _ => None,
    }
}

fn cseq_of(op: &StoreOp) -> Option<u32> {
    match op {
        StoreOp::Begin { cseq, .. } | StoreOp::Terminate { cseq, .. } => Some(*cseq),
        _ => None,
    }
}

fn needed<T>(part: Option<T>) -> Result<T, StoreError> {
    part.ok_or_else(|| unreadable("it does not fit the operation"))
}

/// Reads replies with the keys of the moment.
pub(crate) struct Decoder<'a> {
    pub vault: Vault<'a>,
}

impl Decoder<'_> {
    /// The reply to an operation that is one call.
    ///
    /// # Errors
    /// `Unreadable`: a shape or a record that this program does not know, or that does not open.
    pub fn reply(&self, op: &StoreOp, value: Value) -> Result<StoreReply, StoreError> {
        let mut row = Row::of(value)?;
        let tag = row.text()?;
        Ok(match tag.as_str() {
            "done" => StoreReply::Done,
            "nonce" => StoreReply::NonceReplayed,
            "unknown" => StoreReply::Unknown,
            "fenced" => StoreReply::Fenced,
            "gone" => StoreReply::Gone,
            "stale" => StoreReply::StaleRegister,
            "toomany" => StoreReply::TooManyBindings,
            "opened" => StoreReply::CallOpened,
            "cancelled" => StoreReply::CallCancelled,
            "toolate" => StoreReply::CancelTooLate,
            "principal" => StoreReply::OtherPrincipal,
            "inprogress" => StoreReply::InProgress,
            "order" => StoreReply::OutOfOrder,
            "exhausted" => return Err(StoreError::Full { what: "tenant numbers" }),
            "bindings" => StoreReply::Bindings(self.bindings(&needed(aor_of(op))?, row.row()?)?),
            "calladopted" | "pending" | "wascancelled" | "rejected" | "accepted" | "found" => {
                self.call(op, &tag, row)?
            }
            "answered" => StoreReply::Answered { version: row.number()? },
            "dialog" => {
                let (version, record) = self.dialog(&needed(dialog_of(op))?, row.row()?)?;
                StoreReply::Dialog { version, record }
            }
            "conflict" => {
                let (version, record) = self.dialog(&needed(dialog_of(op))?, row.row()?)?;
                StoreReply::Conflict { version, record }
            }
            "begun" => {
                let (version, record) = self.dialog(&needed(dialog_of(op))?, row.row()?)?;
                let outcome = row.row()?;
                let exchange = if outcome.is_empty() { None } else { Some(self.outcome(op, outcome)?) };
                StoreReply::Begun { version, record, exchange }
            }
            "replay" => {
                let field = Field::response(&needed(dialog_of(op))?, needed(cseq_of(op))?);
                StoreReply::Replay { response: self.vault.open(&field, &row.bytes()?)? }
            }
            "cseq" => {
                let cseq = row.number()?;
                let (version, record) = self.dialog(&needed(dialog_of(op))?, row.row()?)?;
                StoreReply::Cseq { cseq, version, record }
            }
            "version" => StoreReply::Version(row.number()?),
            "exchange" => StoreReply::Exchange(self.outcome(op, row.row()?)?),
            "closed" => {
                let field = Field::journal(&needed(exchange_of(op))?, journal::FLOW);
                StoreReply::Closed { flow: self.vault.open_flow(&field, &row.bytes()?)? }
            }
            "first" => StoreReply::First(row.number::<u8>()? == 1),
            "session" => {
                let (version, record) = self.session(&needed(session_of(op))?, &mut row)?;
                StoreReply::Session { version, record }
            }
            "sessionconflict" => {
                let (version, record) = self.session(&needed(session_of(op))?, &mut row)?;
                StoreReply::SessionConflict { version, record }
            }
            "epoch" | "pods" | "tenant" => self.edges(op, &tag, row)?,
            "adopted" => self.adopted(op, row)?,
            other => return Err(unreadable(&format!("{other:?} is no tag"))),
        })
    }

    fn call(&self, op: &StoreOp, tag: &str, mut row: Row) -> Result<StoreReply, StoreError> {
        let guard = needed(guard_of(op))?;
        let dialog = names::parse_dialog(guard.slot, &row.text()?)?;
        let invite = |sealed: Vec<u8>| -> Result<Bytes, StoreError> {
            Ok(self.vault.open_some(&Field::invite(&guard), &sealed)?.unwrap_or_default())
        };
        let state = match tag {
            "calladopted" => {
                let (invite, legs) = (invite(row.bytes()?)?, self.vault.open_legs(&guard, &row.bytes()?)?);
                return Ok(StoreReply::CallAdopted { dialog, invite, legs });
            }
            "found" => {
                let invite = invite(row.bytes()?)?;
                let owner = names::parse_owner(&row.text()?)?;
                let legs = self.vault.open_legs(&guard, &row.bytes()?)?;
                return Ok(StoreReply::Cancelled { dialog, invite, owner, legs });
            }
            "pending" => CallState::Pending { owner: names::parse_owner(&row.text()?)? },
            "wascancelled" => CallState::Cancelled,
            "rejected" => CallState::Rejected { response: self.vault.open(&Field::rejection(&guard), &row.bytes()?)? },
            _ => CallState::Accepted { accept_bytes: self.vault.open_some(&Field::accept(&dialog), &row.bytes()?)? },
        };
        Ok(StoreReply::CallKnown { dialog, state })
    }

    /// Plain fields count, the sealed record fills in the rest.
    pub fn dialog(&self, key: &DialogKey, mut row: Row) -> Result<(u64, Box<DialogRecord>), StoreError> {
        let version = row.number()?;
        let phase = phase_of(&row.text()?)?;
        let cseq_in = Some(row.text()?).filter(|text| !text.is_empty());
        let cseq_in = cseq_in.map(|text| text.parse().map_err(|_| unreadable("no CSeq"))).transpose()?;
        let cseq_out = row.number()?;
        let owner = names::parse_owner(&row.text()?)?;
        let record = self.vault.open_dialog(key, &row.bytes()?)?;
        let accept_bytes = self.vault.open_some(&Field::accept(key), &row.bytes()?)?;
        let flow = self.vault.open_flow(&Field::dialog_flow(key), &row.bytes()?)?;
        let record = DialogRecord {
            phase,
            cseq_in,
            cseq_out,
            owner,
            accept_bytes,
            flow: flow.flow,
            source: flow.source,
            ..record
        };
        Ok((version, Box::new(record)))
    }

    fn session(&self, key: &SessionKey, row: &mut Row) -> Result<(u64, Box<SessionRecord>), StoreError> {
        let version = row.number()?;
        Ok((version, Box::new(self.vault.open_session(key, &row.bytes()?)?)))
    }

    fn outcome(&self, op: &StoreOp, mut row: Row) -> Result<OpenOutcome, StoreError> {
        let key = needed(exchange_of(op))?;
        Ok(match row.text()?.as_str() {
            "opened" if row.is_empty() => OpenOutcome::Opened { session: None },
            "opened" => OpenOutcome::Opened { session: Some(self.session(&key.session, &mut row)?) },
            "inflight" => OpenOutcome::RepeatInFlight { owner: names::parse_owner(&row.text()?)? },
            "answered" => {
                let state = row.text()?;
                let answer = self.vault.open_some(&Field::journal(&key, journal::ANSWER), &row.bytes()?)?;
                OpenOutcome::RepeatAnswered { answer: answer.filter(|_| state == "a") }
            }
            "taken" => OpenOutcome::Taken,
            "full" => OpenOutcome::Full,
            other => return Err(unreadable(&format!("{other:?} is no outcome"))),
        })
    }

    pub fn bindings(&self, aor: &AorKey, mut row: Row) -> Result<Vec<Binding>, StoreError> {
        let mut bindings = Vec::new();
        while !row.is_empty() {
            let end = row.number()?;
            bindings.push(self.vault.open_binding(aor, end, &row.bytes()?)?);
        }
        Ok(bindings)
    }

    fn edges(&self, op: &StoreOp, tag: &str, mut row: Row) -> Result<StoreReply, StoreError> {
        if tag == "tenant" {
            return Ok(StoreReply::Tenant(row.number()?));
        }
        let epoch = if tag == "epoch" { Some(row.number()?) } else { None };
        let generation = row.hash()?;
        let now_ms = self.vault.clock.to_edge(row.number()?);
        let mut list = row.row()?;
        let mut pods = Vec::new();
        while !list.is_empty() {
            let owner =
                session_store::record::Owner { pod: list.number()?, epoch: list.number()?, boot: list.number()? };
            let lease_left_ms = list.number()?;
            let draining = list.number::<u8>()? == 1;
            pods.push(PodState { owner, lease_left_ms, draining, address: list.text()? });
        }
        pods.sort_by_key(|pod| pod.owner.pod);
        match (op, epoch) {
            (StoreOp::TakeEpoch { pod, boot, .. }, Some(epoch)) => {
                let owner = session_store::record::Owner { pod: *pod, epoch, boot: *boot };
                Ok(StoreReply::Epoch { owner, generation, pods, now_ms })
            }
            _ => Ok(StoreReply::Pods { generation, pods, now_ms }),
        }
    }

    fn adopted(&self, op: &StoreOp, mut row: Row) -> Result<StoreReply, StoreError> {
        let StoreOp::Adopt { slot, .. } = op else { return Err(unreadable("it does not fit the operation")) };
        let mut list = row.row()?;
        let more = row.number::<u8>()? == 1;
        let mut items = Vec::new();
        while !list.is_empty() {
            // One that cannot be read keeps nobody from the others; its owner field has moved, so it is not asked for again and again.
            match self.item(*slot, list.row()?) {
                Ok(item) => items.push(item),
                Err(error) => tracing::error!(slot, %error, "something to adopt cannot be read"),
            }
        }
        items.sort_by_key(rank);
        Ok(StoreReply::Adopted { items, more })
    }

    fn item(&self, slot: Slot, mut row: Row) -> Result<Adopted, StoreError> {
        let (kind, name) = (row.text()?, row.text()?);
        match kind.as_str() {
            "m" => {
                let guard = names::parse_guard(slot, &name)?;
                let dialog = names::parse_dialog(slot, &row.text()?)?;
                let invite = self.vault.open_some(&Field::invite(&guard), &row.bytes()?)?.unwrap_or_default();
                let legs = self.vault.open_legs(&guard, &row.bytes()?)?;
                Ok(Adopted::Call { guard, dialog, invite, legs })
            }
            "d" => {
                let dialog = names::parse_dialog(slot, &name)?;
                let (version, record) = self.dialog(&dialog, row.row()?)?;
                Ok(Adopted::Dialog { dialog, version, record })
            }
            "x" => {
                let key = names::parse_exchange(slot, &name)?;
                let (mut entry, answer) = self.entry(&key, row.row()?)?;
                entry.answer = answer;
                Ok(Adopted::Exchange { key, entry: Box::new(entry) })
            }
            other => Err(unreadable(&format!("{other:?} is no kind"))),
        }
    }

    /// A journal entry with all that was noted, and its answer where one is kept.
    pub fn entry(&self, key: &ExchangeKey, mut row: Row) -> Result<(JournalEntry, Option<Bytes>), StoreError> {
        row.text()?;
        let owner = names::parse_owner(&row.text()?)?;
        let field = |kind| Field::journal(key, kind);
        let mut entry = self.vault.open_entry(key, &row.bytes()?)?;
        entry.owner = owner;
        entry.request = self.vault.open_some(&field(journal::REQUEST), &row.bytes()?)?;
        entry.leg.flow = self.vault.open_flow(&field(journal::FLOW), &row.bytes()?)?;
        for (member, kind) in [
            (&mut entry.event_id, journal::EVENT),
            (&mut entry.task, journal::TASK),
            (&mut entry.upstream_id, journal::UPSTREAM),
            (&mut entry.backend_session, journal::BACKEND),
        ] {
            let noted = self.vault.open_text(&field(kind), &row.bytes()?)?;
            if noted.is_some() {
                *member = noted;
            }
        }
        let answer = self.vault.open_some(&field(journal::ANSWER), &row.bytes()?)?;
        Ok((entry, answer))
    }

    /// The record of a session, where there is one.
    pub fn session_record(&self, key: &SessionKey, sealed: &[u8]) -> Result<Option<SessionRecord>, StoreError> {
        if sealed.is_empty() { Ok(None) } else { self.vault.open_session(key, sealed).map(Some) }
    }

    /// Whether a dialog of an export is there at all.
    pub fn exported_dialog(&self, key: &DialogKey, row: Row) -> Result<Option<Box<DialogRecord>>, StoreError> {
        if row.is_empty() {
            return Ok(None);
        }
        let (_, record) = self.dialog(key, row)?;
        Ok(Some(record))
    }
}

fn aor_of(op: &StoreOp) -> Option<AorKey> {
    match op {
        StoreOp::Register { aor, .. } | StoreOp::ReadBindings { aor } => Some(*aor),
        _ => None,
    }
}

/// Calls, then dialogs, then exchanges, each by name.
fn rank(item: &Adopted) -> (u8, [u8; 16], [u8; 16]) {
    match item {
        Adopted::Call { guard, .. } => (0, guard.hash, [0; 16]),
        Adopted::Dialog { dialog, .. } => (1, dialog.id, [0; 16]),
        Adopted::Exchange { key, .. } => (2, key.session.hash, key.hash),
    }
}
