#!/usr/bin/env bash
# The tests on a real Kubernetes (e2e/tests). `make e2e`.
#   e2e.sh [ARGUMENT…]      for example a test's name, --keep, --scale --agents 10000; e2e.sh --list says what there is
# KUBECONFIG names a cluster that is there, and whose nodes have the images of scripts/images.sh dev; without it one is started on this machine
# (Linux, root, Go) and removed at the end, after a signal, too.
#   SIPMCP_E2E_NODES   nodes of that cluster (2)
#   SIPMCP_E2E_KEEP    yes: it stays
#   SIPMCP_BIN         a folder with the programs; without it they are built
# The last line is "count: P passed, F failed, S skipped". Where no cluster can be had, one line says why, and that counts as skipped; with
# CI=true it is a failure.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
cd "$ROOT"
PREFIX=e2e
NODES=${SIPMCP_E2E_NODES:-2}
IMAGES=(sipmcp-operator sipmcp-edge echo-agent redis-server)

not_run() {
  say "the cluster tests did not run: $1"
  if [ "${CI:-}" = true ]; then
    echo "count: 0 passed, 1 failed, 0 skipped"
    exit 1
  fi
  echo "count: 0 passed, 0 failed, 1 skipped"
  exit 0
}

build() {
  if [ -n "${SIPMCP_BIN:-}" ]; then
    [ -x "$SIPMCP_BIN/e2e" ] || die "there is no program $SIPMCP_BIN/e2e"
    return 0
  fi
  programs sipmcp-operator sipmcp-edge sipmcp kubectl-sipmcp echo-agent e2e
  export SIPMCP_BIN=$TARGET/debug
}

# What the tests start and this script started: ended in this order, whatever happens.
child=''
started=no
end() {
  local rc=$?
  trap - EXIT
  trap '' INT TERM HUP
  if [ -n "$child" ]; then
    # In somebody's cluster it cleans up behind itself; our own goes as a whole.
    if [ $started = yes ]; then kill -KILL "$child" 2>/dev/null || true; else kill -TERM "$child" 2>/dev/null || true; fi
    wait "$child" 2>/dev/null || true
  fi
  if [ $started = yes ]; then
    if [ "${SIPMCP_E2E_KEEP:-}" = yes ]; then
      say "the cluster stays: scripts/cluster.sh down --prefix $PREFIX"
    elif [ $rc -eq 0 ]; then
      "$ROOT/scripts/cluster.sh" down --prefix $PREFIX || rc=1
    else
      # The logs of its programs may say why.
      "$ROOT/scripts/cluster.sh" down --prefix $PREFIX --keep-logs || true
      say "logs of the cluster's programs: target/cluster/$PREFIX/logs"
    fi
  fi
  exit "$rc"
}

for argument in "$@"; do
  case $argument in
    --list | --help | -h)
      build
      exec "$SIPMCP_BIN/e2e" "$@"
      ;;
  esac
done

own=no
unset SIPMCP_E2E_CLUSTER
if [ -z "${KUBECONFIG:-}" ]; then
  own=yes
  [ "$(uname -s)" = Linux ] || not_run "a cluster on this machine needs Linux; KUBECONFIG names another one"
  [ "$(id -u)" = 0 ] || not_run "a cluster on this machine needs root; KUBECONFIG names another one"
  have go || not_run "a cluster on this machine needs Go (1.21 or newer), which builds Kubernetes and helm; KUBECONFIG names another one"
fi
if ! have helm; then
  have go || not_run "helm is not here, and no Go to build it"
  "$ROOT/scripts/install.sh" helm
fi
build
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

if [ $own = yes ]; then
  "$ROOT/scripts/images.sh" dev "${IMAGES[@]}" >/dev/null
  # Also what a run that was broken off has left of it.
  "$ROOT/scripts/cluster.sh" down --prefix $PREFIX 2>/dev/null || true
  started=yes
  if ! "$ROOT/scripts/cluster.sh" up --prefix $PREFIX --nodes "$NODES" >/dev/null; then
    "$ROOT/scripts/cluster.sh" down --prefix $PREFIX --keep-logs || true
    started=no
    trap - EXIT
    not_run "no cluster starts on this machine (logs: target/cluster/$PREFIX/logs)"
  fi
  archives=("${IMAGES[@]/#/$ROOT/target/images/}")
  "$ROOT/scripts/cluster.sh" image --prefix $PREFIX "${archives[@]/%/.tar}"
  export KUBECONFIG=$ROOT/target/cluster/$PREFIX/kubeconfig SIPMCP_E2E_CLUSTER=$PREFIX
  export PATH=$ROOT/target/cluster/$PREFIX:$PATH
fi
have kubectl || not_run "kubectl is not here"
# What a person's own helm is set to must change nothing here.
for name in $(compgen -e | grep '^HELM_' || true); do unset "$name"; done
helm_home=$ROOT/target/e2e/helm
mkdir -p "$helm_home"
export HELM_CACHE_HOME=$helm_home/cache HELM_CONFIG_HOME=$helm_home/config HELM_DATA_HOME=$helm_home/data

"$SIPMCP_BIN/e2e" --root "$ROOT" --bin "$SIPMCP_BIN" --out "$ROOT/target/bench/e2e.jsonl" --dumps "$ROOT/target/e2e" "$@" &
child=$!
rc=0
wait "$child" || rc=$?
child=''
exit $rc
