"""What a force field for one material should have seen, from the dynamics of its teacher.

Trajectories at temperatures over a range, from cells that are stretched, pressed and sheared; then
rattled copies and pairs pushed together, for what dynamics seldom visits. Each trajectory is a job
of its own with its own seed and its own file, so the work can stop and go on anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list

from forcenet_md.data.frames import check_structure, largest_label, read_frames
from forcenet_md.data.sampling import rattled, strained
from forcenet_md.data.visiting import Visit, trajectory
from forcenet_md.distill.plan import Run
from forcenet_md.engines.prepared import check_occupancy
from forcenet_md.errors import DataError

LARGEST_FORCE = 60.0  # eV/Å; frames beyond teach nothing that dynamics needs
HEIGHT = 10.0  # Å, of a cell along its periodic directions
WATCHED = 10  # one frame of dynamics in so many, while training
BONDED = 1.3  # times the sum of covalent radii: neighbours
SQUEEZED = (0.75, 0.95)  # times that sum, of pairs pushed together
RATTLED = (0.02, 0.25)  # Å


def read_start(path: Path) -> Atoms:
    """The structure of a file. Raises DataError with the file's name."""
    frames = read_frames(path)
    if len(frames) > 1:
        raise DataError(f"{path} holds {len(frames)} structures: give a file with one.")
    (atoms,) = frames
    try:
        check_structure(atoms)
        check_occupancy(atoms)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    if atoms.cell.rank and not atoms.pbc.any():
        raise DataError(
            f'{path} has a cell but is not periodic: write pbc="T T T" into it, or leave the cell'
            " away."
        )
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)


def supercell(atoms: Atoms, most: int, height: float = HEIGHT) -> Atoms:
    """Repeated along its thinnest periodic directions until all are `height` Å thick, as long as
    there are no more than `most` atoms."""
    repeats = np.ones(3, dtype=int)
    heights = 1.0 / np.linalg.norm(np.linalg.inv(atoms.cell.complete()), axis=0)
    while True:
        now = np.where(atoms.pbc, repeats * heights, np.inf)
        thin = int(now.argmin())
        more = repeats + (np.arange(3) == thin)
        if now[thin] >= height or len(atoms) * more.prod() > most:
            return atoms.repeat(tuple(int(n) for n in repeats))
        repeats = more


def beginning(start: Atoms, run: Run) -> Atoms:
    """The structure a run begins with. Open directions are not strained."""
    atoms = start.copy()
    if run.shear and atoms.pbc.all():
        atoms = strained(atoms, run.shear, np.random.default_rng(run.seed))
    scale = np.where(atoms.pbc, run.scale, 1.0)
    atoms.set_cell(atoms.cell.array * scale[:, None], scale_atoms=True)
    return atoms


def explore(start: Atoms, run: Run, calculator: Calculator, dynamics: Visit) -> Iterator[Atoms]:
    """Labelled frames along one trajectory, with its columns; it ends early where the teacher
    fails."""
    for frame in trajectory(beginning(start, run), calculator, dynamics, run.seed):
        if largest_label(frame) < LARGEST_FORCE:
            frame.info = {
                "config_type": "md",
                "temperature": run.temperature,
                "trajectory": run.name,
            }
            yield frame


def set_apart(
    trajectories: Sequence[Sequence[Atoms]], seed: int
) -> tuple[list[Atoms], list[Atoms]]:
    """Frames to train on, and frames to watch while training: a tenth of all, from each trajectory
    one piece at random, because a frame and the next are nearly the same."""
    rng = np.random.default_rng(seed)
    ends = np.cumsum([0, *(len(frames) for frames in trajectories)])
    sizes = np.diff(ends // WATCHED)  # short ones give a frame now and then
    taught: list[Atoms] = []
    watched: list[Atoms] = []
    for frames, size in zip(trajectories, sizes, strict=True):
        begin = int(rng.integers(len(frames) - size + 1))
        taught += [*frames[:begin], *frames[begin + size :]]
        watched += frames[begin : begin + size]
    return taught, watched


def off_the_path(frames: Sequence[Atoms], n_frames: int, seed: int) -> list[Atoms]:
    """Unlabelled copies of frames: two of three are rattled, one has pairs pushed together."""
    rng = np.random.default_rng(seed)
    out = []
    for k in range(n_frames):
        atoms = frames[int(rng.integers(len(frames)))]
        if k % 3:
            made, kind = rattled(atoms, rng.uniform(*RATTLED), rng), "rattled"
        else:
            made, kind = squeezed(atoms, int(rng.integers(1, 4)), rng), "short"
        made.info = {"config_type": kind, "temperature": 0.0, "trajectory": f"off-{k}"}
        out.append(made)
    return out


def squeezed(atoms: Atoms, n_pairs: int, rng: np.random.Generator) -> Atoms:
    """A copy in which neighbours are pushed together to `SQUEEZED` times their covalent radii."""
    out = atoms.copy()
    radii = covalent_radii[out.numbers]
    first, second, vectors = neighbor_list("ijD", out, BONDED * 2.0 * radii.max())
    sums = radii[first] + radii[second]
    lengths = np.linalg.norm(vectors, axis=1)
    bonded = np.flatnonzero((lengths < BONDED * sums) & (first < second))
    for k in rng.permutation(bonded)[:n_pairs]:
        wanted = rng.uniform(*SQUEEZED) * sums[k]
        if lengths[k] > wanted:
            move = 0.5 * (1.0 - wanted / lengths[k]) * vectors[k]
            out.positions[first[k]] += move
            out.positions[second[k]] -= move
    return out
