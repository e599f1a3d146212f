//! Messages on their way to the caller: carriers in turn (XCH-4), the store's outages, and what happens when nothing takes a message.

use std::sync::Arc;

use bytes::Bytes;
use mcp_sip::errors::{Executed, RpcError};
use mcp_sip::exchange::McpExchange;
use mcp_sip::jsonrpc::error_response;
use session_store::op::CloseExchange;

use super::Engine;
use super::judge::body_limit;
use super::pending::{Outgoing, Purpose};
use super::timers::Timer;
use super::types::{Carrier, Ctx, Delivery, DeliveryId, DeliveryOutcome, EngineOut, Leg};
use crate::effect::LogLevel;

/// So often a message is tried while the store is away: 0.5 s, 1 s, 2 s … between, half a minute together.
const ATTEMPTS: u32 = 7;
const FIRST_WAIT_MS: u64 = 500;

impl Engine {
    /// Hands a message to the SIP half.
    pub(super) fn deliver(
        &mut self,
        ctx: &mut Ctx<'_>,
        leg: Arc<Leg>,
        header: Option<McpExchange>,
        body: Bytes,
        close: Option<Box<CloseExchange>>,
        purpose: Purpose,
    ) {
        let id = DeliveryId(ctx.ids.number());
        let limit = body_limit(ctx.config, &leg);
        // Parameters that a peer put into its header are its own.
        let header = header.map(|header| McpExchange::new(header.exchange, header.relation));
        let carrier = if leg.key.in_dialog() { leg.carrier } else { Carrier::Message };
        let bytes = body.len();
        self.leg_deliveries.insert((leg.session, id));
        self.deliveries
            .insert(id, Outgoing { leg, header, body, close, carrier, is_second: false, attempts: 0, purpose });
        if bytes > limit {
            self.too_large(ctx, id, limit);
        } else {
            self.send(id);
        }
    }

    /// Puts a delivery out, for the first time or again.
    pub(super) fn send(&mut self, id: DeliveryId) {
        let Some(outgoing) = self.deliveries.get(&id) else { return };
        self.out.push_back(EngineOut::Deliver(Delivery {
            id,
            leg: outgoing.leg.clone(),
            carrier: outgoing.carrier,
            exchange: outgoing.header.clone(),
            body: outgoing.body.clone(),
            close: outgoing.close.clone(),
        }));
    }

    /// The SIP half says how a delivery ended.
    pub fn delivered(&mut self, ctx: &mut Ctx<'_>, id: DeliveryId, outcome: DeliveryOutcome) {
        let Some(outgoing) = self.deliveries.get_mut(&id) else { return };
        match outcome {
            DeliveryOutcome::Delivered => {
                self.remove(id);
            }
            // 408 and 481 end the dialog (RFC 5057); any other refusal is one of this carrier.
            DeliveryOutcome::Refused { status }
                if outgoing.leg.key.in_dialog() && !outgoing.is_second && !matches!(status, 408 | 481) =>
            {
                outgoing.is_second = true;
                outgoing.close = None;
                outgoing.carrier = match outgoing.carrier {
                    Carrier::Message => Carrier::Info,
                    Carrier::Info => Carrier::Message,
                };
                self.send(id);
            }
            DeliveryOutcome::StoreUnavailable if outgoing.attempts + 1 < ATTEMPTS => {
                let wait_ms = FIRST_WAIT_MS << outgoing.attempts;
                outgoing.attempts += 1;
                self.timers.set(Timer::Delivery(id), ctx.now.mono.plus_millis(wait_ms));
            }
            DeliveryOutcome::TooLarge { limit } => self.too_large(ctx, id, limit),
            DeliveryOutcome::Refused { .. } | DeliveryOutcome::Unreachable | DeliveryOutcome::StoreUnavailable => {
                self.undelivered(ctx, id);
            }
            // Somebody else answers this exchange now.
            DeliveryOutcome::Fenced => {
                self.remove(id);
                self.stats.dropped += 1;
            }
        }
    }

    /// Nothing is truncated: the caller hears that the answer does not fit, the server that its question does not (mcp.md 5.4).
    fn too_large(&mut self, ctx: &mut Ctx<'_>, id: DeliveryId, limit: usize) {
        let Some(outgoing) = self.remove(id) else { return };
        let error = RpcError::too_large(outgoing.body.len(), limit);
        match outgoing.purpose {
            Purpose::Final(request) => {
                let body = error_response(Some(&request), &error);
                self.deliver(ctx, outgoing.leg, outgoing.header, body, outgoing.close, Purpose::TooLarge);
            }
            Purpose::Ask { session, id: question, .. } => {
                if self.settled(ctx, session, &question).is_some() {
                    self.answer_for_caller(ctx, session, &question, &error);
                }
            }
            Purpose::TooLarge => self.stats.undelivered += 1,
            Purpose::Note { .. } => self.stats.dropped += 1,
        }
    }

    fn undelivered(&mut self, ctx: &mut Ctx<'_>, id: DeliveryId) {
        let Some(outgoing) = self.remove(id) else { return };
        self.stats.undelivered += 1;
        match outgoing.purpose {
            // The journal has the answer for a repetition.
            Purpose::Final(_) | Purpose::TooLarge => {
                let message = format!("an answer of {} reached no carrier of its caller", outgoing.leg.agent.key);
                self.log(LogLevel::Warn, message);
            }
            // The tool must not wait for somebody who cannot be asked.
            Purpose::Ask { session, id: question, .. } => {
                if self.settled(ctx, session, &question).is_some() {
                    let error = RpcError::interrupted(false, Executed::No);
                    self.answer_for_caller(ctx, session, &question, &error);
                }
            }
            Purpose::Note { .. } => {}
        }
    }

    pub(super) fn remove(&mut self, id: DeliveryId) -> Option<Outgoing> {
        let outgoing = self.deliveries.remove(&id)?;
        self.leg_deliveries.remove(&(outgoing.leg.session, id));
        self.timers.clear(Timer::Delivery(id));
        if let Purpose::Note { session, exchange } = &outgoing.purpose {
            let notes = match exchange {
                Some(no) => self.exchanges.get_mut(no).map(|exchange| &mut exchange.notes),
                None => self.sessions.get_mut(session).map(|session| &mut session.notes),
            };
            if let Some(notes) = notes {
                *notes = notes.saturating_sub(1);
            }
        }
        Some(outgoing)
    }
}
