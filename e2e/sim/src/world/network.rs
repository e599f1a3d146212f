//! Datagrams that are lost, late and doubled; connections that break; the mesh.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use edge_core::input::{ConnId, Flow, FlowKey, Input, Transport};
use edge_core::mesh::MeshMessage;
use sip_proto::framing::{FrameLimits, datagram};

use super::{EDGES, Event, World};
use crate::caller::Out;
use crate::setup::{caller_address, core_address};

/// A mesh call without an answer fails after so long.
const MESH_DEADLINE_MS: u64 = 1_000;

impl World {
    pub(super) fn datagram_in(&mut self, edge: usize, from: SocketAddr, bytes: Bytes) {
        if !self.edges[edge].joined {
            return;
        }
        let Ok(Some(message)) = datagram(bytes, &FrameLimits::default()) else { return };
        let caller = self.callers.iter().position(|c| caller_address(c.index) == from);
        let flow = Flow {
            key: FlowKey::Datagram { listener: 0, remote: from },
            transport: Transport::Udp,
            listener: 0,
            local: core_address(edge),
            remote: from,
            certificate: caller.map(|c| self.certificates[c].clone()),
        };
        self.input(edge, Input::Message { flow: Arc::new(flow), message });
    }

    pub(super) fn stream_in(&mut self, edge: usize, life: u32, conn: ConnId, bytes: Bytes) {
        if self.edges[edge].life != life {
            return;
        }
        let Some(caller) = self.edges[edge].conns.get(&conn).copied() else { return };
        let Ok(Some(message)) = datagram(bytes, &FrameLimits::default()) else { return };
        let flow = self.stream(edge, caller, conn);
        self.input(edge, Input::Message { flow, message });
    }

    fn open_conn(&mut self, edge: usize, caller: usize) -> ConnId {
        let conn = ConnId(self.edges[edge].next_conn);
        self.edges[edge].next_conn += 1;
        self.edges[edge].conns.insert(conn, caller);
        let flow = self.stream(edge, caller, conn);
        let now = self.clock();
        if let Some(state) = &mut self.edges[edge].state {
            state.handle(now, Input::FlowOpened { flow });
        }
        conn
    }

    pub(super) fn connect_to_caller(&mut self, edge: usize, remote: SocketAddr, bytes: Bytes, tag: u64) {
        // Callers on streams sit behind address translation: nobody connects to them.
        let Some(caller) = self.caller_at(remote).filter(|c| !self.callers[*c].uses_streams) else {
            let now = self.clock();
            if let Some(state) = &mut self.edges[edge].state {
                state.handle(now, Input::SendFailed { tag });
            }
            return;
        };
        self.note_request(&bytes);
        let conn = self.open_conn(edge, caller);
        let life = self.edges[edge].life;
        let at = self.now + 3;
        self.at(at, Event::ToCaller { caller, from: edge, bytes, conn: Some((life, conn)) });
    }

    fn caller_at(&self, remote: SocketAddr) -> Option<usize> {
        self.callers.iter().position(|c| caller_address(c.index) == remote)
    }

    /// A request of an edge in a dialog, as the wire shows it.
    pub(super) fn note_request(&mut self, bytes: &Bytes) {
        let Ok(Some(message)) = datagram(bytes.clone(), &FrameLimits::default()) else { return };
        if message.is_request() && message.to_tag().is_some() {
            let branch = message.top_via().branch().unwrap_or_default().to_owned();
            let cseq = message.cseq();
            self.model.request_out(message.call_id(), cseq.seq, cseq.method.as_str(), &branch);
        }
    }

    pub(super) fn send_to_caller(&mut self, edge: usize, remote: SocketAddr, bytes: Bytes) {
        let Some(caller) = self.caller_at(remote) else { return };
        for delay in self.fate_of_datagram() {
            let at = self.now + delay;
            self.at(at, Event::ToCaller { caller, from: edge, bytes: bytes.clone(), conn: None });
        }
    }

    /// When a datagram arrives: never, once, or twice.
    fn fate_of_datagram(&mut self) -> Vec<u64> {
        if self.is_calm() {
            return vec![1];
        }
        let fate = self.rng.below(1000);
        let delay = if self.rng.chance(50) { self.rng.range(50, 1_500) } else { self.rng.range(1, 20) };
        if fate < 60 {
            self.report.faults += 1;
            Vec::new()
        } else if fate < 90 {
            self.report.faults += 1;
            vec![delay, delay + self.rng.range(1, 800)]
        } else {
            vec![delay]
        }
    }

    pub(super) fn caller_out(&mut self, caller: usize, out: Vec<Out>, back: Option<(usize, Option<(u32, ConnId)>)>) {
        for one in out {
            match (one, back) {
                (Out::Back(bytes), Some((edge, Some((life, conn))))) => {
                    let at = self.now + 2;
                    self.at(at, Event::StreamToEdge { edge, life, conn, bytes });
                }
                (Out::Any(bytes), _) if self.callers[caller].uses_streams => self.on_own_stream(caller, bytes),
                (Out::Any(bytes), _) => {
                    let edge = self.rng.below(EDGES as u64) as usize;
                    self.datagram_out(caller, edge, &bytes);
                }
                (Out::Back(bytes), Some((edge, None))) => self.datagram_out(caller, edge, &bytes),
                (Out::Back(_), None) => {}
            }
        }
        if let Some(at) = self.callers[caller].poll_timeout() {
            let at = at.max(self.now + 1);
            self.at(at, Event::Caller { caller });
        }
    }

    fn datagram_out(&mut self, caller: usize, edge: usize, bytes: &Bytes) {
        let from = caller_address(self.callers[caller].index);
        for delay in self.fate_of_datagram() {
            let at = self.now + delay;
            self.at(at, Event::ToEdge { edge, from, bytes: bytes.clone() });
        }
    }

    /// On the caller's connection; on a new one to some edge that listens, where it has none.
    fn on_own_stream(&mut self, caller: usize, bytes: Bytes) {
        let known = self.own_conn.get(&caller).copied().filter(|(edge, life, _)| self.edges[*edge].life == *life);
        let (edge, life, conn) = match known {
            Some(conn) => conn,
            None => {
                let open: Vec<usize> = (0..EDGES)
                    .filter(|e| {
                        self.edges[*e].joined
                            && self.edges[*e].state.is_some()
                            && self.edges[*e].stopped_until <= self.now
                    })
                    .collect();
                if open.is_empty() {
                    return;
                }
                let edge = open[self.rng.below(open.len() as u64) as usize];
                let conn = self.open_conn(edge, caller);
                let conn = (edge, self.edges[edge].life, conn);
                self.own_conn.insert(caller, conn);
                conn
            }
        };
        self.callers[caller].on_its_way(&bytes);
        let at = self.now + 2;
        self.at(at, Event::StreamToEdge { edge, life, conn, bytes });
    }

    fn are_apart(&self, one: usize, other: usize) -> bool {
        self.apart.get(&(one.min(other), one.max(other))).is_some_and(|until| *until > self.now)
    }

    pub(super) fn mesh_out(&mut self, from: usize, to: u64, message: MeshMessage) {
        let life = self.edges[from].life;
        let target = usize::try_from(to).ok().and_then(|pod| pod.checked_sub(1)).filter(|edge| *edge < EDGES);
        let failed = |tag| Event::MeshFailed { edge: from, life, to, tag };
        let reached = target.filter(|edge| self.edges[*edge].state.is_some() && !self.are_apart(from, *edge));
        let Some(edge) = reached else {
            if let Some(tag) = message.tag() {
                let at = self.now + 5;
                self.at(at, failed(tag));
            }
            return;
        };
        if self.edges[edge].stopped_until > self.now
            && let Some(tag) = message.tag()
        {
            // No acknowledgement in time, and it may arrive all the same.
            let at = self.now + MESH_DEADLINE_MS;
            self.at(at, failed(tag));
        }
        let target_life = self.edges[edge].life;
        let at = self.now + self.rng.range(1, 5);
        self.at(at, Event::Mesh { from, to: edge, life: target_life, message });
    }

    pub(super) fn mesh_in(&mut self, from: usize, to: usize, life: u32, message: MeshMessage) {
        self.input_of(to, life, Input::Mesh { from: from as u64 + 1, message });
    }
}
