"""Forces from a model file: its stages, and what is held against its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray
from torch import Tensor

from forcenet_md.artifact.card import Card
from forcenet_md.artifact.export import load_model
from forcenet_md.errors import (
    ForceNetError,
    ModelFileError,
    NotFiniteError,
    UnknownElementError,
)
from forcenet_md.graph.neighbours import MAX_EDGES
from forcenet_md.inference.batch import Batch, collate
from forcenet_md.inference.contacts import Contacts
from forcenet_md.inference.crew import Crew, DividedEvaluator
from forcenet_md.inference.graph_evaluator import GraphEvaluator, ModelSession, Part
from forcenet_md.inference.interface import Capabilities, Request
from forcenet_md.inference.rigid import without_rigid_motion
from forcenet_md.mpi import One
from forcenet_md.system import Forces

LARGE = 50_000  # atoms, from which their graph is searched and computed in pieces
DTYPES = {"float32": torch.float32, "float64": torch.float64}


class ModelEvaluator(GraphEvaluator):
    """An `Evaluator` (inference/interface.py) for a model file.

    path: the m.pt file; device: 'cpu' or 'cuda:I'; threads: of torch on the CPU;
    dtype: 'float32' or 'float64'; trust, sha256: see `artifact.export.load_model`;
    max_edges: bound on the neighbour pairs of one structure; MAX_EDGES if None.

    Raises ModelFileError for a file that is not usable or a device that is not there.
    """

    def __init__(
        self,
        path: str | Path,
        device: str = "cpu",
        threads: int = 1,
        dtype: str = "float32",
        trust: bool = False,
        sha256: str | None = None,
        max_edges: int | None = None,
    ) -> None:
        super().__init__()
        # Default threading of torch spins on shared cores and can be 20 times slower.
        torch.set_num_threads(threads)
        self.path = Path(path)
        self.device = checked_device(device)
        self.max_edges = max_edges
        self.dtype = DTYPES[dtype]
        self.model, self.card = load_model(
            path, self.device, self.dtype, trust=trust, sha256=sha256
        )
        warnings = card_warnings(self.card.name, [self.card])
        self.capabilities = Capabilities.of_card(self.card, warnings)
        self.contacts = Contacts(self.card)
        self._divided: DividedEvaluator | None = None
        self._known = np.zeros(120, dtype=bool)
        self._known[sorted(self.card.numbers)] = True

    def new_session(self) -> ModelSession:
        most = self.max_edges or MAX_EDGES
        return ModelSession(self.card.cutoff, self.card.neighbour_cap, most)

    def apart(self, request: Request) -> Forces | ForceNetError | None:
        """Systems of more than LARGE atoms are computed in pieces, which bounds their memory."""
        if request.system.n_atoms <= LARGE or not self.card.staged:
            return None
        assert isinstance(request.session, ModelSession)
        divided = self._divided or DividedEvaluator(Crew(self, One()))
        self._divided = divided
        if request.session.divided is None:
            request.session.divided = divided.new_session()
        (answer,) = divided.evaluate([replace(request, session=request.session.divided)])
        self.timings.graph += divided.timings.graph
        self.timings.network += divided.timings.network
        return answer

    def check_elements(self, numbers: NDArray[np.int64]) -> None:
        known = (numbers > 0) & (numbers < 119)
        known[known] = self._known[numbers[known]]
        if not known.all():
            unknown = sorted(set(numbers[~known].tolist()))
            names = ", ".join(
                chemical_symbols[z] if 0 < z < 119 else f"atomic number {z}" for z in unknown
            )
            raise UnknownElementError(
                f"model {self.card.name} does not know {names}: it was trained on"
                f" {', '.join(self.card.elements)}; take a model of all your elements."
            )

    def _network(self, parts: Sequence[Part]) -> NDArray[np.float64]:
        return self.run_stages(collate(parts, self.device, self.dtype))

    def run_stages(self, batch: Batch, basis: Tensor | None = None) -> NDArray[np.float64]:
        """The stages on one rank: no ghost rows, no exchange. [n_atoms, 3] float64.

        basis: of this model's edges, where it is known already
        """
        model, species = self.model, batch.species
        with torch.inference_mode():
            h = model.embed(species)
            if basis is None:
                basis = model.edge_basis(species, batch.source, batch.target, batch.vector)
            for k in range(self.card.n_layers):
                h = model.interact(
                    k, h, species, batch.source, batch.target, basis, species.shape[0]
                )
            forces = model.readout(h, species)["forces"]
            if self.card.pair_floor:
                forces = forces + model.pair_forces(
                    species, batch.source, batch.target, batch.vector, species.shape[0]
                )
            return forces.to(device="cpu", dtype=torch.float64).numpy()

    def finish(self, request: Request, rows: NDArray[np.float64]) -> Forces | ForceNetError:
        try:
            check_finite(rows, "the model")
        except NotFiniteError as e:
            return e
        return without_rigid_motion(rows, request.system, self.card, request.keep_net_force)


def card_warnings(name: str, cards: Sequence[Card]) -> tuple[str, ...]:
    """What is to be said of a model, or of all members of a committee, before it is used."""
    warnings = [
        f"model {card.name} keeps only the {card.neighbour_cap} nearest neighbours: forces jump"
        " when one enters or leaves, so long MD with it drifts"
        for card in cards
        if card.neighbour_cap is not None
    ]
    if not all(card.conservative for card in cards):
        warnings.append(
            f"forces of {name} are not a gradient: in dynamics use a local thermostat (Langevin)"
            " with a time constant of 0.1 ps or less, not NVE, nor one of all atoms together"
            " (Nosé-Hoover, as LAMMPS's fix nvt and ASE's and i-PI's chains, or CSVR)"
        )
    return tuple(dict.fromkeys(warnings))


def check_finite(forces: NDArray[np.float64], who: str) -> None:
    """Raises NotFiniteError, naming an atom of forces [n_atoms, 3] that is not finite."""
    bad = np.flatnonzero(~np.isfinite(forces).all(axis=1))
    if len(bad):
        raise NotFiniteError(
            f"{who} gives a force that is not finite on atom {bad[0] + 1} ({len(bad)} such"
            " atoms): the structure is far from anything it was trained on; use a smaller"
            " timestep or a relaxed starting structure."
        )


def checked_device(device: str) -> torch.device:
    """Raise ModelFileError when the device is unknown or not there."""
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ModelFileError(f"device {device!r} is unknown: use cpu or cuda:0.") from None
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        n = torch.cuda.device_count()
        raise ModelFileError(
            f"device {device} is not there: torch {torch.__version__} sees {n} CUDA devices; use"
            " --device cpu or install a CUDA build of torch."
        )
    if found.type not in ("cpu", "cuda"):
        raise ModelFileError(f"device {device!r} is not supported: use cpu or cuda:0.")
    return found
