//! Where a request of ours goes when no flow of the peer is left: its URI, by RFC 3263. The questions are effects; a look-up ends with its
//! answers, and there is a bound on how many run at once.

use std::collections::BTreeMap;

use session_store::key::DialogKey;
use session_store::record::DialogRecord;
use sip_proto::resolve::{
    Families, Naptr, Question, Records, Resolution, ResolveConfig, Srv, Transport as Carried, Wanted,
};
use sip_proto::uri::{Host, Uri};

use crate::b2bua::acks::AckOut;
use crate::b2bua::legs::CancelOf;
use crate::b2bua::relay::Relay;
use crate::b2bua::relayed::Refusal;
use crate::dialogs::{HangUp, dialog_state};
use crate::effect::{DnsAnswer, DnsQuestion, Effect};
use crate::engine::{Delivery, DeliveryOutcome};
use crate::input::{QueryId, Transport};
use crate::refresh::Refresh;
use crate::state::EdgeState;
use crate::transactions::Target;

/// Look-ups of one core at once.
const MAX_LOOKUPS: usize = 1024;

/// What goes on when the target is known.
#[derive(Debug)]
pub(crate) enum Located {
    /// A MESSAGE to a registered contact.
    Page {
        delivery: Box<Delivery>,
        uri: String,
    },
    InDialog {
        delivery: Box<Delivery>,
        cseq: u32,
        record: Box<DialogRecord>,
    },
    HangUp {
        hang_up: HangUp,
        cseq: u32,
        record: Box<DialogRecord>,
    },
    /// A 2xx that another edge left without its ACK.
    Accept(DialogKey),
    Refresh {
        refresh: Box<Refresh>,
        cseq: u32,
        record: Box<DialogRecord>,
    },
    /// The INVITE of a leg.
    Leg {
        call: u64,
        index: usize,
    },
    /// A request out of a dialog that is passed on.
    Paged(u64),
    /// The CANCEL of a leg that another edge opened.
    Cancel(Box<CancelOf>),
    /// A request between two legs, an ACK, an error of ours.
    Relay(Box<Relay>),
    Ack(Box<AckOut>),
    Refusal {
        refusal: Box<Refusal>,
        cseq: u32,
        record: Box<DialogRecord>,
    },
}

impl Located {
    /// The peer has another contact now: the Request-URI follows it.
    pub fn retarget(&mut self, uri: &str) {
        let record = match self {
            Located::InDialog { record, .. }
            | Located::HangUp { record, .. }
            | Located::Refresh { record, .. }
            | Located::Refusal { record, .. } => record,
            Located::Ack(out) => &mut out.record,
            Located::Relay(relay) => match relay.peer_record_mut() {
                Some(record) => return uri.clone_into(&mut record.remote_target),
                None => return,
            },
            Located::Page { .. }
            | Located::Paged(_)
            | Located::Accept(_)
            | Located::Leg { .. }
            | Located::Cancel(_) => return,
        };
        uri.clone_into(&mut record.remote_target);
    }
}

/// One look-up.
#[derive(Debug)]
struct LookUp {
    resolution: Resolution,
    listener: u16,
    then: Located,
}

/// The look-ups that run.
#[derive(Debug, Default)]
pub(crate) struct LookUps {
    running: BTreeMap<u64, LookUp>,
    asked: BTreeMap<QueryId, (u64, Question)>,
}

impl LookUps {
    pub fn len(&self) -> usize {
        self.running.len()
    }
}

fn carried(transport: Transport) -> Carried {
    match transport {
        Transport::Udp => Carried::Udp,
        Transport::Tcp => Carried::Tcp,
        Transport::Tls => Carried::Tls,
        Transport::Ws => Carried::Ws,
        Transport::Wss => Carried::Wss,
    }
}

fn transport(carried: Carried) -> Transport {
    match carried {
        Carried::Udp => Transport::Udp,
        Carried::Tcp => Transport::Tcp,
        Carried::Tls => Transport::Tls,
        Carried::Ws => Transport::Ws,
        Carried::Wss => Transport::Wss,
    }
}

fn records(answer: DnsAnswer) -> Records {
    match answer {
        DnsAnswer::Naptr(all) => Records::Naptr(
            all.into_iter()
                .map(|n| Naptr {
                    order: n.order,
                    preference: n.preference,
                    flags: n.flags,
                    service: n.service,
                    regexp: String::new(),
                    replacement: n.replacement,
                })
                .collect(),
        ),
        DnsAnswer::Srv(all) => Records::Srv(
            all.into_iter()
                .map(|s| Srv { priority: s.priority, weight: s.weight, port: s.port, target: s.target })
                .collect(),
        ),
        DnsAnswer::Address(all) => Records::Addresses(all),
        DnsAnswer::Failed => Records::Failed,
    }
}

/// The shell's questions have names without the final dot.
fn question(question: &Question) -> DnsQuestion {
    let bare = |name: &String| name.trim_end_matches('.').to_owned();
    match question {
        Question::Naptr(name) => DnsQuestion::Naptr(bare(name)),
        Question::Srv(name) => DnsQuestion::Srv(bare(name)),
        Question::Addresses(name) => DnsQuestion::Address(bare(name)),
    }
}

impl EdgeState {
    /// Finds where requests in this dialog go, then goes on.
    pub(crate) fn reach_dialog(&mut self, dialog: DialogKey, record: &DialogRecord, mut then: Located) {
        if let Some(contact) = self.contact_of(record) {
            then.retarget(&contact);
        }
        if let Some(target) = self.flow_of_dialog(record, dialog) {
            return self.located(then, Some(target));
        }
        let listener = self.dialogs.get(&dialog).map_or(0, |local| local.flow.listener);
        let next_hop = dialog_state(record).next_hop().to_owned();
        if let Err(then) = self.reach_registered(record, &next_hop, listener, then) {
            self.locate(&next_hop, listener, then);
        }
    }

    /// Finds where a URI is, then goes on.
    pub(crate) fn locate(&mut self, uri: &str, listener: u16, then: Located) {
        let Some(uri) = Uri::parse(uri).ok().and_then(|uri| uri.sip()) else { return self.located(then, None) };
        if matches!(uri.host(), Host::V4(_) | Host::V6(_)) {
            let target = self.uri_target(&uri, listener);
            return self.located(then, target);
        }
        let Ok(wanted) = Wanted::from_uri(&uri) else { return self.located(then, None) };
        if self.lookups.len() >= MAX_LOOKUPS {
            self.stats.limit("lookups");
            return self.located(then, None);
        }
        // WebSocket clients are reached on their own connection only (RFC 7118 §5.3).
        let ours = |t: &Transport| self.config.listeners.iter().any(|l| l.transport == *t);
        let transports =
            [Transport::Tls, Transport::Tcp, Transport::Udp].into_iter().filter(ours).map(carried).collect();
        let config = ResolveConfig { transports, families: Families::default() };
        let resolution = Resolution::new(wanted, config, self.random.u64());
        let id = self.ids.number();
        self.lookups.running.insert(id, LookUp { resolution, listener, then });
        self.ask(id);
    }

    /// Asks what is open and was not asked, or ends the look-up.
    fn ask(&mut self, id: u64) {
        let Some(lookup) = self.lookups.running.get(&id) else { return };
        if let Some(outcome) = lookup.resolution.outcome() {
            let found = outcome.ok().and_then(|targets| targets.first().cloned());
            let Some(lookup) = self.lookups.running.remove(&id) else { return };
            let target = found.and_then(|target| {
                let transport = transport(target.transport);
                let listener = self.listener_for(transport, lookup.listener)?;
                let server_name = Some(target.domain);
                Some(Target::Address { transport, listener, remote: target.address, server_name })
            });
            return self.located(lookup.then, target);
        }
        let known = |question: &Question| self.lookups.asked.values().any(|(by, q)| *by == id && q == question);
        let new: Vec<Question> = lookup.resolution.questions().iter().filter(|q| !known(q)).cloned().collect();
        for open in new {
            let query = self.ids.query();
            let text = question(&open);
            self.lookups.asked.insert(query, (id, open));
            self.emit(Effect::Resolve { query, question: text });
        }
    }

    pub(crate) fn on_resolved(&mut self, query: QueryId, answer: DnsAnswer) {
        let Some((id, question)) = self.lookups.asked.remove(&query) else {
            return self.stats.drop_one("answer to no question");
        };
        if let Some(lookup) = self.lookups.running.get_mut(&id) {
            lookup.resolution.on_records(&question, records(answer));
            self.ask(id);
        }
    }

    pub(crate) fn located(&mut self, then: Located, target: Option<Target>) {
        match (then, target) {
            (Located::Page { delivery, uri }, Some(target)) => self.page_at(*delivery, &uri, target),
            (Located::InDialog { delivery, cseq, record }, Some(target)) => {
                self.send_in_dialog(*delivery, cseq, &record, target);
            }
            (Located::InDialog { delivery, .. }, None) => self.delivered(&delivery, DeliveryOutcome::FlowLost),
            (Located::Page { delivery, .. }, None) => {
                self.delivered(&delivery, DeliveryOutcome::Unreachable);
            }
            (Located::Accept(dialog), target) => self.accept_at(dialog, target),
            (Located::HangUp { hang_up, cseq, record }, target) => self.send_bye(hang_up, cseq, &record, target),
            (Located::Refresh { refresh, cseq, record }, target) => self.send_refresh(*refresh, cseq, record, target),
            (Located::Leg { call, index }, target) => self.leg_at(call, index, target),
            (Located::Paged(page), target) => self.page_at_contact(page, target),
            (Located::Cancel(cancel), target) => self.cancel_at(*cancel, target),
            (Located::Relay(relay), target) => self.send_relay(*relay, target),
            (Located::Ack(out), target) => self.send_ack(&out, target),
            (Located::Refusal { refusal, cseq, record }, target) => self.send_refusal(*refusal, cseq, &record, target),
        }
    }
}
