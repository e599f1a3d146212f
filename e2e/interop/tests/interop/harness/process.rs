//! Processes with an end: their output is kept, waiting has a limit, and dropping one kills it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::PATIENCE;

/// Lines that are kept of one process; a loud one loses its middle.
const MAX_LINES: usize = 20_000;
/// Lines of one process that a failure shows.
const LAST_LINES: usize = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Out,
    Err,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<(Stream, String)>>,
    more: Condvar,
}

/// A running process of a test.
pub struct Program {
    name: String,
    child: Child,
    log: Arc<Log>,
    readers: Vec<JoinHandle<()>>,
}

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
    pub took: Duration,
}

impl Program {
    /// Starts it. It dies with the thread that started it, even when the whole test is killed.
    #[track_caller]
    pub fn start(name: &str, command: &Command) -> Program {
        let mut command = mortal(command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error} ({command:?})"));
        let log = Arc::<Log>::default();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let readers = vec![read(Stream::Out, out, log.clone()), read(Stream::Err, err, log.clone())];
        Program { name: name.to_owned(), child, log, readers }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The first line, of those that were and those that come, that `wanted` accepts.
    #[track_caller]
    pub fn line(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        let log = self.log.clone();
        let mut lines = log.lines();
        let mut seen = 0;
        loop {
            if let Some((_, line)) = lines[seen.min(lines.len())..].iter().find(|(_, line)| wanted(line)) {
                return line.clone();
            }
            seen = lines.len();
            let now = Instant::now();
            let ended =
                matches!(self.child.try_wait(), Ok(Some(_))) && self.readers.iter().all(JoinHandle::is_finished);
            if now >= deadline || (ended && seen == lines.len()) {
                drop(lines);
                let why = if ended { "it ended" } else { "the time is over" };
                panic!("{} never said {what}: {why}\n{}", self.name, self.told());
            }
            let wait = (deadline - now).min(Duration::from_millis(200));
            lines = log.more.wait_timeout(lines, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What it said so far, of one stream.
    pub fn said(&self, stream: Stream) -> String {
        let lines = self.log.lines();
        lines.iter().filter(|(of, _)| *of == stream).map(|(_, line)| format!("{line}\n")).collect()
    }

    /// Its last lines, for a person.
    fn told(&self) -> String {
        let lines = self.log.lines();
        let last = lines.len().saturating_sub(LAST_LINES);
        lines[last..].iter().map(|(_, line)| format!("    {}| {line}\n", self.name)).collect()
    }

    pub fn terminate(&self) {
        signal(self.pid(), "TERM");
    }

    /// kill -9; its sockets are closed when this returns.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.drain();
                return status;
            }
            if Instant::now() >= deadline {
                panic!("{} does not end within {limit:?}\n{}", self.name, self.told());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its last words. A child of its own may hold the pipes open; nobody waits for that one.
    fn drain(&self) {
        let deadline = Instant::now() + Duration::from_secs(2);
        while Instant::now() < deadline && !self.readers.iter().all(JoinHandle::is_finished) {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Runs a program to its end.
#[track_caller]
pub fn run(name: &str, command: &Command, limit: Duration) -> Ended {
    let start = Instant::now();
    let mut program = Program::start(name, command);
    let status = program.wait(limit);
    let took = start.elapsed();
    Ended { code: status.code(), out: program.said(Stream::Out), err: program.said(Stream::Err), took }
}

pub fn signal(pid: u32, name: &str) {
    let _ = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
}

/// The same command, ended by the kernel when we are: `setpriv` is part of every Debian.
pub fn mortal(command: &Command) -> Command {
    if !std::path::Path::new("/usr/bin/setpriv").is_file() {
        let mut same = Command::new(command.get_program());
        return copy(command, &mut same);
    }
    let mut wrapped = Command::new("/usr/bin/setpriv");
    wrapped.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program());
    copy(command, &mut wrapped)
}

/// The same command before others, where that is allowed: what keeps deadlines of milliseconds is not measured by how busy the machine is.
pub fn urgent(command: &Command) -> Command {
    let mut wrapped = Command::new("nice");
    wrapped.args(["-n", "-10", "--"]).arg(command.get_program());
    copy(command, &mut wrapped)
}

fn copy(from: &Command, to: &mut Command) -> Command {
    let mut command = std::mem::replace(to, Command::new("true"));
    command.args(from.get_args());
    for (name, value) in from.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(folder) = from.get_current_dir() {
        command.current_dir(folder);
    }
    command
}

fn read(stream: Stream, from: impl Read + Send + 'static, log: Arc<Log>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n') {
            let Ok(line) = line else { break };
            let mut lines = log.lines();
            if lines.len() >= MAX_LINES {
                lines.drain(MAX_LINES / 4..MAX_LINES / 2);
            }
            lines.push((stream, String::from_utf8_lossy(&line).into_owned()));
            log.more.notify_all();
        }
        log.more.notify_all();
    })
}

impl Log {
    fn lines(&self) -> MutexGuard<'_, Vec<(Stream, String)>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            self.drain();
            eprintln!("--- {} said:\n{}", self.name, self.told());
        }
    }
}
