//! A caller with a list of edges: requests go to the next one where an edge cannot be reached, breaks off or answers 503 (RFC 3263 §4.3), in a
//! dialog, too: any edge of a fleet has it.

use std::sync::Arc;
use std::sync::Mutex as Plain;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mcp_sip::exchange::{Exchange, ExchangeId, McpExchange, Relation};
use serde_json::{Value, json};
use sip_proto::auth::DigestRequest;
use sip_proto::auth::client::{ClientSecret, ClientUser, answer, header_names};
use sip_proto::dialog::{DialogState, ack_failure};
use sip_proto::message::build::Request;
use sip_proto::message::{HeaderId, Message, Transportation};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use super::desk::Desk;
use super::link::{Link, Tls};
use super::{Lost, accepted, result};
use crate::harness::reach::Way;
use crate::harness::{random, token};
use crate::manifests::USER;

const REVISION: &str = "2026-07-28";
const BOUNDARY: &str = "e2e";
/// Where every edge refused: until they are asked again.
const AGAIN: Duration = Duration::from_millis(250);

/// A caller.
pub struct Phone {
    ways: Vec<Way>,
    tls: Option<Tls>,
    domain: String,
    /// Shows credentials when it is asked for them; else it is anonymous.
    known: bool,
    /// Name and password in the test's domain.
    user: (String, String),
    /// Takes a 503 for an answer.
    modest: bool,
    desk: Arc<Desk>,
    /// The edge of the moment and the connection to it.
    link: Mutex<Option<(usize, Link)>>,
    /// Requests that went to another edge.
    pub moves: AtomicU64,
}

/// What became of a request that an edge took.
struct Taken {
    sent: Bytes,
    response: Message,
    link: Link,
}

/// A dialog of a caller.
pub struct Dialog {
    state: Plain<DialogState>,
    /// Held by the one request that is open in it.
    gate: Mutex<()>,
    /// The host that the edge gave in its Contact.
    pub contact: Option<String>,
    /// UUID of the conversation that was offered.
    pub conversation: String,
}

type Build<'a> = &'a (dyn Fn(u32, &str, &Link) -> Request + Sync);

impl Phone {
    /// `known`: it has the user of the test's domain.
    pub fn new(ways: Vec<Way>, tls: Option<Tls>, domain: &str, known: bool) -> Phone {
        Phone {
            ways,
            tls,
            domain: domain.to_owned(),
            known,
            user: (USER.0.to_owned(), USER.1.to_owned()),
            modest: false,
            desk: Arc::default(),
            link: Mutex::default(),
            moves: AtomicU64::new(0),
        }
    }

    /// The same, and a 503 is an answer: nobody is asked again.
    pub fn modest(mut self) -> Phone {
        self.modest = true;
        self
    }

    /// The same, as another user of the domain.
    pub fn of(mut self, user: &str, password: &str) -> Phone {
        self.user = (user.to_owned(), password.to_owned());
        self
    }

    fn from(&self) -> String {
        if self.known {
            format!("sip:{}@{}", self.user.0, self.domain)
        } else {
            "sip:anonymous@anonymous.invalid".to_owned()
        }
    }

    /// The connection that stands, or a new one; not to `avoid` where another edge answers.
    async fn link(&self, avoid: Option<usize>) -> Result<(usize, Link), Lost> {
        let mut current = self.link.lock().await;
        if let Some((edge, link)) = &*current
            && link.is_open()
            && avoid != Some(*edge)
        {
            return Ok((*edge, link.clone()));
        }
        let mut order: Vec<usize> = (0..self.ways.len()).filter(|edge| Some(*edge) != avoid).collect();
        let first = usize::from(random::<1>()[0]) % order.len().max(1);
        order.rotate_left(first);
        // The last to be tried is the one that failed, which may be up again.
        order.extend(avoid);
        let mut last = Lost::Edge("no edge".to_owned());
        for edge in order {
            match Link::open(&self.ways[edge], self.tls.as_ref(), self.desk.clone()).await {
                Ok(link) => {
                    // The old one stays for what it still carries; it ends with its last user, or with its edge.
                    *current = Some((edge, link.clone()));
                    return Ok((edge, link));
                }
                Err(why) => last = Lost::Edge(why),
            }
        }
        Err(last)
    }

    /// Sends what `build` makes for a CSeq, a Via and a connection, to the first edge that takes it. In a dialog a 500 says that another request
    /// overtook this one.
    async fn ask(
        &self,
        method: &str,
        uri: &str,
        body: &[u8],
        cseq: &(dyn Fn() -> u32 + Sync),
        build: Build<'_>,
        deadline: Instant,
    ) -> Result<Taken, Lost> {
        let mut avoid = None;
        let mut refusals = 0;
        let mut credentials: Option<(&'static str, String)> = None;
        loop {
            let (edge, link) = match self.link(avoid.take()).await {
                Ok(found) => found,
                Err(lost) if Instant::now() + AGAIN >= deadline => return Err(lost),
                Err(_) => {
                    sleep(AGAIN).await;
                    continue;
                }
            };
            let number = cseq();
            let sent = credentials.take();
            let request = |via: &str| {
                let request = build(number, via, &link);
                match &sent {
                    Some((name, value)) => request.header_named(name, value),
                    None => request,
                }
            };
            let (bytes, response) = match link.ask(method, request, deadline).await {
                Ok(found) => found,
                Err(lost @ Lost::Silence(_)) => return Err(lost),
                Err(lost) if Instant::now() >= deadline => return Err(lost),
                Err(_) => {
                    self.moves.fetch_add(1, Ordering::Relaxed);
                    avoid = Some(edge);
                    continue;
                }
            };
            let status = response.status().unwrap_or(0);
            if method == "INVITE"
                && status >= 300
                && let Ok(invite) = Message::parse(bytes.clone(), Transportation::Datagram)
                && let Some(ack) = ack_failure(&invite, &response)
            {
                link.send_raw(ack).await;
            }
            match status {
                401 | 407 if self.known && sent.is_none() => {
                    credentials = Some(self.credentials(&response, method, uri, body)?);
                }
                500 | 503 if !(self.modest && status == 503) && Instant::now() + AGAIN < deadline => {
                    refusals += 1;
                    if status == 503 {
                        self.moves.fetch_add(1, Ordering::Relaxed);
                        avoid = Some(edge);
                    }
                    if refusals % self.ways.len().max(1) == 0 {
                        sleep(AGAIN).await;
                    }
                }
                _ => return accepted(response).map(|response| Taken { sent: bytes, response, link }),
            }
        }
    }

    fn credentials(
        &self,
        challenge: &Message,
        method: &str,
        uri: &str,
        body: &[u8],
    ) -> Result<(&'static str, String), Lost> {
        let status = challenge.status().unwrap_or(0);
        let (asked, name) = header_names(status).unwrap_or(("", "Authorization"));
        let user = ClientUser {
            username: &self.user.0,
            realm: &self.domain,
            secret: ClientSecret::Password(&self.user.1),
            allow_md5: false,
        };
        let request = DigestRequest { method, uri, body };
        let given = answer(challenge.headers_named(asked), &request, &user, 1, &token(16));
        given.map(|given| (name, given.value)).map_err(|error| Lost::Refused(status, error.to_string()))
    }

    fn head(&self, method: &str, uri: &str, call_id: &str, tag: &str, cseq: u32, via: &str) -> Request {
        Request::new(method, uri)
            .via(via)
            .header(HeaderId::MaxForwards, "70")
            .header(HeaderId::From, format!("<{}>;tag={tag}", self.from()))
            .header(HeaderId::To, format!("<{uri}>"))
            .header(HeaderId::CallId, call_id)
            .header(HeaderId::CSeq, format!("{cseq} {method}"))
    }

    /// `tools/call` in a MESSAGE without a dialog, to its answer.
    ///
    /// # Errors
    /// A refusal, an error of the tool's server, or silence.
    pub async fn page(&self, uri: &str, tool: &str, arguments: &Value, limit: Duration) -> Result<Value, Lost> {
        let (call_id, tag, cseq) = (token(24), token(16), AtomicU32::new(0));
        let deadline = Instant::now() + limit;
        self.exchange(tool, arguments, deadline, |header, body| {
            let (call_id, tag, cseq) = (&call_id, &tag, &cseq);
            async move {
                let next = || cseq.fetch_add(1, Ordering::Relaxed) + 1;
                let build = |cseq: u32, via: &str, _: &Link| {
                    with_mcp(self.head("MESSAGE", uri, call_id, tag, cseq, via), &header, &body)
                };
                self.ask("MESSAGE", uri, &body, &next, &build, deadline).await.map(|taken| taken.link)
            }
        })
        .await
    }

    /// INVITE with an MCP offer, its 200, and the ACK.
    ///
    /// # Errors
    /// Nobody took it.
    pub async fn invite(&self, uri: &str, limit: Duration) -> Result<Dialog, Lost> {
        let (call_id, tag, cseq) = (token(24), token(16), AtomicU32::new(0));
        let conversation = uuid();
        let body = offer(&conversation);
        let next = || cseq.fetch_add(1, Ordering::Relaxed) + 1;
        let build = |cseq: u32, via: &str, link: &Link| {
            self.head("INVITE", uri, &call_id, &tag, cseq, via)
                .header(HeaderId::Contact, format!("<{}>", link.contact("e2e")))
                .header_named("Supported", "mcp, x-mcp, timer")
                .header_named("Recv-Info", "mcp")
                .header_named("Allow", "INVITE, ACK, BYE, CANCEL, OPTIONS, INFO, MESSAGE, UPDATE")
                .header(HeaderId::Accept, "application/sdp, application/mcp+json, multipart/mixed")
                .body(format!("multipart/mixed;boundary={BOUNDARY}"), body.clone())
        };
        let Taken { sent, response, link } =
            self.ask("INVITE", uri, &body, &next, &build, Instant::now() + limit).await?;
        let odd = |why: String| Lost::Refused(200, why);
        let invite = Message::parse(sent, Transportation::Datagram).map_err(|refusal| odd(format!("{refusal:?}")))?;
        let state = DialogState::uac(&invite, &response, self.tls.is_some()).map_err(|error| odd(error.to_string()))?;
        let dialog = Dialog {
            contact: super::contact_host(&response),
            state: Plain::new(state),
            gate: Mutex::default(),
            conversation,
        };
        let number = cseq.load(Ordering::Relaxed);
        link.send(|via| dialog.state().ack_2xx(number, via)).await;
        Ok(dialog)
    }

    async fn in_dialog(
        &self,
        dialog: &Dialog,
        method: &str,
        mcp: Option<(&str, &Bytes)>,
        deadline: Instant,
    ) -> Result<Link, Lost> {
        let _open = dialog.gate.lock().await;
        let uri = dialog.state().remote_target.clone();
        // Four thousand million requests are not reached.
        let next = || dialog.state().next_cseq().unwrap_or(u32::MAX);
        let build = |cseq: u32, via: &str, _: &Link| {
            let request = dialog.state().request_with_cseq(method, cseq, via);
            match mcp {
                Some((header, body)) => with_mcp(request, header, body),
                None => request,
            }
        };
        let body = mcp.map(|(_, body)| body.clone()).unwrap_or_default();
        self.ask(method, &uri, &body, &next, &build, deadline).await.map(|taken| taken.link)
    }

    /// `tools/call` in a dialog, to its answer.
    ///
    /// # Errors
    /// A refusal, an error, silence, or the edge hung up.
    pub async fn call(&self, dialog: &Dialog, tool: &str, arguments: &Value, limit: Duration) -> Result<Value, Lost> {
        let deadline = Instant::now() + limit;
        let call_id = dialog.state().call_id.clone();
        let answer = self
            .exchange(tool, arguments, deadline, |header, body| async move {
                self.in_dialog(dialog, "MESSAGE", Some((&header, &body)), deadline).await
            })
            .await;
        match (answer, self.desk.ended(&call_id)) {
            (Err(Lost::Silence(_)), Some(why)) => Err(Lost::Refused(487, why)),
            (answer, _) => answer,
        }
    }

    /// # Errors
    /// Nobody took it.
    pub async fn bye(&self, dialog: &Dialog, limit: Duration) -> Result<(), Lost> {
        self.in_dialog(dialog, "BYE", None, Instant::now() + limit).await.map(drop)
    }

    /// REGISTER of one's own address with a Contact at this `user`, for so many seconds: the seconds that are granted.
    ///
    /// # Errors
    /// A refusal, or silence.
    pub async fn register(&self, user: &str, seconds: u32, limit: Duration) -> Result<u32, Lost> {
        let (call_id, tag, cseq) = (token(24), token(16), AtomicU32::new(0));
        let (domain, own) = (format!("sip:{}", self.domain), self.from());
        let contact = |link: &Link| link.contact(user);
        let next = || cseq.fetch_add(1, Ordering::Relaxed) + 1;
        let build = |cseq: u32, via: &str, link: &Link| {
            Request::new("REGISTER", &domain)
                .via(via)
                .header(HeaderId::MaxForwards, "70")
                .header(HeaderId::From, format!("<{own}>;tag={tag}"))
                .header(HeaderId::To, format!("<{own}>"))
                .header(HeaderId::CallId, &call_id)
                .header(HeaderId::CSeq, format!("{cseq} REGISTER"))
                .header(HeaderId::Contact, format!("<{}>", contact(link)))
                .header(HeaderId::Expires, seconds.to_string())
        };
        let taken = self.ask("REGISTER", &domain, b"", &next, &build, Instant::now() + limit).await?;
        let ours = contact(&taken.link);
        let contacts = taken.response.headers(HeaderId::Contact);
        let texts: Vec<String> = contacts.map(|value| String::from_utf8_lossy(value).into_owned()).collect();
        let mine = texts.iter().flat_map(|text| text.split(',')).find(|text| text.contains(&ours));
        let granted = mine.and_then(|text| text.split(";expires=").nth(1)?.split([';', ' ']).next()?.parse().ok());
        granted.ok_or_else(|| Lost::Refused(200, format!("no time is granted to {ours} in {texts:?}")))
    }

    /// OPTIONS without a dialog, once: what a probe does.
    ///
    /// # Errors
    /// A refusal, or silence.
    pub async fn options(&self, uri: &str, limit: Duration) -> Result<(), Lost> {
        let (_, link) = self.link(None).await?;
        let (call_id, tag) = (token(24), token(16));
        let build = |via: &str| self.head("OPTIONS", uri, &call_id, &tag, 1, via);
        let (_, response) = link.ask("OPTIONS", build, Instant::now() + limit).await?;
        accepted(response).map(drop)
    }

    /// Whether the dialog stands at the edge of the moment.
    ///
    /// # Errors
    /// It does not.
    pub async fn is_alive(&self, dialog: &Dialog, limit: Duration) -> Result<(), Lost> {
        self.in_dialog(dialog, "OPTIONS", None, Instant::now() + limit).await.map(drop)
    }

    /// One exchange: `send` takes the header and the body. Where the connection breaks that carried it, the same goes to another edge, which knows
    /// it by its id.
    async fn exchange<F, R>(&self, tool: &str, arguments: &Value, deadline: Instant, send: F) -> Result<Value, Lost>
    where
        F: Fn(String, Bytes) -> R,
        R: Future<Output = Result<Link, Lost>>,
    {
        let exchange = ExchangeId::from_random(&random::<16>());
        let header = McpExchange::new(Exchange::Id(exchange), Relation::Caller).to_string();
        let id = u32::from_le_bytes(random());
        let meta = json!({"io.modelcontextprotocol/protocolVersion": REVISION, "io.modelcontextprotocol/clientCapabilities": {}});
        let params = json!({"name": tool, "arguments": arguments, "_meta": meta});
        let body =
            Bytes::from(json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}).to_string());
        let mut answered = self.desk.expect(exchange.as_str());
        let outcome = loop {
            // The connection that carried it; others of this caller may come and go.
            let carrier = match send(header.clone(), body.clone()).await {
                Ok(link) => link,
                Err(lost) => break Err(lost),
            };
            tokio::select! {
                answer = &mut answered => match answer {
                    Ok(answer) => break result(&answer),
                    Err(_) => break Err(Lost::Silence("the client ended".to_owned())),
                },
                () = tokio::time::sleep_until(deadline) => break Err(Lost::Silence(format!("no answer of tool {tool} in time"))),
                () = carrier.closed() => {
                    self.moves.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        self.desk.forget(exchange.as_str());
        outcome
    }

    /// Closes what is open.
    pub async fn quit(&self) {
        if let Some((_, link)) = self.link.lock().await.take() {
            link.close();
        }
    }
}

impl Dialog {
    fn state(&self) -> std::sync::MutexGuard<'_, DialogState> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn with_mcp(request: Request, header: &str, body: &Bytes) -> Request {
    request
        .header_named("Supported", "mcp, x-mcp")
        .header(HeaderId::Accept, mcp_sip::MEDIA_TYPE)
        .header_named(mcp_sip::headers::MCP_EXCHANGE, header)
        .body(mcp_sip::MEDIA_TYPE, body.clone())
}

/// A random one (RFC 9562, version 4).
fn uuid() -> String {
    let hex = token(32);
    format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

fn offer(conversation: &str) -> Bytes {
    let id = u32::from_le_bytes(random());
    Bytes::from(format!(
        "--{BOUNDARY}\r\nContent-Type: application/sdp\r\n\r\nv=0\r\no=- {id} 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n\r\n\
         --{BOUNDARY}\r\nContent-Type: application/mcp+json\r\nContent-Disposition: session;handling=optional\r\n\r\n\
         {{\"mcp_version\":\"1.0\",\"type\":\"offer\",\"conversation\":\"{conversation}\",\
         \"payload\":{{\"role\":\"caller\",\"tools\":[],\"schemas\":[],\"versions\":[\"{REVISION}\"]}}}}\r\n--{BOUNDARY}--\r\n"
    ))
}
