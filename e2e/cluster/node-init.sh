#!/bin/bash
# node-init.sh ROOT PROGRAMS NAME: the first process of a node, in namespaces of its own (network, mount, pid, uts, ipc). It makes the node's file
# system: the machine's /usr to read, its devices and cgroups, and its own /etc, /run, /tmp and /var, so that the paths that Kubernetes, containerd
# and CNI have built in are each node's own. Then it holds the namespaces until it is ended; everything in the node ends with it.
set -euo pipefail
root=$1 programs=$2 name=$3
mkdir -p "$root"
mount --bind "$root" "$root"
mkdir -p "$root"/{usr,etc,dev,sys,proc,run,tmp,root,old,opt/kubernetes,var/lib,var/log,var/tmp}
chmod 1777 "$root/tmp" "$root/var/tmp"
ln -sfn ../run "$root/var/run"
mount --rbind /usr "$root/usr"
mount -o remount,bind,ro "$root/usr"
for d in /bin /sbin /lib /lib32 /lib64 /libx32; do
  if [ -L "$d" ]; then
    cp -P "$d" "$root$d"
  elif [ -d "$d" ]; then
    mkdir -p "$root$d"
    mount --rbind "$d" "$root$d"
  fi
done
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
mount -t proc proc "$root/proc"
for file in passwd group nsswitch.conf protocols services ld.so.cache alternatives os-release localtime; do
  [ ! -e "/etc/$file" ] || cp -a "/etc/$file" "$root/etc/"
done
printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$name" >"$root/etc/hosts"
: >"$root/etc/resolv.conf"
echo "$name" >"$root/etc/hostname"
hostname "$name"
mount --bind "$programs" "$root/opt/kubernetes"
mount -o remount,bind,ro "$root/opt/kubernetes"
cd "$root"
pivot_root . old
cd /
umount -l /old
rmdir /old
# A pod may ask that mounts be handed on to it.
mount --make-rshared /
touch /run/ready
exec /opt/kubernetes/pause
