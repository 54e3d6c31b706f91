"""What a training step takes on 8, 64 and 512 cards, by formulas and published figures.

    python benchmarks/scaling_model.py    writes the table into docs/scaling.md

Nothing here is measured by us; docs/scaling.md names the source of each figure. The step on 8 cards
is as it was published; the model says what more cards add to it: the all-reduce that does not hide
behind the backward pass, and the wait for the slowest.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "scaling.md"
BEGIN, END = "<!-- scaling -->", "<!-- end of scaling -->"
CARDS = (8, 64, 512)
OF_HOST = 8
# Parameters that learn, in float32: the gradient that is exchanged. Stem and norms are frozen.
GRADIENT_BYTES = {"R-50": 4 * 44_125_173, "R-101": 4 * 63_065_077}
BUCKET_BYTES = 25 * 2**20  # of DistributedDataParallel
BACKWARD = 2 / 3  # of a step: as many operations for the gradients of inputs and of weights each
OF_NOMINAL = 0.8  # of a link's bandwidth
HOP_S = 10e-6  # of one message of a ring
SPREAD = 0.05  # of the time of a card's steps, as a part of their mean: images differ
EPOCH_IMAGES = 118_287  # COCO train2017
KNOWN_BATCH = 256  # the largest with which a two-stage detector was shown to train as well by SGD


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Hosts of eight cards.

    Args:
        name: for people.
        network: key of GRADIENT_BYTES.
        step_s: of eight cards, as published.
        images: a card and step.
        inside: bytes a second between two cards of a host, in one direction.
        between: bytes a second between two hosts, in one direction, all adapters together.
    """

    name: str
    network: str
    step_s: float
    images: int
    inside: float
    between: float


MACHINES = (
    Machine(name="V100, 1 x 100 Gb/s", network="R-50", step_s=0.261, images=2,
            inside=150e9, between=12.5e9),
    Machine(name="A100, 8 x 200 Gb/s", network="R-50", step_s=12 * 8 / 209, images=12,
            inside=300e9, between=200e9),
    Machine(name="a card of 0.567 s over PCIe 4.0, 1 x 100 Gb/s", network="R-101", step_s=0.5665,
            images=2, inside=32e9, between=12.5e9),
    Machine(name="the same, 1 x 10 Gb/s", network="R-101", step_s=0.5665,
            images=2, inside=32e9, between=1.25e9),
)  # fmt: skip


def all_reduce_s(
    num_bytes: int, cards: int, inside: float, between: float, of_host: int = 8
) -> float:
    """A ring in each host, and one over the hosts: 2 (n - 1) / n of the bytes pass each link.

    Each card of a host takes its part through the host's adapters, which all share.
    """
    here = min(cards, OF_HOST)
    hosts = -(-cards // OF_HOST)
    buckets = math.ceil(num_bytes / BUCKET_BYTES)
    moved = 2 * (here - 1) / here * num_bytes / (OF_NOMINAL * inside)
    moved += 2 * (hosts - 1) / hosts * num_bytes / (OF_NOMINAL * between)
    return moved + HOP_S * buckets * 2 * (here - 1 + hosts - 1)


def added_s(machine: Machine, cards: int) -> float:
    """What the cards cost each other in a step: the exposed exchange, and the slowest."""
    num_bytes = GRADIENT_BYTES[machine.network]
    exchange = all_reduce_s(num_bytes, cards, machine.inside, machine.between)
    last = 1 / math.ceil(num_bytes / BUCKET_BYTES)  # its bucket is full when nothing is left to do
    hidden = BACKWARD * machine.step_s * (1 - last)
    # The largest of n normal deviates lies about sqrt(2 ln n) deviations above the mean.
    slowest = SPREAD * machine.step_s * math.sqrt(2 * math.log(cards))
    return max(exchange * last, exchange - hidden) + slowest


def step_s(machine: Machine, cards: int) -> float:
    """Seconds of a step."""
    return machine.step_s + added_s(machine, cards) - added_s(machine, OF_HOST)


def rows() -> list[tuple[str, ...]]:
    """The cells of the table."""
    found: list[tuple[str, ...]] = []
    for machine in MACHINES:
        for cards in CARDS:
            seconds, batch = step_s(machine, cards), machine.images * cards
            exchange = all_reduce_s(
                GRADIENT_BYTES[machine.network], cards, machine.inside, machine.between
            )
            found.append((
                f"{machine.network}, {machine.name}" if cards == CARDS[0] else "",
                str(cards),
                f"{exchange * 1000:.0f} ms",
                f"{seconds:.2f} s",
                f"{machine.step_s / seconds:.2f}",
                f"{batch / seconds:.0f}",
                f"{EPOCH_IMAGES / batch * seconds / 60:.1f} min",
                f"{batch}" if batch <= KNOWN_BATCH else f"{batch}: too large",
                f"{0.02 * batch / 16:g}" if batch <= KNOWN_BATCH else "-",
            ))  # fmt: skip
    return found


def table() -> str:
    """The table, in Markdown."""
    head = ("network, cards", "cards", "all-reduce", "step", "efficiency", "images/s", "epoch",
            "batch", "`optim.base_lr`")  # fmt: skip
    lines = [head, ("---",) * len(head), *rows()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_table(text: str) -> str:
    """The page with its table renewed."""
    return re.sub(f"{BEGIN}.*{END}", f"{BEGIN}\n{table()}\n{END}", text, flags=re.S)


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
