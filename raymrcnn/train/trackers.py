"""Where people watch runs: TensorBoard always, MLflow and Weights & Biases where asked.

The driver feeds them with what it hears: it has the user's settings, and workers may be anywhere. A
service that fails is named once and left; training goes on. Event files of a run behind a URI grow
on this machine and are uploaded now and then.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from raymrcnn import rundir, storage
from raymrcnn.config import Recipe
from raymrcnn.errors import ConfigError, RaymrcnnError
from raymrcnn.storage import Place
from raymrcnn.train.job import flat_fields
from raymrcnn.train.metrics import scores_record
from raymrcnn.train.remote import Published
from raymrcnn.weights import copies

PROJECT = "raymrcnn"
TRACKING_JSON = "tracking.json"  # in the run folder: the services' own names of the run


class Tracker(Protocol):
    """One place that takes figures and images of steps."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take figures; a step may come again after a restart."""

    def image(self, step: int, name: str, path: Path) -> None:
        """Take a JPEG file."""

    def close(self) -> None:
        """Hand over what is held back."""


def require_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker that is unknown or not installed, before anything starts.

    Raises:
        ConfigError: with what to install.
    """
    for name in names:
        if name not in _SERVICES:
            raise ConfigError(
                f"{name!r} is not {' or '.join(_SERVICES)}",
                where="--track",
                todo="TensorBoard events are always written",
            )
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"{name} is not installed", where="--track", todo=f"pip install 'raymrcnn[{name}]'"
            )


class Trackers:
    """All trackers of a run.

    Args:
        run: the run folder.
        start: updates done before.
        names: of the services, besides TensorBoard.
        recipe: for services that list it.
        on_news: called with {"note": text} where one fails.
    """

    def __init__(
        self,
        run: Place,
        start: int,
        names: Sequence[str],
        recipe: Recipe,
        on_news: Callable[[dict[str, Any]], None],
    ) -> None:
        self._run, self._on_news = run, on_news
        rundir.prepare_output(copies.home_of(run))
        self._open: dict[str, Tracker] = {}
        events = partial(TensorBoard, run, start)
        self._guarded("tensorboard", partial(self._add, "tensorboard", events))
        for name in names:
            self._guarded(name, partial(self._add, name, partial(_SERVICES[name], run, recipe)))

    def take(self, item: Mapping[str, Any]) -> None:
        """A metrics record, or the scores of a checkpoint with what was drawn; notes pass by."""
        if "step" not in item:
            return
        step = int(item["step"])
        if "validation" in item:
            values = scores_record(item["validation"])
            self._log(step, values)
            with tempfile.TemporaryDirectory() as spool:
                for path in self._pictures(step, Path(spool)):
                    for name, tracker in list(self._open.items()):
                        self._guarded(name, partial(tracker.image, step, f"val/{path.stem}", path))
        else:
            values = {
                f"train/{name}": float(value)
                for name, value in item.items()
                if name != "step" and isinstance(value, (int, float))
            }
            self._log(step, values)

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        for name, tracker in list(self._open.items()):
            self._guarded(name, partial(tracker.log, step, values))

    def _pictures(self, step: int, spool: Path) -> list[Path]:
        """The images that were drawn of a scored checkpoint; none where they cannot be read."""
        folder = storage.below(
            self._run, rundir.VALIDATION, rundir.step_name(step), rundir.OVERLAYS
        )
        if isinstance(folder, str):
            with contextlib.suppress(RaymrcnnError):
                for name in storage.names(folder):
                    storage.download(storage.join(folder, name), spool / name)
            folder = spool
        return sorted(folder.glob("*.jpg"))

    def close(self) -> None:
        """Close all."""
        for name, tracker in list(self._open.items()):
            self._guarded(name, tracker.close)

    def _add(self, name: str, make: Callable[[], Tracker]) -> None:
        self._open[name] = make()

    def _guarded(self, name: str, work: Callable[[], None]) -> None:
        """A service's own errors are many kinds, none of which is worth a run."""
        try:
            work()
        except Exception as error:
            self._open.pop(name, None)
            line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            self._on_news({"note": f"{name} takes no more ({line}); training goes on"})


class TensorBoard:
    """Event files in the run folder.

    Args:
        run: the run folder.
        start: updates done before; events of later steps are hidden.
    """

    def __init__(self, run: Place, start: int) -> None:
        logging.getLogger("tensorboardX").setLevel(logging.ERROR)
        folder = copies.home_of(run) / rundir.TENSORBOARD
        self._folder, self._latest = str(folder), start
        self._there = storage.below(run, rundir.TENSORBOARD)
        self._uploaded = {path.name: path.stat().st_size for path in folder.glob("events.*")}
        self._events = self._writer(start)
        self._published = Published(self._upload) if isinstance(run, str) else None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        if any(name.startswith("train/") for name in values):
            if step <= self._latest:  # done again after a failure: what stood there is hidden
                self._events.close()
                self._events = self._writer(step - 1)
            self._latest = step
        for name, value in values.items():
            self._events.add_scalar(re.sub(r"^val_", "val/", name), value, step)

    def image(self, step: int, name: str, path: Path) -> None:
        """See `Tracker`."""
        with Image.open(path) as picture:
            self._events.add_image(name, np.asarray(picture), step, dataformats="HWC")

    def close(self) -> None:
        """See `Tracker`."""
        self._events.close()
        if self._published is not None:
            self._published.close()

    def _upload(self) -> None:
        for path in Path(self._folder).glob("events.*"):
            size = path.stat().st_size
            if self._uploaded.get(path.name) != size:
                storage.upload(path, str(storage.below(self._there, path.name)))
                self._uploaded[path.name] = size

    def _writer(self, start: int) -> Any:
        from tensorboardX import SummaryWriter  # comes with ray[train]; slow to import

        # Its files are named by the second; one that is there would be written over.
        number = len(list(Path(self._folder).glob("events.*")))
        suffix = f".{number:06d}"
        return SummaryWriter(self._folder, purge_step=start + 1, filename_suffix=suffix)


class MLflow:
    """A run of MLflow, at MLFLOW_TRACKING_URI or in ./mlruns; gone on with after a restart.

    Args:
        run: the run folder.
        recipe: logged as parameters.
    """

    def __init__(self, run: Place, recipe: Recipe) -> None:
        import mlflow

        logging.getLogger("mlflow").setLevel(logging.ERROR)
        self._client = mlflow.MlflowClient()
        known = _known(run, "mlflow")
        if known is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            found = self._client.get_experiment_by_name(name)
            experiment = found.experiment_id if found else self._client.create_experiment(name)
            known = str(
                self._client.create_run(experiment, run_name=storage.name_of(run)).info.run_id
            )
            _remember(run, "mlflow", known)
            for key, value in flat_fields(recipe).items():
                self._client.log_param(known, key, value)
        self._id = known
        self._client.update_run(self._id, status="RUNNING")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._client.log_metric(self._id, name, value, step=step)

    def image(self, step: int, name: str, path: Path) -> None:
        """See `Tracker`."""
        self._client.log_artifact(self._id, str(path), f"{rundir.step_name(step)}")

    def close(self) -> None:
        """See `Tracker`."""
        self._client.set_terminated(self._id)


class WandB:
    """A run of Weights & Biases, by its own environment variables; gone on with after a restart.

    Args:
        run: the run folder.
        recipe: logged as the configuration.
    """

    def __init__(self, run: Place, recipe: Recipe) -> None:
        import wandb

        self._wandb = wandb
        name = _known(run, "wandb") or uuid.uuid4().hex[:8]
        _remember(run, "wandb", name)
        self._run = wandb.init(
            id=name,
            name=storage.name_of(run),
            resume="allow",
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=str(copies.home_of(run)),
            config=flat_fields(recipe),
            settings=wandb.Settings(silent=True, console="off"),
        )
        # Scores come later than the records of their steps, which its own counter cannot take.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._run.log({**values, "step": step})

    def image(self, step: int, name: str, path: Path) -> None:
        """See `Tracker`."""
        self._run.log({name: self._wandb.Image(str(path)), "step": step})

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()


_SERVICES: dict[str, Callable[[Place, Recipe], Tracker]] = {
    "mlflow": MLflow,
    "wandb": WandB,
}


def _known(run: Place, name: str) -> str | None:
    path = storage.below(run, TRACKING_JSON)
    found = storage.read_json(path).get(name) if storage.exists(path) else None
    return None if found is None else str(found)


def _remember(run: Place, name: str, value: str) -> None:
    path = storage.below(run, TRACKING_JSON)
    before = storage.read_json(path) if storage.exists(path) else {}
    storage.write_json(path, {**before, name: value})
