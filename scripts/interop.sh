#!/usr/bin/env bash
# Real peers against the real programs. interop.sh [test|nightly]
set -euo pipefail
source "$(dirname "$0")/lib.sh"
cd "$ROOT"
"$ROOT/scripts/install.sh" everything modern peers
cargo build --locked -q -p edge -p cli -p echo-agent
export SIPMCP_BIN=$TARGET/debug SIPMCP_CACHE=$CACHE
exec cargo test --locked -p interop
