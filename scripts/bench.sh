#!/usr/bin/env bash
# CPU per operation of edge and store, beside Kamailio in the same run. Figures: target/bench/sip.jsonl.
#   bench.sh [call|shared-call|register|exchange|all] [--runs N] [--seconds N]
set -euo pipefail
source "$(dirname "$0")/lib.sh"
cd "$ROOT"
scripts/install.sh rust redis kamailio
cargo build --locked --release -p bench -p edge -p echo-agent
mkdir -p target/bench
exec "${CARGO_TARGET_DIR:-$ROOT/target}/release/bench" "${@:-all}"
