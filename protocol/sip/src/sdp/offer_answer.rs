//! Which description may follow which (RFC 3264 §4, §8; RFC 6337 §2): one offer at a time, an answer line for each
//! offered line, lines never taken away, and an `o=` version that rises exactly when the description changes.

use bytes::Bytes;
use sdp_types::Session;

use super::{SdpError, SdpOrigin, parse, write};

/// The exchange of one dialog. Plain values; descriptions are the bytes as sent or received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OfferAnswer {
    /// The agreed descriptions.
    pub agreed: Option<Agreed>,
    /// An offer that is not answered yet.
    pub pending: Option<Pending>,
    /// Our `o=` version in the last description that we sent, also when it was an offer that failed.
    pub version: Option<u64>,
}

/// Both sides of a finished exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// What we sent.
    pub local: Bytes,
    /// What we got.
    pub remote: Bytes,
}

/// An open offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pending {
    /// Ours.
    Local(Bytes),
    /// The peer's.
    Remote(Bytes),
}

/// What is wrong with a description at this point.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfferAnswerError {
    /// The peer offers while our offer is open: answer 491 (RFC 6337 §2.3).
    #[error("both sides offer")]
    Glare,
    /// An offer while the peer's own is not answered yet: answer 500 with Retry-After (RFC 3261 §14.2).
    #[error("an offer is not answered yet")]
    Unanswered,
    /// An answer without an offer.
    #[error("no offer is open")]
    NoOffer,
    /// The answer, or the new offer, has fewer `m=` lines than it must have, or others: 488, or end the session.
    #[error("media lines do not match")]
    MediaMismatch,
    /// The description cannot be used.
    #[error(transparent)]
    Sdp(#[from] SdpError),
}

impl OfferAnswer {
    /// We offer: writes `session` with our `o=` line; its version rises only when the rest differs from what we sent before.
    ///
    /// # Errors
    /// `Unanswered` while any offer is open; `MediaMismatch` when a line of the running session is missing.
    pub fn offer(&mut self, session: Session, origin: &SdpOrigin) -> Result<Bytes, OfferAnswerError> {
        if self.pending.is_some() {
            return Err(OfferAnswerError::Unanswered);
        }
        if let Some(agreed) = &self.agreed
            && parse(&agreed.local)?.medias.len() > session.medias.len()
        {
            return Err(OfferAnswerError::MediaMismatch);
        }
        let bytes = self.stamp(session, origin);
        self.pending = Some(Pending::Local(bytes.clone()));
        Ok(bytes)
    }

    /// The peer offers.
    ///
    /// # Errors
    /// `Glare`, `Unanswered`, `MediaMismatch`, or the limits of [`parse`].
    pub fn on_offer(&mut self, offer: &Bytes) -> Result<Session, OfferAnswerError> {
        match self.pending {
            Some(Pending::Local(_)) => return Err(OfferAnswerError::Glare),
            Some(Pending::Remote(_)) => return Err(OfferAnswerError::Unanswered),
            None => {}
        }
        let session = parse(offer)?;
        if let Some(agreed) = &self.agreed
            && parse(&agreed.remote)?.medias.len() > session.medias.len()
        {
            return Err(OfferAnswerError::MediaMismatch);
        }
        self.pending = Some(Pending::Remote(offer.clone()));
        Ok(session)
    }

    /// We answer the open offer: writes `session` with our `o=` line.
    ///
    /// # Errors
    /// `NoOffer`, or `MediaMismatch` when a line of the offer has no line of the same kind in the answer.
    pub fn answer(&mut self, session: Session, origin: &SdpOrigin) -> Result<Bytes, OfferAnswerError> {
        let Some(Pending::Remote(remote)) = &self.pending else { return Err(OfferAnswerError::NoOffer) };
        let remote = remote.clone();
        same_lines(&parse(&remote)?, &session)?;
        let local = self.stamp(session, origin);
        self.pending = None;
        self.agreed = Some(Agreed { local: local.clone(), remote });
        Ok(local)
    }

    /// The peer answers our offer.
    ///
    /// # Errors
    /// `NoOffer`, `MediaMismatch`, or the limits of [`parse`]. The offer stays open.
    pub fn on_answer(&mut self, answer: &Bytes) -> Result<Session, OfferAnswerError> {
        let Some(Pending::Local(local)) = &self.pending else { return Err(OfferAnswerError::NoOffer) };
        let session = parse(answer)?;
        same_lines(&parse(local)?, &session)?;
        self.agreed = Some(Agreed { local: local.clone(), remote: answer.clone() });
        self.pending = None;
        Ok(session)
    }

    /// The request that carried the open offer failed: what was agreed before stays in force (RFC 6337 §3.4).
    pub fn roll_back(&mut self) {
        self.pending = None;
    }

    /// Writes our `o=` line. The version of a description that says the same as the last one is the same.
    fn stamp(&mut self, mut session: Session, origin: &SdpOrigin) -> Bytes {
        let with = |session: &mut Session, version| {
            session.origin = SdpOrigin { version, ..origin.clone() }.line();
            write(session)
        };
        let version = match (self.version, &self.agreed) {
            (None, _) => origin.version,
            (Some(last), Some(agreed)) if with(&mut session, last) == agreed.local => last,
            (Some(last), _) => last.saturating_add(1),
        };
        self.version = Some(version);
        with(&mut session, version)
    }
}

fn same_lines(offer: &Session, answer: &Session) -> Result<(), OfferAnswerError> {
    let kinds = |session: &Session| session.medias.iter().map(|media| media.media.clone()).collect::<Vec<_>>();
    if kinds(offer) == kinds(answer) { Ok(()) } else { Err(OfferAnswerError::MediaMismatch) }
}
