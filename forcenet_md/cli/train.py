"""forcenet-md train: fit a ForceNet to labelled frames and write its model file."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from forcenet_md.cli.stopping import said_if_stopped

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from forcenet_md.training.loop import Progress, Trainer


def train(
    config: Annotated[
        str,
        typer.Argument(
            help="The YAML file of the run, or tiny, small, forcenet, forcenet-large.",
            show_default=False,
        ),
    ],
    override: Annotated[
        list[str] | None,
        typer.Argument(help="key=value in its place, as training.steps=100.", show_default=False),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in the run's folder.")
    ] = False,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Start from the weights of a model file, a shipped model or a checkpoint.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Train a ForceNet; Ctrl-C leaves a checkpoint to go on from with --resume."""
    with said_if_stopped(before="the first step"):
        from rich.console import Console

        from forcenet_md.locking import locked
        from forcenet_md.training.config_file import load_config
        from forcenet_md.training.finish import check_outputs
        from forcenet_md.training.loop import Trainer

        initial = [f"training.initial={json.dumps(start)}"] if start is not None else []
        overrides = [*(override or []), *initial]
        settings = load_config(config, overrides)
        check_outputs(settings, resume)
        console = Console(stderr=True)

        def tell(note: str) -> None:
            console.print(f"note: {note}", soft_wrap=True)

        trainer = Trainer(settings, tell)
    # With several devices each process comes here; the first one speaks.
    first = trainer.fabric.is_global_zero
    console.quiet = not first
    # Of two trainings in a folder each would go on from, and export, the weights of the other.
    with locked(settings.folder, "training", option="folder=…") if first else nullcontext():
        _train(trainer, console, resume)


def _train(trainer: Trainer, console: Console, resume: bool) -> None:
    from forcenet_md.errors import DataError
    from forcenet_md.training.finish import export
    from forcenet_md.training.stop import on_interrupt

    first = trainer.fabric.is_global_zero
    if resume:
        trainer.resume()
        if trainer.done:
            console.print(f"{_used(trainer)}: the model is exported as it is", soft_wrap=True)
    elif trainer.checkpoint.is_file():
        raise DataError(
            f"{trainer.checkpoint} is there from an earlier run: go on from it with --resume, or"
            " give another folder=…"
        )
    for note in trainer.data.notes:
        console.print(note, soft_wrap=True)
    console.print(
        f"{len(trainer.data.train)} training and {len(trainer.data.validation)} validation"
        f" frames, {sum(p.numel() for p in trainer.model.parameters())} parameters"
    )

    def stop() -> None:
        trainer.stop = True

    with on_interrupt(stop):
        done = _run(trainer, console)
    if not done:
        console.print(
            f"stopped after {trainer.step} steps; go on with --resume from {trainer.checkpoint}"
        )
        raise typer.Exit(130 if first else 0)
    if trainer.stopped_early:
        console.print(f"no better validation in {trainer.since_best}: stopped early")
    if first:
        try:
            card = export(trainer)
        except BaseException:
            console.print(
                f"the training is whole, but {trainer.config.output} is not written: the same"
                " command with --resume exports it",
                soft_wrap=True,
            )
            raise
        errors = card.test_errors
        if "relative" in errors:
            console.print(
                f"{errors['held_out']} error {errors['force_mae']:.4f} eV/Å,"
                f" {100 * errors['relative']:.2f} % of mean |F|"
            )
        console.print(f"wrote {trainer.config.output}")


def _used(trainer: Trainer) -> str:
    budget = trainer.config.training
    if trainer.stopped_early:
        return "the run had stopped early"
    if budget.steps is not None:
        return f"the budget is already used up ({trainer.step} of {budget.steps} steps)"
    if budget.epochs is not None:
        return f"the budget is already used up ({budget.epochs:g} epochs)"
    return f"the budget is already used up ({trainer.seconds:.0f} of {budget.seconds:.0f} seconds)"


def _run(trainer: Trainer, console: Console) -> bool:
    """Train under a progress bar in a terminal, with a line per validation elsewhere."""
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    if console.quiet or not console.is_terminal:
        return trainer.run(_reporter(lambda text: console.print(text, soft_wrap=True)))
    columns = (
        TextColumn("step {task.fields[step]}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.4f} eV/Å"),
    )
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("train", total=1.0, step=trainer.step, loss=float("nan"))
        smooth = float("nan")

        def show(progress: Progress) -> None:
            nonlocal smooth
            known = smooth == smooth
            smooth = 0.99 * smooth + 0.01 * progress.loss if known else progress.loss
            bar.update(task, completed=progress.fraction, step=progress.step, loss=smooth)
            report(progress)

        report = _reporter(bar.console.print)
        return trainer.run(show)


def _reporter(write: Callable[[str], None]) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.validation is not None:
            error = progress.validation
            write(
                f"step {progress.step} ({100 * progress.fraction:.0f} %,"
                f" {_duration(progress.seconds)}, {_duration(progress.remaining)} to go):"
                f" validation {error.mae:.4f} eV/Å, {100 * error.relative:.2f} %"
            )

    return report


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
