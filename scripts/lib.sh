# Sourced by the other scripts: where things lie, and small helpers.
# shellcheck shell=bash
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${SIPMCP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sipmcp}
TOOLS=$CACHE/tools
mkdir -p "$TOOLS"
export PATH="$TOOLS/bin:$PATH"
export CARGO_TERM_PROGRESS_WHEN=never
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# A lock, so that two runs do not install into one cache at the same time.
with_lock() {
  exec 9>"$CACHE/lock"
  flock 9
  "$@"
  local rc=$?
  exec 9>&-
  return $rc
}

# programs NAME…: debug builds of these binaries, chosen out of the whole workspace with its tests, as `cargo test --workspace` does: a smaller
# choice would have other features of the same libraries and build most of them once more.
programs() {
  local names=() name
  for name in "$@"; do names+=(--bin "$name"); done
  cargo build --locked -q --workspace "${names[@]}" --test interop
}
