//! INVITE client transaction: RFC 3261 Figure 5 as changed by RFC 6026 Figure 3 (state Accepted).

use bytes::Bytes;

use crate::time::Mono;
use crate::timer::{Armed, Timer, TimerValues};

use super::{Action, Cause, Reliability, ToUser};

/// Where the machine stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Sent, nothing heard. `interval` is Timer A's present value in milliseconds.
    Calling {
        invite: Bytes,
        interval: u64,
    },
    /// A provisional response came.
    Proceeding,
    /// A 300–699 came; `ack` is repeated for every copy of it.
    Completed {
        ack: Bytes,
    },
    /// A 2xx came; further 2xx go to the TU, which sends the ACK (RFC 6026 §7.2).
    Accepted,
    Terminated,
}

/// The cancel that the TU asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cancel {
    No,
    /// Asked for before a provisional response was there.
    Wanted,
    /// The TU was told to send it.
    Told,
}

/// An INVITE that we sent, until its final response is dealt with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInvite {
    state: State,
    cancel: Cancel,
    reliability: Reliability,
    values: TimerValues,
    timers: Armed,
}

impl ClientInvite {
    /// Sends `invite` and starts Timers A and B.
    pub fn new(
        now: Mono,
        invite: Bytes,
        reliability: Reliability,
        values: TimerValues,
        out: &mut Vec<Action>,
    ) -> ClientInvite {
        let mut timers = Armed::default();
        if reliability == Reliability::Unreliable {
            timers.set(Timer::A, now.plus_millis(values.t1));
        }
        timers.set(Timer::B, now.plus_millis(values.life()));
        out.push(Action::Send(invite.clone()));
        let state = State::Calling { invite, interval: values.t1 };
        ClientInvite { state, cancel: Cancel::No, reliability, values, timers }
    }

    /// A response with our branch and CSeq method INVITE came. `ack` builds the ACK for a 300–699
    /// ([`crate::dialog::ack_failure`]); it is called at most once in the life of the transaction.
    pub fn on_response(&mut self, now: Mono, status: u16, ack: impl FnOnce() -> Bytes, out: &mut Vec<Action>) {
        match (&self.state, status) {
            (State::Calling { .. } | State::Proceeding, 100..=199) => {
                if matches!(self.state, State::Calling { .. }) {
                    self.state = State::Proceeding;
                    self.timers.clear();
                }
                out.push(Action::ToUser(ToUser::Response(status)));
                if self.cancel == Cancel::Wanted {
                    self.cancel_now(now, out);
                }
            }
            (State::Calling { .. } | State::Proceeding, 200..=299) => {
                self.state = State::Accepted;
                self.timers.clear();
                self.timers.set(Timer::M, now.plus_millis(self.values.life()));
                out.push(Action::ToUser(ToUser::Response(status)));
            }
            (State::Accepted, 200..=299) => out.push(Action::ToUser(ToUser::Response(status))),
            (State::Calling { .. } | State::Proceeding, 300..) => {
                let ack = ack();
                out.push(Action::Send(ack.clone()));
                out.push(Action::ToUser(ToUser::Response(status)));
                self.timers.clear();
                match self.reliability {
                    Reliability::Unreliable => {
                        self.timers.set(Timer::D, now.plus_millis(self.values.d()));
                        self.state = State::Completed { ack };
                    }
                    Reliability::Reliable => self.end(Cause::Normal, out),
                }
            }
            (State::Completed { ack }, 300..) => out.push(Action::Send(ack.clone())),
            // A late provisional, a failure after a 2xx, anything after the end: absorbed.
            _ => {}
        }
    }

    /// The TU wants to cancel. It is told [`ToUser::CancelNow`] at once when a provisional response was seen, else as
    /// soon as one is; never when a final response comes first. The CANCEL is a transaction of its own.
    pub fn cancel(&mut self, now: Mono, out: &mut Vec<Action>) {
        if self.cancel != Cancel::No {
            return;
        }
        match self.state {
            State::Calling { .. } => self.cancel = Cancel::Wanted,
            State::Proceeding => self.cancel_now(now, out),
            State::Completed { .. } | State::Accepted | State::Terminated => {}
        }
    }

    /// The transport could not send, or the connection is gone. In Proceeding the user is only told: the server may bring
    /// the final response on a connection of its own (RFC 3261 §18.2.2), and only the user knows how long to wait.
    pub fn on_transport_error(&mut self, _now: Mono, out: &mut Vec<Action>) {
        match self.state {
            State::Calling { .. } | State::Completed { .. } => {
                out.push(Action::ToUser(ToUser::TransportError));
                self.end(Cause::TransportError, out);
            }
            State::Proceeding => out.push(Action::ToUser(ToUser::TransportError)),
            // Nothing of ours is on its way in these states.
            State::Accepted | State::Terminated => {}
        }
    }

    /// The next deadline.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Mono> {
        self.timers.next().map(|(at, _)| at)
    }

    /// Fires every timer that is due.
    pub fn handle_timeout(&mut self, now: Mono, out: &mut Vec<Action>) {
        while let Some(timer) = self.timers.take_due(now) {
            match (timer, &mut self.state) {
                (Timer::A, State::Calling { invite, interval }) => {
                    out.push(Action::Send(invite.clone()));
                    // Timer A doubles without a cap; Timer B ends it (RFC 3261 §17.1.1.2).
                    *interval = interval.saturating_mul(2);
                    let next = now.plus_millis(*interval);
                    self.timers.set(Timer::A, next);
                }
                (Timer::B | Timer::Cancelled, _) => self.end(Cause::Timeout, out),
                (Timer::D | Timer::M, _) => self.end(Cause::Normal, out),
                _ => {}
            }
        }
    }

    /// A provisional response was seen and no final one.
    #[must_use]
    pub fn is_proceeding(&self) -> bool {
        self.state == State::Proceeding
    }

    /// Over: nothing will come from it any more.
    #[must_use]
    pub fn is_terminated(&self) -> bool {
        self.state == State::Terminated
    }

    fn cancel_now(&mut self, now: Mono, out: &mut Vec<Action>) {
        self.cancel = Cancel::Told;
        self.timers.set(Timer::Cancelled, now.plus_millis(self.values.life()));
        out.push(Action::ToUser(ToUser::CancelNow));
    }

    fn end(&mut self, cause: Cause, out: &mut Vec<Action>) {
        self.state = State::Terminated;
        self.timers.clear();
        out.push(Action::Terminated(cause));
    }
}
