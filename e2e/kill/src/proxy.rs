//! A TCP proxy that is late or broken on purpose: one between each edge and Redis, one before each edge's mesh.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::Fallible;

/// Chunks on their way in one direction of one connection; a fuller one is not read from.
const IN_FLIGHT: usize = 1024;

/// What happens to bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// Added to each direction's bytes; the requests of one connection do not wait for each other.
    pub delay: Duration,
    /// Nothing passes and nothing is closed, as when a cable is cut: connections stay, new ones are accepted and stay mute.
    pub cut: bool,
}

/// Ends with its drop.
pub struct Proxy {
    pub address: SocketAddr,
    weather: watch::Sender<Weather>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub async fn start(listen: SocketAddr, target: SocketAddr) -> Fallible<Proxy> {
        let listener = TcpListener::bind(listen).await.map_err(|error| format!("proxy at {listen}: {error}"))?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let (weather, sky) = watch::channel(Weather::default());
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        if let Ok((stream, _)) = accepted {
                            connections.spawn(carry(stream, target, sky.clone()));
                        }
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Ok(Proxy { address, weather, accepting })
    }

    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(near: TcpStream, target: SocketAddr, mut sky: watch::Receiver<Weather>) {
    while sky.borrow().cut {
        if sky.changed().await.is_err() {
            return;
        }
    }
    let Ok(far) = TcpStream::connect(target).await else { return };
    let _ = near.set_nodelay(true);
    let _ = far.set_nodelay(true);
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    // One direction that ends takes the other with it: nobody here half-closes.
    tokio::select! {
        () = pump(near_read, far_write, sky.clone()) => {}
        () = pump(far_read, near_write, sky) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, sky: watch::Receiver<Weather>) {
    let (late, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(IN_FLIGHT);
    let mut weather = sky.clone();
    let writer = async move {
        while let Some((at, bytes)) = due.recv().await {
            tokio::time::sleep_until(at.into()).await;
            while weather.borrow_and_update().cut {
                if weather.changed().await.is_err() {
                    return;
                }
            }
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    let reader = async move {
        let mut buffer = vec![0; 65_536];
        loop {
            match from.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(length) => {
                    let at = Instant::now() + sky.borrow().delay;
                    if late.send((at, buffer[..length].to_vec())).await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    // What was read before the end is still delivered.
    tokio::join!(reader, writer);
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    async fn ask(stream: &mut TcpStream, limit: Duration) -> Option<Duration> {
        let start = Instant::now();
        stream.write_all(b"hello").await.unwrap();
        let mut buffer = [0; 5];
        tokio::time::timeout(limit, stream.read_exact(&mut buffer)).await.ok()?.ok()?;
        Some(start.elapsed())
    }

    #[tokio::test]
    async fn it_delays_cuts_and_heals() {
        let proxy = Proxy::start("127.0.0.1:0".parse().unwrap(), echo().await).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let limit = Duration::from_secs(20);
        assert!(ask(&mut stream, limit).await.is_some());
        proxy.set(Weather { delay: Duration::from_millis(100), cut: false });
        assert!(ask(&mut stream, limit).await.unwrap() >= Duration::from_millis(200));
        proxy.set(Weather { cut: true, ..Weather::default() });
        assert_eq!(ask(&mut stream, Duration::from_millis(200)).await, None);
        let mut fresh = TcpStream::connect(proxy.address).await.unwrap();
        assert_eq!(ask(&mut fresh, Duration::from_millis(200)).await, None);
        proxy.set(Weather::default());
        let mut late = [0; 5];
        tokio::time::timeout(limit, stream.read_exact(&mut late)).await.unwrap().unwrap();
        assert!(ask(&mut stream, limit).await.is_some());
    }

    #[tokio::test]
    async fn a_dead_target_closes_the_connection() {
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let proxy = Proxy::start("127.0.0.1:0".parse().unwrap(), nobody).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let mut buffer = [0; 1];
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut buffer)).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)));
    }
}
