"""Names of tensors: every name that a torchvision Mask R-CNN has had, to the one used here.

Nothing is dropped by accident: what no rule knows keeps its name, and the strict load reports it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

BODY = "backbone.body."
CLASS_SCORES = "roi_heads.box_predictor.cls_score"
CLASS_LOGITS = f"{CLASS_SCORES}.weight"
BOX_DELTAS = "roi_heads.box_predictor.bbox_pred"
MASK_LOGITS = "roi_heads.mask_predictor.mask_fcn_logits"
# Rows that a class has in a layer, unless one class's are for all of them.
ROWS_OF_A_CLASS = {BOX_DELTAS: 4, MASK_LOGITS: 1}

# Tensors whose shape depends on the number of classes.
CLASS_DEPENDENT = tuple(
    f"{layer}.{kind}"
    for layer in (CLASS_SCORES, BOX_DELTAS, MASK_LOGITS)
    for kind in ("weight", "bias")
)

# Names before and after torchvision put a Sequential around each convolution (its 0.12). Source:
# _load_from_state_dict in ops/feature_pyramid_network.py, models/detection/rpn.py, mask_rcnn.py.
_RENAMED = (
    (re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$"), r"\1.0.\2"),
    (re.compile(r"^rpn\.head\.conv\.(weight|bias)$"), r"rpn.head.conv.0.0.\1"),
)
_MASK_CONV = re.compile(r"^roi_heads\.mask_head\.mask_fcn(\d)\.(weight|bias)$")

# A batch norm counts batches; a frozen one does not.
COUNTER = ".num_batches_tracked"


def canonical_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under today's names, without `module.` and without batch counters."""
    wrapped = bool(state) and all(name.startswith("module.") for name in state)
    renamed = {}
    for name, tensor in state.items():
        if not name.endswith(COUNTER):
            renamed[_today(name.removeprefix("module.") if wrapped else name)] = tensor
    return renamed


def is_classifier(names: Iterable[str]) -> bool:
    """Whether these are the names of a ResNet for ImageNet, alone, or of a backbone's body."""
    names = set(names)
    return {"conv1.weight", "layer1.0.conv1.weight"} <= names or (
        bool(names) and all(name.startswith(BODY) for name in names)
    )


def classifier_to_body(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ResNet classifier's tensors as those of a backbone's body; its last layer is dropped."""
    return {
        BODY + name.removeprefix(BODY): tensor
        for name, tensor in state.items()
        if name not in ("fc.weight", "fc.bias")
    }


def _today(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    found = _MASK_CONV.match(name)
    if found:
        return f"roi_heads.mask_head.{int(found[1]) - 1}.0.{found[2]}"
    return name
