//! A Redis of our own for one run.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::{Program, free_port};

pub struct Redis {
    pub program: Program,
    pub address: SocketAddr,
}

/// What it writes to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    None,
    /// AOF, synced before each reply.
    EveryWrite,
}

impl Redis {
    /// # Errors
    /// When it cannot be started or does not answer.
    pub fn start(folder: &Path, persistence: Persistence) -> io::Result<Redis> {
        let more: &[&str] = match persistence {
            Persistence::None => &["--appendonly", "no"],
            Persistence::EveryWrite => &["--appendonly", "yes", "--appendfsync", "always"],
        };
        Redis::with(folder, more)
    }

    /// A replica of this one that has caught up. The primary then takes writes only while it has one.
    ///
    /// # Errors
    /// When it cannot be started or does not catch up.
    pub fn replica(&self, folder: &Path) -> io::Result<Redis> {
        let address = format!("{} {}", self.address.ip(), self.address.port());
        let replica = Redis::with(folder, &["--replicaof", &address])?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while !replica.ask("INFO replication").is_ok_and(|text| text.contains("master_link_status:up")) {
            if Instant::now() > deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the replica does not catch up"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.ask("CONFIG SET min-replicas-to-write 1")?;
        self.ask("CONFIG SET min-replicas-max-lag 2")?;
        Ok(replica)
    }

    fn with(folder: &Path, more: &[&str]) -> io::Result<Redis> {
        let port = free_port()?;
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]).args(more);
        command.args(["--maxmemory-policy", "noeviction", "--dir"]).arg(folder);
        let program = Program::start("redis-server", &mut command, &folder.join("redis.log"))?;
        let redis = Redis { program, address: ([127, 0, 0, 1], port).into() };
        let deadline = Instant::now() + Duration::from_secs(5);
        while redis.ask("PING").is_err() {
            if Instant::now() > deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "redis-server does not answer"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(redis)
    }

    /// One inline command; the raw reply of at most 64 kB.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn ask(&self, command: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(format!("{command}\r\n").as_bytes())?;
        let mut reply = vec![0u8; 65_536];
        let length = stream.read(&mut reply)?;
        Ok(String::from_utf8_lossy(&reply[..length]).into_owned())
    }

    /// A number of `INFO` (`used_memory`, `total_commands_processed`).
    pub fn info(&self, name: &str) -> u64 {
        let text = self.ask("INFO").unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
    }

    /// Function calls since the start.
    pub fn function_calls(&self) -> u64 {
        let text = self.ask("INFO commandstats").unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("cmdstat_fcall:calls="));
        line.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
    }

    /// How many keys there are.
    pub fn keys(&self) -> u64 {
        self.ask("DBSIZE").ok().and_then(|reply| reply.trim().strip_prefix(':')?.parse().ok()).unwrap_or(0)
    }

    /// Keys whose name has `kind` behind the store's prefix.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn count(&self, kind: &str) -> io::Result<u64> {
        self.script(&format!("local n=0 for _,k in ipairs(redis.call('KEYS','*')) do if k:match('^[^:]*:{kind}') then n=n+1 end end return n"))
    }

    /// Keys of calls and registrations: all but what the edges keep of themselves, and nonces, which live on for their own time.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn keys_of_calls(&self) -> io::Result<u64> {
        self.script("local n=0 for _,k in ipairs(redis.call('KEYS','*')) do if not (k:find('{edges}',1,true) or k:match('^[^:]*:n:')) then n=n+1 end end return n")
    }

    /// The longest time to live of such a key, in seconds; -1: one lives for ever.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn longest_life(&self) -> io::Result<i64> {
        let reply = self.script_text("local n=0 for _,k in ipairs(redis.call('KEYS','*')) do if not k:find('{edges}',1,true) then local t=redis.call('TTL',k) if t==-1 then return -1 end if t>n then n=t end end end return n")?;
        reply.parse().map_err(io::Error::other)
    }

    fn script(&self, lua: &str) -> io::Result<u64> {
        self.script_text(lua)?.parse().map_err(io::Error::other)
    }

    fn script_text(&self, lua: &str) -> io::Result<String> {
        let reply = self.ask(&format!("EVAL \"{lua}\" 0"))?;
        let number = reply.trim().strip_prefix(':').map(str::to_owned);
        number.ok_or_else(|| io::Error::other(format!("redis said {reply:?}")))
    }
}
