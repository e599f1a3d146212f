//! A TLS connection that somebody else makes: `openssl s_client`, with our bytes on its standard input and output.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use super::place;
use super::process::mortal;

/// Chunks that nobody has read yet; above it the connection waits.
const QUEUE: usize = 256;

pub struct Pipe {
    child: Child,
    to: ChildStdin,
    from: Receiver<Vec<u8>>,
}

impl Pipe {
    /// To an address whose certificate `ca` vouches for. `None`: there is no openssl here.
    pub fn connect(address: SocketAddr, ca: &Path) -> Option<Pipe> {
        let mut command = Command::new(place::peer("openssl")?);
        command.args(["s_client", "-quiet", "-verify_return_error", "-verify_quiet", "-connect", &address.to_string()]);
        command.arg("-CAfile").arg(ca);
        let mut child =
            mortal(&command).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (to, mut out) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (chunks, from) = sync_channel(QUEUE);
        std::thread::spawn(move || {
            let mut chunk = vec![0; 16_384];
            while let Ok(read) = out.read(&mut chunk) {
                if read == 0 || chunks.send(chunk[..read].to_vec()).is_err() {
                    break;
                }
            }
        });
        Some(Pipe { child, to, from })
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.to.write_all(bytes).unwrap();
        self.to.flush().unwrap();
    }

    /// What came; empty: the time is over. `None`: it is closed.
    pub fn read(&self, limit: Duration) -> Option<Vec<u8>> {
        match self.from.recv_timeout(limit) {
            Ok(chunk) => Some(chunk),
            Err(RecvTimeoutError::Timeout) => Some(Vec::new()),
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
