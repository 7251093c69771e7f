"""One rank's part of a structure: the stages over its pieces, with an exchange between layers.

The exchange is under way while the pieces that need no ghost rows are computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from forcenet_md.graph.cutoff import CutoffFilter
from forcenet_md.graph.edges import keep_nearest
from forcenet_md.graph.exchange import Exchange
from forcenet_md.graph.frame import Array
from forcenet_md.graph.pieces import Division, Piece
from forcenet_md.inference.contacts import closest_of
from forcenet_md.system import Contact

if TYPE_CHECKING:
    from forcenet_md.inference.evaluator import ModelEvaluator

# Edges of a rank whose basis is kept from layer to layer (about 300 bytes each in float32); with
# more of them each layer computes it anew, piece by piece.
MOST_KEPT = 10_000_000


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the stages take of a piece: species [n_rows], source, target, vector and basis."""

    species: Tensor
    source: Tensor
    target: Tensor
    vector: Tensor
    basis: Tensor


class Domain:
    """The forces on a rank's atoms.

    edges: how many the last step computed in each layer
    contact: its closest pair, by ids (inference/contacts.py)
    """

    def __init__(self, network: ModelEvaluator, division: Division, exchange: Exchange) -> None:
        self.division = division
        self.exchange = exchange
        self.edges: list[int] = []
        self.contact: Contact | None = None
        self._network = network
        self._frame = network.frames[0]
        around, card = division.around, network.card
        device = network.device
        self._species = torch.from_numpy(around.numbers[division.home]).to(device)
        self._rows = [torch.from_numpy(piece.rows).to(device) for piece in division.pieces]
        self._filters = [
            CutoffFilter(piece.pairs, card.cutoff, around.ids[division.home[piece.rows]])
            for piece in division.pieces
        ]
        self._kept: dict[int, Inputs] | None = {} if division.n_pairs <= MOST_KEPT else None
        self.exchanged = division.layers == 1

    def forces_of(self, owned: Array, lattice: Array) -> Array:
        """Forces [n_owned, 3] eV/Å at positions [n_owned, 3] Å of the rank's atoms, those of the
        others being asked for; lattice: [3, 3] Å, rows that the lattice shifts count."""
        division = self.division
        atoms = np.concatenate([owned, self.exchange.refresh(owned)])
        return self.forces(atoms[division.row_of] + division.around.shift @ lattice)

    def forces(self, points: Array) -> Array:
        """Forces [n_owned, 3] eV/Å where the points of the surroundings lie at [n_points, 3] Å:
        the mean over the network's frames (inference/frames.py).

        Collective. Raises StructureError, and RuntimeError or MemoryError of torch, after the
        exchanges that the other ranks wait for.
        """
        frames = self._network.frames
        if len(frames) == 1:
            return self._in_frame(points)
        total = np.zeros((self.division.n_owned, 3))
        for k, self._frame in enumerate(frames):
            try:
                with np.errstate(all="ignore"):  # what is not finite is told
                    total += self._in_frame(points) @ self._frame
            except BaseException:
                self._skip(len(frames) - k - 1)
                raise
        return total / len(frames)

    def _in_frame(self, points: Array) -> Array:
        self._open()
        try:
            with torch.inference_mode():
                return self._stages(points, self._network.card.n_layers)
        except BaseException:
            self.exchange.give_up()
            raise
        finally:
            if self._kept is not None:
                self._kept.clear()

    def skip(self) -> None:
        """Take part in the exchanges of a step that this rank cannot compute."""
        self._skip(len(self._network.frames))

    def _skip(self, n_frames: int) -> None:
        for _ in range(n_frames):
            self._open()
            self.exchange.give_up()

    def _open(self) -> None:
        self.exchange.open(self._network.card.n_layers - 1 if self.exchanged else 0)

    def _stages(self, points: Array, n_layers: int) -> Array:
        model, n_owned = self._network.model, self.division.n_owned
        h = model.embed(self._species)
        forces = h.new_empty((n_owned, 3))
        self.edges = [0] * n_layers
        self.contact = None
        for k in range(n_layers):
            last = k == n_layers - 1
            refreshed = k == 0 or not self.exchanged
            following = h if last else torch.empty_like(h)
            if not refreshed:
                self.exchange.start(h[:n_owned])
            for i, piece in enumerate(self.division.pieces):
                if piece.depth >= n_layers - k:
                    break  # shells that no owned atom depends on any more
                if piece.ghosts and not refreshed:
                    h[n_owned:] = self.exchange.finish()
                    refreshed = True
                inputs = self._inputs(i, points)
                rows, n = self._rows[i], piece.n_targets
                new = model.interact(
                    k,
                    h.index_select(0, rows),
                    inputs.species,
                    inputs.source,
                    inputs.target,
                    inputs.basis,
                    n,
                )
                if last:
                    forces[rows[:n]] = self._read(new, inputs, n)
                else:
                    following[rows[:n]] = new
                self.edges[k] += len(inputs.source)
            if not refreshed:
                self.exchange.finish()  # of a rank without ghosts, which others may have of it
            h = following
        return forces.to(device="cpu", dtype=torch.float64).numpy()

    def _read(self, h: Tensor, inputs: Inputs, n: int) -> Tensor:
        model = self._network.model
        forces = model.readout(h, inputs.species[:n])["forces"]
        if self._network.card.pair_floor:
            forces = forces + model.pair_forces(
                inputs.species, inputs.source, inputs.target, inputs.vector, n
            )
        return forces

    def _inputs(self, i: int, points: Array) -> Inputs:
        if self._kept is not None and i in self._kept:
            return self._kept[i]
        division, network = self.division, self._network
        piece: Piece = division.pieces[i]
        piece.pairs.shift[:] = division.shifts(piece, points)
        home = division.home[piece.rows]
        edges = self._filters[i](points[home])
        contact = network.contacts.closest(edges, division.around.numbers[home])
        if contact is not None:
            a, b = sorted(division.around.ids[home[[contact.a, contact.b]]].tolist())
            self.contact = closest_of((self.contact, contact._replace(a=a, b=b)))
        if network.card.neighbour_cap is not None:
            edges = keep_nearest(edges, network.card.neighbour_cap, piece.n_targets)
        device = network.device
        species = self._species.index_select(0, self._rows[i])
        source = torch.from_numpy(edges.source).to(device)
        target = torch.from_numpy(edges.target).to(device)
        turned = edges.vector
        if len(network.frames) > 1:
            turned = turned @ self._frame.T
        vector = torch.from_numpy(turned).to(device=device, dtype=network.dtype)
        basis = network.model.edge_basis(species, source, target, vector)
        inputs = Inputs(species, source, target, vector, basis)
        if self._kept is not None:
            self._kept[i] = inputs
        return inputs
