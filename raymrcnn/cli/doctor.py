"""`raymrcnn doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raymrcnn.cli.options import Json
from raymrcnn.cli.show import ProgressLine, print_json, print_table

MARKS = {"ok": "ok", "warn": "WARN", "fail": "FAIL"}


def doctor(
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder that must be seen, on every node.")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDR", help="Check every node of a Ray cluster: HOST:PORT or auto."),
    ] = None,
    trial: Annotated[
        bool, typer.Option(help="Put cards to work, in processes of their own.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Check driver, libraries, cards, memory and limits, and say how to mend what is wrong.

    Exits with 1 if anything fails.

    Example: raymrcnn doctor --cluster auto --data /shared/coco
    """
    from raymrcnn.doctor.findings import fail, ok
    from raymrcnn.doctor.host import host_findings
    from raymrcnn.doctor.trial import trial_findings

    progress = ProgressLine(quiet=as_json)
    progress.show("looking; a card may take a minute")
    if cluster is not None:
        from raymrcnn.doctor.on_ray import cluster_findings

        found = cluster_findings(cluster, None if data is None else str(data), trial=trial)
    else:
        found = host_findings(folder=data if data is not None and data.is_dir() else None)
        found += list(trial_findings()) if trial else []
        if data is not None:
            found.append(
                ok("data", f"{data} is here")
                if data.exists()
                else fail("data", f"{data} is not here", "give the folder that has the data")
            )
    progress.close()
    failures = sum(one.status == "fail" for one in found)
    if as_json:
        print_json({"failures": failures, "findings": [one.to_json() for one in found]})
    else:
        for node in dict.fromkeys(one.node for one in found):
            rows = [[o.check, MARKS[o.status], o.what, o.fix] for o in found if o.node == node]
            title = f"node {node}" if node else ("the cluster" if cluster else "")
            print_table([["check", "", "found", "to do"], *rows], title)
        warnings = sum(one.status == "warn" for one in found)
        typer.echo(f"{failures} failures, {warnings} warnings, {len(found)} checks")
    if failures:
        raise typer.Exit(1)
