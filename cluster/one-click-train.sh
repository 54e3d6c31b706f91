#!/usr/bin/env bash
# The reference's training: R-101-FPN on 8 cards in float32. Further words go to `raymrcnn train`.
set -euo pipefail
data=${1:?use: cluster/one-click-train.sh COCO_FOLDER [R-101.pkl] [options]}
weights=${2:-R-101} # as `raymrcnn weights fetch R-101` brings it
exec raymrcnn train --data "$data" --recipe detectron_r101_fpn_1x --weights "$weights" \
    --workers 8 --out runs/detectron_r101_fpn_1x "${@:3}"
