//! One caller: requests with authentication, in and out of a dialog, over one edge of a list.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use sip_proto::auth::DigestRequest;
use sip_proto::auth::client::{ClientSecret, ClientUser, NoAnswer, answer, header_names};
use sip_proto::message::build::{Request, Response};
use sip_proto::message::{HeaderId, Message, Transportation};

use crate::args::Connection;
use crate::edges::Edges;
use crate::failure::Failure;
use crate::ladder::Ladder;
use crate::net::{LinkId, Net};
use crate::target::{self, Target};
use crate::ua::{Incoming, Txn, Ua, UaEvent};

/// What we call ourselves.
pub const USER_AGENT: &str = concat!("sipmcp/", env!("CARGO_PKG_VERSION"));
/// Events that wait while a transaction is awaited.
const BACKLOG: usize = 1024;
/// So often a caller goes on with another edge.
const MAX_MOVES: u32 = 16;
/// An edge that says nothing at all for so long is left for the next one, where there is one (RFC 3261 §17.1.2: three copies sent).
const SILENCE: Duration = Duration::from_secs(2);

/// Credentials and the challenges that they were last asked for.
struct Digest {
    username: String,
    password: String,
    realm: String,
    allow_md5: bool,
    challenge: Option<Challenge>,
}

struct Challenge {
    status: u16,
    values: Vec<Vec<u8>>,
    nonce: String,
    count: u32,
}

/// What every request of a caller out of a dialog starts with.
#[derive(Clone, Debug)]
pub struct Head {
    from: String,
    from_tag: String,
    call_id: String,
}

impl Head {
    pub fn request(&self, method: &str, uri: &str, to: &str, cseq: u32, via: &str) -> Request {
        Request::new(method, uri)
            .via(via)
            .header(HeaderId::MaxForwards, "70")
            .header(HeaderId::From, format!("<{}>;tag={}", self.from, self.from_tag))
            .header(HeaderId::To, format!("<{to}>"))
            .header(HeaderId::CallId, &self.call_id)
            .header(HeaderId::CSeq, format!("{cseq} {method}"))
            .header(HeaderId::UserAgent, USER_AGENT)
    }
}

/// A caller with an address, connected to an edge.
pub struct Caller {
    pub ua: Ua,
    pub target: Target,
    /// Our address.
    pub from: String,
    pub from_tag: String,
    pub call_id: String,
    cseq: u32,
    digest: Option<Digest>,
    backlog: VecDeque<UaEvent>,
    pub timeout: Duration,
    edges: Edges,
    moves: u32,
}

/// How a request ended that got no final response.
enum NoResponse {
    /// The edge cannot be reached, or says nothing: another one may.
    Edge(String),
    /// Nobody can help.
    End(Failure),
}

impl Caller {
    /// Connects to the first edge that can be reached (RFC 3263 §4.3).
    pub async fn connect(uri: &str, connection: &Connection) -> Result<Caller, Failure> {
        let target = target::parse(uri)?;
        let candidates = target::candidates(&target, connection).await?;
        let tls = crate::net::TlsFiles {
            ca: connection.ca.clone(),
            ca_pem: connection.ca_pem.clone(),
            certificate: connection.cert.clone(),
            key: connection.key.clone(),
        };
        let user = connection.user.clone().unwrap_or_else(|| "anonymous".into());
        let mut net = Net::new();
        let mut edges = Edges::new(candidates, tls);
        let peer = edges.first(&mut net).await?;
        let from = match (&connection.from, &connection.user) {
            (Some(from), _) => from.clone(),
            (None, Some(user)) => format!("sip:{user}@{}", target.domain),
            (None, None) => "sip:anonymous@anonymous.invalid".into(),
        };
        let digest = connection.user.as_ref().zip(connection.password.as_ref()).map(|(user, password)| Digest {
            username: user.clone(),
            password: password.clone(),
            realm: connection.realm.clone().unwrap_or_else(|| target.domain.clone()),
            allow_md5: connection.allow_md5,
            challenge: None,
        });
        Ok(Caller {
            ua: Ua::new(net, peer, &user, Ladder::new(connection.trace)),
            target,
            from,
            from_tag: crate::random::token(16),
            call_id: crate::random::token(26),
            cseq: 0,
            digest,
            backlog: VecDeque::new(),
            timeout: Duration::from_secs(connection.timeout),
            edges,
            moves: 0,
        })
    }

    /// How often this caller went on with another edge, or on another connection.
    pub fn moves(&self) -> u32 {
        self.moves
    }

    /// Goes on with the next edge that can be reached; the last to be tried is the one that failed, which may be up again.
    pub async fn fail_over(&mut self, why: &str) -> Result<(), Failure> {
        if self.moves >= MAX_MOVES {
            return Err(Failure::unreachable(format!("{why}; this was tried {MAX_MOVES} times, which is enough")));
        }
        self.moves += 1;
        self.ua.ladder.note(&format!("{why}; another edge is tried"));
        let old = self.ua.peer;
        let peer = self
            .edges
            .another(&mut self.ua.net, &old)
            .await
            .map_err(|failure| Failure { message: format!("{why}; {}", failure.message), ..failure })?;
        self.ua.move_to(peer);
        Ok(())
    }

    /// A connection ended. `true`: it was the one in use, and now there is another.
    pub async fn on_lost(&mut self, link: LinkId, reason: &str) -> Result<bool, Failure> {
        if link != self.ua.peer.link {
            return Ok(false);
        }
        let why = format!("the connection to {} ended: {reason}", self.ua.peer.remote);
        self.fail_over(&why).await?;
        Ok(true)
    }

    pub fn next_cseq(&mut self) -> u32 {
        self.cseq += 1;
        self.cseq
    }

    /// A request out of a dialog, with what every request has.
    pub fn head(&self) -> Head {
        Head { from: self.from.clone(), from_tag: self.from_tag.clone(), call_id: self.call_id.clone() }
    }

    /// Sends what `build` makes for a CSeq, answers one challenge (two when the first nonce was stale), and returns the final response.
    /// Where an edge cannot be reached, says nothing or answers 503, the next one gets the request as a new one (RFC 3263 §4.3).
    pub async fn transact(
        &mut self,
        method: &str,
        body: &[u8],
        build: impl Fn(u32, &str) -> Request,
    ) -> Result<Message, Failure> {
        // The digest is over the Request-URI, which the route set of a dialog may have changed.
        let trial = build(1, "SIP/2.0/TCP trial.invalid;branch=z9hG4bKtrial").build();
        let uri = Message::parse(trial, Transportation::Datagram)
            .ok()
            .and_then(|m| m.request_uri().map(str::to_owned))
            .ok_or_else(|| Failure::usage("the address cannot stand in a request"))?;
        let mut answered = false;
        let mut refusals = 0;
        loop {
            let cseq = self.next_cseq();
            let credentials = self.credentials(method, &uri, body)?;
            let request = |via: &str| match &credentials {
                Some((name, value)) => build(cseq, via).header_named(name, value),
                None => build(cseq, via),
            };
            let response = match self.ua.send_request(method, request).await {
                Ok(txn) => self.final_response(txn, method).await,
                Err(error) => Err(NoResponse::Edge(format!("{}: {}", self.ua.peer.remote, explain(&error)))),
            };
            let response = match response {
                Ok(response) => response,
                Err(NoResponse::End(failure)) => return Err(failure),
                Err(NoResponse::Edge(why)) => {
                    self.fail_over(&why).await?;
                    answered = false;
                    continue;
                }
            };
            let status = response.status().unwrap_or(0);
            if status == 503 && refusals + 1 < self.edges.len() {
                refusals += 1;
                let why = format!("{} answers 503 to {method}", self.ua.peer.remote);
                self.fail_over(&why).await?;
                answered = false;
                continue;
            }
            let Some((challenge_name, _)) = header_names(status) else { return Ok(response) };
            let values: Vec<Vec<u8>> = response.headers_named(challenge_name).map(<[u8]>::to_vec).collect();
            let Some(digest) = self.digest.as_mut() else { return Err(Failure::refused(&response, method)) };
            let stale = values
                .iter()
                .any(|v| String::from_utf8_lossy(v).to_ascii_lowercase().replace(' ', "").contains("stale=true"));
            if answered && !stale {
                return Err(Failure::refused(&response, method));
            }
            answered = true;
            digest.challenge = Some(Challenge { status, values, nonce: String::new(), count: 0 });
        }
    }

    fn credentials(&mut self, method: &str, uri: &str, body: &[u8]) -> Result<Option<(&'static str, String)>, Failure> {
        let Some(digest) = self.digest.as_mut() else { return Ok(None) };
        let Some(challenge) = digest.challenge.as_mut() else { return Ok(None) };
        let user = ClientUser {
            username: &digest.username,
            realm: &digest.realm,
            secret: ClientSecret::Password(&digest.password),
            allow_md5: digest.allow_md5,
        };
        challenge.count += 1;
        let request = DigestRequest { method, uri, body };
        let values = challenge.values.iter().map(Vec::as_slice);
        let given =
            answer(values, &request, &user, challenge.count, &crate::random::token(16)).map_err(|e| match e {
                NoAnswer::ForeignRealm(realm) => Failure::usage(format!(
                    "the edge asks for credentials of realm {realm:?}; if that is right, repeat with --realm {realm}"
                )),
                NoAnswer::Unsupported => {
                    Failure::usage("the edge offers no algorithm that is allowed; --allow-md5 permits MD5")
                }
                NoAnswer::NoDigest => Failure::usage("the edge asks for credentials, but not by digest"),
            })?;
        challenge.nonce.clone_from(&given.nonce);
        let (_, name) = header_names(challenge.status).unwrap_or(("", "Authorization"));
        Ok(Some((name, given.value)))
    }

    /// Waits for the final response; everything else that happens meanwhile is kept for later.
    async fn final_response(&mut self, txn: Txn, method: &str) -> Result<Message, NoResponse> {
        let end = |text: String| NoResponse::End(Failure::unreachable(text));
        let now = tokio::time::Instant::now();
        let deadline = now + self.timeout;
        // With one edge only, its retransmissions and timers decide.
        let mut silent_until = (self.edges.len() > 1).then(|| (now + SILENCE).min(deadline));
        loop {
            let until = silent_until.unwrap_or(deadline);
            let Ok(event) = tokio::time::timeout_at(until, self.ua.next()).await else {
                self.ua.forget(txn);
                if until < deadline {
                    let (edge, seconds) = (self.ua.peer.remote, SILENCE.as_secs());
                    return Err(NoResponse::Edge(format!("{edge} says nothing to {method} in {seconds} s")));
                }
                return Err(end(format!("no final answer to {method} in {} s", self.timeout.as_secs())));
            };
            match event {
                UaEvent::Response { txn: of, message } if of == txn => {
                    silent_until = None;
                    if message.status().is_some_and(|s| s >= 200) {
                        return Ok(message);
                    }
                }
                UaEvent::Failed { txn: of, reason } if of == txn => return Err(NoResponse::Edge(reason)),
                other if self.backlog.len() < BACKLOG => self.backlog.push_back(other),
                _ => return Err(end("the edge sends more than can be held".into())),
            }
        }
    }

    /// The next event that is no response to a transaction that is being awaited.
    pub async fn next(&mut self) -> UaEvent {
        match self.backlog.pop_front() {
            Some(event) => event,
            None => self.ua.next().await,
        }
    }

    /// Answers a request of the peer without a body.
    pub async fn respond(&mut self, incoming: &Incoming, status: u16) {
        let mut response = Response::to_request(&incoming.message, status, None);
        if incoming.message.to_tag().is_none() {
            response = response.to_tag(&self.from_tag);
        }
        self.ua.respond(incoming, response).await;
    }
}

/// An error of the system, in words that say what to do.
pub fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused: nothing listens there; is the edge running?".into(),
        io::ErrorKind::TimedOut => "no answer in 10 s".into(),
        io::ErrorKind::UnexpectedEof => format!("{error}; does this port speak TLS?"),
        _ => error.to_string(),
    }
}
