//! What the tests stand on: the cluster, a namespace for each test, waiting, programs, figures, and what is kept of a failure.

pub mod admin;
pub mod cluster;
pub mod dump;
pub mod figures;
pub mod install;
pub mod process;
pub mod reach;
pub mod space;
pub mod wait;

use std::time::Duration;

/// How long anything may take that is not measured: a busy machine is slow, a broken program is for ever.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// `N` random octets of the operating system.
pub fn random<const N: usize>() -> [u8; N] {
    let mut octets = [0; N];
    // Without random numbers nothing here has a name of its own.
    getrandom::fill(&mut octets).expect("the operating system gives random numbers");
    octets
}

/// So many characters `0-9a-f`.
pub fn token(length: usize) -> String {
    let octets = random::<32>();
    octets
        .iter()
        .flat_map(|octet| [octet >> 4, octet & 15])
        .take(length)
        .map(|half| char::from_digit(half.into(), 16).unwrap_or('0'))
        .collect()
}
