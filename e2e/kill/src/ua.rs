//! A client: one user on one transport, registered, with dialogs and exchanges. It fails over as RFC 3263 section 4.3 says, keeps one SIP
//! request open per dialog, and sends every unanswered exchange again when its connection is gone.

pub mod dialog;
pub mod exchange;
mod incoming;
pub mod link;
pub mod requests;
mod transact;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sip_proto::message::Message;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_rustls::rustls::ClientConfig;

use crate::Fallible;
use crate::manifests::{DOMAIN, TLS, UDP, WSS};
use crate::place;
pub use dialog::Dialog;
pub use exchange::{Call, Fate, Tool};
use link::{Event, Link, QUEUE};

/// So long after its answer a repetition is recognised (64·T1); what comes later with the same name is a new request, which a caller of an
/// unsafe tool must not make.
pub const REPEATABLE: Duration = Duration::from_secs(32);
/// Responses that are remembered for copies of their requests.
const REMEMBERED: usize = 256;

/// How a client reaches the edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    Udp,
    Tls,
    Wss,
}

impl Transport {
    fn via(self) -> &'static str {
        match self {
            Transport::Udp => "UDP",
            Transport::Tls => "TLS",
            Transport::Wss => "WSS",
        }
    }

    fn port(self) -> u16 {
        match self {
            Transport::Udp => UDP,
            Transport::Tls => TLS,
            Transport::Wss => WSS,
        }
    }
}

/// What a client had to do to get its way.
#[derive(Debug, Default)]
pub struct Counts {
    /// 503 answers.
    pub unavailable: AtomicU64,
    /// Those to an INVITE that do not say when to come again (`Retry-After`).
    pub bare: AtomicU64,
    /// Requests sent to a next target, or again after a broken connection.
    pub failovers: AtomicU64,
    /// UDP retransmissions.
    pub retransmissions: AtomicU64,
    /// In-dialog requests answered 500 because others overtook them.
    pub overtaken: AtomicU64,
    /// Requests of the edge with a CSeq that did not rise.
    pub stale: AtomicU64,
    /// Answers of one exchange beyond the first.
    pub again: AtomicU64,
    /// Connections opened.
    pub connections: AtomicU64,
    /// Requests of the edge in dialogs that the client does not have, in words; the first ones.
    pub strays: Mutex<Vec<String>>,
}

impl Counts {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

struct Waiting {
    link: u64,
    responses: mpsc::Sender<Message>,
}

#[derive(Default)]
struct State {
    link: Option<Link>,
    heard: Option<Instant>,
    next_link: u64,
    /// By branch and method.
    waiting: BTreeMap<String, Waiting>,
    /// By Call-ID.
    dialogs: BTreeMap<String, Arc<Dialog>>,
    /// By exchange id.
    calls: BTreeMap<String, Arc<Call>>,
    answered: VecDeque<(String, Bytes)>,
    register_cseq: u32,
    /// The Contact of the last acknowledged registration.
    registered: Option<String>,
}

struct Inner {
    user: String,
    transport: Transport,
    edges: Vec<IpAddr>,
    ip: IpAddr,
    tls: Arc<ClientConfig>,
    events: mpsc::Sender<Event>,
    udp: Option<(Arc<UdpSocket>, SocketAddr)>,
    state: Mutex<State>,
    /// Held while a connection is being opened.
    connecting: tokio::sync::Mutex<()>,
    /// A connection came or went.
    changed: tokio::sync::Notify,
    online: AtomicBool,
    register_call: String,
    register_tag: String,
    instance: String,
    counts: Arc<Counts>,
    /// What ends with [`Ua::quit`].
    tasks: Mutex<Vec<AbortHandle>>,
}

/// One client; cheap to clone.
#[derive(Clone)]
pub struct Ua(Arc<Inner>);

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Plain values: a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ua {
    /// A client at `ip`; it opens its first connection when it needs one.
    pub async fn start(
        user: &str,
        transport: Transport,
        ip: IpAddr,
        edges: Vec<IpAddr>,
        tls: Arc<ClientConfig>,
        counts: Arc<Counts>,
    ) -> Fallible<Ua> {
        let (events, inbox) = mpsc::channel(QUEUE);
        let mut tasks = Vec::new();
        let udp = match transport {
            Transport::Udp => {
                let (socket, reading) = link::udp(ip, events.clone()).await?;
                tasks.extend(reading);
                let local = socket.local_addr().map_err(|error| error.to_string())?;
                Some((socket, local))
            }
            Transport::Tls | Transport::Wss => None,
        };
        let hex: String = place::random::<16>().iter().map(|byte| format!("{byte:02x}")).collect();
        let instance = format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32]);
        let ua = Ua(Arc::new(Inner {
            user: user.to_owned(),
            transport,
            edges,
            ip,
            tls,
            events,
            udp,
            state: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            changed: tokio::sync::Notify::new(),
            online: AtomicBool::new(true),
            register_call: place::token(26),
            register_tag: place::token(16),
            instance,
            counts,
            tasks: Mutex::default(),
        }));
        tasks.push(tokio::spawn(ua.clone().receive(inbox)).abort_handle());
        if transport != Transport::Udp {
            tasks.push(tokio::spawn(ua.clone().keep()).abort_handle());
        }
        *lock(&ua.0.tasks) = tasks;
        Ok(ua)
    }

    pub fn user(&self) -> &str {
        &self.0.user
    }

    pub fn transport(&self) -> Transport {
        self.0.transport
    }

    pub fn edges(&self) -> usize {
        self.0.edges.len()
    }

    pub fn aor(&self) -> String {
        format!("sip:{}@{DOMAIN}", self.0.user)
    }

    /// Every exchange so far.
    pub fn calls(&self) -> Vec<Arc<Call>> {
        lock(&self.0.state).calls.values().cloned().collect()
    }

    /// The Contact of the last acknowledged registration.
    pub fn registered(&self) -> Option<String> {
        lock(&self.0.state).registered.clone()
    }

    /// Closes what is open, and opens nothing more.
    pub fn quit(&self) {
        self.0.online.store(false, Ordering::Relaxed);
        if let Some(link) = lock(&self.0.state).link.take() {
            link.close();
        }
        for task in lock(&self.0.tasks).drain(..) {
            task.abort();
        }
    }

    fn is_online(&self) -> bool {
        self.0.online.load(Ordering::Relaxed)
    }

    async fn receive(self, mut inbox: mpsc::Receiver<Event>) {
        while let Some(event) = inbox.recv().await {
            match event {
                Event::Message { back, message } => self.on_message(back, *message).await,
                Event::Closed(number) => self.closed(number),
            }
        }
    }

    /// Requests on a connection that is gone get no answer there.
    fn closed(&self, number: u64) {
        let mut state = lock(&self.0.state);
        if state.link.as_ref().is_some_and(|link| link.number == number) {
            state.link = None;
        }
        state.waiting.retain(|_, waiting| waiting.link != number);
        drop(state);
        self.0.changed.notify_one();
    }

    /// Keeps a connection: where it is gone, another edge is tried, the user registers there (which proves who it is), and every exchange
    /// without an answer is sent again.
    async fn keep(self) {
        let mut registered = 0;
        while self.is_online() {
            let number = lock(&self.0.state).link.as_ref().map(|link| link.number);
            match number {
                Some(number) if number == registered => self.0.changed.notified().await,
                Some(number) => {
                    if self.registered().is_some() {
                        // A refusal is seen by the run's own look at the registration.
                        let _ = self.register(None).await;
                        self.repeat(number);
                    }
                    registered = number;
                }
                None if registered == 0 => self.0.changed.notified().await,
                None => {
                    if self.link(None, None).await.is_err() {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        }
    }

    /// Sends again what was sent on an earlier connection and is not answered.
    fn repeat(&self, number: u64) {
        let mut moved = BTreeMap::new();
        for call in self.calls().into_iter().filter(|call| call.is_open() && !call.is_being_sent()) {
            let is_young = call.tool.is_safe() || call.sent.elapsed() < REPEATABLE;
            if call.link.swap(number, Ordering::Relaxed) >= number {
                continue;
            }
            if is_young {
                let ua = self.clone();
                tokio::spawn(async move { ua.deliver(&call).await });
            } else {
                moved.insert(call.dialog.call_id.clone(), call.dialog.clone());
            }
        }
        // Its answer may still come: the dialog is told where.
        for dialog in moved.into_values() {
            let ua = self.clone();
            tokio::spawn(async move { ua.timed(&dialog, "OPTIONS").await });
        }
    }
}
