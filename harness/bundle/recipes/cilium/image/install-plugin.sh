#!/bin/bash
# Run by the chart's init container: puts the CNI plugins where the node's container runtime looks for them.
set -eu
to="${CNI_DIR:-${HOST_PREFIX:-/host}/opt/cni}/bin"
mkdir -p "$to"

# Beside the target first, then renamed: the runtime may start the plugin at any moment.
install_plugin() {
    cp "$1" "$to/.${1##*/}.new"
    mv -f "$to/.${1##*/}.new" "$to/${1##*/}"
    echo "installed $to/${1##*/}"
}

if [ "${OVERWRITE_LOOPBACK:-false}" = true ] || [ ! -e "$to/loopback" ]; then
    install_plugin /opt/cni/bin/loopback
fi
if [ "${OVERWRITE_CILIUM:-true}" = true ] || [ ! -e "$to/cilium-cni" ]; then
    install_plugin /opt/cni/bin/cilium-cni
fi
