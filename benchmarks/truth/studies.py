"""The studies: what is run, at which temperature, for how long."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Study:
    """An alloy of equal parts, by its model and its teacher.

    cells: of four atoms, in each direction; melt: K it was melted at before, or None;
    temperature: K; timestep, every (frame to frame), segment, settle (left out of averages),
    ps: ps; teachers: how many runs of the teacher, whose differences are its own noise
    """

    title: str
    cells: int
    temperature: float
    melt: float | None
    ps: float
    timestep: float
    every: float
    segment: float
    settle: float = 10.0
    teachers: int = 4


ELEMENTS = ("Ag", "Au", "Cu", "Pd", "Pt")
DAMP = 0.1  # ps, of Langevin's thermostat, as `forcenet-md prepare` writes it
LATTICE = 3.95  # Å, from which the teacher finds the density at zero pressure

# Temperatures that no training frame has.
STUDIES = {
    "solid": Study(
        "solid at 600 K", cells=5, temperature=600.0, melt=None,
        ps=200.0, timestep=0.004, every=0.04, segment=4.0,
    ),
    "molten": Study(
        "molten at 2000 K", cells=5, temperature=2000.0, melt=3000.0,
        ps=200.0, timestep=0.004, every=0.04, segment=4.0, teachers=6,
    ),
    "small": Study(
        "a million steps of 32 atoms at 1000 K", cells=2, temperature=1000.0, melt=None,
        ps=2000.0, timestep=0.002, every=0.2, segment=40.0, teachers=2,
    ),
}  # fmt: skip
