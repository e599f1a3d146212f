# Sourced by scripts/cluster.sh: the cluster's network. A bridge in a namespace of its own joins the nodes and, by one link, the machine: the
# machine's own firewall and bridge settings do not touch what the nodes say to each other. The nodes' default route ends at the bridge, which
# forwards nothing: a cluster reaches the machine, never the world. The machine reaches nodes, pods and ClusterIPs.
# shellcheck shell=bash

make_network() { # make_network NODES
  local i j hub
  hub=$(netns net)
  ip netns add "$hub"
  ip -n "$hub" link add br0 type bridge
  ip -n "$hub" addr add "$NODE_NET.254/24" dev br0
  ip -n "$hub" link set br0 up
  ip -n "$hub" link set lo up
  ip link add "$HOST_LINK" type veth peer name host netns "$hub"
  ip -n "$hub" link set host master br0 up
  ip addr add "$HOST_IP/24" dev "$HOST_LINK"
  ip link set "$HOST_LINK" up
  for ((i = 1; i <= $1; i++)); do
    ip netns add "$(netns "node$i")"
    ip -n "$hub" link add "node$i" type veth peer name eth0 netns "$(netns "node$i")"
    ip -n "$hub" link set "node$i" master br0 up
    ip -n "$(netns "node$i")" link set lo up
    ip -n "$(netns "node$i")" addr add "$(node_ip "$i")/24" dev eth0
    ip -n "$(netns "node$i")" link set eth0 up
    ip -n "$(netns "node$i")" route add default via "$NODE_NET.254"
    # /proc/sys/net shows the namespace of the process that opens it.
    nsenter --net="/run/netns/$(netns "node$i")" sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables' ||
      die "the kernel's bridge netfilter is not there (modprobe br_netfilter): a Service could not answer a pod on the same node"
    ip route add "$POD_NET.$i.0/24" via "$(node_ip "$i")" dev "$HOST_LINK"
  done
  ip route add "$SERVICE_NET.0/16" via "$(node_ip 1)" dev "$HOST_LINK"
  for ((i = 1; i <= $1; i++)); do
    for ((j = 1; j <= $1; j++)); do
      [ "$i" = "$j" ] || ip -n "$(netns "node$i")" route add "$POD_NET.$j.0/24" via "$(node_ip "$j")"
    done
  done
}

remove_network() {
  local name
  ip link del "$HOST_LINK" 2>/dev/null || true
  for name in net node1 node2 node3; do
    if [ -e "/run/netns/$PREFIX-$name" ]; then
      ip netns del "$PREFIX-$name" 2>/dev/null || rm -f "/run/netns/$PREFIX-$name"
    fi
  done
}

# cut NODE, heal NODE: the node's cable.
cut_node() { ip -n "$(netns net)" link set "$1" down; }
heal_node() { ip -n "$(netns net)" link set "$1" up; }
