"""A report about folders behind URIs: what it reads is brought here, and the page goes there."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from raymrcnn import rundir, storage
from raymrcnn.errors import DataError
from raymrcnn.report.page import write_report
from raymrcnn.report.progress import Progress
from raymrcnn.storage import Place

_READ = (".json", ".jsonl", ".parquet", rundir.LAST, rundir.BEST)


def write_report_of(
    folders: Sequence[Place],
    out: Place | None = None,
    *,
    data_root: Path | None = None,
    split: str | None = None,
    resamples: int = 0,
    progress: Progress = lambda what, done, of: None,
) -> Place:
    """As `write_report`, also of folders behind URIs; returns where the page is.

    Raises:
        RaymrcnnError: as `write_report`; DataError: a storage does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="raymrcnn-report-") as spool, rundir.disk_errors(spool):
        here = [_brought(folder, Path(spool, str(k))) for k, folder in enumerate(folders)]
        page = write_report(
            here,
            Path(spool, rundir.REPORT) if isinstance(out, str) else out,
            data_root=data_root,
            split=split,
            resamples=resamples,
            progress=progress,
        )
        target = out
        if out is None and isinstance(folders[0], str):
            target = storage.join(folders[0], page.name)
        if isinstance(target, str):
            storage.upload(page, target)
            return target
    return page


def _brought(folder: Place, spool: Path) -> Path:
    """A folder of this machine with what a report reads."""
    if isinstance(folder, Path):
        return folder
    names = [name for name in storage.names(folder) if name.endswith(_READ)]
    if not names:
        raise DataError("no such folder", where=folder)
    here = spool / storage.name_of(folder)
    here.mkdir(parents=True)
    for name in names:
        storage.download(storage.join(folder, name), here / name)
    return here
