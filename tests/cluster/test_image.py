"""The Dockerfile is built and its image runs the demo, closed as `docker-run.sh` closes it.

Opt-in, as it takes minutes, root, the network, 2 GB of disk and four of Debian's packages:

    apt-get install buildah podman crun catatonit debootstrap
    RAYMRCNN_BUILD_IMAGE=1 python -m pytest tests/cluster/test_image.py

No image is pulled. The base is a fresh Debian, and torch is lent to it out of this environment,
which is how the file is used on Cambricon's image; everything else pip installs into the image.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from raymrcnn import __version__

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("buildah", "podman", "crun", "catatonit", "debootstrap")
LENT = (
    "torch", "torchgen", "torchvision", "functorch", "nvidia", "triton", "sympy", "mpmath",
    "networkx", "jinja2", "markupsafe", "fsspec", "filelock", "typing_extensions", "setuptools",
    "numpy", "pillow", "PIL", "cuda",
)  # fmt: skip
# podman under Docker's name. A fresh cgroup2, as crun refuses a machine that has both kinds, and
# limits below this process's own.
DOCKER = """#!/bin/sh
shift
exec unshare --mount sh -c 'umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup
exec podman --root "$0/store" --runroot "$0/run" --storage-driver overlay run \
    --cgroups=disabled --ulimit nofile=4096:4096 --ulimit nproc=4096:4096 \
    --volume "$0/lent:/opt/lent:ro" "$@"' {folder} "$@"
"""

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        os.environ.get("RAYMRCNN_BUILD_IMAGE") != "1", reason="RAYMRCNN_BUILD_IMAGE=1 builds it"
    ),
    pytest.mark.skipif(
        not all(map(shutil.which, TOOLS)), reason=f"one of {', '.join(TOOLS)} is missing"
    ),
]


def call(*words: object, **extra: object) -> str:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, **extra)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    text: str = done.stdout
    return text


def lend(folder: Path) -> None:
    """Hard links to torch and what it needs, to be mounted where they cannot be written."""
    site = Path(sysconfig.get_path("purelib"))
    folder.mkdir()
    for path in site.iterdir():
        stem = path.name.removesuffix(".py").split("-")[0].split(".")[0].lower()
        if stem in {name.lower() for name in LENT} or stem.startswith(("nvidia_", "cuda_")):
            call("cp", "-al", path, folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the image lies, with `docker` that runs it."""
    made = tmp_path_factory.mktemp("image")
    buildah = ("buildah", "--root", made / "store", "--runroot", made / "run",
               "--storage-driver", "overlay")  # fmt: skip
    lend(made / "lent")
    call(*buildah, "from", "--name", "base", "scratch")
    root = Path(call(*buildah, "mount", "base").strip())
    packages = "--include=python3,python3-pip,ca-certificates"
    call("debootstrap", "--variant=minbase", packages, "bookworm", root)
    (root / "usr/bin/python").symlink_to("python3")
    for managed in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        managed.unlink()
    (lib,) = root.glob("usr/local/lib/python3.*/dist-packages")
    (lib / "lent.pth").write_text("/opt/lent\n")
    (root / "opt/lent").mkdir()
    call(*buildah, "umount", "base")
    call(*buildah, "commit", "--disable-compression", "--rm", "base", "localhost/debian")
    source = made / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "tests", "demo"))
    call(*buildah, "bud", "--isolation", "chroot", "--layers=false", "--pull-never",
         "--file", "cluster/Dockerfile", "--build-arg", "BASE=localhost/debian",
         "--build-arg", "TORCH=", "--volume", f"{made / 'lent'}:/opt/lent:ro",
         "--volume", "/etc/ssl/certs:/etc/ssl/certs:ro",  # of whoever builds behind a proxy
         "--env", "PIP_CERT=/etc/ssl/certs/ca-certificates.crt",
         "--tag", f"raymrcnn:{__version__}", ".", cwd=source)  # fmt: skip
    (made / "docker").write_text(DOCKER.format(folder=made))
    (made / "id").write_text("#!/bin/sh\necho 1000\n")  # a normal user asks for it
    for name in ("docker", "id"):
        (made / name).chmod(0o755)
    return made


def test_the_image_runs_the_demo_as_a_normal_user_on_a_root_that_cannot_be_written(
    folder: Path, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    for place in (shared, *list(shared.parents)[:3]):
        place.chmod(0o755)
    os.chown(shared, 1000, 1000)
    env = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
           "DOCKER": str(folder / "docker")}  # fmt: skip
    inside = (ROOT / "cluster" / "docker-run.sh", shared, "--")
    told = call(*inside, "sh", "-c", "id -u; pwd; touch /x 2>&1; grep -E 'CapEff|NoNew' "
                "/proc/self/status; command -v wget", env=env).split()  # fmt: skip
    assert told[:2] == ["1000", str(shared)]
    assert "Read-only" in told
    assert told[told.index("CapEff:") + 1] == "0" * 16
    assert told[told.index("NoNewPrivs:") + 1] == "1"
    assert told[-1].endswith("/wget"), "KubeRay looks after its pods with it"
    said = call(*inside, "raymrcnn", "--version", env=env)
    assert f"raymrcnn {__version__}" in said
    call(*inside, "raymrcnn", "demo", "--out", "demo", "--steps", "20", env=env)
    assert "</html>" in (shared / "demo" / "run" / "report.html").read_text()
    assert (shared / "demo").stat().st_uid == 1000
