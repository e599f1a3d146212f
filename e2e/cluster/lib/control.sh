# Sourced by scripts/cluster.sh: etcd, API server, then controller manager and scheduler. They run in node1, so that the API server reaches ClusterIPs.
# shellcheck shell=bash

start_control() {
  local k
  k=$(node_root 1)/etc/kubernetes/control
  mkdir -p "$k"
  cp "$PKI"/{ca.crt,ca.key,apiserver.crt,apiserver.key,kubelet-client.crt,kubelet-client.key,front-proxy-ca.crt,front-proxy.crt,front-proxy.key,sa.key,sa.pub} "$k/"
  cp "$PKI/controller-manager.conf" "$PKI/scheduler.conf" "$k/"
  chmod 600 "$k"/*
  k=/etc/kubernetes/control
  # Without fsync: what a test cluster knows need not outlive the machine.
  run_in_node 1 etcd etcd --unsafe-no-fsync --data-dir /var/lib/etcd --name e --listen-client-urls http://127.0.0.1:2379 \
    --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
    --initial-cluster e=http://127.0.0.1:2380
  # The tolerations: pods of a node that is lost are replaced after 3 s instead of 5 min.
  run_in_node 1 kube-apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 --bind-address="$(node_ip 1)" --advertise-address="$(node_ip 1)" \
    --secure-port=6443 --service-cluster-ip-range="$SERVICE_NET.0/16" --client-ca-file=$k/ca.crt --cert-dir=/var/lib/apiserver \
    --tls-cert-file=$k/apiserver.crt --tls-private-key-file=$k/apiserver.key \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local --service-account-key-file=$k/sa.pub --service-account-signing-key-file=$k/sa.key \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
    --kubelet-client-certificate=$k/kubelet-client.crt --kubelet-client-key=$k/kubelet-client.key --kubelet-certificate-authority=$k/ca.crt \
    --kubelet-preferred-address-types=InternalIP \
    --requestheader-client-ca-file=$k/front-proxy-ca.crt --requestheader-allowed-names=front-proxy-client \
    --requestheader-extra-headers-prefix=X-Remote-Extra- --requestheader-group-headers=X-Remote-Group --requestheader-username-headers=X-Remote-User \
    --proxy-client-cert-file=$k/front-proxy.crt --proxy-client-key-file=$k/front-proxy.key \
    --default-not-ready-toleration-seconds="$TOLERATION" --default-unreachable-toleration-seconds="$TOLERATION"
}

# Both end at once where the API server does not know their rights yet, so they come after its /readyz.
start_managers() {
  local k=/etc/kubernetes/control
  local kcm=$k/controller-manager.conf sched=$k/scheduler.conf
  run_in_node 1 kube-controller-manager kube-controller-manager --kubeconfig=$kcm --authentication-kubeconfig=$kcm --authorization-kubeconfig=$kcm \
    --bind-address=127.0.0.1 --leader-elect=false --use-service-account-credentials=true --service-account-private-key-file=$k/sa.key \
    --root-ca-file=$k/ca.crt --cluster-signing-cert-file=$k/ca.crt --cluster-signing-key-file=$k/ca.key --allocate-node-cidrs=false \
    --service-cluster-ip-range="$SERVICE_NET.0/16" --node-monitor-grace-period="${GRACE}s" --node-monitor-period=2s
  run_in_node 1 kube-scheduler kube-scheduler --kubeconfig=$sched --authentication-kubeconfig=$sched --authorization-kubeconfig=$sched \
    --bind-address=127.0.0.1 --leader-elect=false
}

kubectl() { "$PROGRAMS/kubectl" --kubeconfig "$OUT/kubeconfig" "$@"; }

# until_true SECONDS WHAT COMMAND…
until_true() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || { say "waited for: $what"; return 1; }
    sleep 0.3
  done
}

nodes_ready() {
  local ready
  ready=$(kubectl get nodes -o jsonpath='{range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}' | grep -c '^True$') || true
  [ "$ready" = "$1" ]
}
