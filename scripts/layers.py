"""The arrows of the house: fails on a dependency that the table does not allow. Reads `cargo metadata` from standard input."""

import json
import sys

# crate -> crates of ours that it may depend on, transitively included by hand so that every arrow stands here.
ARROWS = {
    "sip-proto": set(),
    "mcp-sip": {"sip-proto"},
    "session-store": {"mcp-sip", "sip-proto"},
    "session-store-redis": {"session-store", "mcp-sip", "sip-proto"},
    "session-store-file": {"session-store", "mcp-sip", "sip-proto"},
    "store-contract": {"session-store", "mcp-sip", "sip-proto"},
    "edge-api": set(),
    "edge-core": {"session-store", "mcp-sip", "sip-proto"},
    "crds": {"mcp-sip", "sip-proto"},
    "edge": {
        "edge-core", "session-store", "session-store-redis", "session-store-file", "edge-api", "mcp-sip", "sip-proto", "crds",
    },
    "operator": {"crds", "edge-api", "mcp-sip", "sip-proto"},
    "cli": {"sip-proto", "mcp-sip", "crds"},
    "echo-agent": set(),
    "ledger-agent": set(),
    "kill": {"mcp-sip", "sip-proto"},
    "bench": {"sip-proto"},
    "sim": {"edge-core", "session-store", "mcp-sip", "sip-proto"},
    "e2e-tests": {"crds", "sip-proto", "mcp-sip"},
    "interop": {"edge", "cli", "crds", "edge-core", "session-store", "mcp-sip", "sip-proto", "echo-agent"},
}
# Tests may start real peers.
DEV_ARROWS = {
    "edge": {"echo-agent"}, "operator": {"edge"}, "cli": {"edge", "echo-agent"},
    "session-store": {"store-contract"}, "session-store-redis": {"store-contract"}, "session-store-file": {"store-contract"},
}
# The pure zone: nothing that does I/O, reads a clock or takes random numbers. Everything else is a new arrow.
PURE = {
    "sip-proto": {"bytes", "hmac", "md-5", "memchr", "sdp-types", "sha2", "thiserror"},
    "mcp-sip": {"bytes", "cel", "serde", "serde_json", "sha2", "thiserror"},
    "session-store": {"aes-siv", "bytes", "hmac", "rmp-serde", "serde", "serde_json", "sha2", "thiserror", "zeroize"},
    "edge-core": {"aes-siv", "bytes", "hmac", "memchr", "serde", "serde_json", "sha2", "thiserror", "zeroize"},
}
# Libraries with few users.
ONLY = {
    "kube": {"crds", "operator", "cli", "e2e-tests"},
    "k8s-openapi": {"crds", "operator", "cli", "e2e-tests"},
    "rmcp": {"echo-agent", "ledger-agent", "interop"},
    "redis": {"session-store-redis"},
    "redb": {"session-store-file"},
    "rsip": set(),
    "axum": {"edge", "echo-agent", "ledger-agent", "interop"},
    "rustls": set(),
}


def main() -> int:
    metadata = json.load(sys.stdin)
    members = set(metadata["workspace_members"])
    ours = {p["name"]: p for p in metadata["packages"] if p["id"] in members}
    problems = []
    for name in sorted(ours.keys() - ARROWS.keys()):
        problems.append(f"{name}: a new crate; give it a row in scripts/layers.py")
    for name, package in sorted(ours.items()):
        for dependency in package["dependencies"]:
            target, kind = dependency["name"], dependency["kind"]
            if target in ours:
                allowed = ARROWS.get(name, set()) | (DEV_ARROWS.get(name, set()) if kind == "dev" else set())
                if target not in allowed:
                    problems.append(f"{name} -> {target}: not an arrow of docs/architecture.md")
                continue
            if kind is None and name in PURE and target not in PURE[name]:
                problems.append(f"{name} -> {target}: the pure zone may not use it")
            if kind is None and target in ONLY and name not in ONLY[target]:
                problems.append(f"{name} -> {target}: only {sorted(ONLY[target]) or 'nobody'} may use it")
    for problem in problems:
        print(f"layers: {problem}", file=sys.stderr)
    if not problems:
        print(f"layers: {len(ours)} crates, every arrow is allowed")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
