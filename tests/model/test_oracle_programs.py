"""maskrcnn-benchmark's and detectron2's own outputs come out, from their weights and images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import oracle
import oracle_names
import pytest
import torch
from oracle import PROGRAMS, Program
from torch import Tensor, nn

from raymrcnn.data.images import decode_image
from raymrcnn.device.accelerator import CPU
from raymrcnn.infer.job import load_predictor
from raymrcnn.model.predictor import Predictor
from raymrcnn.structures import Detections, ImageRef
from raymrcnn.weights.source import load_model_source

FIRST = "00_shapes_640x480"  # of which the programs' intermediate tensors are kept


@dataclass(frozen=True)
class Loaded:
    """A program's weights in our predictor."""

    program: Program
    folder: Path
    predictor: Predictor
    categories: tuple[int, ...]

    def detections(self, files: list[str]) -> list[Detections]:
        images = [decode_image(self.folder / "images" / file) for file in files]
        refs = [ImageRef(image_id=i, file_name=file, uri="") for i, file in enumerate(files)]
        return self.predictor.predict(images, refs)


@pytest.fixture(scope="module", params=PROGRAMS, ids=lambda p: p.name)
def loaded(
    request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> Loaded:
    folder = shared / "oracle"
    if not folder.is_dir():
        pytest.skip("the outputs of the other programs (../shared/oracle) are not here")
    program: Program = request.param
    path = oracle.make_weights(folder, program, tmp_path_factory.mktemp("weights"))
    source = load_model_source(str(path))
    theirs = oracle_names.ours(program.name, torch.load(path, weights_only=True)["model"])
    assert source.config.conventions == program.conventions
    assert source.state.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in source.state.items())
    predictor = load_predictor(str(path), CPU, torch.device("cpu"))  # as `infer --weights` does
    path.unlink()
    categories = tuple(c.id for c in source.categories if c is not None)
    assert len(categories) == 80
    return Loaded(program, folder, predictor, categories)


@pytest.fixture(scope="module")
def recorded(loaded: Loaded) -> tuple[list[Detections], dict[str, Tensor]]:
    """Detections of the first image, and what the parts of the network gave on the way."""
    model = loaded.predictor._model
    kept: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module) -> None:
        def hook(_: nn.Module, given: tuple[object, ...], result: object) -> None:
            kept[name] = result, given  # type: ignore[assignment]

        hooks.append(module.register_forward_hook(hook))

    hooks: list[torch.utils.hooks.RemovableHandle] = []
    heads = model.roi_heads
    keep("body", model.backbone.body)
    keep("pyramid", model.backbone)
    keep("rpn_head", model.rpn.head)
    keep("rpn", model.rpn)
    keep("box_pool", heads.box_roi_pool)
    keep("box", heads.box_predictor)
    keep("mask", heads.mask_predictor)
    found = loaded.detections([f"{FIRST}.jpg"])
    for hook in hooks:
        hook.remove()
    return found, kept


def error(found: Tensor, expected: np.ndarray) -> float:  # type: ignore[type-arg]
    """Relative, of the whole tensor."""
    assert found.shape == expected.shape
    return float(np.linalg.norm(found.numpy() - expected) / np.linalg.norm(expected))


def test_detections_of_an_image_are_the_programs(
    loaded: Loaded, recorded: tuple[list[Detections], dict[str, Tensor]]
) -> None:
    expected = oracle.expected_of(loaded.folder, loaded.program, FIRST)
    near = oracle.nearness([(recorded[0][0], expected)], loaded.categories)
    oracle.assert_near(near, tiny_masks=0.03)
    assert len(near.score) >= 79


def test_tensors_on_the_way_are_the_programs(
    loaded: Loaded, recorded: tuple[list[Detections], dict[str, Tensor]]
) -> None:
    place = loaded.folder / loaded.program.folder
    stats = json.loads((place / f"{FIRST}.raw.json").read_text())["stats"]
    raw = np.load(place / f"{FIRST}.raw.npz")
    kept = recorded[1]
    (_, (images,)), (levels, _) = kept["pyramid"], kept["pyramid"]
    body = list(kept["body"][0].values())
    pyramid = list(levels.values())
    logits, deltas = kept["rpn_head"][0]
    old = "C2" in stats
    tensors = {
        **{f"C{i + 2}" if old else f"res{i + 2}": level for i, level in enumerate(body)},
        **{f"P{i + 2}" if old else f"p{i + 2}": level for i, level in enumerate(pyramid)},
        **{f"rpn_logits{i}": level for i, level in enumerate(logits)},
        **{f"rpn_deltas{i}": level for i, level in enumerate(deltas)},
    }
    if "input" in stats:
        tensors["input"] = images
    assert set(tensors) == set(stats)
    for name, tensor in tensors.items():
        mean, deviation, total, length, *shape = stats[name]
        if shape:
            assert list(tensor.shape) == shape
        scale = tensor.double()
        assert scale.abs().sum().item() == pytest.approx(total, rel=1e-3), name
        assert scale.norm().item() == pytest.approx(length, rel=1e-3), name
        assert scale.std().item() == pytest.approx(deviation, rel=1e-3), name
        assert scale.mean().item() == pytest.approx(mean, abs=1e-3 * deviation), name
        if f"{name}_chmean" in raw:
            assert error(tensor[0].mean((1, 2)), raw[f"{name}_chmean"]) < 1e-3, name
    for name in ("P5", "P6") if old else ("p5", "p6"):
        assert error(tensors[name], raw[name]) < 1e-3, name


def test_proposals_and_what_is_pooled_and_predicted_of_them_are_the_programs(
    loaded: Loaded, recorded: tuple[list[Detections], dict[str, Tensor]]
) -> None:
    raw = np.load(loaded.folder / loaded.program.folder / f"{FIRST}.raw.npz")
    kept = recorded[1]
    (proposals,), _ = kept["rpn"][0]
    distance = torch.cdist(torch.from_numpy(raw["proposals"]), proposals, p=float("inf"))
    nearest, place = distance.min(dim=1)
    same = (nearest < 0.1).numpy()  # others were near a threshold of the suppression
    assert same.mean() >= 0.99
    assert nearest[same].max() < 0.05
    place = place[same]
    class_logits, box_deltas = kept["box"][0]
    # Where a program counts labels from 0, the background comes last.
    logits = np.roll(raw["class_logits"][same], 1 - loaded.program.first_label, axis=1)
    assert error(class_logits[place], logits) < 1e-3
    deltas = raw["box_regression"][same]
    # detectron2 has none for the background.
    ours = box_deltas[place].flatten(1)[:, -deltas.shape[1] :]
    assert error(ours, deltas) < 1e-3
    first = same[:8]
    pooled = kept["box_pool"][0][place[: first.sum()]]
    assert error(pooled, raw["box_pool_first8"][first]) < 1e-3


@pytest.mark.slow
def test_detections_of_all_images_are_the_programs(loaded: Loaded) -> None:
    pairs = []
    for name in oracle.images_of(loaded.folder, loaded.program):
        expected = oracle.expected_of(loaded.folder, loaded.program, name)
        pairs.append((loaded.detections([expected.file])[0], expected))
    assert len(pairs) == 7
    oracle.assert_near(oracle.nearness(pairs, loaded.categories))


@pytest.mark.slow
def test_detections_in_a_padded_batch_are_the_programs(loaded: Loaded) -> None:
    batch = oracle.expected_of_batch(loaded.folder, loaded.program)
    found = loaded.detections([one.file for one in batch])
    near = oracle.nearness(zip(found, batch, strict=True), loaded.categories)
    assert near.missing + near.extra <= 2
    assert near.box_px.max() <= 0.1
    assert near.score.max() <= 1e-3
