"""A committee: several models answer as one, with how far they are apart.

The forces are the mean over the members, each as it would be served alone; the spread of an atom is
√(mean over members of |F_k − F̄|²), in eV/Å. It is small where the members were trained on the like
and grows where they were not; it is no error bar, for members that share their training data share
its gaps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray

from forcenet_md.artifact.card import Card
from forcenet_md.artifact.export import load_weights
from forcenet_md.errors import (
    ForceNetError,
    ModelFileError,
    NotFiniteError,
    UnknownElementError,
)
from forcenet_md.graph.edges import Edges, keep_nearest
from forcenet_md.graph.neighbours import MAX_EDGES, build_edges
from forcenet_md.inference.batch import collate
from forcenet_md.inference.evaluator import (
    ModelEvaluator,
    card_warnings,
    check_finite,
)
from forcenet_md.inference.graph_evaluator import GraphEvaluator, MemberError, ModelSession, Part
from forcenet_md.inference.interface import Capabilities, Request
from forcenet_md.inference.rigid import inertia, rotation, without_rigid_motion
from forcenet_md.inference.shared_basis import SharedBasis, can_share
from forcenet_md.system import Forces, System

PRECISION = {torch.float32: 1e-5, torch.float64: 1e-12}
Graph = tuple[float, int | None]  # cutoff in Å, neighbour cap


class CommitteeEvaluator(GraphEvaluator):
    """An `Evaluator` (inference/interface.py) for several model files.

    paths: the members, two or more; sha256: what `joint_sha256` of their cards must be; the rest
    as for `ModelEvaluator`. A structure has one neighbour list, with the largest cutoff; members
    of the same cutoff and cap share its graph.

    Answers have a `force_spread`. Raises ModelFileError as `ModelEvaluator` does, for two members
    with the same weights, and for members that have no element in common.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        device: str = "cpu",
        threads: int = 1,
        dtype: str = "float32",
        trust: bool = False,
        sha256: str | None = None,
        max_edges: int | None = None,
    ) -> None:
        super().__init__()
        self.members = [
            ModelEvaluator(path, device, threads, dtype, trust, max_edges=max_edges)
            for path in paths
        ]
        self.device = self.members[0].device
        self.capabilities = committee_capabilities(
            [member.path for member in self.members], [member.card for member in self.members]
        )
        if sha256 is not None and sha256.lower() != self.capabilities.sha256:
            raise ModelFileError(
                f"the committee has the joint sha256 {self.capabilities.sha256}, not {sha256}: a"
                " member is another model than the one asked for."
            )
        self.contacts = self.members[0].contacts
        self._graphs: dict[Graph, list[int]] = {}
        for k, member in enumerate(self.members):
            graph = (member.card.cutoff, member.card.neighbour_cap)
            self._graphs.setdefault(graph, []).append(k)
        self.bases = {
            graph: shared_basis([self.members[k] for k in indices], self.capabilities.numbers)
            for graph, indices in self._graphs.items()
        }

    def new_session(self) -> ModelSession:
        return ModelSession(self.capabilities.cutoff, None, self.members[0].max_edges or MAX_EDGES)

    def check_elements(self, numbers: NDArray[np.int64]) -> None:
        for member in self.members:
            try:
                member.check_elements(numbers)
            except UnknownElementError as e:
                raise UnknownElementError(f"{_who(member)} refuses: {e}") from None

    def _network(self, parts: Sequence[Part]) -> NDArray[np.float64]:
        """[n_atoms, n_members, 3] eV/Å"""
        first = self.members[0]
        rows: list[NDArray[np.float64]] = [np.empty(0)] * len(self.members)
        for graph, indices in self._graphs.items():
            own = [(numbers, self._seen(edges, len(numbers), graph)) for numbers, edges in parts]
            batch = collate(own, first.device, first.dtype)
            shared = self.bases[graph]
            bases = iter(()) if shared is None else shared(batch)
            for k in indices:
                try:
                    rows[k] = self.members[k].run_stages(batch, next(bases, None))
                except (RuntimeError, MemoryError) as e:
                    raise MemberError(_who(self.members[k])) from e
        return np.stack(rows, axis=1)

    def _seen(self, edges: Edges, n_atoms: int, graph: Graph) -> Edges:
        """Those of the committee's edges that a member of this graph sees."""
        cutoff, cap = graph
        if cutoff < self.capabilities.cutoff:
            near = np.einsum("ij,ij->i", edges.vector, edges.vector) <= cutoff**2
            kept = edges.source[near], edges.target[near], edges.vector[near]
            edges = Edges(*kept, edges.shortest)
        return edges if cap is None else keep_nearest(edges, cap, n_atoms)

    def finish(self, request: Request, rows: NDArray[np.float64]) -> Forces | ForceNetError:
        answers = []
        for k, member in enumerate(self.members):
            try:
                check_finite(rows[:, k], _who(member))
            except NotFiniteError as e:
                return e
            # Before the mean, which is the same: a net force that nobody feels is no disagreement.
            answers.append(
                without_rigid_motion(
                    rows[:, k], request.system, member.card, request.keep_net_force
                )
            )
        forces = np.stack([one.forces for one in answers])
        mean = forces.mean(axis=0)
        with np.errstate(over="ignore"):  # of absurd forces: an infinite spread says so
            spread = np.sqrt(np.square(forces - mean).sum(axis=2).mean(axis=0))
        torque, size = _mean([one.torque for one in answers]), None
        if torque is not None:
            arms = request.system.positions - request.system.positions.mean(axis=0)
            _, size = rotation(torque, inertia(arms), len(arms))
        return Forces(
            mean,
            net_force=_mean([one.net_force for one in answers]),
            torque=torque,
            torque_force=size,
            force_spread=spread,
        )


def _mean(vectors: Sequence[NDArray[np.float64] | None]) -> NDArray[np.float64] | None:
    """Of those that there are."""
    found = [vector for vector in vectors if vector is not None]
    return np.mean(found, axis=0) if found else None


def shared_basis(members: Sequence[ModelEvaluator], numbers: frozenset[int]) -> SharedBasis | None:
    """Their bases at once, if that is possible and the members' own stage agrees; else None."""
    cards = [member.card for member in members]
    if len(members) < 2 or not can_share(cards):
        return None
    first = members[0]
    weights = [
        # its program has been checked when the member was loaded, and this is the same file
        load_weights(m.path, m.device, m.dtype, trust=True, sha256=m.card.sha256)
        for m in members
    ]
    shared = SharedBasis(cards, weights)
    species = np.resize(sorted(numbers), 24)
    rng = np.random.default_rng(0)
    system = System.make(rng.uniform(-3.0, 3.0, (24, 3)), species, np.zeros((3, 3)), False)
    batch = collate([(species, build_edges(system, cards[0].cutoff))], first.device, first.dtype)
    for member, found in zip(members, shared(batch), strict=True):
        with torch.inference_mode():
            own = member.model.edge_basis(batch.species, batch.source, batch.target, batch.vector)
        if own.shape != found.shape:
            return None
        if (found - own).abs().max() > PRECISION[first.dtype] * own.abs().max():
            return None
    return shared


def committee_capabilities(paths: Sequence[Path], cards: Sequence[Card]) -> Capabilities:
    """What a committee can do: all that each of its members can.

    Raises ModelFileError for a single member, for two with the same weights, and for members
    without a common element.
    """
    if len(cards) < 2:
        raise ModelFileError(f"{paths[0]} alone is no committee: give further models.")
    seen: dict[str, Path] = {}
    for path, card in zip(paths, cards, strict=True):
        if card.sha256 in seen:
            raise ModelFileError(
                f"{path} and {seen[card.sha256]} are the same model, which always agrees with"
                " itself: give the committee models that were trained apart."
            )
        seen[card.sha256] = path
    numbers = frozenset.intersection(*(card.numbers for card in cards))
    if not numbers:
        raise ModelFileError(
            f"no element is known to all of {', '.join(map(str, paths))}: give the committee models"
            " of the same elements."
        )
    name = f"committee of {len(cards)} ({', '.join(dict.fromkeys(card.name for card in cards))})"
    warnings = [
        f"{path} also knows {_symbols(card.numbers - numbers)}, which not all of the committee do:"
        " the committee does not"
        for path, card in zip(paths, cards, strict=True)
        if card.numbers != numbers
    ]
    return Capabilities(
        name=name,
        numbers=numbers,
        cutoff=max(card.cutoff for card in cards),
        energy=all(card.energy for card in cards),
        stress=all(card.stress for card in cards),
        conservative=all(card.conservative for card in cards),
        sha256=joint_sha256(cards),
        warnings=(*warnings, *card_warnings(f"the {name}", cards)),
        spread=True,
        training_range=cards[0].training_range,
        net_force_removed=any(card.net_force_removed for card in cards),
    )


def joint_sha256(cards: Sequence[Card]) -> str:
    """The sha256 of the members' sha256, sorted and written one after the other."""
    return hashlib.sha256("".join(sorted(card.sha256 for card in cards)).encode()).hexdigest()


def _symbols(numbers: frozenset[int]) -> str:
    return ", ".join(sorted(chemical_symbols[z] for z in numbers))


def _who(member: ModelEvaluator) -> str:
    return f"the committee's member {member.path}"
