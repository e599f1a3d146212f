//! `generated/` is what the types say.

use std::path::Path;

#[test]
fn the_committed_definitions_are_the_generated_ones() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("generated");
    let mut names = Vec::new();
    for crd in crds::schema::all() {
        let name = format!("{}.yaml", crd.spec.names.plural);
        let committed = std::fs::read_to_string(folder.join(&name)).unwrap_or_default();
        assert_eq!(committed, crds::schema::to_yaml(crd).unwrap(), "{name}: run `cargo run -p crds --bin crdgen`");
        names.push(name);
    }
    let mut found: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    names.sort();
    assert_eq!(found, names, "a file that no type stands for");
}
