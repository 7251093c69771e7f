"""Dynamics with a model, for relabelling: visit.py MODEL OUT SEED [ps].

128 atoms of Li3PS4 at 600 to 1050 K, dynamics with the model, a frame every 0.25 ps.
OUT has the structures and the model's forces on them; `forcenet-md label` adds the teacher's. It
counts frames in which a P has other than four S near, which the teacher's dynamics hardly make.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read
from ase.neighborlist import neighbor_list

from forcenet_md import ForceNetCalculator
from forcenet_md.data.frames import write_frames
from forcenet_md.data.visiting import Visit, follow

HERE = Path(__file__).resolve().parent
TEMPERATURES = (600.0, 700.0, 800.0, 900.0, 1050.0)


def main(model: str, out: Path, seed: int, time_ps: float) -> None:
    start = read(HERE / "li3ps4.cif").repeat((2, 2, 2))
    calculator = ForceNetCalculator(model)
    frames = []
    for temperature in TEMPERATURES:
        start.info = {
            "config_type": "visited",
            "temperature": temperature,
            "trajectory": f"{seed}-{temperature:g}",
        }
        plan = Visit(temperature, time_ps, spacing_ps=0.25)
        path = list(follow(start, calculator, plan, seed + int(temperature)))
        broken = sum(not_in_tetrahedra(frame) > 0 for frame in path)
        print(
            f"{temperature:g} K: {len(path)} frames, {broken} with a P without four S", flush=True
        )
        frames += path
    write_frames(out, frames)


def not_in_tetrahedra(atoms: Atoms) -> int:
    """Number of P atoms that have other than four S within 2.6 Å."""
    centre = neighbor_list("i", atoms, {("P", "S"): 2.6})
    bonded = np.bincount(centre, minlength=len(atoms))
    return int((bonded[atoms.symbols == "P"] != 4).sum())


if __name__ == "__main__":
    main(
        sys.argv[1],
        Path(sys.argv[2]),
        int(sys.argv[3]),
        float(sys.argv[4]) if len(sys.argv) > 4 else 12.0,
    )
