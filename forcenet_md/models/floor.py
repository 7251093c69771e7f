"""A repulsive pair force kept under the network, for distances that no training frame has.

Ziegler, Biersack and Littmark's universal screened nuclear repulsion (The Stopping and Range of
Ions in Matter, Pergamon 1985):

    V(r) = e²/4πε₀ Z₁ Z₂ φ(r/a) / r,   a = 0.46850 Å / (Z₁^0.23 + Z₂^0.23)
    φ(x) = 0.18175 e^(−3.19980 x) + 0.50986 e^(−0.94229 x) + 0.28022 e^(−0.40290 x)
           + 0.02817 e^(−0.20162 x)

times a switch that goes from 1 at `INNER` to 0 at `outer` times the sum of both covalent radii
with two continuous derivatives, so that at the distances of chemical bonds nothing is left of it.
It is the gradient of an energy, has no net force, and its forces on an atom come from the edges of
that atom alone: it needs no exchange. The network learns what is left of the labels.
"""

# No `from __future__ import annotations` here: torch.jit.script reads class annotations.

import torch
from ase.data import covalent_radii
from torch import Tensor, nn

FLOORS = ("none", "zbl")
COULOMB = 14.399645  # e²/4πε₀, eV Å
WEIGHTS = (0.18175, 0.50986, 0.28022, 0.02817)
RATES = (3.19980, 0.94229, 0.40290, 0.20162)
LENGTH = 0.46850  # Å
INNER = 0.5  # of the outer end, where the switch begins


class PairFloor(nn.Module):
    """Forces of the screened repulsion.

    cutoff: Å, of the edges; outer: of the sum of covalent radii (Cordero et al. 2008), where the
    repulsion ends, or the cutoff if that is nearer
    """

    radii: Tensor

    def __init__(self, cutoff: float, outer: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.reach = outer
        self.switch_from, self.length, self.coulomb = (
            INNER,
            LENGTH,
            COULOMB,
        )  # torch.jit sees no globals
        self.weights, self.rates = list(WEIGHTS), list(RATES)
        radii = torch.full((119,), torch.nan, dtype=torch.float64)
        radii[: len(covalent_radii)] = torch.from_numpy(covalent_radii)[:119]
        self.register_buffer("radii", radii)

    def forward(
        self, species: Tensor, source: Tensor, target: Tensor, vector: Tensor, n_owned: int
    ) -> Tensor:
        """Forces [n_owned, 3] in eV/Å; arguments as of the stage `interact`."""
        forces = torch.zeros((n_owned, 3), dtype=vector.dtype, device=vector.device)
        length = torch.linalg.vector_norm(vector, dim=1)
        radii = self.radii.to(vector.dtype).index_select(0, species)
        ends = self.reach * (radii.index_select(0, source) + radii.index_select(0, target))
        near = (length < ends.clamp(max=self.cutoff)).nonzero()[:, 0]
        t = target.index_select(0, near)
        r = length.index_select(0, near)
        end = ends.index_select(0, near).clamp(max=self.cutoff)
        z = species.to(vector.dtype)
        z_s = z.index_select(0, source.index_select(0, near))
        z_t = z.index_select(0, t)
        slope = self.slope(r, end, z_s, z_t)
        return forces.index_add_(0, t, vector.index_select(0, near) * (slope / r).unsqueeze(1))

    def slope(self, r: Tensor, end: Tensor, z_s: Tensor, z_t: Tensor) -> Tensor:
        """d(V S)/dr [n] in eV/Å, negative: V the repulsion, S the switch."""
        a = self.length / (z_s.pow(0.23) + z_t.pow(0.23))
        phi, phi_slope = torch.zeros_like(r), torch.zeros_like(r)
        for weight, rate in zip(self.weights, self.rates):  # noqa: B905 (torch.jit)
            part = weight * torch.exp(-rate * r / a)
            phi = phi + part
            phi_slope = phi_slope - (rate / a) * part
        strength = self.coulomb * z_s * z_t / r
        energy = strength * phi
        energy_slope = strength * phi_slope - energy / r
        width = (1.0 - self.switch_from) * end
        u = (1.0 - (end - r) / width).clamp(min=0.0)
        switch = 1.0 - u * u * u * (10.0 - 15.0 * u + 6.0 * u * u)
        switch_slope = -30.0 * u * u * (1.0 - u) * (1.0 - u) / width
        return energy_slope * switch + energy * switch_slope


class NoFloor(nn.Module):
    """Nothing under the network."""

    def forward(
        self, species: Tensor, source: Tensor, target: Tensor, vector: Tensor, n_owned: int
    ) -> Tensor:
        return torch.zeros((n_owned, 3), dtype=vector.dtype, device=vector.device)


def make_floor(kind: str, cutoff: float, outer: float) -> nn.Module:
    return PairFloor(cutoff, outer) if kind == "zbl" else NoFloor()
