//! Both ends of a call to somebody who registered: the phone that rings, and a caller that does not wait for the end. A busy machine makes
//! an edge say 503 now and then (its store has 150 ms); that is tried again, as a real peer would.

use std::time::{Duration, Instant};

use super::PATIENCE;
use super::raw::{Call, Client, Sip};

/// A REGISTER goes to the domain, for the address in To.
pub fn registration(address: &str) -> Call {
    let (_, domain) = address.split_once('@').unwrap();
    Call { target: format!("sip:{domain}"), ..Call::to(address) }
}

/// The URI of a header field that has a name-addr.
pub fn uri(value: &str) -> &str {
    value.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or(value, |(uri, _)| uri)
}

/// A description that says whose it is, in lines that nobody on the way may change.
pub fn sdp(client: &Client, label: &str) -> String {
    let ip = client.local.ip();
    format!(
        "v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0\r\na=label:{label}\r\n"
    )
}

/// A description and an envelope (`offer` by `caller`, `answer` by `callee`), with the header fields that go with them.
pub fn with_mcp(client: &Client, label: &str, step: &str, role: &str) -> (String, String) {
    let body = format!(
        "--b\r\nContent-Type: application/sdp\r\n\r\n{}\r\n--b\r\nContent-Type: application/mcp+json\r\n\
         Content-Disposition: session;handling=optional\r\n\r\n{}\r\n--b--\r\n",
        sdp(client, label),
        format_args!(
            r#"{{"mcp_version":"1.0","type":"{step}","conversation":"11111111-2222-4333-8444-555555555555","payload":{{"role":"{role}","tools":[],"schemas":[],"versions":["2026-07-28"]}}}}"#
        )
    );
    let headers = format!(
        "Contact: {}\r\nSupported: mcp\r\nRecv-Info: mcp\r\nContent-Type: multipart/mixed;boundary=b\r\n",
        client.contact()
    );
    (headers, body)
}

/// Header fields of a request or response that only has a description.
pub fn plain(client: &Client) -> String {
    format!("Contact: {}\r\nContent-Type: application/sdp\r\n", client.contact())
}

/// Whether a body has this description.
pub fn shows(message: &Sip, label: &str) -> bool {
    String::from_utf8_lossy(&message.body).contains(&format!("a=label:{label}\r\n"))
}

impl Call {
    /// The dialog of an INVITE that this side answers.
    pub fn answered(invite: &Sip) -> Call {
        Call {
            from_tag: invite.tag("To").unwrap_or_else(|| "raw".to_owned()),
            to_tag: invite.tag("From"),
            target: uri(invite.header("Contact")).to_owned(),
            routes: invite.all("Record-Route").iter().map(|route| (*route).to_owned()).collect(),
            call_id: invite.header("Call-ID").to_owned(),
            cseq: 100,
            ..Call::to(uri(invite.header("From")))
        }
    }
}

/// The edge says "later".
fn is_busy(response: &Sip) -> bool {
    response.status() == 503
}

/// What a 503 asks for, but shorter: these tests have the edge for themselves.
fn pause() {
    std::thread::sleep(Duration::from_millis(300));
}

impl Client {
    /// A request to its end; a challenge and 503 are met.
    #[track_caller]
    fn insist(&mut self, call: &mut Call, method: &str, headers: &str) -> Sip {
        // A datagram that was answered late comes twice.
        self.seen.get_or_insert_default();
        let end = Instant::now() + PATIENCE;
        loop {
            let response = self.ask(call, method, headers, "");
            if !is_busy(&response) || Instant::now() > end {
                return response;
            }
            pause();
        }
    }

    /// Registers its Contact with these parameters (`;q=0.5`); answers the 200.
    #[track_caller]
    pub fn register(&mut self, parameters: &str, headers: &str) -> Sip {
        let mut call = registration(&self.from.clone());
        let lines = format!("Contact: {}{parameters}\r\n{headers}", self.contact());
        let granted = self.insist(&mut call, "REGISTER", &lines);
        assert_eq!(granted.status(), 200, "{}", granted.start);
        granted
    }

    /// Has the edge's challenge, so that what it sends next is not asked for credentials first.
    #[track_caller]
    pub fn known(&mut self) {
        let mut query = registration(&self.from.clone());
        assert_eq!(self.insist(&mut query, "REGISTER", "").status(), 200);
    }

    /// The next request of that method.
    #[track_caller]
    pub fn rings(&mut self, method: &str) -> Sip {
        self.until(&format!("a request {method}"), |message| message.method() == method)
    }

    /// Sends a request without waiting for its end.
    #[track_caller]
    pub fn begin(&mut self, call: &mut Call, method: &str, headers: &str, body: &str) {
        let bytes = self.build(call, method, headers, body);
        self.send(&bytes);
    }

    /// CANCEL of the last request, which goes with that one's branch; its 200 is waited for.
    #[track_caller]
    pub fn cancel(&mut self, call: &mut Call) {
        self.begin(call, "CANCEL", "", "");
        assert_eq!(self.response(call, "CANCEL").status(), 200);
    }

    /// The ACK of a final response that is no 2xx.
    pub fn refused(&mut self, call: &mut Call, response: &Sip) {
        let (before, branch) = (call.to_tag.clone(), call.branch.clone());
        call.to_tag = response.tag("To");
        let ack = self.build(call, "ACK", "", "");
        // Of the same transaction (RFC 3261 §17.1.1.3).
        let ack = String::from_utf8(ack).unwrap().replace(&call.branch, &branch);
        self.send(ack.as_bytes());
        (call.to_tag, call.branch) = (before, branch);
    }

    /// A call that ends so, nobody having rung.
    #[track_caller]
    pub fn is_declined(&mut self, address: &str, headers: &str, status: u16) {
        let end = Instant::now() + PATIENCE;
        loop {
            let mut call = Call::to(address);
            let lines = format!("{headers}Contact: {}\r\n", self.contact());
            self.begin(&mut call, "INVITE", &lines, "");
            let response = self.response(&call, "INVITE");
            self.refused(&mut call, &response);
            if response.status() == status {
                return;
            }
            assert!(is_busy(&response) && Instant::now() < end, "{}", response.start);
            pause();
        }
    }

    /// A final response of this status, acknowledged.
    #[track_caller]
    pub fn declined(&mut self, call: &mut Call, status: u16) {
        let response = self.response(call, "INVITE");
        assert_eq!(response.status(), status, "{}", response.start);
        self.refused(call, &response);
    }
}

/// Sends a request until it is there, at the other side.
#[track_caller]
pub fn reach(from: &mut Client, call: &mut Call, to: &mut Client, method: &str, headers: &str, body: &str) -> Sip {
    let end = Instant::now() + PATIENCE;
    loop {
        from.begin(call, method, headers, body);
        let (branch, cseq) = (call.branch.clone(), call.cseq);
        let refusal = loop {
            if let Some(request) = to.within(Duration::from_millis(50), |message| message.method() == method) {
                return request;
            }
            let own = |m: &Sip| m.status() >= 200 && m.header("Via").contains(&branch) && m.cseq().0 == cseq;
            if let Some(response) = from.within(Duration::from_millis(5), own) {
                break response;
            }
            assert!(Instant::now() < end, "{method} never arrived, and nobody said why");
        };
        assert!(is_busy(&refusal), "{method}: {} {:?}", refusal.start, refusal.all("Warning"));
        assert!(Instant::now() < end, "{method}: {}", refusal.start);
        if method == "INVITE" {
            from.refused(call, &refusal);
        }
        pause();
    }
}

/// A request in a dialog from one side to the other one, answered there with 200, which its sender hears.
#[track_caller]
pub fn across(from: &mut Client, call: &mut Call, to: &mut Client, method: &str, headers: &str, body: &str) -> Sip {
    let end = Instant::now() + PATIENCE;
    loop {
        let request = reach(from, call, to, method, headers, body);
        to.reply(&request, "200 OK");
        let response = from.response(call, method);
        if response.status() == 200 {
            return request;
        }
        assert!(is_busy(&response) && Instant::now() < end, "{method}: {}", response.start);
        pause();
    }
}

/// BYE; the other side hears one, too.
#[track_caller]
pub fn hang_up(from: &mut Client, call: &mut Call, to: &mut Client) {
    let end = Instant::now() + PATIENCE;
    loop {
        from.begin(call, "BYE", "", "");
        let response = from.response(call, "BYE");
        if response.status() == 200 {
            break;
        }
        assert!(is_busy(&response) && Instant::now() < end, "{}", response.start);
        pause();
    }
    to.incoming("BYE");
}

/// A change of the session by one side, answered with a description by the other one, down to its ACK.
#[track_caller]
pub fn change(from: &mut Client, call: &mut Call, to: &mut Client, label: &str) {
    let end = Instant::now() + PATIENCE;
    let response = loop {
        let (headers, body) = (plain(from), sdp(from, label));
        let request = reach(from, call, to, "INVITE", &headers, &body);
        assert!(shows(&request, label), "{}", request.start);
        let (headers, body) = (plain(to), sdp(to, "changed"));
        to.respond(&request, "200 OK", &headers, &body);
        let response = from.response(call, "INVITE");
        if response.status() == 200 {
            break response;
        }
        // Nothing was changed; its ACK at the far end is none of a change.
        from.refused(call, &response);
        to.rings("ACK");
        assert!(is_busy(&response) && Instant::now() < end, "{}", response.start);
        pause();
    };
    assert!(shows(&response, "changed"), "{}", response.start);
    let own = call.routes.clone();
    from.established(call, &response);
    // A route set is of the dialog, not of its changes (RFC 3261 §12.2).
    call.routes = own;
    to.rings("ACK");
}
