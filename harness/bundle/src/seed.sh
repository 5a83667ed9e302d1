# Imports archives into a fresh containerd directory. Run as PID 1 of its own PID and mount namespaces, so that whatever
# happens nothing of it stays: $1 node root, $2 directory for containerd, $3 directory of the archives, $4 log.
set -eu
root=$1 seed=$2 archives=$3 log=$4
exec 3>"$log"
mount --bind "$root" "$root"
# containerd makes directories of its own at the start: none of that may reach the node root.
mount -o remount,bind,ro "$root"
mount --bind "$seed" "$root/var/lib/containerd"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount --rbind /dev "$root/dev"
mount --bind -o ro "$archives" "$root/mnt"
cat >"$root/tmp/config.toml" <<CONFIG
version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs"]
[plugins."io.containerd.internal.v1.opt"]
  path = "/run/containerd-opt"
CONFIG
cat >"$root/tmp/import.sh" <<'INNER'
set -eu
containerd --config /tmp/config.toml --log-level warn >&3 2>&3 &
daemon=$!
tries=0
until ctr --connect-timeout 1s version >/dev/null 2>&1; do
    kill -0 "$daemon" 2>/dev/null || { echo "containerd ended at once" >&2; exit 1; }
    tries=$((tries + 1))
    [ "$tries" -lt 300 ] || { echo "containerd does not answer after 30 s" >&2; exit 1; }
    sleep 0.1
done
for archive in "$@"; do
    ctr --namespace k8s.io images import --digests=false --snapshotter overlayfs "/mnt/$archive"
done
kill "$daemon"
wait "$daemon" || true
INNER
shift 4
exec chroot "$root" /bin/sh /tmp/import.sh "$@"
