//! Forwards bytes between a store and its server, and does to a connection what the test says.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::subject::RUNTIME;

/// What becomes of a connection after these bytes of the store's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Goes,
    /// No answer comes through any more; it stays open.
    Silent,
    Closes,
}

/// Its address. `rule` sees all that a store sends.
pub fn proxy(to: u16, rule: impl Fn(&[u8]) -> Fate + Send + Sync + 'static) -> String {
    let rule = Arc::new(rule);
    let listener = RUNTIME.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    RUNTIME.spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let rule = rule.clone();
            tokio::spawn(async move { forward(client, to, &*rule).await });
        }
    });
    address
}

async fn forward(mut client: TcpStream, to: u16, rule: &(dyn Fn(&[u8]) -> Fate + Send + Sync)) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
    let (mut from_client, mut from_server) = (vec![0; 65_536], vec![0; 65_536]);
    let mut is_silent = false;
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let Ok(n @ 1..) = read else { return };
                match rule(&from_client[..n]) {
                    Fate::Goes => {}
                    Fate::Silent => is_silent = true,
                    Fate::Closes => return,
                }
                if server.write_all(&from_client[..n]).await.is_err() {
                    return;
                }
            }
            read = server.read(&mut from_server) => {
                let Ok(n @ 1..) = read else { return };
                if !is_silent && client.write_all(&from_server[..n]).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// How often these bytes are in those.
pub fn count(bytes: &[u8], word: &[u8]) -> usize {
    bytes.windows(word.len()).filter(|window| *window == word).count()
}
