//! Non-INVITE server transaction: RFC 3261 Figure 8 with RFC 4320: no provisional response but a 100, that one not before
//! the client's Timer E has reached T2 over UDP, no 408, and no answer at all once the client has given up.

use bytes::Bytes;

use crate::time::Mono;
use crate::timer::{Armed, Timer, TimerValues};

use super::{Action, Cause, Reliability, ToUser};

/// Where the machine stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// With the TU, nothing sent.
    Trying,
    /// With the TU, a 100 was sent.
    Proceeding {
        trying: Bytes,
    },
    /// The final response was sent; it answers every copy of the request.
    Completed {
        response: Bytes,
    },
    Terminated,
}

/// A request other than INVITE and ACK that we received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerNonInvite {
    state: State,
    reliability: Reliability,
    values: TimerValues,
    /// From when on a 100 may be sent over an unreliable transport.
    trying_from: Mono,
    timers: Armed,
}

impl ServerNonInvite {
    /// For a request that matched no transaction. The caller hands the request to the TU itself.
    #[must_use]
    pub fn new(now: Mono, reliability: Reliability, values: TimerValues) -> ServerNonInvite {
        let trying_from = now.plus_millis(values.late_trying());
        let mut timers = Armed::default();
        timers.set(Timer::Trying, trying_from);
        timers.set(Timer::Unanswered, now.plus_millis(values.life()));
        ServerNonInvite { state: State::Trying, reliability, values, trying_from, timers }
    }

    /// The request came again.
    pub fn on_request(&mut self, _now: Mono, out: &mut Vec<Action>) {
        match &self.state {
            State::Proceeding { trying: bytes } | State::Completed { response: bytes } => {
                out.push(Action::Send(bytes.clone()));
            }
            State::Trying | State::Terminated => {}
        }
    }

    /// The TU answers. Dropped: 101–199 and 408 always, 100 before its time over UDP, everything after a final response
    /// (RFC 4320 §4.1, §4.2). `false` when it was dropped.
    pub fn on_response(&mut self, now: Mono, status: u16, response: Bytes, out: &mut Vec<Action>) -> bool {
        if matches!(self.state, State::Completed { .. } | State::Terminated) {
            return false;
        }
        match status {
            100 if self.reliability == Reliability::Reliable || now >= self.trying_from => {
                self.timers.stop(Timer::Trying);
                out.push(Action::Send(response.clone()));
                self.state = State::Proceeding { trying: response };
                true
            }
            408 => false,
            200.. => {
                self.timers.clear();
                out.push(Action::Send(response.clone()));
                match self.reliability {
                    Reliability::Unreliable => {
                        self.timers.set(Timer::J, now.plus_millis(self.values.life()));
                        self.state = State::Completed { response };
                    }
                    Reliability::Reliable => self.end(Cause::Normal, out),
                }
                true
            }
            _ => false,
        }
    }

    /// The transport could not send; the state stays (RFC 6026 §8.7): a retransmission may find another way.
    pub fn on_transport_error(&mut self, _now: Mono, out: &mut Vec<Action>) {
        if !self.is_terminated() {
            out.push(Action::ToUser(ToUser::TransportError));
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
            match (timer, &self.state) {
                (Timer::Trying, State::Trying) => out.push(Action::ToUser(ToUser::TryingDue)),
                (Timer::Unanswered, _) => self.end(Cause::Timeout, out),
                (Timer::J, _) => self.end(Cause::Normal, out),
                _ => {}
            }
        }
    }

    /// Over: nothing will come from it any more.
    #[must_use]
    pub fn is_terminated(&self) -> bool {
        self.state == State::Terminated
    }

    fn end(&mut self, cause: Cause, out: &mut Vec<Action>) {
        self.state = State::Terminated;
        self.timers.clear();
        out.push(Action::Terminated(cause));
    }
}
