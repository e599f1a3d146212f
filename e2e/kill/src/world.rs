//! Everything of one run: the store, the agent, the edges, the clients, and the folder that goes with them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use crate::Fallible;
use crate::args::{Args, Class, Topology};
use crate::certificates::Authority;
use crate::edge::Edge;
use crate::manifests::{Keys, Plan};
use crate::place::{self, Net};
use crate::process::Program;
use crate::redis::Store;
use crate::ua::{Counts, Transport, Ua};

/// In memory, so that other users of the disk do not stop the store or the edges. A file there outlives `kill -9` as one on a disk does; the
/// power of the machine is not what is cut here.
fn folder() -> Fallible<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix("kill-");
    let made = match memory.is_dir() {
        true => builder.tempdir_in(memory).or_else(|_| builder.tempdir()),
        false => builder.tempdir(),
    };
    made.map_err(|error| format!("a folder for the run: {error}"))
}

/// A line of the ledger.
#[derive(Deserialize)]
struct Entry {
    id: String,
    event: String,
}

pub struct World {
    pub edges: Vec<Edge>,
    pub store: Store,
    pub clients: Vec<Ua>,
    pub counts: Arc<Counts>,
    _agent: Program,
    ledger: PathBuf,
    // Last, so that it goes when everything in it has ended.
    folder: tempfile::TempDir,
}

impl World {
    pub async fn start(
        args: &Args,
        authority: &Authority,
        topology: Topology,
        class: Class,
        journal: bool,
    ) -> Fallible<World> {
        let folder = folder()?;
        let path = folder.path();
        let net = Net::take();
        let store = Store::start(topology, class, args.server.as_deref(), net, path).await?;
        let ledger = path.join("ledger.jsonl");
        let mut command = Command::new(place::program("ledger-agent")?);
        command.arg("--ledger").arg(&ledger).args(["--listen", &format!("{}:0", net.host(200))]);
        let mut agent = Program::start("ledger", command, path)?;
        let line = agent.line("listening on http", 0, Duration::from_secs(20)).await?;
        let url = line.trim_start_matches("listening on ").trim().to_owned();
        let users: Vec<String> = (1..=args.clients).map(|n| format!("user{n}")).collect();
        let plan = Plan { authority, store: &store, class, users: &users, agent: &url };
        let keys = Keys::new();
        let mut edges = Vec::new();
        let count = if topology == Topology::Embedded { 1 } else { 3 };
        for place in 0..count {
            let ip = net.host(u8::try_from(place + 1).unwrap_or(1));
            edges.push(Edge::start(&plan, &keys, path, place, ip, journal).await?);
        }
        let counts: Arc<Counts> = Arc::default();
        let ips: Vec<_> = edges.iter().map(|edge| edge.ip).collect();
        let tls = authority.client_config()?;
        let mut clients = Vec::new();
        for (place, user) in users.iter().enumerate() {
            let transport = [Transport::Udp, Transport::Tls, Transport::Wss][place % 3];
            clients.push(Ua::start(user, transport, net.host(100), ips.clone(), tls.clone(), counts.clone()).await?);
        }
        Ok(World { edges, store, clients, counts, _agent: agent, ledger, folder })
    }

    /// Executions by the argument `id`.
    pub fn executions(&self) -> BTreeMap<String, u32> {
        let text = std::fs::read_to_string(&self.ledger).unwrap_or_default();
        let mut counts = BTreeMap::new();
        for entry in text.lines().filter_map(|line| serde_json::from_str::<Entry>(line).ok()) {
            if entry.event == "start" {
                *counts.entry(entry.id).or_insert(0) += 1;
            }
        }
        counts
    }

    /// Ends everything; the folder stays where it is kept.
    pub fn end(mut self, keep: bool) -> Option<PathBuf> {
        for client in &self.clients {
            client.quit();
        }
        self.edges.clear();
        if keep {
            self.folder.disable_cleanup(true);
            return Some(self.folder.path().to_owned());
        }
        None
    }
}
