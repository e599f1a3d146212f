//! An INVITE dialog that carries MCP: offer, answer, INFO or MESSAGE inside, BYE.

use bytes::Bytes;
use mcp_sip::envelope::{Conversation, Negotiation, Role, Step};
use mcp_sip::headers::{Capabilities, McpExchange, Select, ToolRef};
use mcp_sip::negotiation::agree;
use mcp_sip::option_tag::OptionTags;
use sip_proto::dialog::DialogState;
use sip_proto::header::Handling;
use sip_proto::message::build::{Request, Response};
use sip_proto::message::{HeaderId, Message};
use sip_proto::multipart::MultipartBuilder;

use super::bodies;
use crate::args::{EraChoice, McpOptions};
use crate::caller::{Caller, USER_AGENT};
use crate::failure::{Exit, Failure};
use crate::net::Transport;
use crate::ua::Incoming;

const VERSIONS: [&str; 2] = ["2026-07-28", "2025-11-25"];
/// Methods that we answer.
const ALLOW: &str = "INVITE, ACK, BYE, CANCEL, OPTIONS, MESSAGE, INFO, UPDATE";

/// The dialog as its caller sees it.
pub struct Dialog {
    state: DialogState,
    sdp: Bytes,
    contact: String,
    /// INFO first; MESSAGE once the peer refused INFO (XCH-4).
    info: bool,
}

impl Dialog {
    /// Sends the INVITE and the ACK. Returns the dialog and the MCP version that the answer names.
    pub async fn invite(
        caller: &mut Caller,
        options: &McpOptions,
        tool: Option<&str>,
        info: bool,
    ) -> Result<(Dialog, Option<String>), Failure> {
        let mut offer = Negotiation::new(Step::Offer, Conversation::from_random(&crate::random::bytes()), Role::Caller);
        let versions: Vec<&str> = match options.era {
            EraChoice::Auto => VERSIONS.to_vec(),
            EraChoice::Modern => vec![VERSIONS[0]],
            EraChoice::Legacy => vec![VERSIONS[1]],
        };
        offer.versions = versions.iter().map(|v| (*v).to_owned()).collect();
        let select = tool.map(|tool| Select { tools: Some(vec![ToolRef::new(tool)]), ..Select::default() });
        let sdp = empty_sdp(caller);
        let (content_type, body) = MultipartBuilder::mixed()
            .part("application/sdp", sdp.clone())
            .part(mcp_sip::MEDIA_TYPE, offer.to_bytes())
            .disposition("session", Handling::Optional)
            .build();
        let tags = OptionTags::new(Vec::<String>::new()).map_err(|e| Failure::usage(e.to_string()))?;
        let supported = tags.supported().chain(["timer"]).collect::<Vec<_>>().join(", ");
        let require = (!options.no_require).then(|| tags.to_require([]).to_owned());
        let capabilities = Capabilities::of(Vec::new(), Vec::new(), &versions).to_string();
        let (uri, contact, head) = (caller.target.uri.clone(), caller.ua.contact(), caller.head());
        let response = caller
            .transact("INVITE", &body, |cseq, via| {
                head.request("INVITE", &uri, &uri, cseq, via)
                    .header(HeaderId::Contact, format!("<{contact}>"))
                    .header_named("Supported", &supported)
                    .header_if(HeaderId::Require, require.as_deref())
                    .header_named("Allow", ALLOW)
                    .header(HeaderId::Accept, "application/sdp, application/mcp+json, multipart/mixed")
                    .header_named("Recv-Info", mcp_sip::INFO_PACKAGE)
                    .header_named("Session-Expires", "1800")
                    .header_named("Min-SE", "90")
                    .header_named(mcp_sip::headers::MCP_CAPABILITIES, &capabilities)
                    .header_if(HeaderId::McpSelect, select.as_ref().map(ToString::to_string))
                    .body(&content_type, body.clone())
            })
            .await?;
        if !response.status().is_some_and(|s| (200..300).contains(&s)) {
            return Err(Failure::refused(&response, "INVITE"));
        }
        let mut dialog = Dialog::of(caller, &response, sdp, contact, info)?;
        dialog.acknowledge(caller, response.cseq().seq).await?;
        let with_mcp = tags.first_in(response.list_values(HeaderId::Supported)).is_some();
        if !with_mcp {
            // NEG-5: a plain call; nothing about MCP is sent in it.
            dialog.bye(caller).await?;
            return Err(Failure {
                exit: Exit::Mcp,
                message: "the call was answered without MCP; the agent has none for this caller".into(),
                code: None,
            });
        }
        let answer = bodies(&response)
            .into_iter()
            .filter(|(essence, _)| essence == mcp_sip::MEDIA_TYPE)
            .find_map(|(_, body)| Negotiation::parse(&body).ok());
        let agreed = answer.map(|answer| agree(&offer, &answer)).transpose();
        match agreed {
            Ok(agreed) => Ok((dialog, agreed.and_then(|a| a.version))),
            Err(error) => {
                dialog.bye(caller).await?;
                Err(Failure { exit: Exit::Mcp, message: format!("the agent's MCP answer: {error}"), code: None })
            }
        }
    }

    fn of(caller: &Caller, response: &Message, sdp: Bytes, contact: String, info: bool) -> Result<Dialog, Failure> {
        let tls = matches!(caller.ua.peer.transport, Transport::Tls | Transport::Wss);
        let invite = caller.ua.last_request();
        let state = invite.map(|invite| DialogState::uac(&invite, response, tls));
        match state {
            Some(Ok(state)) => Ok(Dialog { state, sdp, contact, info }),
            Some(Err(error)) => Err(Failure::unreachable(format!("the 200 makes no dialog: {error}"))),
            None => Err(Failure::unreachable("the INVITE is not known any more")),
        }
    }

    /// Whether a request belongs to this dialog.
    pub fn owns(&self, message: &Message) -> bool {
        message.call_id() == self.state.call_id
            && message.to_tag() == Some(&self.state.local_tag)
            && message.from_tag() == Some(&self.state.remote_tag)
    }

    async fn acknowledge(&mut self, caller: &mut Caller, cseq: u32) -> Result<(), Failure> {
        let state = &self.state;
        let sent = caller.ua.send_request("ACK", |via| state.ack_2xx(cseq, via)).await;
        sent.map(|_| ()).map_err(|e| Failure::unreachable(crate::caller::explain(&e)))
    }

    /// One MCP message; where the peer takes no INFO, the same one by MESSAGE.
    pub async fn send(
        &mut self,
        caller: &mut Caller,
        exchange: &McpExchange,
        body: &Bytes,
    ) -> Result<Message, Failure> {
        let value = exchange.to_string();
        if self.info {
            let response = caller
                .transact("INFO", body, |cseq, via| {
                    agent(self.state.request_with_cseq("INFO", cseq, via))
                        .header_named("Info-Package", mcp_sip::INFO_PACKAGE)
                        .header_named("Content-Disposition", "Info-Package")
                        .header_named(mcp_sip::headers::MCP_EXCHANGE, &value)
                        .body(mcp_sip::MEDIA_TYPE, body.clone())
                })
                .await?;
            if !matches!(response.status(), Some(405 | 415 | 469 | 489 | 501)) {
                return Ok(response);
            }
            self.info = false;
        }
        caller
            .transact("MESSAGE", body, |cseq, via| {
                agent(self.state.request_with_cseq("MESSAGE", cseq, via))
                    .header_named(mcp_sip::headers::MCP_EXCHANGE, &value)
                    .body(mcp_sip::MEDIA_TYPE, body.clone())
            })
            .await
    }

    /// A session refresh of the peer: UPDATE or re-INVITE (RFC 4028 §9); our description has not changed.
    pub async fn refresh(&mut self, caller: &mut Caller, incoming: &Incoming) {
        self.state.on_request(&incoming.message);
        let mut response = Response::to_request(&incoming.message, 200, None)
            .header(HeaderId::Contact, format!("<{}>", self.contact))
            .header_named("Allow", ALLOW)
            .header_named("Supported", "timer");
        if let Some(expires) = incoming.message.header(HeaderId::SessionExpires) {
            response = response.header(HeaderId::SessionExpires, expires).header_named("Require", "timer");
        }
        if incoming.message.method().is_some_and(|m| m.as_str() == "INVITE") {
            response = response.body("application/sdp", self.sdp.clone());
        }
        caller.ua.respond(incoming, response).await;
    }

    /// Hangs up.
    pub async fn bye(self, caller: &mut Caller) -> Result<(), Failure> {
        let response =
            caller.transact("BYE", b"", |cseq, via| agent(self.state.request_with_cseq("BYE", cseq, via))).await?;
        match response.status() {
            // 481: it had ended already.
            Some(200..=299 | 481) => Ok(()),
            _ => Err(Failure::refused(&response, "BYE")),
        }
    }
}

fn agent(request: Request) -> Request {
    request.header(HeaderId::UserAgent, USER_AGENT)
}

/// A description without media: MCP goes by INFO and MESSAGE (RFC 3264 §5 allows zero media streams).
fn empty_sdp(caller: &Caller) -> Bytes {
    let ip = caller.ua.peer.local.ip();
    let family = if ip.is_ipv4() { "IP4" } else { "IP6" };
    let id = u32::from_le_bytes(crate::random::bytes());
    Bytes::from(format!("v=0\r\no=- {id} 1 IN {family} {ip}\r\ns=-\r\nc=IN {family} {ip}\r\nt=0 0\r\n"))
}
