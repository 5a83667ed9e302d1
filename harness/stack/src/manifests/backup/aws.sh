#!/bin/bash
# /usr/local/bin/aws: stands in for the AWS client, as far as the backup uses it, against the offsite store of this
# cluster: s3 cp FILE s3://BUCKET/PREFIX/, s3 ls s3://BUCKET/PREFIX/, s3 rm s3://BUCKET/KEY, and
# s3api put-bucket-lifecycle-configuration --bucket BUCKET --lifecycle-configuration JSON.
set -euo pipefail
PKI=/etc/kubernetes/pki/etcd
. /etc/etcd-backup/offsite
store() {
  curl -fsS --noproxy '*' --connect-timeout 5 --max-time 300 --cacert $PKI/ca.crt --cert $PKI/server.crt \
    --key $PKI/server.key -H 'Expect:' "$@"
}
case "$1 $2" in
  's3 cp') store --data-binary @"$3" -H 'Content-Type: application/octet-stream' "$OFFSITE?put=${4#s3://}$(basename "$3")" ;;
  's3 ls') store "$OFFSITE?list=${3#s3://}" ;;
  's3 rm') store -d '' "$OFFSITE?remove=${3#s3://}" ;;
  's3api put-bucket-lifecycle-configuration') store -d "$6" "$OFFSITE?lifecycle=$4" ;;
  *) echo "aws: $1 $2 is not what this stand-in knows" >&2; exit 2 ;;
esac
