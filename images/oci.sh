# Sourced by scripts/images.sh and scripts/cluster.sh: an OCI image archive out of a folder, without Docker. The same files give the same bytes.
# shellcheck shell=bash

image_arch() {
  case $(uname -m) in
    x86_64) echo amd64 ;;
    aarch64) echo arm64 ;;
    *) die "no image for the processor $(uname -m)" ;;
  esac
}

# oci_archive FILE REFERENCE ROOTFS USER WORKDIR COMMAND…: FILE is what `ctr images import` and `docker load` take.
oci_archive() {
  local file=$1 reference=$2 rootfs=$3 user=$4 workdir=$5 work layer config manifest entrypoint
  shift 5
  work=$(mktemp -d)
  mkdir -p "$work/blobs/sha256" "$(dirname "$file")"
  tar -C "$rootfs" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=gnu -cf "$work/layer" .
  layer=$(blob "$work" "$work/layer")
  entrypoint=$(printf '"%s",' "$@")
  cat >"$work/config" <<J
{"architecture":"$(image_arch)","os":"linux","created":"1970-01-01T00:00:00Z","config":{"User":"$user","WorkingDir":"$workdir","Entrypoint":[${entrypoint%,}],"Env":["PATH=/usr/local/bin:/usr/bin:/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:$layer"]},"history":[{"created":"1970-01-01T00:00:00Z","created_by":"images/oci.sh"}]}
J
  config=$(blob "$work" "$work/config")
  cat >"$work/manifest" <<J
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:$config","size":$(blob_size "$work" "$config")},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:$layer","size":$(blob_size "$work" "$layer")}]}
J
  manifest=$(blob "$work" "$work/manifest")
  cat >"$work/index.json" <<J
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:$manifest","size":$(blob_size "$work" "$manifest"),"annotations":{"io.containerd.image.name":"$reference","org.opencontainers.image.ref.name":"${reference##*:}"},"platform":{"architecture":"$(image_arch)","os":"linux"}}]}
J
  echo '{"imageLayoutVersion":"1.0.0"}' >"$work/oci-layout"
  tar -C "$work" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$file.new" oci-layout index.json blobs
  mv "$file.new" "$file"
  rm -rf "$work"
}

blob() { # blob WORK FILE: moves it to its place and prints its digest
  local digest
  digest=$(sha256sum "$2" | cut -d' ' -f1)
  mv "$2" "$1/blobs/sha256/$digest"
  echo "$digest"
}

blob_size() { stat -c %s "$1/blobs/sha256/$2"; }

# closure ROOTFS BINARY NAME: copies the binary to /usr/bin/NAME and, to the paths where it looks for them, the libraries that it is linked to.
closure() {
  local rootfs=$1 binary=$2 name=$3 library out
  install -D -m 755 "$binary" "$rootfs/usr/bin/$name"
  # A debug build is mostly tables for a debugger; the names of functions stay.
  ! have strip || strip --strip-debug "$rootfs/usr/bin/$name"
  out=$(ldd "$binary" 2>/dev/null) || return 0 # static
  case $out in *"not found"*) die "$binary needs libraries that are not here: $out" ;; esac
  while read -r library; do
    [ -e "$rootfs$library" ] || install -D -m 755 "$(readlink -f "$library")" "$rootfs$library"
  done < <(awk '$2 == "=>" && $3 ~ /^\// {print $3} $1 ~ /^\// {print $1}' <<<"$out")
}

# image_base ROOTFS: the few files that programs expect; nobody can log in.
image_base() {
  mkdir -p "$1"/{etc,tmp,data,proc,sys,dev}
  chmod 1777 "$1/tmp"
  chmod 1777 "$1/data"
  printf 'root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n' >"$1/etc/passwd"
  printf 'root:x:0:\nnonroot:x:65532:\n' >"$1/etc/group"
  printf 'hosts: files dns\n' >"$1/etc/nsswitch.conf"
}

# with_busybox ROOTFS: a shell and small tools, for tests only.
with_busybox() {
  local busybox applet
  busybox=$(command -v busybox) || die "no busybox: scripts/install.sh cluster"
  install -D -m 755 "$busybox" "$1/bin/busybox"
  for applet in $(busybox --list); do [ -e "$1/bin/$applet" ] || ln -s busybox "$1/bin/$applet"; done
}
