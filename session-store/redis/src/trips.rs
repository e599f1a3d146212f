//! How many synchronous round trips each kind of operation took.

use std::sync::atomic::{AtomicU64, Ordering};

use session_store::op::StoreOp;

/// One row of [`crate::RedisStore::round_trips`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpTrips {
    /// Name of the operation, snake case.
    pub op: &'static str,
    /// Operations that were executed.
    pub calls: u64,
    /// Round trips that they waited for, one after another.
    pub trips: u64,
}

macro_rules! names {
    ($($variant:ident => $name:literal),* $(,)?) => {
        const NAMES: &[&str] = &[$($name),*];

        /// Name of the operation.
        pub(crate) fn op_name(op: &StoreOp) -> &'static str {
            match op {
                $(StoreOp::$variant { .. } => $name,)*
            }
        }
    };
}

names! {
    UseNonce => "use_nonce",
    Register => "register",
    ReadBindings => "read_bindings",
    OpenCall => "open_call",
    PlaceLegs => "place_legs",
    EarlyCall => "early_call",
    AnswerCall => "answer_call",
    RejectCall => "reject_call",
    CancelCall => "cancel_call",
    ReadDialog => "read_dialog",
    Confirm => "confirm",
    Begin => "begin",
    Commit => "commit",
    Terminate => "terminate",
    NextCseq => "next_cseq",
    UpdateDialog => "update_dialog",
    Bury => "bury",
    RestoreDialog => "restore_dialog",
    OpenExchange => "open_exchange",
    CloseExchange => "close_exchange",
    NoteExchange => "note_exchange",
    Once => "once",
    ReadSession => "read_session",
    WriteSession => "write_session",
    DropSession => "drop_session",
    TakeEpoch => "take_epoch",
    Heartbeat => "heartbeat",
    Leave => "leave",
    Adopt => "adopt",
    TenantNumber => "tenant_number",
    FindCapability => "find_capability",
    Export => "export",
    Erase => "erase",
}

/// Two counters per name.
pub(crate) struct Trips(Vec<[AtomicU64; 2]>);

impl Trips {
    pub fn new() -> Trips {
        Trips(NAMES.iter().map(|_| [AtomicU64::new(0), AtomicU64::new(0)]).collect())
    }

    pub fn count(&self, op: &'static str, trips: u64) {
        if let Some(row) = NAMES.iter().position(|name| *name == op).and_then(|at| self.0.get(at)) {
            row[0].fetch_add(1, Ordering::Relaxed);
            row[1].fetch_add(trips, Ordering::Relaxed);
        }
    }

    pub fn rows(&self) -> Vec<OpTrips> {
        let row = |(op, [calls, trips]): (&&'static str, &[AtomicU64; 2])| OpTrips {
            op,
            calls: calls.load(Ordering::Relaxed),
            trips: trips.load(Ordering::Relaxed),
        };
        NAMES.iter().zip(&self.0).map(row).collect()
    }
}
