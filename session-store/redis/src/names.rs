//! Names of keys. A name within a slot is `tenant:hash` in decimal and hexadecimal; no personal data, only keyed hashes.

use session_store::key::{
    AorKey, CapabilityKey, ConversationKey, DialogKey, ExchangeKey, GuardKey, NonceKey, SessionKey, Slot, Tenant,
};
use session_store::op::StoreError;
use session_store::record::Owner;

pub(crate) fn hex(bytes: &[u8; 16]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 0xf)]);
    bytes.iter().fold(String::with_capacity(32), |mut out, byte| {
        out.push(digit(byte >> 4));
        out.push(digit(*byte));
        out
    })
}

pub(crate) fn from_hex(text: &str) -> Option<[u8; 16]> {
    let mut out = [0; 16];
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    for (byte, at) in out.iter_mut().zip((0..32).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(out)
}

/// `tenant:hash`.
pub(crate) fn name(tenant: Tenant, hash: &[u8; 16]) -> String {
    format!("{tenant}:{}", hex(hash))
}

pub(crate) fn dialog(key: &DialogKey) -> String {
    name(key.tenant, &key.id)
}

pub(crate) fn guard(key: &GuardKey) -> String {
    name(key.tenant, &key.hash)
}

pub(crate) fn session(key: &SessionKey) -> String {
    name(key.tenant, &key.hash)
}

pub(crate) fn exchange(key: &ExchangeKey) -> String {
    format!("{}:{}", session(&key.session), hex(&key.hash))
}

fn unreadable(text: &str) -> StoreError {
    StoreError::Unreadable { reason: format!("{text:?} is no name of ours") }
}

fn parse(text: &str) -> Result<(Tenant, [u8; 16]), StoreError> {
    let parts = text.split_once(':').and_then(|(tenant, hash)| Some((tenant.parse().ok()?, from_hex(hash)?)));
    parts.ok_or_else(|| unreadable(text))
}

pub(crate) fn parse_dialog(slot: Slot, text: &str) -> Result<DialogKey, StoreError> {
    parse(text).map(|(tenant, id)| DialogKey { slot, tenant, id })
}

pub(crate) fn parse_guard(slot: Slot, text: &str) -> Result<GuardKey, StoreError> {
    parse(text).map(|(tenant, hash)| GuardKey { slot, tenant, hash })
}

pub(crate) fn parse_exchange(slot: Slot, text: &str) -> Result<ExchangeKey, StoreError> {
    let (session, hash) = text.rsplit_once(':').ok_or_else(|| unreadable(text))?;
    let (tenant, id) = parse(session)?;
    let hash = from_hex(hash).ok_or_else(|| unreadable(text))?;
    Ok(ExchangeKey { session: SessionKey { slot, tenant, hash: id }, hash })
}

/// A leg in the directory of a conversation: `label:tenant:id`.
pub(crate) fn leg(key: &DialogKey) -> String {
    format!("{}:{}", key.slot, dialog(key))
}

pub(crate) fn parse_leg(text: &str) -> Result<DialogKey, StoreError> {
    let (slot, rest) = text.split_once(':').ok_or_else(|| unreadable(text))?;
    parse_dialog(slot.parse().map_err(|_| unreadable(text))?, rest)
}

/// `pod:epoch:boot`.
pub(crate) fn owner(owner: &Owner) -> String {
    format!("{}:{}:{}", owner.pod, owner.epoch, owner.boot)
}

pub(crate) fn parse_owner(text: &str) -> Result<Owner, StoreError> {
    let mut parts = text.split(':').map(str::parse);
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(Ok(pod)), Some(Ok(epoch)), Some(Ok(boot)), None) => Ok(Owner { pod, epoch, boot }),
        _ => Err(unreadable(text)),
    }
}

/// Whole keys, with the store's prefix.
pub(crate) struct Keys<'a>(pub &'a str);

impl Keys<'_> {
    fn slotted(&self, kind: &str, slot: Slot, name: &str) -> String {
        format!("{}{kind}:{{{slot}}}:{name}", self.0)
    }

    fn tagged(&self, kind: &str, tenant: Tenant, hash: &[u8; 16]) -> String {
        format!("{}{kind}:{{{}}}", self.0, name(tenant, hash))
    }

    pub fn dialog(&self, key: &DialogKey) -> String {
        self.slotted("d", key.slot, &dialog(key))
    }

    pub fn guard(&self, key: &GuardKey) -> String {
        self.slotted("m", key.slot, &guard(key))
    }

    pub fn session(&self, key: &SessionKey) -> String {
        self.slotted("s", key.slot, &session(key))
    }

    pub fn exchange(&self, key: &ExchangeKey) -> String {
        self.slotted("x", key.session.slot, &exchange(key))
    }

    pub fn once(&self, key: &ExchangeKey) -> String {
        self.slotted("o", key.session.slot, &exchange(key))
    }

    pub fn owned(&self, slot: Slot, pod: u64) -> String {
        self.slotted("own", slot, &pod.to_string())
    }

    pub fn aor(&self, key: &AorKey) -> String {
        self.tagged("b", key.tenant, &key.hash)
    }

    pub fn capability(&self, key: &CapabilityKey) -> String {
        self.tagged("cap", key.tenant, &key.hash)
    }

    pub fn conversation(&self, key: &ConversationKey) -> String {
        self.tagged("cd", key.tenant, &key.hash)
    }

    pub fn nonce(&self, key: &NonceKey) -> String {
        self.tagged("n", key.tenant, &key.hash)
    }

    /// Edges, their generation and the tenant numbers lie in one slot.
    pub fn edges(&self) -> String {
        format!("{}pods:{{edges}}", self.0)
    }

    pub fn generation(&self) -> String {
        format!("{}gen:{{edges}}", self.0)
    }

    pub fn tenants(&self) -> String {
        format!("{}ten:{{edges}}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_others_refused() {
        let key = DialogKey { slot: 1023, tenant: 65_535, id: *b"0123456789abcde\xff" };
        assert_eq!(parse_dialog(1023, &dialog(&key)), Ok(key));
        assert_eq!(parse_leg(&leg(&key)), Ok(key));
        let exchange_key = ExchangeKey { session: SessionKey { slot: 7, tenant: 1, hash: [1; 16] }, hash: [2; 16] };
        assert_eq!(parse_exchange(7, &exchange(&exchange_key)), Ok(exchange_key));
        let life = Owner { pod: u64::MAX, epoch: 3, boot: u64::MAX - 1 };
        assert_eq!(parse_owner(&owner(&life)), Ok(life));
        for bad in [
            "",
            "1",
            "1:zz",
            "x:00000000000000000000000000000000",
            "1:2",
            "1:2:3:4",
            "1:é0000000000000000000000000000000",
        ] {
            assert!(
                parse_dialog(0, bad).is_err() && parse_leg(bad).is_err() && parse_exchange(0, bad).is_err(),
                "{bad}"
            );
        }
        assert!(parse_owner("1:2").is_err() && parse_owner("1:2:3:4").is_err());
    }

    #[test]
    fn all_keys_of_a_call_have_its_label_as_their_hash_tag() {
        let keys = Keys("acme:");
        let key = DialogKey { slot: 7, tenant: 1, id: [0xab; 16] };
        assert_eq!(keys.dialog(&key), "acme:d:{7}:1:abababababababababababababababab");
        assert_eq!(crate::slot::hash_slot(&keys.dialog(&key)), crate::slot::hash_slot(&keys.owned(7, 99)));
        assert_eq!(crate::slot::hash_slot(&keys.edges()), crate::slot::hash_slot(&keys.tenants()));
    }
}
