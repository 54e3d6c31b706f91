"""Wrong input of every kind: exit code 2, one line that says what, where and what to do.

All of it is found before Ray starts (see `no_ray`), and nothing is left half-written.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command import refused
from refusing_disks import full_disk, read_only_folder
from small_weights import SMALL, small_model

from raymrcnn.device import accelerator
from raymrcnn.device.accelerator import CPU, CUDA, MLU

Document = dict[str, Any]


@pytest.fixture
def data(made_up: Path, tmp_path: Path) -> Path:
    """A copy of the made-up data set to damage."""
    return Path(shutil.copytree(made_up, tmp_path / "data"))


def annotations(data: Path, split: str = "train2017") -> Path:
    return data / f"annotations/instances_{split}.json"


def changed(data: Path, change: Callable[[Document], object], split: str = "train2017") -> None:
    document = json.loads(annotations(data, split).read_text())
    change(document)
    annotations(data, split).write_text(json.dumps(document))


def train(data: Path, *more: object, recipe: str = "tiny") -> list[object]:
    out = data.parent / "run"
    return ["train", "--device", "cpu", "--data", data, "--out", out, "--recipe", recipe, *more]


def infer(data: Path, run: Path, *more: object) -> list[object]:
    out = data.parent / "predictions"
    options = ["--device", "cpu", "--data", data, "--weights", run, "--out", out]
    return ["infer", *options, *more]


def left(data: Path) -> list[str]:
    """What a refused command has written beside the data."""
    return sorted(path.name for path in data.parent.iterdir() if path.name != "data")


# Data sets. Training and inference read annotations alike, so each fault is given to both.


def no_folder(data: Path) -> str:
    shutil.rmtree(data)
    return f"{data}: no such folder; give the root of a COCO data set"


def no_annotations(data: Path) -> str:
    shutil.rmtree(data / "annotations")
    return f"{data}: no annotation file annotations/instances_"


def another_split(data: Path) -> str:
    for split in ("train2017", "val2017"):
        annotations(data, split).rename(annotations(data, f"x-{split}"))
    return "; there are x-train2017, x-val2017"


def both(data: Path, change: Callable[[Document], object]) -> None:
    for split in ("train2017", "val2017"):
        changed(data, change, split)


def cut_json(data: Path) -> str:
    for split in ("train2017", "val2017"):
        path = annotations(data, split)
        path.write_bytes(path.read_bytes()[:5000])
    return "the JSON is cut short: it ends within a value at byte 5000"


def empty_file(data: Path) -> str:
    for split in ("train2017", "val2017"):
        annotations(data, split).write_bytes(b"")
    return "the annotation file is empty"


def no_json(data: Path) -> str:
    for split in ("train2017", "val2017"):
        annotations(data, split).write_text("<html>404</html>")
    return "not JSON: invalid character (byte 0)"


def a_list(data: Path) -> str:
    for split in ("train2017", "val2017"):
        annotations(data, split).write_text("[]")
    return "not a COCO annotation file: top level: expected `object`, got `array`"


def no_images_key(data: Path) -> str:
    both(data, lambda document: document.pop("images"))
    return "required field `images`"


def box_of_text(data: Path) -> str:
    both(data, lambda document: document["annotations"][1].update(bbox=[0, 0, "wide", 3]))
    return ".bbox[2]: expected `float`, got `str`"


def image_without_height(data: Path) -> str:
    both(data, lambda document: document["images"][2].pop("height"))
    return "images[2]: object missing required field `height`"


def unknown_image(data: Path) -> str:
    both(data, lambda document: document["annotations"][0].update(id=77, image_id=999))
    return "annotation 77 names image 999, which the file does not list"


def unknown_category(data: Path) -> str:
    both(data, lambda document: document["annotations"][0].update(id=77, category_id=4))
    return "annotation 77 names category 4, which the file does not list"


def two_of_one_id(data: Path) -> str:
    both(data, lambda document: document["images"][1].update(id=document["images"][0]["id"]))
    return " is given twice"


def no_images(data: Path) -> str:
    both(data, lambda document: document.update(images=[], annotations=[]))
    return "the annotation file lists no images"


FAULTS = [
    no_folder, no_annotations, another_split, cut_json, empty_file, no_json, a_list, no_images_key,
    box_of_text, image_without_height, unknown_image, unknown_category, two_of_one_id, no_images,
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_wrong_data_set_is_refused_with_the_place(
    data: Path, small_run: Path, fault: Callable[[Path], str]
) -> None:
    said = fault(data)
    for command in (train(data), infer(data, small_run)):
        line = refused(*command)
        assert said in line
        assert str(data) in line
    assert left(data) == []


def test_a_uri_is_refused_where_only_paths_are_taken(data: Path) -> None:
    for command in (
        ["data", "synth", "--out", "s3://bucket/coco"],
        ["demo", "--out", "s3://bucket/coco"],
    ):
        assert "is a URI, and only paths are supported here" in refused(*command)


def test_drawing_behind_a_uri_is_refused_before_anything_is_labelled(
    data: Path, small_run: Path
) -> None:
    line = refused(*infer(data, small_run, "--overlays", "3", "--out", "s3://bucket/predictions"))
    assert line.startswith("--overlays: images are drawn into a local predictions folder")


# Images


def test_missing_training_images_are_counted_and_the_first_named(data: Path) -> None:
    gone = sorted((data / "train2017").iterdir())[3:10]
    for path in gone:
        path.unlink()
    line = refused(*train(data, "--set", "data.keep_empty_images=true"))
    assert line.startswith(f"{data}: 7 of 32 image files are missing: ")
    named = line.partition("missing: ")[2].partition(", ...")[0].split(", ")
    assert len(named) == 5
    assert set(named) <= {path.name for path in gone}
    assert str(data / "train2017") in line.partition("; ")[2]
    assert left(data) == []


def test_a_split_without_any_of_its_images_is_refused(data: Path, small_run: Path) -> None:
    shutil.rmtree(data / "val2017")
    assert "none of the 8 images is there" in refused(*infer(data, small_run))


def test_a_split_without_an_object_cannot_be_trained_on(data: Path) -> None:
    changed(data, lambda document: document.update(annotations=[]))
    assert "none of the 32 images has an object to train on" in refused(*train(data))


def test_the_home_of_nobody_is_refused(data: Path) -> None:
    for command in (
        ["train", "--data", "~nobody-here/x", "--recipe", "tiny"],
        train(data, "--recipe", "~nobody-here/x.json"),
        ["data", "subset", "--data", data, "--split", "val2017", "--out", data.parent / "out",
         "--ids", "~nobody-here/x"],
    ):  # fmt: skip
        assert refused(*command).startswith("~nobody-here/x")


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "../../../../etc/passwd"])
def test_a_name_that_leads_out_of_the_data_stops_training(data: Path, name: str) -> None:
    changed(data, lambda document: document["images"][0].update(file_name=name))
    line = refused(*train(data, "--set", "data.keep_empty_images=true"))
    assert f"the image name {name!r} does not stay inside the data root" in line


def test_images_that_are_not_there_are_refused_by_name(tmp_path: Path, small_run: Path) -> None:
    for where in ("nowhere", "nowhere/*.jpg"):
        line = refused("infer", "--images", where, "--weights", small_run, "--out", tmp_path / "p")
        assert line.startswith(f"{where}: no image is there")
    assert list(tmp_path.iterdir()) == []


# Weights


def garbage(folder: Path) -> Path:
    (folder / "w.pth").write_bytes(b"\x00garbage" * 100)
    return folder / "w.pth"


def cut_short(folder: Path) -> Path:
    torch.save({"weight": torch.zeros(10_000)}, folder / "w.pth")
    (folder / "w.pth").write_bytes((folder / "w.pth").read_bytes()[:2000])
    return folder / "w.pth"


def hostile(folder: Path) -> Path:
    import os
    import pickle

    class Gadget:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {folder}/ran",)

    (folder / "w.pth").write_bytes(pickle.dumps({"model": Gadget()}, protocol=2))
    return folder / "w.pth"


def a_folder(folder: Path) -> Path:
    (folder / "w").mkdir()
    return folder / "w"


def nothing(folder: Path) -> Path:
    return folder / "w.pth"


def of_another_network(folder: Path) -> Path:
    torch.save({"fc.weight": torch.zeros(10, 512)}, folder / "w.pth")
    return folder / "w.pth"


def without_a_tensor(folder: Path) -> Path:
    state = dict(small_model().state_dict())
    del state["backbone.body.layer1.0.conv1.weight"]
    torch.save(state, folder / "w.pth")
    return folder / "w.pth"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (garbage, "neither a torch file, nor a pickle, nor safetensors"),
        (cut_short, "damaged or cut short"),
        (hostile, "which is code and not weights; nothing was run"),
        (a_folder, "holds no checkpoint"),
        (nothing, "no such file or folder"),
        (of_another_network, ""),
        (without_a_tensor, ""),
    ],
    ids=lambda make: getattr(make, "__name__", None),
)
def test_weights_that_are_none_or_others_are_refused(
    made_up: Path, tmp_path: Path, make: Callable[[Path], Path], said: str
) -> None:
    weights = make(tmp_path)
    before = sorted(tmp_path.iterdir())
    for command in (
        ["train", "--data", made_up, "--recipe", "tiny", "--out", tmp_path / "out"],
        ["infer", "--data", made_up, "--mode", "predict", "--out", tmp_path / "out"],
    ):
        line = refused(*command, "--device", "cpu", "--weights", weights)
        assert line.startswith(f"{weights}: ")
        assert said in line
        assert len(line) < 1000
    assert sorted(tmp_path.iterdir()) == before


def test_weights_of_another_architecture_name_both(
    made_up: Path, small_run: Path, tmp_path: Path
) -> None:
    line = refused(
        "train", "--data", made_up, "--recipe", "tiny", "--weights", small_run,
        "--out", tmp_path / "out", "--device", "cpu",
    )  # fmt: skip
    assert str(small_run) in line
    assert "instead of [64, " in line
    assert "the weights are a resnet18 with 3 classes" in line
    assert list(tmp_path.iterdir()) == []


def test_weights_for_other_categories_cannot_be_scored(data: Path, small_run: Path) -> None:
    changed(data, lambda document: document["categories"][0].update(name="plate"), "val2017")
    line = refused(*infer(data, small_run))
    assert "the weights call category 2 'circle', the data set 'plate'" in line
    assert left(data) == []


# Recipes and options


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--recipe", "tyny"], "--recipe: no recipe 'tyny'; did you mean tiny?"),
        (["--set", "optim.max_itr=5"], "did you mean optim.max_iter"),
        (["--set", "optim.max_iter"], "write it as section.field=value"),
        (["--set", "optim.max_iter=ten"], "optim.max_iter: 'ten' is not a whole number"),
        (["--set", "optim.base_lr=-1"], "optim.base_lr: must be positive"),
        (["--set", "model.backbone=vgg"], "'vgg' is not one of resnet18, resnet50, resnet101"),
        (["--set", "data.short_side=900"], "at most data.long_side=192"),
        (["--workers", "9"], "a batch of 8 images cannot be shared by 9 workers"),
        (["--resume", "maybe"], "'maybe' is not auto, never or must"),
        (["--resume", "must"], "there is no run to go on with"),
        (["--device", "tpu"], "--device: no device 'tpu'"),
        (["--device", "cude"], "did you mean cuda?"),
        (["--set", "data.train_split=train"], "no split 'train'; there are train2017, val2017"),
    ],
)
def test_wrong_options_of_training_are_refused(data: Path, options: list[str], said: str) -> None:
    assert said in refused(*train(data, *options))
    assert left(data) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--dtype", "float16"], "--dtype: cpu cannot run float16; choose float32 or bfloat16"),
        (["--dtype", "int8"], "--dtype: no dtype 'int8'; choose one of float32, float16, bfloat16"),
        (["--input-data-type", "float16"], "cpu cannot run float16"),
        (["--device", "gpu"], "--device: no device 'gpu'"),
        (["--mode", "test"], "--mode: 'test' is not evaluation or predict"),
        (["--score-threshold", "1.5"], "--score-threshold: 1.5 is not in [0, 1)"),
        (["--split", "test2017"], "there are train2017, val2017"),
        (["--images", "."], "give either a data set or images"),
        (["--coco-json", "data/annotations/instances_val2017.json/x"], "cannot write"),
        (["--coco-json", "s3://bucket/dt.json"], "is a URI, and only paths are supported here"),
        (["--coco-json", "data"], "data is a folder; name a file"),
        (["--coco-json", "made/dt.json", "--mode", "test"], "is not evaluation or predict"),
    ],
)
def test_wrong_options_of_inference_are_refused(
    data: Path, small_run: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], said: str
) -> None:
    monkeypatch.chdir(data.parent)
    assert said in refused(*infer(data, small_run, *options))
    assert left(data) == []


def test_inference_needs_something_to_look_at(tmp_path: Path, small_run: Path) -> None:
    common = ["infer", "--weights", small_run, "--out", tmp_path / "p"]
    assert "nothing to predict on" in refused(*common)
    line = refused(*common, "--images", tmp_path, "--mode", "evaluation")
    assert "--mode: an evaluation needs annotations; give --data DIR" in line


def test_a_changed_recipe_needs_its_name() -> None:
    assert "give its name first" in refused("recipes", "--set", "optim.max_iter=5")
    assert "did you mean tiny?" in refused("recipes", "tiiny")
    assert "no field 'x'" in refused("recipes", "tiny", "--set", "x=1")


# Devices


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_on_a_machine_without_it_is_one_line(data: Path, small_run: Path) -> None:
    for command in (train(data, "--device", "cuda"), infer(data, small_run, "--device", "cuda")):
        line = refused(*command)
        assert line.startswith("--device: no cuda device: torch sees no CUDA device here; ")
        assert "--device auto or cpu" in line


def test_mlu_on_a_machine_without_it_is_one_line(
    data: Path, small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerator.mlu, "is_installed", lambda: False)
    for command in (train(data, "--device", "mlu"), infer(data, small_run, "--device", "mlu")):
        assert "no mlu device: torch_mlu is not installed" in refused(*command)


@pytest.fixture
def two_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that says it has two CUDA cards and two MLUs."""
    from raymrcnn.device import mlu
    from raymrcnn.device.choice import on_ray as choice

    there = {CPU: 1, CUDA: 2, MLU: 2}
    for module in (accelerator, choice):
        monkeypatch.setattr(module, "num_cards", there.__getitem__)
    monkeypatch.setattr(mlu, "obstacle", lambda: None)


@pytest.mark.usefixtures("two_cards")
@pytest.mark.parametrize("device", ["cuda", "mlu"])
def test_more_workers_than_cards_are_refused_with_the_number_there_is(
    data: Path, small_run: Path, device: str
) -> None:
    for command in (train(data), infer(data, small_run)):
        line = refused(*command, "--device", device, "--workers", 3)
        assert f"3 workers need 3 {device} cards, and this machine has 2; " in line
        assert "ask for at most 2" in line
    assert left(data) == []


@pytest.mark.usefixtures("two_cards")
def test_a_dtype_is_refused_by_the_device_that_lacks_it(data: Path, small_run: Path) -> None:
    line = refused(*infer(data, small_run, "--device", "mlu", "--dtype", "bfloat16"))
    assert "mlu cannot run bfloat16; choose float32 or float16" in line


# Output folders


@pytest.fixture
def read_only() -> Iterator[Path]:
    with read_only_folder() as folder:
        yield folder


def test_a_place_that_cannot_be_a_folder_is_refused(data: Path, small_run: Path) -> None:
    file = data.parent / "file"
    file.touch()
    for out in (file, file / "out"):
        for command in (train(data, "--out", out), infer(data, small_run, "--out", out)):
            line = refused(*command)
            assert line.startswith(f"{out}: cannot write (")
            assert "choose another --out" in line
    assert refused("data", "synth", "--out", file).startswith(f"{file}: is a file")
    assert "cannot write" in refused("data", "synth", "--out", file / "x", "--images", 5)


def test_a_read_only_folder_is_refused(readable: Path, read_only: Path) -> None:
    data, run = readable / "data", readable / "run"
    for out in (read_only, read_only / "out"):
        for command in (train(data, "--out", out), infer(data, run, "--out", out)):
            assert refused(*command).startswith(f"{out}: cannot write (Permission denied)")
    assert "cannot write" in refused("data", "synth", "--out", read_only / "x", "--images", 5)


@pytest.fixture
def readable(made_up: Path, small_run: Path) -> Iterator[Path]:
    """Data and weights that any user may read; pytest's folders are the owner's alone."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for source, place in ((made_up, "data"), (small_run, "run")):
            shutil.copytree(source, folder / place)
            (folder / place).chmod(0o755)
        yield folder


def test_a_full_disk_at_the_start_leaves_no_run_and_no_manifest(
    data: Path, small_run: Path
) -> None:
    with full_disk(200):
        assert "cannot write" in refused(*train(data))
        assert "cannot write" in refused(*infer(data, small_run))
    assert not list((data.parent / "run").iterdir())
    predictions = data.parent / "predictions"
    assert not predictions.exists() or not list(predictions.iterdir())


def test_a_folder_of_another_kind_of_run_is_refused(
    data: Path, small_run: Path, tmp_path: Path
) -> None:
    from small import prepared

    prepared(data, tmp_path / "run")
    line = refused(*train(data))
    assert "holds a run of another kind: " in line
    assert "model.fpn_channels was 16 and is 64" in line
    assert "there is a run already" in refused(*train(data, "--resume", "never"))
    (tmp_path / "run/run.json").write_text('{"recipe": ')
    assert "is not JSON" in refused(*train(data))
    (tmp_path / "run/run.json").write_text("{}")
    assert "run.json: is not a run's" in refused(*train(data))


# Scores and reports


def test_scoring_what_is_not_there_is_refused(made_up: Path, tmp_path: Path) -> None:
    truth = annotations(made_up, "val2017")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.json").write_text('[{"image_id": 1')
    results = tmp_path / "results.json"
    results.write_text("[]")
    for arguments, said in (
        ([], "score: give one predictions folder or file"),
        ([tmp_path, "--predictions", tmp_path], "score: give one predictions folder or file"),
        ([tmp_path / "nothing"], "nothing: no such file or folder"),
        ([tmp_path / "nothing", "--annotations", truth], "nothing: no such file or folder"),
        ([tmp_path / "empty"], "there is nothing to score against; give --annotations FILE"),
        ([tmp_path / "empty", "--annotations", truth], "no part-*.parquet in it"),
        ([tmp_path / "empty", "--data", tmp_path], "no annotation file"),
        ([tmp_path / "empty", "--annotations", tmp_path / "x.json"], "x.json: cannot read"),
        ([tmp_path / "bad.json", "--annotations", truth], "bad.json: the JSON is cut short"),
        ([""], "score: the name of the predictions is empty"),
        (["--predictions", ""], "score: the name of the predictions is empty"),
        (["--compare", results, ""], "score: the name of the predictions is empty"),
        ([results, "--annotations", ""], "--annotations: is empty"),
        ([results, "--data", ""], "--data: is empty"),
        ([results, "--annotations", truth, "--data", made_up], "--data: says nothing beside"),
        ([results, "--annotations", truth, "--split", "x"], "--split: says nothing beside"),
        ([results, "--annotations", truth, "--seed", 0], "--seed: is of a comparison"),
        ([results, "--annotations", truth, "--resamples", 9], "--resamples: is of a comparison"),
        ([results, "--annotations", truth, "--workers", 2], "--workers: a results file is matched"),
        ([results, "--annotations", truth, "--cluster", "auto"], "--cluster: a results file is"),
        (["--compare", results, results, "--detail"], "--detail: a comparison has none"),
    ):
        assert said in refused("score", *arguments)


def test_scoring_what_is_not_finished_is_refused(data: Path, small_run: Path) -> None:
    from raymrcnn.infer.job import InferJob, prepare

    out = data.parent / "predictions"
    prepare(InferJob(weights=str(small_run), out=out, data_root=data))
    line = refused("score", out)
    assert line.startswith(f"{out}: not all images are labelled yet; run the same `raymrcnn infer`")


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    assert "no such folder" in refused("report", tmp_path / "x")
    assert "neither a run nor predictions" in refused("report", tmp_path)


def test_verify_of_what_cannot_be_read_is_refused(tmp_path: Path, data: Path) -> None:
    assert "no such folder" in refused("data", "verify", "--data", tmp_path / "x")
    assert "no split 'x'" in refused("data", "verify", "--data", data, "--split", "x")
    cut_json(data)
    assert "cut short" in refused("data", "verify", "--data", data, "--json")


def test_the_small_recipe_is_another_than_tiny() -> None:
    """Else the refusals above, of one where the other lies, would say nothing."""
    from raymrcnn.recipes import tiny

    assert SMALL.model != tiny().model


def test_a_recipe_file_that_is_wrong_is_one_line(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    words = ["train", "--data", data, "--out", tmp_path / "run", "--recipe", path]
    assert f"{path}: cannot read" in refused(*words)
    path.write_text('{"optim": {"max_iter": -1}}')
    assert f"{path}: optim.max_iter: must be positive" in refused(*words)
    assert not (tmp_path / "run").exists()


def test_a_config_that_cannot_be_imported_is_one_line(tmp_path: Path) -> None:
    path, out = tmp_path / "a.yaml", tmp_path / "a.json"
    assert "cannot read" in refused("recipes", "import", path, "--out", out)
    path.write_text("MODEL: !!python/name:os.system {}\n")
    assert "is not plain YAML" in refused("recipes", "import", path, "--out", out)
    assert "does not end in .json" in refused("recipes", "import", path, "--out", tmp_path / "a")
    assert not out.exists()
