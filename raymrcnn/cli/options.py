"""Options that several commands share, word for word the same."""

from __future__ import annotations

from typing import Annotated

import typer

Device = Annotated[
    str, typer.Option(help="auto (mlu, then cuda, then cpu, whichever is present), cpu, cuda, mlu.")
]
Workers = Annotated[
    int,
    typer.Option(min=0, help="Processes, one a card; 0: every card, and 1 on a CPU."),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="ADDR",
        help="Join a Ray cluster: HOST:PORT, or auto for the one on this host. "
        "Default: start Ray on this machine, or join RAY_ADDRESS where it is set.",
    ),
]
CardModel = Annotated[
    str | None,
    typer.Option(
        "--accelerator",
        metavar="MODEL",
        help="Only cards of this model, as MLU370-X8: of a cluster whose nodes are labelled.",
    ),
]
Force = Annotated[bool, typer.Option(help="Try a batch that the cards are known not to take.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document for machines.")]
