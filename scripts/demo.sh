#!/usr/bin/env bash
# From nothing to a tool that answers over SIP: installs, builds, starts a real MCP server and the edge, calls, shows the ladder. Then the
# same with three edges and one Redis, and the edge that serves the call is killed while the tool runs. Stops everything.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
cd "$ROOT"
bold=$'\e[1m' off=$'\e[0m'
[ -t 1 ] || bold='' off=''
step() { printf '\n%s%s%s\n' "$bold" "$*" "$off"; }

dir=$(mktemp -d "${TMPDIR:-/tmp}/sipmcp-demo.XXXXXX")
pids=()
store_pid=
cleanup() {
  local rc=$? pid
  trap - EXIT INT TERM
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  # An edge drains; who takes longer than it may is not waited for.
  local end=$((SECONDS + 15))
  for pid in "${pids[@]}"; do
    while kill -0 "$pid" 2>/dev/null && [ $SECONDS -lt $end ]; do sleep 0.1; done
    { kill -KILL "$pid" || true; wait "$pid" || true; } 2>/dev/null
  done
  # Last: edges give their leases back.
  if [ -n "$store_pid" ]; then
    kill -KILL "$store_pid" 2>/dev/null || true
    { wait "$store_pid" || true; } 2>/dev/null
  fi
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
"$ROOT/scripts/install.sh" rust everything redis openssl
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

step "7. Three edges, one Redis, one set of keys"
redis_port=$(free_port)
redis-server --port "$redis_port" --bind 127.0.0.1 --save '' --appendonly no --maxmemory-policy noeviction --dir "$dir" >"$dir/redis.log" 2>&1 &
store_pid=$!
wait_for "$dir/redis.log" "Ready to accept connections" >/dev/null || die "Redis did not start"
fleet=$dir/fleet
mkdir "$fleet"
cp crds/examples/domain.yaml "$fleet"
# A dialog of an anonymous caller ends with his connection: nobody could prove at another edge that it is his. Here callers say who they are.
sed 's/{anonymous: {}}, //' crds/examples/policies.yaml >"$fleet/policies.yaml"
"$bin/sipmcp" keys --edge demo >"$fleet/keys.yaml"
# Two addresses of one server. What is not declared to be safe to repeat is taken to be unsafe.
agent() { # NAME, TOOLS
  printf -- '---\napiVersion: sipmcp.dev/v1alpha1\nkind: McpAgent\nmetadata: {name: %s}\nspec:\n' "$1"
  printf '  address: {user: %s, domainRef: {name: demo}}\n  backend: {mcpHttp: {url: "%s"}}\n' "$1" "$echo_url"
  printf '  capabilities: {source: Discovered, tools: [%s]}\n' "$2"
}
{ agent echo "{name: sleep, effect: ReadOnly}"; agent unsafe ""; } >"$fleet/agents.yaml"

# The edges reach each other over mutual TLS; each certificate names its edge.
openssl_new() { openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 "$@" 2>>"$dir/openssl.log"; }
openssl_new -subj "/CN=demo mesh" -keyout "$dir/ca.key" -out "$dir/ca.crt" || die "openssl made no authority"
declare -A edge_pids ports
for id in one two three; do
  openssl_new -CA "$dir/ca.crt" -CAkey "$dir/ca.key" -subj "/CN=$id" -addext "subjectAltName=DNS:$id" -addext basicConstraints=critical,CA:FALSE \
    -addext extendedKeyUsage=serverAuth,clientAuth -keyout "$dir/$id.key" -out "$dir/$id.crt" || die "openssl made no certificate"
  ports[$id]=$(free_port)
  sed -e "s/127.0.0.1:6379/127.0.0.1:$redis_port/" -e "s/port: 5060/port: ${ports[$id]}/" crds/examples/shared/edge.yaml >"$dir/edge-$id.yaml"
  "$bin/sipmcp-edge" --manifests "$fleet,$dir/edge-$id.yaml" --edge-id "$id" --admin 127.0.0.1:0 --shards 1 --audit "$dir/audit-$id.json" \
    --mesh-listen 127.0.0.1:0 --mesh-cert "$dir/$id.crt" --mesh-key "$dir/$id.key" --mesh-ca "$dir/ca.crt" >"$dir/edge-$id.log" 2>&1 &
  edge_pids[$id]=$!
  pids+=($!)
done
"$bin/sipmcp" check "$fleet" "$dir/edge-one.yaml"
for id in one two three; do
  wait_for "$dir/edge-$id.log" ' ready' >/dev/null || die "edge $id did not start"
  say "edge $id   127.0.0.1:${ports[$id]}"
done

# call_and_kill ID EXIT-CODE URI PROXIES: calls the slow tool and kills edge ID while it runs; the ladder as it happens.
call_and_kill() {
  local id=$1 want=$2 log=$dir/call-$1.log pid viewer rc=0 i
  printf '\n%s$ sipmcp call %s --tool sleep --arg seconds=3 --via info%s\n' "$bold" "$3" "$off"
  : >"$log"
  "$bin/sipmcp" call "$3" --tool sleep --arg seconds=3 --via info --era modern --transport tcp --proxy "$4" --trace --timeout 50 >>"$log" 2>&1 &
  pid=$!
  tail -n +1 -s 0.1 --pid="$pid" -f "$log" &
  viewer=$!
  pids+=("$pid" "$viewer")
  for i in $(seq 200); do
    awk '/tools\/call/ { asked = 1; next } asked && /200 OK/ { taken = 1 } END { exit !taken }' "$log" && break
    sleep 0.1
  done
  sleep 0.5
  printf '%11s kill -9: edge %s\n' '' "$id" >>"$log"
  { kill -KILL "${edge_pids[$id]}"; wait "${edge_pids[$id]}" || true; } 2>/dev/null
  wait "$pid" || rc=$?
  wait "$viewer" || true
  [ "$rc" = "$want" ] || die "the call ended with $rc instead of $want"
  [ "$(grep -c "TCP/127.0.0.1" "$log")" -ge 2 ] || die "the ladder shows one edge"
}
proxies() { local id list=; for id in "$@"; do list+=,sip:127.0.0.1:${ports[$id]}; done; printf '%s' "${list#,}"; }

step "8. The edge dies while the tool runs; another one answers"
call_and_kill one 0 sip:echo@demo.example "$(proxies one two three)"
step "9. A tool that may not run twice: an error that says so, instead of silence"
call_and_kill two 5 sip:unsafe@demo.example "$(proxies two three)"

kill -TERM "${edge_pids[three]}"
wait "${edge_pids[three]}" || die "the last edge did not drain and end by itself"
step "Done: nothing is left running."
say "Next: sipmcp-edge --manifests crds/examples, sipmcp call --help, and make kill for every other fault"
