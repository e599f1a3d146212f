# Sourced by scripts/cluster.sh: the programs, built once and kept by what they are made of.
# shellcheck shell=bash

# Sets PROGRAMS, a folder with kube-apiserver, kubelet, kubectl … and pause.
build_programs() {
  local source=$ROOT/e2e/cluster sum
  sum=$(cd "$source" && cat go.mod go.sum main.go pause/main.go | sha256sum | cut -c1-16)
  PROGRAMS=$CACHE/cluster/$sum
  [ ! -f "$PROGRAMS/done" ] || return 0
  "$ROOT/scripts/install.sh" go
  say "building Kubernetes $K8S_VERSION (once; about five minutes on two cores, and 4 GB of Go's caches)"
  # Built in this very place: a build that was broken off leaves no "done", and the next one goes on from Go's own cache.
  mkdir -p "$PROGRAMS"
  local v=k8s.io/component-base/version log=$PROGRAMS/build.log name
  local flags=(-trimpath -buildvcs=false)
  build_with_progress "$source" "$log" go build -v "${flags[@]}" \
    -ldflags "-s -w -X $v.gitVersion=$K8S_VERSION -X $v.gitMajor=1 -X $v.gitMinor=36" -o "$PROGRAMS/kubernetes" . ||
    { grep -v '^[A-Za-z0-9./_-]*$' "$log" | tail -n 20 >&2; die "go could not build e2e/cluster; all of it: $log"; }
  (cd "$source" && CGO_ENABLED=0 go build "${flags[@]}" -ldflags "-s -w" -o "$PROGRAMS/pause" ./pause) || die "go could not build e2e/cluster/pause"
  for name in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl; do
    ln -sf kubernetes "$PROGRAMS/$name"
  done
  "$PROGRAMS/kubectl" version --client >/dev/null || die "the program that was built does not run"
  rm -f "$log"
  touch "$PROGRAMS/done"
  local old
  for old in "$CACHE"/cluster/*/; do
    [ "${old%/}" = "$PROGRAMS" ] || rm -rf "$old"
  done
}

# build_with_progress FOLDER LOG COMMAND…: a line every 15 s with the number of packages that were compiled; their names go to LOG.
build_with_progress() {
  local folder=$1 log=$2 t0=$SECONDS rc=0 pid
  shift 2
  (cd "$folder" && exec env CGO_ENABLED=0 "$@") >"$log" 2>&1 &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    sleep 1
    [ $(((SECONDS - t0) % 15)) -ne 0 ] || say "  $(wc -l <"$log") packages, $((SECONDS - t0)) s"
  done
  wait "$pid" || rc=$?
  return $rc
}
