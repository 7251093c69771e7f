"""Options that several verbs have, defined once: which model is loaded, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

COMMITTEE = "--committee"
MODEL_HELP = "A model file, the name of a shipped model, or ase:NAME[,key=value…] (emt, lj)."
MAX_EDGES = 50_000_000

Model = Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP, show_default=False)]
Committee = Annotated[
    list[str] | None,
    typer.Option(
        COMMITTEE,
        metavar="MODEL…",
        help="Further models that answer together with --model: the forces are the mean, and how"
        " far they are apart is told.",
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(help="cpu or cuda:I.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of the network on the cpu.")]
Dtype = Annotated[Literal["float32", "float64"], typer.Option(help="Precision of the network.")]
MaxEdges = Annotated[int, typer.Option(min=1, help="Most neighbour pairs of one structure.")]
Sha256 = Annotated[
    str | None, typer.Option(help="Take only a model file with this hash.", show_default=False)
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Run a model file whose program is not on the allow-list.")
]
LogFile = Annotated[
    Path | None, typer.Option(help="Append the log to this file too.", show_default=False)
]


def one_by_one(words: list[str]) -> list[str]:
    """`--committee b.pt c.pt` as `--committee b.pt --committee c.pt`: up to the next option."""
    spread: list[str] = []
    several = False
    for k, word in enumerate(words):
        if word.startswith("-"):
            several = word == COMMITTEE
        elif several and words[k - 1] != COMMITTEE:
            spread.append(COMMITTEE)
        spread.append(word)
    return spread
