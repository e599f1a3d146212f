//! `sipmcp keys`: what it prints is what the edges read.

use std::fs;
use std::path::{Path, PathBuf};

use crds::core_v1::keys::{naming_key, token_keys};
use crds::manifest::{self, ObjectKey};

use super::support::{Ran, sipmcp};

fn keys(args: &[&str]) -> Ran {
    sipmcp(std::iter::once("keys").chain(args.iter().copied())).end()
}

fn file(folder: &Path, name: &str, ran: Ran) -> PathBuf {
    assert_eq!((ran.code, &*ran.err), (0, ""));
    let path = folder.join(name);
    fs::write(&path, ran.out).unwrap();
    path
}

type Read = (Vec<(u8, Vec<u8>)>, Vec<u8>);

/// Token keys, the one that seals first, and the naming key.
fn read(path: &Path) -> Read {
    let loaded = manifest::load([path]);
    assert_eq!(loaded.problems, []);
    let secret = &loaded.objects.secrets[&ObjectKey::new("sip", "demo-keys")];
    let token = token_keys(secret).unwrap();
    let naming = naming_key(secret).unwrap().unwrap().as_bytes().to_vec();
    (token.iter().map(|key| (key.kid, key.octets.as_bytes().to_vec())).collect(), naming)
}

#[test]
fn keys_are_made_and_rotated_in_one_step_or_in_two() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let made = file(folder, "a.yaml", keys(&["--edge", "demo", "--namespace", "sip"]));
    let (first, naming) = read(&made);
    assert_eq!(first.len(), 1);
    assert_ne!(read(&file(folder, "b.yaml", keys(&["--edge", "demo", "--namespace", "sip"]))).1, naming, "random");

    let both = file(folder, "c.yaml", keys(&["--add", made.to_str().unwrap(), "--standby"]));
    let (second, same) = read(&both);
    assert_eq!(second.iter().map(|(kid, _)| *kid).collect::<Vec<_>>(), [0, 1], "the old one seals, the new one opens");
    assert_eq!((&second[0], &same), (&first[0], &naming));
    let active = file(folder, "d.yaml", keys(&["--activate", both.to_str().unwrap()]));
    let (third, same) = read(&active);
    assert_eq!((third.clone(), &same), (vec![second[1].clone(), second[0].clone()], &naming));

    // At once; the key that is not current goes, and its id is not used again at once.
    let next = file(folder, "e.yaml", keys(&["--add", active.to_str().unwrap()]));
    let (fourth, same) = read(&next);
    assert_eq!(fourth.iter().map(|(kid, _)| *kid).collect::<Vec<_>>(), [2, 1]);
    assert_eq!((&fourth[1], &same), (&third[0], &naming));
}

#[test]
fn a_secret_without_naming_gets_one_and_other_documents_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("old.yaml");
    let token = "ab".repeat(64);
    fs::write(
        &old,
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: other}}\nstringData: {{a: b}}\n---\n\
             apiVersion: v1\nkind: Secret\nmetadata: {{name: demo-keys, namespace: sip}}\nstringData: {{\"255\": \"{token}\"}}\n"
        ),
    )
    .unwrap();
    let new = file(folder.path(), "new.yaml", keys(&["--add", old.to_str().unwrap()]));
    let (keys, naming) = read(&new);
    assert_eq!(keys.iter().map(|(kid, _)| *kid).collect::<Vec<_>>(), [0, 255], "after 255 comes 0");
    assert_eq!((keys[1].1.as_slice(), naming.len()), (&[0xab; 64][..], 32));
}

#[test]
fn what_cannot_be_used_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.yaml");
    let said = |text: &str, args: &[&str]| {
        fs::write(&path, text).unwrap();
        let ran = keys(args);
        assert_eq!((ran.code, &*ran.out), (2, ""), "{}", ran.err);
        ran.err
    };
    let file = path.to_str().unwrap();
    let head = "apiVersion: v1\nkind: Secret\nmetadata: {name: demo-keys}\n";
    assert!(said("", &["--add", file]).contains("has no Secret *-keys"));
    assert!(said(head, &["--add", file, "--edge", "other"]).contains("has no Secret default/other-keys"));
    let error = said(&format!("{head}stringData: {{\"1\": hunter2}}\n"), &["--add", file]);
    assert!(error.contains("1: must have 64 octets") && !error.contains("hunter2"), "{error}");
    let one = format!("{head}stringData: {{\"1\": \"{}\"}}\n", "ab".repeat(64));
    assert!(said(&one, &["--activate", file]).contains("add another with --add --standby first"));
    assert!(said("", &[]).contains("--edge"));
}
