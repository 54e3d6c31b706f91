"""A cluster of two raylets on this machine, two simulated MLU cards each; ends with its stdin.

With the word "unnumbered" as by somebody who forgot cluster/env.sh.
"""

from __future__ import annotations

import os
import sys

from ray.cluster_utils import Cluster

from raymrcnn.device.mlu_workers.on_ray import UNIT_INSTANCES, unit_instance_resources

if sys.argv[1:] != ["unnumbered"]:
    os.environ[UNIT_INSTANCES] = unit_instance_resources()
os.environ["MLU_VISIBLE_DEVICES"] = "0,1"
nodes = Cluster(
    initialize_head=True,
    head_node_args={
        "num_cpus": 4,
        "resources": {"MLU": 2},
        "labels": {"raymrcnn/accelerator": "MLU370-X8"},
        "include_dashboard": False,
    },
)
os.environ["MLU_VISIBLE_DEVICES"] = "2,3"
nodes.add_node(num_cpus=4, resources={"MLU": 2}, labels={"raymrcnn/accelerator": "MLU370-S4"})
print(nodes.address, flush=True)
sys.stdin.read()
nodes.shutdown()
