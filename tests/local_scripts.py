"""LAMMPS scripts of all kinds of boxes, one after another by `clear`, for the model on every rank.

A case has what comes before the box, how its atoms are made (by one rank, once: ids would depend
on the number of ranks), and what is done with them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

BOX = "lattice fcc 3.9\nregion box block 0 {} 0 {} 0 {}\ncreate_box 2 box\n"
PRISM = "lattice fcc 3.9\nregion box prism 0 3 0 3 0 3 {}\ncreate_box 2 box\n"
FILL = "create_atoms 1 box\n"
PART = "region part {}\ncreate_atoms 1 region part\n"
LAST = (
    "set group all type/fraction 2 0.5 11\nmass 1 63.546\nmass 2 195.084\n"
    "velocity all create 4000 4711 loop geom\n"
)
EXTERNAL = "fix ext all external pf/callback 1 1\nforcenet ext unix:/nowhere/s elements Cu Pt\n"
NVE = "fix 1 all nve\ntimestep 0.002\n"
RUN = NVE + "run 25\n"
CUBE, LONG = BOX.format(3, 3, 3) + FILL, BOX.format(4, 3, 3) + FILL

CASES: dict[str, tuple[str, str, str]] = {
    "bulk": ("", CUBE, NVE + "run 150\n"),
    "thin": ("", BOX.format(4, 4, 1) + FILL, RUN),
    "one_cell": ("", BOX.format(1, 1, 1) + FILL, RUN),
    "tilted": ("", PRISM.format("1 0.5 -0.7") + FILL, RUN),
    "slab": ("", BOX.format(3, 3, 9) + PART.format("block INF INF INF INF 0 2.9"), RUN),
    "open": ("boundary p f s\n", LONG, "fix wall all wall/reflect ylo EDGE yhi EDGE\n" + RUN),
    "droplet": ("", BOX.format(12, 12, 12) + PART.format("sphere 3 3 3 1.6"), RUN),
    "empty_ranks": (
        "processors 1 1 *\n",
        BOX.format(3, 3, 9) + PART.format("block INF INF INF INF 0 1.4"),
        RUN,
    ),
    "tiled": ("comm_style tiled\n", LONG, "fix 2 all balance 5 1.0 rcb\n" + RUN),
    "balance": (
        "",
        LONG,
        "balance 1.0 shift xyz 5 1.0\nfix 2 all balance 5 1.0 shift xyz 5 1.0\n" + RUN,
    ),
    "deform": ("", CUBE, "fix 2 all deform 1 x scale 1.15 y scale 0.9 remap x\n" + RUN),
    "shear": (
        "",
        PRISM.format("1.45 0 0") + FILL,
        "fix 2 all deform 1 xy delta 2.0 flip yes remap x\n" + RUN,
    ),
    "deleted": (
        "",
        LONG,
        RUN + "region part block 0 4 0 4 INF INF\ndelete_atoms region part compress no\nrun 10\n",
    ),
    "lost": ("boundary f f f\n", CUBE, NVE + "thermo_modify lost ignore\nrun 60\n"),
    "held": ("", CUBE, "group low id < 30\nfix 3 low setforce 0 0 0\n" + RUN),
    "no_newton": ("newton off\n", CUBE, RUN),
    "two_fixes": ("", CUBE, EXTERNAL.replace(" ext ", " two ") + RUN),
    "fire": ("", CUBE, "min_style fire\nminimize 0 1e-9 10 20\n"),
    "twice": (
        "",
        CUBE,
        NVE + "run 5\nrun 5 pre no\nunfix ext\nrun 2\n" + EXTERNAL + "run 5\n",
    ),
}


def making() -> str:
    """Writes NAME.data of every case."""
    return "".join(
        f"clear\nunits metal\n{before}{make}{LAST}write_data {name}.data\n"
        for name, (before, make, _) in CASES.items()
    )


def script(folder: Path, names: Iterable[str], external: str = EXTERNAL) -> str:
    """Cases, from the data in that folder, each with its dump NAME.dump."""
    return "".join(
        f"clear\nunits metal\n{before}read_data {folder / name}.data\n"
        f"pair_style zero 3.0\npair_coeff * *\n{external}"
        f"dump 1 all custom 5 {name}.dump id xu yu zu fx fy fz\n"
        f"dump_modify 1 sort id format float %.15g\n{after}"
        for name, (before, _, after) in ((name, CASES[name]) for name in names)
    )


def frames(folder: Path, name: str) -> list[np.ndarray]:
    """[n_atoms, 7] of each frame: id, unwrapped positions, forces."""
    blocks = (folder / f"{name}.dump").read_text().split("ITEM: ATOMS")[1:]
    found = []
    for block in blocks:
        lines = block.partition("ITEM: TIMESTEP")[0].splitlines()[1:]
        found.append(np.array([line.split() for line in lines], dtype=float).reshape(-1, 7))
    return found
