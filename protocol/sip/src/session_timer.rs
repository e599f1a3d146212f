//! Session timers (RFC 4028): what goes into `Session-Expires`, `Min-SE` and `Require`, who refreshes, and when. Values only:
//! deadlines come out as times after the last refresh, and the caller keeps them where they survive.

use std::fmt;

use crate::dialog::ends_dialog;
pub use crate::header::Refresher;
use crate::header::session_expires;
use crate::message::{HeaderId, Message};
use crate::time::UnixMillis;

/// The option tag.
pub const OPTION_TAG: &str = "timer";
/// The smallest interval that the RFC allows, in seconds (§5).
pub const ABSOLUTE_MIN_SE: u32 = 90;

/// A `Session-Expires` value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionExpires {
    /// The interval in seconds.
    pub seconds: u32,
    /// The `refresher` parameter.
    pub refresher: Option<Refresher>,
}

/// Why a `Session-Expires` or `Min-SE` value cannot be read: answer 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed Session-Expires or Min-SE")]
pub struct Malformed;

impl SessionExpires {
    /// Reads a header value; unknown parameters are passed over.
    ///
    /// # Errors
    /// No number, a number beyond 32 bits, or a `refresher` that is neither `uac` nor `uas`.
    pub fn parse(value: &[u8]) -> Result<SessionExpires, Malformed> {
        session_expires::SessionExpires::parse(value).map(SessionExpires::from).map_err(|_| Malformed)
    }
}

impl From<session_expires::SessionExpires<'_>> for SessionExpires {
    fn from(header: session_expires::SessionExpires<'_>) -> SessionExpires {
        SessionExpires { seconds: header.interval, refresher: header.refresher }
    }
}

impl fmt::Display for SessionExpires {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.seconds)?;
        match self.refresher {
            Some(Refresher::Uac) => f.write_str(";refresher=uac"),
            Some(Refresher::Uas) => f.write_str(";refresher=uas"),
            None => Ok(()),
        }
    }
}

/// What we want. Default: 1800 s, at least 90 s, the peer refreshes if it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionTimerPolicy {
    /// The interval that we insert, in seconds.
    pub session_expires: u32,
    /// The smallest that we accept, in seconds; never below 90.
    pub min_se: u32,
    /// Refresh ourselves although the peer could.
    pub prefer_to_refresh: bool,
}

impl Default for SessionTimerPolicy {
    fn default() -> Self {
        SessionTimerPolicy { session_expires: 1800, min_se: ABSOLUTE_MIN_SE, prefer_to_refresh: false }
    }
}

/// The agreed timer of a dialog, from our view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionTimer {
    /// The session interval in seconds.
    pub interval: u32,
    /// We send the refreshes.
    pub we_refresh: bool,
}

/// When something is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Send a refresh; `None` when the peer does.
    pub refresh: Option<UnixMillis>,
    /// No refresh succeeded until then: send BYE.
    pub bye: UnixMillis,
    /// The session is over by itself; nothing may be kept longer.
    pub expiry: UnixMillis,
}

impl SessionTimer {
    /// The deadlines after a successful refresh (or the first 2xx) at `since`: refresh at half of the interval (§7.4,
    /// §9), BYE min(32 s, a third of it) before its end (§10).
    #[must_use]
    pub fn deadlines(&self, since: UnixMillis) -> Deadlines {
        let interval = u64::from(self.interval) * 1000;
        Deadlines {
            refresh: self.we_refresh.then(|| since.plus_millis(interval / 2)),
            bye: since.plus_millis(interval - 32_000.min(interval / 3)),
            expiry: since.plus_millis(interval),
        }
    }
}

/// What a request says about session timers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestTimers {
    /// `timer` is in `Supported` or `Require`.
    pub supported: bool,
    /// `Session-Expires`.
    pub session_expires: Option<SessionExpires>,
    /// `Min-SE`.
    pub min_se: Option<u32>,
}

impl RequestTimers {
    /// Reads them from an INVITE or UPDATE.
    ///
    /// # Errors
    /// A header that is there and cannot be read: 400.
    pub fn of(request: &Message) -> Result<RequestTimers, Malformed> {
        let session_expires = request.session_expires().map(SessionExpires::from);
        let min_se = request.min_se();
        let unread = (session_expires.is_none() && request.has(HeaderId::SessionExpires))
            || (min_se.is_none() && request.has(HeaderId::MinSe));
        if unread {
            return Err(Malformed);
        }
        let supported = [HeaderId::Supported, HeaderId::Require].iter().any(|id| request.list_has(*id, OPTION_TAG));
        Ok(RequestTimers { supported, session_expires, min_se })
    }
}

/// The UAS's decision on an INVITE or UPDATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UasDecision {
    /// 422 with this `Min-SE`.
    IntervalTooSmall {
        /// In seconds.
        min_se: u32,
    },
    /// Accept.
    Accept {
        /// Runs from the 2xx on.
        timer: SessionTimer,
        /// For the 2xx.
        header: SessionExpires,
        /// The 2xx gets `Require: timer` (the peer supports it).
        require: bool,
    },
}

/// The UAS rules (§9, Table 2). `current`: the running timer when this is a request in a dialog, so that the roles stay.
#[must_use]
pub fn uas(request: &RequestTimers, policy: &SessionTimerPolicy, current: Option<&SessionTimer>) -> UasDecision {
    let min_se = policy.min_se.max(ABSOLUTE_MIN_SE);
    // 422 is only for a peer that understands it; for others a proxy put the value there.
    if request.supported && request.session_expires.is_some_and(|asked| asked.seconds < min_se) {
        return UasDecision::IntervalTooSmall { min_se };
    }
    let floor = request.min_se.unwrap_or(0).max(min_se);
    let wanted = policy.session_expires.max(floor);
    let interval = match request.session_expires {
        // May be lowered to what we want, never under the floor, never raised, except from an illegal value.
        Some(asked) => asked.seconds.min(wanted).max(ABSOLUTE_MIN_SE),
        None => wanted,
    };
    let refresher = match (request.supported, request.session_expires.and_then(|asked| asked.refresher)) {
        (false, _) => Refresher::Uas,
        (true, Some(chosen)) => chosen,
        (true, None) => match current {
            Some(timer) if timer.we_refresh => Refresher::Uas,
            Some(_) => Refresher::Uac,
            None if policy.prefer_to_refresh => Refresher::Uas,
            None => Refresher::Uac,
        },
    };
    UasDecision::Accept {
        timer: SessionTimer { interval, we_refresh: refresher == Refresher::Uas },
        header: SessionExpires { seconds: interval, refresher: Some(refresher) },
        require: request.supported,
    }
}

/// The UAC's state over the tries of one INVITE or UPDATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UacTimer {
    /// For the request.
    pub header: SessionExpires,
    /// `Min-SE` for the request, in seconds.
    pub min_se: u32,
    tries: u8,
}

/// A peer that raises `Min-SE` more often than this gets no further try.
const MAX_422: u8 = 3;

/// Why a 422 is the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum No422Retry {
    /// No usable `Min-SE` in it, or one that is no larger than what was asked for.
    #[error("422 without a larger Min-SE")]
    NoMinSe,
    /// Three times already.
    #[error("422 too often")]
    TooOften,
}

impl UacTimer {
    /// What the first request of a dialog carries: no refresher, so that the peer chooses (§7.1).
    #[must_use]
    pub fn initial(policy: &SessionTimerPolicy) -> UacTimer {
        let min_se = policy.min_se.max(ABSOLUTE_MIN_SE);
        let refresher = policy.prefer_to_refresh.then_some(Refresher::Uac);
        let header = SessionExpires { seconds: policy.session_expires.max(min_se), refresher };
        UacTimer { header, min_se, tries: 0 }
    }

    /// What a request in a dialog carries: the agreed interval and roles (§7.4).
    #[must_use]
    pub fn refresh(timer: &SessionTimer, policy: &SessionTimerPolicy) -> UacTimer {
        let refresher = if timer.we_refresh { Refresher::Uac } else { Refresher::Uas };
        let min_se = policy.min_se.max(ABSOLUTE_MIN_SE).min(timer.interval);
        UacTimer { header: SessionExpires { seconds: timer.interval, refresher: Some(refresher) }, min_se, tries: 0 }
    }

    /// A 422 came: the values for the next try (§7.3).
    ///
    /// # Errors
    /// See [`No422Retry`].
    pub fn on_422(&self, min_se: Option<u32>) -> Result<UacTimer, No422Retry> {
        if self.tries >= MAX_422 {
            return Err(No422Retry::TooOften);
        }
        let min_se = min_se.filter(|min| *min > self.header.seconds).ok_or(No422Retry::NoMinSe)?;
        let header = SessionExpires { seconds: min_se, ..self.header };
        Ok(UacTimer { header, min_se: self.min_se.max(min_se), tries: self.tries + 1 })
    }

    /// A 2xx came, with this `Session-Expires`: the timer that runs from now on (§7.2). Without one the peer knows no
    /// session timers, and we refresh.
    #[must_use]
    pub fn on_success(&self, header: Option<SessionExpires>) -> SessionTimer {
        match header {
            Some(SessionExpires { seconds, refresher }) => SessionTimer {
                interval: seconds.max(ABSOLUTE_MIN_SE),
                // Without the parameter, which must be there, somebody has to do it.
                we_refresh: refresher != Some(Refresher::Uas),
            },
            None => SessionTimer { interval: self.header.seconds, we_refresh: true },
        }
    }
}

/// What a failed refresh means (§10; RFC 5057 §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterRefresh {
    /// The dialog is gone: send BYE now.
    Bye,
    /// Use [`UacTimer::on_422`] and try again.
    LargerInterval,
    /// Try again after a moment (491, or 500 or 503 with Retry-After), while time is left.
    TryLater,
    /// The other method, if the peer knows it: UPDATE was refused as such.
    OtherMethod,
    /// The session goes on until its BYE deadline.
    Keep,
}

/// Judges the final response to a refresh; a timeout counts as 408.
#[must_use]
pub fn after_failed_refresh(status: u16) -> AfterRefresh {
    match status {
        status if ends_dialog(status) => AfterRefresh::Bye,
        422 => AfterRefresh::LargerInterval,
        405 | 501 => AfterRefresh::OtherMethod,
        491 | 500 | 503 => AfterRefresh::TryLater,
        _ => AfterRefresh::Keep,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(seconds: u32, refresher: Option<Refresher>) -> RequestTimers {
        RequestTimers { supported: true, session_expires: Some(SessionExpires { seconds, refresher }), min_se: None }
    }

    fn accepted(decision: UasDecision) -> (SessionTimer, SessionExpires, bool) {
        match decision {
            UasDecision::Accept { timer, header, require } => (timer, header, require),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn header_values_round_trip() {
        let value = SessionExpires::parse(b"4000 ; Refresher = UAC;x=y").unwrap();
        assert_eq!(value, SessionExpires { seconds: 4000, refresher: Some(Refresher::Uac) });
        assert_eq!(value.to_string(), "4000;refresher=uac");
        for bad in [&b""[..], b"x", b"-1", b"99999999999", b"90;refresher=me", b"\xff"] {
            assert_eq!(SessionExpires::parse(bad), Err(Malformed));
        }
    }

    #[test]
    fn uas_refuses_small_intervals_only_to_peers_that_know_422() {
        let policy = SessionTimerPolicy { min_se: 120, ..SessionTimerPolicy::default() };
        assert_eq!(uas(&asked(100, None), &policy, None), UasDecision::IntervalTooSmall { min_se: 120 });
        let unaware = RequestTimers { supported: false, ..asked(100, None) };
        let (timer, header, require) = accepted(uas(&unaware, &policy, None));
        assert_eq!(timer, SessionTimer { interval: 100, we_refresh: true });
        assert_eq!((header.refresher, require), (Some(Refresher::Uas), false));
    }

    #[test]
    fn uas_inserts_1800_and_refreshes_for_a_peer_without_timer() {
        let (timer, header, require) = accepted(uas(&RequestTimers::default(), &SessionTimerPolicy::default(), None));
        assert_eq!(timer, SessionTimer { interval: 1800, we_refresh: true });
        assert_eq!(header.to_string(), "1800;refresher=uas");
        assert!(!require);
    }

    #[test]
    fn uas_follows_the_refresher_table() {
        let policy = SessionTimerPolicy::default();
        for (wish, we_refresh) in [(None, false), (Some(Refresher::Uac), false), (Some(Refresher::Uas), true)] {
            let (timer, _, require) = accepted(uas(&asked(600, wish), &policy, None));
            assert_eq!((timer.interval, timer.we_refresh, require), (600, we_refresh, true));
        }
        let running = SessionTimer { interval: 600, we_refresh: true };
        assert!(accepted(uas(&asked(600, None), &policy, Some(&running))).0.we_refresh);
    }

    #[test]
    fn uas_lowers_but_not_under_the_peers_min_se() {
        let policy = SessionTimerPolicy::default();
        assert_eq!(accepted(uas(&asked(7200, None), &policy, None)).0.interval, 1800);
        let request = RequestTimers { min_se: Some(3600), ..asked(7200, None) };
        assert_eq!(accepted(uas(&request, &policy, None)).0.interval, 3600);
        let request = RequestTimers { min_se: Some(3600), supported: true, session_expires: None };
        assert_eq!(accepted(uas(&request, &policy, None)).0.interval, 3600);
    }

    #[test]
    fn uac_raises_on_422_three_times_and_only_upward() {
        let mut uac = UacTimer::initial(&SessionTimerPolicy::default());
        assert_eq!((uac.header.to_string().as_str(), uac.min_se), ("1800", 90));
        assert_eq!(uac.on_422(Some(1800)), Err(No422Retry::NoMinSe));
        assert_eq!(uac.on_422(None), Err(No422Retry::NoMinSe));
        for min in [2000, 3000, 4000] {
            uac = uac.on_422(Some(min)).unwrap();
            assert_eq!((uac.header.seconds, uac.min_se), (min, min));
        }
        assert_eq!(uac.on_422(Some(5000)), Err(No422Retry::TooOften));
    }

    #[test]
    fn uac_takes_the_peers_roles_and_refreshes_when_it_has_none() {
        let uac = UacTimer::initial(&SessionTimerPolicy::default());
        let header = SessionExpires { seconds: 900, refresher: Some(Refresher::Uas) };
        assert_eq!(uac.on_success(Some(header)), SessionTimer { interval: 900, we_refresh: false });
        assert_eq!(uac.on_success(None), SessionTimer { interval: 1800, we_refresh: true });
        let refresh = UacTimer::refresh(&SessionTimer { interval: 900, we_refresh: false }, &Default::default());
        assert_eq!(refresh.header.to_string(), "900;refresher=uas");
    }

    #[test]
    fn deadlines_are_half_and_a_third_or_32_seconds_before_the_end() {
        let at = |timer: SessionTimer| timer.deadlines(UnixMillis(1_000));
        let long = at(SessionTimer { interval: 1800, we_refresh: true });
        assert_eq!(long.refresh, Some(UnixMillis(901_000)));
        assert_eq!(long.bye, UnixMillis(1_000 + 1_768_000));
        let short = at(SessionTimer { interval: 90, we_refresh: false });
        assert_eq!((short.refresh, short.bye), (None, UnixMillis(61_000)));
        assert_eq!(short.expiry, UnixMillis(91_000));
    }

    #[test]
    fn failed_refreshes() {
        assert_eq!(after_failed_refresh(481), AfterRefresh::Bye);
        assert_eq!(after_failed_refresh(408), AfterRefresh::Bye);
        assert_eq!(after_failed_refresh(422), AfterRefresh::LargerInterval);
        assert_eq!(after_failed_refresh(405), AfterRefresh::OtherMethod);
        assert_eq!(after_failed_refresh(491), AfterRefresh::TryLater);
        assert_eq!(after_failed_refresh(488), AfterRefresh::Keep);
    }
}
