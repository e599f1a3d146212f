//! Where the peer of a leg is when its flow is gone (sip.md, section 12.2): another flow of the same instance, its address, or a short wait
//! for it to register again.

use session_store::op::{StoreError, StoreOp, StoreReply};
use session_store::record::{Binding, DialogRecord};
use sip_proto::time::Mono;

use super::{PEER_AOR, PEER_CONTACT, PEER_INSTANCE, Step};
use crate::gruu::{instance, reg_id, same_instance};
use crate::locate::Located;
use crate::state::EdgeState;
use crate::timers::TimerKey;
use crate::token::FlowToken;
use crate::transactions::Target;

/// Requests that wait at once.
pub(super) const MAX_PARKED: usize = 4096;
/// So long they wait, and so often they look.
const PARK_MS: u64 = 3_000;
const LOOK_MS: u64 = 250;

/// A request whose peer is looked for.
#[derive(Debug)]
pub(crate) struct Reach {
    then: Located,
    aor: session_store::key::AorKey,
    instance: Option<String>,
    contact: String,
    next_hop: String,
    listener: u16,
    until: Mono,
}

/// One that waits.
#[derive(Debug)]
pub(crate) struct Parked(Reach);

impl EdgeState {
    /// Looks for the peer by its registration. `Err` gives `then` back: the record names none.
    pub(crate) fn reach_registered(
        &mut self,
        record: &DialogRecord,
        next_hop: &str,
        listener: u16,
        then: Located,
    ) -> Result<(), Located> {
        let domain = self.config.domains.get(&record.domain);
        let (Some(aor), Some(domain)) = (record.extra.get(PEER_AOR), domain) else { return Err(then) };
        let reach = Reach {
            then,
            aor: self.aor_key(domain.tenant, aor),
            instance: record.extra.get(PEER_INSTANCE).cloned(),
            contact: record.extra.get(PEER_CONTACT).unwrap_or(&record.remote_target).clone(),
            next_hop: next_hop.to_owned(),
            listener,
            until: self.now.mono.plus_millis(PARK_MS),
        };
        self.look(reach);
        Ok(())
    }

    fn look(&mut self, reach: Reach) {
        self.bridge_store(StoreOp::ReadBindings { aor: reach.aor }, Step::Reach(Box::new(reach)));
    }

    pub(super) fn reach_bindings(&mut self, mut reach: Reach, reply: Result<StoreReply, StoreError>) {
        let bindings = match reply {
            Ok(StoreReply::Bindings(bindings)) => bindings,
            Ok(_) | Err(_) => Vec::new(),
        };
        let mut own: Vec<&Binding> = bindings.iter().filter(|binding| is_peer(&reach, binding)).collect();
        own.sort_by_key(|binding| reg_id(&binding.contact).unwrap_or(0));
        let live = own.iter().find_map(|binding| Some((binding.uri.clone(), self.flow_of_binding(binding)?)));
        if let Some((uri, target)) = live {
            // The same instance on another connection: its new contact is the remote target from now on.
            reach.then.retarget(&uri);
            return self.located(reach.then, Some(target));
        }
        let bound_to_flows = own.iter().any(|binding| binding.flow.is_some() && reg_id(&binding.contact).is_some());
        if !bound_to_flows && self.is_routable(&reach.next_hop) {
            let Reach { then, next_hop, listener, .. } = reach;
            return self.locate(&next_hop, listener, then);
        }
        if self.now.mono >= reach.until || self.bridges.parked.len() >= MAX_PARKED {
            return self.located(reach.then, None);
        }
        let id = self.ids.number();
        self.timers.arm(TimerKey::Bridge(id), Some(self.now.mono.plus_millis(LOOK_MS)));
        self.bridges.parked.insert(id, Parked(reach));
    }

    pub(super) fn parked_timeout(&mut self, id: u64) {
        if let Some(Parked(reach)) = self.bridges.parked.remove(&id) {
            self.look(reach);
        }
    }

    fn flow_of_binding(&self, binding: &Binding) -> Option<Target> {
        let token = FlowToken::from_text(&self.config.token_keys, binding.flow.as_deref()?)?;
        self.way_of(&token, None)
    }

    /// Whether a connection to a URI can be opened at all: not to a WebSocket client, nor to a GRUU of ours.
    fn is_routable(&self, uri: &str) -> bool {
        let Some(uri) = sip_proto::uri::Uri::parse(uri).ok().and_then(|uri| uri.sip()) else { return false };
        let ws = uri.transport().is_some_and(|t| t.eq_ignore_ascii_case("ws") || t.eq_ignore_ascii_case("wss"));
        let ours = self.config.domains.contains_key(&uri.host_str().to_ascii_lowercase());
        let invalid = uri.host_str().to_ascii_lowercase().ends_with(".invalid");
        !ws && !ours && !invalid
    }

    /// A remote target that is a GRUU of ours stands for the contact that registered with it (RFC 5627 §5.1).
    pub(crate) fn contact_of(&self, record: &DialogRecord) -> Option<String> {
        let uri = sip_proto::uri::Uri::parse(&record.remote_target).ok().and_then(|uri| uri.sip())?;
        let ours = self.config.domains.contains_key(&uri.host_str().to_ascii_lowercase());
        let named = ours && self.gruu(&uri).is_ok_and(|named| named.is_some());
        named.then(|| record.extra.get(PEER_CONTACT).cloned()).flatten()
    }
}

fn is_peer(reach: &Reach, binding: &Binding) -> bool {
    match (&reach.instance, instance(&binding.contact)) {
        (Some(wanted), Some(own)) => same_instance(wanted, &own),
        // Without an instance only the very same contact is the same UA (without GRUU nothing else is legal).
        _ => binding.uri == reach.contact,
    }
}
