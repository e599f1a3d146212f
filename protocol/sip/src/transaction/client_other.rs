//! Non-INVITE client transaction: RFC 3261 Figure 6, with RFC 4321 in mind: Timer F is the end, whatever came before it.

use bytes::Bytes;

use crate::time::Mono;
use crate::timer::{Armed, Timer, TimerValues};

use super::{Action, Cause, Reliability, ToUser};

/// Where the machine stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Sent, nothing heard. `interval` is Timer E's present value in milliseconds.
    Trying {
        request: Bytes,
        interval: u64,
    },
    /// A provisional response came; Timer E goes on at T2.
    Proceeding {
        request: Bytes,
    },
    /// A final response came; copies of it are absorbed.
    Completed,
    Terminated,
}

/// A request other than INVITE and ACK that we sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientNonInvite {
    state: State,
    reliability: Reliability,
    values: TimerValues,
    timers: Armed,
}

impl ClientNonInvite {
    /// Sends `request` and starts Timers E and F.
    pub fn new(
        now: Mono,
        request: Bytes,
        reliability: Reliability,
        values: TimerValues,
        out: &mut Vec<Action>,
    ) -> ClientNonInvite {
        let mut timers = Armed::default();
        if reliability == Reliability::Unreliable {
            timers.set(Timer::E, now.plus_millis(values.t1));
        }
        timers.set(Timer::F, now.plus_millis(values.life()));
        out.push(Action::Send(request.clone()));
        let state = State::Trying { request, interval: values.t1 };
        ClientNonInvite { state, reliability, values, timers }
    }

    /// A response with our branch and method came.
    pub fn on_response(&mut self, now: Mono, status: u16, out: &mut Vec<Action>) {
        match (&self.state, status) {
            (State::Trying { request, .. }, 100..=199) => {
                self.state = State::Proceeding { request: request.clone() };
                // Timer E runs on and starts the T2 rhythm with its next copy (RFC 3261 §17.1.2.2).
                out.push(Action::ToUser(ToUser::Response(status)));
            }
            (State::Proceeding { .. }, 100..=199) => out.push(Action::ToUser(ToUser::Response(status))),
            (State::Trying { .. } | State::Proceeding { .. }, 200..) => {
                out.push(Action::ToUser(ToUser::Response(status)));
                self.timers.clear();
                match self.reliability {
                    Reliability::Unreliable => {
                        self.timers.set(Timer::K, now.plus_millis(self.values.t4));
                        self.state = State::Completed;
                    }
                    Reliability::Reliable => self.end(Cause::Normal, out),
                }
            }
            _ => {}
        }
    }

    /// The transport could not send.
    pub fn on_transport_error(&mut self, _now: Mono, out: &mut Vec<Action>) {
        if matches!(self.state, State::Trying { .. } | State::Proceeding { .. }) {
            out.push(Action::ToUser(ToUser::TransportError));
            self.end(Cause::TransportError, out);
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
                (Timer::E, State::Trying { request, interval }) => {
                    out.push(Action::Send(request.clone()));
                    *interval = interval.saturating_mul(2).min(self.values.t2);
                    let next = now.plus_millis(*interval);
                    self.timers.set(Timer::E, next);
                }
                (Timer::E, State::Proceeding { request }) => {
                    out.push(Action::Send(request.clone()));
                    self.timers.set(Timer::E, now.plus_millis(self.values.t2));
                }
                (Timer::F, _) => self.end(Cause::Timeout, out),
                (Timer::K, _) => self.end(Cause::Normal, out),
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
