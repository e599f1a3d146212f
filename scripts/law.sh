#!/usr/bin/env bash
# A scratch crate under the law of the pure zone (protocol/clippy.toml): each banned item must make clippy fail, by its own name.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir -p "$dir/src"
cp "$ROOT/protocol/clippy.toml" "$dir/clippy.toml"
printf '[package]\nname = "scratch"\nversion = "0.0.0"\nedition = "2024"\n[workspace]\n' >"$dir/Cargo.toml"
try() { # name, code, what clippy must name
  printf '#![deny(warnings, clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]\n%s\n' "$2" >"$dir/src/lib.rs"
  local out
  if out=$(cd "$dir" && CARGO_TARGET_DIR=$dir/target cargo clippy --offline -q 2>&1); then
    die "the law lets $1 pass"
  fi
  grep -qE 'disallowed (method|type|macro)' <<<"$out" && grep -qF "$3" <<<"$out" || { say "$out"; die "clippy failed for $1, but not because of the law"; }
}
try "a clock" 'pub fn f() -> std::time::Instant { std::time::Instant::now() }' 'Instant::now'
try "the wall clock" 'pub fn f() -> std::time::SystemTime { std::time::SystemTime::now() }' 'SystemTime::now'
try "a UDP socket" 'pub fn f(_: &std::net::UdpSocket) {}' 'UdpSocket'
try "a TCP socket" 'pub fn f(_: &std::net::TcpStream) {}' 'TcpStream'
try "an unbounded channel" 'pub fn f() { let _ = std::sync::mpsc::channel::<u8>(); }' 'mpsc::channel'
try "sleeping" 'pub fn f() { std::thread::sleep(std::time::Duration::ZERO) }' 'thread::sleep'
try "global randomness" 'pub fn f() -> std::hash::RandomState { std::hash::RandomState::new() }' 'RandomState::new'
# tokio and rand cannot even be named: they are no dependency of a pure crate, and a new one fails in layers.py.
fake() { # crate, dependency
  python3 - "$1" "$2" <<'P' | { python3 "$ROOT/scripts/layers.py" >/dev/null 2>&1 && exit 1 || exit 0; }
import json, sys
name, dep = sys.argv[1:]
print(json.dumps({"workspace_members": [name], "packages": [{"id": name, "name": name, "dependencies": [{"name": dep, "kind": None}]}]}))
P
}
for crate in sip-proto mcp-sip session-store edge-core; do
  for dep in tokio rand getrandom; do fake "$crate" "$dep" || die "layers.py lets $crate use $dep"; done
done
echo "law: 7 banned items and 12 forbidden arrows are refused"
