"""A card at work, in a process of its own: a broken driver may hang or kill that, and nothing else.

    python -m raymrcnn.doctor.trial operators mlu
    python -m raymrcnn.doctor.trial all-reduce mlu RANK WORLD PORT

Prints one JSON document. `operators` compares nms and roi_align with the CPU's, the two that
torchvision brings and a card's makers may lack; `all-reduce` sums 64 MiB across the cards.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torchvision.ops import nms, roi_align

from raymrcnn.device import mlu
from raymrcnn.device.accelerator import CPU, MLU, ROWS, Accelerator, first_device, num_cards
from raymrcnn.doctor.findings import Finding, fail, ok, warn

LIMIT_S = 120.0
SUMMED = 64 << 20  # bytes
_ROUNDS = 5


def trial_findings(limit_s: float = LIMIT_S) -> Iterator[Finding]:
    """Of the CPU, and of each kind of card that is here."""
    for row in ROWS.values():
        cards = num_cards(row)
        if not cards:
            continue
        told = _run(["operators", row.name], limit_s)
        yield _operators(row, told)
        if "error" not in told:
            yield _all_reduce(row, 2 if row is CPU else cards, limit_s)


def _operators(row: Accelerator, told: dict[str, Any]) -> Finding:
    check = f"operators on {row.name}"
    if "error" in told:
        return fail(check, told["error"], "install the torch and torchvision that belong together; "
                    "for a card, look at its driver")  # fmt: skip
    if told["nms"] or told["roi_align"] > 1e-3:
        what = f"{told['nms']} picks of nms, and roi_align by {told['roi_align']:.1e}"
        return fail(check, f"not as on the CPU: {what}", "update the card's torch")
    return ok(check, f"nms and roi_align as on the CPU (to {told['roi_align']:.0e})")


def _all_reduce(row: Accelerator, world: int, limit_s: float) -> Finding:
    check = f"all-reduce on {row.name}"
    if world < 2:
        return ok(check, "one card: nothing to sum")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        _start(["all-reduce", row.name, str(rank), str(world), str(port)], row, rank)
        for rank in range(world)
    ]
    told = [_ended(process, limit_s) for process in started]
    errors = [one["error"] for one in told if "error" in one]
    if errors:
        links = f"look at {row.process_group_backend}, and at the links between the cards"
        return fail(check, f"{len(errors)} of {world}: {errors[0]}", links)
    if not all(one["right"] for one in told):
        return fail(check, f"{world} sum up wrongly", "update the card's collective library")
    rate = min(one["gb_per_s"] for one in told)
    if row is not CPU and rate < 1.0:
        return warn(check, f"{world} at {rate:.2f} GB/s", "look at the links between the cards")
    return ok(check, f"{world} at {rate:.2f} GB/s, {row.process_group_backend}")


def _run(words: list[str], limit_s: float) -> dict[str, Any]:
    return _ended(_start(words, None, 0), limit_s)


def _start(words: list[str], row: Accelerator | None, card: int) -> subprocess.Popen[str]:
    env = dict(os.environ)
    # A process on MLU chooses for itself: another variable may win over that one.
    if row is not None and row is not MLU and row.visible_devices_env:
        shown = env.get(row.visible_devices_env)
        env[row.visible_devices_env] = shown.split(",")[card] if shown else str(card)
    return subprocess.Popen(
        [sys.executable, "-m", "raymrcnn.doctor.trial", *words],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _ended(process: subprocess.Popen[str], limit_s: float) -> dict[str, Any]:
    try:
        output, errors = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        # One that waits in the driver may not die.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=1)
        return {"error": f"hangs: no answer in {limit_s:g} s"}
    try:
        found: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
        return found
    except (IndexError, ValueError):
        last = (errors.strip().splitlines() or [f"ended with {process.returncode}"])[-1]
        return {"error": last[:200]}


def _compare_operators(device: torch.device) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(200, 2, generator=generator) * 80
    boxes = torch.cat([corners, corners + 1 + torch.rand(200, 2, generator=generator) * 30], 1)
    scores = torch.rand(200, generator=generator)
    there = nms(boxes.to(device), scores.to(device), 0.5).cpu()
    differ = set(there.tolist()) ^ set(nms(boxes, scores, 0.5).tolist())
    features = torch.rand(1, 8, 40, 40, generator=generator)
    rois = torch.cat([torch.zeros(50, 1), boxes[:50]], 1)
    most = 0.0
    for ratio in (2, -1):
        ours = roi_align(features, rois, (7, 7), 0.25, ratio)
        theirs = roi_align(features.to(device), rois.to(device), (7, 7), 0.25, ratio).cpu()
        most = max(most, float((ours - theirs).abs().max()))
    return {"nms": len(differ), "roi_align": most}


def _sum_up(row: Accelerator, rank: int, world: int, port: int) -> dict[str, Any]:
    if row is MLU:
        mlu.show_only(rank)
    device = first_device(row)
    if row is not CPU:
        torch.get_device_module(device).set_device(device)
    dist.init_process_group(
        row.process_group_backend, init_method=f"tcp://127.0.0.1:{port}", rank=rank,
        world_size=world,
    )  # fmt: skip
    right, best = True, float("inf")
    for _ in range(_ROUNDS):
        tensor = torch.full((SUMMED // 4,), float(rank + 1), device=device)
        dist.barrier()
        began = time.perf_counter()
        dist.all_reduce(tensor)
        right = right and bool((tensor == world * (world + 1) / 2).all().item())
        best = min(best, time.perf_counter() - began)
    dist.destroy_process_group()
    # What each card sends and gets in a ring.
    return {"right": right, "gb_per_s": 2 * (world - 1) / world * SUMMED / best / 1e9}


def main(words: list[str]) -> None:
    """Run one trial and print what it found."""
    kind, name, *numbers = words
    row = ROWS[name]
    try:
        if kind == "operators":
            found = _compare_operators(first_device(row))
        else:
            found = _sum_up(row, *map(int, numbers))
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"}
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
