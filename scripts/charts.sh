#!/usr/bin/env bash
# The Helm charts: lint, rendering with many values, what they refuse (charts/tests). The last line says how many passed.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
cd "$ROOT"
"$ROOT/scripts/install.sh" helm yaml
# What a person's own helm is set to must change nothing here.
for name in $(compgen -e | grep '^HELM_' || true); do unset "$name"; done
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
export HELM_CACHE_HOME=$home/cache HELM_CONFIG_HOME=$home/config HELM_DATA_HOME=$home/data KUBECONFIG=$home/none
PYTHONDONTWRITEBYTECODE=1 python3 "$ROOT/charts/tests/test_charts.py" "$@"
