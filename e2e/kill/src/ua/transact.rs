//! One request to its final response, over the edges that there are (RFC 3263 §4.3).

use std::time::{Duration, Instant};

use bytes::Bytes;
use sip_proto::auth::DigestRequest;
use sip_proto::auth::client::{ClientSecret, ClientUser, answer, header_names};
use sip_proto::dialog::ack_failure;
use sip_proto::message::build::Request;
use sip_proto::message::{HeaderId, Message, Transportation};
use tokio::sync::mpsc;
use tokio::time::timeout_at;

use super::link::{self, Link};
use super::{Counts, Transport, Ua, Waiting, lock};
use crate::Fallible;
use crate::manifests::{DOMAIN, password};
use crate::place;

/// RFC 3261 §17.1.1.1.
const T1: Duration = Duration::from_millis(500);
const T2: Duration = Duration::from_secs(4);
/// A connection on which a request is not answered and nothing else comes for so long is given up.
const MUTE: Duration = Duration::from_secs(4);
/// Answers 500 to one request until it is given up.
const MAX_OVERTAKEN: u32 = 10;

/// What a request needs to know of its way.
#[derive(Debug)]
pub struct Way {
    pub via: String,
    pub contact: String,
    pub cseq: u32,
}

/// The first wait of a request that every edge refused; it doubles no more than so often.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const MOST_DOUBLINGS: u32 = 5;

/// A request to be.
pub struct Ask<'a> {
    pub method: &'static str,
    /// The Request-URI, which the digest is over.
    pub uri: &'a str,
    pub body: &'a [u8],
    /// This edge and no other.
    pub at: Option<usize>,
    /// Gives the next CSeq number.
    pub cseq: &'a (dyn Fn() -> u32 + Sync),
    pub build: &'a (dyn Fn(&Way) -> Request + Sync),
    /// 500 means that another request overtook this one (RFC 3261 §12.2.2).
    pub again_on_500: bool,
    pub deadline: Instant,
    /// Told each time that an edge says it did not take it, for as long as none may have taken it in silence.
    pub not_taken: &'a (dyn Fn() + Sync),
}

enum Outcome {
    Final(Box<Message>),
    /// No answer here: the reason.
    Gone(String),
}

/// `Retry-After` of a response (RFC 3261 §20.33).
fn retry_after(message: &Message) -> Option<Duration> {
    let digits = message.header_str(HeaderId::RetryAfter)?.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok().map(Duration::from_secs)
}

impl Ua {
    /// Tries the edges until one gives a final response that is not 503, or the time is over: then the last response or a reason.
    pub async fn ask(&self, ask: &Ask<'_>) -> Fallible<Message> {
        let edges = self.edges();
        let mut tried: Vec<usize> = Vec::new();
        let (mut credentials, mut challenges, mut overtaken) = (None::<(&str, String)>, 0, 0);
        let mut pinned = ask.at;
        let (mut rounds, mut asked_for, mut is_known) = (0, None, true);
        loop {
            if !self.is_online() {
                return Err("the client ended".into());
            }
            let edge = pinned.unwrap_or_else(|| self.next_target(&tried));
            let link = match self.0.transport {
                Transport::Udp => None,
                Transport::Tls | Transport::Wss => match self.link(pinned, tried.last().copied()).await {
                    Ok(link) => Some(link),
                    Err(error) => {
                        Counts::add(&self.0.counts.failovers);
                        if Instant::now() >= ask.deadline {
                            return Err(error);
                        }
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
            };
            let edge = link.as_ref().map_or(edge, |link| link.edge);
            let outcome = self.attempt(ask, edge, link.as_ref(), credentials.take()).await;
            match outcome {
                Outcome::Final(message) => {
                    let status = message.status().unwrap_or(0);
                    if let Some((field, _)) = header_names(status).filter(|_| challenges < 3) {
                        challenges += 1;
                        credentials = self.credentials(&message, field, ask)?;
                        // The answer to a challenge goes where it came from.
                        pinned = pinned.or((self.0.transport == Transport::Udp).then_some(edge));
                        continue;
                    }
                    match status {
                        503 => {
                            Counts::add(&self.0.counts.unavailable);
                            if is_known {
                                (ask.not_taken)();
                            }
                            asked_for = retry_after(&message).or(asked_for);
                            if ask.method == "INVITE" && retry_after(&message).is_none() {
                                Counts::add(&self.0.counts.bare);
                            }
                            if Instant::now() >= ask.deadline {
                                return Ok(*message);
                            }
                        }
                        500 if ask.again_on_500 && overtaken < MAX_OVERTAKEN => {
                            overtaken += 1;
                            Counts::add(&self.0.counts.overtaken);
                            continue;
                        }
                        _ => return Ok(*message),
                    }
                }
                Outcome::Gone(reason) if Instant::now() >= ask.deadline => return Err(reason),
                Outcome::Gone(_) => is_known = false,
            }
            Counts::add(&self.0.counts.failovers);
            pinned = ask.at;
            challenges = 0;
            tried.push(edge);
            if ask.at.is_some() || tried.len() >= edges {
                // All said no: a moment, longer each time, up to what Retry-After asks for, with jitter.
                tried.clear();
                tried.push(edge);
                let wait = (FIRST_WAIT * (1 << rounds)).min(asked_for.unwrap_or(T2));
                rounds = (rounds + 1).min(MOST_DOUBLINGS);
                tokio::time::sleep(wait.mul_f64(1.0 + place::fraction() * 0.5)).await;
            }
        }
    }

    /// A random edge of those that were not tried.
    fn next_target(&self, tried: &[usize]) -> usize {
        let left: Vec<usize> = (0..self.edges()).filter(|edge| !tried.contains(edge)).collect();
        left.get(place::below(left.len())).copied().unwrap_or_else(|| place::below(self.edges()))
    }

    /// The connection that stands, or a new one; to `wanted` where it matters, not to `avoid` where another edge answers.
    pub async fn link(&self, wanted: Option<usize>, avoid: Option<usize>) -> Fallible<Link> {
        let _one = self.0.connecting.lock().await;
        let old = lock(&self.0.state).link.clone();
        if let Some(link) = &old
            && wanted.map_or(avoid != Some(link.edge), |edge| edge == link.edge)
        {
            return Ok(link.clone());
        }
        let mut order: Vec<usize> = match wanted {
            Some(edge) => vec![edge],
            None => (0..self.edges()).filter(|edge| Some(*edge) != avoid).collect(),
        };
        if order.is_empty() {
            order = vec![0];
        }
        let first = place::below(order.len());
        order.rotate_left(first);
        let mut last = String::new();
        for edge in order {
            let number = {
                let mut state = lock(&self.0.state);
                state.next_link += 1;
                state.next_link
            };
            let remote = (self.0.edges[edge], self.0.transport.port()).into();
            let (tls, events) = (self.0.tls.clone(), self.0.events.clone());
            match link::connect(self.0.transport, number, edge, remote, self.0.ip, tls, events).await {
                Ok(link) => {
                    Counts::add(&self.0.counts.connections);
                    let mut state = lock(&self.0.state);
                    state.link = Some(link.clone());
                    state.heard = Some(Instant::now());
                    drop(state);
                    if let Some(old) = old {
                        old.close();
                    }
                    self.0.changed.notify_one();
                    return Ok(link);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Via and Contact of the moment; `branch` is new.
    fn way(&self, link: Option<&Link>, branch: &str, cseq: u32) -> Way {
        let transport = self.0.transport;
        let local = link.map(|link| link.local).or(self.0.udp.as_ref().map(|(_, local)| *local));
        let local = local.unwrap_or_else(|| (self.0.ip, 0).into());
        let (sent_by, contact) = match transport {
            // RFC 7118 §5: reached on its connection only.
            Transport::Wss => {
                let host = format!("{}.invalid", local.port());
                (host.clone(), format!("sip:{}@{host};transport=ws", self.0.user))
            }
            Transport::Tls => (local.to_string(), format!("sip:{}@{local};transport=tls", self.0.user)),
            Transport::Udp => (local.to_string(), format!("sip:{}@{local}", self.0.user)),
        };
        Way { via: format!("SIP/2.0/{} {sent_by};branch={branch};rport", transport.via()), contact, cseq }
    }

    async fn attempt(
        &self,
        ask: &Ask<'_>,
        edge: usize,
        link: Option<&Link>,
        credentials: Option<(&str, String)>,
    ) -> Outcome {
        let branch = format!("z9hG4bK{}", place::token(20));
        let way = self.way(link, &branch, (ask.cseq)());
        let mut request = (ask.build)(&way);
        if let Some((field, value)) = credentials {
            request = request.header_named(field, value);
        }
        let bytes = request.build();
        let (responses, mut answers) = mpsc::channel(16);
        let key = format!("{branch} {}", ask.method);
        let number = link.map_or(0, |link| link.number);
        lock(&self.0.state).waiting.insert(key.clone(), Waiting { link: number, responses });
        let outcome = match link {
            None => self.by_udp(ask, edge, &bytes, &mut answers).await,
            Some(link) => self.by_stream(ask, link, &bytes, &mut answers).await,
        };
        lock(&self.0.state).waiting.remove(&key);
        if let Outcome::Final(response) = &outcome
            && ask.method == "INVITE"
            && response.status().is_some_and(|status| status >= 300)
            && let Some(ack) =
                Message::parse(bytes, Transportation::Datagram).ok().and_then(|invite| ack_failure(&invite, response))
        {
            self.put(edge, link, ack).await;
        }
        outcome
    }

    /// Each copy goes to a random edge, unless it must be this one.
    async fn by_udp(
        &self,
        ask: &Ask<'_>,
        edge: usize,
        bytes: &Bytes,
        answers: &mut mpsc::Receiver<Message>,
    ) -> Outcome {
        let start = Instant::now();
        // The deadline says whether another try begins. One that began has its own time (RFC 3261 §17.1.2.2).
        let end = start + 64 * T1;
        let (mut edge, mut wait, mut quiet) = (edge, T1, false);
        self.put(edge, None, bytes.clone()).await;
        let mut again = start + wait;
        loop {
            let next = if quiet { end } else { again.min(end) };
            match timeout_at(next.into(), answers.recv()).await {
                Ok(Some(message)) if message.status().is_some_and(|status| status >= 200) => {
                    return Outcome::Final(Box::new(message));
                }
                // A provisional response ends the retransmissions of an INVITE (RFC 3261 §17.1.1.2).
                Ok(Some(_)) => quiet |= ask.method == "INVITE",
                Ok(None) => return Outcome::Gone("the client ended".into()),
                Err(_) if Instant::now() >= end => return Outcome::Gone(format!("no answer to {}", ask.method)),
                Err(_) => {
                    Counts::add(&self.0.counts.retransmissions);
                    if ask.at.is_none() {
                        edge = self.next_target(&[edge]);
                    }
                    self.put(edge, None, bytes.clone()).await;
                    wait = if ask.method == "INVITE" { wait * 2 } else { (wait * 2).min(T2) };
                    again = Instant::now() + wait;
                }
            }
        }
    }

    async fn by_stream(
        &self,
        ask: &Ask<'_>,
        link: &Link,
        bytes: &Bytes,
        answers: &mut mpsc::Receiver<Message>,
    ) -> Outcome {
        let start = Instant::now();
        let end = start + 64 * T1;
        if link.out.send(bytes.clone()).await.is_err() {
            return Outcome::Gone("the connection is gone".into());
        }
        loop {
            let heard = lock(&self.0.state).heard.unwrap_or(start).max(start);
            match timeout_at((heard + MUTE).min(end).into(), answers.recv()).await {
                Ok(Some(message)) if message.status().is_some_and(|status| status >= 200) => {
                    return Outcome::Final(Box::new(message));
                }
                Ok(Some(_)) => {}
                Ok(None) => return Outcome::Gone("the connection is gone".into()),
                Err(_) => {
                    let now = Instant::now();
                    let heard = lock(&self.0.state).heard.unwrap_or(start).max(start);
                    if now >= end || now >= heard + MUTE {
                        link.close();
                        self.closed(link.number);
                        return Outcome::Gone(format!("no answer to {} on this connection", ask.method));
                    }
                }
            }
        }
    }

    /// Sends without waiting for anything.
    pub async fn put(&self, edge: usize, link: Option<&Link>, bytes: Bytes) {
        match (link, &self.0.udp) {
            (Some(link), _) => {
                // A connection that is gone is noticed by whoever waits for an answer.
                let _ = link.out.send(bytes).await;
            }
            (None, Some((socket, _))) => {
                let _ = socket.send_to(&bytes, (self.0.edges[edge], self.0.transport.port())).await;
            }
            (None, None) => {}
        }
    }

    /// The ACK of a 2xx, to a random edge or on the connection.
    pub async fn acknowledge(&self, dialog: &super::Dialog) {
        let link = lock(&self.0.state).link.clone();
        let way = self.way(link.as_ref(), &format!("z9hG4bK{}", place::token(20)), 0);
        let bytes = {
            let state = lock(&dialog.state);
            state.ack_2xx(state.invite_cseq, &way.via).build()
        };
        self.put(place::below(self.edges()), link.as_ref(), bytes).await;
    }

    fn credentials(&self, response: &Message, field: &str, ask: &Ask<'_>) -> Fallible<Option<(&'static str, String)>> {
        let secret = password(&self.0.user);
        let user = ClientUser {
            username: &self.0.user,
            realm: DOMAIN,
            secret: ClientSecret::Password(&secret),
            allow_md5: false,
        };
        let request = DigestRequest { method: ask.method, uri: ask.uri, body: ask.body };
        let challenges: Vec<Vec<u8>> = response.headers_named(field).map(<[u8]>::to_vec).collect();
        let answered = answer(challenges.iter().map(Vec::as_slice), &request, &user, 1, &place::token(16));
        let answered = answered.map_err(|error| format!("{}: {error}", ask.method))?;
        Ok(header_names(response.status().unwrap_or(0)).map(|(_, field)| (field, answered.value)))
    }
}
