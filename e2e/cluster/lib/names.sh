# Sourced by scripts/cluster.sh: what a cluster is called, where it lies, and the addresses it has.
# shellcheck shell=bash disable=SC2034
#
# A cluster has a prefix (for its namespaces, links, cgroups and folders) and an index 0 to 9 (for its addresses), so that several stand beside
# each other: nodes 10.(200+i).0.0/24, pods 10.(244+i).N.0/24 on node N, services 10.(96+i).0.0/16. The ports are of the cluster's own network
# namespaces and need no number.
BASE=/var/lib/sipmcp-cluster
K8S_VERSION=v1.36.3
PAUSE_IMAGE=sipmcp.dev/pause:1

# names PREFIX INDEX
names() {
  PREFIX=$1 INDEX=$2
  DIR=$BASE/$PREFIX
  OUT=$ROOT/target/cluster/$PREFIX
  LOGS=$OUT/logs
  NODE_NET=10.$((200 + INDEX)).0
  POD_NET=10.$((244 + INDEX))
  SERVICE_NET=10.$((96 + INDEX)).0
  HOST_IP=$NODE_NET.1
  API=https://$(node_ip 1):6443
  PKI=$DIR/pki
  HOST_LINK=$PREFIX-host
  CGROUP=$PREFIX-procs
}

node_ip() { echo "$NODE_NET.$(($1 + 1))"; }
netns() { echo "$PREFIX-$1"; }
node_root() { echo "$DIR/node$1/root"; }

# is_free INDEX: no other cluster has these addresses, and the machine has no route of its own to them.
is_free() {
  local file net
  for file in "$BASE"/*/index; do
    [ ! -e "$file" ] || [ "$(cat "$file")" != "$1" ] || return 1
  done
  for net in "10.$((200 + $1)).0.0/24" "10.$((244 + $1)).0.0/16" "10.$((96 + $1)).0.0/16"; do
    [ -z "$(ip -4 route show root "$net" table all 2>/dev/null)" ] || return 1
    [ -z "$(ip -4 route show match "$net" table all 2>/dev/null | grep -v '^default' || true)" ] || return 1
  done
}

# choose_index: the lowest free one.
choose_index() {
  local i
  for i in 0 1 2 3 4 5 6 7 8 9; do
    if is_free "$i"; then echo "$i"; return 0; fi
  done
  die "all of 10.200.0.0 to 10.209.0.0, 10.244.0.0 to 10.253.0.0 and 10.96.0.0 to 10.105.0.0 are in use on this machine"
}
