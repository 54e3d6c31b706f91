"""The files for Kubernetes, Docker and `ray up` fit their schemas, the package and each other."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from raymrcnn import __version__
from raymrcnn.cli.main import app
from raymrcnn.device.accelerator import MLU
from raymrcnn.device.choice.on_ray import LABELS
from raymrcnn.device.mlu_workers.on_ray import UNIT_INSTANCES, unit_instance_resources
from raymrcnn.device.on_ray import VERSION_LABEL

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
CLUSTERS = sorted((CLUSTER / "kuberay").glob("raycluster-*.yaml"))
JOBS = sorted((CLUSTER / "kuberay").glob("rayjob-*.yaml"))
IMAGE = f"raymrcnn:{__version__}"


def read(path: Path) -> dict[str, Any]:
    found = yaml.safe_load(path.read_text())
    assert isinstance(found, dict)
    return found


def schema_of(shared: Path, kind: str) -> dict[str, Any]:
    path = shared / "facts" / "kuberay-crds" / f"ray.io_{kind.lower()}s.yaml"
    if not path.is_file():
        pytest.skip("KubeRay's schemas (../shared/facts) are not here")
    for version in read(path)["spec"]["versions"]:
        if version["name"] == "v1":
            found: dict[str, Any] = version["schema"]["openAPIV3Schema"]
            return found
    raise AssertionError("KubeRay has no v1")


def unknown(document: Any, schema: dict[str, Any], where: str = "") -> Iterator[str]:
    """Fields that the schema does not have: Kubernetes would drop them without a word."""
    if isinstance(document, list):
        for item in document:
            yield from unknown(item, schema.get("items", {}), where + "[]")
    elif isinstance(document, dict):
        known, others = schema.get("properties"), schema.get("additionalProperties")
        for name, value in document.items():
            if known and name in known:
                yield from unknown(value, known[name], f"{where}.{name}")
            elif known and not others and not schema.get("x-kubernetes-preserve-unknown-fields"):
                yield f"{where}.{name}"


@pytest.mark.parametrize("path", [*CLUSTERS, *JOBS], ids=lambda p: p.stem)
def test_a_manifest_fits_kuberays_schema(path: Path, shared: Path) -> None:
    document = read(path)
    schema = schema_of(shared, document["kind"])
    jsonschema.validate(document, schema)
    assert not [w for w in unknown(document, schema) if not w.startswith(".metadata.")]
    broken = {**document, "spec": {**document["spec"], "rayVersions": "x"}}
    assert list(unknown(broken, schema))[-1] == ".spec.rayVersions", "the check sees a typing error"


def groups(path: Path) -> list[dict[str, Any]]:
    spec = read(path)["spec"]
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def closed_container(pod: dict[str, Any]) -> dict[str, Any]:
    """The one of a pod, which runs as a normal user and can change nothing but what is mounted."""
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 1000, "the image's user"
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["image"] == IMAGE
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert {"name": "HOME", "value": "/tmp"} in container["env"], "where it may write"
    assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]
    assert {v["name"] for v in pod["volumes"]} == {m["name"] for m in container["volumeMounts"]}
    found: dict[str, Any] = container
    return found


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda p: p.stem)
def test_a_cluster_agrees_with_the_package_and_is_closed(path: Path) -> None:
    spec = read(path)["spec"]
    pinned = re.search(r"^ray==([\d.]+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert pinned is not None
    assert spec["rayVersion"] == pinned[1]
    assert spec["authOptions"] == {"mode": "token"}
    for group in groups(path):
        labels = dict(item.split("=") for item in group["rayStartParams"]["labels"].split(","))
        assert labels.pop(VERSION_LABEL) == __version__
        pod = group["template"]["spec"]
        container = closed_container(pod)
        env = {item["name"]: item["value"] for item in container["env"]}
        assert not [name for name in env if "TOKEN" in name], "a token is a Secret's"
        cards = container["resources"].get("limits", {}).get("cambricon.com/mlu370")
        told = json.loads(json.loads(group["rayStartParams"].get("resources", '"{}"')))
        assert told == ({MLU.ray_resource: int(cards)} if cards else {})
        if cards:
            assert env[UNIT_INSTANCES] == unit_instance_resources()
            assert labels == {LABELS[MLU.name]: pod["nodeSelector"]["raymrcnn/card"]}


@pytest.mark.parametrize("path", JOBS, ids=lambda p: p.stem)
def test_a_job_is_a_command_on_a_cluster_that_is_here(path: Path) -> None:
    spec = read(path)["spec"]
    names = {read(cluster)["metadata"]["name"] for cluster in CLUSTERS}
    assert spec["clusterSelector"]["ray.io/cluster"] in names
    program, *words = spec["entrypoint"].split()
    assert program == "raymrcnn"
    done = CliRunner().invoke(app, [*words, "--no-such-option"])
    assert "--no-such-option" in done.stderr, "every word before it is understood"
    assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "180"}


@pytest.mark.parametrize("path", JOBS, ids=lambda p: p.stem)
def test_who_submits_a_job_shows_the_clusters_token_out_of_its_secret(path: Path) -> None:
    spec = read(path)["spec"]
    submitter = closed_container(spec["submitterPodTemplate"]["spec"])
    assert spec["submitterPodTemplate"]["spec"]["restartPolicy"] == "Never"
    env = {item["name"]: item for item in submitter["env"]}
    assert env["RAY_AUTH_MODE"]["value"] == "token"
    # KubeRay keeps a cluster's token in a Secret of the cluster's name.
    secret = {"name": spec["clusterSelector"]["ray.io/cluster"], "key": "auth_token"}
    assert env.pop("RAY_AUTH_TOKEN") == {
        "name": "RAY_AUTH_TOKEN", "valueFrom": {"secretKeyRef": secret},
    }  # fmt: skip
    assert not [name for name in env if "TOKEN" in name]
    assert "TOKEN" not in spec["entrypoint"] + spec["runtimeEnvYAML"]


def test_ray_up_takes_the_list_of_hosts(tmp_path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = read(CLUSTER / "launcher" / "hosts.yaml")
    validate_config(prepare_config(config))
    commands = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    for script in re.findall(r"cluster/\w+\.sh", " ".join(commands)):
        assert os.access(ROOT / script, os.X_OK)


def test_the_image_is_made_of_what_ci_runs() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    assert f"-t {IMAGE}" in text
    for source in re.findall(r"^COPY (.+) \S+$", text, re.M):
        for name in source.split():
            assert (ROOT / name).exists(), name
    assert re.search(r"^USER 1000$", text, re.M)


@pytest.fixture
def told(tmp_path: Path) -> dict[str, str]:
    """An environment whose docker and raymrcnn print what they are told, a word a line."""
    for name in ("docker", "raymrcnn"):
        (tmp_path / name).write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        (tmp_path / name).chmod(0o755)
    for name in ("cambricon_dev0", "cambricon_dev1", "cambricon_ipcm0", "cambricon_ctl"):
        (tmp_path / name).touch()
    (tmp_path / "cnmon").write_text("#!/bin/sh\n")
    (tmp_path / "cnmon").chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    return {"PATH": path, "RAYMRCNN_DEV": str(tmp_path), "HOME": str(tmp_path)}


def run(script: str, *words: object, env: dict[str, str]) -> list[str]:
    done = subprocess.run([CLUSTER / script, *map(str, words)], env=env, capture_output=True,
                          text=True, timeout=30)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_docker_is_given_the_cards_and_little_else(told: dict[str, str], tmp_path: Path) -> None:
    odd = tmp_path / "a folder; touch hacked"
    odd.mkdir()
    said = run("docker-run.sh", odd, "--", "raymrcnn", "train", "--data", odd, env=told)
    devices = [said[k + 1] for k, word in enumerate(said) if word == "--device"]
    assert [Path(d).name for d in devices] == [
        "cambricon_dev0", "cambricon_dev1", "cambricon_ipcm0", "cambricon_ctl",
    ]  # fmt: skip
    volumes = [said[k + 1] for k, word in enumerate(said) if word == "--volume"]
    assert volumes == [f"{tmp_path}/cnmon:/usr/bin/cnmon:ro", f"{odd}:{odd}"]
    assert "--privileged" not in said
    assert said[said.index("--cap-drop") + 1] == "ALL"
    assert said[said.index("--user") + 1] == f"{os.getuid()}:{os.getgid()}"
    assert said[said.index(IMAGE) + 1 :] == ["raymrcnn", "train", "--data", str(odd)]
    assert not list(tmp_path.rglob("hacked"))
    bare = {**told, "RAYMRCNN_DEV": "/nowhere"}
    assert "--device" not in run("docker-run.sh", "--", "raymrcnn", "recipes", env=bare)


def test_one_click_is_the_references_job(told: dict[str, str]) -> None:
    train = run("one-click-train.sh", "/coco", env=told)
    assert train[:3] == ["train", "--data", "/coco"]
    assert train[train.index("--workers") + 1] == "8"
    infer = run("one-click-infer.sh", "/coco", "mine.pth", "--device", "mlu", env=told)
    assert infer[infer.index("--weights") + 1] == "mine.pth"
    assert infer[infer.index("--batch-size") + 1] == "32"
    assert infer[-2:] == ["--device", "mlu"]
    for words in (train, infer):
        done = CliRunner().invoke(app, [*words, "--no-such-option"])
        assert "--no-such-option" in done.stderr


def test_hadolint_finds_nothing() -> None:
    tool = Path(sys.executable).with_name("hadolint")
    found = str(tool) if tool.exists() else shutil.which("hadolint")
    if found is None:
        pytest.skip("hadolint is not installed")
    subprocess.run([found, CLUSTER / "Dockerfile"], check=True)
