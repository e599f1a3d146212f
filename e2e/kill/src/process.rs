//! Processes with an end: output goes to a file, waiting has a limit, dropping one kills it, and the kernel does so when we die.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Fallible;

/// Lines that an error shows.
const LAST_LINES: usize = 25;

pub struct Program {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts it; both streams are appended to `folder/NAME.log`.
    pub fn start(name: &str, command: Command, folder: &Path) -> Fallible<Program> {
        let log = folder.join(format!("{name}.log"));
        let open = || File::options().create(true).append(true).open(&log);
        let out = open().map_err(|error| format!("{}: {error}", log.display()))?;
        let err = open().map_err(|error| format!("{}: {error}", log.display()))?;
        let mut command = mortal(command);
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let child = command.spawn().map_err(|error| format!("{name} does not start: {error}"))?;
        Ok(Program { name: name.to_owned(), child, log })
    }

    /// Waits for the first line that contains `wanted`, of those after the first `skip` bytes of the log.
    pub async fn line(&mut self, wanted: &str, skip: u64, limit: Duration) -> Fallible<String> {
        let deadline = Instant::now() + limit;
        let skip = usize::try_from(skip).unwrap_or(0);
        loop {
            let bytes = fs::read(&self.log).unwrap_or_default();
            let text = String::from_utf8_lossy(bytes.get(skip..).unwrap_or_default());
            if let Some(line) = text.lines().find(|line| line.contains(wanted)) {
                return Ok(line.to_owned());
            }
            if let Some(status) = self.ended() {
                return Err(format!("{} ended ({status}) before it said {wanted:?}\n{}", self.name, self.told()));
            }
            if Instant::now() >= deadline {
                return Err(format!("{} did not say {wanted:?} within {limit:?}\n{}", self.name, self.told()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Its last lines, for a person.
    pub fn told(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('{')).collect();
        let last = lines.len().saturating_sub(LAST_LINES);
        lines[last..].iter().map(|line| format!("    {}| {line}\n", self.name)).collect()
    }

    /// For [`resident`].
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<String> {
        self.child.try_wait().ok().flatten().map(|status| status.to_string())
    }

    /// SIGKILL, and waits until the kernel has taken it away: its sockets are closed then.
    pub fn kill(&mut self) {
        // Ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// STOP, CONT or TERM.
    pub fn signal(&mut self, name: &str) {
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args([&format!("-{name}"), &pid]).stderr(Stdio::null()).status();
    }

    /// Waits for its own end.
    pub async fn wait(&mut self, limit: Duration) -> Fallible<String> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(format!("{} does not end within {limit:?}\n{}", self.name, self.told()));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Memory that a process holds now (`VmRSS`), bytes; `None` when it has ended.
pub fn resident(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The same command, ended by the kernel when we are: `setpriv` is part of every Debian.
fn mortal(command: Command) -> Command {
    if !Path::new("/usr/bin/setpriv").is_file() {
        return command;
    }
    let mut wrapped = Command::new("/usr/bin/setpriv");
    wrapped.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        wrapped.current_dir(folder);
    }
    wrapped
}
