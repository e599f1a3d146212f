//! What the tasks of one operator process share: the index, what each edge should hold, and what the edges said. One lock; nobody awaits
//! under it. Who changed something says so ([`Board::change`]); who lives from changes is woken once for many ([`Board::revisions`]).

use crate::index::Index;
use crate::key::Key;
use crate::plan::backends::Backends;
use crate::plan::delta::Wants;
use crate::plan::finalizer::Leaving;
use crate::plan::fleet::Fleets;
use crate::plan::running::Running;
use crate::serve::mirrors::Mirrors;
use crate::serve::streams::Streams;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use tokio::sync::watch;

/// The shared values.
#[derive(Debug, Default)]
pub struct State {
    pub index: Index,
    /// Follows the index: [`Wants::update`] is called by the task that tells the edges, once for many changes.
    pub wants: Wants,
    pub fleets: Fleets,
    /// What runs in the cluster for our SipEdges.
    pub running: Running,
    /// Where the backends of agents answer.
    pub backends: Backends,
    /// Objects of ours that are being deleted.
    pub leaving: BTreeMap<Key, Leaving>,
    /// The ConfigMap with the numbers was deleted: what is known of them is to be written again.
    pub tenants_lost: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Board {
    state: Mutex<State>,
    revision: watch::Sender<u64>,
    streams: Streams,
    mirrors: Mirrors,
}

impl Default for Board {
    fn default() -> Self {
        let revision = watch::Sender::new(0);
        Board { state: Mutex::default(), revision, streams: Streams::default(), mirrors: Mirrors::default() }
    }
}

impl Board {
    /// Changes something, and wakes whoever follows.
    pub fn change<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        let value = self.quietly(work);
        self.revision.send_modify(|revision| *revision = revision.wrapping_add(1));
        value
    }

    /// Changes what nobody follows, or reads: the counters of a report, the next message of a stream.
    pub fn quietly<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        // A panic under the lock ended its task, and with it the process; what is left is read at most once more, to say so.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut state)
    }

    /// The edges that are attached here, to ask them.
    #[must_use]
    pub fn streams(&self) -> &Streams {
        &self.streams
    }

    /// The replicas that tell this one of their edges.
    #[must_use]
    pub fn mirrors(&self) -> &Mirrors {
        &self.mirrors
    }

    /// Changes with every [`Board::change`]; many changes between two looks are one.
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }
}
