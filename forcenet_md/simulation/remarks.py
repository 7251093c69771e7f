"""What is to be known with the figures of a run, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from forcenet_md.simulation.analysis import Analysis
from forcenet_md.simulation.displacement import EARLIEST, finite_size
from forcenet_md.simulation.findings import Findings
from forcenet_md.simulation.statistics import Estimate
from forcenet_md.simulation.trajectory import HDF5
from forcenet_md.simulation.vibration import ALL, CM1_PER_THZ

THERMOSTAT = (
    "A thermostat slows diffusion where it acts on each atom: with Langevin at 0.1 ps liquids came"
    " out 1.5 times too slow. Compare runs with the same thermostat, or take a weaker one."
)


def remarks_on(sums: Analysis, found: Findings) -> Iterator[str]:
    """Of what the run does not have, what was left out, and what the figures stand for."""
    if not found.complete:
        yield f"INTERRUPTED: the figures are over the first {found.n_frames} frames."
    if found.n_frames == 1:
        yield "There is one frame: no error, and nothing that needs time, can be told."
    elif found.begins is None:
        yield (
            "The files tell no time: displacements, diffusion, spectra and drifts are left out;"
            " give --timestep PS, the time of one step."
        )
    means = (*found.temperature.values(), *found.energy.values())
    if found.n_frames > 1 and any(each.mean.error is None for each in means):
        yield (
            "± ?: the run is too short, beside the time in which the quantity forgets its value, to"
            " tell an error."
        )
    if not sums.pbc.all():
        yield "g(r) and neighbours are left out: they need cells periodic in all directions."
    yield from _on_motion(sums, found)
    yield from _on_diffusion(sums, found)
    yield from _on_velocities(sums, found)


def _on_motion(sums: Analysis, found: Findings) -> Iterator[str]:
    if found.n_held:
        atoms, they = ("atom is", "it is") if found.n_held == 1 else ("atoms are", "they are")
        yield (
            f"{found.n_held} {atoms} held, at the same place in the first frames: {they} in"
            " g(r) alone, and displacements are not relative to the centre of mass."
        )
    even = sums.even
    if even.off or even.gaps:
        said = []
        if even.off:
            lie = "lies" if even.off == 1 else "lie"
            said.append(f"{even.off} {lie} elsewhere (left out of displacements and spectra)")
        if even.gaps:
            come = "comes" if even.gaps == 1 else "come"
            said.append(f"{even.gaps} {come} after a gap (nothing is correlated across it)")
        yield f"Frames are {even.spacing:g} ps apart, but {' and '.join(said)}."
    n = found.n_atoms - found.n_held
    for chosen, what in ((sums.moving, "Displacements"), (sums.heard, "Spectra")):
        if len(chosen) < n:
            yield f"{what} are of {len(chosen)} of {n} atoms, evenly chosen, to spare memory."


def _on_diffusion(sums: Analysis, found: Findings) -> Iterator[str]:
    if not found.diffusion:
        if found.spacing is not None:
            yield (
                "Diffusion is left out: too few lags lie between those of the fit; give a longer"
                " run, frames that are closer, or --fit PS:PS."
            )
        return
    window = next(iter(found.diffusion.values())).window
    yield (
        f"Diffusion: a line through the mean square displacement at lags of {window[0]:.4g} to"
        f" {window[1]:.4g} ps (--fit), relative to the centre of mass."
    )
    off = {name: each.slope for name, each in found.diffusion.items() if not each.straight}
    bent = {
        name: each.later
        for name, each in found.diffusion.items()
        if each.later and each.straight and not each.goes_on
    }
    if off:
        yield (
            "Not diffusive there: the displacement grows as a power of time other than 1"
            f" ({_listed(off)}; near 0: bound to sites, near 2: flying freely), so that there is no"
            " coefficient."
        )
    if bent:
        yield (
            "Not diffusive after that: up to half the run the displacement grows as time to the"
            f" {_listed(bent)}, so that the fit is on a bend and there is no coefficient."
        )
    rest = [name for name in found.diffusion if name not in off and name not in bent]
    if rest and all(found.diffusion[name].coefficient is None for name in rest):
        yield (
            f"No coefficient of {', '.join(rest)} from lags below {EARLIEST:g} ps, where atoms"
            f" still fly or rattle: give a run of {4.0 * EARLIEST:g} ps or more, or --fit PS:PS."
        )
    elif rest:
        yield THERMOSTAT
        if ALL in found.temperature and sums.volumes.values:
            volume = float(np.mean(sums.volumes.values["volume"]))
            missing = finite_size(found.temperature[ALL].mean.value, volume)
            yield (
                "In a periodic cell of this size a liquid's coefficient is too low by"
                f" {missing:.2g} Å²/ps over its viscosity in mPa s (Yeh and Hummer 2004)."
            )


def _advice(found: Findings) -> str:
    """How a file of this kind gets velocities."""
    kind = Path(found.sources[0]).suffix if found.sources else ""
    if kind in HDF5:
        return "nobody told them to this file, so analyse the engine's own trajectory with them"
    if kind in (".xyz", ".extxyz", ".traj"):
        return "write momenta with the positions"
    return "dump vx vy vz with the positions"


def _listed(slopes: Mapping[str, Estimate]) -> str:
    return ", ".join(f"{name} {slope.value:.2f}" for name, slope in slopes.items())


def _on_velocities(sums: Analysis, found: Findings) -> Iterator[str]:
    if found.centre_at_rest is None:
        yield f"There are no velocities: no temperatures and no spectra; {_advice(found)}."
        return
    if found.centre_at_rest:
        yield "The centre of mass is at rest: temperatures are without its degrees of freedom."
    if found.spectrum_resolution is None:
        if found.begins is not None:
            yield "Spectra are left out: too few frames with velocities follow one another."
        return
    spacing = sums.even_velocities.spacing or 0.0
    top = 0.5 / spacing
    yield (
        f"Spectra reach to {top:.3g} THz ({top * CM1_PER_THZ:.4g} cm⁻¹), half the rate of the"
        " frames: what vibrates faster appears at a lower frequency. A line is"
        f" {found.spectrum_resolution:.2g} THz wide (--reach)."
    )
