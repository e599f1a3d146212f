//! INVITE server transaction: RFC 3261 Figure 7 as changed by RFC 6026 Figure 5 (state Accepted).

use bytes::Bytes;

use crate::time::Mono;
use crate::timer::{Armed, TRYING_MS, Timer, TimerValues};

use super::{Action, Cause, Reliability, ToUser};

/// Where the machine stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// With the TU; `last` is the provisional response that answers a retransmitted INVITE.
    Proceeding {
        last: Option<Bytes>,
    },
    /// A 300–699 was sent and is repeated until its ACK comes. `interval` is Timer G's value in milliseconds.
    Completed {
        response: Bytes,
        interval: u64,
    },
    /// The ACK came; copies of it are absorbed.
    Confirmed,
    /// A 2xx was sent. The TU repeats it until its ACK comes; the machine absorbs INVITE copies (RFC 6026 §7.1).
    Accepted,
    Terminated,
}

/// An INVITE that we received, until its final response is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInvite {
    state: State,
    reliability: Reliability,
    values: TimerValues,
    timers: Armed,
}

impl ServerInvite {
    /// For an INVITE that matched no transaction. The caller hands the INVITE to the TU itself.
    #[must_use]
    pub fn new(now: Mono, reliability: Reliability, values: TimerValues) -> ServerInvite {
        let mut timers = Armed::default();
        timers.set(Timer::Trying, now.plus_millis(TRYING_MS));
        ServerInvite { state: State::Proceeding { last: None }, reliability, values, timers }
    }

    /// The INVITE came again.
    pub fn on_request(&mut self, _now: Mono, out: &mut Vec<Action>) {
        match &self.state {
            State::Proceeding { last: Some(bytes) } => out.push(Action::Send(bytes.clone())),
            State::Completed { response, .. } => out.push(Action::Send(response.clone())),
            State::Proceeding { last: None } | State::Confirmed | State::Accepted | State::Terminated => {}
        }
    }

    /// The TU answers. In Accepted a further 2xx is sent (the TU repeats it); everything after another final response
    /// is dropped.
    pub fn on_response(&mut self, now: Mono, status: u16, response: Bytes, out: &mut Vec<Action>) {
        match (&mut self.state, status) {
            (State::Proceeding { last }, 100..=199) => {
                self.timers.stop(Timer::Trying);
                *last = Some(response.clone());
                out.push(Action::Send(response));
            }
            (State::Proceeding { .. }, 200..=299) => {
                self.timers.clear();
                self.timers.set(Timer::L, now.plus_millis(self.values.life()));
                self.state = State::Accepted;
                out.push(Action::Send(response));
            }
            (State::Accepted, 200..=299) => out.push(Action::Send(response)),
            (State::Proceeding { .. }, 300..) => {
                self.timers.clear();
                if self.reliability == Reliability::Unreliable {
                    self.timers.set(Timer::G, now.plus_millis(self.values.t1));
                }
                self.timers.set(Timer::H, now.plus_millis(self.values.life()));
                out.push(Action::Send(response.clone()));
                self.state = State::Completed { response, interval: self.values.t1 };
            }
            _ => {}
        }
    }

    /// An ACK matched this transaction.
    pub fn on_ack(&mut self, now: Mono, out: &mut Vec<Action>) {
        match self.state {
            State::Completed { .. } => {
                self.timers.clear();
                match self.reliability {
                    Reliability::Unreliable => {
                        self.timers.set(Timer::I, now.plus_millis(self.values.t4));
                        self.state = State::Confirmed;
                    }
                    Reliability::Reliable => self.end(Cause::Normal, out),
                }
            }
            State::Accepted => out.push(Action::ToUser(ToUser::Ack)),
            State::Proceeding { .. } | State::Confirmed | State::Terminated => {}
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
            match (timer, &mut self.state) {
                (Timer::Trying, State::Proceeding { last: None }) => out.push(Action::ToUser(ToUser::TryingDue)),
                (Timer::G, State::Completed { response, interval }) => {
                    out.push(Action::Send(response.clone()));
                    *interval = interval.saturating_mul(2).min(self.values.t2);
                    let next = now.plus_millis(*interval);
                    self.timers.set(Timer::G, next);
                }
                (Timer::H, _) => self.end(Cause::Timeout, out),
                (Timer::I | Timer::L, _) => self.end(Cause::Normal, out),
                _ => {}
            }
        }
    }

    /// No final response was given yet: a CANCEL still has an effect.
    #[must_use]
    pub fn is_proceeding(&self) -> bool {
        matches!(self.state, State::Proceeding { .. })
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
