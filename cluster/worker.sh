#!/usr/bin/env bash
# Join this host to a cluster, from the environment that raymrcnn is installed in:
#
#     cluster/worker.sh HEAD[:PORT]
#
# RAYMRCNN_IP         this host's address for the cluster  [found by Ray]
# RAY_AUTH_TOKEN_PATH file of the cluster's token          [~/.ray/auth_token, copied from the head]
# Further words go to `ray start`: cluster/worker.sh HEAD --num-cpus 8
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ $# -lt 1 ] || [ "${1#-}" != "$1" ]; then
    echo "use: cluster/worker.sh HEAD[:PORT] [options of ray start]" >&2
    exit 2
fi
head=$1
shift
case $head in
    *:*) ;;
    *) head=$head:6379 ;;
esac
# shellcheck source=cluster/env.sh
. "$here/env.sh"

token=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
if [ ! -s "$token" ]; then
    echo "$token is missing; copy the head's there, with mode 0600" >&2
    exit 2
fi
chmod 600 "$token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$token"

# With TLS on one side alone `ray start` would knock for minutes, and say little.
"${PYTHON:-python}" -m raymrcnn.device.tls "$head"

address=()
if [ -n "${RAYMRCNN_IP:-}" ]; then
    address=(--node-ip-address "$RAYMRCNN_IP")
fi
"${RAY:-ray}" start --address "$head" "${address[@]}" --disable-usage-stats \
    "${RAYMRCNN_NODE[@]}" "$@"
