#!/usr/bin/env bash
# From nothing to a tool that answers over SIP: installs, builds, starts a real MCP server and the edge, calls, shows the ladder, stops everything.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
cd "$ROOT"
bold=$'\e[1m' off=$'\e[0m'
[ -t 1 ] || bold='' off=''
step() { printf '\n%s%s%s\n' "$bold" "$*" "$off"; }

dir=$(mktemp -d "${TMPDIR:-/tmp}/sipmcp-demo.XXXXXX")
pids=()
cleanup() {
  local rc=$? pid
  trap - EXIT INT TERM
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  if [ $rc -ne 0 ]; then
    say ""
    say "the demo failed; the last lines of the logs:"
    tail -n 15 "$dir"/*.log >&2 2>/dev/null || true
  fi
  rm -rf "$dir"
  exit $rc
}
trap cleanup EXIT INT TERM

step "1. What is needed"
"$ROOT/scripts/install.sh" rust everything
say "building (a few minutes the first time)"
cargo build --locked -q -p edge -p cli -p echo-agent
bin=$TARGET/debug

# wait_for FILE PATTERN: the first line of FILE that matches, within 20 s.
wait_for() {
  local i line
  for i in $(seq 200); do
    line=$(grep -m1 -E "$2" "$1" 2>/dev/null || true)
    [ -n "$line" ] && { printf '%s' "$line"; return 0; }
    sleep 0.1
  done
  return 1
}
free_port() { python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])' 2>/dev/null || echo $((20000 + RANDOM % 20000)); }

step "2. Two real MCP servers"
"$bin/echo-agent" --listen 127.0.0.1:0 >"$dir/echo.log" 2>&1 &
pids+=($!)
echo_url=$(wait_for "$dir/echo.log" 'listening on http' | grep -oE 'http://[^ ]+') || die "echo-agent did not start"
say "echo        $echo_url  (rmcp, both eras)"
everything_js=$CACHE/server-everything-2026.8.31/node_modules/@modelcontextprotocol/server-everything/dist/index.js
everything_port=
if have node && [ -f "$everything_js" ]; then
  everything_port=$(free_port)
  PORT=$everything_port node "$everything_js" streamableHttp >"$dir/everything.log" 2>&1 &
  pids+=($!)
  wait_for "$dir/everything.log" "$everything_port" >/dev/null || die "server-everything did not start"
  say "everything  http://127.0.0.1:$everything_port/mcp  (@modelcontextprotocol/server-everything)"
fi

step "3. The edge, with crds/examples (ports of this run)"
mkdir "$dir/manifests"
sip_port=$(free_port) ws_port=$(free_port)
for f in crds/examples/*.yaml; do
  sed -e "s#http://127.0.0.1:3900/mcp#$echo_url#" -e "s#http://127.0.0.1:3901/mcp#http://127.0.0.1:${everything_port:-9}/mcp#" \
    -e "s/port: 5060/port: $sip_port/" -e "s/port: 5066/port: $ws_port/" "$f" >"$dir/manifests/$(basename "$f")"
done
"$bin/sipmcp" check "$dir/manifests"
"$bin/sipmcp-edge" --manifests "$dir/manifests" --admin 127.0.0.1:0 >"$dir/audit.log" 2>"$dir/edge.log" &
pids+=($!)
edge_pid=$!
wait_for "$dir/edge.log" "listening udp" >/dev/null || die "the edge did not start"
grep -E 'listening' "$dir/edge.log" | sed -E 's/\x1b\[[0-9;]*m//g; s/.*(listening .*)/\1/' >&2

export SIPMCP_PROXY="sip:127.0.0.1:$sip_port" SIPMCP_USER=alice SIPMCP_PASSWORD=wonderland
call() { # URI, further arguments: prints the command, the ladder and the answer
  printf '\n%s$ sipmcp call %s%s\n' "$bold" "$*" "$off"
  "$bin/sipmcp" call "$@" --trace 2>&1
}
step "4. A tool answers by MESSAGE"
call sip:echo@demo.example --tool echo --arg text=hello
[ -z "$everything_port" ] || call sip:everything@demo.example --tool echo --arg message=hello
step "5. The same in a call: INVITE, INFO, BYE"
call sip:echo@demo.example --tool echo --arg text=hello --via info
[ -z "$everything_port" ] || call sip:everything@demo.example --tool get-sum --arg a=2 --arg b=3 --via info

step "6. What the edge wrote down (no payloads)"
head -n 2 "$dir/audit.log"

kill -TERM "$edge_pid"
wait "$edge_pid" || die "the edge did not drain and end by itself"
step "Done: nothing is left running."
say "Next: sipmcp-edge --manifests crds/examples, and sipmcp call --help"
