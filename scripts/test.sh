#!/usr/bin/env bash
# Everything that a change must pass, part by part, with the seconds of each against its share of the whole.
#   test.sh            all parts              (make test, CI)
#   test.sh check      fmt, lint, unit        (make check)
#   test.sh nightly    all parts, long forms  (make nightly)
# Ends with "N passed, N failed, N skipped" and exit code 0 only without a failure.
set -uo pipefail
source "$(dirname "$0")/lib.sh"
cd "$ROOT"
mode=${1:-test}
passed=0 failed=0 skipped=0
broken=() names=()
start=$SECONDS
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

# part NAME SHARE-IN-MINUTES COMMAND…: its output is shown as it comes; its tests are counted.
part() {
  local name=$1 share=$2 t0=$SECONDS rc p f i
  shift 2
  say ""
  say "== $name"
  "$@" > >(tee "$logs/$name") 2>&1
  rc=$?
  sleep 0.2 # the tee has to finish its last line
  # cargo prints one "test result:" per binary; the other parts print "count: P passed, F failed, S skipped".
  read -r p f i < <(sed -E 's/\x1b\[[0-9;]*m//g' "$logs/$name" | awk '
    /^test result:/ { for (k = 1; k <= NF; k++) { if ($k ~ /^passed/) p += $(k-1); if ($k ~ /^failed/) f += $(k-1); if ($k ~ /^ignored/) i += $(k-1) } }
    /^count: / { p += $2; f += $4; i += $6 }
    END { print p + 0, f + 0, i + 0 }')
  if [ $((p + f + i)) -eq 0 ]; then
    if [ $rc -eq 0 ]; then p=1; else f=1; fi
  elif [ $rc -ne 0 ] && [ "$f" -eq 0 ]; then
    f=1
  fi
  passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + i))
  if [ $rc -ne 0 ] || [ "$f" -ne 0 ]; then
    broken+=("$name")
    # Told again at the very end: who reads only the last lines wants to know which.
    while read -r line; do names+=("$name: $line"); done < <(sed -E 's/\x1b\[[0-9;]*m//g' "$logs/$name" | grep -aE '^(test .* FAILED|FAILED |error(\[|:))' | head -n 12)
  fi
  say "-- $name: $((SECONDS - t0)) s of $((share * 60)) s; $p passed, $f failed, $i skipped"
}

skip() { # NAME WHY: a part that cannot run here
  say ""
  say "== $1: skipped: $2"
  skipped=$((skipped + 1))
}

lint() { cargo fmt --all --check && cargo clippy --locked --workspace --all-targets -- -D warnings; }
unit() { cargo test --locked --workspace --exclude interop --no-fail-fast; }

case $mode in
  check)
    part lint 8 lint
    part unit 4 unit
    ;;
  test | nightly)
    seeds=500
    [ "$mode" = nightly ] && seeds=10000
    part install 4 scripts/install.sh rust everything modern peers redis valkey libfaketime kamailio deny
    if scripts/install.sh wasm; then
      part wasm 1 make --no-print-directory wasm
    elif [ "${CI:-}" = true ]; then
      part wasm 1 false
    else
      skip wasm "no target wasm32-unknown-unknown (rustup target add wasm32-unknown-unknown)"
    fi
    part lint 8 lint
    part layers 1 scripts/layers.sh
    part deny 1 scripts/deny.sh
    if have go || have helm; then
      part charts 3 scripts/charts.sh
    elif [ "${CI:-}" = true ]; then
      part charts 3 false
    else
      skip charts "neither helm nor Go, which builds it"
    fi
    part unit 4 unit
    part sim 3 scripts/sim.sh "SEEDS=$seeds"
    part mutants 2 scripts/sim.sh MUTANT=all
    part interop 6 scripts/interop.sh "$mode"
    part bench 2 scripts/bench.sh smoke
    part kill 6 scripts/kill.sh quick
    # A real Kubernetes; where none can be had it says why and counts as skipped, with CI=true as failed.
    [ "$mode" = nightly ] && part e2e 20 scripts/e2e.sh
    [ "$mode" = nightly ] && part fuzz 60 scripts/fuzz.sh 300
    ;;
  *) die "test.sh: unknown mode '$mode'" ;;
esac

say ""
say "$((SECONDS - start)) s in all"
[ ${#broken[@]} -eq 0 ] || say "failed: ${broken[*]}"
for name in ${names[@]+"${names[@]}"}; do say "  $name"; done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
