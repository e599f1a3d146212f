#!/usr/bin/env bash
# CPU per operation of edge and store, beside Kamailio in the same run. Figures: target/bench/sip.jsonl, the whole output: sip.log.
#   bench.sh [call|shared-call|register|message|latency|memory|all] [--runs N] [--seconds N]
#   bench.sh smoke     whether the measurement itself works: debug build, one pair of 2 s of each, no goals (target/bench/smoke.jsonl)
set -euo pipefail
source "$(dirname "$0")/lib.sh"
cd "$ROOT"
scripts/install.sh rust redis kamailio
mkdir -p target/bench
if [ "${1:-}" = smoke ]; then
  programs bench sipmcp-edge echo-agent
  exec "$TARGET/debug/bench" smoke --out target/bench/smoke.jsonl
fi
cargo build --locked --release -p bench -p edge -p echo-agent
machine() {
  date -u +'%F %H:%M UTC'
  echo "commit $(git describe --always --dirty 2>/dev/null || echo unknown)"
  echo "$(nproc) cores, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n1), Linux $(uname -r), load average $(cut -d' ' -f1-3 /proc/loadavg)"
  kamailio -v | head -n1
  redis-server --version
}
{
  machine
  "$TARGET/release/bench" "${@:-all}"
  echo "load average at the end: $(cut -d' ' -f1-3 /proc/loadavg)"
} 2>&1 | tee target/bench/sip.log
