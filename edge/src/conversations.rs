//! What is stored of a conversation, shown or erased (OBS-4).

use edge_core::config::Config;
use edge_core::names::conversation;
use serde_json::{Value, json};
use session_store::key::{ConversationKey, Tenant};
use session_store::op::{Exported, StoreError, StoreOp, StoreReply};

use crate::store::Store;

/// Why nothing is shown.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    NoUuid,
    Store(StoreError),
}

/// Octets in records that are text: SDP, messages, JSON.
const TEXTS: [&str; 6] = ["local_sdp", "remote_sdp", "accept_bytes", "request", "answer", "contact"];

/// The domains to look in: that one, or all.
///
/// # Errors
/// No such domain.
pub fn tenants(config: &Config, domain: Option<&str>) -> Result<Vec<(String, Tenant)>, String> {
    match domain {
        None => Ok(config.domains.values().map(|domain| (domain.domain.clone(), domain.tenant)).collect()),
        Some(name) => match config.domains.get(&name.to_ascii_lowercase()) {
            Some(domain) => Ok(vec![(domain.domain.clone(), domain.tenant)]),
            None => Err("there is no such domain".to_owned()),
        },
    }
}

/// Everything stored of a conversation, by domain; `None` where there is nothing.
///
/// # Errors
/// No UUID, or what the store says.
pub async fn export(
    store: &Store,
    config: &Config,
    tenants: &[(String, Tenant)],
    name: &str,
) -> Result<Option<Value>, Failure> {
    let mut found = Vec::new();
    for (domain, tenant) in tenants {
        let conversation = key(config, *tenant, name)?;
        match store.execute(StoreOp::Export { conversation }).await.map_err(Failure::Store)? {
            StoreReply::Exported(records) if !records.is_empty() => {
                let records: Vec<Value> = records.iter().map(record).collect();
                found.push(json!({"domain": domain, "records": records}));
            }
            _ => {}
        }
    }
    Ok((!found.is_empty()).then(|| json!({"conversation": name, "found": found})))
}

/// Removes what is stored of a conversation; `None` where there was nothing.
///
/// # Errors
/// As [`export`]. What was erased before the failure is gone.
pub async fn erase(
    store: &Store,
    config: &Config,
    tenants: &[(String, Tenant)],
    name: &str,
) -> Result<Option<Value>, Failure> {
    let mut erased = 0;
    for (_, tenant) in tenants {
        let conversation = key(config, *tenant, name)?;
        if let StoreReply::Erased(count) =
            store.execute(StoreOp::Erase { conversation }).await.map_err(Failure::Store)?
        {
            erased += count;
        }
    }
    if erased > 0 {
        tracing::info!(conversation = name, records = erased, "a conversation was erased");
    }
    Ok((erased > 0).then(|| json!({"conversation": name, "erased": erased})))
}

fn key(config: &Config, tenant: Tenant, name: &str) -> Result<ConversationKey, Failure> {
    let dashes = [8, 13, 18, 23];
    let fits = |(at, octet): (usize, u8)| if dashes.contains(&at) { octet == b'-' } else { octet.is_ascii_hexdigit() };
    if name.len() != 36 || !name.bytes().enumerate().all(fits) {
        return Err(Failure::NoUuid);
    }
    Ok(conversation(&*config.naming_key, tenant, name))
}

fn record(exported: &Exported) -> Value {
    let (kind, value) = match exported {
        Exported::Dialog(record) => ("dialog", json!(record)),
        Exported::Session(record) => ("session", json!(record)),
        Exported::Exchange { entry, answer } => ("exchange", json!({"entry": entry, "answer": answer})),
    };
    let mut value = json!({"kind": kind, "record": value});
    readable(&mut value);
    value
}

/// Octets as text where they are text, in hexadecimal digits where they are not.
fn readable(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match octets(member).filter(|octets| TEXTS.contains(&name.as_str()) || octets.len() >= 16) {
                    Some(octets) => *member = Value::String(text(octets)),
                    None => readable(member),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(readable),
        _ => {}
    }
}

fn octets(value: &Value) -> Option<Vec<u8>> {
    value.as_array()?.iter().map(|octet| u8::try_from(octet.as_u64()?).ok()).collect()
}

fn text(octets: Vec<u8>) -> String {
    String::from_utf8(octets)
        .unwrap_or_else(|error| error.as_bytes().iter().map(|octet| format!("{octet:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_are_shown_as_the_text_that_they_are() {
        let mut value = json!({"local_sdp": [118, 61, 48], "digest": vec![255; 32], "route_set": [], "n": [1, 2], "x": {"answer": [255]}});
        readable(&mut value);
        assert_eq!(
            value,
            json!({"local_sdp": "v=0", "digest": "ff".repeat(32), "route_set": [], "n": [1, 2], "x": {"answer": "ff"}})
        );
    }
}
