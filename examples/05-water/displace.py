"""Labelled frames around labelled frames: displace.py IN.h5 OUT.extxyz [copies] [seed] [kelvin].

From each frame of IN (DFT) a flexible water model, fitted to frames of IN, moves on for some
femtoseconds. The new label is the DFT force of the frame it started from, plus the change of the
model's force on the way. IN's own frames come first in OUT.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from flexible_water import FlexibleWater, fit

from forcenet_md.data.store import Store

COLDEST, HOTTEST = 200.0, 2500.0  # K, of the velocities; drawn evenly in their logarithm
TIMES = (2.0, 30.0)  # fs


def main(source: Path, out: Path, copies: int, seed: int, hottest: float) -> None:
    store = Store(source)
    frames = [store.atoms(row) for row in range(len(store))]
    inner = fit(frames[::8])
    print(inner)
    model = FlexibleWater(frames[0], inner)
    rng = np.random.default_rng(seed)
    made: list[Atoms] = []
    for frame in frames:
        f, x = frame.get_forces(), frame.positions
        change = f - model.forces(x)
        for _ in range(copies):
            temperature = float(np.exp(rng.uniform(*np.log([COLDEST, hottest]))))
            y = model.run(x, temperature, float(rng.uniform(*TIMES)), int(rng.integers(1, 10**8)))
            atoms = Atoms(frame.numbers, y, cell=frame.cell, pbc=True)
            atoms.info.update(config_type="displaced", temperature=round(temperature))
            atoms.calc = SinglePointCalculator(atoms, forces=model.forces(y) + change)
            made.append(atoms)
    model.close()
    write(out, [*frames, *made], format="extxyz")
    print(f"{len(frames)} frames and {len(made)} around them in {out}")


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        Path(sys.argv[2]),
        int(sys.argv[3]) if len(sys.argv) > 3 else 9,
        int(sys.argv[4]) if len(sys.argv) > 4 else 1,
        float(sys.argv[5]) if len(sys.argv) > 5 else HOTTEST,
    )
