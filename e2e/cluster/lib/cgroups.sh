# Sourced by scripts/cluster.sh: the cgroups of a cluster. One holds every process that the launcher starts, so that none can be lost; each node
# has one for its pods.
# shellcheck shell=bash

# The folders where hierarchies are mounted: of version 1 one per controller, of version 2 one.
hierarchies() { awk '$3 == "cgroup" || $3 == "cgroup2" {print $2}' /proc/self/mounts | sort -u; }

is_v2() { [ "$(stat -fc %T "$1")" = cgroup2fs ]; }

# Where processes are accounted: any one hierarchy will do; version 2 is there on all but very old systems.
accounting() {
  local h
  for h in $(hierarchies); do
    if is_v2 "$h"; then echo "$h/$CGROUP"; return 0; fi
  done
  for h in $(hierarchies); do
    case $h in */systemd | */pids) echo "$h/$CGROUP"; return 0 ;; esac
  done
  die "no cgroup hierarchy is mounted"
}

# Version 2 gives a group only the controllers that its parent hands on.
disabled_controllers() { # disabled_controllers HIERARCHY
  local controller
  for controller in $(<"$1/cgroup.controllers"); do
    grep -qw "$controller" "$1/cgroup.subtree_control" || echo "$controller"
  done
}

make_cgroups() { # make_cgroups NODES
  local h i controller
  mkdir -p "$(accounting)"
  for h in $(hierarchies); do
    for ((i = 1; i <= $1; i++)); do
      mkdir -p "$h/$PREFIX-node$i"
      # Version 1 starts a group without processors and memory nodes; nothing can run in it then.
      if [ -e "$h/$PREFIX-node$i/cpuset.mems" ] && ! is_v2 "$h"; then
        cat "$h/cpuset.cpus" >"$h/$PREFIX-node$i/cpuset.cpus"
        cat "$h/cpuset.mems" >"$h/$PREFIX-node$i/cpuset.mems"
      fi
    done
    if is_v2 "$h"; then
      for controller in $(disabled_controllers "$h"); do
        echo "+$controller" >"$h/cgroup.subtree_control" 2>/dev/null || say "cgroup controller $controller cannot be given to the pods"
      done
    fi
  done
}

our_cgroups() { # deepest first
  local h
  for h in $(hierarchies); do
    find "$h" -mindepth 1 -maxdepth 1 -type d \( -name "$CGROUP" -o -name "$PREFIX-node[0-9]" \) -exec find {} -depth -type d \; 2>/dev/null
  done
}

our_processes() {
  local group
  our_cgroups | while read -r group; do cat "$group/cgroup.procs" 2>/dev/null; done | sort -nu
}

# Ends everything that the launcher started and all that came of it: nothing else is in these groups.
kill_all() {
  local pid deadline=$((SECONDS + 20)) pids
  while pids=$(our_processes) && [ -n "$pids" ]; do
    for pid in $pids; do kill -KILL "$pid" 2>/dev/null || true; done
    [ $SECONDS -lt $deadline ] || die "these processes of the cluster $PREFIX do not end: $(echo "$pids" | tr '\n' ' ')"
    sleep 0.1
  done
}

remove_cgroups() {
  local group deadline=$((SECONDS + 10))
  while our_cgroups | grep -q .; do
    our_cgroups | while read -r group; do rmdir "$group" 2>/dev/null || true; done
    [ $SECONDS -lt $deadline ] || die "these cgroups of the cluster $PREFIX cannot be removed: $(our_cgroups | tr '\n' ' ')"
    sleep 0.05
  done
}
