#!/usr/bin/env bash
# Run a command in the image of cluster/Dockerfile on this host, with its cards:
#
#     cluster/docker-run.sh /shared/coco /shared/runs -- raymrcnn train --data /shared/coco ...
#
# Folders before -- are seen inside under the same names; the command starts in the first of them.
# RAYMRCNN_IMAGE names another image, DOCKER another program that takes Docker's words (podman).
set -euo pipefail
mounts=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    folder=$(realpath -- "$1")
    [ ${#mounts[@]} -gt 0 ] || mounts=(--workdir "$folder") # elsewhere nothing can be written
    mounts+=(--volume "$folder:$folder")
    shift
done
if [ $# -lt 2 ]; then
    echo "use: cluster/docker-run.sh FOLDER... -- COMMAND..." >&2
    exit 2
fi
shift

cards=()
for device in "${RAYMRCNN_DEV:-/dev}"/cambricon_{dev,ipcm,ctl}*; do
    [ -e "$device" ] && cards+=(--device "$device")
done
if [ ${#cards[@]} -gt 0 ] && cnmon=$(command -v cnmon); then
    cards+=(--volume "$cnmon:/usr/bin/cnmon:ro") # how raymrcnn learns the models of the cards
fi
if command -v nvidia-smi > /dev/null; then
    cards+=(--gpus all)
fi

# The host's network and shared memory: Ray and CNCL use both, and neither the bridge of Docker nor
# 64 MB would do. Nothing else of the host is given: no capability, no new one, a root that cannot be
# written, and the user who asks, so that files belong to that user.
exec "${DOCKER:-docker}" run --rm --init --network host --ipc host \
    --user "$(id -u):$(id -g)" --cap-drop ALL --security-opt no-new-privileges \
    --read-only --tmpfs /tmp:exec --env HOME=/tmp "${cards[@]}" "${mounts[@]}" \
    "${RAYMRCNN_IMAGE:-raymrcnn:0.1.0}" "$@"
