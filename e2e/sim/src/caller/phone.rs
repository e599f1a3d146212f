//! The called side of a call between two phones: rings, answers, declines, hangs up, and repeats its final response until the ACK
//! (RFC 3261 §13.3.1.4, §17.2.1). What it does is written in the Subject of the INVITE, so that the caller decides.

use std::collections::BTreeMap;

use bytes::Bytes;
use sip_proto::dialog::{DialogState, Phase};
use sip_proto::message::build::Response;
use sip_proto::message::{HeaderId, Message};

use crate::rng::Rng;

/// So long a phone rings before it gives up, and 64·T1.
const RINGS_MS: u64 = 20_000;
const LIFE_MS: u64 = 32_000;

/// What a caller wants to come of its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// They talk until the caller hangs up.
    Talk,
    /// The other one hangs up.
    HangUpThere,
    /// 486.
    Busy,
    /// It rings, and the caller thinks better of it.
    Cancel,
    /// The caller never acknowledges.
    NoAck,
}

impl Fate {
    pub fn of(rng: &mut Rng) -> Fate {
        match rng.below(100) {
            0..=39 => Fate::Talk,
            40..=54 => Fate::HangUpThere,
            55..=64 => Fate::Busy,
            65..=89 => Fate::Cancel,
            _ => Fate::NoAck,
        }
    }

    pub fn subject(self) -> &'static str {
        match self {
            Fate::Talk | Fate::NoAck => "answer",
            Fate::HangUpThere => "bye",
            Fate::Busy => "busy",
            Fate::Cancel => "ring",
        }
    }
}

/// A session description.
pub fn sdp(who: &str, version: u32) -> String {
    format!(
        "v=0\r\no={who} 1 {version} IN IP4 10.1.0.9\r\ns=-\r\nc=IN IP4 10.1.0.9\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
    )
}

/// Where a call stands here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Ringing,
    /// A final response waits for its ACK.
    Answered,
    Talking,
    Over,
}

/// One call that came in.
#[derive(Debug)]
struct Leg {
    invite: Message,
    tag: String,
    stage: Stage,
    /// The last response.
    said: Bytes,
    is_2xx: bool,
    /// When something is due: the answer, a copy of it, the BYE.
    next: u64,
    interval: u64,
    ends: u64,
    dialog: Option<DialogState>,
}

/// The calls of one phone.
#[derive(Debug, Default)]
pub struct Phone {
    legs: BTreeMap<String, Leg>,
}

impl Phone {
    pub fn poll_timeout(&self) -> Option<u64> {
        self.legs.values().filter(|leg| leg.stage != Stage::Over && leg.next < u64::MAX).map(|leg| leg.next).min()
    }

    /// Whether this phone has, or had, that call.
    pub fn has(&self, call_id: &str) -> bool {
        self.legs.contains_key(call_id)
    }

    pub fn is_over(&self, call_id: &str) -> bool {
        self.legs.get(call_id).is_some_and(|leg| leg.stage == Stage::Over)
    }

    /// An INVITE out of a dialog, or a copy of it: what is said at once.
    pub fn on_invite(&mut self, now: u64, invite: &Message, contact: &str, rng: &mut Rng) -> Bytes {
        if let Some(leg) = self.legs.get(invite.call_id()) {
            let same = leg.invite.top_via().branch() == invite.top_via().branch();
            // By another way (RFC 3261 §8.2.2.2).
            return if same {
                leg.said.clone()
            } else {
                Response::to_request(invite, 482, None).to_tag(&leg.tag).build()
            };
        }
        let tag = rng.token(10);
        let mut ringing = Response::to_request(invite, if rng.chance(400) { 183 } else { 180 }, None)
            .to_tag(&tag)
            .copy(HeaderId::RecordRoute)
            .header(HeaderId::Contact, format!("<{contact}>"));
        if rng.chance(500) {
            // An early dialog.
            ringing = ringing.body("application/sdp", sdp("phone", 1));
        }
        let said = ringing.build();
        let subject = invite.header_str(HeaderId::Subject).unwrap_or("answer");
        let rings = if subject == "ring" { RINGS_MS } else { rng.range(50, 4_000) };
        let leg = Leg {
            invite: invite.clone(),
            tag,
            stage: Stage::Ringing,
            said: said.clone(),
            is_2xx: false,
            next: now + rings,
            interval: 500,
            ends: u64::MAX,
            dialog: None,
        };
        self.legs.insert(invite.call_id().to_owned(), leg);
        said
    }

    /// 487, where it still rings.
    pub fn on_cancel(&mut self, now: u64, call_id: &str) -> Option<Bytes> {
        let leg = self.legs.get_mut(call_id).filter(|leg| leg.stage == Stage::Ringing)?;
        Some(leg.answer(now, 487, ""))
    }

    pub fn on_ack(&mut self, now: u64, call_id: &str, rng: &mut Rng) {
        let Some(leg) = self.legs.get_mut(call_id).filter(|leg| leg.stage == Stage::Answered) else { return };
        if !leg.is_2xx {
            leg.stage = Stage::Over;
            return;
        }
        leg.stage = Stage::Talking;
        let hangs_up = leg.invite.header_str(HeaderId::Subject) == Some("bye");
        leg.next = if hangs_up { now + rng.range(200, 5_000) } else { u64::MAX };
    }

    /// The other side ended it. `true`: it was not over here.
    pub fn on_bye(&mut self, call_id: &str) -> bool {
        let Some(leg) = self.legs.get_mut(call_id).filter(|leg| leg.stage != Stage::Over) else { return false };
        leg.stage = Stage::Over;
        true
    }

    /// What is due: responses to send, and the BYEs of dialogs (`via` for each).
    pub fn on_timeout(&mut self, now: u64, contact: &str, via: impl Fn(&str) -> String, rng: &mut Rng) -> Due {
        let mut due = Due::default();
        for leg in self.legs.values_mut().filter(|leg| leg.stage != Stage::Over && leg.next <= now) {
            match leg.stage {
                Stage::Ringing => {
                    let status = match leg.invite.header_str(HeaderId::Subject) {
                        Some("busy") => 486,
                        Some("ring") => 480,
                        _ => 200,
                    };
                    due.responses.push(leg.answer(now, status, contact));
                }
                Stage::Answered if leg.ends <= now && leg.is_2xx => due.byes.extend(leg.bye(&via, rng)),
                Stage::Answered if leg.ends <= now => leg.stage = Stage::Over,
                Stage::Answered => {
                    due.responses.push(leg.said.clone());
                    leg.interval = (leg.interval * 2).min(4_000);
                    leg.next = (now + leg.interval).min(leg.ends);
                }
                Stage::Talking => due.byes.extend(leg.bye(&via, rng)),
                Stage::Over => {}
            }
        }
        due
    }
}

/// What [`Phone::on_timeout`] wants sent.
#[derive(Debug, Default)]
pub struct Due {
    pub responses: Vec<Bytes>,
    /// Branch and BYE.
    pub byes: Vec<(String, Bytes)>,
}

impl Leg {
    /// The final response, repeated until its ACK.
    fn answer(&mut self, now: u64, status: u16, contact: &str) -> Bytes {
        self.is_2xx = status < 300;
        let mut response = Response::to_request(&self.invite, status, None).to_tag(&self.tag);
        if self.is_2xx {
            response = response
                .copy(HeaderId::RecordRoute)
                .header(HeaderId::Contact, format!("<{contact}>"))
                .header(HeaderId::Allow, "INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE");
            if let Some(expires) = self.invite.header_str(HeaderId::SessionExpires) {
                let seconds = expires.split(';').next().unwrap_or_default().trim();
                response = response
                    .header(HeaderId::SessionExpires, format!("{seconds};refresher=uac"))
                    .header(HeaderId::Require, "timer");
            }
            response = response.body("application/sdp", sdp("phone", 1));
            self.dialog = DialogState::uas(&self.invite, &self.tag, Phase::Confirmed, false).ok();
        }
        self.said = response.build();
        self.stage = Stage::Answered;
        self.interval = 500;
        self.next = now + self.interval;
        self.ends = now + LIFE_MS;
        self.said.clone()
    }

    fn bye(&mut self, via: impl Fn(&str) -> String, rng: &mut Rng) -> Option<(String, Bytes)> {
        self.stage = Stage::Over;
        let branch = format!("z9hG4bK{}", rng.token(16));
        let bye = self.dialog.as_mut()?.in_dialog_request("BYE", &via(&branch))?;
        Some((branch, bye.build()))
    }
}
