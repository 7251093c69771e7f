"""The layout of a recording: which datasets it has, for whoever writes or reads one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from forcenet_md.recording.frame import Particles, Precision, dtype

FORMAT = 1
OURS = "parameters/forcenet_md"
REMOVED = "net_force_removed"  # of its attributes; older files have none
EDGES = "particles/all/box/edges"
UNITS = {
    "position": "Angstrom",
    "velocity": "Angstrom ps-1",
    "force": "kJ mol-1 Angstrom-1",
    "potential_energy": "eV",
    "largest_force": "eV Angstrom-1",
    "net_force": "eV Angstrom-1",
    "torque_force": "eV Angstrom-1",
    "contact_distance": "Angstrom",
    "force_spread_max": "eV Angstrom-1",
    "force_spread_mean": "eV Angstrom-1",
}
NOTES = {
    "velocity": "at the time of the positions; LAMMPS says those half a timestep before and after,"
    " and these are their mean. Where no step follows (the last of a run) they are the ones before"
    " plus half a timestep of the recorded force, without what thermostats add.",
    "net_force": "per atom; taken out of the forces unless atoms are held",
    "torque_force": "root mean square over atoms of the forces that were taken out with the torque,"
    " of what is periodic nowhere",
    "contact_distance": "of the closest pair, by its ratio to the shortest that is known of its"
    " elements; NaN where no pair is near that",
    "run": "counts the stretches in which the step ascends: a restart may repeat steps",
}


@dataclass(frozen=True, slots=True)
class Head:
    """What all frames of a recording share.

    net_force_removed: the model was trained without it (`inference.interface.Capabilities`), so
        that the recorded one means nothing
    """

    particles: Particles
    precision: Precision
    net_force_removed: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """A closed file with the frames of segments `first` to `last`."""

    path: Path
    first: int
    last: int
    n_frames: int
    vectors: tuple[str, ...]
    scalars: tuple[str, ...]

    @property
    def span(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Column:
    """A dataset with one row a frame."""

    path: str
    shape: tuple[int, ...] = ()
    dtype: str = "<f8"
    unit: str | None = None
    note: str | None = None
    fill: float = field(default=float("nan"))

    @property
    def is_vector(self) -> bool:
        return self.shape[1:] == (3,) and self.path != f"{EDGES}/value"


def columns(head: Head, vectors: Sequence[str], scalars: Sequence[str]) -> list[Column]:
    n_atoms = len(head.particles.numbers)
    return [
        Column(f"{EDGES}/step", (), "<i8", fill=-1),
        Column(f"{EDGES}/time", (), unit="ps"),
        Column(f"{EDGES}/value", (3, 3), unit="Angstrom"),
        *(
            Column(
                f"particles/all/{name}/value",
                (n_atoms, 3),
                dtype(head.precision),
                UNITS[name],
                NOTES.get(name),
            )
            for name in vectors
        ),
        *(
            Column(f"observables/{name}/value", unit=UNITS.get(name), note=NOTES.get(name))
            for name in scalars
        ),
    ]
