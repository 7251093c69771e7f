"""Bases of node and edge inputs (Hu et al. 2021, section 3.3 and appendix)."""

# No `from __future__ import annotations` here: torch.jit.script reads class annotations.

import math
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BASES = ("spherical", "sine", "gaussian", "linear", "identity", "none")
N_SPHERICAL = 9


class SineBasis(nn.Module):
    """sin(φ_j x_i), φ_j = float32(1.1)^j: [n, n_in] → [n, J·n_in], frequency-major.

    The rounded base is the reference's: the exact 1.1^j shifts forces by 1e-4.
    """

    frequencies: Tensor

    def __init__(self, n_in: int, n_frequencies: int) -> None:
        super().__init__()
        self.n_out = n_in * n_frequencies
        base = torch.tensor(1.1, dtype=torch.float32)
        filters = base ** torch.arange(n_frequencies, dtype=torch.float32)
        self.register_buffer("frequencies", filters)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.frequencies[None, :, None] * x[:, None, :]).flatten(1)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Linear(sine(x)) → [n, n_out], three times faster: the sines are made input-major, so
        that memory is walked in order, and the weight's columns are put in that order."""
        n_frequencies = self.frequencies.shape[0]
        columns = weight.reshape(weight.shape[0], n_frequencies, -1).transpose(1, 2).flatten(1)
        return F.linear((x.unsqueeze(2) * self.frequencies).sin_().flatten(1), columns, bias)


class GaussianBasis(nn.Module):
    """exp(−(x − μ)²/2δ²), J centres μ in [0, 1], δ = 1/(J−1): [n, n_in] → [n, J·n_in]."""

    centres: Tensor

    def __init__(self, n_in: int, n_centres: int) -> None:
        super().__init__()
        self.n_out = n_in * n_centres
        self.coefficient = -0.5 * float(n_centres - 1) ** 2
        self.register_buffer("centres", torch.linspace(0.0, 1.0, n_centres))

    def forward(self, x: Tensor) -> Tensor:
        d = x[:, None, :] - self.centres[None, :, None]
        return torch.exp(self.coefficient * d * d).flatten(1)


class LinearBasis(nn.Module):
    """act(Linear(n_in → J·n_in))."""

    def __init__(self, n_in: int, n_frequencies: int, activation: nn.Module) -> None:
        super().__init__()
        self.n_out = n_in * n_frequencies
        self.linear = nn.Linear(n_in, self.n_out)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.linear(x))


class IdentityBasis(nn.Module):
    """The features as they are."""

    def __init__(self, n_in: int) -> None:
        super().__init__()
        self.n_out = n_in

    def forward(self, x: Tensor) -> Tensor:
        return x


ScalarBasis = SineBasis | GaussianBasis | LinearBasis | IdentityBasis


def scalar_basis(kind: str, n_in: int, n_frequencies: int, activation: nn.Module) -> ScalarBasis:
    """The basis of scalar features: of nodes, of distances, or of all edge features."""
    if kind in ("spherical", "sine"):
        return SineBasis(n_in, n_frequencies)
    if kind == "gaussian":
        return GaussianBasis(n_in, n_frequencies)
    if kind == "linear":
        return LinearBasis(n_in, n_frequencies, activation)
    return IdentityBasis(n_in)


def spherical_harmonics(u: Tensor) -> Tensor:
    """[n, 3] unit vectors → [n, 9]: complex Y_lm, l = 0…2, Condon–Shortley phase, no √2;
    order (00), (10), (20), Re (11), (21), (22), Im (11), (21), (22)."""
    x, y, z = u[:, 0], u[:, 1], u[:, 2]
    c1 = 0.5 * math.sqrt(3.0 / math.pi)
    c11 = -0.5 * math.sqrt(1.5 / math.pi)
    c2 = 0.25 * math.sqrt(5.0 / math.pi)
    c21 = -0.5 * math.sqrt(7.5 / math.pi)
    c22 = 0.25 * math.sqrt(7.5 / math.pi)
    return torch.stack(
        [
            torch.full_like(x, 0.5 / math.sqrt(math.pi)),
            c1 * z,
            c2 * (3.0 * z * z - 1.0),
            c11 * x,
            c21 * x * z,
            c22 * (x * x - y * y),
            c11 * y,
            c21 * y * z,
            2.0 * c22 * x * y,
        ],
        dim=1,
    )


class EdgeBasis(nn.Module):
    """Edge vectors and species → b [n_edges, n_out].

    Features: u = d/‖d‖ and p = [r, r−a_s, r−a_t, r−a_s−a_t]/c with Slater radii a.
    clamp True is the paper's form, p ≥ 1e-3, which kinks near bond lengths; False leaves p
    as it is, smooth.
    """

    radii: Tensor
    spherical: Final[bool]  # lets torch.jit.script drop the branch whose modules are not there

    def __init__(
        self,
        kind: str,
        cutoff: float,
        radii: Tensor,
        n_frequencies: int,
        n_radial: int | None,
        activation: nn.Module,
        use_direction: bool = True,
        use_radii: bool = True,
        clamp: bool = True,
    ) -> None:
        super().__init__()
        if kind not in BASES:
            raise ValueError(f"edge basis {kind!r} is unknown: use one of {', '.join(BASES)}")
        if kind == "spherical" and not use_direction:
            raise ValueError("a spherical basis needs the direction: use basis 'sine'")
        self.spherical = kind == "spherical"
        # Gaussians sit in [0, 1], so the direction is shifted there.
        self.shift_direction = kind == "gaussian"
        self.use_direction = use_direction
        self.use_radii = use_radii
        self.clamp = clamp
        self.cutoff = cutoff
        self.register_buffer("radii", radii)
        n_p = 4 if use_radii else 1
        self.n_radial = n_radial or n_p
        # Any: mypy cannot tell which basis has which methods, and torch.jit reads no ignores.
        scalar: Any
        radial: Any
        if self.spherical:
            scalar = scalar_basis(kind, n_p, n_frequencies, activation)
            radial = nn.Linear(scalar.n_out, self.n_radial)
            self.n_out = N_SPHERICAL * self.n_radial
        else:
            n_in = n_p + (3 if use_direction else 0)
            scalar = scalar_basis(kind, n_in, n_frequencies, activation)
            radial = nn.Identity()
            self.n_out = scalar.n_out
        self.scalar = scalar
        self.radial = radial

    def distances(self, r: Tensor, species: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """p [n_edges, 4] (or [n_edges, 1] without radii), in units of the cutoff."""
        if self.use_radii:
            a = self.radii.index_select(0, species)
            a_s = a.index_select(0, source)
            a_t = a.index_select(0, target)
            p = torch.stack([r, r - a_s, r - a_t, r - a_s - a_t], dim=1) / self.cutoff
        else:
            p = (r / self.cutoff).unsqueeze(1)
        return p.clamp(min=1e-3) if self.clamp else p

    def forward(self, species: Tensor, source: Tensor, target: Tensor, vector: Tensor) -> Tensor:
        r = torch.linalg.vector_norm(vector, dim=1)
        u = vector / r.unsqueeze(1)
        p = self.distances(r, species, source, target)
        if self.spherical:
            w, b = self.radial.weight, self.radial.bias
            radial = self.scalar.linear(p, w, b)
            return (spherical_harmonics(u).unsqueeze(2) * radial.unsqueeze(1)).flatten(1)
        if not self.use_direction:
            return self.scalar(p)
        if self.shift_direction:
            u = 0.5 * (u + 1.0)
        return self.scalar(torch.cat([u, p], dim=1))
