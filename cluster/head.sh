#!/usr/bin/env bash
# Start the head of a cluster on this host, from the environment that raymrcnn is installed in:
#
#     cluster/head.sh                         # then cluster/worker.sh HEAD on every other host
#
# RAYMRCNN_IP         this host's address for the cluster     [the first of `hostname -I`]
# RAYMRCNN_PORT       of the head                             [6379]
# RAYMRCNN_DASHBOARD  address that the job server listens at  [127.0.0.1]
# RAY_AUTH_TOKEN_PATH file of the cluster's token             [~/.ray/auth_token, made if absent]
# Further words go to `ray start`: cluster/head.sh --num-cpus 0
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=cluster/env.sh
. "$here/env.sh"

ip=${RAYMRCNN_IP:-$(hostname -I | cut -d' ' -f1)}
port=${RAYMRCNN_PORT:-6379}

# Whoever reaches the ports of a cluster can run code on it. So nobody does without the token; the
# file alone holds it: what stands in a command line or the environment is seen by others.
token=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
if [ ! -s "$token" ]; then
    (umask 077 && mkdir -p "$(dirname "$token")" && "${PYTHON:-python}" -c \
        'import secrets; print(secrets.token_hex(32), end="")' > "$token")
fi
chmod 600 "$token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$token"

if [ "${RAY_USE_TLS:-}" = 1 ] && command -v openssl > /dev/null &&
    ! openssl x509 -in "$RAY_TLS_SERVER_CERT" -noout -checkip "$ip" | grep -q 'does match'; then
    echo "$RAY_TLS_SERVER_CERT is not for $ip; make one that is: cluster/tls.sh $ip ..." >&2
    exit 2
fi

# The job server listens on this host alone, as it may run anything: reach it through
# `ssh -L 8265:localhost:8265 HEAD`, or set RAYMRCNN_DASHBOARD to a private address. It asks for the
# token there too, but speaks plain HTTP.
"${RAY:-ray}" start --head --node-ip-address "$ip" --port "$port" \
    --dashboard-host "${RAYMRCNN_DASHBOARD:-127.0.0.1}" --dashboard-port 8265 \
    --disable-usage-stats "${RAYMRCNN_NODE[@]}" "$@"
echo
echo "On every other host: copy $token there (mode 0600), then cluster/worker.sh $ip:$port"
echo "Between hosts: $([ "${RAY_USE_TLS:-}" = 1 ] && echo TLS || echo 'no TLS (cluster/tls.sh)')"
