//! Whose certificate is this? The SIP identities in subjectAltName (RFC 5922). Lists of names in, yes or no out; the chain,
//! validity, extended key usage and revocation are the shell's.
//!
//! Stricter than the RFC in one point: the common name is never looked at (§7.1 allows it without subjectAltName).

use crate::uri::{Host, Uri};

/// The SIP domains that a certificate stands for, in lower case without a final dot (§7.1): the hosts of all URI
/// names with scheme `sip` and no user part; only when there is none, the DNS names. Wildcards of any form, IP
/// addresses and other schemes are no identity (§7.2).
#[must_use]
pub fn domain_identities<'a>(
    uri_names: impl IntoIterator<Item = &'a str>,
    dns_names: impl IntoIterator<Item = &'a str>,
) -> Vec<String> {
    let by_uri = unique(uri_names.into_iter().filter_map(uri_domain));
    if by_uri.is_empty() { unique(dns_names.into_iter().filter_map(domain_name)) } else { by_uri }
}

fn unique(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen: Vec<String> = Vec::new();
    for name in names {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen
}

/// Does the certificate stand for `wanted`, the host part of the URI that was asked for? An IP address, a wildcard
/// and an empty name are never matched.
#[must_use]
pub fn matches_domain<'a>(
    wanted: &str,
    uri_names: impl IntoIterator<Item = &'a str>,
    dns_names: impl IntoIterator<Item = &'a str>,
) -> bool {
    domain_name(wanted).is_some_and(|wanted| domain_identities(uri_names, dns_names).contains(&wanted))
}

/// The user identities: the address-of-record of every URI name with scheme `sip` and a user part, canonical
/// ([`crate::uri::SipUri::aor`]). A domain certificate has none and never stands for a user (§7.6).
#[must_use]
pub fn user_identities<'a>(uri_names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    unique(uri_names.into_iter().filter_map(user_aor))
}

fn user_aor(name: &str) -> Option<String> {
    let Ok(Uri::Sip(uri)) = Uri::parse(name) else { return None };
    let Host::Name(host) = uri.host() else { return None };
    let names_user = !uri.is_secure() && uri.user().is_some() && uri.headers_str().is_none();
    (names_user && domain_name(host).is_some()).then(|| uri.aor())
}

/// The host of a URI that names a domain.
fn uri_domain(name: &str) -> Option<String> {
    let Ok(Uri::Sip(uri)) = Uri::parse(name) else { return None };
    match uri.host() {
        Host::Name(host) if !uri.is_secure() && uri.user().is_none() => domain_name(host),
        _ => None,
    }
}

/// A DNS name for comparison: lower case, no final dot. `None` for a wildcard, an address, and what is no name.
fn domain_name(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let is_name = name.len() <= 253 && name.split('.').all(label) && name.parse::<std::net::IpAddr>().is_err();
    is_name.then(|| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(wanted: &str, uris: &[&str], dns: &[&str]) -> bool {
        matches_domain(wanted, uris.iter().copied(), dns.iter().copied())
    }

    #[test]
    fn rfc5922_table_of_cases() {
        let domain = "example.com";
        let cases: &[(&str, &[&str], &[&str], bool)] = &[
            (domain, &["sip:example.com"], &[], true),
            (domain, &["sip:example.com"], &["proxy7.example.com"], true),
            ("proxy7.example.com", &["sip:example.com"], &["proxy7.example.com"], false),
            ("sip.example.com", &[], &["*.example.com"], false),
            (domain, &[], &["example.com"], true),
            (domain, &["sip:alice@example.com"], &[], false),
            // A user's URI is no identity of a domain, so the DNS names count.
            (domain, &["sip:alice@example.com"], &["example.com"], true),
            (domain, &["sips:example.com"], &[], false),
            (domain, &["http://example.com"], &[], false),
            (domain, &["Sip:Example.COM"], &[], true),
            ("EXAMPLE.com.", &["sip:example.com:5061;transport=tls"], &[], true),
            (domain, &[], &["EXAMPLE.COM"], true),
            (domain, &["sip:example.com.evil.example"], &[], false),
            (domain, &["sip:badexample.com"], &["badexample.com"], false),
            ("sub.example.com", &["sip:example.com"], &[], false),
            ("*.example.com", &[], &["*.example.com"], false),
            ("f*.example.com", &[], &["f*.example.com"], false),
            ("192.0.2.1", &["sip:192.0.2.1"], &["192.0.2.1"], false),
            ("2001:db8::1", &["sip:[2001:db8::1]"], &[], false),
            ("", &[], &[""], false),
            (domain, &[], &[], false),
            (domain, &["sip:example.com\0.evil.example"], &[], false),
            (domain, &["sip:ex ample.com", "sip:example.com"], &[], true),
            ("xn--bcher-kva.example", &["sip:xn--bcher-kva.example"], &[], true),
        ];
        for (wanted, uris, dns, expected) in cases {
            assert_eq!(matches(wanted, uris, dns), *expected, "{wanted} {uris:?} {dns:?}");
        }
    }

    #[test]
    fn all_identities_are_listed_once() {
        let uris = ["sip:b.example", "sip:A.example", "sip:b.example", "sip:u@c.example"];
        assert_eq!(domain_identities(uris, ["d.example"]), ["b.example", "a.example"]);
        assert_eq!(domain_identities(["urn:x:y"], ["D.example", "*.d.example"]), ["d.example"]);
    }

    #[test]
    fn users_come_from_uris_with_a_user_part_only() {
        let uris = [
            "sip:example.com",
            "SIP:%61lice@Example.COM;transport=tls",
            "sip:alice@example.com",
            "sips:bob@example.com",
            "sip:carol@192.0.2.1",
            "sip:dave@example.com?Subject=x",
            "mailto:erin@example.com",
        ];
        assert_eq!(user_identities(uris), ["sip:alice@example.com"]);
    }
}
