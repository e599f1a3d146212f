//! Correlation in one relation (binding 5.3): which exchange each message belongs to, with the header field or without.
//!
//! The table holds the requests that wait for their answer: those of the relation's client, each an exchange, and on a
//! legacy relation those of its server, each inside an exchange or in `session`. Both are bounded. Whoever ends an
//! exchange in another way than by its answer (deadline, lost backend) removes it with [`RelationTable::close`].

use super::{Exchange, ExchangeId, Relation};
use crate::era::Era;
use crate::errors::RpcError;
use crate::jsonrpc::{Envelope, Kind, RawId};

/// Requests in flight per relation and direction, unless configured (XCH-6 asks for 100 and more).
pub const MAX_IN_FLIGHT: usize = 128;

/// What a refused request is told to wait before it tries again, in milliseconds.
const RETRY_AFTER_MS: u64 = 1000;

/// The two sides of a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The MCP client.
    Client,
    /// The MCP server.
    Server,
}

/// What a message belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belongs {
    /// A request of the client: it opened this exchange.
    Opened(ExchangeId),
    /// A request of the client that is in flight already: the same id in the same exchange. The table is unchanged.
    Repeated(ExchangeId),
    /// Part of an exchange, or of the session: progress, a log message, a notification, a legacy server's request and
    /// its answer.
    Within(Exchange),
    /// The final answer. The exchange is closed and gone from the table.
    Answered(ExchangeId),
    /// A cancellation of the exchange, or the server's end of a listen stream. It is gone from the table; an answer
    /// that was on its way will be dropped.
    Cancelled(ExchangeId),
    /// A cancellation of a request of the (legacy) server.
    CancelledNested(Exchange),
}

/// A message that has no place here.
#[derive(Clone, Debug, PartialEq)]
pub enum Rejected {
    /// A request: answer it with this error.
    Refuse(RpcError),
    /// Anything else: drop and count it.
    Drop(DropReason),
}

/// Why a message is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DropReason {
    /// The header field names another exchange than the body.
    Contradiction,
    /// It answers, cancels or reports on nothing that is open.
    Unknown,
    /// It could belong to more than one.
    Ambiguous,
    /// This side may not send it in this relation.
    Direction,
}

impl DropReason {
    /// The name for the counter.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            DropReason::Contradiction => "contradiction",
            DropReason::Unknown => "unknown",
            DropReason::Ambiguous => "ambiguous",
            DropReason::Direction => "direction",
        }
    }
}

#[derive(Clone, Debug)]
struct Open {
    id: RawId,
    exchange: ExchangeId,
    token: Option<RawId>,
    listen: bool,
}

#[derive(Clone, Debug)]
struct Nested {
    id: RawId,
    exchange: Exchange,
    token: Option<RawId>,
}

/// One relation.
#[derive(Clone, Debug)]
pub struct RelationTable {
    relation: Relation,
    era: Option<Era>,
    limit: usize,
    open: Vec<Open>,
    nested: Vec<Nested>,
}

impl RelationTable {
    /// A relation with nothing in flight. `limit` holds for each side.
    #[must_use]
    pub fn new(relation: Relation, era: Option<Era>, limit: usize) -> RelationTable {
        RelationTable { relation, era, limit, open: Vec::new(), nested: Vec::new() }
    }

    /// Which relation.
    #[must_use]
    pub fn relation(&self) -> Relation {
        self.relation
    }

    /// The era, once it is decided.
    #[must_use]
    pub fn era(&self) -> Option<Era> {
        self.era
    }

    /// Sets the era that [`crate::era::RelationEra`] found.
    pub fn set_era(&mut self, era: Era) {
        self.era = Some(era);
    }

    /// The client's requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.open.len()
    }

    /// The legacy server's requests in flight.
    #[must_use]
    pub fn nested_in_flight(&self) -> usize {
        self.nested.len()
    }

    /// The exchange of a request in flight, by the client's id.
    #[must_use]
    pub fn exchange_of(&self, id: &RawId) -> Option<ExchangeId> {
        self.by_id(id).map(|open| open.exchange)
    }

    /// The client's id of an open exchange, as it was written.
    #[must_use]
    pub fn id_of(&self, exchange: ExchangeId) -> Option<&RawId> {
        self.open.iter().find(|open| open.exchange == exchange).map(|open| &open.id)
    }

    /// Removes an exchange and the server's requests in it; whether it was there.
    pub fn close(&mut self, exchange: ExchangeId) -> bool {
        let before = self.open.len();
        self.open.retain(|open| open.exchange != exchange);
        self.nested.retain(|nested| nested.exchange != Exchange::Id(exchange));
        self.open.len() < before
    }

    /// Removes everything, and gives the exchanges that were open.
    pub fn clear(&mut self) -> Vec<ExchangeId> {
        self.nested.clear();
        self.open.drain(..).map(|open| open.exchange).collect()
    }

    /// Places one message, received or about to be sent. `header` is its `MCP-Exchange`, `None` from a peer without
    /// it; `fresh` names the exchange that a request without the header opens.
    ///
    /// # Errors
    /// The message contradicts its header, belongs to nothing, or a limit is reached. The table is unchanged then.
    pub fn admit(
        &mut self,
        from: Side,
        header: Option<Exchange>,
        message: &Envelope,
        fresh: ExchangeId,
    ) -> Result<Belongs, Rejected> {
        match (message.kind(), from) {
            (Kind::Request, Side::Client) => self.request(header, message, fresh),
            (Kind::Request, Side::Server) => self.nested_request(header, message),
            (Kind::Response | Kind::Error, Side::Server) => self.answer(header, message),
            (Kind::Response | Kind::Error, Side::Client) => self.nested_answer(header, message),
            (Kind::Notification, _) => self.notification(from, header, message),
        }
    }

    fn mismatch(&self, message: &Envelope, what: &str) -> Rejected {
        let modern = self.era == Some(Era::Modern) || self.era.is_none() && message.meta_protocol_version().is_some();
        let era = if modern { Era::Modern } else { Era::Legacy };
        Rejected::Refuse(RpcError::header_mismatch(era, what))
    }

    fn request(
        &mut self,
        header: Option<Exchange>,
        message: &Envelope,
        fresh: ExchangeId,
    ) -> Result<Belongs, Rejected> {
        let Some(id) = message.id() else { return Err(Rejected::Drop(DropReason::Unknown)) };
        let exchange = match header {
            Some(Exchange::Session) => {
                return Err(self.mismatch(message, "a request opens an exchange of its own"));
            }
            Some(Exchange::Id(exchange)) => Some(exchange),
            None => None,
        };
        if let Some(open) = self.by_id(&id) {
            return match exchange {
                Some(other) if other != open.exchange => {
                    Err(Rejected::Refuse(RpcError::invalid_request("The id is in use by another exchange")))
                }
                _ => Ok(Belongs::Repeated(open.exchange)),
            };
        }
        let exchange = exchange.unwrap_or(fresh);
        if self.is_open(exchange) {
            return Err(self.mismatch(message, "the exchange belongs to another request"));
        }
        if self.open.len() >= self.limit {
            return Err(Rejected::Refuse(RpcError::limited("inFlightPerSession", RETRY_AFTER_MS)));
        }
        let token = message.meta_progress_token().map(|token| token.canonical());
        let listen = message.method() == Some("subscriptions/listen");
        self.open.push(Open { id, exchange, token, listen });
        Ok(Belongs::Opened(exchange))
    }

    fn nested_request(&mut self, header: Option<Exchange>, message: &Envelope) -> Result<Belongs, Rejected> {
        let Some(id) = message.id() else { return Err(Rejected::Drop(DropReason::Unknown)) };
        if self.era != Some(Era::Legacy) {
            let error = RpcError::invalid_request("Only a legacy server sends requests");
            return Err(Rejected::Refuse(error));
        }
        let exchange = header.unwrap_or(Exchange::Session);
        if let Some(nested) = self.nested_by_id(&id) {
            return if nested.exchange == exchange {
                Ok(Belongs::Within(exchange))
            } else {
                Err(Rejected::Refuse(RpcError::invalid_request("The id is in use by another exchange")))
            };
        }
        if let Exchange::Id(named) = exchange
            && !self.is_open(named)
        {
            return Err(self.mismatch(message, "the exchange is not open"));
        }
        if self.nested.len() >= self.limit {
            return Err(Rejected::Refuse(RpcError::limited("inFlightPerSession", RETRY_AFTER_MS)));
        }
        let token = message.meta_progress_token().map(|token| token.canonical());
        self.nested.push(Nested { id, exchange, token });
        Ok(Belongs::Within(exchange))
    }

    fn answer(&mut self, header: Option<Exchange>, message: &Envelope) -> Result<Belongs, Rejected> {
        let open = message.id().and_then(|id| self.by_id(&id)).ok_or(Rejected::Drop(DropReason::Unknown))?;
        let exchange = open.exchange;
        agrees(header, Exchange::Id(exchange))?;
        self.close(exchange);
        Ok(Belongs::Answered(exchange))
    }

    fn nested_answer(&mut self, header: Option<Exchange>, message: &Envelope) -> Result<Belongs, Rejected> {
        let id = message.id().ok_or(Rejected::Drop(DropReason::Unknown))?;
        let exchange = self.nested_by_id(&id).ok_or(Rejected::Drop(DropReason::Unknown))?.exchange;
        agrees(header, exchange)?;
        self.nested.retain(|nested| !nested.id.same(&id));
        Ok(Belongs::Within(exchange))
    }

    fn notification(&mut self, from: Side, header: Option<Exchange>, message: &Envelope) -> Result<Belongs, Rejected> {
        match message.method() {
            Some("notifications/cancelled") => self.cancelled(from, header, message),
            Some("notifications/progress") => {
                let exchange = self.progress(from, header, message)?;
                agrees(header, exchange)?;
                Ok(Belongs::Within(exchange))
            }
            _ => {
                let listen = message.meta_subscription_id().filter(|_| from == Side::Server);
                let exchange = match listen {
                    Some(id) => {
                        let open = self.open.iter().find(|open| open.listen && open.id.same(&id));
                        let open = open.ok_or(Rejected::Drop(DropReason::Unknown))?;
                        agrees(header, Exchange::Id(open.exchange))?;
                        Exchange::Id(open.exchange)
                    }
                    None => header.unwrap_or(Exchange::Session),
                };
                match exchange {
                    Exchange::Id(id) if !self.is_open(id) => Err(Rejected::Drop(DropReason::Unknown)),
                    exchange => Ok(Belongs::Within(exchange)),
                }
            }
        }
    }

    /// First among the sender's own open requests, then, from the server, among the listen streams that it serves.
    fn cancelled(&mut self, from: Side, header: Option<Exchange>, message: &Envelope) -> Result<Belongs, Rejected> {
        let id = message.request_id().ok_or(Rejected::Drop(DropReason::Unknown))?;
        if from == Side::Server
            && let Some(exchange) = self.nested_by_id(&id).map(|nested| nested.exchange)
        {
            agrees(header, exchange)?;
            self.nested.retain(|nested| !nested.id.same(&id));
            return Ok(Belongs::CancelledNested(exchange));
        }
        let open = self.by_id(&id).filter(|open| from == Side::Client || open.listen);
        let exchange = open.ok_or(Rejected::Drop(DropReason::Unknown))?.exchange;
        agrees(header, Exchange::Id(exchange))?;
        self.close(exchange);
        Ok(Belongs::Cancelled(exchange))
    }

    /// Progress names a token of the other side's request. Two requests may wrongly share one: then the header tells.
    fn progress(&self, from: Side, header: Option<Exchange>, message: &Envelope) -> Result<Exchange, Rejected> {
        let token = message.progress_token().ok_or(Rejected::Drop(DropReason::Unknown))?.canonical();
        let mut found: Vec<Exchange> = match from {
            Side::Server => {
                let open = self.open.iter().filter(|open| open.token.as_ref() == Some(&token));
                open.map(|open| Exchange::Id(open.exchange)).collect()
            }
            Side::Client => {
                let nested = self.nested.iter().filter(|nested| nested.token.as_ref() == Some(&token));
                nested.map(|nested| nested.exchange).collect()
            }
        };
        found.dedup();
        match (found.as_slice(), header) {
            ([], _) => Err(Rejected::Drop(DropReason::Unknown)),
            ([one], _) => Ok(*one),
            (several, Some(header)) if several.contains(&header) => Ok(header),
            (_, Some(_)) => Err(Rejected::Drop(DropReason::Contradiction)),
            (_, None) => Err(Rejected::Drop(DropReason::Ambiguous)),
        }
    }

    fn by_id(&self, id: &RawId) -> Option<&Open> {
        self.open.iter().find(|open| open.id.same(id))
    }

    fn nested_by_id(&self, id: &RawId) -> Option<&Nested> {
        self.nested.iter().find(|nested| nested.id.same(id))
    }

    fn is_open(&self, exchange: ExchangeId) -> bool {
        self.open.iter().any(|open| open.exchange == exchange)
    }

    /// Whether this message of that side answers, cancels or reports on something here: for a peer whose messages do
    /// not name their relation.
    pub(super) fn knows(&self, from: Side, message: &Envelope) -> bool {
        let id = || message.id();
        match (message.kind(), from, message.method()) {
            (Kind::Response | Kind::Error, Side::Server, _) => id().is_some_and(|id| self.by_id(&id).is_some()),
            (Kind::Response | Kind::Error, Side::Client, _) => id().is_some_and(|id| self.nested_by_id(&id).is_some()),
            (Kind::Notification, _, Some("notifications/progress")) => {
                !matches!(self.progress(from, None, message), Err(Rejected::Drop(DropReason::Unknown)))
            }
            (Kind::Notification, Side::Server, Some(_)) if message.meta_subscription_id().is_some() => {
                let id = message.meta_subscription_id();
                self.open.iter().any(|open| open.listen && id.as_ref().is_some_and(|id| open.id.same(id)))
            }
            _ => false,
        }
    }

    /// Whether `requestId` names a request of the sender itself in this relation.
    pub(super) fn cancels_own(&self, from: Side, message: &Envelope) -> bool {
        let Some(id) = message.request_id() else { return false };
        match from {
            Side::Client => self.by_id(&id).is_some(),
            Side::Server => self.nested_by_id(&id).is_some(),
        }
    }

    /// Whether `requestId` names a listen stream that the sender serves in this relation.
    pub(super) fn cancels_listen(&self, from: Side, message: &Envelope) -> bool {
        let Some(id) = message.request_id() else { return false };
        from == Side::Server && self.by_id(&id).is_some_and(|open| open.listen)
    }
}

/// The header, if there is one, must name what the body names.
fn agrees(header: Option<Exchange>, body: Exchange) -> Result<(), Rejected> {
    match header {
        Some(header) if header != body => Err(Rejected::Drop(DropReason::Contradiction)),
        _ => Ok(()),
    }
}
