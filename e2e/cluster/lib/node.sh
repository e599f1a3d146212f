# Sourced by scripts/cluster.sh: a node is the namespaces that one process holds (node-init.sh), with containerd, kubelet and kube-proxy in them.
# shellcheck shell=bash

# A background child in the cluster's cgroup, with none of the launcher's files open.
detached() { # detached LOG COMMAND…
  local log=$1 group fd
  shift
  group=$(accounting)
  (
    echo "$BASHPID" >"$group/cgroup.procs"
    exec </dev/null >>"$log" 2>&1
    # Nothing that the launcher has open: neither its lock nor a pipe that somebody reads to its end.
    for fd in /proc/"$BASHPID"/fd/*; do
      fd=${fd##*/}
      [ "$fd" -le 2 ] || eval "exec $fd>&-"
    done
    exec setsid env -i PATH="$NODE_PATH" HOME=/root "$@"
  ) &
}
NODE_PATH=/opt/kubernetes:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

node_pid() { cat "$DIR/node$1/pid"; }

# in_node N COMMAND…: in the foreground. run_in_node N NAME COMMAND…: in the background, its output in logs/nodeN-NAME.log.
in_node() { nsenter -t "$(node_pid "$1")" -m -n -p -u -i -- "${@:2}"; }
run_in_node() { detached "$LOGS/node$1-$2.log" nsenter -t "$(node_pid "$1")" -m -n -p -u -i -- "${@:3}"; }

# shellcheck disable=SC2153 # ROOT is the repository's, root the node's
make_node() {
  local i=$1 root unshare pid deadline=$((SECONDS + 10))
  root=$(node_root "$i")
  mkdir -p "$root"
  detached "$LOGS/node$i-init.log" nsenter --net="/run/netns/$(netns "node$i")" unshare --mount --pid --uts --ipc --fork --kill-child \
    bash "$ROOT/e2e/cluster/node-init.sh" "$root" "$PROGRAMS" "node$i"
  unshare=$!
  until [ -e "$root/run/ready" ]; do
    if ! kill -0 "$unshare" 2>/dev/null || [ $SECONDS -ge $deadline ]; then die "node$i does not start: $(tail -n 3 "$LOGS/node$i-init.log")"; fi
    sleep 0.05
  done
  pid=$(pgrep -P "$unshare") || die "node$i has ended: $(tail -n 3 "$LOGS/node$i-init.log")"
  echo "$pid" >"$DIR/node$i/pid"
  configure_node "$i" "$root"
  run_in_node "$i" containerd containerd --config /etc/containerd.toml
}

configure_node() { # configure_node N ROOT
  local i=$1 root=$2
  mkdir -p "$root/etc/kubernetes" "$root/etc/cni/net.d"
  install -m 600 "$PKI/ca.crt" "$PKI/node$i.crt" "$PKI/node$i.key" "$root/etc/kubernetes/"
  install -m 600 "$PKI/node$i.conf" "$root/etc/kubernetes/kubelet.conf"
  install -m 600 "$PKI/proxy.conf" "$root/etc/kubernetes/proxy.conf"
  cat >"$root/etc/containerd.toml" <<EOF
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$PAUSE_IMAGE"
  # A sandbox wants oom_score_adj -998; where CAP_SYS_RESOURCE is missing, runc could not give it.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
EOF
  # No masquerading: machine, nodes and pods have routes to each other, and a SIP peer is known by its own address.
  cat >"$root/etc/cni/net.d/10-bridge.conflist" <<EOF
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$POD_NET.$i.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}
]}
EOF
  cat >"$root/etc/kubernetes/kubelet.yaml" <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $(node_ip "$i")
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: /etc/kubernetes/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: /etc/kubernetes/node$i.crt
tlsPrivateKeyFile: /etc/kubernetes/node$i.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
clusterDNS: [$SERVICE_NET.10]
clusterDomain: cluster.local
resolvConf: ""
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /$PREFIX-node$i
failSwapOn: false
evictionHard: {memory.available: 100Mi, nodefs.available: 2%, imagefs.available: 2%}
imageGCHighThresholdPercent: 100
nodeStatusUpdateFrequency: 4s
maxPods: 110
podLogsDir: /var/log/pods
volumePluginDir: /var/lib/kubelet/volume-plugins
healthzBindAddress: 127.0.0.1
EOF
  # Zero leaves the conntrack limits alone: they cannot be set inside a network namespace.
  cat >"$root/etc/kubernetes/proxy.yaml" <<EOF
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: /etc/kubernetes/proxy.conf}
mode: $PROXY_MODE
clusterCIDR: $POD_NET.0.0/16
hostnameOverride: node$i
bindAddress: $(node_ip "$i")
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
EOF
}

start_kubelet() {
  run_in_node "$1" kubelet kubelet --config=/etc/kubernetes/kubelet.yaml --kubeconfig=/etc/kubernetes/kubelet.conf --hostname-override="node$1" \
    --node-ip="$(node_ip "$1")"
  run_in_node "$1" kube-proxy kube-proxy --config=/etc/kubernetes/proxy.yaml
}

# The node's containerd, from outside.
ctr_of() { ctr --address "$(node_root "$1")/run/containerd/containerd.sock" --namespace k8s.io "${@:2}"; }

# import_image FILE…: OCI archives, into every node.
import_image() {
  local i deadline archive
  for ((i = 1; i <= $(cat "$DIR/nodes"); i++)); do
    deadline=$((SECONDS + 20))
    until ctr_of "$i" version >/dev/null 2>&1; do
      [ $SECONDS -lt $deadline ] || die "containerd of node$i does not answer: $(tail -n 3 "$LOGS/node$i-containerd.log")"
      sleep 0.1
    done
    for archive in "$@"; do ctr_of "$i" images import "$archive" >/dev/null || die "node$i does not take $archive"; done
  done
}
