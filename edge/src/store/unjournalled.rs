//! Debug builds only: with `SIPMCP_TEST_NO_JOURNAL=1` in the environment exchanges are not journalled, so that a killed edge takes what
//! it had in flight with it. e2e/kill shows by it that the journal is what keeps exchanges.

use std::sync::LazyLock;

use session_store::op::{OpenOutcome, StoreOp, StoreReply};

use super::Reply;

static IS_ON: LazyLock<bool> =
    LazyLock::new(|| std::env::var_os("SIPMCP_TEST_NO_JOURNAL").is_some_and(|value| value == "1"));

/// What is done with one operation.
pub(super) enum Unjournalled {
    /// Nothing is written.
    Answered(Reply),
    /// This is written; `opens` where an exchange was taken out of it.
    Run { operation: StoreOp, opens: bool },
}

/// Takes the journal out of an operation.
pub(super) fn take(operation: StoreOp) -> Unjournalled {
    if !*IS_ON {
        return Unjournalled::Run { operation, opens: false };
    }
    match operation {
        StoreOp::OpenExchange { .. } => Unjournalled::Answered(Ok(StoreReply::Exchange(opened()))),
        StoreOp::NoteExchange { .. } => Unjournalled::Answered(Ok(StoreReply::Done)),
        StoreOp::Begin { dialog, by, flow, cseq, method, nonce, exchange } => Unjournalled::Run {
            opens: exchange.is_some(),
            operation: StoreOp::Begin { dialog, by, flow, cseq, method, nonce, exchange: None },
        },
        operation => Unjournalled::Run { operation, opens: false },
    }
}

/// The reply as if the exchange had been opened.
pub(super) fn put_back(reply: Reply, opens: bool) -> Reply {
    match reply {
        Ok(StoreReply::Begun { version, record, exchange: None }) if opens => {
            Ok(StoreReply::Begun { version, record, exchange: Some(opened()) })
        }
        reply => reply,
    }
}

fn opened() -> OpenOutcome {
    OpenOutcome::Opened { session: None }
}
