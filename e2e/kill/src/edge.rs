//! A real `sipmcp-edge`, and what stands between it and the others.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Fallible;
use crate::args::Topology;
use crate::manifests::{self, ADMIN, Keys, MESH, MESH_PROXY, Plan};
use crate::place;
use crate::process::Program;
use crate::proxy::Proxy;

const START: Duration = Duration::from_secs(30);
/// The switch of a debug build that leaves the journal out.
const NO_JOURNAL: &str = "SIPMCP_TEST_NO_JOURNAL";

pub struct Edge {
    pub name: String,
    pub ip: IpAddr,
    folder: PathBuf,
    arguments: Vec<String>,
    journal: bool,
    program: Option<Program>,
    /// Between it and a single Redis.
    pub store: Option<Proxy>,
    /// Before its mesh.
    pub mesh: Option<Proxy>,
}

impl Edge {
    /// Prepares and starts edge number `place` (from 0).
    pub async fn start(
        plan: &Plan<'_>,
        keys: &Keys,
        folder: &Path,
        place: usize,
        ip: IpAddr,
        journal: bool,
    ) -> Fallible<Edge> {
        let name = format!("edge-{}", place + 1);
        let addresses = plan.store.addresses();
        let (mut store, mut mesh) = (None, None);
        let mut seen = addresses.clone();
        if plan.store.topology == Topology::Single {
            let target = plan.store.nodes[0].address;
            let proxy = Proxy::start((ip, target.port()).into(), target).await?;
            seen = vec![proxy.address.to_string()];
            store = Some(proxy);
        }
        let manifests = manifests::write(plan, keys, folder, &name, ip, &seen)?;
        let mut arguments = vec![
            "--manifests".to_owned(),
            manifests.display().to_string(),
            "--admin".into(),
            format!("{ip}:{ADMIN}"),
            "--shards".into(),
            "2".into(),
            "--log-level".into(),
            std::env::var("KILL_EDGE_LOG").unwrap_or_else(|_| "info".into()),
            "--audit".into(),
            folder.join(format!("{name}.audit")).display().to_string(),
        ];
        if plan.store.is_shared() {
            let pair = plan.authority.mesh(std::slice::from_ref(&name))?;
            let file = |what: &str, text: &str| {
                let path = folder.join(format!("{name}-{what}"));
                fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
                Ok::<_, String>(path.display().to_string())
            };
            let proxy = Proxy::start((ip, MESH_PROXY).into(), (ip, MESH).into()).await?;
            let words = [
                ("--edge-id", name.clone()),
                ("--mesh-listen", SocketAddr::from((ip, MESH)).to_string()),
                ("--mesh-advertise", proxy.address.to_string()),
                ("--mesh-cert", file("mesh.crt", &pair.certificate)?),
                ("--mesh-key", file("mesh.key", &pair.key)?),
                ("--mesh-ca", file("mesh-ca.crt", &plan.authority.pem)?),
            ];
            arguments.extend(words.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
            mesh = Some(proxy);
        }
        let folder = folder.to_owned();
        let mut edge = Edge { name, ip, folder, arguments, journal, program: None, store, mesh };
        edge.up().await?;
        Ok(edge)
    }

    /// Starts it (again) and waits until it says that it is ready.
    pub async fn up(&mut self) -> Fallible<()> {
        let mut command = Command::new(place::program("sipmcp-edge")?);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SIPMCP_")) {
            command.env_remove(name);
        }
        command.args(&self.arguments).env("NO_COLOR", "1");
        if !self.journal {
            command.env(NO_JOURNAL, "1");
        }
        let log = self.folder.join(format!("{}.log", self.name));
        let before = fs::metadata(&log).map_or(0, |meta| meta.len());
        let program = self.program.insert(Program::start(&self.name, command, &self.folder)?);
        program.line(" ready", before, START).await.map(|_| ())
    }

    /// kill -9. When this returns its sockets are closed.
    pub fn kill(&mut self) {
        self.program = None;
    }

    /// STOP, CONT or TERM.
    pub fn signal(&mut self, name: &str) {
        if let Some(program) = self.program.as_mut() {
            program.signal(name);
        }
    }

    /// Waits for its own end after TERM.
    pub async fn wait(&mut self, limit: Duration) -> Fallible<String> {
        match self.program.as_mut() {
            Some(program) => program.wait(limit).await,
            None => Ok("was not running".into()),
        }
    }

    /// The process, while there is one.
    pub fn pid(&self) -> Option<u32> {
        self.program.as_ref().map(Program::pid)
    }

    /// An edge that ended although nobody killed it.
    pub fn fell(&mut self) -> Option<String> {
        let program = self.program.as_mut()?;
        let status = program.ended()?;
        Some(format!("{} ended by itself ({status})\n{}", self.name, program.told()))
    }

    /// What it counted, beside its log.
    pub async fn remember(&self) {
        let ask = async {
            let mut stream = TcpStream::connect((self.ip, ADMIN)).await?;
            stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            fs::write(self.folder.join(format!("{}.metrics", self.name)), text)
        };
        // Only for a person who looks at a failed run; an edge that does not answer has nothing to say.
        let _ = tokio::time::timeout(Duration::from_secs(2), ask).await;
    }

    /// Lines of its log that tell of a panic.
    pub fn panics(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.join(format!("{}.log", self.name))).unwrap_or_default();
        let bad = |line: &&str| line.contains("panicked at");
        text.lines().filter(bad).map(|line| format!("{}: {line}", self.name)).collect()
    }
}
