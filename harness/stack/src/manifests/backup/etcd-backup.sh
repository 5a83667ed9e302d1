#!/bin/bash
# /usr/local/bin/etcd-backup.sh: a snapshot of etcd and the encryption configuration beside it, here and offsite.
# Seven days are kept here, thirty offsite. The environment may name other places, as for a drill.
set -euo pipefail
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
umask 077
BACKUP_DIR=${BACKUP_DIR:-/backup}
BUCKET=${BUCKET:-s3://my-backups/etcd/}
ENDPOINT=${ENDPOINT:-https://127.0.0.1:2379}
RETENTION_DAYS=7
PKI=/etc/kubernetes/pki/etcd
TIMESTAMP=$(date +%Y%m%d-%H%M%S)
SET=$BACKUP_DIR/etcd-$TIMESTAMP

mkdir -p "$BACKUP_DIR"
trap 'rm -f "$SET.db.part"' EXIT
# Without this file no Secret of the snapshot can ever be read again: no snapshot is better than half a set.
cp /etc/kubernetes/encryption-config.yaml "$SET.encryption-config.yaml"
# Without a limit the client waits for ever for a member that refuses connections, and nobody hears of it.
ETCDCTL_API=3 etcdctl --endpoints="$ENDPOINT" --cacert=$PKI/ca.crt --cert=$PKI/server.crt --key=$PKI/server.key \
  --command-timeout="${PATIENCE:-300s}" snapshot save "$SET.db"

aws s3 cp "$SET.encryption-config.yaml" "$BUCKET"
aws s3 cp "$SET.db" "$BUCKET"

find "$BACKUP_DIR" -maxdepth 1 -name 'etcd-*.db' -mtime +$RETENTION_DAYS -delete
for config in "$BACKUP_DIR"/etcd-*.encryption-config.yaml; do
  [ -e "${config%.encryption-config.yaml}.db" ] || rm -f "$config"
done

# Where a lifecycle policy of the bucket does it, this is switched off.
if [ "${CLEAN_REMOTE:-yes}" = yes ]; then
  now=$(date +%s)
  aws s3 ls "$BUCKET" | awk '{print $4}' | while read -r f; do
    day=$(echo "$f" | sed 's/etcd-\(....\)\(..\)\(..\)-.*/\1-\2-\3/')
    # A name without a date is somebody else's.
    made=$(date -d "$day" +%s 2>/dev/null) || continue
    days_old=$(((now - made) / 86400))
    if [ $days_old -gt 30 ]; then
      aws s3 rm "$BUCKET$f"
    fi
  done
fi
