//! A typed view of `m=` lines: port, formats, direction, and the attributes that MSRP and its set-up need.

use sdp_types::{Attribute, Media, Session};

/// Who sends (RFC 3264 §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Both.
    SendRecv,
    /// The describing side only.
    SendOnly,
    /// The other side only.
    RecvOnly,
    /// Nobody.
    Inactive,
}

impl Direction {
    /// The attribute.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::SendRecv => "sendrecv",
            Direction::SendOnly => "sendonly",
            Direction::RecvOnly => "recvonly",
            Direction::Inactive => "inactive",
        }
    }

    fn parse(name: &str) -> Option<Direction> {
        let all = [Direction::SendRecv, Direction::SendOnly, Direction::RecvOnly, Direction::Inactive];
        all.into_iter().find(|direction| direction.as_str() == name)
    }

    /// The same stream as the other side sees it.
    #[must_use]
    pub fn reversed(self) -> Direction {
        match self {
            Direction::SendOnly => Direction::RecvOnly,
            Direction::RecvOnly => Direction::SendOnly,
            same => same,
        }
    }

    /// What an answer may say to an offer of `self` when we want `ours` (RFC 3264 §6.1).
    #[must_use]
    pub fn answer(self, ours: Direction) -> Direction {
        let (they_send, they_receive) = self.flows();
        let (we_send, we_receive) = ours.flows();
        match (we_send && they_receive, we_receive && they_send) {
            (true, true) => Direction::SendRecv,
            (true, false) => Direction::SendOnly,
            (false, true) => Direction::RecvOnly,
            (false, false) => Direction::Inactive,
        }
    }

    fn flows(self) -> (bool, bool) {
        (
            matches!(self, Direction::SendRecv | Direction::SendOnly),
            matches!(self, Direction::SendRecv | Direction::RecvOnly),
        )
    }
}

/// `a=setup` (RFC 4145 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Setup {
    /// Connects.
    Active,
    /// Listens.
    Passive,
    /// Either.
    ActPass,
    /// Not now.
    HoldConn,
}

impl Setup {
    /// The value of the attribute.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Setup::Active => "active",
            Setup::Passive => "passive",
            Setup::ActPass => "actpass",
            Setup::HoldConn => "holdconn",
        }
    }

    fn parse(value: &str) -> Option<Setup> {
        [Setup::Active, Setup::Passive, Setup::ActPass, Setup::HoldConn]
            .into_iter()
            .find(|setup| setup.as_str().eq_ignore_ascii_case(value.trim()))
    }
}

/// One `m=` line with what the session level adds to it.
#[derive(Clone, Copy, Debug)]
pub struct MediaLine<'a> {
    session: &'a Session,
    media: &'a Media,
}

/// The `m=` lines in order.
pub fn media_lines(session: &Session) -> impl Iterator<Item = MediaLine<'_>> {
    session.medias.iter().map(move |media| MediaLine { session, media })
}

impl<'a> MediaLine<'a> {
    /// `audio`, `message`, …
    #[must_use]
    pub fn kind(&self) -> &'a str {
        &self.media.media
    }

    /// The port; 0 is a refused or removed stream.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.media.port
    }

    /// Refused or removed (RFC 3264 §6, §8.2). A `bundle-only` line of an offer has port 0 and is not (RFC 8843 §6).
    #[must_use]
    pub fn is_rejected(&self) -> bool {
        self.media.port == 0 && !self.media.has_attribute("bundle-only")
    }

    /// `RTP/AVP`, `TCP/TLS/MSRP`, …
    #[must_use]
    pub fn proto(&self) -> &'a str {
        &self.media.proto
    }

    /// The formats in order of preference.
    pub fn formats(&self) -> impl Iterator<Item = &'a str> {
        self.media.fmt.split_ascii_whitespace()
    }

    /// The direction: that of the line, else of the session, else `sendrecv`.
    #[must_use]
    pub fn direction(&self) -> Direction {
        let find = |attributes: &'a [Attribute]| attributes.iter().find_map(|a| Direction::parse(&a.attribute));
        find(&self.media.attributes).or_else(|| find(&self.session.attributes)).unwrap_or(Direction::SendRecv)
    }

    /// The address to send to, as text.
    #[must_use]
    pub fn address(&self) -> Option<&'a str> {
        let connection = self.media.connections.first().or(self.session.connection.as_ref())?;
        Some(&connection.connection_address)
    }

    /// The value of the first attribute of that name, of the line or else of the session. `Some("")` when it has none.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&'a str> {
        let find = |attributes: &'a [Attribute]| attributes.iter().find(|a| a.attribute.eq_ignore_ascii_case(name));
        let found = find(&self.media.attributes).or_else(|| find(&self.session.attributes))?;
        Some(found.value.as_deref().unwrap_or_default())
    }

    /// `a=setup`, if it is a known value.
    #[must_use]
    pub fn setup(&self) -> Option<Setup> {
        self.attribute("setup").and_then(Setup::parse)
    }

    /// The URIs of `a=path` (RFC 4975 §8.2), nearest hop first.
    pub fn path(&self) -> impl Iterator<Item = &'a str> {
        self.attribute("path").unwrap_or_default().split_ascii_whitespace()
    }

    /// `a=accept-types` (RFC 4975 §8.6).
    pub fn accept_types(&self) -> impl Iterator<Item = &'a str> {
        self.attribute("accept-types").unwrap_or_default().split_ascii_whitespace()
    }

    /// `(payload type, encoding)` of every `a=rtpmap`, such as `(0, "PCMU/8000")`.
    pub fn rtpmaps(&self) -> impl Iterator<Item = (u8, &'a str)> {
        self.media.attributes.iter().filter(|a| a.attribute == "rtpmap").filter_map(|a| {
            let (payload, encoding) = a.value.as_deref()?.split_once(' ')?;
            Some((payload.parse().ok()?, encoding.trim()))
        })
    }
}
