#!/usr/bin/env bash
# A real Kubernetes on this machine: etcd, API server, controller manager, scheduler, and for each node containerd, kubelet and kube-proxy in
# namespaces of their own. Linux and root. See e2e/cluster/README.md.
#   cluster.sh up [--nodes 1-3] [--prefix NAME] [--index 0-9] [--proxy nftables|iptables] [--grace S] [--toleration S]
#   cluster.sh down [--prefix NAME] [--keep-logs]    every trace of it is removed, also of one that was broken off
#   cluster.sh image [--prefix NAME] ARCHIVE…        OCI archives (scripts/images.sh) into every node
#   cluster.sh cut|heal NODE [--prefix NAME]         the node's network link
#   cluster.sh kubectl [--prefix NAME] ARGUMENT…
#   cluster.sh status                                the clusters of this machine
#   cluster.sh snapshot                              what a cluster could leave behind on a machine, as text
#   cluster.sh smoke                                 starts a cluster of two nodes, tries it, ends it; "count: P passed, F failed, S skipped"
#   cluster.sh kind                                  a kind cluster, where Docker is
set -euo pipefail
source "$(dirname "$0")/lib.sh"
source "$ROOT/images/oci.sh"
for part in names build pki cgroups network machine node control leftovers; do
  # shellcheck source=/dev/null
  source "$ROOT/e2e/cluster/lib/$part.sh"
done

# Two launchers on one machine take turns.
one_at_a_time() {
  exec 8>"$CACHE/cluster.lock"
  flock 8
}

need_root() {
  [ "$(uname -s)" = Linux ] || die "a cluster on this machine needs Linux; on others: KUBECONFIG of a cluster you have, or make kind"
  [ "$(id -u)" = 0 ] || die "a cluster on this machine needs root: it makes network namespaces, mounts and cgroups"
}

known_index() { cat "$BASE/$1/index" 2>/dev/null || true; }

up() {
  local nodes=1 prefix=sipmcp index='' t0=$EPOCHREALTIME known i
  PROXY_MODE=nftables GRACE=10 TOLERATION=3
  while [ $# -gt 0 ]; do
    case $1 in
      --nodes) nodes=$2 ;;
      --prefix) prefix=$2 ;;
      --index) index=$2 ;;
      --proxy) PROXY_MODE=$2 ;;
      --grace) GRACE=$2 ;;
      --toleration) TOLERATION=$2 ;;
      *) die "cluster.sh up: unknown option '$1'" ;;
    esac
    [ $# -ge 2 ] || die "cluster.sh up: $1 needs a value"
    shift 2
  done
  [[ $nodes =~ ^[1-3]$ ]] || die "--nodes $nodes: 1, 2 or 3"
  [[ $index =~ ^[0-9]?$ ]] || die "--index $index: 0 to 9"
  [[ $PROXY_MODE =~ ^(nftables|iptables)$ ]] || die "--proxy $PROXY_MODE: nftables or iptables"
  [[ $GRACE =~ ^[0-9]+$ && $TOLERATION =~ ^[0-9]+$ ]] || die "--grace and --toleration are seconds"
  valid_prefix "$prefix"
  need_root
  one_at_a_time
  "$ROOT/scripts/install.sh" cluster
  build_programs
  local options="$nodes $PROXY_MODE $GRACE $TOLERATION"
  known=$(known_index "$prefix")
  if [ -n "$known" ]; then
    names "$prefix" "$known"
    if [ "$(cat "$DIR/done" 2>/dev/null)" = "$options" ] && [ "${index:-$known}" = "$known" ] && [ -e "$OUT/kubeconfig" ] && nodes_ready "$nodes"; then
      tell "$t0" "runs already"
      return 0
    fi
    say "removing what is left of the cluster $prefix"
    remove
  fi
  t0=$EPOCHREALTIME
  [ -n "$index" ] || index=$(choose_index)
  is_free "$index" || die "the addresses of index $index are in use on this machine"
  names "$prefix" "$index"
  trap 'failed_start' EXIT
  trap 'exit 130' INT TERM HUP
  save_machine
  mkdir -p "$DIR" "$LOGS"
  rm -f "$LOGS"/*.log
  echo "$index" >"$DIR/index"
  echo "$nodes" >"$DIR/nodes"
  echo "$OUT" >"$DIR/out"
  ln -sf "$PROGRAMS/kubectl" "$OUT/kubectl"
  make_pki "$nodes"
  make_network "$nodes"
  make_cgroups "$nodes"
  for ((i = 1; i <= nodes; i++)); do make_node "$i"; done
  start_control
  pause_image
  import_image "$DIR/pause.tar"
  until_true 120 "the API server (logs/node1-kube-apiserver.log)" kubectl get --raw /readyz
  start_managers
  for ((i = 1; i <= nodes; i++)); do start_kubelet "$i"; done
  until_true 120 "$nodes nodes to be Ready (logs/node1-kubelet.log)" nodes_ready "$nodes"
  # A pod cannot be made before it.
  until_true 120 "the ServiceAccount default (logs/node1-kube-controller-manager.log)" kubectl get serviceaccount default
  echo "$options" >"$DIR/done"
  trap - EXIT INT TERM HUP
  tell "$t0" "is ready"
}

# What failed is shown; `down`, or the next `up`, removes it.
# shellcheck disable=SC2153 # PREFIX is set by names
failed_start() {
  local file
  say "error: the cluster $PREFIX did not start. The last lines of its logs ($LOGS):"
  for file in "$LOGS"/*.log; do
    [ ! -s "$file" ] || { say "-- ${file##*/}"; tail -n 4 "$file" | cut -c1-300 >&2; }
  done
}

tell() { # tell SINCE WHAT
  local seconds
  seconds=$(awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN {printf "%.1f", b - a}')
  say "cluster $PREFIX: $(cat "$DIR/nodes") node(s), Kubernetes $K8S_VERSION, $2 ($seconds s)"
  say "  export KUBECONFIG=$OUT/kubeconfig PATH=$OUT:\$PATH"
  echo "$OUT/kubeconfig"
}

pause_image() {
  local rootfs
  rootfs=$(mktemp -d)
  chmod 755 "$rootfs"
  install -m 755 "$PROGRAMS/pause" "$rootfs/pause"
  oci_archive "$DIR/pause.tar" "$PAUSE_IMAGE" "$rootfs" 65535:65535 / /pause
  rm -rf "$rootfs"
}

valid_prefix() { [[ $1 =~ ^[a-z][a-z0-9]{0,8}$ ]] || die "--prefix $1: one to nine small letters and digits, a letter first"; }

down() {
  local prefix=sipmcp keep=no t0=$EPOCHREALTIME
  while [ $# -gt 0 ]; do
    case $1 in
      --prefix) prefix=$2 && shift 2 ;;
      --keep-logs) keep=yes && shift ;;
      *) die "cluster.sh down: unknown option '$1'" ;;
    esac
  done
  valid_prefix "$prefix"
  need_root
  one_at_a_time
  names "$prefix" "$(known_index "$prefix")"
  if [ ! -d "$DIR" ]; then
    say "there is no cluster $prefix"
    rm -rf "$OUT"
    restore_machine
    return 0
  fi
  OUT=$(cat "$DIR/out" 2>/dev/null || echo "$OUT")
  remove
  if [ $keep = yes ]; then rm -f "$OUT/kubeconfig" "$OUT/kubectl"; else rm -rf "$OUT"; fi
  say "cluster $prefix: removed ($(awk -v a="$t0" -v b="$EPOCHREALTIME" 'BEGIN {printf "%.1f", b - a}') s)"
}

# Whatever there is of it, also when the start was broken off anywhere.
remove() {
  kill_all
  remove_network
  remove_cgroups
  # The nodes' mounts went with their last process; a mount that is still here would lead rm into somebody else's files.
  if grep -q " $DIR/" /proc/self/mountinfo; then
    awk -v d="$DIR/" 'index($5, d) == 1 {print $5}' /proc/self/mountinfo | sort -r | while read -r mount; do umount -l "$mount"; done
  fi
  rm -rf --one-file-system "$DIR"
  restore_machine
}

existing() { # existing PREFIX: names of a cluster that runs
  local index
  index=$(known_index "$1")
  [ -n "$index" ] || die "there is no cluster $1 (cluster.sh up --prefix $1)"
  names "$1" "$index"
  OUT=$(cat "$DIR/out") LOGS=$OUT/logs
  PROGRAMS=$(dirname "$(readlink -f "$OUT/kubectl")")
}

status() {
  local dir any=no
  for dir in "$BASE"/*/; do
    [ -e "$dir/index" ] || continue
    any=yes
    existing "$(basename "$dir")"
    echo "$PREFIX: $(cat "$DIR/nodes") node(s), $API, $OUT/kubeconfig, $([ -e "$DIR/done" ] && echo started || echo "broken off")"
  done
  [ $any = yes ] || say "no cluster on this machine"
}

kind_cluster() {
  have docker || die "make kind needs Docker, and there is no docker here. On Linux as root: make cluster"
  docker info >/dev/null 2>&1 || die "make kind needs Docker: the docker command is here, but its service does not answer (docker info). On Linux as root: make cluster"
  "$ROOT/scripts/install.sh" kind
  kind create cluster --name sipmcp --wait 120s
  say "images: scripts/images.sh dev, then: kind load image-archive target/images/NAME.tar --name sipmcp; the end: kind delete cluster --name sipmcp"
}

command=${1:-}
[ $# -eq 0 ] || shift
prefix=sipmcp
case $command in
  image | kubectl) if [ "${1:-}" = --prefix ]; then prefix=$2 && shift 2; fi ;;
  cut | heal) if [ "${2:-}" = --prefix ]; then prefix=$3; fi ;;
esac
case $command in
  up) up "$@" ;;
  down) down "$@" ;;
  image)
    existing "$prefix"
    import_image "$@"
    ;;
  kubectl)
    existing "$prefix"
    kubectl "$@"
    ;;
  cut | heal)
    existing "$prefix"
    "${command}_node" "${1:?a node}"
    ;;
  status) status ;;
  snapshot) snapshot ;;
  smoke)
    source "$ROOT/e2e/cluster/lib/smoke.sh"
    smoke
    ;;
  kind) kind_cluster ;;
  *) die "cluster.sh: say up, down, image, kubectl, cut, heal, status, snapshot, smoke or kind" ;;
esac
