//! From bytes to [`Envelope`]: one pass over the text, no allocation for a message without surprises.

use std::borrow::Cow;

use bytes::Bytes;

use super::id::{self, RawId};
use super::scan::{Broken, Scanner, Span, Type, Value, is_variant, unescape};
use super::{Body, Bounds, Envelope, Fault, Kind, Members, Refused};
use super::{META_CLIENT_CAPABILITIES, META_PROTOCOL_VERSION, META_SUBSCRIPTION_ID};

/// Members of an envelope beyond those that JSON-RPC names. More than any peer sends; bounds the duplicate check.
const MAX_OTHER_MEMBERS: usize = 32;

impl From<Broken> for Refused {
    fn from(broken: Broken) -> Refused {
        Refused::new(match broken {
            Broken::Syntax(at) => Fault::NotJson(at),
            Broken::TooDeep(at) => Fault::TooDeep(at),
        })
    }
}

pub(super) fn body(bytes: &Bytes, bounds: &Bounds) -> Result<Body, Refused> {
    // Offsets are 32 bits; a limit above that is no limit that a body could reach.
    let limit = bounds.bytes.min(u32::MAX as usize - 1);
    if bytes.len() > limit {
        return Err(Refused::new(Fault::TooLarge { bytes: bytes.len(), limit }));
    }
    if let Err(error) = std::str::from_utf8(bytes) {
        return Err(Refused::new(Fault::NotUtf8(error.valid_up_to())));
    }
    let mut reader = Reader::new(bytes, bounds);
    if reader.scanner.peek() != Some(b'{') {
        let value = reader.scanner.value(0)?;
        reader.scanner.finish()?;
        return Err(Refused::new(if value.kind == Type::Array { Fault::Batch } else { Fault::NotAnObject }));
    }
    reader.envelope()?;
    reader.scanner.finish()?;
    reader.conclude()
}

/// A member name that we know, and where its value goes.
#[derive(Clone, Copy)]
struct Known {
    name: &'static str,
    slot: fn(&mut Members) -> &mut Option<Span>,
}

const PARAMS: [Known; 8] = [
    Known { name: "name", slot: |m| &mut m.name },
    Known { name: "uri", slot: |m| &mut m.uri },
    Known { name: "taskId", slot: |m| &mut m.task_id },
    Known { name: "arguments", slot: |m| &mut m.arguments },
    Known { name: "protocolVersion", slot: |m| &mut m.protocol_version },
    Known { name: "requestId", slot: |m| &mut m.request_id },
    Known { name: "progressToken", slot: |m| &mut m.progress_token },
    Known { name: "_meta", slot: |m| &mut m.meta },
];
const META: [Known; 5] = [
    Known { name: META_PROTOCOL_VERSION, slot: |m| &mut m.meta_version },
    Known { name: META_CLIENT_CAPABILITIES, slot: |m| &mut m.meta_capabilities },
    Known { name: "progressToken", slot: |m| &mut m.meta_progress_token },
    Known { name: META_SUBSCRIPTION_ID, slot: |m| &mut m.meta_subscription },
    Known { name: "traceparent", slot: |m| &mut m.meta_traceparent },
];
const RESULT: [Known; 2] = [
    Known { name: "resultType", slot: |m| &mut m.result_type },
    Known { name: "protocolVersion", slot: |m| &mut m.result_version },
];

struct Reader<'a> {
    bytes: &'a Bytes,
    bounds: &'a Bounds,
    scanner: Scanner<'a>,
    at: Members,
    /// The first thing wrong with the envelope. Kept, because broken JSON further on is the graver fault.
    fault: Option<Fault>,
    version: Option<bool>,
    negotiation: bool,
    error_code: Option<i64>,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a Bytes, bounds: &'a Bounds) -> Reader<'a> {
        Reader {
            bytes,
            bounds,
            scanner: Scanner::new(bytes, bounds.depth),
            at: Members::default(),
            fault: None,
            version: None,
            negotiation: false,
            error_code: None,
        }
    }

    fn note(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }

    fn envelope(&mut self) -> Result<(), Broken> {
        self.scanner.enter(b'{', 1)?;
        let mut first = true;
        let mut variants = 0u8;
        let mut others: Vec<Value> = Vec::new();
        while let Some(key) = self.scanner.key(&mut first)? {
            let Some(name) = name(self.bytes, key) else {
                self.scanner.value(1)?;
                self.note(Fault::MemberName);
                continue;
            };
            match &*name {
                b"jsonrpc" => {
                    let value = self.scanner.value(1)?;
                    if self.version.is_some() {
                        self.note(Fault::Duplicate("jsonrpc"));
                    }
                    let text = value.span.of(self.bytes);
                    self.version = Some(value.kind == Type::String && unescape(text).as_deref() == Some("2.0"));
                }
                b"id" => {
                    let span = self.scanner.value(1)?.span;
                    self.set("id", |m| &mut m.id, span);
                }
                b"method" => {
                    let value = self.scanner.value(1)?;
                    if value.kind != Type::String {
                        self.note(Fault::Method);
                    }
                    self.set("method", |m| &mut m.method, value.span);
                }
                b"params" => {
                    let span = self.object(2, &PARAMS, Fault::Params)?;
                    self.set("params", |m| &mut m.params, span);
                }
                b"result" => {
                    let span = self.result()?;
                    self.set("result", |m| &mut m.result, span);
                }
                b"error" => {
                    let span = self.error()?;
                    self.set("error", |m| &mut m.error, span);
                }
                _ => {
                    self.scanner.value(1)?;
                    self.negotiation |= *name == *b"mcp_version";
                    const NAMES: [&str; 6] = ["jsonrpc", "id", "method", "params", "result", "error"];
                    for (bit, known) in NAMES.iter().enumerate() {
                        if is_variant(&name, known) {
                            variants |= 1 << bit;
                        }
                    }
                    self.other(&mut others, key, &name);
                }
            }
        }
        self.case_variants(variants);
        Ok(())
    }

    /// Peers exist that match member names without regard to case (Go's encoding/json): a `Method` beside our
    /// `method` would be judged here and overruled there.
    fn case_variants(&mut self, variants: u8) {
        let present = [
            ("jsonrpc", self.version.is_some()),
            ("id", self.at.id.is_some()),
            ("method", self.at.method.is_some()),
            ("params", self.at.params.is_some()),
            ("result", self.at.result.is_some()),
            ("error", self.at.error.is_some()),
        ];
        for (bit, (name, there)) in present.into_iter().enumerate() {
            if there && variants & (1 << bit) != 0 {
                self.note(Fault::Duplicate(name));
            }
        }
    }

    fn other(&mut self, others: &mut Vec<Value>, key: Value, found: &[u8]) {
        let seen = others.iter().any(|other| name(self.bytes, *other).as_deref() == Some(found));
        if seen {
            self.note(Fault::DuplicateOther);
        } else if others.len() == MAX_OTHER_MEMBERS {
            self.note(Fault::TooManyMembers);
        } else {
            others.push(key);
        }
    }

    fn set(&mut self, name: &'static str, slot: fn(&mut Members) -> &mut Option<Span>, span: Span) {
        if slot(&mut self.at).replace(span).is_some() {
            self.note(Fault::Duplicate(name));
        }
    }

    /// Walks one object whose members we look at; any other value is skipped and is the fault given.
    fn object(&mut self, level: u32, known: &[Known], otherwise: Fault) -> Result<Span, Broken> {
        if self.scanner.peek() != Some(b'{') {
            let span = self.scanner.value(level - 1)?.span;
            self.note(otherwise);
            return Ok(span);
        }
        let start = self.scanner.position();
        self.scanner.enter(b'{', level)?;
        let mut first = true;
        let mut variants = 0u32;
        while let Some(key) = self.scanner.key(&mut first)? {
            // A name that is no text is none of ours.
            let found = name(self.bytes, key).unwrap_or_default();
            match known.iter().position(|k| k.name.as_bytes() == &*found) {
                Some(index) => {
                    let Known { name, slot } = known[index];
                    let span = if name == "_meta" {
                        self.object(level + 1, &META, Fault::Meta)?
                    } else {
                        self.scanner.value(level)?.span
                    };
                    self.set(name, slot, span);
                }
                None => {
                    self.scanner.value(level)?;
                    for (bit, k) in known.iter().enumerate() {
                        if is_variant(&found, k.name) {
                            variants |= 1 << bit;
                        }
                    }
                }
            }
        }
        for (bit, Known { name, slot }) in known.iter().enumerate() {
            if variants & (1 << bit) != 0 && slot(&mut self.at).is_some() {
                self.note(Fault::Duplicate(name));
            }
        }
        Ok(Span::new(start, self.scanner.position()))
    }

    fn result(&mut self) -> Result<Span, Broken> {
        if self.scanner.peek() == Some(b'{') {
            self.object(2, &RESULT, Fault::NotAnObject)
        } else {
            Ok(self.scanner.value(1)?.span)
        }
    }

    fn error(&mut self) -> Result<Span, Broken> {
        const ERROR: [Known; 3] = [
            Known { name: "code", slot: |m| &mut m.error_code },
            Known { name: "message", slot: |m| &mut m.error_message },
            Known { name: "data", slot: |m| &mut m.error_data },
        ];
        let span = self.object(2, &ERROR, Fault::ErrorObject)?;
        self.error_code = self
            .at
            .error_code
            .and_then(|span| std::str::from_utf8(span.of(self.bytes)).ok())
            .and_then(|text| text.parse::<i64>().ok());
        let message = self.at.error_message.is_some_and(|m| m.of(self.bytes).first() == Some(&b'"'));
        if self.error_code.is_none() || !message {
            self.note(Fault::ErrorObject);
        }
        Ok(span)
    }

    /// Judges the envelope as a whole, once the text is known to be JSON.
    fn conclude(mut self) -> Result<Body, Refused> {
        if self.negotiation && self.version.is_none() && self.at.method.is_none() {
            return match self.fault {
                // Only what JSON-RPC asks of its own members was looked at so far.
                Some(Fault::DuplicateOther | Fault::TooManyMembers) => Err(Refused::new(Fault::DuplicateOther)),
                _ => Ok(Body::Negotiation(self.bytes.clone())),
            };
        }
        let kind = self.kind();
        let id = self.checked_id(kind);
        self.tokens();
        if let Some(fault) = self.fault {
            return Err(Refused { fault, id });
        }
        let Some(kind) = kind else { return Err(Refused::new(Fault::Nothing)) };
        let method_unescaped = match self.at.method.map(|span| span.of(self.bytes)) {
            Some(literal) if literal.contains(&b'\\') => match unescape(literal) {
                Some(text) => Some(text.into_owned().into_boxed_str()),
                None => return Err(Refused { fault: Fault::Method, id }),
            },
            _ => None,
        };
        Ok(Body::Message(Envelope {
            bytes: self.bytes.clone(),
            kind,
            method_unescaped,
            error_code: self.error_code.unwrap_or(0),
            at: self.at,
        }))
    }

    fn kind(&mut self) -> Option<Kind> {
        if self.negotiation {
            self.note(Fault::TwoForms);
        }
        if self.version != Some(true) {
            self.note(Fault::Version);
        }
        match (self.at.method, self.at.result, self.at.error) {
            (Some(_), None, None) if self.at.id.is_some() => Some(Kind::Request),
            (Some(_), None, None) => Some(Kind::Notification),
            (None, Some(_), None) => Some(Kind::Response),
            (None, None, Some(_)) => Some(Kind::Error),
            (None, Some(_), Some(_)) => {
                self.note(Fault::ResultAndError);
                None
            }
            (Some(_), _, _) => {
                self.note(Fault::RequestAndResponse);
                None
            }
            (None, None, None) => {
                self.note(Fault::Nothing);
                None
            }
        }
    }

    /// Checks the id; gives it where it belongs to a request that can be answered.
    fn checked_id(&mut self, kind: Option<Kind>) -> Option<RawId> {
        let Some(span) = self.at.id else {
            let needed = match kind {
                Some(Kind::Response) => true,
                Some(Kind::Error) => !self.bounds.error_without_id,
                Some(Kind::Request | Kind::Notification) | None => false,
            };
            if needed {
                self.note(Fault::NoId);
            }
            return None;
        };
        match id::check(span.of(self.bytes), self.bounds.id_bytes) {
            Ok(()) if kind == Some(Kind::Request) => RawId::from_checked(self.bytes.slice(span.range())),
            Ok(()) => None,
            Err(id::IdError::Null) if kind == Some(Kind::Error) && self.bounds.error_without_id => {
                self.at.id = None;
                None
            }
            Err(error) => {
                self.note(Fault::Id(error));
                None
            }
        }
    }

    /// Checks what mirrors ids, and the size of `_meta`.
    fn tokens(&mut self) {
        if let Some(meta) = self.at.meta
            && meta.len() > self.bounds.meta_bytes
        {
            self.note(Fault::MetaTooLarge { bytes: meta.len(), limit: self.bounds.meta_bytes });
        }
        let at = &self.at;
        let none = at.meta_progress_token.is_none() && at.meta_subscription.is_none();
        if none && at.request_id.is_none() && at.progress_token.is_none() {
            return;
        }
        let method = self.at.method.and_then(|span| unescape(span.of(self.bytes))).unwrap_or_default();
        let tokens = [
            ("params._meta.progressToken", self.at.meta_progress_token),
            ("params._meta.subscriptionId", self.at.meta_subscription),
            ("params.requestId", self.at.request_id.filter(|_| method == "notifications/cancelled")),
            ("params.progressToken", self.at.progress_token.filter(|_| method == "notifications/progress")),
        ];
        for (member, span) in tokens {
            if let Some(Err(error)) = span.map(|span| id::check(span.of(self.bytes), self.bounds.id_bytes)) {
                self.note(Fault::Token { member, error });
            }
        }
    }
}

/// A member's name as its text. `None` for an escape that names no character.
fn name(bytes: &[u8], key: Value) -> Option<Cow<'_, [u8]>> {
    let literal = key.span.of(bytes);
    if key.escaped {
        unescape(literal).map(|text| Cow::Owned(text.into_owned().into_bytes()))
    } else {
        literal.get(1..literal.len().checked_sub(1)?).map(Cow::Borrowed)
    }
}
