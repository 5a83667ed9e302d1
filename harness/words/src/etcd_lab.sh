# Scratch members of etcd on one node's loopback address. Begun with F (folder), P (first port), N (members), LIFE (s).
# What a step says is a line `= NAME CODE BASE64`; what a look sees of a member is a line `? LOOK MEMBER STATUS METRICS HASH`.
set -u
ec=$(command -v etcdctl) || ec=/proc/$(pgrep -xo etcd)/root/usr/local/bin/etcdctl
eu=$(command -v etcdutl) || eu=/proc/$(pgrep -xo etcd)/root/usr/local/bin/etcdutl
rm -rf "$F"; mkdir -m 700 "$F"; cd "$F" || exit 1
# A name of its own: nobody who looks for etcd finds these.
cp -L "/proc/$(pgrep -xo etcd)/exe" lab-etcd || exit 1
members=$(seq 0 $((N - 1)))
url() { echo "http://127.0.0.1:$((P + 2 * $1))"; }
peer() { echo "http://127.0.0.1:$((P + 2 * $1 + 1))"; }
cluster= all=
for m in $members; do cluster=$cluster${cluster:+,}m$m=$(peer "$m"); all=$all${all:+,}$(url "$m"); done
c() { timeout 20 "$ec" --endpoints="$all" --dial-timeout=2s --command-timeout=5s "$@"; }
at() { to=$1; shift; timeout 40 "$ec" --endpoints="$(url "$to")" --dial-timeout=2s --command-timeout=30s "$@"; }
say() { name=$1; shift; out=$("$@" 2>&1); code=$?; printf '= %s %s %s\n' "$name" "$code" "$(printf %s "$out" | head -c 4000 | base64 -w0)"; }
pids() { pgrep -f "^$F/lab-etcd --name=m$1 "; }
start() {
  s=$1; shift
  setsid timeout "$LIFE" "$F/lab-etcd" --name=m"$s" --data-dir="d$s" --listen-client-urls="$(url "$s")" \
    --advertise-client-urls="$(url "$s")" --listen-peer-urls="$(peer "$s")" --initial-advertise-peer-urls="$(peer "$s")" \
    --initial-cluster="$cluster" --initial-cluster-token=lab --unsafe-no-fsync "$@" >>"log$s" 2>&1 </dev/null &
}
# Healthy, or its program has ended, or never within half a minute.
comes() {
  n=0
  until timeout 3 "$ec" --endpoints="$(url "$1")" --dial-timeout=1s --command-timeout=2s endpoint health >/dev/null 2>&1; do
    n=$((n + 1))
    if [ $n -gt 5 ] && ! pids "$1" >/dev/null; then tail -n 2 "log$1" | cut -c -600; return 3; fi
    if [ $n -gt 150 ]; then tail -n 2 "log$1" | cut -c -600; return 4; fi
    sleep 0.2
  done
}
stop() {
  for p in $(pids "$1"); do kill -9 "$p"; done
  n=0; while pids "$1" >/dev/null && [ $n -lt 100 ]; do n=$((n + 1)); sleep 0.05; done
  ! pids "$1" >/dev/null
}
freeze() { for p in $(pids "$1"); do kill -STOP "$p"; until grep -q '^State:.T' "/proc/$p/status"; do sleep 0.01; done; done; }
thaw() { for p in $(pids "$1"); do kill -CONT "$p"; done; }
field() { timeout 4 "$ec" --endpoints="$(url "$1")" --dial-timeout=1s --command-timeout=2s endpoint status -w fields 2>/dev/null | sed -n "s/^\"$2\" : \([0-9]*\)\$/\1/p" | head -n 1; }
leader() { for m in $members; do l=$(field "$m" Leader); [ -n "$l" ] && [ "$l" = "$(field "$m" MemberID)" ] && echo "$m" && return; done; return 1; }
follower() { l=$(leader) && for m in $members; do [ "$m" != "$l" ] && echo "$m" && return; done; }
# One that leads, and is not the member given.
another_leads() { n=0; until l=$(leader) && [ "$l" != "$1" ]; do n=$((n + 1)); [ $n -gt 100 ] && return 1; sleep 0.1; done; echo "$l"; }
fill() {
  head -c 524288 /dev/zero | tr '\0' x >value; n=0
  while [ $n -lt "$1" ] && c put fill <value; do n=$((n + 1)); done; echo "$n times"
}
bulk() { head -c 65536 /dev/zero | tr '\0' x >value; n=0; while [ $n -lt "$1" ]; do c put "bulk/$n" <value || return 1; n=$((n + 1)); done; }
# Up to the newest revision, and until every member has done it and told so: pages are free only once later writes are
# on disk. Each write takes and frees a few pages: what differs by less than 128 KiB is the same.
compact() {
  c compact --physical "$(c get marker -w fields | sed -n 's/^"Revision" : //p' | head -n 1)" || return 1
  n=0 same=0 was=-
  until [ $same -ge 2 ]; do
    n=$((n + 1)); [ $n -gt 200 ] && return 1
    c put settled "$n" >/dev/null; sleep 0.15
    now=; for m in $members; do s=$(field "$m" DBSizeInUse); [ "$(compactions "$m")" = done ] || s=; now="$now ${s:-none}"; done
    case "$now" in *none*) same=0 ;; *) if alike "$was" "$now"; then same=$((same + 1)); else same=0; fi ;; esac
    was=$now
  done
}
alike() {
  echo "$1|$2" | awk -F'|' '{ n = split($1, a, " "); if (n != split($2, b, " ")) exit 1
    for (i = 1; i <= n; i++) { d = a[i] - b[i]; if (d <= -131072 || d >= 131072) exit 1 } }'
}
# Whether a member has done one.
compactions() {
  curl -s -m 3 --noproxy '*' "$(url "$1")/metrics" |
    grep -q '^etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_count [1-9]' && echo done || echo none
}
move_leader() {
  l=$(leader) && f=$(follower) && at "$l" move-leader "$(printf %x "$(field "$f" MemberID)")" && another_leads "$l"
}
load_begins() {
  rm -f load.*; : >load.ack; : >load.fail
  ( n=0; while [ -d "$F" ] && [ ! -e load.stop ]; do n=$((n + 1)); if c put "load/$n" "$n" >/dev/null 2>&1; then echo "$n" >>load.ack; else echo "$n" >>load.fail; fi; done ) &
  load=$!
}
# Acknowledged, refused, and acknowledged but not there.
load_count() {
  c get load/ --prefix --keys-only | sed -n 's/^load\///p' | sort >load.there; sort load.ack >load.sorted
  echo "$(wc -l <load.ack) $(wc -l <load.fail) $(comm -23 load.sorted load.there | wc -l)"
}
look() {
  running=
  for m in $members; do
    pids "$m" >/dev/null || continue
    running=$running$m
    printf '? %s m%s %s %s %s\n' "$1" "$m" "$(at "$m" --command-timeout=3s endpoint status -w json 2>/dev/null | base64 -w0)" \
      "$(curl -s -m 3 --noproxy '*' "$(url "$m")/metrics" | grep -E '^etcd_(server_(quota_backend_bytes|leader_changes_seen_total|has_leader)|mvcc_db_total_size_in(_use_in)?_bytes) ' | base64 -w0)-" \
      "$(at "$m" --command-timeout=3s endpoint hashkv -w json 2>/dev/null | base64 -w0)-"
  done
  [ -n "$running" ] || return 0
  say "$1/alarms" c alarm list
  say "$1/read" c get marker --print-value-only
  # As large as what it was filled with: a small one may find room where a large one was refused.
  if [ -e value ]; then say "$1/write" c put probe <value; else say "$1/write" c put probe "$1"; fi
  say "$1/members" c member list
}
# An apiserver of the lab's own, on its members' data. Its log is told where it does not come to life.
api_at=https://127.0.0.1:$((P + 7))
api() { path=$1; shift; curl -sk -m "${wait:-10}" --noproxy '*' -H "Authorization: Bearer $(basename "$F")" "$@" "$api_at$path"; }
api_start() {
  openssl genrsa -out sa.key 2048 2>/dev/null; echo "$(basename "$F"),admin,1" >tokens.csv
  cp -L "/proc/$(pgrep -xo kube-apiserver)/exe" lab-apiserver
  address=$(ip -4 -o addr show scope global | awk '{print $4; exit}' | cut -d/ -f1)
  setsid timeout "$LIFE" "$F/lab-apiserver" --etcd-servers="$all" --secure-port=$((P + 7)) --bind-address=127.0.0.1 \
    --advertise-address="$address" --cert-dir=certs --service-account-key-file=sa.key --service-account-signing-key-file=sa.key \
    --service-account-issuer=https://scratch.invalid --authorization-mode=AlwaysAllow --token-auth-file=tokens.csv \
    --service-cluster-ip-range=10.96.0.0/12 --endpoint-reconciler-type=none --disable-admission-plugins=ServiceAccount \
    --enable-priority-and-fairness=false --watch-cache=false "$@" >api.log 2>&1 </dev/null &
}
api_comes() {
  n=0
  until [ "$(wait=3 api /livez)" = ok ]; do
    n=$((n + 1))
    if [ $n -gt 8 ] && ! pgrep -f "^$F/lab-apiserver " >/dev/null; then tail -n 4 api.log | cut -c -900; return 3; fi
    if [ $n -gt 360 ]; then tail -n 4 api.log | cut -c -900; return 4; fi
    sleep 0.25
  done
}
api_end() { for p in $(pgrep -f "^$F/lab-apiserver "); do kill -9 "$p"; done; }
# Whether the API serves: a write, a consistent read, and its own word on etcd.
api_asked() {
  wait=4
  say "$1/create" api /api/v1/namespaces/default/configmaps -f -o /dev/null -H 'Content-Type: application/json' -d "{\"metadata\":{\"name\":\"lab-$1\"}}"
  say "$1/read" api /api/v1/namespaces/default -f -o /dev/null
  # Its own looks at etcd wait for two seconds each, one after the other.
  wait=20
  say "$1/readyz" api '/readyz?verbose'
  wait=10
}
