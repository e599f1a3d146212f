//! Conversations (`functions/conversations.lua`).

use session_store::key::{ConversationKey, DialogKey};
use session_store::op::TOMBSTONE_MS;

use super::{Call, Encoder};
use crate::names;

impl Encoder<'_> {
    /// Which legs a conversation may have.
    pub fn legs(&self, conversation: &ConversationKey) -> Call {
        self.tagged("legs", self.keys().conversation(conversation))
    }

    fn of_leg(&self, function: &'static str, leg: &DialogKey, conversation: &ConversationKey) -> Call {
        let call = self.call(function, self.keys().dialog(leg), leg.slot);
        call.text(names::dialog(leg)).text(names::name(conversation.tenant, &conversation.hash))
    }

    pub fn export_leg(&self, leg: &DialogKey, conversation: &ConversationKey) -> Call {
        self.of_leg("export_leg", leg, conversation)
    }

    pub fn erase_leg(&self, leg: &DialogKey, conversation: &ConversationKey) -> Call {
        self.of_leg("erase_leg", leg, conversation).ttl(TOMBSTONE_MS)
    }

    pub fn unlist_legs(&self, conversation: &ConversationKey, legs: &[DialogKey]) -> Call {
        let call = self.tagged("unlist_legs", self.keys().conversation(conversation));
        legs.iter().fold(call, |call, leg| call.text(names::leg(leg)))
    }
}
