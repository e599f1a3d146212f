//! Who this process is among the edges of its fleet.

use sha2::{Digest, Sha256};

/// The longest edge id.
const MAX_ID: usize = 253;
/// How a certificate names an edge where a dNSName cannot.
const URN: &str = "urn:sipmcp:edge:";
/// How a certificate of an operator names the SipEdge, `namespace/name`.
const FLEET: &str = "urn:sipmcp:sipedge:";

/// The id of an edge: the name of its pod, or of its machine. Lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EdgeId(String);

impl EdgeId {
    /// Reads an id.
    ///
    /// # Errors
    /// One sentence: what an id is.
    pub fn new(id: &str) -> Result<Self, String> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if id.is_empty() || id.len() > MAX_ID || !id.chars().all(fits) {
            return Err(format!("an edge id has 1 to {MAX_ID} letters, digits, `-`, `.` or `_`"));
        }
        Ok(EdgeId(id.to_ascii_lowercase()))
    }

    /// The host name of this machine; in a pod that is the pod's name.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub fn of_host() -> Result<Self, String> {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").map_err(|error| error.to_string())?;
        EdgeId::new(name.trim())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The number under which the store and the tokens know it: the first 64 bits of a hash of the id.
    #[must_use]
    pub fn pod(&self) -> u64 {
        let digest = Sha256::new().chain_update(b"sipmcp edge\0").chain_update(&self.0).finalize();
        digest.iter().take(8).fold(0, |number, octet| number << 8 | u64::from(*octet))
    }

    /// Whether a certificate with these names is this edge's: a dNSName that is the id, or the URI `urn:sipmcp:edge:ID`.
    #[must_use]
    pub fn is_named(&self, dns: &[String], uris: &[String]) -> bool {
        dns.iter().any(|name| name.eq_ignore_ascii_case(&self.0))
            || uris.iter().any(|uri| strip_urn(uri).is_some_and(|id| id.eq_ignore_ascii_case(&self.0)))
    }
}

/// The edges that a certificate with these names may be.
#[must_use]
pub fn named(dns: &[String], uris: &[String]) -> Vec<EdgeId> {
    let uris = uris.iter().filter_map(|uri| strip_urn(uri));
    dns.iter().map(String::as_str).chain(uris).filter_map(|id| EdgeId::new(id).ok()).collect()
}

/// The SipEdge, `namespace/name`, whose edge a certificate with these names is for. `None`: it says nothing of it, as one that no operator made.
pub fn fleet<'a>(mut uris: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    uris.find_map(|uri| uri.strip_prefix(FLEET))
}

fn strip_urn(uri: &str) -> Option<&str> {
    let (scheme, id) = uri.split_at_checked(URN.len())?;
    scheme.eq_ignore_ascii_case(URN).then_some(id)
}

impl std::fmt::Display for EdgeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_number_in_either_case_and_others_have_others() {
        let id = EdgeId::new("Edge-0").unwrap();
        assert_eq!(id.as_str(), "edge-0");
        // Part of what is stored: it must never change.
        assert_eq!(id.pod(), 0x1fe3_a914_ee4b_5930);
        assert_ne!(id.pod(), EdgeId::new("edge-1").unwrap().pod());
        assert!(EdgeId::of_host().is_ok());
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for id in ["", "a b", "a/b", "ä", &"x".repeat(254)] {
            assert!(EdgeId::new(id).is_err(), "{id}");
        }
    }

    #[test]
    fn a_certificate_names_an_edge_by_dns_name_or_urn() {
        let id = EdgeId::new("edge_0").unwrap();
        let strings = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(id.is_named(&strings(&["other", "EDGE_0"]), &[]));
        assert!(id.is_named(&[], &strings(&["URN:sipmcp:edge:Edge_0"])));
        assert!(!id.is_named(&strings(&["edge_0.example", "*"]), &strings(&["sip:edge_0", "urn:sipmcp:edge:edge_01"])));
        assert_eq!(named(&strings(&["a", "*.b"]), &strings(&["urn:sipmcp:edge:c"])).len(), 2);
        assert_eq!(fleet(["urn:sipmcp:edge:c", "urn:sipmcp:sipedge:acme/e"].into_iter()), Some("acme/e"));
        assert_eq!(fleet(["urn:sipmcp:edge:c"].into_iter()), None);
    }
}
