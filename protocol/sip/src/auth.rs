//! HTTP digest for SIP: RFC 3261 §22 with the algorithms of RFC 8760 and the syntax of RFC 7616.
//!
//! Server: stateless. The nonce carries its own proof (a keyed hash over key id, time, tenant, realm and random bytes), so
//! every edge verifies what another one issued. The count `nc` is returned for the store's check; nothing is kept here.
//! Client: answers only the configured realm, so that a false challenger learns nothing.
//!
//! Secrets are H(A1) in hex, one per algorithm and realm, never passwords (the client may also hold a password).

pub mod algorithm;
pub mod client;
pub mod nonce;
pub mod server;

pub use algorithm::{Algorithm, a1};
pub use client::{Answer, ClientSecret, ClientUser, NoAnswer, answer, header_names};
pub use nonce::{NONCE_RANDOM, NonceKey, NonceKeys};
pub use server::{BadCredentials, DigestCredentials, DigestServer, NONCE_LIFETIME_MS, Verdict, Verified};

use crate::header::AuthParam;

/// Quality of protection (RFC 7616 §3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Qop {
    /// Method and URI are protected.
    Auth,
    /// The body too.
    AuthInt,
}

impl Qop {
    /// The value on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Qop::Auth => "auth",
            Qop::AuthInt => "auth-int",
        }
    }

    fn parse(text: &str) -> Option<Qop> {
        [Qop::Auth, Qop::AuthInt].into_iter().find(|qop| qop.as_str().eq_ignore_ascii_case(text))
    }
}

/// What of a request goes into the digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DigestRequest<'a> {
    /// The method.
    pub method: &'a str,
    /// The Request-URI.
    pub uri: &'a str,
    /// The body; only `auth-int` looks at it.
    pub body: &'a [u8],
}

/// `response` of RFC 7616 §3.4.1 in lower-case hex. `uri` is the one in the credentials.
#[allow(clippy::too_many_arguments, reason = "the formula has these inputs")]
pub(crate) fn response(
    algorithm: Algorithm,
    ha1: &str,
    nonce: &str,
    nc: &str,
    cnonce: &str,
    qop: Option<Qop>,
    method: &str,
    uri: &str,
    body: &[u8],
) -> String {
    let ha2 = match qop {
        Some(Qop::AuthInt) => {
            let body = algorithm.hex(&[body]);
            algorithm.hex(&[method.as_bytes(), b":", uri.as_bytes(), b":", body.as_bytes()])
        }
        Some(Qop::Auth) | None => algorithm.hex(&[method.as_bytes(), b":", uri.as_bytes()]),
    };
    match qop {
        Some(qop) => algorithm.hex(&[
            ha1.as_bytes(),
            b":",
            nonce.as_bytes(),
            b":",
            nc.as_bytes(),
            b":",
            cnonce.as_bytes(),
            b":",
            qop.as_str().as_bytes(),
            b":",
            ha2.as_bytes(),
        ]),
        // RFC 2069 form: only as a client of a server that offers no qop.
        None => algorithm.hex(&[ha1.as_bytes(), b":", nonce.as_bytes(), b":", ha2.as_bytes()]),
    }
}

/// The value without quotes, escapes as they came: what goes into the hash.
pub(crate) fn raw<'a>(param: AuthParam<'a>) -> &'a str {
    let value = param.value;
    value.strip_prefix('"').and_then(|inner| inner.strip_suffix('"')).unwrap_or(value)
}

pub(crate) fn is_digest(scheme: &str) -> bool {
    scheme.eq_ignore_ascii_case("Digest")
}

/// Compares without leaving early, so that the time says nothing about where two values differ.
pub(crate) fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let difference = a.iter().zip(b).fold(0u8, |acc, (x, y)| std::hint::black_box(acc | (x ^ y)));
    std::hint::black_box(difference) == 0
}
