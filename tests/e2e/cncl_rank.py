"""One of two ranks that train on simulated cards over CNCL; prints what it ended with.

    cncl_rank.py RANK FOLDER DATA [tamper]

With the last word this rank adds 1 to a gradient before it is shared.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "train")]
rank, folder, data = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
os.environ["MLU_VISIBLE_DEVICES"] = str(rank)

import torch  # noqa: E402  (the card is chosen first)
import torch.distributed as dist  # noqa: E402
from small import prepared  # noqa: E402

from raymrcnn.device import mlu  # noqa: E402
from raymrcnn.train import worker  # noqa: E402

TAMPERED = "roi_heads.box_head.fc7.bias"

mlu.load()
dist.init_process_group(
    "cncl",
    init_method=(folder / "rendezvous").as_uri(),
    rank=rank,
    world_size=2,
    timeout=timedelta(seconds=60),
)
fresh, models = worker.fresh_model, []


def lie(model: Any, hook: Any) -> None:
    """Once, in the first step: the way to the card made new parameters."""
    hook.remove()
    model.get_parameter(TAMPERED).register_hook(lambda gradient: gradient + 1.0)


def observed(*arguments: Any) -> Any:
    model = fresh(*arguments)
    if sys.argv[4:] == ["tamper"]:
        lies = model.register_forward_pre_hook(lambda *_: lie(model, lies))
    models.append(model)
    return model


worker.fresh_model = observed
job = prepared(data, folder / "run", "optim.max_iter=3", accelerator="mlu", workers=2)
channel = worker.Channel(tell=lambda record: None, stop_asked=lambda: False)
device = torch.device("mlu", 0)
torch.mlu.set_device(device)  # type: ignore[attr-defined]
worker.train_worker(job, device, channel, rank=rank, world_size=2)
learnt = models[0].get_parameter(TAMPERED).detach().cpu().tolist()
calls = torch.mlu.cncl.calls["allreduce"]  # type: ignore[attr-defined]
print(json.dumps({"learnt": learnt, "allreduces": calls}))
dist.barrier()
dist.destroy_process_group()
