#!/bin/bash
# Run by the chart when the agent stops: takes the agent's CNI configuration away, if the configuration asks for that.
set -eu
asked="$(cat /tmp/cilium/config-map/cni-uninstall 2>/dev/null || true)"
if [ "$asked" != true ] || [ "${CILIUM_CUSTOM_CNI_CONF:-false}" = true ]; then
    echo "keeping the CNI configuration"
    exit 0
fi
for file in "${CNI_CONF_DIR:-${HOST_PREFIX:-/host}/etc/cni/net.d}"/*cilium*.{conf,conflist}; do
    if [ -f "$file" ]; then
        rm -f "$file"
        echo "removed $file"
    fi
done
