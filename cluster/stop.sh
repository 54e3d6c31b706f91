#!/usr/bin/env bash
# Stop Ray on this host: all of it, also what others started. Commands that run there should be
# stopped first, by Ctrl-C or `ray job stop`, and save; those that were not lose the steps since the
# last checkpoint, or the images of the blocks at hand, when the same command goes on.
set -euo pipefail
"${RAY:-ray}" stop --grace-period "${RAYMRCNN_GRACE:-20}" "$@"
