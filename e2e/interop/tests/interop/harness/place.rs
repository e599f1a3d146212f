//! Where things are: programs, caches, addresses.

use std::env;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};

/// A program of ours, as `scripts/interop.sh` built it.
pub fn program(name: &str) -> PathBuf {
    let folder = match env::var_os("SIPMCP_BIN") {
        Some(folder) => PathBuf::from(folder),
        None => target(),
    };
    let path = folder.join(name);
    assert!(path.is_file(), "{} is missing; run scripts/interop.sh, which builds it", path.display());
    path
}

/// `target/debug`: this test lies in its folder `deps`.
pub fn target() -> PathBuf {
    let own = env::current_exe().unwrap();
    own.parent().and_then(Path::parent).unwrap().to_owned()
}

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Where `scripts/install.sh` puts packages of npm and PyPI.
pub fn cache() -> PathBuf {
    if let Some(cache) = env::var_os("SIPMCP_CACHE") {
        return cache.into();
    }
    let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    base.unwrap_or_else(|| PathBuf::from(env::var_os("HOME").unwrap()).join(".cache")).join("sipmcp")
}

/// A foreign program in the PATH.
pub fn peer(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file());
    // Debian keeps some of them where only root looks.
    let found = found.or_else(|| Some(Path::new("/usr/sbin").join(name)).filter(|path| path.is_file()));
    if found.is_none() {
        skip(name);
    }
    found
}

/// Whether this test may capture and make namespaces; said where it may not.
pub fn root_or_skip() -> bool {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    if !is_root {
        skip("root, which this test needs,");
    }
    is_root
}

/// Something is missing on this machine: fails in CI, is said elsewhere. Written past the capture of the test runner;
/// `scripts/interop.sh` counts these lines.
pub fn skip(what: &str) {
    assert!(env::var("CI").as_deref() != Ok("true"), "{what} is missing, and in CI nothing is skipped");
    say(&format!("\nskipped: {what} is missing (scripts/install.sh peers everything modern)"));
}

/// A line on standard output, seen also when the test passes.
pub fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

/// A loopback address that nobody else uses: the process decides the net, so that two runs do not meet.
pub fn address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let last = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(last < 255, "one run has 254 addresses");
    let process = std::process::id() % 62_500;
    let octet = |n: u32| u8::try_from(n + 1).unwrap();
    Ipv4Addr::new(127, octet(process / 250), octet(process % 250), last)
}

/// A port for a program that listens on all addresses. Below the range from which the system takes ports of its own.
pub fn wildcard_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 20_000 + u16::try_from(std::process::id() % 4000).unwrap();
    loop {
        let port = base + NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("0.0.0.0", port)).is_ok() && UdpSocket::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}
