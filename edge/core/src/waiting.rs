//! What goes on when a store operation is answered.

use session_store::key::DialogKey;
use session_store::op::{StoreError, StoreReply};
use session_store::record::{DialogRecord, McpRecord};

use crate::answer::Answer;
use crate::b2bua::Step;
use crate::call::Call;
use crate::call::cancel::Cancel;
use crate::dialogs::HangUp;
use crate::engine::{Delivery, Held, Ticket, Written};
use crate::gate::Caller;
use crate::in_dialog::InDialog;
use crate::outage::Late;
use crate::page::Page;
use crate::refresh::Refresh;
use crate::registrations::Registration;
use crate::request::Request;
use crate::state::EdgeState;

/// One continuation.
#[derive(Debug)]
pub(crate) enum Waiting {
    /// Nobody waits: what was written is for others to read.
    Nobody,
    /// An answer that only waits for its nonce count.
    Nonce {
        request: Box<Request>,
        caller: Box<Caller>,
        answer: Box<Answer>,
    },
    Page(Box<Page>),
    /// A page that was refused while the store was away.
    Missed(Box<Page>),
    Register(Box<Registration>),
    /// INVITE: the guard.
    OpenCall(Box<Call>),
    /// INVITE: the record and the 2xx.
    AnswerCall(Box<Call>),
    Cancel(Box<Cancel>),
    /// ACK of a dialog that this edge does not have.
    Ack(Box<Request>, DialogKey),
    Confirm(DialogKey),
    /// A copy of somebody else's dialog is looked at again.
    LookAgain(DialogKey),
    /// After the store lost its content.
    Restore(DialogKey),
    Rewrite(Held),
    /// What was done without the store.
    Replay(Box<Late>),
    /// A JSON-RPC message that came in the body of an INVITE.
    Native(Ticket),
    /// In a dialog: the record, because this edge does not have it.
    ReadDialog(Box<InDialog>),
    Begin(Box<InDialog>),
    /// It was judged by an old copy; the store has the dialog in this version.
    JudgedAgain {
        pending: Box<InDialog>,
        version: u64,
        record: Box<DialogRecord>,
    },
    Commit(Box<InDialog>),
    Terminate(Box<InDialog>),
    /// A tombstone.
    Bury(DialogKey),
    /// A dialog whose making had no answer.
    AnswerUndone(DialogKey),
    DeliveryClose(Box<Delivery>),
    DeliveryBindings(Box<Delivery>),
    DeliveryCseq(Box<Delivery>),
    /// A BYE of ours.
    HangUp(HangUp),
    Refresh(Box<Refresh>),
    /// A record that we changed by a refresh of ours.
    Refreshed(Box<Refresh>),
    /// Between two legs.
    Bridge(Box<Step>),
    /// The description in an ACK that was passed on.
    BridgeAnswer {
        dialog: DialogKey,
        sdp: bytes::Bytes,
        id: u64,
        version: u64,
        tries: u8,
    },
    /// What an ACK agreed on.
    LateAnswer {
        dialog: DialogKey,
        mcp: Option<McpRecord>,
        tries: u8,
    },
}

impl EdgeState {
    pub(crate) fn resume(&mut self, waiting: Waiting, reply: Result<StoreReply, StoreError>) {
        match waiting {
            Waiting::Nobody => {}
            Waiting::Nonce { request, caller, answer } => self.nonce_counted(&request, &caller, &answer, &reply),
            Waiting::Page(page) => self.page_written(*page, reply),
            Waiting::Missed(page) => self.missed_looked_up(*page, reply),
            Waiting::Register(registration) => self.registered(*registration, reply),
            Waiting::OpenCall(call) => self.call_opened(*call, reply),
            Waiting::AnswerCall(call) => self.call_answered(*call, reply),
            Waiting::Cancel(cancel) => self.cancel_written(*cancel, reply),
            Waiting::Ack(request, dialog) => self.ack_read(&request, dialog, reply),
            Waiting::Confirm(dialog) => self.confirmed(dialog, reply),
            Waiting::LookAgain(dialog) => self.looked_again(dialog, reply),
            Waiting::Restore(dialog) => self.restored(dialog, reply),
            Waiting::Rewrite(held) => self.rewritten(held, reply),
            Waiting::Replay(late) => self.replayed(*late, &reply),
            Waiting::Native(ticket) => {
                let outcome = reply.map(|reply| match reply {
                    StoreReply::Exchange(outcome) => Written::Exchange(outcome),
                    StoreReply::First(first) => Written::First(first),
                    _ => Written::Claimed,
                });
                // The INVITE is answered; what the engine has to say comes as a delivery.
                self.with_engine(|engine, ctx| engine.written_late(ctx, ticket, outcome));
            }
            Waiting::ReadDialog(request) => self.dialog_read(*request, reply),
            Waiting::Begin(request) => self.begun(*request, reply),
            Waiting::JudgedAgain { pending, version, record } => {
                let written = reply.map(|reply| match reply {
                    StoreReply::Exchange(outcome) => Written::Exchange(outcome),
                    _ => Written::Claimed,
                });
                self.begun_with(*pending, version, record, written);
            }
            Waiting::Commit(request) => self.committed(*request, reply),
            Waiting::Terminate(request) => self.terminated(&request, reply),
            Waiting::Bury(dialog) => self.buried(dialog, &reply),
            Waiting::AnswerUndone(dialog) => self.answer_undone(dialog, &reply),
            Waiting::DeliveryClose(delivery) => self.delivery_closed(*delivery, reply),
            Waiting::DeliveryBindings(delivery) => self.delivery_bindings(*delivery, reply),
            Waiting::DeliveryCseq(delivery) => self.delivery_cseq(*delivery, reply),
            Waiting::HangUp(hang_up) => self.hang_up_written(hang_up, reply),
            Waiting::Refresh(refresh) => self.refresh_cseq(*refresh, reply),
            Waiting::Refreshed(refresh) => self.refresh_written(*refresh, reply),
            Waiting::Bridge(step) => self.bridge_resume(*step, reply),
            Waiting::BridgeAnswer { dialog, sdp, id, version, tries } => {
                self.ack_noted(dialog, (sdp, id, version), tries, reply);
            }
            Waiting::LateAnswer { dialog, mcp, tries } => self.late_answer_read(dialog, mcp, tries, reply),
        }
    }

    fn nonce_counted(
        &mut self,
        request: &Request,
        caller: &Caller,
        answer: &Answer,
        reply: &Result<StoreReply, StoreError>,
    ) {
        let answer = match reply {
            Ok(StoreReply::NonceReplayed) => {
                self.stats.failed_authentications += 1;
                self.challenge(&caller.domain, true)
            }
            Ok(_) => {
                self.authenticated(request, caller);
                answer.clone()
            }
            Err(_) => self.unavailable("Store Unavailable"),
        };
        self.answer(request, &answer);
    }
}
