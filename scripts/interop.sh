#!/usr/bin/env bash
# Real peers against the real programs. interop.sh [test|nightly]; the table of times goes to target/interop/table.md.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
cd "$ROOT"
"$ROOT/scripts/install.sh" everything modern peers redis
programs sipmcp-edge sipmcp echo-agent
export SIPMCP_BIN=$TARGET/debug SIPMCP_CACHE=$CACHE
log=$(mktemp)
trap 'rm -f "$log"' EXIT
rounds=1
[ "${1:-test}" = nightly ] && rounds=5
for _ in $(seq "$rounds"); do
  # The tests mostly wait for other processes.
  RUST_TEST_THREADS=${RUST_TEST_THREADS:-4} cargo test --locked --workspace --test interop 2>&1 | tee -a "$log"
done
# A test whose peer is missing has passed for cargo; here it counts as skipped.
skipped=$(grep -c '^skipped: ' "$log" || true)
[ "$skipped" -eq 0 ] || echo "count: -$skipped passed, 0 failed, $skipped skipped"
