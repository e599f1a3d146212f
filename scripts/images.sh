#!/usr/bin/env bash
# Container images without Docker: an OCI archive per program in target/images, out of the binary and the libraries that it is linked to.
#   images.sh make NAME BINARY [--busybox] [ARGUMENT…]   target/images/NAME.tar, the image sipmcp.dev/NAME:dev, which runs `BINARY ARGUMENT…`
#   images.sh dev [NAME…]       the images of the cluster tests (all without a NAME); they hold busybox, for a look inside
#   images.sh sbom [NAME…]      target/images/NAME.cdx.json: what is in it (CycloneDX 1.5)
# SIPMCP_BIN names a folder with binaries that exist already; without it they are built (debug).
# The images for use are built by the Dockerfiles in images/.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
source "$ROOT/images/oci.sh"
cd "$ROOT"
IMAGES=$ROOT/target/images
# The programs of this project that go into images, and the package of each.
declare -A PACKAGES=([sipmcp-operator]=operator [sipmcp-edge]=edge [sipmcp]=cli [echo-agent]=echo-agent)

# make_image NAME BINARY BUSYBOX ARGUMENT…: non-root, and nothing in it is written to but /tmp and /data, which a pod mounts.
make_image() {
  local name=$1 binary=$2 busybox=$3 rootfs file=$IMAGES/$1.tar
  shift 3
  if [ "$file" -nt "$binary" ] && [ "$file" -nt "$ROOT/images/oci.sh" ] && [ "$file" -nt "$ROOT/scripts/images.sh" ]; then
    echo "$file"
    return 0
  fi
  rootfs=$(mktemp -d)
  # The folder itself becomes the image's root, which everybody may enter.
  chmod 755 "$rootfs"
  image_base "$rootfs"
  closure "$rootfs" "$(readlink -f "$binary")" "$name"
  [ "$busybox" = no ] || with_busybox "$rootfs"
  oci_archive "$file" "sipmcp.dev/$name:dev" "$rootfs" 65532:65532 /data "/usr/bin/$name" "$@"
  rm -rf "$rootfs"
  say "sipmcp.dev/$name:dev: $(($(stat -c %s "$file") / 1024 / 1024)) MiB"
  echo "$file"
}

dev_images() {
  local name own=() bin
  [ $# -gt 0 ] || set -- sipmcp-operator sipmcp-edge echo-agent redis-server
  for name in "$@"; do
    [ -z "${PACKAGES[$name]:-}" ] || own+=("$name")
  done
  bin=${SIPMCP_BIN:-}
  if [ -z "$bin" ] && [ ${#own[@]} -gt 0 ]; then
    programs "${own[@]}"
    bin=$TARGET/debug
  fi
  for name in "$@"; do
    case $name in
      redis-server)
        "$ROOT/scripts/install.sh" redis
        make_image redis-server "$(command -v redis-server)" busybox
        ;;
      *)
        [ -n "${PACKAGES[$name]:-}" ] || die "images.sh: no program '$name'; these are known: ${!PACKAGES[*]} redis-server"
        [ -x "$bin/$name" ] || die "there is no program $bin/$name"
        make_image "$name" "$bin/$name" busybox
        ;;
    esac
  done
}

sbom() {
  local name
  [ $# -gt 0 ] || set -- "${!PACKAGES[@]}"
  mkdir -p "$IMAGES"
  for name in "$@"; do
    [ -n "${PACKAGES[$name]:-}" ] || die "images.sh: no program '$name'; these are known: ${!PACKAGES[*]}"
    python3 "$ROOT/images/sbom.py" "${PACKAGES[$name]}" "$name" >"$IMAGES/$name.cdx.json.new"
    mv "$IMAGES/$name.cdx.json.new" "$IMAGES/$name.cdx.json"
    echo "$IMAGES/$name.cdx.json"
  done
}

case ${1:-} in
  make)
    [ $# -ge 3 ] || die "images.sh make NAME BINARY [--busybox] [ARGUMENT…]"
    name=$2 binary=$3 busybox=no
    shift 3
    if [ "${1:-}" = --busybox ]; then busybox=busybox && shift; fi
    [ -x "$binary" ] || die "there is no program $binary"
    make_image "$name" "$binary" "$busybox" "$@"
    ;;
  dev) dev_images "${@:2}" ;;
  sbom) sbom "${@:2}" ;;
  *) die "images.sh: say make, dev or sbom" ;;
esac
