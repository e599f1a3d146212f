//! The committed code is what the contract says. After a change of the contract: `SIPMCP_REGENERATE=1 cargo test -p edge-api`.

use std::fs;
use std::path::Path;

#[test]
fn the_committed_code_is_made_of_the_contracts() {
    for (contract, name) in [("mesh", "sipmcp.mesh.v1.rs"), ("control", "sipmcp.control.v1.rs")] {
        compare(contract, name);
    }
}

fn compare(contract: &str, name: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let made = tempfile::tempdir().unwrap();
    let contract = protox::compile([root.join(format!("proto/{contract}.proto"))], [root.join("proto")]).unwrap();
    tonic_prost_build::configure().bytes(".").out_dir(made.path()).compile_fds(contract).unwrap();
    let made = fs::read_to_string(made.path().join(name)).unwrap();
    let committed = root.join("src/gen").join(name);
    if std::env::var_os("SIPMCP_REGENERATE").is_some() {
        fs::write(&committed, &made).unwrap();
    }
    assert!(fs::read_to_string(&committed).unwrap() == made, "{} is not what the contract says", committed.display());
}
