//! The first of several addresses that takes a connection. The next one is tried beside one that is silent (RFC 8305 section 5), and one that was
//! silent comes last for a while.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

/// What an address has before the next one is tried beside it (RFC 8305 section 8).
const HEAD_START: Duration = Duration::from_millis(250);
/// So long an address that did not answer within that comes last.
const LAST_FOR: Duration = Duration::from_secs(30);
/// So many are remembered.
const MAX_LATE: usize = 256;

/// The addresses of one backend that were silent, and until when they come last.
#[derive(Debug, Default)]
pub(in crate::backend) struct Late(Mutex<BTreeMap<SocketAddr, Instant>>);

impl Late {
    fn with<R>(&self, work: impl FnOnce(&mut BTreeMap<SocketAddr, Instant>) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Those that were silent come last, else the order stays.
    fn sort(&self, addresses: &mut [SocketAddr]) {
        self.with(|late| {
            let now = Instant::now();
            late.retain(|_, until| now < *until);
            addresses.sort_by_key(|address| late.contains_key(address));
        });
    }

    fn add(&self, addresses: &[SocketAddr]) {
        let until = Instant::now() + LAST_FOR;
        self.with(|late| {
            for address in addresses {
                if late.len() < MAX_LATE || late.contains_key(address) {
                    late.insert(*address, until);
                }
            }
        });
    }

    fn remove(&self, address: &SocketAddr) {
        self.with(|late| late.remove(address));
    }
}

/// # Errors
/// Why the last of them took none; `None`: there was no address. Never ends by itself where one is silent.
pub(super) async fn first(
    mut addresses: Vec<SocketAddr>,
    late: &Late,
) -> Result<(TcpStream, SocketAddr), Option<io::Error>> {
    late.sort(&mut addresses);
    let mut waiting = addresses.into_iter();
    let mut begun = Vec::new();
    let mut attempts = FuturesUnordered::new();
    let mut last = None;
    loop {
        if let Some(address) = waiting.next() {
            begun.push(address);
            attempts.push(async move { (address, TcpStream::connect(address).await) });
        }
        tokio::select! {
            attempt = attempts.next() => match attempt {
                Some((address, Ok(stream))) => {
                    late.remove(&address);
                    return Ok((stream, address));
                }
                Some((address, Err(error))) => {
                    begun.retain(|begun| *begun != address);
                    last = Some(error);
                }
                None => return Err(last),
            },
            () = sleep(HEAD_START) => late.add(&begun),
        }
    }
}
