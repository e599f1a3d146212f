//! One connection to an edge, TCP or TLS: requests out and their responses, requests in and ours.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sip_proto::framing::{Frame, FrameLimits, StreamFramer};
use sip_proto::message::Message;
use sip_proto::message::build::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::Lost;
use super::desk::Desk;
use crate::Fallible;
use crate::harness::reach::{Octets, Way};
use crate::harness::token;

const LIMITS: FrameLimits = FrameLimits { head: 65_536, body: 1_114_112 };
/// Messages that wait to be written.
const QUEUE: usize = 256;
const HANDSHAKE: Duration = Duration::from_secs(5);

/// TLS of a client: whom it trusts, and the domain that the certificate must name (RFC 5922).
#[derive(Clone)]
pub struct Tls {
    pub config: Arc<ClientConfig>,
    pub domain: String,
}

struct Inner {
    out: mpsc::Sender<Bytes>,
    /// By branch and method.
    waiting: Mutex<BTreeMap<String, mpsc::Sender<Message>>>,
    open: AtomicBool,
    closed: Notify,
    transport: &'static str,
    /// As Via and Contact say it.
    local: String,
}

/// See the module; cheap to clone.
#[derive(Clone)]
pub struct Link(Arc<Inner>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// # Errors
    /// Nobody listens there, or its certificate is not trusted.
    pub async fn open(way: &Way, tls: Option<&Tls>, desk: Arc<Desk>) -> Fallible<Link> {
        let (stream, local) = way.connect().await?;
        // Without an address of ours the edge can only use this connection, which it does.
        let local = local.map_or_else(|| format!("{}.invalid", token(8)), |local| local.to_string());
        let stream: Box<dyn Octets> = match tls {
            None => stream,
            Some(tls) => {
                let name = ServerName::try_from(tls.domain.clone()).map_err(|error| error.to_string())?;
                let connecting = TlsConnector::from(tls.config.clone()).connect(name, stream);
                let stream = tokio::time::timeout(HANDSHAKE, connecting).await;
                let stream = stream.map_err(|_| "no TLS handshake in time".to_owned())?;
                Box::new(stream.map_err(|error| format!("TLS: {error}"))?)
            }
        };
        let (out, queue) = mpsc::channel(QUEUE);
        let link = Link(Arc::new(Inner {
            out,
            waiting: Mutex::default(),
            open: AtomicBool::new(true),
            closed: Notify::new(),
            transport: if tls.is_some() { "TLS" } else { "TCP" },
            local,
        }));
        tokio::spawn(link.clone().run(stream, queue, desk));
        Ok(link)
    }

    pub fn is_open(&self) -> bool {
        self.0.open.load(Ordering::Acquire)
    }

    /// Waits until the connection is gone.
    pub async fn closed(&self) {
        let notified = self.0.closed.notified();
        tokio::pin!(notified);
        // Registered before the look, so an end in between is not missed.
        notified.as_mut().enable();
        if self.is_open() {
            notified.await;
        }
    }

    pub fn contact(&self, user: &str) -> String {
        format!("sip:{user}@{};transport={}", self.0.local, self.0.transport.to_lowercase())
    }

    async fn run(self, stream: Box<dyn Octets>, mut queue: mpsc::Receiver<Bytes>, desk: Arc<Desk>) {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut framer = StreamFramer::new(LIMITS);
        let mut buffer = vec![0; 16_384];
        loop {
            tokio::select! {
                read = reader.read(&mut buffer) => {
                    let Ok(length @ 1..) = read else { break };
                    framer.push(&buffer[..length]);
                    let mut answers = Vec::new();
                    let mut broken = false;
                    while let Some(frame) = framer.next() {
                        match frame {
                            Ok(Frame::Message(message)) => answers.extend(self.on_message(message, &desk)),
                            Ok(Frame::KeepAlive(_)) => {}
                            Err(_) => { broken = true; break }
                        }
                    }
                    for answer in answers {
                        broken |= writer.write_all(&answer).await.is_err();
                    }
                    if broken || writer.flush().await.is_err() { break }
                }
                bytes = queue.recv() => {
                    let Some(bytes) = bytes else { break };
                    if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() { break }
                }
                () = self.shut() => break,
            }
        }
        self.0.open.store(false, Ordering::Release);
        // Whoever waits sees its channel end.
        lock(&self.0.waiting).clear();
        self.0.closed.notify_waiters();
    }

    /// Until somebody closes it from here.
    async fn shut(&self) {
        loop {
            let notified = self.0.closed.notified();
            if !self.is_open() {
                return;
            }
            notified.await;
        }
    }

    /// Closes it.
    pub fn close(&self) {
        self.0.open.store(false, Ordering::Release);
        self.0.closed.notify_waiters();
    }

    fn on_message(&self, message: Message, desk: &Desk) -> Option<Bytes> {
        if message.is_request() {
            return desk.take(&message, &self.contact("e2e"));
        }
        let method = message.cseq().method.as_str().to_owned();
        let key = format!("{} {method}", message.top_via().branch().unwrap_or_default());
        if let Some(waiting) = lock(&self.0.waiting).get(&key) {
            // Only provisional responses can fill it; the final one is waited for in order.
            let _ = waiting.try_send(message);
        }
        None
    }

    /// Sends what takes no response: an ACK.
    pub async fn send(&self, build: impl FnOnce(&str) -> Request) {
        let bytes = build(&self.via(&format!("z9hG4bK{}", token(24)))).build();
        let _ = self.0.out.send(bytes).await;
    }

    /// The same, ready made.
    pub async fn send_raw(&self, bytes: Bytes) {
        let _ = self.0.out.send(bytes).await;
    }

    fn via(&self, branch: &str) -> String {
        format!("SIP/2.0/{} {};branch={branch};rport", self.0.transport, self.0.local)
    }

    /// One request to its final response; also what was sent, which an INVITE's dialog needs.
    ///
    /// # Errors
    /// The connection broke, or nothing came until `deadline`.
    pub async fn ask(
        &self,
        method: &str,
        build: impl FnOnce(&str) -> Request,
        deadline: Instant,
    ) -> Result<(Bytes, Message), Lost> {
        let branch = format!("z9hG4bK{}", token(24));
        let key = format!("{branch} {method}");
        let bytes = build(&self.via(&branch)).build();
        let (sender, mut responses) = mpsc::channel(16);
        lock(&self.0.waiting).insert(key.clone(), sender);
        let gone = || Lost::Edge(format!("the connection broke before an answer to {method}"));
        let outcome = async {
            if !self.is_open() || self.0.out.send(bytes.clone()).await.is_err() {
                return Err(gone());
            }
            loop {
                match timeout_at(deadline, responses.recv()).await {
                    Ok(Some(message)) if message.status().is_some_and(|status| status >= 200) => return Ok(message),
                    Ok(Some(_)) => {}
                    Ok(None) => return Err(gone()),
                    Err(_) => return Err(Lost::Silence(format!("no answer to {method} in time"))),
                }
            }
        };
        let outcome = outcome.await;
        lock(&self.0.waiting).remove(&key);
        outcome.map(|message| (bytes, message))
    }
}
