#!/usr/bin/env bash
# kill.sh [quick|ARGUMENTS…]: faults against three real edges, a real store and real clients; one table of what each cost.
# The rows go to target/bench/kill.jsonl, too. `kill --help` lists the arguments; `quick` is what `make test` runs.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
cd "$ROOT"
"$ROOT/scripts/install.sh" redis
args=("$@")
[ "${1:-}" = quick ] && args=(--quick "${@:2}")
# A debug build: the switch that leaves the journal out is in no other.
cargo build --locked -q -p edge -p ledger-agent -p kill
export SIPMCP_BIN=$TARGET/debug
exec "$TARGET/debug/kill" --out "$ROOT/target/bench/kill.jsonl" "${args[@]}"
