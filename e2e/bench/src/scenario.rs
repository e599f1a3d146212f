//! What the generator sends: SIP as a plain UA would write it.

pub mod call;
pub mod exchange;
pub mod page;
pub mod register;

use std::net::SocketAddr;

use sip_proto::message::{HeaderId, Message};

/// The audio offer of every call.
pub const OFFER: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0\r\n\
                         a=rtpmap:0 PCMU/8000\r\n";

/// The answer that a UA gives to a request: status line, and what RFC 3261 §8.2.6.2 copies.
pub fn response(request: &Message, status: &str, tag: &str, more: &str, body: &str) -> Vec<u8> {
    let mut out = format!("SIP/2.0 {status}\r\n");
    let mut copy = |id: HeaderId, name: &str| {
        for line in request.headers(id) {
            out.push_str(name);
            out.push_str(": ");
            out.push_str(&String::from_utf8_lossy(line));
            out.push_str("\r\n");
        }
    };
    copy(HeaderId::Via, "Via");
    copy(HeaderId::RecordRoute, "Record-Route");
    copy(HeaderId::From, "From");
    copy(HeaderId::CallId, "Call-ID");
    copy(HeaderId::CSeq, "CSeq");
    let to = String::from_utf8_lossy(request.header(HeaderId::To).unwrap_or_default()).into_owned();
    let tag = if request.to_tag().is_some() { String::new() } else { format!(";tag={tag}") };
    out.push_str(&format!("To: {to}{tag}\r\n{more}Content-Length: {}\r\n\r\n{body}", body.len()));
    out.into_bytes()
}

/// A dialog of ours, caller's side: as much of RFC 3261 §12 as the generator needs.
#[derive(Clone, Debug, Default)]
pub struct Dialog {
    pub id: u64,
    pub salt: u64,
    pub target: String,
    pub remote_target: String,
    pub to_tag: String,
    pub routes: String,
    pub cseq: u32,
}

impl Dialog {
    pub fn call_id(&self) -> String {
        format!("{}.{:x}@bench", self.id, self.salt)
    }

    /// What the 2xx to the INVITE says.
    pub fn established(&mut self, message: &Message) {
        self.to_tag = message.to_tag().unwrap_or_default().to_owned();
        let contact = message.header_str(HeaderId::Contact).unwrap_or_default();
        self.remote_target = uri_of(contact).to_owned();
        let mut routes: Vec<String> =
            message.headers(HeaderId::RecordRoute).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        routes.reverse();
        self.routes = routes.iter().map(|route| format!("Route: {route}\r\n")).collect();
    }

    /// A request in the dialog (or the INVITE that makes it).
    pub fn request(&self, method: &str, cseq: u32, from: SocketAddr, more: &str, body: &str) -> Vec<u8> {
        let Dialog { id, salt, target, .. } = self;
        let (uri, tag) = match self.to_tag.as_str() {
            "" => (target, String::new()),
            tag => (&self.remote_target, format!(";tag={tag}")),
        };
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bK{id:x}.{salt:x}.{cseq}.{};rport\r\n{}\
             Max-Forwards: 70\r\nFrom: <sip:load@bench.example>;tag=c{id:x}\r\nTo: <{target}>{tag}\r\nCall-ID: {}\r\n\
             CSeq: {cseq} {method}\r\nContact: <sip:load@{from}>\r\n{more}Content-Length: {}\r\n\r\n{body}",
            &method[..1],
            self.routes,
            self.call_id(),
            body.len()
        )
        .into_bytes()
    }
}

/// The URI of a name-addr.
pub fn uri_of(value: &str) -> &str {
    match (value.find('<'), value.find('>')) {
        (Some(from), Some(to)) if from < to => &value[from + 1..to],
        _ => value.split(';').next().unwrap_or_default().trim(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use sip_proto::message::Transportation;

    #[test]
    fn our_requests_and_answers_parse_and_carry_the_route_back() {
        let from: SocketAddr = "127.0.0.1:7000".parse().unwrap();
        let mut dialog = Dialog { id: 9, salt: 0xab, target: "sip:echo@bench.example".into(), ..Dialog::default() };
        let parse = |bytes: Vec<u8>| Message::parse(Bytes::from(bytes), Transportation::Datagram).unwrap();
        let invite = parse(dialog.request("INVITE", 1, from, "Content-Type: application/sdp\r\n", OFFER));
        let more = "Record-Route: <sip:a;lr>\r\nRecord-Route: <sip:b;lr>\r\nContact: <sip:x@127.0.0.1:9>\r\n";
        let answer = parse(response(&invite, "200 OK", "t1", more, ""));
        dialog.established(&answer);
        let bye = parse(dialog.request("BYE", 2, from, "", ""));
        assert_eq!(bye.request_uri(), Some("sip:x@127.0.0.1:9"));
        assert_eq!(bye.to_tag(), Some("t1"));
        let routes: Vec<_> = bye.headers(HeaderId::Route).map(|line| line.to_vec()).collect();
        assert_eq!(routes, [b"<sip:b;lr>".to_vec(), b"<sip:a;lr>".to_vec()]);
        assert_eq!(crate::load::number(bye.call_id()), Some(9));
    }
}
