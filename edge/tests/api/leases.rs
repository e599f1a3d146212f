//! How long an edge may be silent before the others take over: `SipEdge.spec.failover.leaseSeconds`.

use crate::fleet::{Member, Redis, member, udp};
use crate::support::{Edge, Manifests, free_port};

fn lease(manifests: &Manifests, seconds: u32) {
    let path = manifests.path().join("edge.yaml");
    let edge = std::fs::read_to_string(path).unwrap();
    let kept: String =
        edge.lines().filter(|line| !line.contains("failover:")).map(|line| format!("{line}\n")).collect();
    manifests.write("edge.yaml", &format!("{kept}  failover: {{leaseSeconds: {seconds}}}\n"));
}

/// What is left of the leases of the others, longest first.
fn left(status: &serde_json::Value) -> u64 {
    let own = status["store"]["pod"].clone();
    let pods = status["store"]["pods"].as_array().unwrap();
    pods.iter().filter(|pod| pod["pod"] != own).filter_map(|pod| pod["leaseLeftMs"].as_u64()).max().unwrap_or(0)
}

#[test]
fn each_edge_has_the_lease_of_its_manifest_and_a_change_acts_with_the_next_renewal() {
    let redis = Redis::start(&[]);
    let a = Member::start(&redis, "edge-0", None);
    let manifests = member(redis.port, &udp(free_port()));
    lease(&manifests, 12);
    let b = Edge::start_with(&manifests, &["--edge-id", "edge-1"]);
    a.edge.status_until(|status| (8_000..=12_000).contains(&left(status)));
    // Every edge has its own: this one has the default.
    b.status_until(|status| (1..=5_000).contains(&left(status)));

    // What was granted runs on; the next renewals are for 3 s.
    lease(&manifests, 3);
    b.status_until(|status| status["configVersion"] == 2);
    lease(&a.manifests, 8);
    b.status_until(|status| (5_001..=8_000).contains(&left(status)));
    a.edge.status_until(|status| (1..=3_000).contains(&left(status)));
    assert_eq!(b.status()["store"]["leaseHeld"], true);
}
