//! The store: real servers of Redis or Valkey, one, with sentinels, or as a cluster.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Fallible;
use crate::args::{Class, Topology};
use crate::place::{self, Net};
use crate::process::Program;
use crate::resp::{self, Value};

const PORT: u16 = 16379;
const SENTINEL: u16 = 26379;
/// How long servers may take to be what they should be.
const PATIENCE: Duration = Duration::from_secs(40);
/// What the sentinels call the primary.
const MASTER: &str = "kill";

/// One server.
pub struct Server {
    name: String,
    pub address: SocketAddr,
    arguments: Vec<String>,
    folder: PathBuf,
    program: Option<Program>,
}

/// All servers of one run.
pub struct Store {
    pub topology: Topology,
    class: Class,
    server: PathBuf,
    logs: PathBuf,
    pub nodes: Vec<Server>,
    sentinels: Vec<Server>,
}

impl Store {
    /// Starts what the topology needs and waits until it is whole.
    pub async fn start(
        topology: Topology,
        class: Class,
        server: Option<&Path>,
        net: Net,
        folder: &Path,
    ) -> Fallible<Store> {
        let server = match server {
            Some(path) => path.to_owned(),
            None => place::foreign("redis-server")?,
        };
        let mut store =
            Store { topology, class, server, logs: folder.to_owned(), nodes: Vec::new(), sentinels: Vec::new() };
        match topology {
            Topology::Embedded => {}
            Topology::Single => {
                store.add(net.host(11), &[])?;
                if class == Class::Replica {
                    store.add(net.host(12), &["--replicaof", &net.host(11).to_string(), &PORT.to_string()])?;
                }
            }
            Topology::Sentinel => {
                store.add(net.host(11), &[])?;
                for last in [12, 13] {
                    store.add(net.host(last), &["--replicaof", &net.host(11).to_string(), &PORT.to_string()])?;
                }
            }
            Topology::Cluster => {
                for last in 11..=16 {
                    let cluster = [
                        "--cluster-enabled",
                        "yes",
                        "--cluster-node-timeout",
                        "2000",
                        "--cluster-config-file",
                        "nodes.conf",
                    ];
                    store.add(net.host(last), &cluster)?;
                }
            }
        }
        for place in 0..store.nodes.len() {
            store.up(place).await?;
        }
        match topology {
            Topology::Sentinel => {
                store.replicas(0, 2).await?;
                store.watch(net).await?;
            }
            Topology::Cluster => store.join().await?,
            Topology::Single if class == Class::Replica => store.replicas(0, 1).await?,
            Topology::Single | Topology::Embedded => {}
        }
        Ok(store)
    }

    pub fn is_shared(&self) -> bool {
        self.topology != Topology::Embedded
    }

    /// Where an edge reaches the store when nothing stands between.
    pub fn addresses(&self) -> Vec<String> {
        let servers = if self.topology == Topology::Sentinel { &self.sentinels } else { &self.nodes };
        let servers = if self.topology == Topology::Single { &servers[..1] } else { &servers[..] };
        servers.iter().map(|server| server.address.to_string()).collect()
    }

    /// The SessionStore, reached at these addresses.
    pub fn manifest(&self, addresses: &[String]) -> Option<String> {
        let master = match self.topology {
            Topology::Embedded => return None,
            Topology::Sentinel => format!("    masterName: {MASTER}\n"),
            Topology::Single | Topology::Cluster => String::new(),
        };
        let list: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
        Some(format!(
            "apiVersion: sipmcp.dev/v1alpha1\nkind: SessionStore\nmetadata: {{name: main}}\nspec:\n  redis:\n    topology: {:?}\n\
             {master}    addresses: [{}]\n    keyPrefix: \"kill:\"\n",
            self.topology,
            list.join(", ")
        ))
    }

    fn add(&mut self, ip: IpAddr, more: &[&str]) -> Fallible<()> {
        let name = format!("redis-{}", self.nodes.len() + 1);
        let folder = self.logs.join(&name);
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let mut arguments: Vec<String> =
            ["--port", &PORT.to_string(), "--bind", &ip.to_string(), "--protected-mode", "no"]
                .into_iter()
                .chain(["--save", "", "--maxmemory-policy", "noeviction", "--loglevel", "notice"])
                .chain(["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"])
                .map(str::to_owned)
                .collect();
        // Else the kernel's choice of a source address is what the others are told.
        let announce =
            if self.topology == Topology::Cluster { "--cluster-announce-ip" } else { "--replica-announce-ip" };
        arguments.extend([announce.to_owned(), ip.to_string()]);
        arguments.push("--dir".into());
        arguments.push(folder.display().to_string());
        let persistence: &[&str] = match self.class {
            Class::Fsync => &["--appendonly", "yes", "--appendfsync", "always"],
            Class::Memory => &["--appendonly", "no"],
            Class::Replica => &["--appendonly", "no", "--min-replicas-to-write", "1", "--min-replicas-max-lag", "2"],
        };
        arguments.extend(persistence.iter().chain(more).map(|word| (*word).to_owned()));
        self.nodes.push(Server { name, address: (ip, PORT).into(), arguments, folder, program: None });
        Ok(())
    }

    /// Starts one server (again) and waits until it answers.
    pub async fn up(&mut self, place: usize) -> Fallible<()> {
        let (server, logs) = (self.server.clone(), self.logs.clone());
        self.nodes[place].up(&server, &logs).await
    }

    pub fn kill(&mut self, place: usize) {
        self.nodes[place].program = None;
    }

    pub fn signal(&mut self, place: usize, name: &str) {
        if let Some(program) = self.nodes[place].program.as_mut() {
            program.signal(name);
        }
    }

    /// What it has on its disk is gone when it comes back.
    pub fn empty(&mut self, place: usize) -> Fallible<()> {
        let folder = &self.nodes[place].folder;
        fs::remove_dir_all(folder)
            .and_then(|()| fs::create_dir_all(folder))
            .map_err(|error| format!("{}: {error}", folder.display()))
    }

    /// The primaries of the moment, as places in `nodes`.
    pub async fn primaries(&self) -> Vec<usize> {
        let mut found = Vec::new();
        for (place, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.program.is_some()) {
            if let Ok(answer) = resp::ask(node.address, &["INFO", "replication"]).await
                && answer.text().contains("role:master")
            {
                found.push(place);
            }
        }
        found
    }

    /// Waits until another server than `gone` is primary and takes writes of this many primaries in all.
    pub async fn promoted(&self, gone: usize, primaries: usize) -> Fallible<usize> {
        until("a promoted replica", || async {
            let now = self.primaries().await;
            let others: Vec<usize> = now.iter().copied().filter(|place| *place != gone).collect();
            match self.topology {
                Topology::Sentinel => {
                    let named = self.named_by_sentinel().await?;
                    others.into_iter().find(|place| self.nodes[*place].address == named)
                }
                // All slots must be served again.
                _ if others.len() >= primaries => {
                    let state = resp::ask(self.nodes[*others.first()?].address, &["CLUSTER", "INFO"]).await.ok()?;
                    state.text().contains("cluster_state:ok").then_some(())?;
                    others.last().copied()
                }
                _ => None,
            }
        })
        .await
    }

    async fn named_by_sentinel(&self) -> Option<SocketAddr> {
        let sentinel = self.sentinels.first()?;
        let answer = resp::ask(sentinel.address, &["SENTINEL", "get-master-addr-by-name", MASTER]).await.ok()?;
        let Value::List(parts) = answer else { return None };
        format!("{}:{}", parts.first()?.text(), parts.get(1)?.text()).parse().ok()
    }

    /// Whether a primary refuses writes because it has no replica.
    pub async fn lacks_replicas(&self) -> bool {
        for place in self.primaries().await {
            let answer = resp::ask(self.nodes[place].address, &["INFO", "replication"]).await;
            let Ok(answer) = answer else { continue };
            if answer.text().lines().any(|line| line.trim() == "min_slaves_good_slaves:0") {
                return true;
            }
        }
        false
    }

    /// Writes what each server counted beside its log.
    pub async fn remember(&self) {
        for node in &self.nodes {
            for section in ["commandstats", "latencystats", "stats", "keyspace"] {
                if let Ok(answer) = resp::ask(node.address, &["INFO", section]).await {
                    // Only for a person who looks at a failed run.
                    let _ = fs::write(self.logs.join(format!("{}.{section}", node.name)), answer.text());
                }
            }
        }
    }

    async fn replicas(&self, primary: usize, wanted: usize) -> Fallible<()> {
        let address = self.nodes[primary].address;
        until("its replicas", || async {
            let answer = resp::ask(address, &["INFO", "replication"]).await.ok()?;
            let online = answer.text().lines().filter(|line| line.contains("state=online")).count();
            (online >= wanted).then_some(())
        })
        .await
    }

    async fn watch(&mut self, net: Net) -> Fallible<()> {
        let primary = self.nodes[0].address;
        for last in [21, 22, 23] {
            let name = format!("sentinel-{}", self.sentinels.len() + 1);
            let folder = self.logs.join(&name);
            fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
            let ip = net.host(last);
            let config = folder.join("sentinel.conf");
            let text = format!(
                "port {SENTINEL}\nbind {ip}\nsentinel announce-ip {ip}\nprotected-mode no\ndir {}\nsentinel monitor {MASTER} {} {} 2\n\
                 sentinel down-after-milliseconds {MASTER} 1000\nsentinel failover-timeout {MASTER} 10000\n\
                 sentinel parallel-syncs {MASTER} 2\n",
                folder.display(),
                primary.ip(),
                primary.port()
            );
            fs::write(&config, text).map_err(|error| error.to_string())?;
            let arguments = vec![config.display().to_string(), "--sentinel".into()];
            let mut sentinel = Server { name, address: (ip, SENTINEL).into(), arguments, folder, program: None };
            sentinel.up(&self.server, &self.logs).await?;
            self.sentinels.push(sentinel);
        }
        let first = self.sentinels[0].address;
        until("sentinels that know each other and the replicas", || async {
            let answer = resp::ask(first, &["SENTINEL", "master", MASTER]).await.ok()?;
            let Value::List(fields) = answer else { return None };
            let field = |name: &str| {
                let place = fields.iter().position(|value| value.text() == name)?;
                fields.get(place + 1).map(|value| value.text().to_owned())
            };
            (field("num-other-sentinels")? == "2" && field("num-slaves")? == "2" && field("flags")? == "master")
                .then_some(())
        })
        .await
    }

    /// Three primaries get all slots, then each its replica.
    async fn join(&self) -> Fallible<()> {
        let nodes = &self.nodes;
        let good = |value: Value, what: &str| match value {
            Value::Error(error) => Err(format!("{what}: {error}")),
            _ => Ok(()),
        };
        for (place, (from, to)) in [(0, 5460), (5461, 10_922), (10_923, 16_383)].into_iter().enumerate() {
            let words = ["CLUSTER", "ADDSLOTSRANGE", &format!("{from}"), &format!("{to}")];
            good(resp::ask(nodes[place].address, &words).await?, "ADDSLOTSRANGE")?;
            let epoch = format!("{}", place + 1);
            good(resp::ask(nodes[place].address, &["CLUSTER", "SET-CONFIG-EPOCH", &epoch]).await?, "SET-CONFIG-EPOCH")?;
        }
        let first = nodes[0].address;
        for node in &nodes[1..] {
            let (ip, port) = (first.ip().to_string(), first.port().to_string());
            good(resp::ask(node.address, &["CLUSTER", "MEET", &ip, &port]).await?, "MEET")?;
        }
        for (place, node) in nodes.iter().enumerate().skip(3) {
            let primary = nodes[place - 3].address;
            let id = resp::ask(primary, &["CLUSTER", "MYID"]).await?;
            until("nodes that know each other", || async {
                let answer = resp::ask(node.address, &["CLUSTER", "REPLICATE", id.text()]).await.ok()?;
                (!matches!(answer, Value::Error(_))).then_some(())
            })
            .await?;
        }
        until("a whole cluster", || async {
            for node in nodes {
                let answer = resp::ask(node.address, &["CLUSTER", "INFO"]).await.ok()?;
                let text = answer.text();
                (text.contains("cluster_state:ok") && text.contains("cluster_known_nodes:6")).then_some(())?;
            }
            for node in &nodes[..3] {
                let answer = resp::ask(node.address, &["INFO", "replication"]).await.ok()?;
                answer.text().contains("state=online").then_some(())?;
            }
            Some(())
        })
        .await
    }
}

impl Server {
    async fn up(&mut self, server: &Path, logs: &Path) -> Fallible<()> {
        let mut command = Command::new(server);
        command.args(&self.arguments).current_dir(&self.folder);
        let program = Program::start(&self.name, command, logs)?;
        let program = self.program.insert(program);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = program.ended() {
                return Err(format!("{} ended ({status})\n{}", self.name, program.told()));
            }
            // Loading an append-only file is an error until it is done.
            if let Ok(Value::Text(text)) = resp::ask(self.address, &["PING"]).await
                && text == "PONG"
            {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(format!("{} does not answer\n{}", self.name, program.told()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn until<T, F>(what: &str, mut ask: impl FnMut() -> F) -> Fallible<T>
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ask().await {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            return Err(format!("the store: {what} did not come within {PATIENCE:?}"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Starts the real servers; skipped where there are none.
    #[tokio::test]
    async fn every_topology_stands_up_and_survives_its_primary() {
        if place::foreign("redis-server").is_err() {
            return;
        }
        for (topology, class) in [
            (Topology::Single, Class::Fsync),
            (Topology::Sentinel, Class::Replica),
            (Topology::Cluster, Class::Replica),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let mut store = Store::start(topology, class, None, Net::take(), folder.path()).await.unwrap();
            let primaries = store.primaries().await;
            assert_eq!(primaries.len(), if topology == Topology::Cluster { 3 } else { 1 });
            let primary = primaries[0];
            store.kill(primary);
            if topology != Topology::Single {
                let new = store.promoted(primary, primaries.len()).await.unwrap();
                assert_ne!(new, primary);
            }
            store.up(primary).await.unwrap();
        }
    }
}
