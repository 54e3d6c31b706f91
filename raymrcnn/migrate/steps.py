"""What several keys of a config decide together, where both programs have the same sense of it."""

from __future__ import annotations

from raymrcnn.migrate.translation import Reading


def resnet(read: Reading, key: str, depth: int, *, groups: str, width: str, stride: str) -> None:
    """The backbone; `key` is what it is told by, the others are keys that must go with it."""
    shape = [read.number(groups), read.number(width)]
    if shape == [1, 64]:
        name, first = f"resnet{depth}", depth != 18
    elif shape == [32, 8] and depth == 101:
        name, first = "resnext101_32x8d", False
    else:
        read.refuse(groups, "the ResNeXt that is known is 101 layers of 32 groups, 8 wide")
    read.keep(key, "model.backbone", name)
    read.part(groups, f"model.backbone={name}")
    read.part(width, f"model.backbone={name}")
    if depth != 18:
        read.same(stride, first, f"the program's {name} strides in the other convolution")


def stages(read: Reading, key: str, norm: str) -> None:
    """How many stages of the backbone are frozen."""
    frozen = read.number(key)
    if norm == "group" and frozen:
        read.lose(key, "model.norm=group trains all stages")
        read.fields["model.trainable_stages"] = 5
    else:
        read.keep(key, "model.trainable_stages", 5 - frozen)


def weights(read: Reading, key: str, norm: str) -> None:
    """First weights are an option of `train`; without any, the recipe starts from scratch."""
    source = read.value(key)
    if not source:
        read.keep(key, "model.init", "scratch")
        return
    name = str(source).rstrip("/").rpartition("/")[2]
    if norm == "group":
        read.fields["model.init"] = "scratch"  # ImageNet weights of this program are not known
    if "ImageNetPretrained/" in str(source):
        name = name if name.endswith(".pkl") else f"{name}.pkl"
    read.option(key, f"train --weights {name}, once it is on disk; see `raymrcnn weights list`")


def merge_sizes(read: Reading) -> None:
    """Sides of images: here one pair for training and testing, and a list to draw from."""
    train = read.numbers("INPUT.MIN_SIZE_TRAIN")
    test = read.number("INPUT.MIN_SIZE_TEST")
    if not train:
        read.lose("INPUT.MIN_SIZE_TRAIN", "an empty list; INPUT.MIN_SIZE_TEST is taken")
        train = [test]
    if len(set(train)) == 1 and (test in train or not test):
        read.keep("INPUT.MIN_SIZE_TRAIN", "data.short_side", train[0])
        read.part("INPUT.MIN_SIZE_TEST", "data.short_side")
    else:
        read.keep("INPUT.MIN_SIZE_TRAIN", "data.short_sides", train)
        read.keep("INPUT.MIN_SIZE_TEST", "data.short_side", test)
    read.keep("INPUT.MAX_SIZE_TRAIN", "data.long_side", read.value("INPUT.MAX_SIZE_TRAIN"))
    read.same(
        "INPUT.MAX_SIZE_TEST",
        read.value("INPUT.MAX_SIZE_TRAIN"),
        "data.long_side is the same in training and testing: INPUT.MAX_SIZE_TRAIN is taken",
    )


def jitter(read: Reading) -> None:
    """Strengths of colour jitter, alike in both."""
    for name in ("BRIGHTNESS", "CONTRAST", "SATURATION", "HUE"):
        key = f"INPUT.{name}"
        read.keep(key, f"data.jitter_{name.lower()}", read.value(key))


def schedule(read: Reading) -> None:
    """The solver's keys of the same name and sense."""
    read.keep("SOLVER.BASE_LR", "optim.base_lr", read.value("SOLVER.BASE_LR"))
    # The rate is of this batch: nothing is scaled.
    batch = read.value("SOLVER.IMS_PER_BATCH")
    read.keep("SOLVER.IMS_PER_BATCH", "optim.batch_size", batch)
    read.fields["optim.reference_batch_size"] = batch
    for key, name in (
        ("MAX_ITER", "max_iter"),
        ("MOMENTUM", "momentum"),
        ("WEIGHT_DECAY", "weight_decay"),
        ("GAMMA", "gamma"),
        ("WARMUP_FACTOR", "warmup_factor"),
        ("WARMUP_ITERS", "warmup_iters"),
    ):
        read.keep(f"SOLVER.{key}", f"optim.{name}", read.value(f"SOLVER.{key}"))
    read.keep("SOLVER.STEPS", "optim.steps", read.numbers("SOLVER.STEPS"))
    read.keep(
        "SOLVER.CHECKPOINT_PERIOD", "checkpoint.every", read.value("SOLVER.CHECKPOINT_PERIOD")
    )


def test_time_views(read: Reading, *, enabled: str, flip: str, sides: str) -> None:
    """Test-time augmentation is an option of `infer`."""
    if read.value(enabled) is not True:
        for key in (enabled, flip, sides):
            read.part(key, "off")
        return
    listed = ",".join(f"{side:g}" for side in read.numbers(sides))
    words = ["--tta flip"] * bool(read.value(flip)) + [f"--tta-scales {listed}"] * bool(listed)
    read.option(enabled, " ".join(["infer", *words]))
    read.option(flip, "with the one above")
    read.option(sides, "with the one above")
