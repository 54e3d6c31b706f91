"""What a node of a cluster tells Ray, and the script that has it told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raymrcnn import __version__
from raymrcnn.device.cambricon import Card
from raymrcnn.device.node.on_ray import shell_lines

ROOT = Path(__file__).resolve().parents[2]


def cards(*models: str | None) -> list[Card]:
    return [Card(index=k, model=model) for k, model in enumerate(models)]


def test_cards_of_one_model_become_a_resource_and_a_label() -> None:
    export, options = shell_lines(2, cards("MLU370-X8", "MLU370-X8"))
    assert export.startswith("export RAY_custom_unit_instance_resources=")
    assert export.endswith("MLU")
    assert options == (
        """RAYMRCNN_NODE=(--resources '{"MLU": 2}' --labels """
        f"raymrcnn/version={__version__},raymrcnn/accelerator=MLU370-X8)"
    )


@pytest.mark.parametrize(
    "models", [("MLU370-X8", "MLU370-S4"), (None, "MLU370-X8"), (), ("x; rm -rf /",) * 2]
)
def test_a_node_of_unclear_model_is_not_labelled_with_one(models: tuple[str | None, ...]) -> None:
    assert "accelerator" not in shell_lines(2, cards(*models))[1]


def sourced(env: dict[str, str]) -> str:
    told = '"$RAY_custom_unit_instance_resources" "${RAYMRCNN_NODE[@]}"'
    script = f'. cluster/env.sh && printf "%s|" {told}'
    done = subprocess.run(
        ["bash", "-euc", script], cwd=ROOT, env={**env, "PYTHON": sys.executable},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def test_a_node_without_mlu_tells_its_version_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_custom_unit_instance_resources", raising=False)
    env = {**os.environ, "RAY_custom_unit_instance_resources": ""}
    assert sourced(env) == f"|--labels|raymrcnn/version={__version__}|"


@pytest.mark.mlu
def test_the_script_counts_the_cards_that_are_shown(simulator: dict[str, str]) -> None:
    env = {**simulator, "TORCH_MLU_SIM_DEVICES": "8", "MLU_VISIBLE_DEVICES": "0,1,2"}
    found = sourced(env).split("|")
    assert found[0].split(",")[-1] == "MLU"
    assert found[1:3] == ["--resources", '{"MLU": 3}']
