"""Configs of other programs, small and made up here, become recipes; each key is told of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from raymrcnn.config import override
from raymrcnn.errors import ConfigError
from raymrcnn.migrate import PROGRAMS, import_recipe
from raymrcnn.migrate.files import read_config
from raymrcnn.recipes import detectron_r101_fpn_1x, r50_fpn_1x, recipe_named

# What a Mask R-CNN with a pyramid must say, as the defaults of the two are other networks.
BENCHMARK = """
MODEL:
  MASK_ON: True
  WEIGHT: "catalog://ImageNetPretrained/MSRA/R-101"
  BACKBONE: {CONV_BODY: "R-101-FPN"}
  RESNETS: {BACKBONE_OUT_CHANNELS: 256}
  RPN:
    USE_FPN: True
    ANCHOR_STRIDE: (4, 8, 16, 32, 64)
    PRE_NMS_TOP_N_TRAIN: 2000
    PRE_NMS_TOP_N_TEST: 1000
    FPN_POST_NMS_TOP_N_TEST: 1000
  ROI_HEADS: {USE_FPN: True}
  ROI_BOX_HEAD:
    POOLER_RESOLUTION: 7
    POOLER_SCALES: (0.25, 0.125, 0.0625, 0.03125)
    POOLER_SAMPLING_RATIO: 2
    FEATURE_EXTRACTOR: FPN2MLPFeatureExtractor
    PREDICTOR: FPNPredictor
  ROI_MASK_HEAD:
    POOLER_SCALES: (0.25, 0.125, 0.0625, 0.03125)
    FEATURE_EXTRACTOR: MaskRCNNFPNFeatureExtractor
    POOLER_SAMPLING_RATIO: 2
    RESOLUTION: 28
    SHARE_BOX_FEATURE_EXTRACTOR: False
DATALOADER: {SIZE_DIVISIBILITY: 32, NUM_WORKERS: 2}
SOLVER:
  BASE_LR: 0.02
  WEIGHT_DECAY: 1e-4
  STEPS: (60000, 80000)
  MAX_ITER: 90000
  CHECKPOINT_PERIOD: 1000
"""
DETECTRON2_BASE = """
MODEL:
  BACKBONE: {NAME: build_resnet_fpn_backbone}
  RESNETS: {OUT_FEATURES: [res2, res3, res4, res5]}
  FPN: {IN_FEATURES: [res2, res3, res4, res5]}
  ANCHOR_GENERATOR: {SIZES: [[32], [64], [128], [256], [512]]}
  RPN:
    IN_FEATURES: [p2, p3, p4, p5, p6]
    PRE_NMS_TOPK_TRAIN: 2000
    POST_NMS_TOPK_TRAIN: 1000
  ROI_HEADS: {NAME: StandardROIHeads, IN_FEATURES: [p2, p3, p4, p5]}
  ROI_BOX_HEAD: {NAME: FastRCNNConvFCHead, NUM_FC: 2, POOLER_RESOLUTION: 7}
  ROI_MASK_HEAD: {NUM_CONV: 4}
SOLVER: {BASE_LR: 0.02, IMS_PER_BATCH: 8}
INPUT: {MIN_SIZE_TRAIN: "(640, 800)"}
VERSION: 2
"""
DETECTRON2 = """
_BASE_: "base.yaml"
MODEL: {MASK_ON: True, WEIGHTS: "detectron2://ImageNetPretrained/MSRA/R-50.pkl"}
SOLVER: {MAX_ITER: 270000, STEPS: "(210000, 250000)"}
"""


def written(folder: Path, text: str, name: str = "config.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def changed(folder: Path, key: str, value: object, text: str = BENCHMARK) -> Path:
    """A config with one key set otherwise."""
    document = yaml.safe_load(text)
    *sections, leaf = key.split(".")
    at = document
    for section in sections:
        at = at.setdefault(section, {})
    at[leaf] = value
    return written(folder, yaml.safe_dump(document))


@pytest.fixture
def detectron2(tmp_path: Path) -> Path:
    written(tmp_path, DETECTRON2_BASE, "base.yaml")
    return written(tmp_path, DETECTRON2)


def test_the_reference_run_becomes_our_recipe_of_it(tmp_path: Path) -> None:
    made = import_recipe(written(tmp_path, BENCHMARK))
    assert made.program == "maskrcnn-benchmark"
    assert made.lost == ()
    assert made.recipe == replace(detectron_r101_fpn_1x(), name="config")
    (weights,) = made.options
    assert "train --weights R-101.pkl" in weights.what


def test_detectron2_is_read_through_its_base(detectron2: Path) -> None:
    made = import_recipe(detectron2)
    assert made.program == "detectron2"
    assert made.lost == ()
    recipe = made.recipe
    assert recipe.model.conventions == "detectron2"
    assert recipe.data.short_sides == (640, 800)
    assert (recipe.data.short_side, recipe.data.long_side) == (800, 1333)
    assert recipe.model.rpn_post_nms_train == 1000
    assert (recipe.optim.max_iter, recipe.optim.steps) == (270_000, (210_000, 250_000))
    assert recipe.optim.scaled_lr == 0.02  # of the file's own batch
    assert recipe.optim.batch_size == 8
    assert recipe.optim.warmup_factor == 0.001  # the program's default, not ours
    assert (recipe.optim.bias_lr_factor, recipe.optim.bias_weight_decay) == (1.0, 1e-4)


def test_every_key_of_a_file_is_told_of_once(detectron2: Path, tmp_path: Path) -> None:
    for path in (detectron2, written(tmp_path, BENCHMARK, "b.yaml")):
        made = import_recipe(path)
        told = [line.key for line in (*made.kept, *made.options, *made.lost) if line.given]
        assert sorted(told) == sorted(read_config(path))


def test_heads_for_all_classes_at_once_are_kept(detectron2: Path, tmp_path: Path) -> None:
    path = changed(tmp_path, "MODEL.CLS_AGNOSTIC_BBOX_REG", True)
    made = import_recipe(path)
    assert (made.lost, made.recipe.model.class_agnostic_boxes) == ((), True)
    text = DETECTRON2.replace(
        "MASK_ON: True",
        "MASK_ON: True, ROI_BOX_HEAD: {CLS_AGNOSTIC_BBOX_REG: True}, "
        "ROI_MASK_HEAD: {CLS_AGNOSTIC_MASK: True}",
    )
    made = import_recipe(written(tmp_path, text))
    model = made.recipe.model
    assert (made.lost, model.class_agnostic_boxes, model.class_agnostic_masks) == ((), True, True)


def test_the_assignments_make_the_recipe(detectron2: Path) -> None:
    made = import_recipe(detectron2)
    again = override(r50_fpn_1x(), made.assignments())
    assert replace(again, name="config") == made.recipe


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("INPUT.VERTICAL_FLIP_PROB_TRAIN", 0.5, "left and right alone"),
        ("INPUT.MAX_SIZE_TEST", 1000, "the same in training and testing"),
        ("MODEL.ROI_HEADS.NMS", 0.4, "convention of the program"),
        ("MODEL.RPN.POST_NMS_TOP_N_TEST", 300, "no limit for a single level"),
        ("MODEL.RESNETS.STAGE_WITH_DCN", [False, True, True, True], "no deformable"),
        ("MODEL.ROI_MASK_HEAD.CONV_LAYERS", [256, 256], "four convolutions"),
        ("SOLVER.WARMUP_METHOD", "constant", "linear"),
        ("SOLVER.XYZZY", 1, "no such key of maskrcnn-benchmark is known"),
    ],
)
def test_what_cannot_be_kept_is_named(tmp_path: Path, key: str, value: object, why: str) -> None:
    (line,) = import_recipe(changed(tmp_path, key, value)).lost
    assert line.key == key
    assert why in line.what


def test_a_default_that_cannot_be_followed_is_named_too(tmp_path: Path) -> None:
    document = yaml.safe_load(BENCHMARK)
    del document["DATALOADER"]["SIZE_DIVISIBILITY"]
    (line,) = import_recipe(written(tmp_path, yaml.safe_dump(document))).lost
    assert (line.key, line.given) == ("DATALOADER.SIZE_DIVISIBILITY", False)
    assert "(default)" in str(line)


@pytest.mark.parametrize(
    ("key", "value", "field", "expected"),
    [
        ("MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 0, "model.trainable_stages", 5),
        ("MODEL.WEIGHT", "", "model.init", "scratch"),
        ("DTYPE", "float16", "optim.precision", "float16"),
        ("SOLVER.TEST_PERIOD", 3000, "validate.every", 3000),
        ("INPUT.HUE", 0.1, "data.jitter_hue", 0.1),
        ("INPUT.MIN_SIZE_TRAIN", [600, 800], "data.short_sides", (600, 800)),
        ("SOLVER.IMS_PER_BATCH", 4, "optim.reference_batch_size", 4),
        ("MODEL.ROI_MASK_HEAD.CONV_LAYERS", [128] * 4, "model.mask_head_channels", 128),
    ],
)
def test_what_has_a_field_is_kept(
    tmp_path: Path, key: str, value: object, field: str, expected: object
) -> None:
    made = import_recipe(changed(tmp_path, key, value))
    section, _, leaf = field.partition(".")
    assert getattr(getattr(made.recipe, section), leaf) == expected
    assert made.lost == ()


def test_detectron2s_own_choices_are_followed(detectron2: Path, tmp_path: Path) -> None:
    for text, field, expected in (
        ("SOLVER: {AMP: {ENABLED: True}}", "optim.precision", "float16"),
        ("INPUT: {MASK_FORMAT: bitmask}", "data.mask_targets", "bitmap"),
        ("INPUT: {RANDOM_FLIP: none}", "data.flip_prob", 0.0),
        ("DATALOADER: {SAMPLER_TRAIN: RepeatFactorTrainingSampler, REPEAT_THRESHOLD: 0.001}",
         "data.repeat_threshold", 0.001),
        ("DATALOADER: {FILTER_EMPTY_ANNOTATIONS: False}", "data.keep_empty_images", True),
    ):  # fmt: skip
        path = written(tmp_path, f"_BASE_: config.yaml\n{text}\n", "variant.yaml")
        recipe = import_recipe(path).recipe
        section, _, leaf = field.partition(".")
        assert getattr(getattr(recipe, section), leaf) == expected, text


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("MODEL.MASK_ON", False, "MODEL.MASK_ON is false: a detector without masks"),
        ("MODEL.KEYPOINT_ON", True, "keypoints are not trained"),
        ("MODEL.RETINANET_ON", True, "RetinaNet"),
        ("MODEL.BACKBONE.CONV_BODY", "R-50-C4", "the backbones are R-50-FPN, R-101-FPN"),
        ("MODEL.RESNETS.NUM_GROUPS", 7, "the ResNeXt that is known"),
    ],
)
def test_another_network_is_refused(tmp_path: Path, key: str, value: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        import_recipe(changed(tmp_path, key, value))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SOLVER.MAX_ITER", "many"),
        ("SOLVER.BASE_LR", -1),
        ("SOLVER.STEPS", [90, 10]),
        ("SOLVER.STEPS", "soon"),
        ("MODEL.RPN.ANCHOR_SIZES", [32]),
        ("INPUT.MIN_SIZE_TRAIN", {}),
        ("INPUT.MIN_SIZE_TEST", None),
        ("MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 9),
    ],
)
def test_a_wrong_value_is_named_with_file_and_key(tmp_path: Path, key: str, value: object) -> None:
    path = changed(tmp_path, key, value)
    if value == {}:  # an empty section is a key that is not there
        import_recipe(path)
        return
    with pytest.raises(ConfigError) as caught:
        import_recipe(path)
    assert str(caught.value).startswith(f"{path}: {key}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no sections"),
        ("- 1\n- 2\n", "has no sections"),
        ("a: [", "is not plain YAML"),
        ("A: 1\n", "cannot tell which program"),
        ("MODEL: {MASK_ON: True}\n", "cannot tell which program"),
        ("MODEL: !!python/object/apply:os.system ['touch ran']\n", "is not plain YAML"),
        ("a: &a [1, 1]\nb: [*a, *a]\n", "aliases"),
        ("a: " + "[" * 5000 + "]" * 5000, "is not plain YAML"),
        ("_BASE_: config.yaml\n", "leads back to config.yaml"),
        ("_BASE_: other.yaml\n", "cannot read"),
        ("_BASE_: https://example.org/a.yaml\n", "no file here"),
        ("x: \x00", "is not plain YAML"),
    ],
)
def test_a_file_that_is_no_config_is_one_line(
    tmp_path: Path, text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said) as caught:
        import_recipe(written(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_large_and_missing_files_and_folders_are_one_line(tmp_path: Path) -> None:
    large = written(tmp_path, "# " + "x" * (1 << 20), "large.yaml")
    for path in (large, tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError):
            import_recipe(path)


def test_a_program_can_be_said(tmp_path: Path) -> None:
    path = written(tmp_path, "MODEL: {MASK_ON: True}\n")
    with pytest.raises(ConfigError, match="CONV_BODY is R-50-C4"):
        import_recipe(path, "maskrcnn-benchmark")
    with pytest.raises(ConfigError, match="--from"):
        import_recipe(path, "mmdet")


def test_the_tables_name_fields_and_keys_that_exist() -> None:
    from raymrcnn.config import Recipe, field_paths

    known = set(field_paths(Recipe))
    for program in PROGRAMS.values():
        assert set(program.fields.values()) <= known
        for table in (program.fields, program.fixed, program.options):
            assert table.keys() <= program.defaults.keys()


# Recipes in files


def test_a_recipe_is_read_from_a_file(tmp_path: Path, detectron2: Path) -> None:
    made = import_recipe(detectron2).recipe
    path = written(tmp_path, json.dumps(made.to_json()), "mine.json")
    assert recipe_named(str(path)) == made
    path.write_text(json.dumps({"recipe": made.to_json(), "versions": {}}))  # a run.json
    assert recipe_named(str(path)) == made
    path.write_text('{"optim": {"max_iter": 7}}')
    assert recipe_named(str(path)) == override(
        replace(r50_fpn_1x(), name="mine"), ["optim.max_iter=7"]
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"optim": {"max_iter": "x"}}', ": optim.max_iter: 'x' is not a whole number"),
        ('{"optim": {"max_itr": 1}}', ": unknown field optim.max_itr"),
        ('{"model": 3}', ": model: expected fields"),
        ("[]", ": is no recipe"),
        ("{}", ": is no recipe"),
        ("x", ": is not JSON"),
    ],
)
def test_a_wrong_recipe_file_is_named_with_its_field(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text, "mine.json")
    with pytest.raises(ConfigError) as caught:
        recipe_named(str(path))
    assert str(caught.value).startswith(f"{path}{said}")
