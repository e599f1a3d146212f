#!/usr/bin/env bash
# sim.sh [SEEDS=n] [SEED=n] [MUTANT=name|all]
set -euo pipefail
source "$(dirname "$0")/lib.sh"
cd "$ROOT"
args=()
for a in "$@"; do
  case $a in
    SEEDS=?*) args+=(--seeds "${a#*=}") ;;
    SEED=?*) args+=(--seed "${a#*=}") ;;
    MUTANT=?*) args+=(--mutant "${a#*=}") ;;
    SEEDS= | SEED= | MUTANT=) ;;
    *) die "sim.sh: unknown argument '$a'" ;;
  esac
done
cargo build --locked --profile sim -q -p sim
exec "$TARGET/sim/sim" "${args[@]}"
