//! Digest as the gate uses it (RFC 3261 §22, RFC 8760; security.md, section 5): stateless nonces, a count that the store takes once, in
//! whatever order requests arrive, a realm per domain.

use session_store::key::NonceKey as StoredNonce;
use session_store::op::NonceUse;
use sip_proto::auth::{Algorithm, DigestRequest, DigestServer, NONCE_RANDOM, NonceKey, NonceKeys, Verdict};
use sip_proto::message::HeaderId;
use sip_proto::uri::Uri;

use crate::answer::Answer;
use crate::config::{DigestConfig, DomainConfig, TokenKey};
use crate::engine::Principal;
use crate::random::keyed_hash;
use crate::request::Request;
use crate::state::EdgeState;

/// A nonce that was used is remembered so long: its lifetime, and the same again for a clock that differs.
const REMEMBERED_MS: u64 = 2 * 5 * 60 * 1000;

fn server(tenant: u16, digest: &DigestConfig) -> DigestServer {
    let algorithms: Vec<Algorithm> = digest.algorithms.iter().filter_map(|name| Algorithm::parse(name)).collect();
    DigestServer::new(tenant, &digest.realm, &algorithms)
}

fn keys(keys: &[TokenKey]) -> NonceKeys {
    let one = |key: &TokenKey| NonceKey { kid: key.kid, secret: key.mac.to_vec() };
    let Some(current) = keys.first() else {
        unreachable!("a configuration without token keys is refused before it gets here")
    };
    NonceKeys { current: one(current), other: keys.get(1).map(one) }
}

impl EdgeState {
    /// One `WWW-Authenticate` value per algorithm, strongest first; none where the domain has no digest.
    pub(crate) fn challenges(&mut self, domain: &DomainConfig, stale: bool) -> Vec<String> {
        let Some(digest) = &domain.digest else { return Vec::new() };
        let random: [u8; NONCE_RANDOM] = self.random.bytes();
        server(domain.tenant, digest).challenge(&keys(&self.config.token_keys), self.now.wall, &random, stale)
    }

    /// The user whose digest this is, and the count of its nonce. `Ok(None)`: no credentials for this realm.
    pub(crate) fn digest(
        &mut self,
        request: &Request,
        domain: &DomainConfig,
    ) -> Result<Option<(Principal, NonceUse)>, Answer> {
        let Some(digest) = &domain.digest else { return Ok(None) };
        let server = server(domain.tenant, digest);
        let message = &request.message;
        let credentials = match server.credentials(message.headers(HeaderId::Authorization)) {
            Ok(Some(credentials)) => credentials,
            Ok(None) => return Ok(None),
            Err(_) => return Err(self.wrong_credentials(request, domain)),
        };
        let uri = message.request_uri().unwrap_or_default();
        let body = message.body();
        let asked = DigestRequest { method: request.method(), uri, body: &body };
        let ha1 = digest
            .users
            .get(credentials.username.as_ref())
            .and_then(|by_algorithm| by_algorithm.get(credentials.algorithm.as_str()))
            .map(|hex| hex.as_str());
        let named_uri = credentials.uri.to_owned();
        match server.verify(&credentials, &asked, ha1, &keys(&self.config.token_keys), self.now.wall) {
            Verdict::Verified(verified) => {
                // The URI in the credentials protects against a replay to another address; a proxy may have rewritten its spelling.
                if !verified.names_request_uri && !same_uri(&named_uri, uri) {
                    return Err(Answer::new(400).phrase("Digest URI Is Not The Request-URI"));
                }
                let naming = self.naming_key();
                let cseq = message.cseq().seq.to_be_bytes();
                let nonce = NonceUse {
                    key: StoredNonce {
                        tenant: domain.tenant,
                        hash: keyed_hash(naming, "nonce", &[verified.username.as_bytes(), verified.nonce.as_bytes()]),
                    },
                    count: verified.nc,
                    request: keyed_hash(naming, "nonce request", &[message.call_id().as_bytes(), &cseq]),
                    ttl_ms: REMEMBERED_MS,
                };
                // A user is of the domain, whatever text the realm has.
                let aor = format!("sip:{}@{}", verified.username, domain.domain);
                match Uri::parse(&aor).ok().and_then(|uri| uri.sip()).map(|uri| uri.aor()) {
                    Some(aor) => Ok(Some((Principal::User(aor), nonce))),
                    None => Err(self.wrong_credentials(request, domain)),
                }
            }
            Verdict::Stale => Err(self.challenge(domain, true)),
            Verdict::Bad(_) => Err(self.wrong_credentials(request, domain)),
        }
    }

    fn wrong_credentials(&mut self, request: &Request, domain: &DomainConfig) -> Answer {
        self.stats.failed_authentications += 1;
        self.refused_to_register(request, domain);
        self.challenge(domain, false)
    }

    /// The key of all keyed hashes that name something in the store: it never changes.
    pub(crate) fn naming_key(&self) -> &[u8] {
        &*self.config.naming_key
    }

    /// The key of what is not stored: stateless tags.
    pub(crate) fn mac_key(&self) -> &[u8] {
        match self.config.token_keys.first() {
            Some(key) => &key.mac[..],
            None => unreachable!("a configuration without token keys is refused before it gets here"),
        }
    }
}

fn same_uri(a: &str, b: &str) -> bool {
    match (Uri::parse(a).ok().and_then(|u| u.sip()), Uri::parse(b).ok().and_then(|u| u.sip())) {
        (Some(a), Some(b)) => a.equivalent(&b),
        _ => false,
    }
}
