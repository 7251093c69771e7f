"""Dynamics with a model, for relabelling: visit.py MODEL OUT.

Langevin dynamics of Li3PS4 on the model's forces, at constant volume. OUT has structures along it
and the model's forces on them; `forcenet-md label` adds the teacher's. It counts frames in which a
P has other than four S near, which the teacher's dynamics hardly make.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list

from forcenet_md import ForceNetCalculator
from forcenet_md.data.frames import read_frames, write_frames
from forcenet_md.data.visiting import Visit, follow

HERE = Path(__file__).resolve().parent


def main(given: argparse.Namespace) -> None:
    (cell,) = read_frames(HERE / "li3ps4.cif")
    start = cell.repeat(given.repeat)
    calculator = ForceNetCalculator(given.model)
    frames = []
    for temperature in given.temperatures:
        start.info = {
            "config_type": "visited",
            "temperature": temperature,
            "trajectory": f"{given.seed}-{temperature:g}",
        }
        plan = Visit(temperature, given.ps, given.spacing)
        path = list(follow(start, calculator, plan, given.seed + int(temperature)))
        odd = sum(not_in_tetrahedra(frame) > 0 for frame in path)
        print(f"{temperature:g} K: {len(path)} frames, {odd} with a P without four S", flush=True)
        frames += path
    write_frames(given.out, frames)


def not_in_tetrahedra(atoms: Atoms) -> int:
    """Number of P atoms that have other than four S within 2.6 Å."""
    centre = neighbor_list("i", atoms, {("P", "S"): 2.6})
    bonded = np.bincount(centre, minlength=len(atoms))
    return int((bonded[atoms.symbols == "P"] != 4).sum())


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--repeat", type=int, nargs=3, default=(2, 2, 2), help="of the unit cell")
    temperatures = (600.0, 700.0, 800.0, 900.0, 1050.0)
    parser.add_argument("--temperatures", type=float, nargs="+", default=temperatures, help="K")
    parser.add_argument("--ps", type=float, default=12.0, help="of each path")
    parser.add_argument("--spacing", type=float, default=0.25, help="ps between structures")
    return parser


if __name__ == "__main__":
    main(parser().parse_args())
