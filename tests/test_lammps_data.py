"""Data files of LAMMPS: what LAMMPS itself wrote, and elements that are not told."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write
from in_process_runs import BIN

from forcenet_md.data.reading import read_source
from forcenet_md.data.source import Options
from forcenet_md.errors import DataError

SCRIPT = """units {units}
atom_style charge
read_data begin.data
change_box all triclinic
pair_style zero 3.0
pair_coeff * *
write_data end.data
"""


@pytest.fixture
def alloy() -> Atoms:
    atoms = bulk("Cu", cubic=True, a=3.7) * (2, 1, 1)
    atoms.symbols = "CuAuCuAuCuAuCuCu"
    atoms.rattle(0.1, seed=1)
    return atoms


@pytest.mark.parametrize("units", ["metal", "si"])
def test_what_lammps_wrote(units: str, alloy: Atoms, tmp_path: Path) -> None:
    """In any order of its atoms, tilted, and in units that its first line names."""
    begin = tmp_path / "begin.data"
    write(begin, alloy, format="lammps-data", atom_style="charge", units=units, masses=True)
    (tmp_path / "in").write_text(SCRIPT.format(units=units), encoding="ascii")
    lmp = [str(BIN / "lmp"), "-in", "in", "-log", "none"]
    subprocess.run(lmp, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    (found,) = read_source(tmp_path / "end.data")
    assert found.get_chemical_symbols() == alloy.get_chemical_symbols()
    assert found.pbc.all()
    np.testing.assert_allclose(found.cell, alloy.cell, rtol=1e-8, atol=1e-8)
    apart = found.get_scaled_positions() - alloy.get_scaled_positions()
    np.testing.assert_allclose(apart - np.round(apart), 0.0, atol=1e-7)


def written(folder: Path, atoms: Atoms, masses: str, labels: str = "") -> Path:
    path = folder / "a.data"
    write(path, atoms, format="lammps-data")
    text = path.read_text(encoding="ascii")
    path.write_text(text.replace("Atoms # atomic", f"{labels}{masses}Atoms # atomic"))
    return path


@pytest.mark.parametrize(
    ("masses", "words"),
    [
        ("", "neither masses nor labels that name elements"),
        ("Masses\n\n1 196.97\n2 62.0\n\n", "type 2 has a mass of 62, which is no element's"),
    ],
)
def test_elements_that_nothing_tells(masses: str, words: str, alloy: Atoms, tmp_path: Path) -> None:
    path = written(tmp_path, alloy, masses)
    with pytest.raises(DataError, match=rf"frame 0 of .*a.data: .*{words}"):
        list(read_source(path))
    (found,) = read_source(path, Options(("Au", "Cu")))  # ASE's types are in alphabetical order
    assert found.get_chemical_symbols() == alloy.get_chemical_symbols()
    with pytest.raises(DataError, match="an atom of type 2, but --elements names 1"):
        list(read_source(path, Options(("Au",))))


@pytest.mark.parametrize(("labels", "elements"), [("Pt Pd", {"Pt", "Pd"}), ("a b", {"Au", "Cu"})])
def test_labels_that_are_elements_come_before_masses(
    labels: str, elements: set[str], alloy: Atoms, tmp_path: Path
) -> None:
    first, second = labels.split()
    section = f"Atom Type Labels # of types\n\n1 {first} # one\n2 {second}\n\n"
    path = written(tmp_path, alloy, "Masses\n\n1 196.97\n2 63.546\n\n", section)
    (found,) = read_source(path)
    assert set(found.symbols) == elements
