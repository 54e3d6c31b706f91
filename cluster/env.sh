# shellcheck shell=bash
# To be sourced on every node before `ray start`, from the environment that raymrcnn is installed in:
#
#     . cluster/env.sh
#     ray start --head "${RAYMRCNN_NODE[@]}"
#
# It sets what Ray and torch_mlu must find in a raylet's environment, and RAYMRCNN_NODE: the MLU
# cards of this node as a Ray resource, and their model as a label for `--accelerator MODEL`.

# Where Cambricon's libraries are; the images set it, a bare host often does not.
if [ -z "${NEUWARE_HOME:-}" ] && [ -d /usr/local/neuware ]; then
    export NEUWARE_HOME=/usr/local/neuware
fi
if [ -n "${NEUWARE_HOME:-}" ]; then
    export PATH="$NEUWARE_HOME/bin:$PATH"
    export LD_LIBRARY_PATH="$NEUWARE_HOME/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
fi

# Counts cards by libcndev.so: the other way would initialise the driver, and forks would fail.
export PYTORCH_CNDEV_BASED_MLU_CHECK=1

# One thread a worker for what stays on the CPU, as in Cambricon's own scripts: the cores decode.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

# Ray starts workers with low priority; these are what the machine is for.
export RAY_worker_niceness=0

# TLS, where the certificate lies that cluster/tls.sh made for this host: RAY_USE_TLS=0 does without.
_raymrcnn_tls=${RAYMRCNN_TLS:-$HOME/.ray/tls}
if [ -z "${RAY_USE_TLS:-}" ] && [ -e "$_raymrcnn_tls/node.key" ]; then
    chmod 600 "$_raymrcnn_tls/node.key"
    export RAY_USE_TLS=1 RAY_TLS_CA_CERT="$_raymrcnn_tls/ca.crt"
    export RAY_TLS_SERVER_CERT="$_raymrcnn_tls/node.crt" RAY_TLS_SERVER_KEY="$_raymrcnn_tls/node.key"
fi
unset _raymrcnn_tls

# RAY_custom_unit_instance_resources, without which Ray tells every worker card 0, and RAYMRCNN_NODE.
_raymrcnn_node=$("${PYTHON:-python}" -m raymrcnn.device.node.on_ray) || {
    echo "cluster/env.sh: raymrcnn is not installed for ${PYTHON:-python}" >&2
    return 2
}
eval "$_raymrcnn_node"
unset _raymrcnn_node
