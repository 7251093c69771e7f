"""The data set of the shipped alloy model: training and test structures of Ag Au Cu Pd Pt.

About 80 % dynamics of the teacher over 300–2500 K (a quarter of it strained, part of it molten,
part of it slabs), 12 % rattled lattices, 8 % short pairs. The test set has other compositions and
the temperatures 600, 1200 and 2000 K, which no training trajectory has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from ase import Atoms

from forcenet_md.data import sampling
from forcenet_md.data.frames import composition
from forcenet_md.data.lammps_box import LammpsBox
from forcenet_md.data.sampling import Dynamics

ELEMENTS = ("Ag", "Au", "Cu", "Pd", "Pt")
TRAINING_TEMPERATURES = (300, 400, 500, 700, 800, 900, 1000, 1100, 1300, 1400, 1500, 1700, 1800,
                         2200, 2350, 2500)  # fmt: skip
TEST_TEMPERATURES = (600, 1200, 2000)
MELT_ABOVE = 1400.0


def training_structures(box: LammpsBox, n_frames: int, seed: int) -> Iterator[Atoms]:
    """About n_frames structures in random order of origin, unlabelled."""
    rng = np.random.default_rng(seed)
    per_trajectory = 10
    n_slabs = max(1, round(0.08 * n_frames / per_trajectory))
    n_bulk = max(1, round(0.72 * n_frames / per_trajectory))
    seeds = []
    for k in range(n_bulk):
        temperature = float(rng.choice(TRAINING_TEMPERATURES))
        plan = Dynamics(
            temperature,
            pressure=float(rng.choice([0.0, 0.0, rng.uniform(-3e4, 1e5)])),
            melt=bool(temperature > MELT_ABOVE and rng.random() < 0.6),
            frames=per_trajectory,
        )
        start = sampling.random_alloy(ELEMENTS, rng)
        for atoms in sampling.run_teacher(box, start, plan, int(rng.integers(1, 10**8))):
            out = sampling.strained(atoms, 0.05, rng) if rng.random() < 0.25 else atoms
            seeds.append(out)
            yield _origin(out, "md", temperature, k)
    for k in range(n_slabs):
        temperature = float(rng.choice([t for t in TRAINING_TEMPERATURES if t <= MELT_ABOVE]))
        plan = Dynamics(temperature, pressure=None, frames=per_trajectory)
        start = sampling.random_slab(ELEMENTS, rng, layers=int(rng.integers(4, 7)))
        for atoms in sampling.run_teacher(box, start, plan, int(rng.integers(1, 10**8))):
            yield _origin(atoms, "slab", temperature, n_bulk + k)
    n_runs = n_bulk + n_slabs
    n_rattled, n_short = round(0.12 * n_frames), round(0.08 * n_frames)
    for k in range(n_rattled):
        lattice = sampling.random_alloy(ELEMENTS, rng, scale=rng.uniform(0.95, 1.07))
        yield _origin(
            sampling.rattled(lattice, rng.uniform(0.03, 0.35), rng), "rattled", 0.0, n_runs + k
        )
    for k in range(n_short):
        base = seeds[int(rng.integers(len(seeds)))]
        pushed = sampling.with_short_pairs(base, int(rng.integers(1, 4)), 1.5, 2.3, rng)
        yield _origin(pushed, "short", 0.0, n_runs + n_rattled + k)


def held_out_structures(
    box: LammpsBox, seen: Sequence[Atoms], seed: int, *, compositions: int = 8, frames: int = 7
) -> Iterator[Atoms]:
    """compositions × temperatures × frames structures at zero pressure, none of whose
    compositions is among those of `seen`."""
    rng = np.random.default_rng(seed)
    known = {composition(atoms) for atoms in seen}
    for k in range(compositions):
        start = sampling.random_alloy(ELEMENTS, rng)
        while composition(start) in known:
            start = sampling.random_alloy(ELEMENTS, rng)
        for j, temperature in enumerate(TEST_TEMPERATURES):
            plan = Dynamics(float(temperature), melt=temperature > MELT_ABOVE, frames=frames)
            for atoms in sampling.run_teacher(box, start, plan, int(rng.integers(1, 10**8))):
                yield _origin(atoms, "test", temperature, k * len(TEST_TEMPERATURES) + j)


def _origin(atoms: Atoms, kind: str, temperature: float, trajectory: int) -> Atoms:
    atoms.info.update(config_type=kind, temperature=float(temperature), trajectory=trajectory)
    return atoms
