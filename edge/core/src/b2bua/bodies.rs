//! Bodies on their way from leg to leg: the description gets an `o=` line of ours, MCP passes as it is unless policy changes it (D9), and
//! everything else passes byte by byte.

use bytes::Bytes;
use session_store::record::DialogRecord;
use sip_proto::header::Handling;
use sip_proto::message::{HeaderId, Message};
use sip_proto::multipart::{Multipart, MultipartBuilder};
use sip_proto::sdp::{SdpError, SdpOrigin, with_origin};

use crate::answer::{ACCEPT, Answer};
use crate::in_dialog::change::SDP_ID;
use crate::page::MCP_JSON;
use crate::state::EdgeState;

const SDP: &str = "application/sdp";

/// A body taken apart. Other parts than these two stay where they are.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts {
    content_type: String,
    whole: Bytes,
    pub sdp: Option<Bytes>,
    pub mcp: Option<Bytes>,
    /// Whether the MCP part must be understood.
    pub mcp_required: bool,
    multipart: Option<Multipart>,
}

/// What becomes of the MCP part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Mcp {
    #[default]
    Keep,
    Replace(Bytes),
    Remove,
}

impl Parts {
    /// Reads them: 400 for a multipart that cannot be taken apart, a part that is there twice, or an encoding that hides it.
    pub fn read(message: &Message) -> Result<Parts, Answer> {
        let whole = message.body();
        if whole.is_empty() {
            return Ok(Parts::default());
        }
        let Some(content) = message.content_type() else {
            return Err(Answer::new(400).phrase("Body Without Content-Type"));
        };
        let mut parts = Parts {
            content_type: String::from_utf8_lossy(content.raw()).into_owned(),
            whole: whole.clone(),
            ..Parts::default()
        };
        let judged = content.is_multipart() || content.is(SDP) || content.is(MCP_JSON);
        if judged && message.has(HeaderId::ContentEncoding) {
            return Err(Answer::unsupported_media(ACCEPT).header(HeaderId::AcceptEncoding, "identity"));
        }
        if !content.is_multipart() {
            parts.sdp = content.is(SDP).then(|| whole.clone());
            parts.mcp = content.is(MCP_JSON).then_some(whole);
            let handling = message.content_disposition().map_or(Handling::Required, |d| d.handling());
            parts.mcp_required = parts.mcp.is_some() && handling != Handling::Optional;
            return Ok(parts);
        }
        let multipart = Multipart::parse(content, &whole)
            .map_err(|error| Answer::new(400).phrase(&format!("Bad Multipart Body: {error}")))?;
        for part in multipart.leaves() {
            let slot = match part.content_type() {
                Some(kind) if kind.is(SDP) => &mut parts.sdp,
                Some(kind) if kind.is(MCP_JSON) => {
                    parts.mcp_required |= part.handling() != Handling::Optional;
                    &mut parts.mcp
                }
                _ => continue,
            };
            if slot.replace(part.body()).is_some() {
                return Err(Answer::new(400).phrase("Two Bodies Of One Type"));
            }
        }
        parts.multipart = Some(multipart);
        Ok(parts)
    }

    pub fn is_empty(&self) -> bool {
        self.whole.is_empty()
    }

    pub fn largest(&self) -> usize {
        if self.multipart.is_some() {
            [&self.sdp, &self.mcp].into_iter().flatten().map(Bytes::len).max().unwrap_or(0)
        } else {
            self.whole.len()
        }
    }

    /// The body with this description and what is left of MCP. `None`: nothing is left.
    pub fn with(&self, sdp: Option<&Bytes>, mcp: &Mcp) -> Option<(String, Bytes)> {
        if self.whole.is_empty() {
            return None;
        }
        let Some(multipart) = &self.multipart else {
            let body = match (sdp, mcp) {
                (Some(sdp), _) if self.sdp.is_some() => sdp.clone(),
                (_, Mcp::Replace(body)) if self.mcp.is_some() => body.clone(),
                (_, Mcp::Remove) if self.mcp.is_some() => return None,
                _ => self.whole.clone(),
            };
            return Some((self.content_type.clone(), body));
        };
        if *mcp == Mcp::Remove && self.mcp.is_some() {
            return self.without_mcp(multipart, sdp);
        }
        let replaced = match mcp {
            Mcp::Replace(new) => Some(new),
            Mcp::Keep | Mcp::Remove => None,
        };
        let mut changes: Vec<(usize, usize, &Bytes)> = Vec::new();
        for (old, new) in [(&self.sdp, sdp), (&self.mcp, replaced)] {
            if let (Some(old), Some(new)) = (old, new)
                && let Some(at) = self.offset(old)
            {
                changes.push((at, old.len(), new));
            }
        }
        changes.sort_by_key(|(at, ..)| *at);
        let mut out = Vec::with_capacity(self.whole.len() + 64);
        let mut done = 0;
        for (at, length, new) in changes {
            out.extend_from_slice(&self.whole[done..at]);
            out.extend_from_slice(new);
            done = at + length;
        }
        out.extend_from_slice(&self.whole[done..]);
        Some((self.content_type.clone(), out.into()))
    }

    /// Where a part begins: parts share the memory of the whole.
    fn offset(&self, part: &Bytes) -> Option<usize> {
        let at = (part.as_ptr() as usize).checked_sub(self.whole.as_ptr() as usize)?;
        (at + part.len() <= self.whole.len()).then_some(at)
    }

    fn without_mcp(&self, multipart: &Multipart, sdp: Option<&Bytes>) -> Option<(String, Bytes)> {
        let left: Vec<_> =
            multipart.leaves().filter(|part| !part.content_type().is_some_and(|t| t.is(MCP_JSON))).collect();
        let content = |part: &sip_proto::multipart::Part| {
            let kind = part.content_type();
            let body = match (&kind, sdp) {
                (Some(kind), Some(sdp)) if kind.is(SDP) => sdp.clone(),
                _ => part.body(),
            };
            (kind.map_or_else(|| "text/plain".to_owned(), |t| String::from_utf8_lossy(t.raw()).into_owned()), body)
        };
        match left[..] {
            [] => None,
            [only] => Some(content(only)),
            _ => {
                let mut out = MultipartBuilder::mixed();
                for part in left {
                    let (kind, body) = content(part);
                    out = out.part(&kind, body);
                    if let Some(disposition) = part.disposition() {
                        out = out.disposition(disposition.kind(), disposition.handling());
                    }
                }
                Some(out.build())
            }
        }
    }
}

/// The description that one leg sends, with its `o=` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Passed {
    pub sdp: Bytes,
    pub id: u64,
    pub version: u64,
}

impl Passed {
    /// What a leg sent last, by its record.
    pub fn of(record: &DialogRecord) -> Option<Passed> {
        let id = record.extra.get(SDP_ID)?.parse().ok()?;
        Some(Passed { sdp: record.local_sdp.clone()?, id, version: record.sdp_version })
    }

    /// Into the record of the leg that sends it.
    pub fn note(&self, record: &mut DialogRecord) {
        record.local_sdp = Some(self.sdp.clone());
        record.sdp_version = self.version;
        record.extra.insert(SDP_ID.to_owned(), self.id.to_string());
    }
}

impl EdgeState {
    /// `theirs` as one leg sends it: its session id, and a version that rises only when the description changes (RFC 3264 §8). `before`
    /// is what that leg sent last.
    pub(super) fn pass_sdp(
        &mut self,
        theirs: &Bytes,
        before: Option<&Passed>,
        listener: u16,
    ) -> Result<Passed, SdpError> {
        let id = before.map_or_else(|| self.random.u64() >> 2, |before| before.id);
        let address = self.advertised_host(listener, None);
        let with = |version| with_origin(theirs, &SdpOrigin { session_id: id, version, address: address.clone() });
        let last = before.map_or(1, |before| before.version);
        let sdp = with(last)?;
        match before {
            Some(before) if before.sdp != sdp => Ok(Passed { sdp: with(last + 1)?, id, version: last + 1 }),
            _ => Ok(Passed { sdp, id, version: last }),
        }
    }
}
