#!/bin/sh
# A stand-in for an S3 store on another node: a bucket is a directory. Only reached through the front that asks for a
# certificate of etcd's CA.
set -eu
umask 077
root=/srv/offsite/data
verb=${QUERY_STRING%%=*} key=${QUERY_STRING#*=}
answer() { printf 'Status: %s\r\nContent-Type: text/plain\r\n\r\n' "$1"; }
case $key in
  '' | /* | *..* | *[!A-Za-z0-9._/-]*) answer '400 Bad Request'; exit 0 ;;
esac
mkdir -p "$root"
# What a bucket's lifecycle policy lets expire is gone before anybody sees it.
expire() {
  policy=$root/${key%%/*}.lifecycle.json
  [ -e "$policy" ] && grep -q '"Status": *"Enabled"' "$policy" || return 0
  prefix=$(sed -n 's/.*"Prefix": *"\([^"]*\)".*/\1/p' "$policy")
  days=$(sed -n 's/.*"Days": *\([0-9]*\).*/\1/p' "$policy")
  find "$root/${key%%/*}" -type f -path "$root/${key%%/*}/$prefix*" -mtime "+$((days - 1))" -delete
}
case $verb in
  put)
    mkdir -p "$root/${key%/*}"
    part=$(mktemp "$root/.part.XXXXXX")
    head -c "${CONTENT_LENGTH:-0}" >"$part"
    # A transfer that was cut off leaves nothing.
    if [ "$(stat -c %s "$part")" = "${CONTENT_LENGTH:-0}" ] && sync "$part" && mv "$part" "$root/$key"; then
      answer '200 OK'
    else
      rm -f "$part"
      answer '500 Internal Server Error'
    fi
    ;;
  list)
    answer '200 OK'
    expire
    [ ! -d "$root/$key" ] || find "$root/$key" -maxdepth 1 -type f -printf '%TY-%Tm-%Td %TH:%TM:%.2TS %s %f\n' | sort -k 4
    ;;
  remove) rm -f "$root/$key"; answer '200 OK' ;;
  lifecycle) head -c "${CONTENT_LENGTH:-0}" | tr '\n' ' ' >"$root/$key.lifecycle.json"; answer '200 OK' ;;
  *) answer '400 Bad Request' ;;
esac
