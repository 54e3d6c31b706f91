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
        help="A Ray cluster: HOST:PORT to join it, or auto for the one on this host; "
        "http://HEAD:8265 to run there as a job that is followed here. "
        "Default: start Ray on this machine, or join RAY_ADDRESS where it is set.",
    ),
]
Detach = Annotated[
    bool, typer.Option("--detach", help="With --cluster http://...: print the job's id, and end.")
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
AllowPartial = Annotated[
    bool,
    typer.Option(
        "--allow-partial",
        help="Take weights that have tensors beside those of the network; in training also such "
        "as lack some, which start anew.",
    ),
]
