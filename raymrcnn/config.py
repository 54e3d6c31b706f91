"""What one training run is: frozen, validated dataclasses, to and from JSON.

Only `build_*` functions and the procedures of the floor above read these; models, optimizers and
loaders take plain named arguments. Defaults are those of the 1x schedule that Detectron published
and the reference follows. This module knows no file system and no device.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from raymrcnn.config_fields import build, leaves, literal
from raymrcnn.errors import ConfigError

NUM_LEVELS = 5  # FPN levels P2 to P6
MAX_CHANNELS = 1 << 14
MAX_CONVS = 16


def _require(condition: bool, field_name: str, what: str) -> None:
    if not condition:
        raise ConfigError(what, where=field_name, todo="see `raymrcnn recipes NAME` for the fields")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network. Sizes in pixels of the resized image."""

    backbone: Literal["resnet18", "resnet50", "resnet101", "resnext101_32x8d"] = "resnet50"
    # "frozen": batch norm with fixed statistics, for pretrained backbones; "group": group norm,
    # for training from scratch, the same for every batch size and worker count; "batch": batch
    # norm over the images of one worker, as in torchvision's Mask R-CNN v2.
    norm: Literal["frozen", "group", "batch"] = "frozen"
    # Added to the variance of a frozen batch norm; None: the conventions' own. It belongs to the
    # weights: torchvision's published COCO_V1 file was trained with 0.
    frozen_norm_eps: float | None = None
    init: Literal["imagenet", "scratch"] = "imagenet"
    trainable_stages: int = 3
    # Whose numbers: weights are at home in those that they were trained with.
    conventions: Literal["torchvision", "detectron", "detectron2"] = "torchvision"
    fpn_channels: int = 256
    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rpn_convs: int = 1  # before the objectness and the deltas; torchvision's v2: 2
    rpn_samples_per_image: int = 256
    rpn_pre_nms_train: int = 2000
    rpn_post_nms_train: int = 2000
    rpn_pre_nms_test: int = 1000
    rpn_post_nms_test: int = 1000
    box_samples_per_image: int = 512
    box_head_convs: int = 0  # 0: two linear layers; torchvision's v2: 4, then one linear layer
    box_head_channels: int = 1024
    mask_head_channels: int = 256
    # One box, or one mask, for all classes: CLS_AGNOSTIC_BBOX_REG and CLS_AGNOSTIC_MASK.
    class_agnostic_boxes: bool = False
    class_agnostic_masks: bool = False
    # Keep no activations inside the backbone's blocks: computed again in the backward pass.
    checkpoint_activations: bool = False

    def __post_init__(self) -> None:
        _require(
            len(self.anchor_sizes) == NUM_LEVELS,
            "model.anchor_sizes",
            f"{len(self.anchor_sizes)} sizes for {NUM_LEVELS} FPN levels",
        )
        _require(
            0 <= self.trainable_stages <= 5,
            "model.trainable_stages",
            f"{self.trainable_stages} is not between 0 and 5",
        )
        _require(
            all(r > 0 for r in self.aspect_ratios) and bool(self.aspect_ratios),
            "model.aspect_ratios",
            "ratios must be positive and at least one",
        )
        _require(
            self.norm != "group" or self.trainable_stages == 5,
            "model.trainable_stages",
            "group norm trains from scratch, so all 5 stages must be trainable",
        )
        _require(
            self.frozen_norm_eps is None or self.frozen_norm_eps >= 0,
            "model.frozen_norm_eps",
            "must not be negative",
        )
        for name in (
            "fpn_channels",
            "rpn_convs",
            "rpn_samples_per_image",
            "rpn_pre_nms_train",
            "rpn_post_nms_train",
            "rpn_pre_nms_test",
            "rpn_post_nms_test",
            "box_samples_per_image",
            "box_head_channels",
            "mask_head_channels",
        ):
            _require(getattr(self, name) > 0, f"model.{name}", "must be positive")
        self._require_bounds()
        _require(self.box_head_convs >= 0, "model.box_head_convs", "must not be negative")
        _require(all(s > 0 for s in self.anchor_sizes), "model.anchor_sizes", "must be positive")

    def shared_heads(self, num_classes: int) -> tuple[str, ...]:
        """Which of "boxes" and "masks" are one for all classes; of one class none is."""
        asked = {"boxes": self.class_agnostic_boxes, "masks": self.class_agnostic_masks}
        return tuple(name for name, is_shared in asked.items() if is_shared and num_classes > 1)

    def _require_bounds(self) -> None:
        # A weight file may say anything of its network, which is built to see what fits.
        for name, most in (
            ("fpn_channels", MAX_CHANNELS),
            ("box_head_channels", MAX_CHANNELS),
            ("mask_head_channels", MAX_CHANNELS),
            ("rpn_convs", MAX_CONVS),
            ("box_head_convs", MAX_CONVS),
        ):
            _require(getattr(self, name) <= most, f"model.{name}", f"must be at most {most}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How images reach the network. Lengths in pixels, probabilities in 0 to 1."""

    train_split: str = "train2017"
    val_split: str = "val2017"
    short_side: int = 800
    long_side: int = 1333
    flip_prob: float = 0.5
    # One of these for each image of training in place of `short_side`; validation keeps that.
    short_sides: tuple[int, ...] = ()
    # The long side is scaled to between these two times `crop_size`, before the crop.
    scale_jitter: tuple[float, ...] = ()
    # Random crop of this many pixels square, then a resize to `resize_to` square; 0: none.
    crop_size: int = 0
    resize_to: int = 0
    # What masks are learnt from: bitmaps of the whole image, cut out by RoIAlign with soft borders,
    # as torchvision does; or outlines, filled straight in the cells of each sampled box, as
    # Detectron does. Outlines need less memory, and go with flips alone of what moves objects.
    mask_targets: Literal["bitmap", "outline"] = "bitmap"
    # Strengths of brightness, contrast, saturation and hue jitter; 0: none.
    jitter_brightness: float = 0.0
    jitter_contrast: float = 0.0
    jitter_saturation: float = 0.0
    jitter_hue: float = 0.0
    # Share of images into which objects of another are pasted; needs `crop_size`.
    copy_paste_prob: float = 0.0
    # Images with a class in a smaller share of the images than this come more often; 0: all once.
    # LVIS: 0.001.
    repeat_threshold: float = 0.0
    group_by_aspect: bool = True
    # Images without a usable annotation are left out of training, as in the reference.
    keep_empty_images: bool = False
    loader_workers: int = 2

    def __post_init__(self) -> None:
        _require(
            0 < self.short_side <= self.long_side,
            "data.short_side",
            f"{self.short_side} must be positive and at most data.long_side={self.long_side}",
        )
        for name in ("flip_prob", "copy_paste_prob", "repeat_threshold"):
            value = getattr(self, name)
            _require(0.0 <= value <= 1.0, f"data.{name}", f"{value} is not between 0 and 1")
        _require(
            all(0 < side <= self.long_side for side in self.short_sides),
            "data.short_sides",
            f"must be positive and at most data.long_side={self.long_side}",
        )
        _require(
            not self.scale_jitter
            or (len(self.scale_jitter) == 2 and 0 < self.scale_jitter[0] <= self.scale_jitter[1]),
            "data.scale_jitter",
            f"{list(self.scale_jitter)} is not a smallest and a largest factor",
        )
        _require(
            self.mask_targets == "bitmap" or not (self.crop_size or self.resize_to),
            "data.mask_targets",
            "outlines are not cut: data.crop_size and data.resize_to need bitmap",
        )
        for name in ("scale_jitter", "copy_paste_prob"):
            _require(
                not getattr(self, name) or self.crop_size > 0,
                f"data.{name}",
                "needs data.crop_size, the size of the picture that comes out",
            )
        for name in (
            "crop_size",
            "resize_to",
            "loader_workers",
            "jitter_brightness",
            "jitter_contrast",
            "jitter_saturation",
        ):
            _require(getattr(self, name) >= 0, f"data.{name}", "must not be negative")
        _require(
            0.0 <= self.jitter_hue <= 0.5,
            "data.jitter_hue",
            f"{self.jitter_hue} is not between 0 and 0.5",
        )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The update rule and its schedule, in steps of the global batch."""

    name: Literal["sgd", "adamw"] = "sgd"
    batch_size: int = 16  # images a step, over all workers
    base_lr: float = 0.02  # at `reference_batch_size`; scaled linearly with `batch_size`
    reference_batch_size: int = 16
    momentum: float = 0.9  # beta1 for adamw
    weight_decay: float = 1e-4
    bias_lr_factor: float = 2.0
    bias_weight_decay: float = 0.0
    clip_grad_norm: float = 0.0  # 0: no clipping
    # Of the network's arithmetic; weights and losses stay float32. float16 scales the gradients.
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    # Pieces that each worker takes its share of the batch in, to spare memory; the step is the
    # same, for about a quarter more time.
    accumulate: int = 1
    # Share of the old in a running average of the weights; 0: none. Checkpoints then hold the
    # average as the weights to use.
    ema_decay: float = 0.0
    # A loss that is not finite ends the run, or the step is left out, so many times in a run.
    on_bad_loss: Literal["stop", "skip"] = "stop"
    max_bad_steps: int = 10
    # Store images and features with channels innermost, which some devices convolve faster.
    channels_last: bool = False
    # Have torch.compile make the backbone's kernels: minutes at each start. No gain on a CPU.
    compile: bool = False
    warmup_iters: int = 500
    warmup_factor: float = 1.0 / 3.0
    max_iter: int = 90_000
    steps: tuple[int, ...] = (60_000, 80_000)
    gamma: float = 0.1

    def __post_init__(self) -> None:
        for name in (
            "batch_size",
            "base_lr",
            "reference_batch_size",
            "max_iter",
            "gamma",
            "accumulate",
        ):
            _require(getattr(self, name) > 0, f"optim.{name}", "must be positive")
        for name in (
            "weight_decay",
            "bias_lr_factor",
            "bias_weight_decay",
            "clip_grad_norm",
            "warmup_iters",
            "max_bad_steps",
        ):
            _require(getattr(self, name) >= 0, f"optim.{name}", "must not be negative")
        _require(0.0 <= self.momentum < 1.0, "optim.momentum", "is not in [0, 1)")
        _require(0.0 <= self.ema_decay < 1.0, "optim.ema_decay", "is not in [0, 1)")
        _require(0.0 < self.warmup_factor <= 1.0, "optim.warmup_factor", "is not in (0, 1]")
        _require(
            list(self.steps) == sorted(set(self.steps)),
            "optim.steps",
            f"{list(self.steps)} is not increasing",
        )

    @property
    def scaled_lr(self) -> float:
        """The learning rate after warm-up: linear in the batch (Goyal et al. 2017, section 2.1)."""
        return self.base_lr * self.batch_size / self.reference_batch_size


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When a run saves, in steps, and how many checkpoints it keeps."""

    every: int = 1000
    keep: int = 3

    def __post_init__(self) -> None:
        _require(self.every > 0, "checkpoint.every", "must be positive")
        _require(self.keep > 0, "checkpoint.keep", "must be positive")


@dataclass(frozen=True, kw_only=True)
class ValidateConfig:
    """When checkpoints are scored on `data.val_split`, while training goes on."""

    every: int = 0  # steps; those checkpoints, and the last one; 0: never
    limit: int = 0  # of its images only the first so many; 0: all

    def __post_init__(self) -> None:
        _require(self.every >= 0, "validate.every", "must not be negative")
        _require(self.limit >= 0, "validate.limit", "must not be negative")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the numbers of one training run."""

    name: str
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    validate: ValidateConfig = field(default_factory=ValidateConfig)
    seed: int = 0
    log_every: int = 20  # steps between metrics lines

    def __post_init__(self) -> None:
        _require(self.log_every > 0, "log_every", "must be positive")
        _require(
            self.model.norm != "batch"
            or (self.optim.accumulate == 1 and not self.model.checkpoint_activations),
            "model.norm",
            "live batch norm sees each forward pass, so it goes neither with optim.accumulate nor "
            "with model.checkpoint_activations",
        )
        _require(0 <= self.seed < 2**31, "seed", f"{self.seed} is not between 0 and 2^31 - 1")

    def to_json(self) -> dict[str, Any]:
        """The recipe as JSON-ready dictionaries; `recipe_from_json` reads it back."""
        return json.loads(json.dumps(dataclasses.asdict(self)))  # type: ignore[no-any-return]


def recipe_from_json(document: dict[str, Any]) -> Recipe:
    """Read what `Recipe.to_json` wrote.

    Raises:
        ConfigError: a field is unknown, missing its type, or out of range.
    """
    return build(Recipe, document, "")


def override(recipe: Recipe, assignments: Iterable[str]) -> Recipe:
    """Apply `section.field=value` assignments, values in JSON or as plain words.

    Raises:
        ConfigError: not an assignment, no such field (with the nearest names), or a value that
            the field cannot take.
    """
    document = recipe.to_json()
    hints = dict(leaves(Recipe))
    known = [path for path in hints if path != "name"]  # a name is what the recipe is called
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        path = path.strip()
        if not equals:
            raise ConfigError(
                f"{assignment!r} is not an assignment",
                where="--set",
                todo="write it as section.field=value",
            )
        if path not in known:
            near = difflib.get_close_matches(path, known, n=3, cutoff=0.6)
            by_leaf = [k for k in known if k.rpartition(".")[2] == path.rpartition(".")[2]]
            hint = list(dict.fromkeys(by_leaf + near))[:3]
            raise ConfigError(
                f"no field {path!r}",
                where="--set",
                todo=f"did you mean {' or '.join(hint)}?"
                if hint
                else "`raymrcnn recipes NAME` lists the fields",
            )
        section, dot, leaf = path.rpartition(".")
        target = document[section] if dot else document
        target[leaf] = literal(text.strip(), hints[path])
    return recipe_from_json(document)


def field_paths(kind: type[Any]) -> Iterable[str]:
    """Dotted names of all leaf fields of a config class, in declaration order."""
    return (path for path, _ in leaves(kind))
