"""Writes that commit: a reader sees the old or the new, whatever is refused or killed between."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from refusing_disks import full_disk, read_only_folder

from raymrcnn import rundir, storage
from raymrcnn.errors import ConfigError, DataError, OutputError


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def small_files_only() -> Iterator[None]:
    with full_disk(10_000):
        yield


@pytest.fixture
def read_only() -> Iterator[Path]:
    with read_only_folder() as folder:
        yield folder


def test_a_written_file_is_whole_readable_and_alone(tmp_path: Path) -> None:
    rundir.write_text(tmp_path / "a.txt", "Größe")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "Größe"
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644
    assert entries(tmp_path) == ["a.txt"]


def test_who_reads_while_a_file_is_renewed_reads_the_old_one(tmp_path: Path) -> None:
    rundir.write_text(tmp_path / "a.txt", "old")
    with (tmp_path / "a.txt").open() as reader:
        rundir.write_text(tmp_path / "a.txt", "new")
        assert reader.read() == "old"
    assert (tmp_path / "a.txt").read_text() == "new"


def test_json_comes_back_as_it_went(tmp_path: Path) -> None:
    document = {"a": [1, 2.5, None, True], "ü": {"b": "c\n"}}
    rundir.write_json(tmp_path / "a.json", document)
    assert rundir.read_json(tmp_path / "a.json") == document


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), RuntimeError("bug")])
def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, failure: Exception) -> None:
    path = tmp_path / "a.txt"
    rundir.write_text(path, "old")

    def write(tmp: Path) -> None:
        tmp.write_text("half of the n")
        raise failure

    with pytest.raises((OutputError, RuntimeError)):
        rundir.write_atomic(path, write)
    assert path.read_text() == "old"
    assert entries(tmp_path) == ["a.txt"]


@pytest.mark.usefixtures("small_files_only")
def test_a_full_disk_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    rundir.write_text(path, "old")
    with pytest.raises(OutputError) as caught:
        rundir.write_text(path, "n" * 20_000)
    assert str(caught.value).startswith(f"{path}: cannot write (")
    assert "free space" in str(caught.value)
    assert path.read_text() == "old"
    assert entries(tmp_path) == ["a.txt"]


@pytest.mark.usefixtures("small_files_only")
def test_a_full_disk_leaves_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "step"
    rundir.write_folder_atomic(folder, lambda tmp: (tmp / "a").write_text("old") and None)

    def write(tmp: Path) -> None:
        (tmp / "a").write_text("new")
        (tmp / "b").write_text("n" * 20_000)

    with pytest.raises(OutputError, match="cannot write"):
        rundir.write_folder_atomic(folder, write)
    assert (folder / "a").read_text() == "old"
    assert entries(tmp_path) == ["step"]


def test_a_folder_replaces_the_older_one_whole(tmp_path: Path) -> None:
    folder = tmp_path / "step"
    rundir.write_folder_atomic(folder, lambda tmp: (tmp / "a").write_text("old") and None)

    def write(tmp: Path) -> None:
        (tmp / "b").touch(0o600)
        (tmp / "b").write_text("new")

    rundir.write_folder_atomic(folder, write)
    assert entries(folder) == ["b"]
    assert folder.stat().st_mode & 0o777 == 0o755
    assert (folder / "b").stat().st_mode & 0o777 == 0o644
    assert entries(tmp_path) == ["step"]


def test_a_kill_in_the_middle_of_a_write_leaves_the_old_file(tmp_path: Path) -> None:
    rundir.write_text(tmp_path / "a.txt", "old")
    program = """
import os, signal, sys
from pathlib import Path
from raymrcnn import rundir

def write(tmp):
    tmp.write_text("half of the n")
    os.kill(os.getpid(), signal.SIGKILL)

rundir.write_atomic(Path(sys.argv[1]), write)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "a.txt")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "a.txt").read_text() == "old"
    left = [name for name in entries(tmp_path) if name != "a.txt"]
    assert all(name.startswith(rundir.TMP_PREFIX) for name in left)


def test_an_output_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    rundir.prepare_output(tmp_path / "a" / "b")
    assert entries(tmp_path / "a" / "b") == []
    rundir.prepare_output(tmp_path / "a" / "b")


def test_an_output_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(OutputError, match="choose another --out") as caught:
            rundir.prepare_output(folder)
        assert caught.value.where == str(folder)


def test_an_output_folder_that_is_read_only_is_refused(read_only: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        rundir.prepare_output(read_only)
    with pytest.raises(OutputError, match="cannot write"):
        rundir.prepare_output(read_only / "run")
    with pytest.raises(OutputError, match="cannot write"):
        rundir.write_text(read_only / "a.txt", "")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot read (No such file or directory)"),
        (b'{"a": 1', "is not JSON"),
        (b"", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
    ],
)
def test_what_is_no_json_is_one_line(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "run.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        rundir.read_json(path)
    assert str(caught.value).startswith(f"{path}: {said}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["s3://bucket/run", "file:///run", Path("s3://bucket"), "abfs+x://a"]
)
def test_a_uri_is_refused_where_only_paths_are_taken(text: str | Path) -> None:
    with pytest.raises(ConfigError, match="--out: .* is a URI"):
        rundir.local_path(text, "--out")


def test_a_path_is_taken_from_the_current_folder_and_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ann")
    assert rundir.local_path("runs/a", "--out") == tmp_path / "runs" / "a"
    assert rundir.local_path("~/a", "--out") == Path("/home/ann/a")
    assert rundir.local_path("a:/b/c:d", "--out") == tmp_path / "a:/b/c:d"
    for read in (storage.place, lambda text: rundir.local_path(text, "--out")):
        with pytest.raises(ConfigError, match="~nobody-here/y: no user of this machine"):
            read("~nobody-here/y")


def test_names_sort_by_their_number() -> None:
    numbers = [0, 9, 10, 999_999]
    for name in (rundir.step_name, rundir.part_name):
        names = [name(n) for n in numbers]
        assert names == sorted(names)
        assert len(set(names)) == len(numbers)


def test_one_process_at_a_time_works_in_a_folder(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from raymrcnn import rundir

with rundir.exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(OutputError, match="another process is at work here"):  # noqa: SIM117
        with rundir.exclusive(tmp_path):
            pass
    other.kill()  # a kill lets go of it
    other.wait()
    with rundir.exclusive(tmp_path):
        pass


def test_errors_of_the_work_itself_are_not_taken_for_the_disk(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError), rundir.exclusive(tmp_path):
        raise ConnectionError("the cluster went away")
    with pytest.raises(OutputError, match="cannot write"), rundir.exclusive(tmp_path / "gone"):
        pass
