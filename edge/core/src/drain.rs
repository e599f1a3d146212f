//! Drain (sip.md, section 15): no new work, then what is in flight ends, then the dialogs that are left are hung up.

use session_store::record::PodState;

use crate::config::DrainStrategy;
use crate::dialogs::HangUp;
use crate::effect::{Effect, LogLevel};
use crate::engine::Closing;
use crate::state::EdgeState;
use crate::timers::TimerKey;

/// How far the drain is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Drain {
    #[default]
    Off,
    /// Exchanges and transactions may end by themselves.
    InFlight,
    /// Dialogs may end by themselves.
    Dialogs,
    /// What is left was hung up.
    HungUp,
    Done,
}

impl Drain {
    pub fn is_on(self) -> bool {
        self != Drain::Off
    }
}

impl EdgeState {
    pub(crate) fn start_drain(&mut self) {
        if self.drain.is_on() {
            return;
        }
        self.drain = Drain::InFlight;
        self.log(
            LogLevel::Info,
            format!("draining: {} sessions, {} exchanges", self.dialogs.len(), self.engine.in_flight()),
        );
        let wait = self.config.edge.drain.in_flight_seconds * 1000;
        self.timers.arm(TimerKey::Drain, Some(self.now.mono.plus_millis(wait)));
    }

    pub(crate) fn drain_timeout(&mut self) {
        match self.drain {
            Drain::InFlight => {
                self.drain = Drain::Dialogs;
                let wait = self.config.edge.drain.dialog_seconds * 1000;
                self.timers.arm(TimerKey::Drain, Some(self.now.mono.plus_millis(wait)));
            }
            // Where others serve the same store the sessions go on there.
            Drain::Dialogs if self.strategy() != DrainStrategy::Terminate && self.has_successor() => self.hand_over(),
            Drain::Dialogs => self.hang_up_all(),
            // The BYEs had their time (Timer F); whoever did not answer is told by nobody any more.
            Drain::HungUp => self.drained(),
            Drain::Off | Drain::Done => {}
        }
    }

    fn strategy(&self) -> DrainStrategy {
        self.config.edge.drain.strategy
    }

    /// Another edge that lives and takes work.
    fn has_successor(&self) -> bool {
        let Some(membership) = &self.membership else { return false };
        let other = |pod: &PodState| pod.owner.pod != self.owner.pod && pod.lease_left_ms > 0 && !pod.draining;
        membership.pods.iter().any(other)
    }

    /// What is continuous goes to the others: the node gives the lease back once we say that we have drained.
    fn hand_over(&mut self) {
        let left: Vec<_> = self.dialogs.keys().copied().collect();
        self.log(LogLevel::Info, format!("handed over: {} sessions", left.len()));
        for dialog in left {
            self.timers.arm(TimerKey::Dialog(dialog), None);
        }
        self.dialogs.clear();
        self.foreign.clear();
        self.drained();
    }

    fn hang_up_all(&mut self) {
        self.drain = Drain::HungUp;
        let left: Vec<_> = self.dialogs.keys().copied().collect();
        let has_successor = self.has_successor();
        for dialog in left {
            if !self.owns(dialog) && has_successor {
                // It is with an edge that stays: only the copy goes.
                self.dialogs.remove(&dialog);
                self.foreign.remove(&dialog);
                self.timers.arm(TimerKey::Dialog(dialog), None);
                continue;
            }
            if !self.owns(dialog) {
                self.end_dialog(dialog, Closing::Local);
                continue;
            }
            let fence = self.own_fence();
            let reason = "SIP;cause=503;text=\"Draining\"";
            self.hang_up(HangUp { dialog, reason, closing: Closing::Local, fence });
        }
        self.timers.arm(TimerKey::Drain, Some(self.now.mono.plus_millis(32_000)));
    }

    /// After every input: is the next step of the drain reached already?
    pub(crate) fn check_drained(&mut self) {
        let quiet = self.engine.in_flight() == 0 && self.waiting_len() == 0 && self.clients.open() == 0;
        match self.drain {
            Drain::InFlight | Drain::Dialogs | Drain::HungUp
                if quiet && self.dialogs.is_empty() && self.opening == 0 =>
            {
                self.drained();
            }
            Drain::InFlight if quiet && self.strategy() == DrainStrategy::Handover && self.has_successor() => {
                self.hand_over();
            }
            Drain::InFlight if quiet => self.drain_timeout(),
            _ => {}
        }
    }

    fn drained(&mut self) {
        self.drain = Drain::Done;
        self.timers.arm(TimerKey::Drain, None);
        self.emit(Effect::Drained);
    }
}
