# Sourced by scripts/cluster.sh: what a cluster changes on the machine as a whole, kept by the first cluster and put back by the last one.
# shellcheck shell=bash

# The kubelet writes these, and they are not a namespace's own.
KUBELET_SYSCTLS=(vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes)

save_machine() {
  [ ! -e "$BASE/machine" ] || return 0
  mkdir -p "$BASE"
  local key h controller
  {
    for key in "${KUBELET_SYSCTLS[@]}"; do echo "sysctl $key $(sysctl -n "$key")"; done
    for h in $(hierarchies); do
      ! is_v2 "$h" || for controller in $(disabled_controllers "$h"); do echo "controller $controller $h"; done
    done
    # `ip netns add` makes this folder, and a mount of it, when it is the first to.
    if [ ! -d /run/netns ]; then echo "netns-folder made"; fi
    if ! mountpoint -q /run/netns; then echo "netns-mount made"; fi
  } >"$BASE/machine.new"
  mv "$BASE/machine.new" "$BASE/machine"
}

# Only when no cluster is left.
restore_machine() {
  local what key value folders
  [ -d "$BASE" ] || return 0
  folders=$(find "$BASE" -mindepth 1 -maxdepth 1 -type d 2>/dev/null)
  [ -z "$folders" ] || return 0
  if [ -f "$BASE/machine" ]; then
    while read -r what key value; do
      case $what in
        sysctl) [ "$(sysctl -n "$key")" = "$value" ] || sysctl -qw "$key=$value" ;;
        controller) echo "-$key" >"$value/cgroup.subtree_control" 2>/dev/null || say "cgroup controller $key stays enabled in $value: it is in use" ;;
        netns-mount) if mountpoint -q /run/netns && [ -z "$(ls -A /run/netns)" ]; then umount /run/netns; fi ;;
      esac
    done <"$BASE/machine"
    if grep -q '^netns-folder' "$BASE/machine" && ! mountpoint -q /run/netns; then rmdir /run/netns 2>/dev/null || true; fi
  fi
  rm -rf "$BASE"
}
