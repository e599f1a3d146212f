//! The MCP half of an edge: exchanges, legacy sessions, policy, the journal and the backend's streams.
//! It knows legs, not SIP messages; the SIP half delivers what it says and tells how that ended.
//!
//! The order of one request: [`Engine::judge`] → the SIP half writes what the verdict asks for → [`Engine::written`] → the SIP answer
//! leaves → [`Engine::poll`] hands out the forward to the backend. So nothing is forwarded that is not in the journal, and nobody hears
//! "200" for what is not there. After every call the SIP half drains `poll` to `None`.

mod types;

pub use types::{
    AgentStats, Carrier, Closing, Ctx, Delivery, DeliveryId, DeliveryOutcome, EngineOut, EngineStats, Ids, Inbound, Leg, LegKey, Principal,
    SipAnswer, Ticket, ToolStats, Verdict, Written,
};
