//! Edges, leases, adoption, tenant numbers (`functions/edges.lua`, `functions/adoption.lua`).

use session_store::key::Tenant;
use session_store::op::{EDGE_LISTED_MS, EPOCH_MS, StoreOp};

use super::{Call, Encoder, Plan};
use crate::names::{self, hex};

impl Encoder<'_> {
    fn of_edges(&self, function: &'static str) -> Call {
        let call = self.tagged(function, self.keys().edges()).key(self.keys().generation());
        call.ttl(EDGE_LISTED_MS).ttl(EPOCH_MS)
    }

    pub(super) fn edges(&self, op: &StoreOp) -> Plan {
        Plan::only(match op {
            StoreOp::TakeEpoch { pod, boot, last_epoch, address, lease_ms, generation } => {
                let call = self.of_edges("take_epoch").text(pod).text(boot).text(last_epoch).ttl(*lease_ms);
                call.text(hex(generation)).text(address)
            }
            StoreOp::Heartbeat { owner, address, lease_ms, draining } => {
                let call = self.of_edges("heartbeat").text(names::owner(owner)).ttl(*lease_ms);
                call.flag(*draining).text(address)
            }
            StoreOp::Leave { owner } => self.of_edges("leave").text(names::owner(owner)),
            StoreOp::Adopt { slot, from, by, limit, lease_ms } => {
                let call = self.call("adopt", self.keys().owned(*slot, from.pod), *slot);
                call.text(names::owner(from)).text(names::owner(by)).text(limit).ttl(*lease_ms)
            }
            StoreOp::TenantNumber { domain } => {
                self.tagged("tenant_number", self.keys().tenants()).text(hex(domain)).text(Tenant::MAX)
            }
            _ => unreachable!("`plan` sends only operations of edges here"),
        })
    }
}
