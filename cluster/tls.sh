#!/usr/bin/env bash
# Make the certificates with which Ray's nodes speak TLS to each other, once, on any host:
#
#     cluster/tls.sh 10.0.0.1 10.0.0.2 ...    # every host of the cluster, by address or name
#
# A private authority signs one certificate a host; a later call with other hosts uses it again.
# Each host gets its own folder under the name ~/.ray/tls: env.sh, and with it head.sh and worker.sh,
# and `raymrcnn --cluster` find it there. Nobody joins who has no certificate of this authority.
#
# RAYMRCNN_TLS_OUT   folder of the authority and of what it makes  [~/.ray/tls-authority]
# RAYMRCNN_TLS_DAYS  how long a certificate holds                  [825]
set -euo pipefail
if [ $# -lt 1 ] || [ "${1#-}" != "$1" ]; then
    echo "use: cluster/tls.sh HOST..." >&2
    exit 2
fi
out=${RAYMRCNN_TLS_OUT:-$HOME/.ray/tls-authority}
days=${RAYMRCNN_TLS_DAYS:-825}
umask 077 # keys are for their owner alone
mkdir -p "$out"

if [ ! -s "$out/ca.key" ]; then
    openssl req -x509 -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -days 3650 \
        -subj "/CN=raymrcnn cluster authority" -addext basicConstraints=critical,CA:TRUE \
        -addext keyUsage=critical,keyCertSign,cRLSign -keyout "$out/ca.key" -out "$out/ca.crt" \
        2> "$out/log" || { cat "$out/log" >&2 && exit 1; }
fi

for host in "$@"; do
    # Ray calls its nodes by their addresses, and what runs on the same host by 127.0.0.1.
    if [[ $host =~ ^[0-9]+(\.[0-9]+){3}$ || $host == *:* ]]; then
        names=IP:$host
    elif [[ $host =~ ^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$ ]] &&
        address=$(getent ahosts "$host" | cut -d' ' -f1 | head -n1) && [ -n "$address" ]; then
        names=DNS:$host,IP:$address
    else
        echo "$host: no address, and no name that has one; give the address that Ray uses" >&2
        exit 2
    fi
    new=$(mktemp -d "$out/.new-XXXXXX")
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 \
        -subj "/CN=raymrcnn node" -keyout "$new/node.key" -out "$new/request" 2> "$out/log" ||
        { cat "$out/log" >&2 && exit 1; }
    # Each node is a server to the others, and a client of theirs.
    printf '%s\n' "subjectAltName=$names,IP:127.0.0.1,DNS:localhost" \
        "extendedKeyUsage=serverAuth,clientAuth" "keyUsage=critical,digitalSignature" \
        > "$new/extensions"
    openssl x509 -req -in "$new/request" -CA "$out/ca.crt" -CAkey "$out/ca.key" -sha256 \
        -set_serial "0x$(openssl rand -hex 16)" -days "$days" -extfile "$new/extensions" \
        -out "$new/node.crt" 2> "$out/log" || { cat "$out/log" >&2 && exit 1; }
    cp "$out/ca.crt" "$new/ca.crt"
    rm -f "$new/request" "$new/extensions"
    rm -rf "${out:?}/$host"
    mv "$new" "$out/$host"
    printf 'ssh %s mkdir -p .ray/tls && scp %q/* %s:.ray/tls/\n' "$host" "$out/$host" "$host"
done
rm -f "$out/log"
