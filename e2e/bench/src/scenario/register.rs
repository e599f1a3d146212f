//! REGISTER with the draft's Contact parameters: refreshes of many users, each with one request open at a time. A challenge is answered
//! once per nonce; after that the nonce count rises, as a phone does it.

use std::collections::VecDeque;
use std::net::SocketAddr;

use sip_proto::auth::DigestRequest;
use sip_proto::auth::client::{ClientSecret, ClientUser, answer};
use sip_proto::message::{HeaderId, Message};

use crate::load::{Next, Work};

/// Every user's.
pub const PASSWORD: &str = "wonderland";

/// Refreshes.
pub struct Registers {
    realm: String,
    from: SocketAddr,
    salt: u64,
    expires: u32,
    /// Each user once, then no more.
    is_once: bool,
    users: Vec<User>,
    free: VecDeque<usize>,
}

#[derive(Clone, Default)]
struct User {
    cseq: u32,
    challenge: Vec<u8>,
    count: u32,
}

/// One refresh.
pub struct Unit {
    id: u64,
    user: usize,
    /// Challenges answered in this unit.
    answered: u8,
}

impl Registers {
    pub fn new(users: usize, realm: &str, from: SocketAddr) -> Registers {
        Registers {
            realm: realm.to_owned(),
            from,
            salt: std::process::id().into(),
            expires: 3_600,
            is_once: false,
            users: vec![User::default(); users],
            free: (0..users).collect(),
        }
    }

    /// Each user once.
    pub fn once(self) -> Registers {
        Registers { is_once: true, ..self }
    }

    /// Registrations are taken back.
    pub fn leaving(self) -> Registers {
        Registers { expires: 0, ..self }
    }

    fn done_with(&mut self, unit: &Unit) {
        if !self.is_once {
            self.free.push_back(unit.user);
        }
    }

    fn refresh(&mut self, unit: &Unit) -> Vec<u8> {
        let Registers { realm, from, salt, expires, .. } = self;
        let user = &mut self.users[unit.user];
        user.cseq += 1;
        let (id, cseq, name) = (unit.id, user.cseq, unit.user);
        let uri = format!("sip:{realm}");
        let mut credentials = String::new();
        if !user.challenge.is_empty() {
            user.count += 1;
            let client = ClientUser {
                username: &format!("u{name}"),
                realm,
                secret: ClientSecret::Password(PASSWORD),
                allow_md5: false,
            };
            let request = DigestRequest { method: "REGISTER", uri: &uri, body: b"" };
            let cnonce = format!("{:x}", id ^ *salt);
            match answer([user.challenge.as_slice()], &request, &client, user.count, &cnonce) {
                Ok(given) => credentials = format!("Authorization: {}\r\n", given.value),
                Err(error) => eprintln!("bench: the challenge cannot be answered: {error}"),
            }
        }
        format!(
            "REGISTER {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bK{id:x}.{salt:x}.{cseq};rport\r\nMax-Forwards: 70\r\n\
             From: <sip:u{name}@{realm}>;tag=r{id:x}\r\nTo: <sip:u{name}@{realm}>\r\nCall-ID: {id}.{salt:x}@bench\r\n\
             CSeq: {cseq} REGISTER\r\nContact: <sip:u{name}@{from}>;+mcp;+mcp.ver=\"1.0\";\
             +mcp.cap=\"summarize@1,translate@2\"\r\n{credentials}Expires: {expires}\r\nContent-Length: 0\r\n\r\n"
        )
        .into_bytes()
    }
}

impl Work for Registers {
    type Unit = Unit;

    fn start(&mut self, id: u64) -> Option<(Unit, Vec<u8>)> {
        let user = match self.free.pop_front() {
            Some(user) => user,
            None if self.is_once => return None,
            // More units than users: one has two requests open, which the registrar sorts by CSeq.
            None => usize::try_from(id).unwrap_or(0) % self.users.len(),
        };
        let unit = Unit { id, user, answered: 0 };
        let request = self.refresh(&unit);
        Some((unit, request))
    }

    fn answer(&mut self, unit: &mut Unit, message: &Message) -> Next {
        match message.status().unwrap_or(0) {
            100..=199 => Next::Nothing,
            200..=299 => {
                self.done_with(unit);
                Next::Done
            }
            401 if unit.answered < 2 => {
                unit.answered += 1;
                let user = &mut self.users[unit.user];
                user.challenge = message.header(HeaderId::WwwAuthenticate).unwrap_or_default().to_vec();
                user.count = 0;
                Next::Request(self.refresh(unit))
            }
            status => {
                self.done_with(unit);
                Next::Failed(status)
            }
        }
    }

    fn request(&mut self, _: &Message) -> (Option<Vec<u8>>, Option<u64>) {
        (None, None)
    }

    fn told(&mut self, _: &mut Unit, _: &Message) -> Next {
        Next::Nothing
    }
}
