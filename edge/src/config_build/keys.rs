//! The keys of an edge, from the Secret `<edge>-keys`: token keys, which rotate, and the key of the names in the store, which does not.

use crds::core_v1::Secret;
use crds::core_v1::keys::{KeyError, NAMING, NumberedKey, naming_key, token_keys};
use crds::manifest::{ObjectKey, Problem, Snapshot, Sourced};
use edge_core::config::TokenKey;
use session_store_file::EdgeKeys;
use zeroize::Zeroizing;

use super::Builder;

/// Octets of [`Made`].
pub const MADE: usize = 96;

/// Keys for an edge without the Secret: they live as long as the store of that edge alone.
#[derive(Clone)]
pub struct Made {
    pub token: TokenKey,
    pub naming: Zeroizing<[u8; 32]>,
}

impl Made {
    /// From octets of the operating system.
    #[must_use]
    pub fn new(octets: &[u8; MADE]) -> Self {
        let (token, naming) = octets.split_at(64);
        let mut key = Zeroizing::new([0; 32]);
        key.copy_from_slice(naming);
        Made { token: token_key(0, token), naming: key }
    }

    /// Those that a store file keeps.
    #[must_use]
    pub fn of_file(keys: &EdgeKeys) -> Self {
        Made { token: token_key(keys.kid, &*keys.token), naming: keys.naming.clone() }
    }

    pub(super) fn keys(&self) -> Keys {
        Keys { token_keys: vec![self.token.clone()], naming: self.naming.clone() }
    }
}

impl std::fmt::Debug for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Made")
    }
}

/// What [`Builder::read_keys`] found last that could be used.
#[derive(Clone)]
pub struct Keys {
    /// The sealing one first.
    pub token_keys: Vec<TokenKey>,
    pub naming: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("token_keys", &self.token_keys).finish_non_exhaustive()
    }
}

/// `octets`: 64, the AES-SIV key, then the HMAC key.
fn token_key(kid: u8, octets: &[u8]) -> TokenKey {
    let mut key = TokenKey { kid, siv: [0; 32].into(), mac: [0; 32].into() };
    key.siv.copy_from_slice(&octets[..32]);
    key.mac.copy_from_slice(&octets[32..]);
    key
}

/// The Secret of an edge.
pub fn secret_name(edge: &ObjectKey) -> ObjectKey {
    ObjectKey::new(&edge.namespace, format!("{}-keys", edge.name))
}

impl Builder {
    /// Whether there are keys to start with. Only a shared store cannot do without.
    ///
    /// # Errors
    /// What is missing, and the command that makes it.
    pub fn check_keys(&mut self, objects: &Snapshot) -> Result<(), Problem> {
        match self.read_keys(objects) {
            Err(problem) if self.shared_store => Err(problem),
            // Told when the configuration is built.
            _ => Ok(()),
        }
    }

    /// Reads the keys. What is wrong leaves the last good ones.
    ///
    /// # Errors
    /// What is wrong. At the start there are no last good ones.
    pub(super) fn read_keys(&mut self, objects: &Snapshot) -> Result<(), Problem> {
        let made = &self.made;
        let secret = objects.secrets.get(&secret_name(&self.edge));
        let read = match secret {
            None if self.shared_store => return Err(self.no_secret(objects)),
            None => made.keys(),
            Some(secret) => {
                let token_keys = token_keys(secret).map_err(|error| wrong(secret, &error))?;
                let naming = match naming_key(secret).map_err(|error| wrong(secret, &error))? {
                    Some(octets) => {
                        let mut naming = Zeroizing::new([0; 32]);
                        naming.copy_from_slice(octets.as_bytes());
                        naming
                    }
                    None if self.shared_store => return Err(self.no_naming(secret)),
                    None => made.naming.clone(),
                };
                let token_keys =
                    token_keys.iter().map(|NumberedKey { kid, octets }| token_key(*kid, octets.as_bytes()));
                Keys { token_keys: token_keys.collect(), naming }
            }
        };
        match &self.keys {
            Some(known) if known.naming != read.naming => {
                let message = "the key of the names in the store must not change while the edge runs: it would find nothing of what is \
                               stored; put the old one back";
                let error = KeyError { key: Some(NAMING.into()), message: message.into() };
                Err(secret.map_or_else(|| self.problem(objects, "", message), |secret| wrong(secret, &error)))
            }
            _ => {
                self.keys = Some(read);
                Ok(())
            }
        }
    }

    fn no_secret(&self, objects: &Snapshot) -> Problem {
        let message = format!(
            "the store is shared, so all edges need the same keys, and there is no Secret {}; make it once, for all edges: {}",
            secret_name(&self.edge),
            self.command()
        );
        self.problem(objects, "spec.sessionStoreRef", &message)
    }

    pub(super) fn problem(&self, objects: &Snapshot, field: &str, message: &str) -> Problem {
        match objects.edges.get(&self.edge).or(self.spec.as_ref()) {
            Some(edge) => edge.origin.problem(field, message),
            None => Problem { file: Default::default(), line: 0, field: field.into(), message: message.into() },
        }
    }

    fn no_naming(&self, secret: &Sourced<Secret>) -> Problem {
        let message = format!(
            "the store is shared, so all edges need the same `{NAMING}` key, and it is not there; add 32 octets, or 64 hexadecimal digits \
             (openssl rand -hex 32), or make the whole Secret: {}",
            self.command()
        );
        secret.origin.problem("data", message)
    }

    fn command(&self) -> String {
        format!("`sipmcp keys --edge {} --namespace {}`", self.edge.name, self.edge.namespace)
    }
}

fn wrong(secret: &Sourced<Secret>, error: &KeyError) -> Problem {
    let field = match &error.key {
        None => "data".to_owned(),
        Some(key) => {
            let [data, text] = ["data", "stringData"].map(|part| format!("{part}.{key}"));
            // The part that has the key lies below the beginning of the object.
            if secret.origin.line_of(&text) > secret.origin.line_of(&data) { text } else { data }
        }
    };
    secret.origin.problem(field, error.message.clone())
}
