"""What the benchmarks of the network share: seeded weights, photographs, and peers in turn.

Each side of a comparison is a process of its own, because how a process gets its memory is one of
the differences; the sides work in turn, so that one never runs beside the other.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.misc import FrozenBatchNorm2d
from torchvision.transforms.functional import pil_to_tensor

ROOT = Path(__file__).resolve().parents[1]
PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "coco-mini"
NUM_CLASSES = 80


def photographs(split: str, number: int, folder: Path) -> list[Path]:
    """Real photographs where they lie beside the repository, else made-up ones."""
    found = sorted((PHOTOGRAPHS / split).glob("*.jpg"))[:number]
    if len(found) == number:
        return found
    for index in range(number):
        picture(480, 640, index).save(folder / f"{index}.jpg", quality=90)
    return sorted(folder.glob("*.jpg"))


def picture(height: int, width: int, seed: int) -> Any:
    """A made-up photograph: blobs and textures of several scales."""
    draw = torch.Generator().manual_seed(seed)
    image = torch.zeros(1, 3, height, width)
    for cells in (3, 9, 40):
        noise = torch.rand(1, 3, cells, cells, generator=draw)
        image += nn.functional.interpolate(noise, (height, width), mode="bicubic") / 3
    return torchvision.transforms.functional.to_pil_image(image[0].clamp(0, 1))


def torchvision_model(trainable_layers: int = 3, **options: Any) -> MaskRCNN:
    """The network of torchvision's maskrcnn_resnet50_fpn, built as for pretrained weights."""
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, trainable_layers=trainable_layers
    )
    return MaskRCNN(backbone, NUM_CLASSES + 1, **options)


@torch.no_grad()
def write_weights(path: Path, image: Any, residual_gain: float = 1.0) -> None:
    """Noise with unit activations, and tens of detections in a photograph.

    Args:
        path: of the file.
        image: the photograph.
        residual_gain: what each residual block adds, next to what passes it by. Noise with 1 is
            chaotic: rounding in one layer grows threefold in each stage, as in no trained network.
    """
    torch.manual_seed(0)
    model = torchvision_model(min_size=320, max_size=533).eval()
    heads = model.roi_heads
    scales = {
        model.rpn.head.cls_logits: 2.0,
        model.rpn.head.bbox_pred: 0.3,
        heads.box_predictor.cls_score: 2.5,
        heads.box_predictor.bbox_pred: 0.5,
        heads.mask_predictor.mask_fcn_logits: 3.0,
    }

    def calibrate_norm(norm: FrozenBatchNorm2d, inputs: tuple[Tensor]) -> None:
        norm.running_mean.copy_(0.5 * inputs[0].mean((0, 2, 3)))
        norm.running_var.copy_(inputs[0].square().mean((0, 2, 3)))

    def calibrate_head(head: nn.Module, _: object, output: Tensor) -> Tensor | None:
        if head not in scales:
            return None
        factor = scales.pop(head) / (output.std() + 1e-6)
        head.weight.mul_(factor)  # type: ignore[operator]
        return output * factor

    for name, module in model.backbone.body.named_modules():
        if name.endswith("bn3"):
            module.weight.mul_(residual_gain)  # type: ignore[operator, union-attr]
    hooks = [m.register_forward_pre_hook(calibrate_norm) for m in norms(model)]
    hooks += [head.register_forward_hook(calibrate_head) for head in list(scales)]
    model([pil_to_tensor(image.convert("RGB")).float() / 255])
    for hook in hooks:
        hook.remove()
    heads.box_predictor.cls_score.bias[0] = 9.0
    torch.save(model.state_dict(), path)


def norms(model: nn.Module) -> list[FrozenBatchNorm2d]:
    return [m for m in model.modules() if isinstance(m, FrozenBatchNorm2d)]


class Side:
    """One side of a comparison: this script again, as a process that answers line by line."""

    def __init__(self, name: str, threads: int, *arguments: str) -> None:
        command = [sys.executable, sys.argv[0], "--side", name, *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, question: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        print(json.dumps(question), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit("a side of the benchmark died")
        return json.loads(answer)

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def answer_questions(work: Any) -> None:
    """In a side's process: answer each line of standard input by `work(question)`."""
    for line in sys.stdin:
        print(json.dumps(work(json.loads(line))), flush=True)


def machine() -> dict[str, str]:
    """What numbers depend on, for the results file."""
    return {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python "
        f"{platform.python_version()}, load {os.getloadavg()[0]:.1f}",
    }
