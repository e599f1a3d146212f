//! Whatever the files hold: no panic, bounded work, a problem instead of silence.

use crds::manifest::{self, MAX_DOCUMENTS, MAX_FILE_BYTES, MAX_FILES, MAX_PROBLEMS, Problem};
use proptest::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// All manifests of the tree, valid and not.
static SEEDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders =
        ["examples", "examples/tls", "examples/shared", "examples/file", "examples/kubernetes", "tests/invalid"]
            .map(|folder| root.join(folder));
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
});

#[derive(Clone, Debug)]
enum Mutation {
    Delete(usize, usize),
    Insert(usize, Vec<u8>),
    Repeat(usize, usize, usize),
    Swap(usize, usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let syntax = prop::sample::select(vec![
        "---\n",
        "...\n",
        "- ",
        ": ",
        "{",
        "}",
        "[",
        "]",
        "&a ",
        "*a",
        "<<: ",
        "|\n",
        ">-\n",
        "? ",
        "!!binary ",
        "!x ",
        "\"",
        "'",
        "#",
        "%YAML 1.2\n",
        "null",
        "~",
        "\t",
        "\r\n",
        "\u{feff}",
        "\0",
        "1e999",
        "0x7f",
        "-9223372036854775808",
        ".inf",
        "é",
    ]);
    let bytes = prop_oneof![4 => syntax.prop_map(|text| text.as_bytes().to_vec()), 1 => prop::collection::vec(any::<u8>(), 1..8)];
    prop_oneof![
        (any::<usize>(), 1..40usize).prop_map(|(at, len)| Mutation::Delete(at, len)),
        (any::<usize>(), bytes).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        (any::<usize>(), 1..200usize, 1..4usize).prop_map(|(at, len, times)| Mutation::Repeat(at, len, times)),
        (any::<usize>(), any::<usize>()).prop_map(|(a, b)| Mutation::Swap(a, b)),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutation: &Mutation) {
    let place = |at: usize, bytes: &[u8]| at % (bytes.len() + 1);
    match mutation {
        Mutation::Delete(at, len) => {
            let at = place(*at, bytes);
            bytes.drain(at..bytes.len().min(at + len));
        }
        Mutation::Insert(at, new) => {
            let at = place(*at, bytes);
            bytes.splice(at..at, new.iter().copied());
        }
        Mutation::Repeat(at, len, times) => {
            let at = place(*at, bytes);
            let part = bytes[at..bytes.len().min(at + len)].repeat(*times);
            bytes.splice(at..at, part);
        }
        Mutation::Swap(a, b) if !bytes.is_empty() => {
            let (a, b) = (a % bytes.len(), b % bytes.len());
            bytes.swap(a, b);
        }
        Mutation::Swap(..) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn mutated_manifests_never_panic(seed in 0..SEEDS.len(), mutations in prop::collection::vec(mutation(), 1..12)) {
        let mut bytes = SEEDS[seed].clone();
        mutations.iter().for_each(|mutation| mutate(&mut bytes, mutation));
        let lines = 1 + bytes.iter().filter(|byte| **byte == b'\n').count();
        for problem in manifest::parse([("m.yaml", bytes)]).problems {
            prop_assert!(problem.line as usize <= lines, "{problem}");
            prop_assert!(problem.message.len() < 2000, "{problem}");
        }
    }
}

fn problems(text: impl AsRef<[u8]>) -> Vec<String> {
    manifest::parse([("m.yaml", text)]).problems.iter().map(Problem::to_string).collect()
}

#[test]
fn the_size_of_a_file_is_bounded() {
    let long = "#".repeat(MAX_FILE_BYTES + 1);
    assert_eq!(problems(&long), ["m.yaml: is larger than 1048576 bytes; split it"]);
    assert!(problems(&long[1..]).is_empty());

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("big.yaml");
    fs::write(&file, vec![b'#'; 3 * MAX_FILE_BYTES]).unwrap();
    let found = manifest::load([&file]).problems;
    assert_eq!(found[0].to_string(), format!("{}: is larger than 1048576 bytes; split it", file.display()));
}

#[test]
fn the_number_of_files_documents_and_problems_is_bounded() {
    let files = (0..=MAX_FILES).map(|n| (PathBuf::from(format!("{n}.yaml")), "# nothing"));
    let found = manifest::parse(files).problems;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].to_string(), "1024.yaml: is one file too many; at most 1024 are read");

    let found = problems("---\nx\n".repeat(MAX_DOCUMENTS + 1));
    assert_eq!(found.len(), MAX_PROBLEMS + 1);
    assert_eq!(found[MAX_PROBLEMS], "15385 more problems are not listed; correct these first");
    assert!(found[0].contains("m.yaml:2: a document must be a map"), "{}", found[0]);
}

#[test]
fn alias_bombs_and_deep_nesting_are_refused() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let previous = format!("*a{}, ", n - 1).repeat(9);
        bomb.push_str(&format!("a{n}: &a{n} [{previous}]\n"));
    }
    assert!(problems(&bomb)[0].contains("is not valid YAML"), "{:?}", problems(&bomb));

    let wide = format!("a: &a {}\nb: [{}]\n", "x".repeat(1000), "*a, ".repeat(20_000));
    assert!(problems(&wide)[0].contains("is not valid YAML"));

    for nested in ["[".repeat(100_000), "{a: ".repeat(100_000), "- ".repeat(100_000)] {
        assert!(problems(&nested)[0].contains("is not valid YAML"), "{:?}", problems(&nested));
    }
    let merges = format!("a: &a {{k: v}}\nb:\n{}", "  <<: *a\n".repeat(50_000));
    assert!(problems(merges)[0].contains("is not valid YAML"));
}

#[test]
fn what_cannot_be_read_is_a_problem() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let say = |paths: &[&Path]| {
        let found = manifest::load(paths).problems;
        found.iter().map(|problem| problem.to_string().replace(&path.display().to_string(), "DIR")).collect::<Vec<_>>()
    };
    assert_eq!(say(&[path]), ["DIR: has no *.yaml, *.yml or *.json; put manifests there or name another directory"]);
    assert!(say(&[&path.join("none.yaml")])[0].starts_with("DIR/none.yaml: cannot be read: No such file"));
    fs::write(path.join("a.yaml"), b"a: b\nc: \xff\n").unwrap();
    assert_eq!(say(&[path]), ["DIR/a.yaml:2: is not UTF-8"]);
    fs::write(path.join("a.yaml"), b"# nothing").unwrap();
    fs::create_dir(path.join("folder.yaml")).unwrap();
    fs::write(path.join(".hidden.yaml"), b"x").unwrap();
    fs::write(path.join("README.md"), b"x").unwrap();
    assert!(say(&[path]).is_empty());
    assert!(say(&[Path::new("/dev/zero")])[0].contains("it is no regular file"));
}

#[test]
fn json_and_windows_line_ends_are_read() {
    let json = br#"{"apiVersion": "sipmcp.dev/v1alpha1", "kind": "SipDomain", "metadata": {"name": "a"}, "spec": {"domain": "a.example"}}"#;
    let loaded = manifest::parse([("a.json", &json[..])]);
    assert_eq!(loaded.problems, []);
    assert!(loaded.objects.domains.contains_key("a"));
    let dos =
        "\u{feff}apiVersion: v1\r\nkind: ConfigMap\r\nmetadata: {name: a}\r\n---\r\napiVersion: v1\r\nkind: X\r\n";
    assert_eq!(problems(dos)[0].split(": ").take(2).collect::<Vec<_>>(), ["m.yaml:6", "kind"]);
}

#[test]
fn sec_11_no_problem_shows_a_secret() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: 'hunter2!'}\nstringData: {b: [hunter2], c: 4711}\ntype: x\n";
    let found = problems(text);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found.iter().all(|problem| !problem.contains("hunter2") && !problem.contains("4711")), "{found:?}");
    let loaded =
        manifest::parse([("m.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {a: hunter2}\n")]);
    assert!(!format!("{loaded:?}").contains("hunter2"));
}
