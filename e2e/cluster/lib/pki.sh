# Sourced by scripts/cluster.sh: certificates (P-256, a day of life is not enough for a cluster that is kept, a month is) and kubeconfigs.
# shellcheck shell=bash

authority() { # authority NAME CN
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj "/CN=$2" -keyout "$PKI/$1.key" -out "$PKI/$1.crt" 2>/dev/null
}

# certificate CA NAME SUBJECT [SAN]
certificate() {
  local usage=clientAuth
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "$3" -keyout "$PKI/$2.key" -out "$PKI/$2.csr" 2>/dev/null
  {
    echo "keyUsage=critical,digitalSignature"
    [ -z "${4:-}" ] || { echo "subjectAltName=$4"; usage=clientAuth,serverAuth; }
    echo "extendedKeyUsage=$usage"
  } >"$PKI/$2.ext"
  openssl x509 -req -in "$PKI/$2.csr" -CA "$PKI/$1.crt" -CAkey "$PKI/$1.key" -CAcreateserial -days 30 -extfile "$PKI/$2.ext" -out "$PKI/$2.crt" 2>/dev/null
  rm -f "$PKI/$2.csr" "$PKI/$2.ext"
}

kubeconfig() { # kubeconfig NAME FILE
  local base64=(base64 -w0)
  cat >"$2" <<EOF
apiVersion: v1
kind: Config
current-context: $PREFIX
clusters:
- name: $PREFIX
  cluster:
    server: $API
    certificate-authority-data: $("${base64[@]}" "$PKI/ca.crt")
users:
- name: $1
  user:
    client-certificate-data: $("${base64[@]}" "$PKI/$1.crt")
    client-key-data: $("${base64[@]}" "$PKI/$1.key")
contexts:
- name: $PREFIX
  context: {cluster: $PREFIX, user: $1}
EOF
  chmod 600 "$2"
}

make_pki() { # make_pki NODES
  local i name
  mkdir -p "$PKI"
  chmod 700 "$PKI"
  authority ca "$PREFIX"
  authority front-proxy-ca "$PREFIX front proxy"
  certificate ca admin /O=system:masters/CN=admin
  certificate ca controller-manager /CN=system:kube-controller-manager
  certificate ca scheduler /CN=system:kube-scheduler
  certificate ca proxy /CN=system:kube-proxy
  certificate ca kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client
  certificate front-proxy-ca front-proxy /CN=front-proxy-client
  certificate ca apiserver /CN=kube-apiserver \
    "IP:$SERVICE_NET.1,IP:$(node_ip 1),IP:127.0.0.1,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost"
  openssl genrsa -out "$PKI/sa.key" 2048 2>/dev/null
  openssl rsa -in "$PKI/sa.key" -pubout -out "$PKI/sa.pub" 2>/dev/null
  for name in controller-manager scheduler proxy; do kubeconfig "$name" "$PKI/$name.conf"; done
  for ((i = 1; i <= $1; i++)); do
    certificate ca "node$i" "/O=system:nodes/CN=system:node:node$i" "IP:$(node_ip "$i"),DNS:node$i"
    kubeconfig "node$i" "$PKI/node$i.conf"
  done
  kubeconfig admin "$OUT/kubeconfig"
}
