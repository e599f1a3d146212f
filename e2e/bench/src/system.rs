//! The programs under test: started, watched, and ended by pid. CPU is read from the kernel's accounts of whole process trees.

pub mod edge;
pub mod kamailio;
pub mod redis;

use std::fs;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running program; ended when dropped.
pub struct Program {
    child: Child,
}

impl Program {
    /// Starts it with its output in `log`.
    ///
    /// # Errors
    /// What the system says, with the program's name.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> io::Result<Program> {
        let out = fs::File::create(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{name} cannot be started: {error}")))?;
        Ok(Program { child })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let pid = self.child.id().cast_signed();
        for signal in [libc_signal::TERM, libc_signal::KILL] {
            libc_signal::send(pid, signal);
            for _ in 0..100 {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Signals by the shell's own `kill`: no unsafe code for what happens twice per run.
mod libc_signal {
    use std::process::{Command, Stdio};

    pub const TERM: &str = "-TERM";
    pub const KILL: &str = "-KILL";

    pub fn send(pid: i32, signal: &str) {
        drop(
            Command::new("kill").args([signal, &pid.to_string()]).stdout(Stdio::null()).stderr(Stdio::null()).status(),
        );
    }
}

/// User and system time of the processes and all their descendants, in microseconds.
pub fn cpu_micros(roots: &[u32]) -> u64 {
    let tick = 1_000_000 / 100;
    let mut all: Vec<(u32, u32, u64)> = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // The name may hold blanks and parentheses: what counts begins after the last one.
        let Some((_, rest)) = stat.rsplit_once(')') else { continue };
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        all.push((pid, u32::try_from(number(1)).unwrap_or(0), (number(11) + number(12)) * tick));
    }
    let mut tree: Vec<u32> = roots.to_vec();
    let mut at = 0;
    while at < tree.len() {
        let parent = tree[at];
        tree.extend(all.iter().filter(|(_, of, _)| *of == parent).map(|(pid, _, _)| *pid));
        at += 1;
    }
    tree.sort_unstable();
    tree.dedup();
    all.iter().filter(|(pid, _, _)| tree.binary_search(pid).is_ok()).map(|(_, _, micros)| micros).sum()
}

/// The load of the last minute.
pub fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

/// Summed proportional set size of the process trees, in bytes.
pub fn memory_bytes(roots: &[u32]) -> u64 {
    let of = |pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    roots.iter().map(|pid| of(*pid)).sum()
}

/// Waits until a SIP server answers OPTIONS.
///
/// # Errors
/// When it does not within ten seconds.
pub fn wait_for_sip(server: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let from = socket.local_addr()?;
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut turn = 0;
    while Instant::now() < deadline {
        turn += 1;
        let probe = format!(
            "OPTIONS sip:bench.example SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bKprobe{turn};rport\r\nMax-Forwards: 5\r\n\
             From: <sip:probe@bench.example>;tag=p\r\nTo: <sip:bench.example>\r\nCall-ID: probe{turn}@bench\r\nCSeq: 1 OPTIONS\r\n\
             Content-Length: 0\r\n\r\n"
        );
        socket.send_to(probe.as_bytes(), server)?;
        let mut buffer = [0u8; 2048];
        if socket.recv_from(&mut buffer).is_ok() {
            return Ok(());
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, format!("nobody answers OPTIONS at {server}")))
}

/// A program of the project: beside this one.
pub fn beside(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().unwrap_or_default();
    path.set_file_name(name);
    path
}

/// A free port for UDP and TCP on loopback.
///
/// # Errors
/// When there is none.
pub fn free_port() -> io::Result<u16> {
    let tcp = std::net::TcpListener::bind("127.0.0.1:0")?;
    tcp.local_addr().map(|address| address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_cpu_time_is_seen() {
        let before = cpu_micros(&[std::process::id()]);
        let start = Instant::now();
        let mut n = 0u64;
        while start.elapsed() < Duration::from_millis(200) {
            n = std::hint::black_box(n.wrapping_mul(31).wrapping_add(1));
        }
        assert!(cpu_micros(&[std::process::id()]) > before);
        assert!(memory_bytes(&[std::process::id()]) > 100_000);
    }
}
