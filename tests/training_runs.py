"""What the tests of training share: labelled frames, and the configuration of a small run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms

from forcenet_md.data.frames import write_frames
from forcenet_md.data.store import Frames
from forcenet_md.data.teachers import open_teacher
from forcenet_md.training.survey import open_frames

MAIN = "from forcenet_md.cli.main import main; main()"


def crystal(seed: int, repeat: int = 2) -> Atoms:
    """A small rattled Cu–Au crystal."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", "fcc", a=3.8, cubic=True) * (2, 2, repeat)
    atoms.set_chemical_symbols(rng.choice(["Cu", "Au"], len(atoms)).tolist())
    atoms.positions += rng.normal(0.0, 0.1, atoms.positions.shape)
    atoms.info.update(temperature=float(300 * (seed % 2 + 1)), trajectory=f"t{seed}")
    return atoms


def label(frames: list[Atoms]) -> list[Atoms]:
    with open_teacher("emt") as teacher:
        return [teacher.label(atoms) for atoms in frames]


def write_labelled(path: Path, frames: list[Atoms]) -> Path:
    write_frames(path, label(frames))
    return path


def frames_of(path: Path, folder: Path) -> Frames:
    return open_frames([path], folder)


def with_held_atoms(atoms: Atoms, held: list[int]) -> Atoms:
    """The frame with a constraint on these atoms; labels are kept as they are."""
    out = atoms.copy()
    out.calc = atoms.calc
    out.set_constraint(FixAtoms(held))
    return out


def write_config(folder: Path, frames: Path, **training: Any) -> Path:
    """A run on the frames, tested on a copy of them."""
    test = folder / f"test-{frames.name}"
    if frames.exists():  # a test of missing frames has none
        shutil.copy(frames, test)
    tree = {
        "folder": str(folder / "run"),
        "output": str(folder / "m.pt"),
        "data": {"train": str(frames), "test": str(test), "validation_fraction": 0.0},
        "model": {"hidden": 16, "cutoff": 4.0, "n_radial": 4, "n_hidden_edge": 1},
        "training": {"steps": 20, **training},
        "card": {"name": "tiny", "description": "EMT", "licence": "CC0-1.0", "citation": "none"},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path
