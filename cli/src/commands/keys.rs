//! `sipmcp keys`: the Secret `<edge>-keys`, new or rotated.

use std::fmt::Write;
use std::path::Path;

use crds::core_v1::Secret;
use crds::core_v1::keys::{NAMING_KEY_OCTETS, NumberedKey, TOKEN_KEY_OCTETS, naming_key, token_keys};
use crds::manifest::{self, ObjectKey};

use crate::args::KeysArgs;
use crate::failure::{Exit, Failure};

/// Ends the name of the Secret.
const SUFFIX: &str = "-keys";

/// What the Secret has.
struct Keys {
    name: String,
    namespace: String,
    /// Key id → octets in hexadecimal digits.
    token: Vec<(u8, String)>,
    current: u8,
    naming: String,
}

pub fn run(args: &KeysArgs) -> Result<(), Failure> {
    let keys = match (&args.add, &args.activate) {
        (Some(file), _) => add(read(file, args)?, args.standby),
        (None, Some(file)) => activate(read(file, args)?, file)?,
        (None, None) => made(args),
    };
    print!("{}", keys.manifest());
    Ok(())
}

fn made(args: &KeysArgs) -> Keys {
    Keys {
        name: format!("{}{SUFFIX}", args.edge.as_deref().unwrap_or_default()),
        namespace: args.namespace.clone(),
        token: vec![(0, hex(&crate::random::bytes::<TOKEN_KEY_OCTETS>()))],
        current: 0,
        naming: fresh_naming(),
    }
}

fn fresh_naming() -> String {
    hex(&crate::random::bytes::<NAMING_KEY_OCTETS>())
}

/// A key more; the one that was not current goes.
fn add(mut keys: Keys, standby: bool) -> Keys {
    // Never the id of the key that goes: what it sealed would be taken for the new one's.
    let mut kid = keys.current.wrapping_add(1);
    while keys.token.iter().any(|(used, _)| *used == kid) {
        kid = kid.wrapping_add(1);
    }
    keys.token.retain(|(kid, _)| *kid == keys.current);
    keys.token.push((kid, hex(&crate::random::bytes::<TOKEN_KEY_OCTETS>())));
    if !standby {
        keys.current = kid;
    }
    keys
}

fn activate(mut keys: Keys, file: &Path) -> Result<Keys, Failure> {
    let other = keys.token.iter().map(|(kid, _)| *kid).find(|kid| *kid != keys.current);
    keys.current = other.ok_or_else(|| {
        Failure::usage(format!("{}: has one key only; add another with --add --standby first", file.display()))
    })?;
    Ok(keys)
}

/// The Secret of the file: the one of the edge that was named, else the only one whose name ends as such names do.
fn read(file: &Path, args: &KeysArgs) -> Result<Keys, Failure> {
    let wrong = |message: String| Failure::usage(format!("{}: {message}", file.display()));
    let loaded = manifest::load([file]);
    let found: Vec<(&ObjectKey, &Secret)> = match &args.edge {
        Some(edge) => {
            let wanted = ObjectKey::new(&args.namespace, format!("{edge}{SUFFIX}"));
            loaded.objects.secrets.iter().filter(|(key, _)| **key == wanted).map(|(key, s)| (key, &**s)).collect()
        }
        None => loaded
            .objects
            .secrets
            .iter()
            .filter(|(key, _)| key.name.ends_with(SUFFIX))
            .map(|(key, s)| (key, &**s))
            .collect(),
    };
    let (key, secret) = match found[..] {
        [only] => only,
        [] => {
            let problems: String = loaded.problems.iter().map(|problem| format!("\n{problem}")).collect();
            let wanted = args
                .edge
                .as_ref()
                .map_or_else(|| format!("*{SUFFIX}"), |edge| format!("{}/{edge}{SUFFIX}", args.namespace));
            return Err(wrong(format!("has no Secret {wanted}{problems}")));
        }
        _ => return Err(wrong("has several Secrets of keys; say which with --edge and --namespace".into())),
    };
    let place = |key: Option<&str>| key.map(|key| format!("{key}: ")).unwrap_or_default();
    let token = token_keys(secret).map_err(|e| wrong(format!("{}{}", place(e.key.as_deref()), e.message)))?;
    let naming = naming_key(secret).map_err(|e| wrong(format!("{}{}", place(e.key.as_deref()), e.message)))?;
    let Some(NumberedKey { kid: current, .. }) = token.first() else {
        return Err(Failure { exit: Exit::Usage, message: "no key".into(), code: None });
    };
    Ok(Keys {
        name: key.name.clone(),
        namespace: key.namespace.clone(),
        current: *current,
        token: token.iter().map(|key| (key.kid, hex(key.octets.as_bytes()))).collect(),
        naming: naming.map_or_else(fresh_naming, |octets| hex(octets.as_bytes())),
    })
}

impl Keys {
    fn manifest(&self) -> String {
        let mut out = format!(
            "# Keys of edges that share a store. Keep it as you keep passwords; rotate with `sipmcp keys --add`.\n\
             apiVersion: v1\nkind: Secret\nmetadata:\n  name: {}\n  namespace: {}\nstringData:\n",
            self.name, self.namespace
        );
        for (kid, octets) in &self.token {
            // Writing to a String does not fail.
            let _ = writeln!(out, "  \"{kid}\": \"{octets}\"");
        }
        let _ = writeln!(out, "  current: \"{}\"\n  naming: \"{}\"", self.current, self.naming);
        out
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
