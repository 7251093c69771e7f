"""The embedded-atom potential of Zhou, Johnson and Wadley, and its table for LAMMPS.

Source of the formulae and of every number in zhou2004.csv:
X. W. Zhou, R. A. Johnson, H. N. G. Wadley, Phys. Rev. B 69, 144113 (2004).

E = Σ_i F_i(ρ_i) + ½ Σ_i≠j φ_ij(r_ij),  ρ_i = Σ_j f_j(r_ij).  Å and eV throughout.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forcenet_md.errors import DataError

Array = NDArray[np.float64]

CUTOFF = 6.5
"""Å. The densities and pair terms have decayed to 1e-5 of their value at re there."""
RHO_MAX = 250.0
"""End of the embedding table: three times the density at a pair squeezed to 1 Å."""


@dataclass(frozen=True)
class Metal:
    """One row of zhou2004.csv: the published parameters of one element."""

    element: str
    re: float
    fe: float
    rhoe: float
    rhos: float
    alpha: float
    beta: float
    A: float
    B: float
    kappa: float
    lamda: float
    Fn0: float
    Fn1: float
    Fn2: float
    Fn3: float
    F0: float
    F1: float
    F2: float
    F3: float
    eta: float
    Fe: float
    Z: float
    mass: float
    F3p: float
    beta1: float
    lam1: float
    rhol: float
    rhoh: float


@cache
def metals() -> dict[str, Metal]:
    """The published elements by symbol."""
    text = files("forcenet_md.data").joinpath("zhou2004.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    names = [f.name for f in fields(Metal) if f.name != "element"]
    return {
        row["element"]: Metal(row["element"], **{name: float(row[name]) for name in names})
        for row in rows
    }


def metal(element: str) -> Metal:
    """Parameters of an element. Raises DataError when the paper's table has none here."""
    try:
        return metals()[element]
    except KeyError:
        known = " ".join(metals())
        raise DataError(
            f"the Zhou 2004 potential has no parameters for {element}: use elements of {known}."
        ) from None


def _decaying(r: Array, height: float, rate: float, re: float, shift: float) -> Array:
    """height · exp(−rate (r/re − 1)) / (1 + (r/re − shift)²⁰)"""
    x = r / re
    return height * np.exp(-rate * (x - 1.0)) / (1.0 + (x - shift) ** 20)


def density(m: Metal, r: ArrayLike) -> Array:
    """f(r): electron density that an atom of m puts at distance r (Å)."""
    return _decaying(np.asarray(r, dtype=float), m.fe, m.beta1, m.re, m.lam1)


def pair(a: Metal, b: Metal, r: ArrayLike) -> Array:
    """φ_ab(r) in eV; unlike pairs are mixed by the ratio of their densities."""
    x = np.asarray(r, dtype=float)
    if a.element == b.element:
        repulsion = _decaying(x, a.A, a.alpha, a.re, a.kappa)
        return repulsion - _decaying(x, a.B, a.beta, a.re, a.lamda)
    ratio = density(b, x) / density(a, x)
    return 0.5 * (ratio * pair(a, a, x) + pair(b, b, x) / ratio)


def embedding(m: Metal, rho: ArrayLike) -> Array:
    """F(ρ) in eV: two cubics around the equilibrium density, a logarithm above."""
    x = np.asarray(rho, dtype=float)
    low = x / (m.rhol * m.rhoe) - 1.0
    mid = x / m.rhoe - 1.0
    high = np.maximum(x, 1e-300) / m.rhos
    below = m.Fn0 + low * (m.Fn1 + low * (m.Fn2 + low * m.Fn3))
    cubic = np.where(x < m.rhoe, m.F3, m.F3p)
    around = m.F0 + mid * (m.F1 + mid * (m.F2 + mid * cubic))
    above = m.Fe * (1.0 - m.eta * np.log(high)) * high**m.eta
    return np.where(x < m.rhol * m.rhoe, below, np.where(x < m.rhoh * m.rhoe, around, above))


def write_setfl(
    elements: Sequence[str],
    path: str | Path,
    *,
    n_rho: int = 5001,
    n_r: int = 2601,
    cutoff: float = CUTOFF,
) -> Path:
    """Write the table for LAMMPS `pair_style eam/alloy`, types in the order of elements.

    n_rho points of F over [0, RHO_MAX], n_r points of f and r·φ over [0, cutoff] Å.
    Raises DataError for an element without parameters.
    """
    chosen = [metal(element) for element in elements]
    rho = np.linspace(0.0, RHO_MAX, n_rho)
    r = np.linspace(0.0, cutoff, n_r)
    lines = [
        "Zhou, Johnson, Wadley, Phys. Rev. B 69, 144113 (2004)",
        "table written by forcenet_md.data.eam from the published parameters",
        "units metal: eV, Angstrom",
        f"{len(chosen)} {' '.join(m.element for m in chosen)}",
        f"{n_rho} {rho[1]:.16e} {n_r} {r[1]:.16e} {cutoff:.16e}",
    ]
    for m in chosen:
        lines.append(f"{int(m.Z)} {m.mass:.6f} {np.sqrt(2.0) * m.re:.6f} fcc")
        lines += _rows(embedding(m, rho))
        lines += _rows(density(m, r))
    for i, a in enumerate(chosen):
        for b in chosen[: i + 1]:
            lines += _rows(r * pair(a, b, r))
    out = Path(path)
    out.write_text("\n".join(lines) + "\n", encoding="ascii")
    return out


def _rows(values: Iterable[float]) -> list[str]:
    numbers = [f"{value:.16e}" for value in values]
    return [" ".join(numbers[k : k + 5]) for k in range(0, len(numbers), 5)]
