//! The dialogs of one INVITE that a proxy on the way may have forked (RFC 3261 §12.1.2, §13.2.2): early ones side by side,
//! told apart by To tag, and every one that gets a 2xx.

use super::{DialogState, Phase};
use crate::message::Message;

/// Dialogs that are kept for one INVITE.
pub const MAX_FORKS: usize = 8;

/// All dialogs of one INVITE that we sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forks {
    /// In the order of their first response.
    pub dialogs: Vec<DialogState>,
}

/// What a response to the INVITE meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForkEvent {
    /// A 100, or a provisional response that makes no dialog.
    Nothing,
    /// A new early dialog.
    Early(DialogState),
    /// A further provisional response of a known one.
    Progress(DialogState),
    /// A 2xx confirmed a dialog: send ACK. When it is not the first one, BYE follows unless both are wanted (§13.2.2.4).
    Confirmed {
        /// The dialog.
        dialog: DialogState,
        /// No other was confirmed before.
        first: bool,
    },
    /// A copy of a 2xx: send the same ACK again.
    Repeated(DialogState),
    /// 300–699: these early dialogs are over.
    Failed(Vec<DialogState>),
    /// More than [`MAX_FORKS`] dialogs: this provisional response is passed over.
    TooMany,
}

impl Forks {
    /// A response to `invite` came; `tls`: the INVITE went over TLS.
    pub fn on_response(&mut self, invite: &Message, response: &Message, tls: bool) -> ForkEvent {
        if response.status().is_some_and(|status| status >= 300) {
            return ForkEvent::Failed(self.end_early());
        }
        let Ok(new) = DialogState::uac(invite, response, tls) else { return ForkEvent::Nothing };
        let first = !self.dialogs.iter().any(|dialog| dialog.phase == Phase::Confirmed);
        if let Some(known) = self.dialogs.iter_mut().find(|dialog| dialog.remote_tag == new.remote_tag) {
            return match (known.phase, new.phase) {
                (Phase::Early, Phase::Confirmed) => {
                    // `new` has the routes of this very response, so they are sound.
                    let confirmed = known.confirm(response);
                    debug_assert!(confirmed.is_ok());
                    ForkEvent::Confirmed { dialog: known.clone(), first }
                }
                (_, Phase::Confirmed) => ForkEvent::Repeated(known.clone()),
                (Phase::Early, _) => ForkEvent::Progress(known.clone()),
                _ => ForkEvent::Nothing,
            };
        }
        if self.dialogs.len() >= MAX_FORKS {
            match (new.phase, self.dialogs.iter().position(|dialog| dialog.phase == Phase::Early)) {
                // A 2xx has to be acknowledged, so it takes the place of an early dialog.
                (Phase::Confirmed, Some(early)) => {
                    self.dialogs.remove(early);
                }
                // With eight confirmed the ninth is acknowledged and ended by the caller, and not kept.
                (Phase::Confirmed, None) => return ForkEvent::Confirmed { dialog: new, first: false },
                _ => return ForkEvent::TooMany,
            }
        }
        self.dialogs.push(new.clone());
        match new.phase {
            Phase::Confirmed => ForkEvent::Confirmed { dialog: new, first },
            _ => ForkEvent::Early(new),
        }
    }

    /// 64·T1 after the first 2xx, or after a failure: early dialogs are over (§13.2.2.4). Returns them, terminated.
    pub fn end_early(&mut self) -> Vec<DialogState> {
        let (early, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.dialogs).into_iter().partition(|dialog| dialog.phase == Phase::Early);
        self.dialogs = rest;
        early.into_iter().map(|dialog| DialogState { phase: Phase::Terminated, ..dialog }).collect()
    }
}
