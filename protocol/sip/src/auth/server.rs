//! The server side: challenges and the check of credentials (RFC 3261 §22.1, §22.4; RFC 7616 §3.4; RFC 8760 §2.3).

use std::borrow::Cow;

use super::nonce::{NONCE_RANDOM, NonceKeys, NonceState};
use super::{Algorithm, DigestRequest, Qop, is_digest, raw, response, same_bytes};
use crate::header::params::quote;
use crate::header::{AuthParam, Credentials};
use crate::time::UnixMillis;

/// How long a nonce is good: 5 minutes, in milliseconds.
pub const NONCE_LIFETIME_MS: u64 = 5 * 60 * 1000;

/// Digest for one realm of one tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestServer {
    /// The tenant's number; part of the nonce's proof.
    pub tenant: u16,
    /// The SIP domain.
    pub realm: String,
    /// Strongest first, each once.
    algorithms: Vec<Algorithm>,
    /// Offer `auth-int` beside `auth`. It is accepted in any case.
    pub offer_auth_int: bool,
    /// In milliseconds.
    pub nonce_lifetime_ms: u64,
}

/// Credentials for our realm as they were presented; nothing of them is proved yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestCredentials<'a> {
    /// Escapes resolved: the name to look H(A1) up by.
    pub username: Cow<'a, str>,
    /// Which H(A1) to look up.
    pub algorithm: Algorithm,
    /// The digest-uri, verbatim.
    pub uri: &'a str,
    /// Verbatim.
    pub nonce: &'a str,
    /// The count.
    pub nc: u32,
    nc_text: &'a str,
    cnonce: &'a str,
    qop: Qop,
    response: &'a str,
}

/// Why credentials are no good. The answer on the wire is the same challenge in every case; this is for counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCredentials {
    /// Cannot be read, or a required parameter is missing or ill-formed. RFC 7616 §3.4 allows 400.
    #[error("malformed credentials")]
    Malformed,
    /// An algorithm that was not offered.
    #[error("algorithm not offered")]
    Algorithm,
    /// No quality of protection, or an unknown one: without it there is no nonce count.
    #[error("qop not offered")]
    Qop,
    /// Unknown user, wrong secret: nobody is told which.
    #[error("wrong credentials")]
    Wrong,
}

/// Proof that a request comes from `username`. The count is still to be checked by the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Who.
    pub username: String,
    /// The nonce that was used: the count is per (user, nonce).
    pub nonce: String,
    /// Must be above the highest one seen, or equal in a retransmission (same Call-ID and CSeq).
    pub nc: u32,
    /// With what.
    pub algorithm: Algorithm,
    /// Did the credentials name the Request-URI? An intermediary may have changed it on the way (RFC 3261 §22.4).
    pub names_request_uri: bool,
}

/// The outcome of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Right, with a fresh nonce of ours.
    Verified(Verified),
    /// The secret is right, the nonce too old or of a key that is gone: challenge again with `stale=true`.
    Stale,
    /// Challenge again.
    Bad(BadCredentials),
}

impl DigestServer {
    /// A realm with the algorithms that it offers, in any order. Empty means SHA-256 and SHA-512-256.
    #[must_use]
    pub fn new(tenant: u16, realm: &str, algorithms: &[Algorithm]) -> DigestServer {
        let allowed = if algorithms.is_empty() { &[Algorithm::Sha512_256, Algorithm::Sha256] } else { algorithms };
        DigestServer {
            tenant,
            realm: realm.to_owned(),
            algorithms: Algorithm::ALL.into_iter().filter(|algorithm| allowed.contains(algorithm)).collect(),
            offer_auth_int: false,
            nonce_lifetime_ms: NONCE_LIFETIME_MS,
        }
    }

    /// The algorithms, strongest first.
    #[must_use]
    pub fn algorithms(&self) -> &[Algorithm] {
        &self.algorithms
    }

    /// One value for a `WWW-Authenticate` or `Proxy-Authenticate` header field each, strongest first (RFC 8760 §2.3).
    #[must_use]
    pub fn challenge(
        &self,
        keys: &NonceKeys,
        now: UnixMillis,
        random: &[u8; NONCE_RANDOM],
        stale: bool,
    ) -> Vec<String> {
        let nonce = keys.make(self.tenant, &self.realm, now, random);
        let qop = if self.offer_auth_int { "auth,auth-int" } else { "auth" };
        let one = |algorithm: &Algorithm| {
            let mut value = format!(
                "Digest realm={}, nonce=\"{nonce}\", algorithm={}, qop=\"{qop}\"",
                quote(&self.realm),
                algorithm.as_str()
            );
            if stale {
                value.push_str(", stale=true");
            }
            value
        };
        self.algorithms.iter().map(one).collect()
    }

    /// Finds the credentials for this realm among the values of all `Authorization` (or `Proxy-Authorization`) header
    /// fields. `None`: there are none, challenge. Those of other realms and schemes are not ours to judge.
    ///
    /// # Errors
    /// When the ones for this realm cannot be used.
    pub fn credentials<'a>(
        &self,
        values: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Option<DigestCredentials<'a>>, BadCredentials> {
        let mut unreadable = false;
        for value in values {
            match Credentials::parse(value) {
                Ok(found)
                    if is_digest(found.scheme()) && found.text("realm").is_some_and(|realm| realm == self.realm) =>
                {
                    return self.read(&found).map(Some);
                }
                Ok(_) => {}
                Err(_) => unreadable = true,
            }
        }
        if unreadable { Err(BadCredentials::Malformed) } else { Ok(None) }
    }

    fn read<'a>(&self, found: &Credentials<'a>) -> Result<DigestCredentials<'a>, BadCredentials> {
        const MISSING: BadCredentials = BadCredentials::Malformed;
        let param = |name: &str| found.get(name).map(raw);
        let algorithm = match param("algorithm") {
            None => Some(Algorithm::Md5),
            Some(text) => Algorithm::parse(text),
        };
        let algorithm = algorithm.filter(|known| self.algorithms.contains(known)).ok_or(BadCredentials::Algorithm)?;
        let qop = param("qop").and_then(Qop::parse).ok_or(BadCredentials::Qop)?;
        if param("userhash").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
            return Err(MISSING);
        }
        let nc_text = param("nc").ok_or(MISSING)?;
        let nc_fits = nc_text.len() == 8 && nc_text.bytes().all(|b| b.is_ascii_hexdigit());
        let nc = u32::from_str_radix(nc_text, 16).ok().filter(|nc| nc_fits && *nc > 0).ok_or(MISSING)?;
        let response = param("response").ok_or(MISSING)?;
        if response.len() != algorithm.hex_len() {
            return Err(MISSING);
        }
        Ok(DigestCredentials {
            username: found.get("username").map(|name: AuthParam<'a>| name.text()).ok_or(MISSING)?,
            algorithm,
            uri: param("uri").ok_or(MISSING)?,
            nonce: param("nonce").ok_or(MISSING)?,
            nc,
            nc_text,
            cnonce: param("cnonce").ok_or(MISSING)?,
            qop,
            response,
        })
    }

    /// Checks `credentials` against the caller's H(A1) (hex, for the credentials' algorithm; `None` = no such user). An
    /// unknown user costs the same hashes as a wrong secret.
    #[must_use]
    pub fn verify(
        &self,
        credentials: &DigestCredentials<'_>,
        request: &DigestRequest<'_>,
        ha1: Option<&str>,
        keys: &NonceKeys,
        now: UnixMillis,
    ) -> Verdict {
        let c = credentials;
        let nobody = &NOBODY[..c.algorithm.hex_len()];
        let known = ha1.filter(|hex| hex.len() == c.algorithm.hex_len());
        let ha1 = known.unwrap_or(nobody).to_ascii_lowercase();
        let expected =
            response(c.algorithm, &ha1, c.nonce, c.nc_text, c.cnonce, Some(c.qop), request.method, c.uri, request.body);
        let right = same_bytes(expected.as_bytes(), c.response.to_ascii_lowercase().as_bytes());
        let nonce = keys.judge(c.nonce, self.tenant, &self.realm, now, self.nonce_lifetime_ms);
        match (right & known.is_some(), nonce) {
            (true, NonceState::Fresh) => Verdict::Verified(Verified {
                username: c.username.clone().into_owned(),
                nonce: c.nonce.to_owned(),
                nc: c.nc,
                algorithm: c.algorithm,
                names_request_uri: c.uri == request.uri,
            }),
            (true, NonceState::Stale | NonceState::Foreign) => Verdict::Stale,
            (false, _) => Verdict::Bad(BadCredentials::Wrong),
        }
    }
}

/// Stands in for the H(A1) of a user who does not exist.
const NOBODY: &str = "0000000000000000000000000000000000000000000000000000000000000000";
