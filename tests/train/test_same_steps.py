"""A step is that of the global batch, whatever number of workers it is shared out to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_in_ranks
from safetensors.torch import load_file
from small import prepared, run_here

# As the reference trains: SGD and frozen norms. AdamW, and group norms of levels of a few cells,
# make a large step of what is all rounding error.
LONGER = (
    "model.norm=frozen",
    "model.trainable_stages=3",
    "optim.name=sgd",
    "optim.base_lr=0.005",
    "optim.batch_size=6",
    "optim.max_iter=10",
    "checkpoint.every=10",
    "log_every=1",
)
Told = list[dict[str, Any]]


def parameters(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / (run / "last").read_text().strip() / "model.safetensors")


@pytest.fixture(scope="module")
def alone(made_up: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Told]:
    """The run in one process."""
    run = tmp_path_factory.mktemp("alone")
    _, told = run_here(prepared(made_up, run, *LONGER))
    return run, steps_of(told)


def steps_of(told: Told) -> Told:
    return [record for record in told if "step" in record]


def assert_same(run: Path, told: Told, alone: tuple[Path, Told]) -> None:
    other, expected = alone
    assert [r["step"] for r in told] == list(range(1, 11)) == [r["step"] for r in expected]
    for record, reference in zip(told, expected, strict=True):
        for name in (key for key in reference if key.startswith("loss")):
            assert record[name] == pytest.approx(reference[name], abs=1e-4), (record["step"], name)
    before, after = parameters(other), parameters(run)
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=1e-4, rtol=0, msg=name)


@pytest.mark.parametrize("world_size", [2, 4])
def test_more_workers_take_the_same_steps(
    made_up: Path, tmp_path: Path, alone: tuple[Path, Told], world_size: int
) -> None:
    # Four workers share six images unevenly.
    job = prepared(made_up, tmp_path / "run", *LONGER, workers=world_size)
    told = run_in_ranks(job, world_size, tmp_path / "rendezvous")
    assert_same(tmp_path / "run", steps_of(told), alone)


def test_an_accumulated_batch_is_the_same_step(
    made_up: Path, tmp_path: Path, alone: tuple[Path, Told]
) -> None:
    _, told = run_here(prepared(made_up, tmp_path, *LONGER, "optim.accumulate=4"))
    assert_same(tmp_path, steps_of(told), alone)


def test_workers_that_accumulate_take_the_same_steps(
    made_up: Path, tmp_path: Path, alone: tuple[Path, Told]
) -> None:
    job = prepared(made_up, tmp_path / "run", *LONGER, "optim.accumulate=2", workers=2)
    told = run_in_ranks(job, 2, tmp_path / "rendezvous")
    assert_same(tmp_path / "run", steps_of(told), alone)
