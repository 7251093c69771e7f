"""The studies: what is run, at which temperature, for how long."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from forcenet_md.data.teachers import ZHOU


@dataclass(frozen=True, slots=True)
class Study:
    """A model and its teacher.

    model, teacher: as the commands take them; ZHOU moves the atoms in LAMMPS, others in ASE
    crystal: what the start is made of, `repeat` times in each direction; None: an fcc solid
    solution of equal parts, whose density the teacher finds
    temperature: K; melt: K it was melted at before, or None
    timestep, every (frame to frame), segment, settle (left out of averages), ps: ps
    teachers: how many runs of the teacher, whose differences are its own noise; teacher_ps: their
    length, if not ps
    """

    title: str
    temperature: float
    ps: float
    timestep: float
    every: float
    segment: float
    repeat: tuple[int, int, int]
    model: str = "alloy"
    teacher: str = ZHOU
    elements: tuple[str, ...] = ("Ag", "Au", "Cu", "Pd", "Pt")
    crystal: Path | None = None
    melt: float | None = None
    settle: float = 10.0
    teachers: int = 4
    teacher_ps: float | None = None


DAMP = 0.1  # ps, of Langevin's thermostat, as `forcenet-md prepare` writes it
LATTICE = 3.95  # Å, from which the teacher finds the density at zero pressure


def _lips(temperature: float) -> Study:
    """At the density of the crystal file. CHGNet takes 0.25 s a step: its runs are short."""
    return Study(
        f"Li3PS4 at {temperature:g} K", temperature, ps=100.0, timestep=0.002, every=0.02,
        segment=1.0, repeat=(2, 2, 2), model="lips", teacher="chgnet", elements=("Li", "P", "S"),
        crystal=Path(__file__).parents[2] / "examples" / "03-lips" / "li3ps4.cif",
        settle=2.0, teachers=2, teacher_ps=10.0,
    )  # fmt: skip


# The alloy's temperatures are those of no training frame.
STUDIES = {
    "solid": Study(
        "solid at 600 K", 600.0, ps=200.0, timestep=0.004, every=0.04, segment=4.0,
        repeat=(5, 5, 5),
    ),
    "molten": Study(
        "molten at 2000 K", 2000.0, ps=200.0, timestep=0.004, every=0.04, segment=4.0,
        repeat=(5, 5, 5), melt=3000.0, teachers=6,
    ),
    "small": Study(
        "a million steps of 32 atoms at 1000 K", 1000.0, ps=2000.0, timestep=0.002, every=0.2,
        segment=40.0, repeat=(2, 2, 2), teachers=2,
    ),
    "lips-600": _lips(600.0),
    "lips-900": _lips(900.0),
}  # fmt: skip
