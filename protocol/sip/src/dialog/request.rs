//! Requests built from a dialog (RFC 3261 §12.2.1.1), and the two that are built from an INVITE: CANCEL (§9.1) and the ACK
//! of a failure (§17.1.1.3).

use bytes::Bytes;

use super::DialogState;
use crate::message::{HeaderId, Message, Request};
use crate::method::Method;
use crate::uri::Uri;

const MAX_FORWARDS: u8 = 70;

impl DialogState {
    /// A request in this dialog with the next CSeq number: Request-URI, Via, Route, Max-Forwards, From, To, Call-ID,
    /// CSeq. `via` is the whole value with a branch of its own. The caller adds Contact and the rest.
    /// `None` when all numbers are used.
    pub fn in_dialog_request(&mut self, method: &str, via: &str) -> Option<Request> {
        let cseq = self.next_cseq()?;
        if method == "INVITE" {
            self.invite_cseq = cseq;
        }
        Some(self.request_with_cseq(method, cseq, via))
    }

    /// The same with a number that the store gave out.
    #[must_use]
    pub fn request_with_cseq(&self, method: &str, cseq: u32, via: &str) -> Request {
        self.request_with_hops(method, cseq, via, MAX_FORWARDS)
    }

    /// The same with the hops that are left: for a request that is passed on (RFC 7332).
    #[must_use]
    pub fn request_with_hops(&self, method: &str, cseq: u32, via: &str, hops: u8) -> Request {
        let (uri, routes) = self.request_uri_and_routes();
        let mut request = Request::new(method, &uri).via(via);
        for route in routes {
            request = request.header(HeaderId::Route, format!("<{route}>"));
        }
        request
            .header(HeaderId::MaxForwards, hops.to_string())
            .header(HeaderId::From, party(&self.local_uri, &self.local_tag))
            .header(HeaderId::To, party(&self.remote_uri, &self.remote_tag))
            .header(HeaderId::CallId, &self.call_id)
            .header(HeaderId::CSeq, format!("{cseq} {method}"))
    }

    /// The ACK of a 2xx to our INVITE with CSeq number `invite_cseq` (§13.2.2.4). It has a branch of its own, and the caller
    /// copies the credentials of the INVITE.
    #[must_use]
    pub fn ack_2xx(&self, invite_cseq: u32, via: &str) -> Request {
        self.request_with_cseq("ACK", invite_cseq, via)
    }

    /// §12.2.1.1: with a loose router first the target is the Request-URI and all routes go into Route; with a strict
    /// one its URI is the Request-URI and the target goes to the end of Route.
    fn request_uri_and_routes(&self) -> (String, Vec<&str>) {
        let mut routes: Vec<&str> = self.route_set.iter().map(String::as_str).collect();
        let strict = routes
            .first()
            .is_some_and(|first| !matches!(Uri::parse(first), Ok(Uri::Sip(uri)) if uri.is_loose_router()));
        if !strict {
            return (as_request_uri(&self.remote_target), routes);
        }
        let first = routes.remove(0);
        routes.push(&self.remote_target);
        (as_request_uri(first), routes)
    }
}

/// Cancels an INVITE that we sent and that has a provisional response (§9.1). `reason` is the value of a Reason header (RFC
/// 3326). `None` when `invite` is no INVITE.
#[must_use]
pub fn cancel(invite: &Message, reason: Option<&str>) -> Option<Bytes> {
    let request = of_invite(invite, "CANCEL", invite.header(HeaderId::To)?)?;
    Some(request.header_if(HeaderId::Reason, reason).build())
}

/// The ACK of a 300–699 to our INVITE (§17.1.1.3): the transaction's, with its branch. `None` when `invite` is no
/// INVITE or `response` no response.
#[must_use]
pub fn ack_failure(invite: &Message, response: &Message) -> Option<Bytes> {
    response.status()?;
    Some(of_invite(invite, "ACK", response.header(HeaderId::To)?)?.build())
}

/// Request-URI, top Via, Route, From, Call-ID and CSeq number of the INVITE.
fn of_invite(invite: &Message, method: &str, to: &[u8]) -> Option<Request> {
    if invite.method()? != Method::Invite {
        return None;
    }
    let mut request = Request::new(method, invite.request_uri()?).via(invite.top_via().raw());
    for route in invite.headers(HeaderId::Route) {
        request = request.header(HeaderId::Route, route);
    }
    Some(
        request
            .header(HeaderId::MaxForwards, MAX_FORWARDS.to_string())
            .header(HeaderId::From, invite.header(HeaderId::From)?)
            .header(HeaderId::To, to)
            .header(HeaderId::CallId, invite.call_id())
            .header(HeaderId::CSeq, format!("{} {method}", invite.cseq().seq)),
    )
}

fn party(uri: &str, tag: &str) -> String {
    if tag.is_empty() { format!("<{uri}>") } else { format!("<{uri}>;tag={tag}") }
}

/// A URI without what may not stand in a Request-URI: the header part and the `method` parameter (§19.1.1, Table 1).
fn as_request_uri(text: &str) -> String {
    let Ok(Uri::Sip(uri)) = Uri::parse(text) else { return text.to_owned() };
    if uri.headers_str().is_none() && !uri.has_param("method") {
        return text.to_owned();
    }
    let end = text.len() - uri.headers_str().map_or(0, |headers| headers.len() + 1) - uri.params_str().len();
    let mut out = text[..end].to_owned();
    for (name, value) in uri.params().filter(|(name, _)| !name.eq_ignore_ascii_case("method")) {
        out.push(';');
        out.push_str(name);
        if let Some(value) = value {
            out.push('=');
            out.push_str(value);
        }
    }
    out
}
