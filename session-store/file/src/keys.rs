//! The keys of an edge that has no Secret of keys: made once, kept in the store file.

use zeroize::Zeroizing;

/// Octets that [`EdgeKeys::from_random`] takes: a token key, then the naming key.
pub const RANDOM_OCTETS: usize = TOKEN_OCTETS + NAMING_OCTETS;
const TOKEN_OCTETS: usize = 64;
const NAMING_OCTETS: usize = 32;
const VERSION: u8 = 1;

/// What the Secret `<edge>-keys` would have: the token key (AES-SIV key, then HMAC key) and the key of names.
#[derive(Clone, PartialEq, Eq)]
pub struct EdgeKeys {
    pub kid: u8,
    pub token: Zeroizing<[u8; TOKEN_OCTETS]>,
    pub naming: Zeroizing<[u8; NAMING_OCTETS]>,
}

impl std::fmt::Debug for EdgeKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EdgeKeys").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl EdgeKeys {
    /// Keys from octets of the operating system's random source.
    #[must_use]
    pub fn from_random(random: &[u8; RANDOM_OCTETS]) -> Self {
        EdgeKeys::parts(0, random)
    }

    fn parts(kid: u8, octets: &[u8; RANDOM_OCTETS]) -> Self {
        let mut keys = EdgeKeys { kid, token: [0; TOKEN_OCTETS].into(), naming: [0; NAMING_OCTETS].into() };
        keys.token.copy_from_slice(&octets[..TOKEN_OCTETS]);
        keys.naming.copy_from_slice(&octets[TOKEN_OCTETS..]);
        keys
    }

    pub(crate) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(vec![VERSION, self.kid]);
        out.extend_from_slice(&*self.token);
        out.extend_from_slice(&*self.naming);
        out
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        match bytes {
            [VERSION, kid, octets @ ..] => {
                let octets: &[u8; RANDOM_OCTETS] =
                    octets.try_into().map_err(|_| "the edge's keys have a wrong length".to_owned())?;
                Ok(EdgeKeys::parts(*kid, octets))
            }
            [version, ..] => Err(format!("the edge's keys have version {version}, this program reads {VERSION}")),
            [] => Err("the edge's keys are empty".to_owned()),
        }
    }
}
