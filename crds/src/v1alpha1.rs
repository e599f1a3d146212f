//! API group `sipmcp.dev`, version `v1alpha1`.

pub mod condition;
mod duration;
mod mcp_agent;
mod mcp_capability_policy;
mod reference;
mod selector;
mod session_store;
mod sip_domain;
mod sip_edge;
mod status;
mod workload;

pub use condition::{ConditionType, Reason};
pub use duration::*;
pub use mcp_agent::*;
pub use mcp_capability_policy::*;
pub use reference::*;
pub use selector::*;
pub use session_store::*;
pub use sip_domain::*;
pub use sip_edge::*;
pub use status::*;
pub use workload::*;

/// The API group of all kinds.
pub const GROUP: &str = "sipmcp.dev";
/// `apiVersion` of all kinds.
pub const API_VERSION: &str = "sipmcp.dev/v1alpha1";
