//! The function library. Its name has the layout's version and a hash of its text in it, and so have its functions: the library of the
//! next release lies beside this one while edges of both run.

use std::sync::LazyLock;

use sha2::{Digest, Sha256};

/// In order: each file uses what stands in those before it.
const SOURCES: &[&str] = &[
    include_str!("functions/shared.lua"),
    include_str!("functions/nonce.lua"),
    include_str!("functions/ownership.lua"),
    include_str!("functions/kept.lua"),
    include_str!("functions/exchanges.lua"),
    include_str!("functions/sessions.lua"),
    include_str!("functions/dialogs.lua"),
    include_str!("functions/calls.lua"),
    include_str!("functions/registrations.lua"),
    include_str!("functions/edges.lua"),
    include_str!("functions/adoption.lua"),
    include_str!("functions/conversations.lua"),
    include_str!("functions/probe.lua"),
];

struct Library {
    name: String,
    code: String,
}

static LIBRARY: LazyLock<Library> = LazyLock::new(|| {
    let text = SOURCES.concat();
    let digest = Sha256::digest(text.as_bytes());
    let hash: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let name = format!("sipmcp_v1_{hash}");
    let code = format!("#!lua name={name}\nlocal LIBRARY = '{name}'\n{text}");
    Library { name, code }
});

/// `sipmcp_v1_` and eight hexadecimal digits.
#[must_use]
pub fn name() -> &'static str {
    &LIBRARY.name
}

/// What is loaded.
#[must_use]
pub fn code() -> &'static str {
    &LIBRARY.code
}

/// The full name of a function; `durable`: of its form whose reply may be waited for.
pub(crate) fn function(short: &str, durable: bool) -> String {
    format!("{}_{short}{}", name(), if durable { "_durable" } else { "" })
}
