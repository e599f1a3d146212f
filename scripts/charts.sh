#!/usr/bin/env bash
# The Helm charts. The last line says how many tests passed.
#   charts.sh            lint, rendering with many values, what they refuse (charts/tests/run.py)
#   charts.sh server     the same renderings, shown to the API server of KUBECONFIG (charts/tests/server.py)
set -euo pipefail
source "$(dirname "$0")/lib.sh"
cd "$ROOT"
"$ROOT/scripts/install.sh" helm yaml
# What a person's own helm is set to must change nothing here.
for name in $(compgen -e | grep '^HELM_' || true); do unset "$name"; done
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
export HELM_CACHE_HOME=$home/cache HELM_CONFIG_HOME=$home/config HELM_DATA_HOME=$home/data PYTHONDONTWRITEBYTECODE=1
case ${1:-} in
  server) python3 "$ROOT/charts/tests/server.py" ;;
  # Rendering asks no cluster.
  *) KUBECONFIG=$home/none python3 "$ROOT/charts/tests/run.py" "$@" ;;
esac
