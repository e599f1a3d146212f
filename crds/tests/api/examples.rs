//! Every example is valid.

use crds::manifest::{self, ObjectKey};
use std::path::{Path, PathBuf};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

#[test]
fn the_examples_load_without_a_problem() {
    let loaded = manifest::load([examples()]);
    assert_eq!(loaded.problems, []);
    let objects = loaded.objects;
    assert_eq!(objects.domains["demo"].spec.domain, "demo.example");
    assert_eq!(objects.agents.len(), 2);
    assert_eq!(objects.policies.len(), 1);
    let echo = &objects.agents[&ObjectKey::new("default", "echo")];
    assert_eq!(echo.spec.backend.mcp_http.as_ref().unwrap().url, "http://127.0.0.1:3900/mcp");
    assert_eq!(echo.spec.in_flight.timeout_seconds, 60);
    assert_eq!(echo.origin.place(), format!("{}:2", examples().join("agents.yaml").display()));
}
