# Sourced by scripts/cluster.sh: everything of a machine that a cluster could leave behind, as text that two moments can be compared by.
# shellcheck shell=bash

snapshot() {
  echo "# network namespaces"
  ip netns list | awk '{print $1}' | sort
  lsns -t net -n -o NS | sort
  echo "# links and addresses"
  ip -o addr show | awk '{print $2, $3, $4}' | sort
  ip -o link show | awk -F': ' '{print $2}' | sort
  echo "# routes and rules"
  { ip -4 route show table all; ip -6 route show table all; ip rule; } | sort
  echo "# packet filter"
  nft list ruleset
  cat /proc/net/ip_tables_names /proc/net/ip6_tables_names 2>/dev/null || true
  echo "# mounts"
  awk '{print $5, $6, $(NF - 2), $(NF - 1)}' /proc/self/mountinfo | sort
  echo "# cgroups"
  find /sys/fs/cgroup -type d 2>/dev/null | sort
  cat /sys/fs/cgroup/cgroup.subtree_control /sys/fs/cgroup/*/cgroup.subtree_control 2>/dev/null || true
  echo "# processes of a cluster's programs, and processes in namespaces of their own"
  local p exe own
  own=$(readlink /proc/self/ns/mnt)$(readlink /proc/self/ns/net)
  for p in /proc/[0-9]*; do
    exe=$(readlink "$p/exe" 2>/dev/null) || continue
    case ${exe##*/} in
      kubernetes | kube* | etcd | containerd* | runc | ctr) ;;
      *)
        [ "$(readlink "$p/ns/mnt" 2>/dev/null)$(readlink "$p/ns/net" 2>/dev/null)" != "$own" ] || continue
        [ -e "$p/exe" ] || continue # it has ended
        ;;
    esac
    echo "${p#/proc/} $exe"
  done
  echo "# settings of the kernel"
  sysctl -a 2>/dev/null | grep -E '^(kernel\.(panic|keys|core|printk|pid_max|threads)|vm\.(overcommit|panic|swappiness|max_map)|net\.(bridge|ipv4|ipv6|core|netfilter)|user\.)' |
    grep -vE 'nf_conntrack_count|tcp_fastopen_key|route\.flush|\.stable_secret|neigh.*(base_)?reachable_time|nf_log' | sort
  echo "# folders of the machine"
  find /run /etc /opt /srv /var/lib /var/log /var/run/ /usr/libexec -mindepth 1 -maxdepth 2 \( -path '*/apt/*' -o -path '*/dpkg/*' \) -prune -o -print 2>/dev/null | sort
}
