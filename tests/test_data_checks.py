"""What a manifest says of frames that are strange, and of units that are not eV and Å."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from labelled_files import label, labelled, write_traj

from forcenet_md.data.labelled import from_atoms
from forcenet_md.data.manifest import Manifest
from forcenet_md.data.report import describe, findings
from forcenet_md.data.store import Store, compile_store
from forcenet_md.data.unit_checks import FORCES, REACHES, Units, nearest_ratio
from forcenet_md.errors import DataError


def compiled(folder: Path, frames: list[Atoms], given: Units | None = None) -> Manifest:
    write_traj(folder / "a.traj", frames)
    return compile_store([folder / "a.traj"], folder / "out.h5", units=given or Units())


def test_duplicates_are_named_with_what_they_repeat(tmp_path: Path) -> None:
    frames = [labelled(k) for k in (0, 1, 2, 1, 3, 0, 1)]
    frames[3].positions += 1e-9
    frames[5].calc.results["forces"] += 1.0  # other labels of the same structure
    found = compiled(tmp_path, frames).duplicates
    assert found.count == 3
    assert [(place.row, place.what.split(" of ")[0]) for place in found.named] == [
        (3, "the same as frame 1"),
        (5, "the same as frame 0"),
        (6, "the same as frame 1"),
    ]
    assert str(found.named[0]).startswith(f"frame 3 of {tmp_path / 'a.traj'}: the same as frame 1")


def test_another_cell_or_element_is_no_duplicate(tmp_path: Path) -> None:
    frames = [labelled(0), labelled(0), labelled(0), labelled(0)]
    frames[1].set_cell(frames[1].cell * 1.001)
    frames[2].symbols[0] = "Ag"
    frames[3].pbc = (True, True, False)
    assert compiled(tmp_path, frames).duplicates.count == 0


def test_outlying_forces_and_near_atoms_are_named(tmp_path: Path) -> None:
    frames = [labelled(k) for k in range(40)]
    frames[17].calc.results["forces"][2] = (0.0, 60.0, 0.0)
    frames[23].calc.results["forces"][1] = (0.0, 70.0, 0.0)
    frames[5].positions[1] = frames[5].positions[0] + (0.0, 0.0, 0.9)
    manifest = compiled(tmp_path, frames)
    assert [place.frame for place in manifest.large_forces.named] == [23, 17]
    assert "a force of 70 eV/Å" in manifest.large_forces.named[0].what
    assert [place.frame for place in manifest.near_atoms.named] == [5]
    lines = "\n".join(findings(manifest))
    assert f"  frame 17 of {tmp_path / 'a.traj'}: a force of 60 eV/Å" in lines
    assert "40 frames, 160 atoms (4 to 4 a frame), 40 with energy" in describe(manifest)


def test_large_forces_of_a_wide_set_are_no_outliers(tmp_path: Path) -> None:
    frames = [labelled(k) for k in range(40)]
    for k, atoms in enumerate(frames):
        atoms.calc.results["forces"] *= 10 ** (k / 20 - 1)
    assert compiled(tmp_path, frames).large_forces.count == 0


def test_remarks(tmp_path: Path) -> None:
    heavy = labelled(0)
    heavy.symbols[0] = "Cm"
    boxed = labelled(1)
    boxed.pbc = False
    manifest = compiled(tmp_path, [heavy, boxed, labelled(2)])
    assert any("no atomic properties for Cm" in text for text in manifest.remarks)
    assert any(
        text.startswith("1 frames have a cell without pbc (the first: frame 1 of")
        for text in manifest.remarks
    )
    assert compiled(tmp_path, [labelled(2)]).remarks == []


STRUCTURES = {
    "metal": bulk("Na", cubic=True),
    "covalent": bulk("Si", cubic=True),
    "salt": bulk("NaCl", "rocksalt", a=5.64),
    "molecule": molecule("CH3CH2OH"),
    "noble": bulk("Ar", cubic=True),
    "compressed": bulk("Fe", "bcc", a=2.5),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_real_structures_pass(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(3):
        atoms = STRUCTURES[name].copy()
        atoms.rattle(0.05, rng=rng)
        frames.append(label(atoms, rng.normal(size=(len(atoms), 3)), 0.0))
    manifest = compiled(tmp_path, frames)
    assert manifest.remarks == []
    assert manifest.units.checked == "length by magnitude, force by magnitude, in 3 frames"


@pytest.mark.parametrize(
    ("unit", "factor", "guess"), [("bohr", units.Bohr, "bohr"), ("nm", 10.0, "nm")]
)
def test_positions_in_other_units_are_refused_and_converted(
    tmp_path: Path, unit: str, factor: float, guess: str
) -> None:
    frames = [labelled(k) for k in range(3)]
    for atoms in frames:
        atoms.set_cell(atoms.cell / factor, scale_atoms=True)
        atoms.set_constraint(FixAtoms([2]))
    with pytest.raises(DataError, match=rf"a.traj look like {guess} .*--units-length {guess}, or"):
        compiled(tmp_path, frames)
    assert not (tmp_path / "out.h5").exists()
    manifest = compiled(tmp_path, frames, Units(length=unit))
    assert manifest.units.length == unit
    assert manifest.units.checked.startswith("length as told")
    np.testing.assert_allclose(
        Store(tmp_path / "out.h5").frame(1).positions, labelled(1).positions, atol=1e-12
    )
    np.testing.assert_allclose(Store(tmp_path / "out.h5").frame(1).cell, 3.8 * np.eye(3))
    assert Store(tmp_path / "out.h5").frame(1).fixed.tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    ("unit", "refused"),
    [
        ("kcal/mol/angstrom", "kcal/mol/angstrom"),
        ("kJ/mol/angstrom", "kJ/mol/angstrom"),
        ("meV/angstrom", "meV/angstrom"),
        ("hartree/bohr", None),
    ],
)
def test_forces_in_other_units(tmp_path: Path, unit: str, refused: str | None) -> None:
    """What is too large is refused; small forces may be those of relaxed structures."""
    frames = [labelled(k) for k in range(3)]
    energy, force = FORCES[unit]
    for atoms in frames:
        atoms.calc.results["forces"] /= force
        atoms.calc.results["energy"] /= energy
    if refused:
        with pytest.raises(DataError, match=rf"a.traj look like {refused} .*--units-force"):
            compiled(tmp_path, frames)
    else:
        (remark,) = compiled(tmp_path, frames).remarks
        assert "--units-force hartree/bohr" in remark
    assert compiled(tmp_path, frames, Units(force=unit)).remarks == []
    read, expected = Store(tmp_path / "out.h5").frame(2), labelled(2).calc.results
    np.testing.assert_allclose(read.forces, expected["forces"], rtol=1e-12)
    assert read.energy == pytest.approx(expected["energy"], rel=1e-12)


def test_hartree_per_bohr_is_51_eV_per_angstrom() -> None:
    assert FORCES["hartree/bohr"][1] == pytest.approx(51.422, abs=1e-3)
    assert FORCES["kcal/mol/angstrom"][1] == pytest.approx(1 / 23.06, rel=1e-3)
    with pytest.raises(DataError, match="--units-length metre is unknown: give one of angstrom"):
        Units(length="metre")


def test_mixed_units_between_files_are_said(tmp_path: Path) -> None:
    """Frames that pass one by one, side by side with the same in other units."""
    noble = [label(bulk("Ar", cubic=True), np.ones((4, 3)), 0.0) for _ in range(2)]
    write_traj(tmp_path / "a.traj", noble)
    for atoms in noble:
        atoms.set_cell(atoms.cell / units.Bohr, scale_atoms=True)
    write_traj(tmp_path / "b.traj", noble)
    both = [tmp_path / "a.traj", tmp_path / "b.traj"]
    with pytest.raises(DataError, match=r"b.traj and .*a.traj look .* mixed units .* 1.89 times"):
        compile_store(both, tmp_path / "out.h5")
    weak = [labelled(k) for k in range(2)]
    write_traj(tmp_path / "a.traj", weak)
    for atoms in weak:
        atoms.calc.results["forces"] /= 23.06
    write_traj(tmp_path / "b.traj", weak)
    (remark,) = compile_store(both, tmp_path / "out.h5").remarks
    assert "a.traj are 23 times those of" in remark
    assert "mixed units" in remark


def test_nearest_ratio() -> None:
    pair = label(Atoms("H2", [[0, 0, 0], [0.8, 0, 0]]), np.zeros((2, 3)))
    assert nearest_ratio(from_atoms(pair), REACHES) == pytest.approx(0.8 / 0.62)
    assert nearest_ratio(from_atoms(pair), (0.5,)) == np.inf
    across = label(
        Atoms("H2", [[0.1, 0, 0], [7.7, 0, 0]], cell=[8, 8, 8], pbc=True), np.zeros((2, 3))
    )
    assert nearest_ratio(from_atoms(across), REACHES) == pytest.approx(0.4 / 0.62)


def test_columns_of_the_frames_own_that_are_not_kept_are_named(tmp_path: Path) -> None:
    own = {"source": "Smith 2020", "composition": "half", "largest_force": 9.0}
    frames = [labelled(k, **own) for k in (0, 1)]
    ase.io.write(tmp_path / "a.extxyz", frames)
    manifest = compile_store([tmp_path / "a.extxyz"], tmp_path / "a.h5")
    (remark,) = [remark for remark in manifest.remarks if "not kept" in remark]
    assert "composition, largest_force, source (" in remark
    # What a store wrote is the same again, to the digits of a file.
    store = Store(tmp_path / "a.h5")
    ase.io.write(tmp_path / "b.extxyz", [store.atoms(row) for row in range(2)])
    for again in (tmp_path / "a.h5", tmp_path / "b.extxyz"):
        manifest = compile_store([again], tmp_path / "c.h5")
        said = [remark for remark in manifest.remarks if "not kept" in remark]
        kept = again.suffix == ".h5"  # there it says where the frames were read at first
        assert [" not kept: source (" in remark for remark in said] == ([] if kept else [True])


def test_frames_that_say_they_did_not_converge_are_named(tmp_path: Path) -> None:
    """In the column of VASP's; what is no yes or no says nothing."""
    told = [True, False, 1, 0, 0.0, "yes", np.zeros(2)]
    frames = [labelled(k, scf_converged=value) for k, value in enumerate(told)]
    found = compiled(tmp_path, [*frames, labelled(9)]).unconverged
    assert [place.frame for place in found.named] == [1, 3, 4]
