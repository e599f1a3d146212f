#!/usr/bin/env bash
# The arrows between crates, and the proof that the law of the pure zone bites.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
cd "$ROOT"
cargo metadata --locked --format-version 1 --no-deps | python3 scripts/layers.py
for link in session-store/clippy.toml edge/core/clippy.toml; do
  cmp -s "$link" protocol/clippy.toml || die "$link is not the law of the pure zone (protocol/clippy.toml)"
done
python3 scripts/conformance.py
exec "$ROOT/scripts/law.sh"
