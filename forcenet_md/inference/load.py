"""From what the user wrote after --model to an evaluator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from forcenet_md.artifact.find import model_path
from forcenet_md.errors import ModelFileError, RequestError
from forcenet_md.inference.frames import PLAIN, Symmetry
from forcenet_md.inference.interface import Capabilities, Evaluator
from forcenet_md.mpi import World, bound_device, one_for_all

if TYPE_CHECKING:
    from forcenet_md.artifact.card import Card
    from forcenet_md.inference.evaluator import ModelEvaluator


def load_evaluator(
    spec: str,
    device: str = "cpu",
    threads: int = 1,
    dtype: str = "float32",
    trust: bool = False,
    sha256: str | None = None,
    max_edges: int | None = None,
    committee: Sequence[str] = (),
    symmetry: Symmetry = PLAIN,
) -> Evaluator:
    """The evaluator of a model file, the name of a shipped model, or `ase:NAME[,key=value…]`.

    committee: further models that answer together with it, see inference/committee.py
    symmetry: frames that forces are averaged over, and in which; see inference/frames.py

    Raises ModelFileError if there is no such model, and what opening a model file raises.
    """
    if committee:
        paths = committee_paths(spec, committee)
        from forcenet_md.inference.committee import CommitteeEvaluator  # imports torch

        members = CommitteeEvaluator(paths, device, threads, dtype, trust, sha256, max_edges)
        return symmetry.applied(members)
    if spec.startswith("ase:"):
        if sha256 is not None or device != "cpu":
            raise RequestError(
                f"{spec} is an ASE calculator: it has no file to check and runs on the cpu alone."
            )
        if not symmetry.plain:
            raise RequestError(
                f"{spec} turns with the structure as it is: leave --frames and --align out."
            )
        from forcenet_md.inference.ase_evaluator import AseEvaluator  # imports scipy

        return AseEvaluator(spec)
    network = load_network(spec, device, threads, dtype, trust, sha256, max_edges)
    return symmetry.applied(network)


def load_network(
    spec: str,
    device: str = "cpu",
    threads: int = 1,
    dtype: str = "float32",
    trust: bool = False,
    sha256: str | None = None,
    max_edges: int | None = None,
) -> ModelEvaluator:
    """The evaluator of one model file. Raises as `load_evaluator` does."""
    path = model_path(spec)
    from forcenet_md.inference.evaluator import ModelEvaluator  # imports torch

    return ModelEvaluator(path, device, threads, dtype, trust, sha256, max_edges)


def load_on_ranks(
    load: Callable[[str], ModelEvaluator], device: str, share_devices: bool, world: World
) -> ModelEvaluator:
    """What load(device) gives on each rank, with the rank's own device. Collective.

    share_devices: see `mpi.bound_device`. Raises the fault of any rank on all of them.
    """
    with one_for_all(world):
        network = load(bound_device(device, world.comm, share_devices))
        check_shareable(network.card)
    return network


def check_shareable(card: Card) -> None:
    """Raises ModelFileError for a model that one rank alone can compute."""
    if not card.staged:
        raise ModelFileError(
            f"model {card.name} has no stages between which ranks could exchange (forces that are"
            " a gradient need ghosts as deep as 2 × cutoff × layers): run it on one rank."
        )


def read_capabilities(spec: str, committee: Sequence[str] = ()) -> Capabilities:
    """What a model or a committee can do, without running anything of a model file.

    Raises ModelFileError.
    """
    if committee:
        paths = committee_paths(spec, committee)
        from forcenet_md.inference.committee import committee_capabilities

        return committee_capabilities(paths, read_cards(spec, committee))
    if spec.startswith("ase:"):
        from forcenet_md.inference.ase_evaluator import AseEvaluator

        return AseEvaluator(spec).capabilities
    return Capabilities.of_card(read_cards(spec)[0])


def read_cards(spec: str, committee: Sequence[str] = ()) -> list[Card]:
    """Of a model and those beside it, without running anything of them; none for an ASE calculator.

    Raises ModelFileError.
    """
    from forcenet_md.artifact.archive import read

    if not committee and spec.startswith("ase:"):
        return []
    return [read(path).card for path in committee_paths(spec, committee)]


def check_files(spec: str, committee: Sequence[str] = ()) -> None:
    """Raises ModelFileError where one is missing or damaged, before anything is loaded."""
    if committee or not spec.startswith("ase:"):
        read_capabilities(spec, committee)


def committee_paths(spec: str, others: Sequence[str]) -> list[Path]:
    """The files of a committee's members. Raises ModelFileError."""
    for member in (spec, *others):
        if member.startswith("ase:"):
            raise ModelFileError(
                f"{member} is an ASE calculator: a committee is made of model files."
            )
    return [model_path(member) for member in (spec, *others)]
