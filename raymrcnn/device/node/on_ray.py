"""What `ray start` must be told of a node, as lines for a shell.

`cluster/env.sh` evaluates them: the version of raymrcnn as a label, and the MLU cards, of which Ray
knows nothing; CUDA cards it finds by itself. Prints only.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence

from raymrcnn import __version__
from raymrcnn.device import mlu
from raymrcnn.device.accelerator import MLU
from raymrcnn.device.cambricon import Card
from raymrcnn.device.choice.on_ray import LABELS
from raymrcnn.device.mlu_workers.on_ray import UNIT_INSTANCES, unit_instance_resources
from raymrcnn.device.on_ray import VERSION_LABEL

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")  # as Ray wants its values


def shell_lines(cards: int, known: Sequence[Card]) -> list[str]:
    """Exports, and the options of `ray start` as the array RAYMRCNN_NODE.

    Args:
        cards: MLU devices that this shell may use.
        known: what is known of them; their model becomes a label if all have one.
    """
    labels = [f"{VERSION_LABEL}={__version__}"]
    if not cards:
        return [f"RAYMRCNN_NODE=({shlex.join(['--labels', *labels])})"]
    models = {card.model for card in known}
    model = models.pop() if len(models) == 1 else None
    if model is not None and _LABEL.fullmatch(model):
        labels.append(f"{LABELS[MLU.name]}={model}")
    options = ["--resources", json.dumps({MLU.ray_resource: cards}), "--labels", ",".join(labels)]
    return [
        f"export {UNIT_INSTANCES}={shlex.quote(unit_instance_resources())}",
        f"RAYMRCNN_NODE=({shlex.join(options)})",
    ]


if __name__ == "__main__":
    there = mlu.device_count()
    print("\n".join(shell_lines(there, mlu.visible_cards() if there else ())))
