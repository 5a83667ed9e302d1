#!/bin/bash
# Run by the chart's init container: forgets the state of an earlier agent where the configuration asks for that.
set -eu
if [ "${CILIUM_BPF_STATE:-}" = true ] || [ "${CLEAN_CILIUM_BPF_STATE:-}" = true ]; then
    cilium-dbg post-uninstall-cleanup -f --bpf-state
fi
if [ "${CILIUM_ALL_STATE:-}" = true ] || [ "${CLEAN_CILIUM_STATE:-}" = true ]; then
    cilium-dbg post-uninstall-cleanup -f --all-state
fi
