# Sourced by scripts/cluster.sh: a cluster is started, tried and ended, and the machine compared before and after.
# shellcheck shell=bash

SMOKE_PREFIX=smoke
PASSED=0 FAILED=0

# step NAME COMMAND…: counts it and tells its seconds.
step() {
  local name=$1 t0=$EPOCHREALTIME rc=0 verdict=ok
  shift
  # Not in a condition: there `set -e` would not end the steps at their first failure.
  set +e
  (set -e; "$@") >"$SMOKE_LOG" 2>&1
  rc=$?
  set -e
  if [ $rc -eq 0 ]; then PASSED=$((PASSED + 1)); else FAILED=$((FAILED + 1)) verdict=FAILED; fi
  printf 'test %s ... %s (%s s)\n' "$name" "$verdict" "$(awk -v a="$t0" -v b="$EPOCHREALTIME" 'BEGIN {printf "%.1f", b - a}')"
  [ $rc -eq 0 ] || sed 's/^/    /' "$SMOKE_LOG" | tail -n 40
  return 0
}

smoke() {
  if [ "$(uname -s)" != Linux ] || [ "$(id -u)" != 0 ] || ! have go; then
    [ "${CI:-}" != true ] || die "the cluster tests need Linux, root and Go"
    say "the cluster tests did not run: they need Linux, root and Go"
    echo "count: 0 passed, 0 failed, 1 skipped"
    return 0
  fi
  SMOKE_LOG=$(mktemp)
  SMOKE_WORK=$(mktemp -d)
  "$ROOT/scripts/install.sh" cluster
  build_programs
  "$ROOT/scripts/images.sh" dev sipmcp-edge redis-server >/dev/null
  "$0" down --prefix $SMOKE_PREFIX 2>/dev/null
  snapshot >"$SMOKE_WORK/before"
  # Stopped in the middle, it takes its cluster along.
  trap '"$0" down --prefix $SMOKE_PREFIX 2>/dev/null; rm -rf "$SMOKE_LOG" "$SMOKE_WORK"' EXIT
  step two_nodes_ready "$0" up --nodes 2 --prefix $SMOKE_PREFIX
  if [ $FAILED -eq 0 ]; then
    existing $SMOKE_PREFIX
    step up_again_finds_it_running runs_already
    step images_into_every_node import_image "$ROOT"/target/images/{sipmcp-edge,redis-server}.tar
    step deployment_of_two_edges_rolls_out edges_roll_out
    step cluster_ip_answers_over_udp sip_options udp
    step cluster_ip_answers_over_tcp sip_options tcp
    step redis_answers_pods_of_both_nodes_and_sees_their_own_addresses redis_answers
    step pods_run_without_root_on_a_read_only_root hardened
    step cel_rule_refuses_a_bad_object cel_refuses
    step service_account_token_is_known_and_bounded token_bounded
    step a_node_that_is_cut_off_is_noticed_and_comes_back node_cut
  fi
  step down "$0" down --prefix $SMOKE_PREFIX
  step nothing_is_left nothing_left
  step nothing_is_left_of_a_start_that_was_killed killed_start
  echo "count: $PASSED passed, $FAILED failed, 0 skipped"
  [ $FAILED -eq 0 ]
}

runs_already() { "$0" up --nodes 2 --prefix $SMOKE_PREFIX 2>&1 | grep 'runs already'; }

# The edge as it comes, one domain, no agent: it answers OPTIONS.
edges_roll_out() {
  kubectl apply -f - <<'Y'
apiVersion: v1
kind: ConfigMap
metadata: {name: edge}
data:
  edge.yaml: |
    apiVersion: sipmcp.dev/v1alpha1
    kind: SipEdge
    metadata: {name: smoke}
    spec:
      network: {advertise: {name: sip.smoke.example}}
      insecure: true
      listeners:
        - {name: udp, protocol: UDP, port: 5060}
        - {name: tcp, protocol: TCP, port: 5060}
    ---
    apiVersion: sipmcp.dev/v1alpha1
    kind: SipDomain
    metadata: {name: smoke}
    spec:
      domain: smoke.example
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: edge}
spec:
  replicas: 2
  selector: {matchLabels: {app: edge}}
  template:
    metadata: {labels: {app: edge}}
    spec:
      topologySpreadConstraints:
        - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: edge}}}
      securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
      terminationGracePeriodSeconds: 5
      containers:
        - name: edge
          image: sipmcp.dev/sipmcp-edge:dev
          imagePullPolicy: Never
          args: [--manifests, /config, --admin, "0.0.0.0:9090", --log-format, json]
          securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
          readinessProbe: {httpGet: {path: /readyz, port: 9090}, periodSeconds: 1}
          volumeMounts: [{name: config, mountPath: /config}]
      volumes: [{name: config, configMap: {name: edge}}]
---
apiVersion: v1
kind: Service
metadata: {name: edge}
spec:
  selector: {app: edge}
  ports:
    - {name: udp, protocol: UDP, port: 5060}
    - {name: tcp, protocol: TCP, port: 5060}
Y
  kubectl rollout status deployment/edge --timeout=60s || {
    kubectl get pods -o wide
    kubectl describe pods | tail -n 30
    kubectl logs -l app=edge --tail=20
    return 1
  }
}

cluster_ip() { kubectl get service "$1" -o 'jsonpath={.spec.clusterIP}'; }

# sip_options udp|tcp: OPTIONS to the Service from this machine, and a status line of an answer.
sip_options() {
  local ip protocol=$1 answer='' try
  ip=$(cluster_ip edge)
  # kube-proxy writes its rules a moment after the endpoints are there.
  for try in 1 2 3 4 5; do
    answer=$(exchange "$protocol" "$ip" "smoke$protocol$try") || true
    [[ $answer != SIP/2.0* ]] || break
    sleep 1
  done
  echo "$answer"
  [[ $answer == "SIP/2.0 "[2-6]* ]]
}

exchange() { # exchange PROTOCOL IP BRANCH: the first line of the answer
  local line=''
  exec 7<>"/dev/$1/$2/5060"
  printf '%s\r\n' "OPTIONS sip:smoke.example SIP/2.0" "Via: SIP/2.0/${1^^} $HOST_IP:5062;rport;branch=z9hG4bK$3" "Max-Forwards: 70" \
    "From: <sip:smoke@smoke.example>;tag=$3" "To: <sip:smoke.example>" "Call-ID: $3@smoke.example" "CSeq: 1 OPTIONS" "Content-Length: 0" "" >"$SMOKE_WORK/request"
  # One write, so one datagram.
  cat "$SMOKE_WORK/request" >&7
  # One read, too: what is left of a datagram after a shorter one is gone.
  line=$(timeout 2 dd bs=65535 count=1 <&7 2>/dev/null | head -n 1) || true
  exec 7>&-
  echo "${line%$'\r'}"
}

edge_pod() { kubectl get pods -l app=edge -o "jsonpath={.items[$1].metadata.name}"; }
pod_ip() { kubectl get pod "$1" -o 'jsonpath={.status.podIP}'; }

redis_answers() {
  kubectl apply -f - <<'Y'
apiVersion: v1
kind: Pod
metadata: {name: redis, labels: {app: redis}}
spec:
  securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
  terminationGracePeriodSeconds: 2
  containers:
    - name: redis
      image: sipmcp.dev/redis-server:dev
      imagePullPolicy: Never
      args: [--bind, 0.0.0.0, --protected-mode, "no", --save, "", --dir, /data]
      securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
      readinessProbe: {tcpSocket: {port: 6379}, periodSeconds: 1}
      resources: {limits: {memory: 64Mi, cpu: 500m}}
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {medium: Memory}}]
---
apiVersion: v1
kind: Service
metadata: {name: redis}
spec: {selector: {app: redis}, ports: [{port: 6379}]}
Y
  kubectl wait --for=condition=Ready pod/redis --timeout=30s || { kubectl describe pod redis | tail -n 20; return 1; }
  local i answer nodes
  nodes=$(kubectl get pods -l app=edge -o 'jsonpath={.items[*].spec.nodeName}')
  echo "$nodes"
  [ "$(tr ' ' '\n' <<<"$nodes" | sort -u | wc -l)" = 2 ]
  for i in 0 1; do
    answer=$(kubectl exec "$(edge_pod $i)" -- sh -c "printf 'PING\r\nCLIENT LIST\r\n' | nc -w 2 $(cluster_ip redis) 6379")
    echo "$answer"
    [[ $answer == +PONG* ]]
    grep -qF "addr=$(pod_ip "$(edge_pod $i)"):" <<<"$answer"
  done
}

hardened() {
  local status
  status=$(kubectl exec "$(edge_pod 0)" -- sh -c 'cat /proc/1/status; touch /usr/x 2>&1 || true')
  echo "$status"
  grep -qE '^Uid:[[:space:]]65532' <<<"$status"
  grep -qE '^CapEff:[[:space:]]0+$' <<<"$status"
  grep -qE '^NoNewPrivs:[[:space:]]1$' <<<"$status"
  grep -qE '^Seccomp:[[:space:]]2$' <<<"$status"
  grep -q 'Read-only file system' <<<"$status"
}

cel_refuses() {
  kubectl apply -f - <<'Y'
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: spans.smoke.sipmcp.dev}
spec:
  group: smoke.sipmcp.dev
  scope: Namespaced
  names: {kind: Span, plural: spans, singular: span}
  versions:
    - name: v1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec:
              type: object
              properties: {min: {type: integer}, max: {type: integer}}
              required: [min, max]
              x-kubernetes-validations: [{rule: "self.min <= self.max", message: "min must not exceed max"}]
Y
  kubectl wait --for=condition=Established crd/spans.smoke.sipmcp.dev --timeout=20s
  span 1 2 good >"$SMOKE_WORK/good"
  until_true 10 "the new kind" kubectl apply -f "$SMOKE_WORK/good"
  local refusal
  if refusal=$(span 3 2 bad | kubectl apply -f - 2>&1); then
    echo "the API server took an object that its CEL rule forbids"
    return 1
  fi
  echo "$refusal"
  grep -q 'min must not exceed max' <<<"$refusal"
}

span() { printf '{"apiVersion":"smoke.sipmcp.dev/v1","kind":"Span","metadata":{"name":"%s"},"spec":{"min":%s,"max":%s}}' "$3" "$1" "$2"; }

# The token in a pod names its ServiceAccount, may do what a Role says, and nothing else.
token_bounded() {
  local token who refusal
  kubectl create role pods --verb=list --resource=pods
  kubectl create rolebinding pods --role=pods --serviceaccount=default:default
  token=$(kubectl exec "$(edge_pod 0)" -- cat /var/run/secrets/kubernetes.io/serviceaccount/token)
  who=$(as_token "$token" auth whoami -o 'jsonpath={.status.userInfo.username}')
  echo "$who"
  [ "$who" = system:serviceaccount:default:default ]
  as_token "$token" get pods
  if refusal=$(as_token "$token" get secrets 2>&1); then
    echo "it may read Secrets"
    return 1
  fi
  echo "$refusal"
  grep -q Forbidden <<<"$refusal"
}

# as_token TOKEN ARGUMENT…: kubectl without the administrator's certificate.
as_token() { "$PROGRAMS/kubectl" --kubeconfig /dev/null --server "$API" --certificate-authority "$PKI/ca.crt" --token "$1" "${@:2}"; }

node_cut() {
  cut_node node2
  until_true 30 "node2 to be NotReady" kubectl wait --for=condition=Ready=Unknown node/node2 --timeout=1s
  heal_node node2
  until_true 30 "node2 to be Ready again" kubectl wait --for=condition=Ready node/node2 --timeout=1s
}

nothing_left() {
  snapshot >"$SMOKE_WORK/after"
  diff "$SMOKE_WORK/before" "$SMOKE_WORK/after"
  [ ! -e "$ROOT/target/cluster/$SMOKE_PREFIX" ]
}

# Ended by SIGKILL: when the first namespace is there, when the first node is, when the control plane starts. It cannot clean up behind itself.
killed_start() {
  local launcher point
  for point in "/run/netns/$SMOKE_PREFIX-node1" "$BASE/$SMOKE_PREFIX/node1/pid" "$BASE/$SMOKE_PREFIX/node1/root/var/lib/etcd/member"; do
    setsid "$0" up --nodes 2 --prefix $SMOKE_PREFIX &
    launcher=$!
    until_true 60 "$point" test -e "$point"
    kill -KILL -- "-$launcher"
    wait $launcher || true
    "$0" status
    "$0" down --prefix $SMOKE_PREFIX
    nothing_left
  done
}
