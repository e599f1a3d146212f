//! What a message is matched with its transaction by: RFC 3261 §17.1.3 (responses) and §17.2.3 (requests, with the
//! fallback for RFC 2543 clients).

use std::borrow::Cow;

use crate::header::via::MAGIC_COOKIE;
use crate::message::Message;

/// A key for a table of transactions: one allocation, comparable, hashable. The method is part of it; an ACK has
/// the key of its INVITE, a CANCEL has its own and [`TransactionKey::cancelled`] names the INVITE.
///
/// An ACK for a 2xx has a branch of its own and so matches nothing; it belongs to the dialog.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionKey(Box<str>);

/// What identifies a request of an RFC 2543 client, whose branch says nothing (§17.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rfc2543Facts<'a> {
    /// Verbatim.
    pub request_uri: &'a str,
    /// Verbatim.
    pub call_id: &'a str,
    /// Empty when there is none.
    pub from_tag: &'a str,
    /// Empty when there is none. Left out of the key of INVITE, ACK and CANCEL: the ACK carries the tag of our
    /// response, which its INVITE had not.
    pub to_tag: &'a str,
    /// The CSeq number.
    pub cseq: u32,
    /// The top Via value, verbatim.
    pub top_via: &'a str,
}

impl TransactionKey {
    /// The key of a received request. `None` for a response.
    #[must_use]
    pub fn of_request(request: &Message) -> Option<TransactionKey> {
        let (via, method) = (request.top_via(), request.method()?);
        let sent_by = match via.port() {
            Some(port) => Cow::Owned(format!("{}:{port}", via.host_str())),
            None => Cow::Borrowed(via.host_str()),
        };
        if let Some(key) = TransactionKey::server(via.branch().unwrap_or_default(), &sent_by, method.as_str()) {
            return Some(key);
        }
        let facts = Rfc2543Facts {
            request_uri: request.request_uri()?,
            call_id: request.call_id(),
            from_tag: request.from_tag().unwrap_or_default(),
            to_tag: request.to_tag().unwrap_or_default(),
            cseq: request.cseq().seq,
            top_via: &String::from_utf8_lossy(via.raw()),
        };
        Some(TransactionKey::server_rfc2543(method.as_str(), &facts))
    }

    /// The key of the transaction that a received response belongs to. `None` for a request, and for a response
    /// without a branch, which is none of ours.
    #[must_use]
    pub fn of_response(response: &Message) -> Option<TransactionKey> {
        response.status()?;
        Some(TransactionKey::client(response.top_via().branch()?, response.cseq().method.as_str()))
    }

    /// The key of a request that we received. `sent_by` is the text of the top Via's host and port.
    /// `None` when the branch has no magic cookie: use [`TransactionKey::server_rfc2543`].
    #[must_use]
    pub fn server(branch: &str, sent_by: &str, method: &str) -> Option<TransactionKey> {
        if !has_cookie(branch) {
            return None;
        }
        let mut text = start('S', method, branch.len() + sent_by.len() + 1);
        push_lower(&mut text, branch);
        text.push(' ');
        push_lower(&mut text, sent_by);
        Some(TransactionKey(text.into_boxed_str()))
    }

    /// The key of a request that came from an RFC 2543 client.
    #[must_use]
    pub fn server_rfc2543(method: &str, facts: &Rfc2543Facts<'_>) -> TransactionKey {
        let to_tag = if matches!(method, "INVITE" | "ACK" | "CANCEL") { "" } else { facts.to_tag };
        let mut text = start('L', method, 64 + facts.request_uri.len() + facts.call_id.len() + facts.top_via.len());
        text.push_str(&facts.cseq.to_string());
        // A line feed is in none of the parts, so they cannot run into each other.
        for part in [facts.request_uri, facts.call_id, facts.from_tag, to_tag, facts.top_via] {
            text.push('\n');
            text.push_str(part);
        }
        TransactionKey(text.into_boxed_str())
    }

    /// The key of a request that we sent, and of its responses: our branch and the CSeq method.
    #[must_use]
    pub fn client(branch: &str, method: &str) -> TransactionKey {
        let mut text = start('C', method, branch.len());
        push_lower(&mut text, branch);
        TransactionKey(text.into_boxed_str())
    }

    /// The key of the INVITE that a CANCEL with this key cancels (§9.2).
    #[must_use]
    pub fn cancelled(&self) -> TransactionKey {
        let side = self.0.chars().next().unwrap_or('S');
        let rest = self.0.split_once(' ').map_or("", |(_, rest)| rest);
        let mut text = start(side, "INVITE", rest.len());
        text.push_str(rest);
        TransactionKey(text.into_boxed_str())
    }
}

/// Does this branch come from an RFC 3261 client? Values of parameters are case-insensitive (§7.3.1).
#[must_use]
pub fn has_cookie(branch: &str) -> bool {
    // Longer than the cookie: the bare cookie names nothing (RFC 4475 §3.1.2 "badbranch").
    branch.len() > MAGIC_COOKIE.len()
        && branch.get(..MAGIC_COOKIE.len()).is_some_and(|start| start.eq_ignore_ascii_case(MAGIC_COOKIE))
}

fn start(side: char, method: &str, room: usize) -> String {
    let method = if method == "ACK" { "INVITE" } else { method };
    let mut text = String::with_capacity(2 + method.len() + room);
    text.push(side);
    text.push_str(method);
    text.push(' ');
    text
}

fn push_lower(text: &mut String, part: &str) {
    text.extend(part.chars().map(|c| c.to_ascii_lowercase()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ack_has_the_key_of_its_invite_and_cancel_names_it() {
        let invite = TransactionKey::server("z9hG4bKabc", "Host.example:5060", "INVITE").unwrap();
        assert_eq!(TransactionKey::server("z9hg4bkABC", "host.example:5060", "ACK").unwrap(), invite);
        let cancel = TransactionKey::server("z9hG4bKabc", "host.example:5060", "CANCEL").unwrap();
        assert_ne!(cancel, invite);
        assert_eq!(cancel.cancelled(), invite);
        assert_ne!(TransactionKey::server("z9hG4bKabc", "other.example:5060", "INVITE").unwrap(), invite);
        assert_ne!(TransactionKey::client("z9hG4bKabc", "INVITE"), invite);
    }

    #[test]
    fn a_branch_without_cookie_falls_back_to_rfc2543() {
        assert!(TransactionKey::server("1", "h", "INVITE").is_none());
        assert!(TransactionKey::server("z9hG4bK", "h", "OPTIONS").is_none());
        let facts = Rfc2543Facts {
            request_uri: "sip:a@h",
            call_id: "c",
            from_tag: "f",
            to_tag: "",
            cseq: 1,
            top_via: "SIP/2.0/UDP h",
        };
        let invite = TransactionKey::server_rfc2543("INVITE", &facts);
        let ack = TransactionKey::server_rfc2543("ACK", &Rfc2543Facts { to_tag: "ours", ..facts });
        assert_eq!(ack, invite);
        assert_eq!(TransactionKey::server_rfc2543("CANCEL", &facts).cancelled(), invite);
        assert_ne!(TransactionKey::server_rfc2543("INVITE", &Rfc2543Facts { cseq: 2, ..facts }), invite);
        let bye = TransactionKey::server_rfc2543("BYE", &facts);
        assert_ne!(TransactionKey::server_rfc2543("BYE", &Rfc2543Facts { to_tag: "x", ..facts }), bye);
    }
}
