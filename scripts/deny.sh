#!/usr/bin/env bash
# Bans, licences, sources. Advisories need a database that is not always reachable: `cargo deny check advisories` by hand.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
"$ROOT/scripts/install.sh" deny
cd "$ROOT"
exec cargo-deny --log-level warn check --hide-inclusion-graph bans licenses sources
