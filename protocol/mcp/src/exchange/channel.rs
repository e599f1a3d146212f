//! Both relations of one channel. With the header field a message says its relation; without it, the relation is found
//! as 5.3.5 has it, and what stays ambiguous is dropped.

use super::table::{Belongs, DropReason, MAX_IN_FLIGHT, Rejected, RelationTable, Side};
use super::{ExchangeId, McpExchange, Relation};
use crate::era::Era;
use crate::jsonrpc::{Envelope, Kind};

/// The two parties of the channel, by the draft's roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Party {
    /// Who opened the channel.
    Caller,
    /// Who answered.
    Callee,
}

impl Party {
    /// Which side of this relation the party is.
    #[must_use]
    pub fn side_in(self, relation: Relation) -> Side {
        match (self, relation) {
            (Party::Caller, Relation::Caller) | (Party::Callee, Relation::Callee) => Side::Client,
            (Party::Caller, Relation::Callee) | (Party::Callee, Relation::Caller) => Side::Server,
        }
    }

    /// The relation in which this party is the client.
    #[must_use]
    pub fn own_relation(self) -> Relation {
        match self {
            Party::Caller => Relation::Caller,
            Party::Callee => Relation::Callee,
        }
    }
}

/// Both relations.
#[derive(Clone, Debug)]
pub struct Channel {
    caller: RelationTable,
    callee: RelationTable,
    dropped: u64,
}

impl Default for Channel {
    fn default() -> Self {
        Channel::new(MAX_IN_FLIGHT)
    }
}

impl Channel {
    /// A channel with nothing in flight; `limit` holds per relation and side.
    #[must_use]
    pub fn new(limit: usize) -> Channel {
        Channel {
            caller: RelationTable::new(Relation::Caller, None, limit),
            callee: RelationTable::new(Relation::Callee, None, limit),
            dropped: 0,
        }
    }

    /// One relation.
    #[must_use]
    pub fn relation(&self, relation: Relation) -> &RelationTable {
        match relation {
            Relation::Caller => &self.caller,
            Relation::Callee => &self.callee,
        }
    }

    /// One relation, to set its era or to close an exchange.
    pub fn relation_mut(&mut self, relation: Relation) -> &mut RelationTable {
        match relation {
            Relation::Caller => &mut self.caller,
            Relation::Callee => &mut self.callee,
        }
    }

    /// Messages that were dropped.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Places one message of `sender`, received or about to be sent.
    ///
    /// # Errors
    /// As [`RelationTable::admit`]; without the header also when the relation cannot be told.
    pub fn admit(
        &mut self,
        sender: Party,
        header: Option<&McpExchange>,
        message: &Envelope,
        fresh: ExchangeId,
    ) -> Result<(Relation, Belongs), Rejected> {
        let placed = match header {
            Some(header) => Ok(header.relation),
            None => self.relation_of(sender, message),
        };
        let placed = placed.and_then(|relation| {
            let exchange = header.map(|header| header.exchange);
            let table = self.relation_mut(relation);
            table.admit(sender.side_in(relation), exchange, message, fresh).map(|belongs| (relation, belongs))
        });
        if let Err(Rejected::Drop(_)) = placed {
            self.dropped += 1;
        }
        placed
    }

    fn relation_of(&self, sender: Party, message: &Envelope) -> Result<Relation, Rejected> {
        let own = sender.own_relation();
        let served = own.other();
        let in_both = |test: &dyn Fn(&RelationTable, Side) -> bool| {
            let hit = |relation: Relation| test(self.relation(relation), sender.side_in(relation));
            match (hit(own), hit(served)) {
                (true, true) => Err(Rejected::Drop(DropReason::Ambiguous)),
                (true, false) => Ok(own),
                (false, true) => Ok(served),
                (false, false) => Err(Rejected::Drop(DropReason::Unknown)),
            }
        };
        let method = message.method().unwrap_or_default();
        match message.kind() {
            Kind::Request => Ok(self.relation_of_request(own, served, method)),
            Kind::Response | Kind::Error => in_both(&|table, side| table.knows(side, message)),
            Kind::Notification => match method {
                "notifications/progress" => in_both(&|table, side| table.knows(side, message)),
                "notifications/cancelled" => match in_both(&|table, side| table.cancels_own(side, message)) {
                    Err(Rejected::Drop(DropReason::Unknown)) => {
                        in_both(&|table, side| table.cancels_listen(side, message))
                    }
                    found => found,
                },
                // What only a client sends.
                "notifications/initialized" | "notifications/roots/list_changed" => Ok(own),
                // What only a server sends.
                "notifications/message"
                | "notifications/tools/list_changed"
                | "notifications/prompts/list_changed"
                | "notifications/resources/list_changed"
                | "notifications/resources/updated"
                | "notifications/subscriptions/acknowledged"
                | "notifications/elicitation/complete" => Ok(served),
                // A method that we do not know: only where one relation is in use.
                _ => match (self.relation(own).era(), self.relation(served).era()) {
                    (Some(_), Some(_)) => Err(Rejected::Drop(DropReason::Ambiguous)),
                    (None, Some(_)) => Ok(served),
                    (Some(_) | None, None) => Ok(own),
                },
            },
        }
    }

    fn relation_of_request(&self, own: Relation, served: Relation, method: &str) -> Relation {
        let legacy_server = self.relation(served).era() == Some(Era::Legacy);
        match method {
            "sampling/createMessage" | "elicitation/create" | "roots/list" if legacy_server => served,
            // A ping of a party that never was a client is the legacy server's.
            "ping" if legacy_server && self.relation(own).era().is_none() => served,
            _ => own,
        }
    }
}
