//! A SIP client that shares no line with ours: sockets, text, and digest by the crate `digest_auth`.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use digest_auth::{AuthContext, HttpMethod, WwwAuthenticateHeader};
use serde_json::Value;

use super::PATIENCE;
use super::certificates;
use super::edge::Edge;
use super::manifests::PASSWORD;
use super::pipe::Pipe;

/// A message as it came.
#[derive(Clone, Debug)]
pub struct Sip {
    pub start: String,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub raw: Vec<u8>,
    /// Where a datagram came from.
    source: Option<SocketAddr>,
}

impl Sip {
    fn parse(raw: &[u8]) -> Option<(Sip, usize)> {
        let end = raw.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let head = String::from_utf8_lossy(&raw[..end]).into_owned();
        let mut lines = head.lines();
        let start = lines.next()?.to_owned();
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
            .collect();
        let length = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        let length = length.map_or(0, |(_, value)| value.parse().unwrap_or(0));
        let body = raw.get(end..end + length)?.to_vec();
        Some((Sip { start, headers, body, raw: raw[..end + length].to_vec(), source: None }, end + length))
    }

    /// Of a response; 0 for a request.
    pub fn status(&self) -> u16 {
        self.start.strip_prefix("SIP/2.0 ").and_then(|rest| rest.get(..3)).and_then(|s| s.parse().ok()).unwrap_or(0)
    }

    pub fn reason(&self) -> &str {
        self.start.get(12..).unwrap_or("")
    }

    pub fn method(&self) -> &str {
        if self.status() > 0 { "" } else { self.start.split(' ').next().unwrap_or("") }
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        let own = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        own.map(|(_, value)| value.as_str()).collect()
    }

    /// The first value; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.all(name).first().copied().unwrap_or("")
    }

    /// Drops every other value of a header field.
    pub fn keep(&mut self, name: &str, wanted: impl Fn(&str) -> bool) {
        self.headers.retain(|(n, value)| !n.eq_ignore_ascii_case(name) || wanted(value));
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub fn tag(&self, name: &str) -> Option<String> {
        let (_, tag) = self.header(name).split_once(";tag=")?;
        Some(tag.split(';').next()?.to_owned())
    }

    pub fn cseq(&self) -> (u32, String) {
        let value = self.header("CSeq");
        let (number, method) = value.split_once(' ').unwrap_or((value, ""));
        (number.parse().unwrap_or(0), method.trim().to_owned())
    }
}

enum Socket {
    Udp(UdpSocket),
    Tcp(TcpStream, Vec<u8>),
    Tls(Pipe, Vec<u8>),
}

/// One user agent on one socket.
pub struct Client {
    socket: Socket,
    pub local: SocketAddr,
    /// Of its Contact.
    host: String,
    remote: SocketAddr,
    transport: &'static str,
    waiting: VecDeque<Sip>,
    user: Option<&'static str>,
    pub password: &'static str,
    pub from: String,
    challenge: Option<WwwAuthenticateHeader>,
    /// The last challenge as it came.
    pub challenged: Option<String>,
    /// Requests that came, where copies of them are dropped.
    pub seen: Option<HashSet<String>>,
    /// By call and CSeq: for each copy of a 2xx again (RFC 3261 §13.2.2.4).
    acks: HashMap<(String, String), Vec<u8>>,
}

/// Who calls whom; a dialog once it has a To tag.
#[derive(Clone, Debug)]
pub struct Call {
    pub call_id: String,
    pub from_tag: String,
    pub to: String,
    pub to_tag: Option<String>,
    /// Request-URI of the next request.
    pub target: String,
    pub routes: Vec<String>,
    pub cseq: u32,
    /// Via branch of the last request.
    pub branch: String,
}

impl Call {
    pub fn to(address: &str) -> Call {
        Call {
            call_id: unique(),
            from_tag: unique(),
            to: address.to_owned(),
            to_tag: None,
            target: address.to_owned(),
            routes: Vec::new(),
            cseq: 0,
            branch: String::new(),
        }
    }
}

pub fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    format!("{:x}x{:x}x{now:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Client {
    pub fn udp(edge: &Edge, user: Option<&'static str>, domain: &str) -> Client {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let local = socket.local_addr().unwrap();
        Client::new(Socket::Udp(socket), local, edge.address("udp"), "UDP", user, domain)
    }

    #[track_caller]
    pub fn tcp(edge: &Edge, user: Option<&'static str>, domain: &str) -> Client {
        let stream = TcpStream::connect(edge.address("tcp")).unwrap();
        stream.set_nodelay(true).unwrap();
        let local = stream.local_addr().unwrap();
        Client::new(Socket::Tcp(stream, Vec::new()), local, edge.address("tcp"), "TCP", user, domain)
    }

    /// On a connection that `openssl` makes. Nobody else can open one to it: its Contact is a name that nobody can look up.
    #[track_caller]
    pub fn tls(edge: &Edge, user: Option<&'static str>, domain: &str) -> Option<Client> {
        let ca = certificates::files(edge.manifests.scratch()).ca;
        let pipe = Pipe::connect(edge.address("tls"), &ca)?;
        let local = (Ipv4Addr::LOCALHOST, 9).into();
        let mut client = Client::new(Socket::Tls(pipe, Vec::new()), local, edge.address("tls"), "TLS", user, domain);
        client.host = format!("{}.invalid", unique());
        Some(client)
    }

    fn new(
        socket: Socket,
        local: SocketAddr,
        remote: SocketAddr,
        transport: &'static str,
        user: Option<&'static str>,
        domain: &str,
    ) -> Client {
        let from = match user {
            Some(user) => format!("sip:{user}@{domain}"),
            None => "sip:anonymous@anonymous.invalid".to_owned(),
        };
        Client {
            socket,
            local,
            host: local.to_string(),
            remote,
            transport,
            waiting: VecDeque::new(),
            user,
            password: PASSWORD,
            from,
            challenge: None,
            challenged: None,
            seen: None,
            acks: HashMap::new(),
        }
    }

    pub fn contact(&self) -> String {
        let user = self.user.unwrap_or("anonymous");
        format!("<sip:{user}@{};transport={}>", self.host, self.transport.to_ascii_lowercase())
    }

    /// Its datagrams go to another edge from now on.
    pub fn towards(&mut self, edge: &Edge) {
        assert!(matches!(self.socket, Socket::Udp(_)), "a connection ends where it was opened to");
        self.remote = edge.address("udp");
    }

    /// The bytes of the next request of a call.
    pub fn build(&mut self, call: &mut Call, method: &str, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
        let body = body.as_ref();
        if !matches!(method, "ACK" | "CANCEL") {
            call.cseq += 1;
        }
        if method != "CANCEL" {
            call.branch = format!("z9hG4bK{}", unique());
        }
        let to_tag = call.to_tag.as_ref().map(|tag| format!(";tag={tag}")).unwrap_or_default();
        let routes: String = call.routes.iter().map(|route| format!("Route: {route}\r\n")).collect();
        let credentials = self.credentials(method, &call.target, body);
        let mut bytes = format!(
            "{method} {target} SIP/2.0\r\nVia: SIP/2.0/{transport} {local};branch={branch};rport\r\nMax-Forwards: 70\r\n{routes}\
             From: <{from}>;tag={from_tag}\r\nTo: <{to}>{to_tag}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} {method}\r\n{credentials}\
             {headers}Content-Length: {length}\r\n\r\n",
            target = call.target,
            transport = self.transport,
            local = self.local,
            branch = call.branch,
            from = self.from,
            from_tag = call.from_tag,
            to = call.to,
            call_id = call.call_id,
            cseq = call.cseq,
            length = body.len(),
        )
        .into_bytes();
        bytes.extend_from_slice(body);
        bytes
    }

    fn credentials(&mut self, method: &str, uri: &str, body: &[u8]) -> String {
        let (Some(user), Some(challenge)) = (self.user, self.challenge.as_mut()) else { return String::new() };
        if matches!(method, "ACK" | "CANCEL") {
            return String::new();
        }
        let method = HttpMethod::from(method.to_owned());
        let body: Option<Cow<'_, [u8]>> = Some(Cow::Owned(body.to_vec()));
        let context = AuthContext::new_with_method(user, self.password, uri, body, method);
        format!("Authorization: {}\r\n", challenge.respond(&context).unwrap())
    }

    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        match &mut self.socket {
            Socket::Udp(socket) => {
                socket.send_to(bytes, self.remote).unwrap();
            }
            Socket::Tcp(stream, _) => stream.write_all(bytes).unwrap(),
            Socket::Tls(pipe, _) => pipe.write(bytes),
        }
    }

    fn receive(&mut self, deadline: Instant) -> Option<Sip> {
        loop {
            if let Socket::Tcp(_, buffer) | Socket::Tls(_, buffer) = &mut self.socket {
                while buffer.starts_with(b"\r\n") {
                    buffer.drain(..2);
                }
                if let Some((message, used)) = Sip::parse(buffer) {
                    buffer.drain(..used);
                    return Some(message);
                }
            }
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            if let Socket::Tls(pipe, buffer) = &mut self.socket {
                buffer.extend(pipe.read(left)?);
                continue;
            }
            let mut chunk = vec![0; 65_536];
            let mut source = None;
            let read = match &mut self.socket {
                Socket::Udp(socket) => {
                    socket.set_read_timeout(Some(left)).unwrap();
                    socket.recv_from(&mut chunk).map(|(read, from)| {
                        source = Some(from);
                        read
                    })
                }
                Socket::Tls(..) => unreachable!("read above"),
                Socket::Tcp(stream, _) => {
                    stream.set_read_timeout(Some(left)).unwrap();
                    stream.read(&mut chunk)
                }
            };
            match (read, &mut self.socket) {
                (Ok(0), Socket::Tcp(..)) | (Ok(_), Socket::Tls(..)) => return None,
                (Ok(read), Socket::Udp(_)) => {
                    if let Some((message, _)) = Sip::parse(&chunk[..read]) {
                        return Some(Sip { source, ..message });
                    }
                }
                (Ok(read), Socket::Tcp(_, buffer)) => buffer.extend_from_slice(&chunk[..read]),
                (Err(error), _) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return None,
                (Err(_), _) => return None,
            }
        }
    }

    /// The first message that `wanted` accepts; others wait for later.
    #[track_caller]
    pub fn until(&mut self, what: &str, wanted: impl Fn(&Sip) -> bool) -> Sip {
        self.within(PATIENCE, wanted).unwrap_or_else(|| {
            let came: Vec<&str> = self.waiting.iter().map(|message| message.start.as_str()).collect();
            panic!("{what} never came to {} {}; what came: {came:?}", self.transport, self.local);
        })
    }

    /// The same, or nothing after this time.
    pub fn within(&mut self, limit: Duration, wanted: impl Fn(&Sip) -> bool) -> Option<Sip> {
        let deadline = Instant::now() + limit;
        if let Some(place) = self.waiting.iter().position(&wanted) {
            return self.waiting.remove(place);
        }
        loop {
            let message = self.receive(deadline)?;
            let of = (message.header("Call-ID").to_owned(), message.header("CSeq").to_owned());
            if (200..300).contains(&message.status())
                && let Some(ack) = self.acks.get(&of).cloned()
            {
                self.send(&ack);
            }
            let first = message.status() > 0
                || self
                    .seen
                    .as_mut()
                    .is_none_or(|seen| seen.insert(format!("{} {}", message.method(), message.header("Via"))));
            if !first {
                continue;
            }
            if wanted(&message) {
                return Some(message);
            }
            self.waiting.push_back(message);
        }
    }

    /// The final response to the last request of a call.
    #[track_caller]
    pub fn response(&mut self, call: &Call, method: &str) -> Sip {
        let (branch, wanted) = (call.branch.clone(), method.to_owned());
        self.until(&format!("the response to {method}"), move |message| {
            message.status() >= 200 && message.header("Via").contains(&branch) && message.cseq().1 == wanted
        })
    }

    /// A request and its final response; one challenge is answered.
    #[track_caller]
    pub fn ask(&mut self, call: &mut Call, method: &str, headers: &str, body: impl AsRef<[u8]>) -> Sip {
        let body = body.as_ref();
        let first = self.ask_once(call, method, headers, body);
        if first.status() != 401 || self.user.is_none() {
            return first;
        }
        self.challenge(&first);
        self.ask_once(call, method, headers, body)
    }

    /// The same without an answer to a challenge.
    #[track_caller]
    pub fn ask_once(&mut self, call: &mut Call, method: &str, headers: &str, body: impl AsRef<[u8]>) -> Sip {
        let bytes = self.build(call, method, headers, body);
        self.send(&bytes);
        let response = self.response(call, method);
        if method == "INVITE" && response.status() >= 300 {
            // Of the same transaction (RFC 3261 §17.1.1.3).
            let to = response.header("To").to_owned();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
            let ack = format!(
                "ACK {} SIP/2.0\r\n{}\r\nMax-Forwards: 70\r\n{}\r\nTo: {to}\r\n{}\r\nCSeq: {} ACK\r\nContent-Length: 0\r\n\r\n",
                call.target,
                line("Via: "),
                line("From: "),
                line("Call-ID: "),
                call.cseq
            );
            self.send(ack.as_bytes());
        }
        response
    }

    pub fn challenge(&mut self, response: &Sip) {
        let value = response.header("WWW-Authenticate").to_owned();
        self.challenge = Some(digest_auth::parse(&value).unwrap_or_else(|error| panic!("{value}: {error}")));
        self.challenged = Some(value);
    }

    /// INVITE with an envelope to its 200, and the ACK.
    #[track_caller]
    pub fn invite(&mut self, call: &mut Call) -> Sip {
        self.invite_with(call, r#""2026-07-28","2025-11-25""#)
    }

    /// The same with the versions that it offers.
    #[track_caller]
    pub fn invite_with(&mut self, call: &mut Call, versions: &str) -> Sip {
        let (headers, body) = offer(self);
        let body = body.replace(r#""2026-07-28","2025-11-25""#, versions);
        let response = self.ask(call, "INVITE", &headers, &body);
        assert_eq!(response.status(), 200, "{} {:?}", response.start, response.all("Warning"));
        self.established(call, &response);
        response
    }

    /// Takes the dialog from a 200, and acknowledges it.
    pub fn established(&mut self, call: &mut Call, response: &Sip) {
        call.to_tag = response.tag("To");
        call.routes = response.all("Record-Route").iter().rev().map(|route| (*route).to_owned()).collect();
        let contact = response.header("Contact");
        let uri = contact.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or(contact, |(uri, _)| uri);
        call.target = uri.to_owned();
        let ack = self.build(call, "ACK", "", "");
        self.send(&ack);
        self.acks.insert((call.call_id.clone(), response.header("CSeq").to_owned()), ack);
    }

    /// The next request of that method from the edge, answered with 200.
    #[track_caller]
    pub fn incoming(&mut self, method: &str) -> Sip {
        let request = self.until(&format!("a {method} from the edge"), |message| message.method() == method);
        self.reply(&request, "200 OK");
        request
    }

    pub fn reply(&mut self, request: &Sip, status: &str) {
        self.respond(request, status, "", "");
    }

    /// A response with header fields and a body of its own.
    pub fn respond(&mut self, request: &Sip, status: &str, headers: &str, body: &str) {
        let mut text = format!("SIP/2.0 {status}\r\n");
        for name in ["Via", "From", "To", "Call-ID", "CSeq", "Record-Route"] {
            for value in request.all(name) {
                let tag = if name == "To" && !value.contains(";tag=") { ";tag=raw" } else { "" };
                text.push_str(&format!("{name}: {value}{tag}\r\n"));
            }
        }
        text.push_str(&format!("{headers}Content-Length: {}\r\n\r\n{body}", body.len()));
        match (&mut self.socket, request.source) {
            // To whoever sent the request: that may be any edge.
            (Socket::Udp(socket), Some(source)) => {
                socket.send_to(text.as_bytes(), source).unwrap();
            }
            _ => self.send(text.as_bytes()),
        }
    }
}

pub const MCP: &str = "Content-Type: application/mcp+json\r\n";
pub const INFO: &str =
    "Info-Package: mcp\r\nContent-Disposition: Info-Package\r\nContent-Type: application/mcp+json\r\n";

/// Headers and body of an INVITE that offers MCP beside an empty description.
pub fn offer(client: &Client) -> (String, String) {
    let ip = client.local.ip();
    let body = format!(
        "--b\r\nContent-Type: application/sdp\r\n\r\nv=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\n\r\n--b\r\n\
         Content-Type: application/mcp+json\r\nContent-Disposition: session;handling=optional\r\n\r\n{}\r\n--b--\r\n",
        r#"{"mcp_version":"1.0","type":"offer","conversation":"11111111-2222-4333-8444-555555555555","payload":{"role":"caller","tools":[],"schemas":[],"versions":["2026-07-28","2025-11-25"]}}"#
    );
    let headers = format!(
        "Contact: {}\r\nSupported: mcp, x-mcp, timer\r\nRecv-Info: mcp\r\nAllow: INVITE, ACK, BYE, CANCEL, OPTIONS, INFO, MESSAGE, UPDATE\r\n\
         Accept: application/sdp, application/mcp+json, multipart/mixed\r\nContent-Type: multipart/mixed;boundary=b\r\n",
        client.contact()
    );
    (headers, body)
}

/// A modern `tools/call`.
pub fn tool_call(id: u32, tool: &str, arguments: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}","arguments":{arguments},"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{{}}}}}}}}"#
    )
}
