//! The dialog of an INVITE that we sent (RFC 3261 §12.1.2).

use super::{DialogError, DialogState, Phase, Role, contact_uri, is_sips, record_route};
use crate::message::Message;

impl DialogState {
    /// Made by a response to our INVITE: 101–199 with a To tag makes an early dialog, a 2xx a confirmed one. `tls`: the
    /// INVITE went over TLS.
    ///
    /// A 2xx must be acknowledged whatever is wrong with it, so a missing Contact is no error here: the target then
    /// is the Request-URI of the INVITE. So is a missing To tag in a 2xx (RFC 2543).
    ///
    /// # Errors
    /// Not an INVITE and its response, a 100 or a failure, an early response without a tag, a broken Record-Route.
    pub fn uac(invite: &Message, response: &Message, tls: bool) -> Result<DialogState, DialogError> {
        let uri = invite.request_uri().ok_or(DialogError::WrongMessage)?;
        let phase = match response.status() {
            Some(101..=199) => Phase::Early,
            Some(200..=299) => Phase::Confirmed,
            _ => return Err(DialogError::WrongMessage),
        };
        let remote_tag = match (response.to_tag(), phase) {
            (None, Phase::Early) => return Err(DialogError::NoTag),
            (tag, _) => tag.unwrap_or_default().to_owned(),
        };
        let cseq = invite.cseq().seq;
        let mut route_set = record_route(response)?;
        route_set.reverse();
        Ok(DialogState {
            call_id: invite.call_id().to_owned(),
            local_tag: invite.from_tag().unwrap_or_default().to_owned(),
            remote_tag,
            local_uri: invite.from().uri().to_owned(),
            remote_uri: invite.to().uri().to_owned(),
            remote_target: contact_uri(response).unwrap_or(uri).to_owned(),
            route_set,
            local_cseq: cseq,
            remote_cseq: None,
            invite_cseq: cseq,
            secure: tls && is_sips(uri),
            role: Role::Uac,
            phase,
        })
    }

    /// The 2xx for this early dialog: it is confirmed, its route set computed again (§13.2.2.4), its target moved.
    /// A copy of the 2xx changes nothing.
    ///
    /// # Errors
    /// A broken Record-Route; the dialog is confirmed with the routes that it had.
    pub fn confirm(&mut self, response: &Message) -> Result<(), DialogError> {
        if self.phase != Phase::Early {
            return Ok(());
        }
        self.phase = Phase::Confirmed;
        if let Some(uri) = contact_uri(response) {
            self.remote_target = uri.to_owned();
        }
        let mut route_set = record_route(response)?;
        route_set.reverse();
        self.route_set = route_set;
        Ok(())
    }
}
