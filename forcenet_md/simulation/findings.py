"""What an analysis found, as it is written to JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

import forcenet_md
from forcenet_md.simulation.displacement import Diffusion
from forcenet_md.simulation.statistics import Estimate

DEFINITIONS = {
    "errors": "standard errors; of means by blocking (Flyvbjerg and Petersen 1989, block length by"
    " Lee et al. 2011), of diffusion and neighbours from the spread of at most eight blocks of the"
    " run; null where the run is too short to tell",
    "temperature": "K; of atoms that move, three degrees of freedom each, or, where the centre of"
    " mass is at rest, less those it has not: of an element 3 n (1 - m / M), of all 3 N - 3",
    "drift": "slope of a line through the series, by least squares, K/ps and eV/ps per atom",
    "pairs": "g(r) averaged over frames; first_minimum: lowest point between the first two peaks of"
    " g(r), smoothed by 0.05 Angstrom; neighbours: mean number within it, of 'B around A'",
    "noise": "how far the run's own two halves are apart: of g(r) the integral of |difference|"
    " over the integral, of spectra the overlap; two whole runs differ by about 0.7 times that",
    "diffusion": "Angstrom^2/ps; a sixth of the slope of the mean square displacement relative to"
    " the centre of mass (as it is, where atoms are held); null where the displacement does not"
    " grow as time does in the window (slope) and from there to half the run (later), or the window"
    " begins before 1 ps and was not asked for",
    "spectrum": "cosine transform of the velocity autocorrelation under Parzen's window",
}


class Drifting(BaseModel):
    """A mean, and how it drifts per ps (None where times are not known)."""

    mean: Estimate
    drift: Estimate | None


class Pair(BaseModel):
    """first_minimum: Å, or None; neighbours: 'B around A' within it; noise: see DEFINITIONS."""

    first_peak: float | None
    first_minimum: float | None
    neighbours: dict[str, Estimate]
    noise: float | None


class Drift(BaseModel):
    """Of the centre of mass from the first frame to the last: Å."""

    distance: float
    per_ps: float


class Findings(BaseModel):
    """The whole of it; `format` grows by one when a key changes its meaning or goes.

    begins, ends, spacing: ps; centre_at_rest: see DEFINITIONS, None without velocities
    temperature: by element and of all; energy: eV per atom, potential and total
    """

    format: Literal[2] = 2
    version: str = forcenet_md.__version__
    name: str
    sources: list[str]
    formula: dict[str, int]
    n_atoms: int
    n_held: int
    n_frames: int
    complete: bool
    begins: float | None
    ends: float | None
    spacing: float | None
    centre_at_rest: bool | None
    temperature: dict[str, Drifting]
    energy: dict[str, Drifting]
    pairs: dict[str, Pair]
    diffusion: dict[str, Diffusion]
    centre_of_mass: Drift | None
    spectrum_resolution: float | None
    spectrum_noise: dict[str, float]
    remarks: list[str]
    definitions: dict[str, str] = DEFINITIONS


class Difference(BaseModel):
    """Of a figure of two runs. difference: the first's less the other's; sigma: in units of its
    standard error, None where an error is not known; ratio: of diffusion, first over other."""

    run: Estimate
    against: Estimate
    difference: Estimate
    sigma: float | None
    ratio: Estimate | None = None


class Likeness(BaseModel):
    """Of a curve of two runs, beside how much the halves of each are alike; see DEFINITIONS."""

    value: float
    noise_run: float | None
    noise_against: float | None


class Comparison(BaseModel):
    """figures: by what they are; deviation: of g(r), by pair; overlap: of spectra, by element;
    window: ps, of both fits; resolution: THz, of both spectra; missing: in words."""

    figures: dict[str, Difference]
    deviation: dict[str, Likeness]
    overlap: dict[str, Likeness]
    window: tuple[float, float] | None
    resolution: float | None
    missing: list[str]


class Report(BaseModel):
    """Of one run, or of two that were compared."""

    run: Findings
    against: Findings | None = None
    comparison: Comparison | None = None
