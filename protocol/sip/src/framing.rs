//! Where a message begins and ends: one framer for datagrams and streams (RFC 3261 §18.3, RFC 5626 §3.5.1).
//!
//! There is one authoritative Content-Length, found by the scan that also makes the message. A second one, a broken one or
//! none on a stream is refused and the connection closed, so nobody behind us can read another length.

use bytes::{Buf, Bytes, BytesMut};

use crate::limits::{BODY_BYTES, BODY_BYTES_MAX, HEAD_BYTES};
use crate::message::refusal::Fault;
use crate::message::scan::{self, Head};
use crate::message::{Message, Refusal, Transportation};

/// Limits of one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLimits {
    /// Start line and header lines, in octets; at most [`HEAD_BYTES`].
    pub head: usize,
    /// Body, in octets; at most [`BODY_BYTES_MAX`].
    pub body: usize,
}

impl Default for FrameLimits {
    fn default() -> Self {
        FrameLimits { head: HEAD_BYTES, body: BODY_BYTES }
    }
}

impl FrameLimits {
    fn within_hard_limits(self) -> FrameLimits {
        FrameLimits { head: self.head.min(HEAD_BYTES), body: self.body.min(BODY_BYTES_MAX) }
    }
}

/// What came.
#[expect(clippy::large_enum_variant, reason = "a box per message would cost the allocation that the index saves")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A whole message.
    Message(Message),
    /// Something between messages.
    KeepAlive(Ping),
}

/// Keep-alive of a connection (RFC 5626 §3.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ping {
    /// CRLFCRLF: answer with CRLF.
    Ping,
    /// One CRLF: the answer to our ping. When it turns out to be the first half of a ping, a `Ping` follows.
    Pong,
}

/// Why a frame was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameFault {
    /// Status 400, 413, 414, 483, 505 or 513. With `close` the connection must be closed and the framer gives nothing more;
    /// without, the message was bad but its end is known, and the next one can be read.
    pub refusal: Refusal,
}

/// Cuts one stream into messages. Octets are looked at once, however they arrive in pieces.
///
/// The caller takes frames until there are none after each [`StreamFramer::push`]; then no more is buffered than the
/// limits and one chunk.
#[derive(Debug)]
pub struct StreamFramer {
    limits: FrameLimits,
    buffer: BytesMut,
    state: State,
}

/// Buffer that a connection may keep while nothing is under way: thousands of them are idle.
const IDLE_BYTES: usize = 4096;

#[derive(Debug)]
enum State {
    /// Between messages. A CRLF was just given out as a pong.
    Idle { half_ping: bool },
    /// Looking for the empty line; before `searched` there is none.
    Head { searched: usize },
    /// The head is known; waiting until `total` octets are there.
    Body { head: Box<Head>, total: usize },
    /// A fault that leaves the rest without meaning.
    Closed,
}

impl Default for StreamFramer {
    fn default() -> Self {
        StreamFramer::new(FrameLimits::default())
    }
}

impl StreamFramer {
    /// For one connection. Limits beyond the hard ones count as those.
    #[must_use]
    pub fn new(limits: FrameLimits) -> StreamFramer {
        let limits = limits.within_hard_limits();
        StreamFramer { limits, buffer: BytesMut::new(), state: State::Idle { half_ping: false } }
    }

    /// Octets as they came from the connection. After a fault that closes they are dropped.
    pub fn push(&mut self, chunk: &[u8]) {
        if !matches!(self.state, State::Closed) {
            self.buffer.extend_from_slice(chunk);
        }
    }

    /// Octets that wait for the rest of their message.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Whether a message has begun and is not complete: the time limit for slow senders runs.
    #[must_use]
    pub fn is_in_message(&self) -> bool {
        match self.state {
            State::Idle { .. } => !self.buffer.is_empty(),
            State::Head { .. } | State::Body { .. } => true,
            State::Closed => false,
        }
    }

    /// The next frame; `None` until more octets come.
    #[allow(clippy::should_implement_trait, reason = "an iterator would promise to stay finished after None")]
    pub fn next(&mut self) -> Option<Result<Frame, FrameFault>> {
        loop {
            match &mut self.state {
                State::Closed => return None,
                State::Idle { half_ping } => match &self.buffer[..] {
                    [] => {
                        if self.buffer.capacity() > IDLE_BYTES {
                            self.buffer = BytesMut::new();
                        }
                        return None;
                    }
                    [b'\r'] => return None,
                    [b'\r', b'\n', ..] => {
                        let whole = *half_ping || self.buffer[2..].starts_with(b"\r\n");
                        self.buffer.advance(if *half_ping || !whole { 2 } else { 4 });
                        *half_ping = !whole;
                        return Some(Ok(Frame::KeepAlive(if whole { Ping::Ping } else { Ping::Pong })));
                    }
                    _ => self.state = State::Head { searched: 0 },
                },
                State::Head { searched } => {
                    let found = memchr::memmem::find(&self.buffer[*searched..], b"\r\n\r\n");
                    let end = found.map(|at| *searched + at + 4);
                    if end.unwrap_or(self.buffer.len()) > self.limits.head {
                        return Some(Err(self.close(Fault::too_large("Head Too Large"))));
                    }
                    let Some(_) = end else {
                        // The last three octets may begin the empty line.
                        *searched = self.buffer.len().saturating_sub(3);
                        return None;
                    };
                    let mut head = Head::EMPTY;
                    match self.scan_head(&mut head) {
                        Ok(total) if self.buffer.len() >= total => return Some(self.message(head, total)),
                        Ok(total) => self.state = State::Body { head: Box::new(head), total },
                        Err(fault) => return Some(Err(self.close(fault))),
                    }
                }
                State::Body { total, .. } if self.buffer.len() < *total => return None,
                State::Body { .. } => {
                    let State::Body { head, total } =
                        std::mem::replace(&mut self.state, State::Idle { half_ping: false })
                    else {
                        return None;
                    };
                    return Some(self.message(*head, total));
                }
            }
        }
    }

    /// The whole message, which lies at the beginning of the buffer.
    fn message(&mut self, head: Head, total: usize) -> Result<Frame, FrameFault> {
        self.state = State::Idle { half_ping: false };
        let bytes = self.buffer.split_to(total).freeze();
        let message = Message::framed(bytes, head).map(Frame::Message);
        if let Err(refusal) = &message
            && refusal.close
        {
            self.state = State::Closed;
            self.buffer = BytesMut::new();
        }
        message.map_err(|refusal| FrameFault { refusal })
    }

    /// Scans the complete head at the beginning of the buffer; the length of the whole message.
    fn scan_head(&self, head: &mut Head) -> Result<usize, Fault> {
        scan::scan(&self.buffer, head)?;
        let body = head.content_length.ok_or(Fault::framing("Missing Content-Length"))?;
        if body > self.limits.body {
            return Err(Fault::TOO_LARGE_BODY);
        }
        Ok(head.end + body)
    }

    fn close(&mut self, fault: Fault) -> FrameFault {
        let refusal = Refusal::new(&self.buffer, fault);
        self.state = State::Closed;
        self.buffer = BytesMut::new();
        FrameFault { refusal }
    }
}

/// The message of one datagram; `None` for a keep-alive, which is nothing but CRLF (RFC 5626 §4.4.1), or nothing at all.
///
/// # Errors
/// When it is no legal SIP message, or larger than the limits.
pub fn datagram(mut bytes: Bytes, limits: &FrameLimits) -> Result<Option<Message>, Refusal> {
    let limits = limits.within_hard_limits();
    while bytes.starts_with(b"\r\n") {
        bytes.advance(2);
    }
    if bytes.is_empty() || bytes.iter().all(|&b| b == 0) {
        // Some phones ping with zero octets.
        return Ok(None);
    }
    let message = Message::parse(bytes, Transportation::Datagram)?;
    let (head, body) = (message.head_len(), message.bytes().len() - message.head_len());
    if head > limits.head {
        return Err(Refusal::new(message.bytes(), Fault::too_large("Head Too Large")));
    }
    if body > limits.body {
        return Err(Refusal::new(message.bytes(), Fault::TOO_LARGE_BODY));
    }
    Ok(Some(message))
}
