//! The dialog of an INVITE that we received (RFC 3261 §12.1.1).

use super::{DialogError, DialogState, Phase, Role, contact_uri, is_sips, record_route};
use crate::message::Message;

impl DialogState {
    /// Made with our 101–199 (`Early`) or 2xx (`Confirmed`). `local_tag` is what the response carries; `tls`: the INVITE came
    /// over TLS. The response copies Record-Route and has a Contact of ours.
    ///
    /// # Errors
    /// No request, no usable Contact, or a broken Record-Route: 400.
    pub fn uas(invite: &Message, local_tag: &str, phase: Phase, tls: bool) -> Result<DialogState, DialogError> {
        let uri = invite.request_uri().ok_or(DialogError::WrongMessage)?;
        let cseq = invite.cseq().seq;
        Ok(DialogState {
            call_id: invite.call_id().to_owned(),
            local_tag: local_tag.to_owned(),
            remote_tag: invite.from_tag().unwrap_or_default().to_owned(),
            local_uri: invite.to().uri().to_owned(),
            remote_uri: invite.from().uri().to_owned(),
            remote_target: contact_uri(invite).ok_or(DialogError::Contact)?.to_owned(),
            route_set: record_route(invite)?,
            local_cseq: 0,
            remote_cseq: Some(cseq),
            invite_cseq: cseq,
            secure: tls && is_sips(uri),
            role: Role::Uas,
            phase,
        })
    }
}
