//! The client side: which challenge to answer, and the credentials (RFC 3261 §22.2, §22.3; RFC 8760 §2.4).

use std::fmt::Write as _;

use super::{Algorithm, DigestRequest, Qop, a1, is_digest, raw, response};
use crate::header::Challenge;
use crate::header::params::quote;

/// Who we are, and to whom we say it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ClientUser<'a> {
    /// The username.
    pub username: &'a str,
    /// The only realm that is answered: a challenge of any other gets nothing, not even a hash.
    pub realm: &'a str,
    /// The secret.
    pub secret: ClientSecret<'a>,
    /// Answer MD5 when nothing better is offered.
    pub allow_md5: bool,
}

/// What we know.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ClientSecret<'a> {
    /// Fits every algorithm.
    Password(&'a str),
    /// H(A1) in hex, for one algorithm only.
    Ha1(Algorithm, &'a str),
}

impl std::fmt::Debug for ClientUser<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClientUser {{ username: {:?}, realm: {:?} }}", self.username, self.realm)
    }
}

/// Credentials to send, and what to remember for the next request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Value of `Authorization` (after 401) or `Proxy-Authorization` (after 407).
    pub value: String,
    /// The nonce: as long as it is used, `nc` rises by one with every request.
    pub nonce: String,
    /// The challenge said `stale=true`: the last answer was right but old. A second challenge without it means that
    /// the secret is wrong, so do not try again.
    pub stale: bool,
    /// With what.
    pub algorithm: Algorithm,
}

/// Why nothing is answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// No digest challenge at all.
    #[error("no digest challenge")]
    NoDigest,
    /// Only for other realms; the first one is named.
    #[error("challenged for realm {0:?}, which is not the configured one")]
    ForeignRealm(String),
    /// Our realm, but no algorithm and qop that we may use.
    #[error("no challenge with an algorithm that is allowed")]
    Unsupported,
}

/// The header fields of a status: (where the challenge is, where the credentials go). `None` unless 401 or 407.
#[must_use]
pub fn header_names(status: u16) -> Option<(&'static str, &'static str)> {
    match status {
        401 => Some(("WWW-Authenticate", "Authorization")),
        407 => Some(("Proxy-Authenticate", "Proxy-Authorization")),
        _ => None,
    }
}

struct Chosen<'a> {
    challenge: Challenge<'a>,
    nonce: &'a str,
    algorithm: Algorithm,
    qop: Option<Qop>,
}

/// Answers the strongest challenge that may be answered. `challenges` are the values of all `WWW-Authenticate` (or
/// `Proxy-Authenticate`) header fields, one challenge each. `nc` counts from 1 per nonce; `cnonce` is random text made of token characters.
///
/// # Errors
/// See [`NoAnswer`]. Nothing derived from the secret is in it.
pub fn answer<'a>(
    challenges: impl IntoIterator<Item = &'a [u8]>,
    request: &DigestRequest<'_>,
    user: &ClientUser<'_>,
    nc: u32,
    cnonce: &str,
) -> Result<Answer, NoAnswer> {
    let mut refusal = NoAnswer::NoDigest;
    let mut best: Option<Chosen<'a>> = None;
    for value in challenges {
        let Ok(challenge) = Challenge::parse(value) else { continue };
        if !is_digest(challenge.scheme()) {
            continue;
        }
        let realm = challenge.text("realm").unwrap_or_default();
        if realm != user.realm {
            if refusal == NoAnswer::NoDigest {
                refusal = NoAnswer::ForeignRealm(realm.chars().take(256).collect());
            }
            continue;
        }
        refusal = NoAnswer::Unsupported;
        // Among equals the first one counts (RFC 8760 §2.4).
        if let Some(new) = usable(challenge, user)
            && best.as_ref().is_none_or(|old| new.algorithm > old.algorithm)
        {
            best = Some(new);
        }
    }
    best.map(|chosen| write(&chosen, request, user, nc, cnonce)).ok_or(refusal)
}

fn usable<'a>(challenge: Challenge<'a>, user: &ClientUser<'_>) -> Option<Chosen<'a>> {
    let param = |name: &str| challenge.get(name).map(raw);
    let algorithm = param("algorithm").map_or(Some(Algorithm::Md5), Algorithm::parse)?;
    if algorithm == Algorithm::Md5 && !user.allow_md5 {
        return None;
    }
    if matches!(user.secret, ClientSecret::Ha1(known, _) if known != algorithm) {
        return None;
    }
    let qop = match param("qop") {
        None => None,
        Some(list) => {
            let offered: Vec<Qop> = list.split(',').filter_map(|text| Qop::parse(text.trim())).collect();
            Some(offered.iter().find(|qop| **qop == Qop::Auth).or(offered.first()).copied()?)
        }
    };
    let nonce = param("nonce")?;
    Some(Chosen { challenge, nonce, algorithm, qop })
}

fn write(chosen: &Chosen<'_>, request: &DigestRequest<'_>, user: &ClientUser<'_>, nc: u32, cnonce: &str) -> Answer {
    let Chosen { challenge, nonce, algorithm, qop } = chosen;
    let ha1 = match user.secret {
        ClientSecret::Password(password) => a1(*algorithm, user.username, user.realm, password),
        ClientSecret::Ha1(_, hex) => hex.to_ascii_lowercase(),
    };
    let cnonce: String = cnonce.chars().filter(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\')).collect();
    let nc_text = format!("{nc:08x}");
    let proof = response(*algorithm, &ha1, nonce, &nc_text, &cnonce, *qop, request.method, request.uri, request.body);

    let mut value = String::with_capacity(384);
    // The nonce and opaque go back as they came, escapes included.
    let _ = write!(
        value,
        "Digest username={}, realm={}, nonce=\"{nonce}\", uri={}",
        quote(user.username),
        quote(user.realm),
        quote(request.uri)
    );
    let _ = write!(value, ", response=\"{proof}\", algorithm={}", algorithm.as_str());
    if let Some(qop) = qop {
        let _ = write!(value, ", cnonce=\"{cnonce}\", nc={nc_text}, qop={}", qop.as_str());
    }
    if let Some(opaque) = challenge.get("opaque").map(raw) {
        let _ = write!(value, ", opaque=\"{opaque}\"");
    }
    Answer {
        value,
        nonce: (*nonce).to_owned(),
        stale: challenge.get("stale").map(raw).is_some_and(|text| text.eq_ignore_ascii_case("true")),
        algorithm: *algorithm,
    }
}
