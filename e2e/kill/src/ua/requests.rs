//! What a client asks for: registrations, calls, requests in them, tool calls, the end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sip_proto::dialog::DialogState;
use sip_proto::message::build::Request;
use sip_proto::message::{HeaderId, Message, Transportation};

use super::exchange::{Call, Tool};
use super::transact::{Ask, Way};
use super::{Dialog, REPEATABLE, Transport, Ua, lock};
use crate::Fallible;
use crate::manifests::{AGENT, DOMAIN};
use crate::place;

/// How long a client tries before it gives a request up: what RFC 3261 gives a transaction.
pub const GIVE_UP: Duration = Duration::from_secs(32);
/// The same for the request of a tool call, which waits for nobody while the store is away.
const CALL_GIVES_UP: Duration = Duration::from_secs(12);
const BOUNDARY: &str = "kill";

/// What a request in a dialog carries beyond what every such request has.
struct Content<'a> {
    finish: &'a (dyn Fn(Request) -> Request + Sync),
    body: &'a [u8],
    /// See [`Ask::not_taken`].
    not_taken: &'a (dyn Fn() + Sync),
}

impl<'a> Content<'a> {
    fn plain(finish: &'a (dyn Fn(Request) -> Request + Sync)) -> Content<'a> {
        Content { finish, body: b"", not_taken: &|| () }
    }
}

fn is_ok(message: &Message) -> bool {
    message.status().is_some_and(|status| (200..300).contains(&status))
}

fn status(message: &Message) -> String {
    let reason = message.reason().map(|reason| String::from_utf8_lossy(reason).into_owned()).unwrap_or_default();
    let warning = message.headers_named("Warning").next().map(|value| format!(" ({})", String::from_utf8_lossy(value)));
    format!("{} {reason}{}", message.status().unwrap_or(0), warning.unwrap_or_default())
}

impl Ua {
    fn out_of_dialog(&self, method: &str, uri: &str, to: &str, call_id: &str, tag: &str, way: &Way) -> Request {
        Request::new(method, uri)
            .via(&way.via)
            .header(HeaderId::MaxForwards, "70")
            .header(HeaderId::From, format!("<{}>;tag={tag}", self.aor()))
            .header(HeaderId::To, format!("<{to}>"))
            .header(HeaderId::CallId, call_id)
            .header(HeaderId::CSeq, format!("{} {method}", way.cseq))
    }

    /// REGISTER for an hour; `Ok` is an acknowledged binding.
    pub async fn register(&self, at: Option<usize>) -> Fallible<()> {
        let registrar = format!("sip:{DOMAIN}");
        let used = std::sync::Mutex::new(String::new());
        let response = self
            .ask(&Ask {
                method: "REGISTER",
                uri: &registrar,
                body: b"",
                at,
                cseq: &|| {
                    let mut state = lock(&self.0.state);
                    state.register_cseq += 1;
                    state.register_cseq
                },
                build: &|way| {
                    way.contact.clone_into(&mut lock(&used));
                    let instance = &self.0.instance;
                    self.out_of_dialog(
                        "REGISTER",
                        &registrar,
                        &self.aor(),
                        &self.0.register_call,
                        &self.0.register_tag,
                        way,
                    )
                    .header(
                        HeaderId::Contact,
                        format!("<{}>;+sip.instance=\"<urn:uuid:{instance}>\";reg-id=1", way.contact),
                    )
                    .header_named("Supported", "path, outbound")
                    .header(HeaderId::Expires, "3600")
                },
                again_on_500: false,
                deadline: Instant::now() + GIVE_UP,
                not_taken: &|| (),
            })
            .await?;
        if !is_ok(&response) {
            return Err(format!("REGISTER: {}", status(&response)));
        }
        let contact = lock(&used).clone();
        lock(&self.0.state).registered = Some(contact);
        Ok(())
    }

    /// Whether one edge knows the binding that was acknowledged last.
    pub async fn is_registered(&self, edge: usize, deadline: Instant) -> Fallible<bool> {
        let registrar = format!("sip:{DOMAIN}");
        let (call_id, tag) = (place::token(26), place::token(16));
        let response = self
            .ask(&Ask {
                method: "REGISTER",
                uri: &registrar,
                body: b"",
                at: Some(edge),
                cseq: &counter(),
                build: &|way| self.out_of_dialog("REGISTER", &registrar, &self.aor(), &call_id, &tag, way),
                again_on_500: false,
                deadline,
                not_taken: &|| (),
            })
            .await?;
        if !is_ok(&response) {
            return Err(format!("REGISTER at edge {}: {}", edge + 1, status(&response)));
        }
        let found = response.headers(HeaderId::Contact).any(|value| {
            let text = String::from_utf8_lossy(value);
            text.contains(&self.0.instance)
        });
        Ok(found)
    }

    /// INVITE with an MCP offer, its 200 and the ACK.
    pub async fn invite(&self) -> Fallible<Arc<Dialog>> {
        let (call_id, tag) = (place::token(26), place::token(16));
        let body = self.offer();
        let sent = std::sync::Mutex::new(None);
        let next = counter();
        let response = self
            .ask(&Ask {
                method: "INVITE",
                uri: AGENT,
                body: &body,
                at: None,
                cseq: &next,
                build: &|way| {
                    let request = self
                        .out_of_dialog("INVITE", AGENT, AGENT, &call_id, &tag, way)
                        .header(HeaderId::Contact, format!("<{}>", way.contact))
                        .header_named("Supported", "mcp, x-mcp, timer")
                        .header_named("Recv-Info", "mcp")
                        .header_named("Allow", "INVITE, ACK, BYE, CANCEL, OPTIONS, INFO, MESSAGE, UPDATE")
                        .header(HeaderId::Accept, "application/sdp, application/mcp+json, multipart/mixed")
                        .body(format!("multipart/mixed;boundary={BOUNDARY}"), body.clone());
                    *lock(&sent) = Some(request.clone());
                    request
                },
                again_on_500: false,
                deadline: Instant::now() + GIVE_UP,
                not_taken: &|| (),
            })
            .await?;
        if !is_ok(&response) {
            return Err(format!("INVITE: {}", status(&response)));
        }
        let request = lock(&sent).take().ok_or("no INVITE was sent")?;
        let invite = Message::parse(request.build(), Transportation::Datagram)
            .map_err(|refusal| format!("our own INVITE: {}", refusal.reason))?;
        let tls = self.0.transport != Transport::Udp;
        let state = DialogState::uac(&invite, &response, tls).map_err(|error| format!("the 200 to INVITE: {error}"))?;
        let dialog = Arc::new(Dialog::new(state));
        lock(&self.0.state).dialogs.insert(dialog.call_id.clone(), dialog.clone());
        self.acknowledge(&dialog).await;
        Ok(dialog)
    }

    fn offer(&self) -> Bytes {
        let ip = self.0.ip;
        let id = u32::from_le_bytes(place::random());
        let hex: String = place::random::<16>().iter().map(|byte| format!("{byte:02x}")).collect();
        let conversation =
            format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32]);
        Bytes::from(format!(
            "--{BOUNDARY}\r\nContent-Type: application/sdp\r\n\r\nv=0\r\no=- {id} 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\n\r\n\
             --{BOUNDARY}\r\nContent-Type: application/mcp+json\r\nContent-Disposition: session;handling=optional\r\n\r\n\
             {{\"mcp_version\":\"1.0\",\"type\":\"offer\",\"conversation\":\"{conversation}\",\
             \"payload\":{{\"role\":\"caller\",\"tools\":[],\"schemas\":[],\"versions\":[\"2026-07-28\"]}}}}\r\n--{BOUNDARY}--\r\n"
        ))
    }

    async fn in_dialog_request(
        &self,
        dialog: &Dialog,
        method: &'static str,
        at: Option<usize>,
        deadline: Instant,
        what: &Content<'_>,
    ) -> Fallible<Message> {
        let Content { finish, body, not_taken } = *what;
        let _open = dialog.gate.lock().await;
        let uri = lock(&dialog.state).remote_target.clone();
        self.ask(&Ask {
            method,
            uri: &uri,
            body,
            at,
            // Four thousand million requests are not reached.
            cseq: &|| lock(&dialog.state).next_cseq().unwrap_or(u32::MAX),
            build: &|way| finish(lock(&dialog.state).request_with_cseq(method, way.cseq, &way.via)),
            again_on_500: matches!(method, "INFO" | "MESSAGE" | "OPTIONS" | "BYE"),
            deadline,
            not_taken,
        })
        .await
    }

    /// OPTIONS or BYE in the dialog at any edge, and when its turn came.
    pub async fn timed(&self, dialog: &Dialog, method: &'static str) -> (Instant, Fallible<()>) {
        let turn = std::sync::Mutex::new(None);
        let finish = |request: Request| {
            lock(&turn).get_or_insert_with(Instant::now);
            request
        };
        // Its turn comes after at most one request of a tool call, and that gives up by itself.
        let deadline = Instant::now() + GIVE_UP + CALL_GIVES_UP;
        let response = self.in_dialog_request(dialog, method, None, deadline, &Content::plain(&finish)).await;
        let answer = response.and_then(|response| match is_ok(&response) {
            true => Ok(()),
            false => Err(format!("{method}: {}", status(&response))),
        });
        (lock(&turn).unwrap_or_else(Instant::now), answer)
    }

    /// OPTIONS in the dialog, at one edge or any.
    pub async fn is_alive(&self, dialog: &Dialog, at: Option<usize>, deadline: Instant) -> Fallible<()> {
        let response =
            self.in_dialog_request(dialog, "OPTIONS", at, deadline, &Content::plain(&|request| request)).await?;
        match is_ok(&response) {
            true => Ok(()),
            false => Err(format!("OPTIONS: {}", status(&response))),
        }
    }

    /// Whether the dialog is gone at this edge, as it must be after a BYE that was acknowledged.
    pub async fn is_gone(&self, dialog: &Dialog, at: usize, deadline: Instant) -> Fallible<bool> {
        let response =
            self.in_dialog_request(dialog, "OPTIONS", Some(at), deadline, &Content::plain(&|request| request)).await?;
        Ok(response.status() == Some(481))
    }

    /// Hangs up; `Ok` is an acknowledged end.
    pub async fn bye(&self, dialog: &Dialog) -> Fallible<()> {
        let deadline = Instant::now() + GIVE_UP;
        let response =
            self.in_dialog_request(dialog, "BYE", None, deadline, &Content::plain(&|request| request)).await?;
        match is_ok(&response) {
            true => Ok(()),
            false => Err(format!("BYE: {}", status(&response))),
        }
    }

    /// Begins a tool call; its fate comes later.
    pub fn call(&self, dialog: &Arc<Dialog>, tool: Tool, takes: Duration) -> Arc<Call> {
        let call = Arc::new(Call::new(dialog.clone(), tool, takes));
        call.sends(true);
        lock(&self.0.state).calls.insert(call.exchange.as_str().to_owned(), call.clone());
        let (ua, sent) = (self.clone(), call.clone());
        tokio::spawn(async move { ua.deliver(&sent).await });
        call
    }

    /// The request of an exchange to its 2xx, or to a refusal.
    pub(super) async fn deliver(&self, call: &Call) {
        let value = call.header();
        let finish = |request: Request| {
            // The connection of this copy.
            if let Some(link) = &lock(&self.0.state).link {
                call.link.store(link.number, Ordering::Relaxed);
            }
            call.begins();
            let request = match call.method {
                "INFO" => request
                    .header_named("Info-Package", mcp_sip::INFO_PACKAGE)
                    .header_named("Content-Disposition", "Info-Package"),
                _ => request,
            };
            request.header_named(mcp_sip::headers::MCP_EXCHANGE, &value).body(mcp_sip::MEDIA_TYPE, call.body.clone())
        };
        call.sends(true);
        let mut deadline = Instant::now() + CALL_GIVES_UP;
        loop {
            let what = Content { finish: &finish, body: &call.body, not_taken: &|| call.not_taken() };
            let asking = self.in_dialog_request(&call.dialog, call.method, None, deadline, &what);
            match asking.await {
                Ok(response) if is_ok(&response) => call.accepted(),
                Ok(response) => call.refused(status(&response)),
                // Nobody said anything, so it may run: it is sent again for as long as that is safe. If nobody ever answers, it is silent.
                Err(_) if call.sent.elapsed() < REPEATABLE && self.is_online() => {
                    deadline = Instant::now() + Duration::from_secs(1);
                    continue;
                }
                Err(_) => {}
            }
            break;
        }
        call.sends(false);
    }
}

/// CSeq numbers of requests out of a dialog.
fn counter() -> impl Fn() -> u32 + Sync {
    let next = std::sync::atomic::AtomicU32::new(1);
    move || next.fetch_add(1, Ordering::Relaxed)
}
