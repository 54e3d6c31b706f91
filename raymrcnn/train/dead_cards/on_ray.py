"""A run that may have fewer workers goes on without the cards that do no work.

Ray Train starts workers again after a death, on cards that Ray counts, dead ones among them. What
is found dead here is held until the run ends, and each group that then begins is no larger than
what is left.
"""

from __future__ import annotations

import textwrap
import threading
from collections.abc import Callable, Collection
from typing import Any

from raymrcnn.device.accelerator import CPU, ROWS
from raymrcnn.device.choice.on_ray import label_selector
from raymrcnn.device.dead_cards.on_ray import DeadCard, hold_dead_cards
from raymrcnn.device.on_ray import worker_resources
from raymrcnn.errors import RunError
from raymrcnn.train.job import Failures, TrainJob
from raymrcnn.train.nodes.on_ray import nodes_labelled, room

_MOST_SAID = 200  # characters of an error that the run may outlive


class DeadCards:
    """Those of a run; to be closed when it ends.

    Args:
        job: the run.
        failures: what it lives through.
        hold: finds cards that do no work, and holds them; for tests.
    """

    def __init__(
        self,
        job: TrainJob,
        failures: Failures,
        hold: Callable[..., list[DeadCard]] = hold_dead_cards,
    ) -> None:
        self._job, self._most_deaths, self._hold = job, failures.most, hold
        self._accelerator = ROWS[job.accelerator]
        self._held: list[DeadCard] = []
        self._deaths = 0  # since cards were last left out

    def names(self) -> tuple[str, ...]:
        """Of the cards that are left out, with their hosts."""
        return tuple(map(str, self._held))

    def count(self) -> int:
        """How many of the cards that Ray counts are left out."""
        if not self._held:
            return 0
        alive = {node["NodeID"] for node in nodes_labelled(None)}
        return sum(card.node in alive for card in self._held)

    def deaths_left_to_ray(self) -> int:
        """After how many deaths Ray Train may start a group again by itself.

        After none where cards are left out: it would count them among those that there are.
        """
        return 0 if self._held else self._most_deaths

    def room(self, leaving: Collection[str] = ()) -> int:
        """How many workers the cluster could hold on cards that work, but nodes that are to go."""
        labels = label_selector(self._accelerator, self._job.card_model)
        nodes = [card.node for card in self._held]
        return room(worker_resources(self._accelerator), labels, leaving, without=nodes)

    def most_workers(self) -> int:
        """The most workers of a group that begins now."""
        job = self._job
        if not self._held:
            return job.workers
        return max(job.min_workers or job.workers, min(job.workers, self.room()))

    def survive(
        self, error: RunError, on_news: Callable[[dict[str, Any]], None], stop: threading.Event
    ) -> None:
        """Have the run go on after the end of a group, without the cards that do no work.

        Args:
            error: a `CardError` or `WorkerError`, after which Ray Train starts no other group.
            on_news: called with a note for what is looked for, and for each card.
            stop: set by whoever does not want the run to go on.

        Raises:
            RunError: the same, where nothing is dead that was not before and deaths are no longer
                allowed, or the run has a fixed number of workers; or too few cards are left.
        """
        fewest = self._job.min_workers
        if fewest is None or self._accelerator is CPU or not self._most_deaths or stop.is_set():
            raise error
        where = f" ({error.where})" if error.where else ""
        what = textwrap.shorten(error.what, _MOST_SAID, placeholder=" ...")
        on_news({"note": f"{what}{where}: all cards are tried"})
        before, self._held = len(self._held), [card for card in self._held if card.held()]
        nodes = nodes_labelled(label_selector(self._accelerator, self._job.card_model))
        found = self._hold(self._accelerator, nodes, self._held, stop.is_set)
        self._held += found
        if not found:
            if not before or self._deaths >= self._most_deaths:
                raise error
            self._deaths += 1
            return
        self._deaths = 0
        left = self.room()
        dead = "; ".join(f"{card} does no work ({card.fault})" for card in found)
        if left < fewest:
            workers = f"--workers {left}:{self._job.workers}"
            raise RunError(
                f"{dead}; cards that are left: {left}, and the run needs {fewest}",
                todo=f"go on with {workers}" if left else "the same command goes on with cards",
            )
        on_news(
            {"note": f"{dead}: left out, the run goes on from its last checkpoint with "
             f"{self.most_workers()} of {self._job.workers} workers"}
        )  # fmt: skip

    def count_anew(self) -> None:
        """Forget the deaths that there were: the run was saved, and goes on with more."""
        self._deaths = 0

    def close(self) -> None:
        """Give the cards back to Ray."""
        while self._held:
            self._held.pop().let_go()
