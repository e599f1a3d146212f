#!/usr/bin/env bash
# fuzz.sh SECONDS: every target for so long. Needs a nightly toolchain.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
seconds=${1:-60}
have cargo-fuzz || cargo install cargo-fuzz --locked --root "$TOOLS" --quiet
cd "$ROOT/protocol/fuzz"
for target in $(cargo +nightly fuzz list --fuzz-dir .); do
  say "fuzz $target for $seconds s"
  cargo +nightly fuzz run --fuzz-dir . "$target" -- -max_total_time="$seconds" -timeout=10 -rss_limit_mb=4096 -print_final_stats=1
done
