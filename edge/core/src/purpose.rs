//! What a request of ours was for, and how it ended.

use bytes::Bytes;
use session_store::key::DialogKey;
use sip_proto::message::Message;

use crate::b2bua::relay::Relay;
use crate::carrier::Carried;
use crate::refresh::Refresh;
use crate::state::EdgeState;

/// What for.
#[derive(Debug)]
pub(crate) enum Purpose {
    Delivery(Box<Carried>),
    /// With the request itself, which goes out again where another edge was to send it and was not reached.
    Bye {
        dialog: DialogKey,
        bytes: Bytes,
    },
    Refresh(Box<Refresh>),
    /// The INVITE of a leg of a call.
    Leg {
        call: u64,
        index: usize,
    },
    /// A request out of a dialog that is passed on.
    Paged(u64),
    /// A request between two legs.
    Relay(Box<Relay>),
    /// Nobody waits for its answer.
    Nothing,
}

/// The end of a client transaction.
#[derive(Debug)]
pub(crate) enum Outcome<'a> {
    /// A final response.
    Response(&'a Message),
    /// None came.
    Timeout,
    /// It could not be sent.
    TransportError,
}

impl EdgeState {
    /// A request of ours is over. `transaction` is its number.
    pub(crate) fn concluded(&mut self, purpose: Purpose, transaction: u64, outcome: Outcome<'_>) {
        match purpose {
            Purpose::Delivery(carried) => self.delivery_concluded(*carried, outcome),
            Purpose::Bye { dialog, .. } => self.bury(dialog),
            Purpose::Refresh(refresh) => self.refresh_concluded(*refresh, transaction, outcome),
            Purpose::Leg { call, index } => self.leg_concluded(call, index, transaction, outcome),
            Purpose::Paged(page) => self.page_concluded(page, &outcome),
            Purpose::Relay(relay) => self.relay_concluded(*relay, transaction, outcome),
            Purpose::Nothing => {}
        }
    }
}
