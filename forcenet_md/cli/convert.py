"""`forcenet-md convert CHECKPOINT m.pt`: import an Open Catalyst trainer checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of the Open Catalyst trainer.")],
    out: Annotated[Path, typer.Argument(help="Model file to write.")],
    elements: Annotated[
        str | None,
        typer.Option(help="Elements it was trained on, e.g. 'Cu,Pt,O' (default: all with data)."),
    ] = None,
    data: Annotated[str, typer.Option(help="What it was trained on.")] = "not stated",
    licence: Annotated[str, typer.Option(help="Licence of the data or weights.")] = "not stated",
    citation: Annotated[str, typer.Option(help="Citation of the data or weights.")] = "not stated",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Write a model file that gives the checkpoint's forces. The checkpoint's code is not run."""
    import re

    from ase.data import atomic_numbers

    from forcenet_md.artifact.export import export_model
    from forcenet_md.artifact.opencatalyst import read_checkpoint
    from forcenet_md.errors import ModelFileError, UnknownElementError
    from forcenet_md.models.elements import known_numbers

    if out.exists() and checkpoint.exists() and out.samefile(checkpoint):
        raise ModelFileError(f"{out} is the checkpoint itself: give another path for the model.")
    if out.exists() and not overwrite:
        raise ModelFileError(f"{out} exists already: give another path, or --overwrite.")
    model = read_checkpoint(checkpoint)
    numbers = list(known_numbers())
    if elements is not None:
        names = elements.replace(",", " ").split()
        unknown = [e for e in names if e not in atomic_numbers]
        if unknown or not names:
            raise UnknownElementError(
                f"{', '.join(unknown) or repr(elements)} is no element: write symbols like Cu."
            )
        numbers = [atomic_numbers[e] for e in names]
    card = export_model(
        model,
        out,
        name=re.sub(r"[^A-Za-z0-9._-]", "_", out.stem),
        numbers=numbers,
        augmentation="none",
        training_data={"description": data, "licence": licence, "citation": citation},
        test_errors={},
        notes="Imported from an Open Catalyst trainer checkpoint.",
    )
    print(f"wrote {out}: {card.n_layers} layers, {len(card.elements)} elements")
    if card.neighbour_cap is not None:
        print(
            f"note: it keeps the {card.neighbour_cap} nearest neighbours, so its forces jump when"
            " one enters or leaves: good for relaxations, poor for long MD."
        )
