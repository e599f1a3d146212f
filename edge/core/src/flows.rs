//! Stream connections that are open, and for whom a TLS connection was authenticated once (security.md, section 5).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use session_store::key::DialogKey;

use crate::engine::Principal;
use crate::input::{ConnId, Flow, FlowKey, Transport};

/// Domains of which one connection can be a user at once.
const MAX_MARKS: usize = 4;

#[derive(Debug)]
struct Open {
    flow: Arc<Flow>,
    /// (domain, principal): a credential for one tenant never opens another.
    marks: Vec<(String, Principal)>,
    /// Dialogs that end with it: opened without credentials.
    dialogs: BTreeSet<DialogKey>,
}

/// The open connections. The shell closes what it opened, so the table is as large as its own.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    open: HashMap<ConnId, Open>,
}

impl Flows {
    pub fn len(&self) -> usize {
        self.open.len()
    }

    pub fn contains(&self, conn: ConnId) -> bool {
        self.open.contains_key(&conn)
    }

    /// The connection, if it is still there.
    pub fn get(&self, conn: ConnId) -> Option<&Arc<Flow>> {
        self.open.get(&conn).map(|o| &o.flow)
    }

    /// A connection is there; also called for each message, because the shell may tell the shards in any order.
    pub fn opened(&mut self, flow: &Arc<Flow>) {
        if let FlowKey::Stream(conn) = flow.key {
            self.open.entry(conn).or_insert_with(|| Open {
                flow: flow.clone(),
                marks: Vec::new(),
                dialogs: BTreeSet::new(),
            });
        }
    }

    /// It is gone; so are these dialogs.
    pub fn closed(&mut self, conn: ConnId) -> BTreeSet<DialogKey> {
        self.open.remove(&conn).map(|open| open.dialogs).unwrap_or_default()
    }

    /// A dialog ends with this connection.
    pub fn bind(&mut self, conn: ConnId, dialog: DialogKey) {
        if let Some(open) = self.open.get_mut(&conn) {
            open.dialogs.insert(dialog);
        }
    }

    /// The dialog has ended, or is another's.
    pub fn unbind(&mut self, conn: ConnId, dialog: DialogKey) {
        if let Some(open) = self.open.get_mut(&conn) {
            open.dialogs.remove(&dialog);
        }
    }

    /// Remembers who authenticated here. Over TLS only: elsewhere anybody could add bytes to the connection.
    pub fn mark(&mut self, flow: &Flow, domain: &str, principal: &Principal) {
        let (FlowKey::Stream(conn), Transport::Tls | Transport::Wss) = (&flow.key, flow.transport) else { return };
        let Some(open) = self.open.get_mut(conn) else { return };
        open.marks.retain(|(known, _)| known != domain);
        if open.marks.len() < MAX_MARKS {
            open.marks.push((domain.to_owned(), principal.clone()));
        }
    }

    /// Who authenticated here for this domain.
    pub fn marked(&self, flow: &Flow, domain: &str) -> Option<&Principal> {
        let FlowKey::Stream(conn) = &flow.key else { return None };
        self.open.get(conn)?.marks.iter().find(|(known, _)| known == domain).map(|(_, principal)| principal)
    }
}
