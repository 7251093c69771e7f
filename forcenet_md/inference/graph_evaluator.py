"""What evaluators on neighbour graphs share: lists by session, batches, faults told one by one."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from forcenet_md.errors import EvaluationError, ForceNetError
from forcenet_md.graph.edges import Edges
from forcenet_md.graph.neighbours import NeighbourList
from forcenet_md.inference.contacts import Contacts
from forcenet_md.inference.interface import Capabilities, Evaluator, Request, Session, Timings
from forcenet_md.system import Forces, System

# Edges that run together; a larger batch is split between structures. The basis of an edge is
# kept for the step (about 300 bytes in float32), so this bounds the memory of a batch.
MAX_BATCH_EDGES = 20_000_000


class ModelSession:
    """One simulation's neighbour list."""

    def __init__(self, cutoff: float, cap: int | None, max_edges: int) -> None:
        self.neighbours = NeighbourList(cutoff, cap=cap, max_edges=max_edges)
        self.divided: Session | None = None  # of a system that is computed apart


Part = tuple[NDArray[np.int64], Edges]  # the numbers and the edges of one structure


class GraphEvaluator(ABC):
    """What an `Evaluator` on neighbour graphs does whatever network is behind it: one list for each
    session, batches, faults told one by one."""

    capabilities: Capabilities
    device: torch.device
    frames: NDArray[np.float64] = np.eye(3)[None]  # [n, 3, 3], that rows are averaged over
    contacts: Contacts

    def __init__(self) -> None:
        self.timings = Timings()

    @abstractmethod
    def new_session(self) -> ModelSession: ...

    @abstractmethod
    def check_elements(self, numbers: NDArray[np.int64]) -> None:
        """Raises UnknownElementError."""

    @abstractmethod
    def _network(self, parts: Sequence[Part]) -> NDArray[np.float64]:
        """The rows [n_atoms, …] of all structures, behind one another."""

    @abstractmethod
    def finish(self, request: Request, rows: NDArray[np.float64]) -> Forces | ForceNetError:
        """The answer from the rows of one structure."""

    def warm_up(self) -> None:
        """See the function below."""
        warm_up(self)

    def evaluate(self, requests: Sequence[Request]) -> list[Forces | ForceNetError]:
        """One answer per request, in order; see `inference/interface.py`."""
        self.timings = Timings()
        answers: list[Forces | ForceNetError | None] = [None] * len(requests)
        ready: list[tuple[int, Edges]] = []
        for i, request in enumerate(requests):
            answers[i] = self.apart(request)
            if answers[i] is not None:
                continue
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
        self.timings.network += time.perf_counter() - start
        return [a for a in answers if a is not None]

    def apart(self, request: Request) -> Forces | ForceNetError | None:
        """The answer to a request that has no part in a batch; None where it has."""
        return None

    def _edges(self, request: Request) -> Edges:
        start = time.perf_counter()
        system = request.system
        assert isinstance(request.session, ModelSession)
        if not system.n_atoms:
            raise EvaluationError("there are no atoms to compute forces for.")
        self.check_elements(system.numbers)
        edges = request.session.neighbours.update(system)
        self.timings.graph += time.perf_counter() - start
        return edges

    def _run(
        self, requests: Sequence[Request], group: Sequence[tuple[int, Edges]]
    ) -> list[Forces | ForceNetError]:
        """A batch that fails is evaluated again one by one, so that only its cause is told."""
        parts = [(requests[i].system.numbers, edges) for i, edges in group]
        try:
            rows = self._in_frames(parts)
        except (RuntimeError, MemoryError) as e:
            # torch tells out-of-memory (and all else) by RuntimeError.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            if len(group) > 1:
                return [self._run(requests, [item])[0] for item in group]
            return [failure(e, len(parts[0][0]))]
        ends = np.cumsum([len(numbers) for numbers, _ in parts])
        answers = []
        for (i, edges), part in zip(group, np.split(rows, ends[:-1], axis=1), strict=True):
            with np.errstate(all="ignore"):  # what is not finite is told
                mean = part.mean(axis=0)
            answer = self.finish(requests[i], mean)
            if isinstance(answer, Forces):
                answer.contact = self.contacts.closest(edges, requests[i].system.numbers)
                if len(self.frames) > 1:
                    answer.frame_spread = disagreement(part)
            answers.append(answer)
        return answers

    def _in_frames(self, parts: Sequence[Part]) -> NDArray[np.float64]:
        """[n_frames, n_atoms, …]: `_network` in each frame (inference/frames.py), turned back. The
        edges are the same in all of them."""
        n_frames = len(self.frames)
        if n_frames == 1:
            return self._network(parts)[None]
        at_once = max(1, MAX_BATCH_EDGES // max(1, sum(edges.n_edges for _, edges in parts)))
        back: list[NDArray[np.float64]] = []
        for first in range(0, n_frames, at_once):
            some = self.frames[first : first + at_once]
            turned = [
                (numbers, replace(edges, vector=edges.vector @ frame.T))
                for frame in some
                for numbers, edges in parts
            ]
            rows = np.split(self._network(turned), len(some))
            with np.errstate(all="ignore"):  # what is not finite is told
                back += [of_frame @ frame for of_frame, frame in zip(rows, some, strict=True)]
        return np.stack(back)


def disagreement(rows: NDArray[np.float64]) -> float:
    """How far frames are apart, √(mean over frames |F_k − F̄|²) in eV/Å, of the worst atom.

    rows: [n_frames, n_atoms, …, 3]; a net force, which nobody feels, is no disagreement
    """
    with np.errstate(over="ignore"):  # of absurd forces: an infinite spread says so
        off = rows - rows.mean(axis=1, keepdims=True)
        off -= off.mean(axis=0)
        return float(np.sqrt(np.square(off).sum(axis=-1).mean(axis=0)).max())


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


def warm_up(evaluator: Evaluator) -> None:
    """Run two small systems a few times: TorchScript specialises on its first calls.

    Raises EvaluationError when the model cannot run or gives no finite forces.
    """
    numbers = np.array(sorted(evaluator.capabilities.numbers))
    rng = np.random.default_rng(0)
    for n in (8, 9, 8):
        cell = np.eye(3) * 3.0 * n ** (1 / 3)
        grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3)[:n]
        x = (grid / 3 + 0.01 * rng.normal(size=(n, 3))) @ cell
        system = System.make(x, np.resize(numbers, n), cell, True)
        answer = evaluator.evaluate([Request(evaluator.new_session(), system)])[0]
        if isinstance(answer, ForceNetError):
            raise EvaluationError(f"the model fails on a small test system: {answer}")


class MemberError(RuntimeError):
    """One member of several failed, for the reason in `__cause__`; its text says which."""


def failure(error: BaseException, n_atoms: int, where: str = "") -> EvaluationError:
    """torch's or Python's fault as a sentence; where: ' on rank 1', if not all are meant."""
    who, within = "the model", where
    if isinstance(error, MemberError) and error.__cause__ is not None:
        who = str(error)
        within, error = f" in {who}", error.__cause__
    text = str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "alloc" in text:
        return EvaluationError(
            f"there is not enough memory for {n_atoms} atoms{within}: use fewer atoms, float32, or"
            " a device with more memory."
        )
    last = text.strip().splitlines()[-1] if text.strip() else type(error).__name__
    return EvaluationError(f"{who} failed on {n_atoms} atoms{where}: {last}")
