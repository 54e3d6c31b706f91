#!/usr/bin/env bash
# The reference's inference: its published weights, 32 images at once. Further words go to
# `raymrcnn infer`.
set -euo pipefail
data=${1:?use: cluster/one-click-infer.sh COCO_FOLDER [WEIGHTS] [options]}
weights=${2:-e2e_mask_rcnn_R_101_FPN_1x} # as `raymrcnn weights fetch` brings it
exec raymrcnn infer --data "$data" --split val2017 --weights "$weights" \
    --batch-size 32 --out predictions "${@:3}"
