//! Header names: which ones we know, their compact forms, how often they may stand in a message.

/// May stand in a message once (RFC 3261 §7.3.1: only comma lists may be repeated).
const ONCE: u8 = 1;
/// Free text: octets that are no UTF-8 pass. Of the other known headers they are refused.
const TEXT: u8 = 2;

macro_rules! headers {
    ($( $(#[$doc:meta])* $id:ident $name:literal $compact:literal $flags:expr; )*) => {
        /// A header that we know, or `Other`.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum HeaderId {
            /// Any other name; it stays in the message as it was written.
            #[default]
            Other,
            $( $(#[$doc])* $id, )*
        }

        /// Every known header, in the order of the enum.
        pub const KNOWN: &[HeaderId] = &[$( HeaderId::$id ),*];

        const IDS: &[HeaderId] = &[HeaderId::Other, $( HeaderId::$id ),*];
        const NAMES: &[&str] = &["X-Unknown", $( $name ),*];
        const COMPACT: &[u8] = &[0, $( $compact ),*];
        const FLAGS: &[u8] = &[TEXT, $( $flags ),*];
    };
}

headers! {
    /// RFC 3261 §20.42
    Via "Via" b'v' 0;
    /// RFC 3261 §20.20
    From "From" b'f' ONCE | TEXT;
    /// RFC 3261 §20.39
    To "To" b't' ONCE | TEXT;
    /// RFC 3261 §20.8
    CallId "Call-ID" b'i' ONCE;
    /// RFC 3261 §20.16
    CSeq "CSeq" 0 ONCE;
    /// RFC 3261 §20.22
    MaxForwards "Max-Forwards" 0 ONCE;
    /// RFC 3261 §20.10
    Contact "Contact" b'm' TEXT;
    /// RFC 3261 §20.34
    Route "Route" 0 TEXT;
    /// RFC 3261 §20.30
    RecordRoute "Record-Route" 0 TEXT;
    /// RFC 3327
    Path "Path" 0 TEXT;
    /// RFC 3608
    ServiceRoute "Service-Route" 0 TEXT;
    /// RFC 3261 §20.19
    Expires "Expires" 0 ONCE;
    /// RFC 3261 §20.23
    MinExpires "Min-Expires" 0 ONCE;
    /// RFC 3261 §20.15
    ContentType "Content-Type" b'c' ONCE;
    /// RFC 3261 §20.14
    ContentLength "Content-Length" b'l' ONCE;
    /// RFC 3261 §20.11
    ContentDisposition "Content-Disposition" 0 ONCE;
    /// RFC 3261 §20.12
    ContentEncoding "Content-Encoding" b'e' 0;
    /// RFC 3261 §20.13
    ContentLanguage "Content-Language" 0 0;
    /// RFC 8262
    ContentId "Content-ID" 0 ONCE;
    /// RFC 3261 §20.32
    Require "Require" 0 0;
    /// RFC 3261 §20.29
    ProxyRequire "Proxy-Require" 0 0;
    /// RFC 3261 §20.37
    Supported "Supported" b'k' 0;
    /// RFC 3261 §20.40
    Unsupported "Unsupported" 0 0;
    /// RFC 3261 §20.5
    Allow "Allow" 0 0;
    /// RFC 6665
    AllowEvents "Allow-Events" b'u' 0;
    /// RFC 3261 §20.1
    Accept "Accept" 0 0;
    /// RFC 3261 §20.2
    AcceptEncoding "Accept-Encoding" 0 0;
    /// RFC 3261 §20.3
    AcceptLanguage "Accept-Language" 0 0;
    /// RFC 3841
    AcceptContact "Accept-Contact" b'a' 0;
    /// RFC 3841
    RejectContact "Reject-Contact" b'j' 0;
    /// RFC 3841
    RequestDisposition "Request-Disposition" b'd' 0;
    /// RFC 3261 §20.7
    Authorization "Authorization" 0 0;
    /// RFC 3261 §20.44
    WwwAuthenticate "WWW-Authenticate" 0 0;
    /// RFC 3261 §20.28
    ProxyAuthorization "Proxy-Authorization" 0 0;
    /// RFC 3261 §20.27
    ProxyAuthenticate "Proxy-Authenticate" 0 0;
    /// RFC 3261 §20.6
    AuthenticationInfo "Authentication-Info" 0 0;
    /// RFC 3261 §20.17
    Date "Date" 0 ONCE;
    /// RFC 3261 §20.38
    Timestamp "Timestamp" 0 ONCE;
    /// RFC 6665
    Event "Event" b'o' ONCE;
    /// RFC 6665
    SubscriptionState "Subscription-State" 0 ONCE;
    /// RFC 4028
    SessionExpires "Session-Expires" b'x' ONCE;
    /// RFC 4028
    MinSe "Min-SE" 0 ONCE;
    /// RFC 3262
    RSeq "RSeq" 0 ONCE;
    /// RFC 3262
    RAck "RAck" 0 ONCE;
    /// RFC 3515
    ReferTo "Refer-To" b'r' ONCE | TEXT;
    /// RFC 3892
    ReferredBy "Referred-By" b'b' ONCE | TEXT;
    /// RFC 4488
    ReferSub "Refer-Sub" 0 ONCE;
    /// RFC 3891
    Replaces "Replaces" 0 ONCE;
    /// RFC 4538
    TargetDialog "Target-Dialog" 0 ONCE;
    /// RFC 3326
    Reason "Reason" 0 TEXT;
    /// RFC 3261 §20.43
    Warning "Warning" 0 TEXT;
    /// RFC 3261 §20.33
    RetryAfter "Retry-After" 0 ONCE | TEXT;
    /// RFC 3261 §20.41
    UserAgent "User-Agent" 0 TEXT;
    /// RFC 3261 §20.35
    Server "Server" 0 TEXT;
    /// RFC 3261 §20.25
    Organization "Organization" 0 TEXT;
    /// RFC 3261 §20.26
    Priority "Priority" 0 0;
    /// RFC 6086
    InfoPackage "Info-Package" 0 ONCE;
    /// RFC 6086
    RecvInfo "Recv-Info" 0 0;
    /// RFC 6809
    FeatureCaps "Feature-Caps" 0 0;
    /// RFC 7989
    SessionId "Session-ID" 0 ONCE;
    /// RFC 8224
    Identity "Identity" b'y' 0;
    /// RFC 3325
    PAssertedIdentity "P-Asserted-Identity" 0 TEXT;
    /// RFC 3325
    PPreferredIdentity "P-Preferred-Identity" 0 TEXT;
    /// RFC 3323
    Privacy "Privacy" 0 0;
    /// RFC 7044
    HistoryInfo "History-Info" 0 TEXT;
    /// RFC 3261 §20.21
    InReplyTo "In-Reply-To" 0 0;
    /// RFC 3261 §20.24
    MimeVersion "MIME-Version" 0 ONCE;
    /// RFC 3261 §20.36
    Subject "Subject" b's' TEXT;
    /// RFC 5626
    FlowTimer "Flow-Timer" 0 ONCE;
    /// RFC 3903
    SipEtag "SIP-ETag" 0 ONCE;
    /// RFC 3903
    SipIfMatch "SIP-If-Match" 0 ONCE;
    /// RFC 3261 §20.4
    AlertInfo "Alert-Info" 0 TEXT;
    /// RFC 3261 §20.9
    CallInfo "Call-Info" 0 TEXT;
    /// RFC 3261 §20.18
    ErrorInfo "Error-Info" 0 TEXT;
    /// draft-howe-sipcore-mcp-extension §5.2
    McpCapabilities "MCP-Capabilities" 0 0;
    /// draft-howe-sipcore-mcp-extension §5.3
    McpSelect "MCP-Select" 0 0;
    /// Correlates one exchange with its SIP transaction.
    McpExchange "MCP-Exchange" 0 0;
}

const BUCKETS: usize = 512;

/// Spreads the known names so that seldom two share a bucket.
const fn bucket(len: usize, first: u8, middle: u8, last: u8) -> usize {
    let mixed = len * 37 + (first | 0x20) as usize * 5 + (middle | 0x20) as usize * 61 + (last | 0x20) as usize * 199;
    mixed % BUCKETS
}

/// Index into the tables; 0 = empty. Open addressing; the longest walk is short and fixed.
static BY_NAME: [u8; BUCKETS] = {
    let mut table = [0u8; BUCKETS];
    let mut i = 1;
    while i < NAMES.len() {
        let name = NAMES[i].as_bytes();
        let mut at = bucket(name.len(), name[0], name[name.len() / 2], name[name.len() - 1]);
        while table[at] != 0 {
            at = (at + 1) % BUCKETS;
        }
        table[at] = i as u8;
        i += 1;
    }
    table
};

/// By letter of the compact form; 0 = none.
static BY_LETTER: [u8; 26] = {
    let mut table = [0u8; 26];
    let mut i = 0;
    while i < COMPACT.len() {
        if COMPACT[i] != 0 {
            table[(COMPACT[i] - b'a') as usize] = i as u8;
        }
        i += 1;
    }
    table
};

impl HeaderId {
    /// The header of that name, long or compact, in any case.
    #[must_use]
    #[inline]
    pub fn of(name: &[u8]) -> HeaderId {
        let index = match name {
            [] => 0,
            [letter] => match letter.to_ascii_lowercase().wrapping_sub(b'a') {
                n @ 0..26 => BY_LETTER[n as usize],
                _ => 0,
            },
            [first, .., last] => {
                let mut at = bucket(name.len(), *first, name[name.len() / 2], *last);
                loop {
                    let index = BY_NAME[at];
                    if index == 0 {
                        break 0;
                    }
                    let known = NAMES[index as usize].as_bytes();
                    // Nearly everybody writes the names as they are registered.
                    if known == name || known.eq_ignore_ascii_case(name) {
                        break index;
                    }
                    at = (at + 1) % BUCKETS;
                }
            }
        };
        IDS[index as usize]
    }

    /// The long name as it is registered; `Other` has none and says `X-Unknown`.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES[self as usize]
    }

    /// The letter of the compact form.
    #[must_use]
    pub fn compact(self) -> Option<char> {
        Some(COMPACT[self as usize]).filter(|&c| c != 0).map(char::from)
    }

    /// May stand in a message once.
    #[must_use]
    #[inline]
    pub fn is_once(self) -> bool {
        FLAGS[self as usize] & ONCE != 0
    }

    /// Octets that are no UTF-8 may stand in it: free text, a name for display, or unknown to us.
    #[must_use]
    #[inline]
    pub fn is_text(self) -> bool {
        FLAGS[self as usize] & TEXT != 0
    }

    #[inline]
    pub(crate) fn bit(self) -> u128 {
        BITS[self as usize]
    }

    /// The header whose registered name, in its registered case, stands before the colon at `colon` in `word`; `Other` also
    /// for what [`HeaderId::of`] would find: names in another case, compact forms, names longer than 15.
    #[inline]
    pub(crate) fn of_word(word: u128, colon: usize) -> HeaderId {
        // With its colon: without it a name with NUL octets behind it would be the same word. `colon` is below 16.
        let name = word & (u128::MAX >> (8 * (15 - colon)));
        let index = EXACT[word_bucket(name, WORD_MULTIPLIER)];
        if name == WORDS[index as usize] { IDS[index as usize] } else { HeaderId::Other }
    }
}

// One bit per header in a `u128`.
static BITS: [u128; NAMES.len()] = {
    let mut bits = [0; NAMES.len()];
    let mut i = 0;
    while i < NAMES.len() {
        bits[i] = 1 << i;
        i += 1;
    }
    bits
};

/// Names of at most 15 octets, each with its colon, as words; longer ones, and `Other`, as a word that no name is.
static WORDS: [u128; NAMES.len()] = words();

const fn words() -> [u128; NAMES.len()] {
    let mut words = [u128::MAX; NAMES.len()];
    let mut i = 1;
    while i < NAMES.len() {
        let name = NAMES[i].as_bytes();
        if name.len() <= 15 {
            let mut word = b':' as u128;
            let mut at = name.len();
            while at > 0 {
                at -= 1;
                word = word << 8 | name[at] as u128;
            }
            words[i] = word;
        }
        i += 1;
    }
    words
}

const WORD_BUCKETS: usize = 512;

#[inline]
const fn word_bucket(word: u128, multiplier: u64) -> usize {
    let folded =
        (word as u64).wrapping_mul(multiplier) ^ ((word >> 64) as u64).wrapping_mul(multiplier.rotate_left(17));
    (folded >> 55) as usize
}

/// A multiplier under which no two names share a bucket, and the index by bucket; found when this is compiled.
const WORD_TABLE: (u64, [u8; WORD_BUCKETS]) = {
    let words = words();
    let mut multiplier: u64 = 0x9e37_79b9_7f4a_7c15;
    loop {
        let mut table = [0; WORD_BUCKETS];
        let mut i = 1;
        while i < words.len() {
            if words[i] != u128::MAX {
                let at = word_bucket(words[i], multiplier);
                if table[at] != 0 {
                    break;
                }
                table[at] = i as u8;
            }
            i += 1;
        }
        if i == words.len() {
            break (multiplier, table);
        }
        multiplier = multiplier.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(2) | 1;
    }
};
const WORD_MULTIPLIER: u64 = WORD_TABLE.0;
static EXACT: [u8; WORD_BUCKETS] = WORD_TABLE.1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_in_every_case() {
        for &id in KNOWN {
            let name = id.name();
            assert_eq!(HeaderId::of(name.as_bytes()), id);
            assert_eq!(HeaderId::of(name.to_ascii_uppercase().as_bytes()), id);
            assert_eq!(HeaderId::of(name.to_ascii_lowercase().as_bytes()), id);
            assert_eq!(HeaderId::of(format!("{name}x").as_bytes()), HeaderId::Other);
            let word = |text: &str| {
                let mut padded = [b'x'; 16];
                padded[..text.len()].copy_from_slice(text.as_bytes());
                HeaderId::of_word(u128::from_le_bytes(padded), text.len() - 1)
            };
            if name.len() < 16 {
                assert_eq!(word(&format!("{name}:")), id);
            }
            if name.len() < 15 {
                for other in [format!("{name}\0:"), format!("\0{name}:"), format!("{name} :")] {
                    assert_eq!(word(&other), HeaderId::Other, "{other:?}");
                }
            }
            if let Some(letter) = id.compact() {
                assert_eq!(HeaderId::of(&[letter as u8]), id);
                assert_eq!(HeaderId::of(&[letter.to_ascii_uppercase() as u8]), id);
            }
        }
        for other in ["", "z", "1", "X-Custom", "C%6Fntact", "MCP-Selects", "\u{e9}"] {
            assert_eq!(HeaderId::of(other.as_bytes()), HeaderId::Other, "{other:?}");
        }
    }

    #[test]
    fn compact_forms_are_those_of_the_registry() {
        let letters: String = "abcdefijklmorstuvxy".into();
        let ours: std::collections::BTreeSet<char> = KNOWN.iter().filter_map(|h| h.compact()).collect();
        assert_eq!(ours.into_iter().collect::<String>(), letters);
    }

    #[test]
    fn header_names_seldom_share_a_bucket() {
        let walk = |id: &HeaderId| {
            let n = id.name().as_bytes();
            let start = bucket(n.len(), n[0], n[n.len() / 2], n[n.len() - 1]);
            let at = BY_NAME.iter().position(|&i| i == *id as u8).unwrap();
            (at + BUCKETS - start) % BUCKETS
        };
        assert!(KNOWN.iter().map(walk).max().unwrap() <= 3);
    }
}
