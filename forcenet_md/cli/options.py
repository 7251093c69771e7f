"""Options that several verbs have, defined once: which model is loaded, and how."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from forcenet_md.watching.watching import Watching

COMMITTEE = "--committee"
AGAINST = "--against"
MODEL_HELP = "A model file, the name of a shipped model, or ase:NAME[,key=value…] (emt, lj)."

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
Device = Annotated[
    str,
    typer.Option(help="cpu, cuda:I, or cuda: under mpirun a GPU for each rank of a machine."),
]
ShareDevices = Annotated[
    bool, typer.Option("--share-devices", help="Under mpirun: ranks may share a GPU.")
]
Ghosts = Annotated[
    Literal["exchanged", "deep"],
    typer.Option(
        help="Under mpirun: ranks exchange node rows between layers, or compute ghosts as deep"
        " as the layers reach."
    ),
]
Wire = Annotated[
    Literal["own", "float32", "bfloat16"],
    typer.Option(
        help="Under mpirun: the precision in which node rows travel; bfloat16 halves the bytes and"
        " changes forces in the fourth digit."
    ),
]
Threads = Annotated[int, typer.Option(min=1, help="Threads of the network on the cpu.")]
Dtype = Annotated[Literal["float32", "float64"], typer.Option(help="Precision of the network.")]
MaxEdges = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Most neighbour pairs of one structure: 50 million, and of more than 50,000 atoms"
        " 1000 each, unless given.",
        show_default=False,
    ),
]
Sha256 = Annotated[
    str | None, typer.Option(help="Take only a model file with this hash.", show_default=False)
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Run a model file whose program is not on the allow-list.")
]
Frames = Annotated[
    int,
    typer.Option(
        min=1,
        max=120,
        help="Average the forces over so many turned copies of the structure, each as dear as one:"
        " 2 is the inversion; 4, 8, 24 and 120 are groups of rotations with it.",
    ),
]
Align = Annotated[
    bool,
    typer.Option(
        "--align",
        help="Turn every structure to one frame, that of its cell, so that a cell that an engine"
        " has turned gets exactly the turned forces.",
    ),
]
BatchAtoms = Annotated[
    int | None,
    typer.Option(min=1, help="Atoms at once: 1000 on a cpu, 20000 on a GPU if not given."),
]
LogFile = Annotated[
    Path | None, typer.Option(help="Append the log to this file too.", show_default=False)
]

Guard = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=WARN,STOP",
        help="When a run is warned of, and when it is stopped: force (eV/Å), distance (of the"
        " closest pair, over the shortest in training), spread (of a committee, eV/Å), net (force"
        " per atom that is taken out, eV/Å), torque (its forces on isolated molecules, per atom,"
        " that are taken out, eV/Å). Either may be 'never'; NAME=off. Or warn: nothing is"
        " stopped; off: there are none.",
        show_default=False,
    ),
]
GuardFrames = Annotated[
    Path,
    typer.Option(help="Frames that guards warn of are appended to this extxyz file."),
]
GUARD_FRAMES = Path("guard-frames.extxyz")
Record = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.h5",
        help="Record the run: positions, forces, velocities where the engine says them, energies"
        " and what the guards saw (H5MD); a run that goes on is appended.",
        show_default=False,
    ),
]
RecordEvery = Annotated[int, typer.Option(min=1, help="Steps from one recorded frame to the next.")]
RecordPrecision = Annotated[
    Literal["full", "rounded"],
    typer.Option(
        help="full: float64, 65 bytes an atom and frame; rounded: positions to 1e-4 Å, velocities"
        " and forces to four digits, 22 bytes."
    ),
]

Timestep = Annotated[
    float | None,
    typer.Option(
        help="ps of one step, for files that tell no time (LAMMPS dumps, i-PI, records of ASE"
        " and of `serve --ipi`); of one frame where steps are not counted either."
    ),
]
Begins = Annotated[float | None, typer.Option("--from", help="ps: what is before is left out.")]
RMax = Annotated[float, typer.Option(help="Å, of g(r).")]
Fit = Annotated[
    str | None,
    typer.Option(
        metavar="PS:PS",
        help="Lags that diffusion is fitted between; if not given, a 32nd and a 16th of all,"
        " but from 1 ps on.",
    ),
]
Reach = Annotated[float, typer.Option(help="ps: longest lag of the velocity autocorrelation.")]


def watching(
    guard: list[str] | None,
    guard_frames: Path,
    record: Path | None,
    record_every: int,
    record_precision: Literal["full", "rounded"],
) -> Watching:
    """Raises RequestError for a guard that is not understood."""
    from forcenet_md.recording.options import RecordOptions
    from forcenet_md.watching.guards import GuardOptions
    from forcenet_md.watching.watching import Watching

    return Watching(
        guards=GuardOptions(tuple(guard or ()), guard_frames),
        record=RecordOptions(record, record_every, record_precision),
    )


def window(text: str | None) -> tuple[float, float] | None:
    """Of --fit, as '2:10'."""
    if text is None:
        return None
    try:
        low, high = (float(word) for word in text.split(":"))
    except ValueError:
        raise typer.BadParameter("two lags in ps, as 2:10", param_hint="--fit") from None
    return low, high


def one_by_one(words: list[str]) -> list[str]:
    """`--committee b.pt c.pt` as `--committee b.pt --committee c.pt`: up to the next option."""
    spread: list[str] = []
    several = None
    for k, word in enumerate(words):
        if word.startswith("-"):
            several = word if word in (COMMITTEE, AGAINST) else None
        elif several and words[k - 1] != several:
            spread.append(several)
        spread.append(word)
    return spread
