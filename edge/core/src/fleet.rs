//! A core among others: its lease, what it adopts, and what other edges tell it.

use std::sync::Arc;

use session_store::op::Adopted;

use crate::lease::Membership;
use crate::mesh::MeshMessage;
use crate::state::EdgeState;

impl EdgeState {
    pub(crate) fn membership(&mut self, membership: Arc<Membership>) {
        self.owner = membership.owner;
    }

    pub(crate) fn adopt(&mut self, items: Vec<Adopted>) {
        let _ = items;
    }

    pub(crate) fn on_mesh(&mut self, from: u64, message: MeshMessage) {
        let _ = (from, message);
    }

    pub(crate) fn mesh_failed(&mut self, to: u64, tag: u64) {
        let _ = (to, tag);
    }
}
