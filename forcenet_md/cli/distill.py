"""forcenet-md distill: a model of one material from a slow potential."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forcenet_md.cli.label import TEACHER_HELP


def distill(
    structure: Annotated[
        Path, typer.Argument(help="A structure file that ASE reads.", show_default=False)
    ],
    teacher: Annotated[str, typer.Option("--teacher", "-t", help=TEACHER_HELP, show_default=False)],
    temperature: Annotated[
        str, typer.Option(help="Range the model is for, in K, as 300-1200.", show_default=False)
    ],
    budget: Annotated[
        str, typer.Option(help="Time it may take, as 2h or 90min.", show_default=False)
    ],
    override: Annotated[
        list[str] | None,
        typer.Argument(help="Settings of the trainings, as model.hidden=64.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder; STRUCTURE-TEACHER if not given."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with one thread.")] = 1,
    members: Annotated[
        int,
        typer.Option(min=1, help="Networks of the committee; with 1 nobody doubts."),
    ] = 2,
    config: Annotated[
        str, typer.Option(help="Of the trainings: tiny, small or a YAML file.")
    ] = "small",
    floor: Annotated[
        bool, typer.Option("--floor", help="Keep a repulsive pair force under the network.")
    ] = False,
    atoms: Annotated[
        int, typer.Option(min=1, help="Small cells are repeated to at most so many atoms.")
    ] = 128,
    timestep: Annotated[
        float | None,
        typer.Option(
            min=0.05,
            help="fs; if not given 0.5 with hydrogen, 1 with elements up to neon, else 2.",
            show_default=False,
        ),
    ] = None,
    elements: Annotated[
        str | None,
        typer.Option(
            help="Elements of the atom types of a LAMMPS teacher in order, as Ag,Au,Cu; those of"
            " the structure, in alphabetical order, if not given.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            help="Seconds a label may take at most; if not given 100 times what one takes, and no"
            " less than 600.",
            show_default=False,
        ),
    ] = None,
    error: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Test error, of the mean force, that is wanted: rounds go on until there or until"
            " the budget is used.",
        ),
    ] = 0.05,
) -> None:
    """Learn one material from a slow potential: the teacher explores, networks are trained and
    corrected where their own dynamics goes.

    The same command goes on after a stop; with a larger --budget also after its end.
    """
    from forcenet_md.data.compiling import sha256
    from forcenet_md.distill.explore import read_start
    from forcenet_md.distill.run import distill as run
    from forcenet_md.distill.settings import (
        Settings,
        check_overrides,
        parse_budget,
        parse_temperatures,
    )
    from forcenet_md.engines.prepared import timestep as usual_timestep
    from forcenet_md.training.config_file import load_config
    from forcenet_md.writing import plain_name

    low, high = parse_temperatures(temperature)
    seconds = parse_budget(budget)
    start = read_start(structure)
    symbols = sorted(set(start.get_chemical_symbols()))
    for warning in check_overrides(override or []):
        _say(f"warning: {warning}")
    # A key that is wrong is said now, not after the teacher has explored for hours.
    load_config(config, ["data.train=none.extxyz", "training.seconds=1", *(override or [])])
    settings = Settings(
        structure=structure,
        structure_sha256=sha256(structure),
        teacher=teacher,
        elements=tuple(elements.split(",")) if elements else tuple(symbols),
        low=low,
        high=high,
        budget=seconds,
        error=error,
        members=members,
        workers=workers,
        atoms=atoms,
        timestep=timestep or 1000.0 * usual_timestep(start),
        base=config,
        overrides=tuple(override or ()),
        floor=floor,
        seed=seed,
        timeout=timeout,
    )
    called = plain_name(Path(teacher.removeprefix("ase:").partition(",")[0]).stem, "teacher")
    folder = out or Path(f"{structure.stem}-{called}")
    try:
        result = run(settings, folder, _say)
    except (KeyboardInterrupt, SystemExit):
        _say("stopped: the same command goes on")
        raise
    _say(result.verdict)
    committee = " ".join(str(path) for path in result.others)
    _say(f"wrote {result.model}" + (f"; its committee: {committee}" if committee else ""))
    _say(f"wrote {result.report}")


def _say(sentence: str) -> None:
    typer.echo(sentence, err=True)
