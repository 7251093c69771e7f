"""forcenet-md evaluate: how good a model's forces are on labelled frames."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from forcenet_md.cli import options
from forcenet_md.cli.loading import atoms_at_once, load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.progress import Progress

    from forcenet_md.artifact.card import Card

OPTIONS = {
    "forces": "report split_by free_only rotations rotation_frames axis worst into_card",
    "is2rs": "teacher relaxed names optimizer fmax steps maxstep",
}
OPTION_OF = {name: task for task, names in OPTIONS.items() for name in names.split()}


def evaluate(
    context: typer.Context,
    data: Annotated[list[Path], typer.Argument(help="Labelled structures.", show_default=False)],
    model: options.Model,
    task: Annotated[
        Literal["forces", "is2rs"],
        typer.Option(
            help="is2rs: relax from the first frame of each trajectory, and judge by the last."
        ),
    ] = "forces",
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the figures as JSON to a file.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Folder for a page with plots (report.html).")
    ] = None,
    split_by: Annotated[
        list[str] | None,
        typer.Option(help="A column of the data: errors by its values too; may be repeated."),
    ] = None,
    free_only: Annotated[
        bool,
        typer.Option(
            "--free-only",
            help="No held atoms in errors by element and column, worst frames and plots.",
        ),
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many frames or systems, evenly spread.")
    ] = None,
    rotations: Annotated[
        int,
        typer.Option(min=0, help="Turns of a structure for the rotation instability; 0: none."),
    ] = 4,
    rotation_frames: Annotated[
        int, typer.Option(min=1, help="Frames that are turned, at most.")
    ] = 50,
    axis: Annotated[
        Literal["z", "so3"], typer.Option(help="Turned about z, or about any axis.")
    ] = "z",
    worst: Annotated[int, typer.Option(min=0, help="Frames with the largest errors to name.")] = 10,
    into_card: Annotated[
        bool,
        typer.Option(
            "--into-card",
            help="Put the figures into the model file's card, in place of those in it.",
        ),
    ] = False,
    teacher: Annotated[
        str | None,
        typer.Option(help="is2rs: computes the forces of AFbT; as of `label`.", show_default=False),
    ] = None,
    relaxed: Annotated[
        Path | None,
        typer.Option(help="is2rs: write what was reached, extended XYZ.", show_default=False),
    ] = None,
    names: Annotated[
        str, typer.Option(help="is2rs: the column that tells trajectories apart.")
    ] = "sid",
    optimizer: Annotated[Literal["fire", "lbfgs"], typer.Option(help="is2rs.")] = "lbfgs",
    fmax: Annotated[float, typer.Option(min=0.0, help="is2rs: eV/Å.")] = 0.01,
    steps: Annotated[int, typer.Option(min=0, help="is2rs: at most.")] = 200,
    maxstep: Annotated[float, typer.Option(min=1e-6, max=1.0, help="is2rs: Å.")] = 0.04,
    committee: options.Committee = None,
    device: options.Device = "cpu",
    threads: options.Threads = 1,
    dtype: options.Dtype = "float32",
    batch_atoms: options.BatchAtoms = None,
    trust: options.Trust = False,
    frames: options.Frames = 1,
    align: options.Align = False,
) -> None:
    """Evaluate a model's forces, as they are served, against labelled frames; or its relaxations.

    Ctrl-C ends with the figures of the frames evaluated until then. Relaxations with --out go on
    with the same command.
    """
    _check_task(context, task)
    from rich.console import Console

    from forcenet_md.artifact.find import model_path
    from forcenet_md.artifact.update import update_card
    from forcenet_md.data.frames import check_output, write_frames
    from forcenet_md.evaluation.cases import open_cases
    from forcenet_md.evaluation.report import write_report
    from forcenet_md.evaluation.result import for_card
    from forcenet_md.evaluation.run import evaluate as run
    from forcenet_md.evaluation.table import print_result
    from forcenet_md.evaluation.totals import Settings
    from forcenet_md.inference.frames import Symmetry
    from forcenet_md.inference.load import read_cards
    from forcenet_md.training.stop import on_interrupt

    console = Console(stderr=True)
    others = list(committee or ())
    cards = read_cards(model, others)
    card = cards[0] if len(cards) == 1 else None  # a committee has none
    if rotations == 1:
        raise typer.BadParameter(
            "a spread needs two turns or more; 0 for none", param_hint="--rotations"
        )
    if into_card:
        _check_card(" ".join([model, *others]), card)
    for path in (out, relaxed, report and report / "report.html"):
        if path:
            check_output(path)
    symmetry = Symmetry(frames, align)
    if into_card and not symmetry.plain:
        raise typer.BadParameter(
            "a card has the errors of the model alone: leave --frames and --align out",
            param_hint="--into-card",
        )
    evaluator, described = load(model, others, device, threads, dtype, trust, frames, align)
    known = evaluator.capabilities
    batch_atoms = atoms_at_once(batch_atoms, device)
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        interrupted = True
        console.print("ending with what is evaluated")

    if task == "is2rs":
        from forcenet_md.evaluation.is2rs import PROTOCOL, Task, evaluate_is2rs, sentences
        from forcenet_md.writing import part_of

        protocol = replace(PROTOCOL, optimizer=optimizer, fmax=fmax, steps=steps, maxstep=maxstep)
        part = part_of(out) if out else None
        asked = Task(data, names, limit, protocol, batch_atoms, teacher, part)
        with _progress(console) as bar, on_interrupt(interrupt):
            found, reached = evaluate_is2rs(
                evaluator, described, asked, bar.doing, lambda: interrupted
            )
        for sentence in sentences(found):
            (console if as_json else Console()).print(sentence, markup=False, soft_wrap=True)
        _write_json(found.model_dump_json(indent=2), as_json, out, console)
        if relaxed:
            write_frames(relaxed, reached)
            console.print(f"wrote {relaxed}", markup=False, soft_wrap=True)
        if not found.complete:
            if part:
                console.print("the same command goes on")
            raise typer.Exit(130)
        if part:
            part.unlink()
        return
    settings = Settings(
        remove_net_force=bool(cards) and all(each.net_force_removed for each in cards),
        limit=limit,
        split_by=tuple(dict.fromkeys(split_by or ())),
        free_only=free_only,
        rotations=rotations,
        rotation_frames=rotation_frames,
        axis=axis,
        n_worst=worst,
        batch_atoms=batch_atoms,
    )
    with _progress(console) as bar, open_cases(data, bar.reading) as cases, on_interrupt(interrupt):
        for remark in cases.remarks:
            console.print(f"note: {remark}", markup=False, soft_wrap=True)
        outcome = run(evaluator, cases, described, settings, bar.evaluating, lambda: interrupted)
    result = outcome.result
    print_result(result, console if as_json else Console())
    _write_json(result.model_dump_json(indent=2), as_json, out, console)
    if report:
        page = write_report(report, outcome, card)
        console.print(f"wrote {page}", markup=False, soft_wrap=True)
    if not result.complete:
        raise typer.Exit(130)
    if into_card:
        path = model_path(model)
        update_card(path, {"test_errors": for_card(result)}, sha256=known.sha256)
        console.print(
            f"put the figures into the card of {path}; its sha256 ({known.sha256}) is over the"
            " rest of the file and stays",
            markup=False,
            soft_wrap=True,
        )


def _check_task(context: typer.Context, task: str) -> None:
    """An option of the other task is refused, as it would do nothing."""
    for name, owner in OPTION_OF.items():
        source = context.get_parameter_source(name)
        if owner != task and source is not None and source.name == "COMMANDLINE":
            option = "--" + name.replace("_", "-")
            raise typer.BadParameter(f"is of --task {owner} alone", param_hint=option)


def _write_json(text: str, as_json: bool, out: Path | None, console: Console) -> None:
    from forcenet_md.writing import write_text

    if as_json:
        print(text)
    if out:
        write_text(out, text + "\n")
        console.print(f"wrote {out}", markup=False, soft_wrap=True)


def _check_card(model: str, card: Card | None) -> None:
    from forcenet_md.artifact.find import SHIPPED, model_path
    from forcenet_md.artifact.update import check_writable
    from forcenet_md.errors import ModelFileError

    if card is None:
        raise ModelFileError(f"{model} has no card of its own: leave --into-card away.")
    path = model_path(model)
    if path.resolve().parent == SHIPPED.resolve():
        raise ModelFileError(
            f"{model} is a shipped model and keeps its card: copy {path} and give the copy."
        )
    check_writable(path)


class _Bar:
    """Where an evaluation is, shown in a terminal."""

    def __init__(self, bar: Progress | None) -> None:
        self._bar = bar
        self._task = bar.add_task("reading", total=None) if bar else None

    def reading(self, _name: str, frames: int, *_sources: int) -> None:
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=frames)

    def evaluating(self, done: int, total: int) -> None:
        self.doing("evaluating" if done < total else "last figures", done, total)

    def doing(self, what: str, done: int, total: int) -> None:
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, description=what)


@contextmanager
def _progress(console: Console) -> Iterator[_Bar]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    if not console.is_terminal:
        yield _Bar(None)
        return
    parts = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*parts, TimeRemainingColumn(), console=console) as bar:
        yield _Bar(bar)
