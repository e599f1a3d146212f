//! The committed code is what the contract says. After a change of the contract: `SIPMCP_REGENERATE=1 cargo test -p operator --test api generated`.

use std::fs;
use std::path::Path;

#[test]
fn the_committed_code_is_made_of_the_contract() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let made = tempfile::tempdir().unwrap();
    let contract = root.join("proto/peer.proto");
    let contract = protox::compile([contract], [root.join("proto"), root.join("../edge/api/proto")]).unwrap();
    tonic_prost_build::configure()
        .bytes(".")
        .extern_path(".sipmcp.control.v1", "::edge_api::control")
        .out_dir(made.path())
        .compile_fds(contract)
        .unwrap();
    let made = fs::read_to_string(made.path().join("sipmcp.peer.v1.rs")).unwrap();
    let committed = root.join("src/gen/sipmcp.peer.v1.rs");
    if std::env::var_os("SIPMCP_REGENERATE").is_some() {
        fs::write(&committed, &made).unwrap();
    }
    assert!(fs::read_to_string(&committed).unwrap() == made, "{} is not what the contract says", committed.display());
}
