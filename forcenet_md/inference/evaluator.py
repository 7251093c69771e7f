"""Forces from a model file: neighbour lists, batching, stages, guards."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from ase.data import chemical_symbols

from forcenet_md.artifact.export import load_model
from forcenet_md.errors import (
    EvaluationError,
    ForceNetError,
    ModelFileError,
    UnknownElementError,
)
from forcenet_md.graph.edges import Edges
from forcenet_md.graph.neighbours import MAX_EDGES, NeighbourList
from forcenet_md.inference.batch import Batch, collate
from forcenet_md.inference.interface import Capabilities, Request, Timings
from forcenet_md.system import Forces, System

DTYPES = {"float32": torch.float32, "float64": torch.float64}
# Edges that run together; a larger batch is split between structures. The basis of an edge is
# kept for the step (about 300 bytes in float32), so this bounds the memory of a batch.
MAX_BATCH_EDGES = 20_000_000


class ModelSession:
    """One simulation's neighbour list."""

    def __init__(self, cutoff: float, cap: int | None, max_edges: int) -> None:
        self.neighbours = NeighbourList(cutoff, cap=cap, max_edges=max_edges)


class ModelEvaluator:
    """An `Evaluator` (inference/interface.py) for a model file.

    path: the m.pt file; device: 'cpu' or 'cuda:I'; threads: of torch on the CPU;
    dtype: 'float32' or 'float64'; trust, sha256: see `artifact.export.load_model`;
    max_edges: bound on the neighbour pairs of one structure.

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
        # Default threading of torch spins on shared cores and can be 20 times slower.
        torch.set_num_threads(threads)
        self.device = checked_device(device)
        self.max_edges = max_edges or MAX_EDGES
        self.dtype = DTYPES[dtype]
        self.model, self.card = load_model(
            path, self.device, self.dtype, trust=trust, sha256=sha256
        )
        self.timings = Timings()
        warnings = []
        if self.card.neighbour_cap is not None:
            warnings.append(
                f"model {self.card.name} keeps only the {self.card.neighbour_cap} nearest"
                " neighbours: forces jump when one enters or leaves, so long MD with it drifts"
            )
        if not self.card.conservative:
            warnings.append(
                f"forces of {self.card.name} are not a gradient: in dynamics use a thermostat with"
                " a time constant of 0.1 ps or less, not NVE"
            )
        self.capabilities = Capabilities(
            name=self.card.name,
            numbers=self.card.numbers,
            cutoff=self.card.cutoff,
            energy=self.card.energy,
            stress=self.card.stress,
            conservative=self.card.conservative,
            sha256=self.card.sha256,
            warnings=tuple(warnings),
        )
        self._known = np.zeros(120, dtype=bool)
        self._known[sorted(self.card.numbers)] = True

    def new_session(self) -> ModelSession:
        return ModelSession(self.card.cutoff, self.card.neighbour_cap, self.max_edges)

    def warm_up(self) -> None:
        """Run two small systems a few times: TorchScript specialises on its first calls.

        Raises EvaluationError when the model cannot run or gives no finite forces.
        """
        numbers = np.array(sorted(self.card.numbers))
        rng = np.random.default_rng(0)
        for n in (8, 9, 8):
            cell = np.eye(3) * 3.0 * n ** (1 / 3)
            grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3)[:n]
            x = (grid / 3 + 0.01 * rng.normal(size=(n, 3))) @ cell
            system = System.make(x, np.resize(numbers, n), cell, True)
            answer = self.evaluate([Request(self.new_session(), system)])[0]
            if isinstance(answer, ForceNetError):
                raise EvaluationError(f"the model fails on a small test system: {answer}")

    def evaluate(self, requests: Sequence[Request]) -> list[Forces | ForceNetError]:
        """One answer per request, in order; see `inference/interface.py`."""
        self.timings = Timings()
        answers: list[Forces | ForceNetError | None] = [None] * len(requests)
        ready: list[tuple[int, Edges]] = []
        for i, request in enumerate(requests):
            try:
                ready.append((i, self._edges(request)))
            except ForceNetError as e:
                answers[i] = e
            except MemoryError:
                answers[i] = EvaluationError(
                    "there is not enough memory for the neighbour list: use fewer atoms."
                )
        start = time.perf_counter()
        for group in _groups(ready):
            for (i, _), answer in zip(group, self._run(requests, group), strict=True):
                answers[i] = answer
        self.timings.network = time.perf_counter() - start
        return [a for a in answers if a is not None]

    def _edges(self, request: Request) -> Edges:
        start = time.perf_counter()
        system = request.system
        assert isinstance(request.session, ModelSession)
        if not system.n_atoms:
            raise EvaluationError("there are no atoms to compute forces for.")
        known = (system.numbers > 0) & (system.numbers < 119)
        known[known] = self._known[system.numbers[known]]
        if not known.all():
            unknown = sorted(set(system.numbers[~known].tolist()))
            names = ", ".join(
                chemical_symbols[z] if 0 < z < 119 else f"atomic number {z}" for z in unknown
            )
            raise UnknownElementError(
                f"model {self.card.name} does not know {names}: it was trained on"
                f" {', '.join(self.card.elements)}."
            )
        edges = request.session.neighbours.update(system)
        self.timings.graph += time.perf_counter() - start
        return edges

    def _run(
        self, requests: Sequence[Request], group: Sequence[tuple[int, Edges]]
    ) -> list[Forces | ForceNetError]:
        """A batch that fails is evaluated again one by one, so that only its cause is told."""
        try:
            batch = collate(
                [(requests[i].system.numbers, edges) for i, edges in group],
                self.device,
                self.dtype,
            )
            forces = self._network(batch)
        except (RuntimeError, MemoryError) as e:
            # torch tells out-of-memory (and all else) by RuntimeError.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            if len(group) > 1:
                return [self._run(requests, [item])[0] for item in group]
            return [_failure(e, requests[group[0][0]].system.n_atoms)]
        return [
            self._finish(requests[i], part)
            for (i, _), part in zip(group, batch.split(forces), strict=True)
        ]

    def _network(self, batch: Batch) -> np.ndarray:
        """The stages on one rank: no ghost rows, no exchange. [n_atoms, 3] float64."""
        model, species = self.model, batch.species
        with torch.inference_mode():
            h = model.embed(species)
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

    def _finish(self, request: Request, forces: np.ndarray) -> Forces | ForceNetError:
        bad = np.flatnonzero(~np.isfinite(forces).all(axis=1))
        if len(bad):
            return EvaluationError(
                f"the model gives a force that is not finite on atom {bad[0] + 1} ({len(bad)} such"
                " atoms): the structure is far from anything it was trained on; use a smaller"
                " timestep or a relaxed starting structure."
            )
        net = forces.sum(axis=0)
        if not self.card.conservative and (
            # A model trained without it has an arbitrary net force, which would push loose atoms
            # over held ones; true forces between atoms sum to zero whether or not some are held.
            self.card.net_force_removed or not request.keep_net_force
        ):
            forces = forces - net / len(forces)
        return Forces(forces, extras={"net_force": net})


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


def _groups(ready: list[tuple[int, Edges]]) -> list[list[tuple[int, Edges]]]:
    groups: list[list[tuple[int, Edges]]] = []
    total = 0
    for i, edges in ready:
        if not groups or total + edges.n_edges > MAX_BATCH_EDGES:
            groups.append([])
            total = 0
        groups[-1].append((i, edges))
        total += edges.n_edges
    return groups


def _failure(error: Exception, n_atoms: int) -> EvaluationError:
    text = str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "alloc" in text:
        return EvaluationError(
            f"there is not enough memory for {n_atoms} atoms: use fewer atoms, float32, or a"
            " device with more memory."
        )
    last = text.strip().splitlines()[-1] if text.strip() else type(error).__name__
    return EvaluationError(f"the model failed on {n_atoms} atoms: {last}")
