"""One made-up run as every kind of file that `forcenet-md analyse` reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from ase import Atoms
from ase import units as u

PS = 1000.0 * u.fs
EVERY = 5  # steps between frames


def write_dump(
    path: Path,
    frames: Sequence[Atoms],
    columns: str = "x",
    types: Sequence[str] = (),
    first: int = 0,
    heading: str = "",
) -> Path:
    """As LAMMPS's dump custom in units metal, atoms in another order in each frame.

    columns: x, xu, xs, xsu or 'x ix' for positions; types: elements, in place of their column
    """
    rng = np.random.default_rng(0)
    text = []
    for k, atoms in enumerate(frames):
        cell = atoms.cell.array
        wrapped = atoms.get_positions(wrap=True)
        images = np.rint((atoms.positions - wrapped) @ np.linalg.inv(cell))
        match columns:
            case "x":
                names, positions = "x y z", wrapped
            case "xu":
                names, positions = "xu yu zu", atoms.positions
            case "xs":
                names, positions = "xs ys zs", wrapped @ np.linalg.inv(cell)
            case "xsu":
                names, positions = "xsu ysu zsu", atoms.positions @ np.linalg.inv(cell)
            case _:
                names, positions = "x y z ix iy iz", np.hstack([wrapped, images])
        xy, xz, yz = cell[1, 0], cell[2, 0], cell[2, 1]
        tilted = bool(xy or xz or yz)
        low = [min(0.0, xy, xz, xy + xz), min(0.0, yz), 0.0]
        high = np.diag(cell) + np.array([max(0.0, xy, xz, xy + xz), max(0.0, yz), 0.0])
        tilts = [f" {tilt!r}" if tilted else "" for tilt in (float(xy), float(xz), float(yz))]
        words = "".join(" pp" if periodic else " ff" for periodic in atoms.pbc)
        text += [
            *([heading] if heading and k == 0 else []),
            f"ITEM: TIMESTEP\n{first + EVERY * k}\nITEM: NUMBER OF ATOMS\n{len(atoms)}\n",
            f"ITEM: BOX BOUNDS{' xy xz yz' if tilted else ''}{words}\n",
            *(f"{float(a)!r} {float(b)!r}{t}\n" for a, b, t in zip(low, high, tilts, strict=True)),
            f"ITEM: ATOMS id {'type' if types else 'element'} {names} vx vy vz\n",
        ]
        velocities = atoms.get_velocities() * PS
        for row in rng.permutation(len(atoms)):
            symbol = atoms.symbols[row]
            kind = str(list(types).index(symbol) + 1) if types else symbol
            values = " ".join(repr(float(x)) for x in (*positions[row], *velocities[row]))
            text.append(f"{row + 1} {kind} {values}\n")
    path.write_text("".join(text))
    return path


def write_h5md(
    path: Path, frames: Sequence[Atoms], timestep: float, nanometres: bool = False
) -> Path:
    """H5MD 1.1 with wrapped positions. timestep: ps of a step"""
    scale, length = (0.1, "nm") if nanometres else (1.0, "Angstrom")
    n = len(frames)
    with h5py.File(path, "w") as file:
        file.create_group("h5md").attrs["version"] = [1, 1]
        group = file.create_group("particles/all")
        group["species"] = frames[0].numbers.astype("<i4")
        group["mass"] = frames[0].get_masses()
        group["mass"].attrs["unit"] = "u"
        steps = EVERY * np.arange(n)
        for name, unit, values in (
            ("position", length, [scale * atoms.get_positions(wrap=True) for atoms in frames]),
            ("velocity", f"{length} ps-1", [scale * a.get_velocities() * PS for a in frames]),
        ):
            group[f"{name}/value"] = np.array(values)
            group[f"{name}/value"].attrs["unit"] = unit
            group[f"{name}/step"], group[f"{name}/time"] = steps, timestep * steps
            group[f"{name}/time"].attrs["unit"] = "ps"
        box = group.create_group("box")
        box.attrs["dimension"] = 3
        box.attrs["boundary"] = ["periodic" if p else "none" for p in frames[0].pbc]
        box["edges/value"] = np.array([scale * atoms.cell.array for atoms in frames])
        box["edges/value"].attrs["unit"] = length
        box["edges/step"], box["edges/time"] = steps, timestep * steps
    return path


def walk(
    n_frames: int, symbols: Sequence[str], step: float, seed: int = 0, tilted: bool = False
) -> list[Atoms]:
    """Unwrapped random walks, each Cartesian step normal with this deviation (Å), and Maxwell
    velocities of 300 K, in a cell about 9 Å wide."""
    rng = np.random.default_rng(seed)
    cell = np.array([[9.0, 0, 0], [0, 10.0, 0], [0, 0, 8.0]])
    if tilted:
        cell = np.array([[9.0, 0, 0], [3.0, 10.0, 0], [-2.0, 1.5, 8.0]])
    positions = rng.random((len(symbols), 3)) @ cell
    frames = []
    for _ in range(n_frames):
        atoms = Atoms(symbols, positions=positions, cell=cell, pbc=True)
        width = np.sqrt(u.kB * 300.0 / atoms.get_masses())[:, None]
        atoms.set_velocities(rng.normal(size=positions.shape) * width)
        frames.append(atoms)
        positions = positions + rng.normal(scale=step, size=positions.shape)
    return frames
