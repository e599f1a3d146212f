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

impl Redis {
    /// # Errors
    /// When it cannot be started or does not answer.
    pub fn start(folder: &Path) -> io::Result<Redis> {
        let port = free_port()?;
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
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

    /// How many keys there are.
    pub fn keys(&self) -> u64 {
        self.ask("DBSIZE").ok().and_then(|reply| reply.trim().strip_prefix(':')?.parse().ok()).unwrap_or(0)
    }
}
