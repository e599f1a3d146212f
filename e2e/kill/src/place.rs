//! Where programs are, which addresses are ours, and random names.

use std::env;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Fallible;

/// A program of this repository: in the folder `SIPMCP_BIN`, else beside this one.
pub fn program(name: &str) -> Fallible<PathBuf> {
    let own = || env::current_exe().ok().and_then(|path| path.parent().map(PathBuf::from));
    let folder = env::var_os("SIPMCP_BIN").map(PathBuf::from).or_else(own).ok_or("this program has no folder")?;
    let path = folder.join(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(format!("{} is missing; scripts/kill.sh builds it", path.display()))
}

/// A foreign program in the PATH, or where Debian keeps those of root.
pub fn foreign(name: &str) -> Fallible<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/bin".into(), "/usr/sbin".into()]);
    folders
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| format!("{name} is missing; scripts/install.sh redis installs it"))
}

/// A loopback /24 that no other run of this machine uses; the process decides it, and each call takes the next one.
#[derive(Clone, Copy, Debug)]
pub struct Net(u8, u8);

impl Net {
    pub fn take() -> Net {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let process = std::process::id() % 62_500;
        let octet = |n: u32| u8::try_from(n % 250 + 1).unwrap_or(1);
        Net(octet(process / 250 + NEXT.fetch_add(1, Ordering::Relaxed) % 250), octet(process % 250))
    }

    pub fn host(self, last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(127, self.0, self.1, last))
    }
}

/// `N` random bytes.
///
/// # Panics
/// Where the operating system gives no random numbers: nothing can be tested then.
pub fn random<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    getrandom::fill(&mut out).unwrap_or_else(|error| panic!("the system gives no random numbers: {error}"));
    out
}

/// Below `limit`.
pub fn below(limit: usize) -> usize {
    let n = u64::from_le_bytes(random());
    usize::try_from(n % u64::try_from(limit.max(1)).unwrap_or(1)).unwrap_or(0)
}

/// Between 0 and 1.
pub fn fraction() -> f64 {
    f64::from(u32::from_le_bytes(random())) / f64::from(u32::MAX)
}

/// Lower-case letters and digits: tags, branches, Call-IDs.
pub fn token(length: usize) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    (0..length).map(|_| char::from(ALPHABET[usize::from(random::<1>()[0] & 31)])).collect()
}
