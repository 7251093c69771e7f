"""How ranks share a structure, and one rank's part of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from forcenet_md.errors import EvaluationError, ForceNetError
from forcenet_md.graph.exchange import Exchange, MpiExchange, NoExchange, make_plan
from forcenet_md.graph.ghosts import Surroundings
from forcenet_md.graph.pieces import divide
from forcenet_md.inference.domain import Domain
from forcenet_md.inference.graph_evaluator import failure
from forcenet_md.mpi import Ranks, World, one_for_all

if TYPE_CHECKING:
    from forcenet_md.inference.evaluator import ModelEvaluator

SKIN = 0.5  # Å
WIRES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True, slots=True)
class Sharing:
    """How ranks share a structure.

    deep: ghosts so deep that no node rows are exchanged; every rank computes those that it needs
    wire: 'bfloat16' or 'float32', the precision in which node rows travel; None is their own
    """

    deep: bool = False
    wire: str | None = None

    def shell(self, network: ModelEvaluator, reach: float) -> float:
        """How far from its atoms, Å, a rank must know of others, for pairs within reach."""
        return reach * (network.card.n_layers if self.deep else 1)


def sharing(ghosts: str, wire: str) -> Sharing:
    """From the options of the command line."""
    return Sharing(deep=ghosts == "deep", wire=None if wire == "own" else wire)


def make_domain(
    network: ModelEvaluator, around: Surroundings, reach: float, ranks: Ranks, how: Sharing
) -> Domain:
    """The rank's part of a structure, of pairs within reach Å. Collective; a fault of one rank is
    raised on all."""

    def sentence(error: Exception) -> ForceNetError:
        return rank_failure(network, error, around.n_owned, ranks.rank)

    with one_for_all(ranks, sentence):
        layers = network.card.n_layers if how.deep else 1
        division = divide(around, reach, ranks.rank, layers, network.max_edges)
    plan = make_plan(division, ranks)
    with one_for_all(ranks, sentence):
        exchange: Exchange = NoExchange()
        if isinstance(ranks, World):
            like = network.model.embed(torch.empty(0, dtype=torch.int64, device=network.device))
            wire = None if how.wire is None else WIRES[how.wire]
            exchange = MpiExchange(plan, ranks, like, wire)
        return Domain(network, division, exchange)


def rank_failure(
    network: ModelEvaluator, error: BaseException, n_atoms: int, rank: int
) -> EvaluationError:
    """torch's or Python's fault as a sentence; frees what a device has cached."""
    if network.device.type == "cuda":
        torch.cuda.empty_cache()
    return failure(error, n_atoms, f" on rank {rank}")
