"""Files behind a URI: whole or not there, on stores that show what is being written."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyarrow import fs

from raymrcnn import storage


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder behind `odd://host/`."""
    system = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    monkeypatch.setattr(storage, "_connected", lambda address: (system, ""))
    return tmp_path


def test_an_empty_file_is_not_listed(store: Path) -> None:
    """Azure shows one as soon as an upload begins, and after one that was cut."""
    (store / "part-00000.parquet").touch()
    (store / "part-00001.parquet").write_bytes(b"x")
    (store / "folder").mkdir()
    assert storage.names("odd://host/") == ["folder", "part-00001.parquet"]


def test_where_files_are_seen_while_they_are_written_a_write_is_a_rename(
    store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(storage, "_SHOWN_WHILE_WRITTEN", ("subtree",))
    for data in (b"first", b"second"):
        storage.write("odd://host/a.json", data)
        assert (store / "a.json").read_bytes() == data
    source = tmp_path / "source"
    source.write_bytes(b"third")
    storage.upload(source, "odd://host/a.json")
    assert (store / "a.json").read_bytes() == b"third"
    assert storage.names("odd://host/") == ["a.json", "source"]

    def refuse(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(storage.shutil, "copyfileobj", refuse)
    with pytest.raises(storage.OutputError, match="no space"):
        storage.upload(source, "odd://host/a.json")
    assert (store / "a.json").read_bytes() == b"third", "what was there stays"
