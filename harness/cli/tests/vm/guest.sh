#!/bin/bash
# Runs in the guest, once, as a unit of its systemd. Everything goes to the second serial line: a JSON object where a
# step begins and one where it ends, and lines that begin with "| " for people. The guest observes; the host judges.
set -u
line=/dev/ttyS1
stty -F $line raw -echo
exec >$line 2>&1 </dev/null
export HOME=/root PATH=/opt/shakedown:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
seen=/run/guest
mkdir -p $seen
# What commands say while they run.
exec 3> >(exec sed -u 's/^/| /')

# Milliseconds since the guest's kernel started.
now() {
    local up
    read -r up _ </proc/uptime
    echo "$((10#${up/./}))0"
}

# NAME SECONDS COMMAND..: its standard output is what was observed.
step() {
    local name=$1 budget=$2 began code
    shift 2
    began=$(now)
    printf '{"begin":"%s","budget_s":%d}\n' "$name" "$budget"
    timeout --kill-after=10 "$budget" "$@" >"$seen/$name" 2>&3
    code=$?
    printf '{"end":"%s","code":%d,"ms":%d,"out":"%s"}\n' \
        "$name" "$code" "$(($(now) - began))" "$(base64 -w0 "$seen/$name")"
    return "$code"
}

# NAME COMMAND..: on the cluster's only node.
on_node() {
    local name=$1
    shift
    step "$name" 120 shakedown --quiet exec cp-1 -- "$@"
}

# What a person would look at first.
explain() {
    local log
    {
        for log in /var/lib/shakedown/shakedown/nodes/*/upper/var/log/shakedown/*.log \
            /var/lib/shakedown/shakedown/nodes/*/upper/var/log/pods/*/*/*.log; do
            echo "== $log"
            tail -n 25 "$log"
        done
        echo "== agent"
        timeout 60 shakedown --quiet exec cp-1 -- \
            kubectl --request-timeout=20s -n kube-system logs ds/cilium --all-containers --tail=40
        echo "== kernel"
        dmesg | tail -n 20
    } >&3 2>&3
}

platform() {
    step up 900 shakedown up --control-planes 1 --workers 0 --json || return
    step cilium 1800 shakedown converge --only cilium --json || return
    step coredns 900 shakedown converge --only coredns --json || return

    on_node cgroup-type stat --file-system --format=%T /sys/fs/cgroup
    on_node cgroup-controllers cat /sys/fs/cgroup/cgroup.subtree_control
    on_node cgroup-pods find /sys/fs/cgroup/kubepods -path '*/pod*/*/memory.current'
    on_node cgroup-programs bpftool --json cgroup show /sys/fs/cgroup
    step host-programs 60 bpftool --json cgroup show /sys/fs/cgroup
    on_node kubelet kubectl get --raw /api/v1/nodes/cp-1/proxy/configz
    on_node oom-score bash -c 'cat /proc/$(pgrep -xo kube-apiserver)/oom_score_adj'
    on_node agent kubectl --namespace kube-system get daemonset cilium --output json
    on_node wireguard-link ip -details -json link show dev cilium_wg0
    on_node cilium-status kubectl --namespace kube-system exec ds/cilium --container cilium-agent -- cilium-dbg status
    step modules 10 cat /proc/modules
}

step doctor 120 shakedown doctor --json
platform || explain
step down 180 shakedown down
step residue 120 shakedown residue --json
step host-groups 10 find /sys/fs/cgroup -maxdepth 1 -name 'shakedown*'
# The last words must be out before the machine is off.
sleep 1
printf '{"end":"guest","code":0,"ms":%d,"out":""}\n' "$(now)"
sync
systemctl poweroff --force --force
