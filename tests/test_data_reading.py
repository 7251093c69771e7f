"""Labelled frames are read as other programs write them; what is bad is named with its frame."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import ase.db
import ase.io
import dpdata
import numpy as np
import pytest
from ase import Atoms, units
from ase.constraints import FixAtoms
from labelled_files import label, labelled, write_dump, write_outcar, write_vasprun

from forcenet_md.data import reading
from forcenet_md.data.frames import forces_of, read_frames
from forcenet_md.data.reading import find_sources, read_source
from forcenet_md.data.report import findings
from forcenet_md.data.source import Options
from forcenet_md.data.store import Store, compile_store
from forcenet_md.data.unit_checks import Units
from forcenet_md.errors import DataError

FRAMES = [labelled(k, trajectory="a") for k in range(3)]


def write_database(path: Path) -> None:
    with ase.db.connect(path) as database:
        for atoms in FRAMES:
            database.write(atoms, **atoms.info)


def write_extxyz(path: Path) -> None:
    ase.io.write(path, FRAMES, format="extxyz")


def compressed(how: Callable[..., bytes]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        plain = path.with_suffix("")
        write_extxyz(plain)
        path.write_bytes(how(plain.read_bytes()))
        plain.unlink()

    return write


def write_deepmd(path: Path) -> None:
    system = dpdata.LabeledSystem(FRAMES[0], fmt="ase/structure")
    for atoms in FRAMES[1:]:
        system.append(dpdata.LabeledSystem(atoms, fmt="ase/structure"))
    system.to("deepmd/npy", str(path), set_size=2, comp_prec=np.float64)


WRITERS: dict[str, tuple[Callable[[Path], object], float]] = {
    "a.extxyz": (write_extxyz, 1e-8),
    "a.xyz": (write_extxyz, 1e-8),
    "a.extxyz.gz": (compressed(gzip.compress), 1e-8),
    "a.extxyz.xz": (compressed(lzma.compress), 1e-8),
    "a.extxyz.bz2": (compressed(bz2.compress), 1e-8),
    "a.db": (write_database, 0.0),
    "a.json": (write_database, 0.0),
    "a.traj": (lambda path: ase.io.write(path, FRAMES), 0.0),
    "a.lammpstrj": (lambda path: write_dump(path, FRAMES, elements=True), 0.0),
    "OUTCAR": (lambda path: write_outcar(path, FRAMES), 1e-5),
    "vasprun.xml": (lambda path: write_vasprun(path, FRAMES, [False] * 4), 1e-12),
    "deepmd": (write_deepmd, 0.0),
}


@pytest.mark.parametrize("name", WRITERS)
def test_formats(tmp_path: Path, name: str) -> None:
    write, precision = WRITERS[name]
    write(tmp_path / name)
    assert find_sources(tmp_path) == [tmp_path / name]
    manifest = compile_store([tmp_path], tmp_path / "out.h5")
    assert [source.frames for source in manifest.sources] == [3]
    store = Store(tmp_path / "out.h5")
    for i, atoms in enumerate(FRAMES):
        frame = store.frame(i)
        assert frame.numbers.tolist() == atoms.numbers.tolist()
        np.testing.assert_allclose(frame.positions, atoms.positions, atol=precision, rtol=0)
        np.testing.assert_allclose(frame.cell, atoms.cell.array, atol=1e-12)
        assert frame.pbc.all()
        expected = atoms.calc.results["forces"]
        np.testing.assert_allclose(frame.forces, expected, atol=precision, rtol=0)
        if "lammps" not in name:
            energy = atoms.calc.results["energy"]
            assert frame.energy == pytest.approx(energy, abs=1e-8)
    if name.startswith("a.") and "lammps" not in name and "traj" not in name:
        assert store.column("trajectory").tolist() == ["a"] * 3
    assert store.column("source").tolist() == [str(tmp_path / name)] * 3
    whole = read_frames(tmp_path / name, labelled=True)  # the other way in knows the same formats
    for k, atoms in enumerate(whole):
        np.testing.assert_array_equal(forces_of(atoms), store.frame(k).forces)
        np.testing.assert_array_equal(atoms.positions, store.frame(k).positions)
    assert len(whole) == 3


REACHED = "aborting loop because EDIFF is reached"
MISSED = "aborting loop EDIFF was not reached (unconverged)"


def test_vasps_frames_that_did_not_converge_are_named(tmp_path: Path) -> None:
    """By what version 6 says, or by the number of steps: in vasprun.xml always."""
    write_outcar(tmp_path / "OUTCAR", FRAMES, [4, 5, 5], ["", REACHED, ""])
    for name in ("6", "7"):
        (tmp_path / name).mkdir()
    write_outcar(tmp_path / "6" / "whole", FRAMES, [5, 4, 2], [REACHED, MISSED, REACHED])
    text = (tmp_path / "6" / "whole").read_bytes()
    (tmp_path / "6" / "OUTCAR.gz").write_bytes(gzip.compress(text))
    write_vasprun(tmp_path / "7" / "vasprun.xml", FRAMES, [False] * 4, [4, 3, 5])
    manifest = compile_store([tmp_path], tmp_path / "out.h5")
    named = [(Path(p.source).name, p.frame) for p in manifest.unconverged.named]
    assert named == [("OUTCAR.gz", 1), ("vasprun.xml", 2), ("OUTCAR", 2)]
    assert manifest.unconverged.count == 3
    store = Store(tmp_path / "out.h5")
    assert store.column("scf_converged").tolist() == [1, 0, 1, 1, 1, 0, 1, 1, 0]
    assert "3 frames have electrons that did not converge" in list(findings(manifest))
    again = compile_store([tmp_path / "out.h5"], tmp_path / "again.h5")
    assert again.unconverged.count == 3


def test_a_database_is_read_by_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PAGE", 2)
    with ase.db.connect(tmp_path / "a.db") as database:
        for k in range(7):
            database.write(labelled(k), number=k)
        database.delete([3])
    numbers = [atoms.info["number"] for atoms in read_source(tmp_path / "a.db")]
    assert numbers == [0, 1, 3, 4, 5, 6]


def test_held_atoms_keep_their_forces(tmp_path: Path) -> None:
    """ASE takes forces on held atoms out; the store has them, and the mask."""
    atoms = labelled(0)
    atoms.set_constraint(FixAtoms([1, 2]))
    for name in ("a.traj", "a.extxyz", "a.db"):
        ase.io.write(tmp_path / name, atoms)
        compile_store([tmp_path / name], tmp_path / "out.h5")
        frame = Store(tmp_path / "out.h5").frame(0)
        assert frame.fixed.tolist() == [False, True, True, False], name
        np.testing.assert_allclose(frame.forces, atoms.calc.results["forces"], atol=1e-8)


def test_selective_dynamics_are_held_atoms(tmp_path: Path) -> None:
    write_vasprun(tmp_path / "vasprun.xml", FRAMES, [True, False, False, True])
    compile_store([tmp_path], tmp_path / "out.h5")
    for i in range(3):
        assert Store(tmp_path / "out.h5").frame(i).fixed.tolist() == [True, False, False, True]


def write_oc20(folder: Path, number: int, *, compressed_text: bool = False) -> None:
    """A pair of files of the S2EF task, as published."""
    frames = []
    for k in range(2):
        atoms = labelled(10 * number + k)
        atoms.set_tags([0, 0, 1, 2])
        atoms.set_constraint(FixAtoms([0, 1]))
        frames.append(atoms)
    folder.mkdir(exist_ok=True)
    columns = ["symbols", "positions", "move_mask", "tags", "forces"]
    ase.io.write(folder / "x.extxyz", frames, format="extxyz", columns=columns)
    text = (folder / "x.extxyz").read_bytes()
    (folder / "x.extxyz").unlink()
    (folder / f"{number}.extxyz.xz").write_bytes(lzma.compress(text))
    lines = f"random{number},frame7,-1.5\nrandom{number + 50},frame0,2.25\n".encode()
    if compressed_text:
        (folder / f"{number}.txt.xz").write_bytes(lzma.compress(lines))
    else:
        (folder / f"{number}.txt").write_bytes(lines)


@pytest.mark.parametrize("compressed_text", [False, True])
def test_oc20_folder_as_published(tmp_path: Path, compressed_text: bool) -> None:
    for number in (0, 1):
        write_oc20(tmp_path / "s2ef", number, compressed_text=compressed_text)
    (tmp_path / "s2ef" / "README.md").write_text("read me", encoding="utf-8")
    compile_store([tmp_path / "s2ef"], tmp_path / "out.h5")
    store = Store(tmp_path / "out.h5")
    assert store.column("sid").tolist() == ["random0", "random50", "random1", "random51"]
    assert store.column("frame").tolist() == [7.0, 0.0, 7.0, 0.0]
    assert store.column("reference_energy").tolist() == [-1.5, 2.25, -1.5, 2.25]
    assert store.frame(3).tags.tolist() == [0, 0, 1, 2]
    assert store.frame(3).fixed.tolist() == [True, True, False, False]
    forces = labelled(11).calc.results["forces"]
    np.testing.assert_allclose(store.frame(3).forces, forces, atol=1e-8)


def test_oc20_text_must_fit_its_frames(tmp_path: Path) -> None:
    write_oc20(tmp_path, 0)
    (tmp_path / "0.txt").write_text("random0,frame7,-1.5\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"frame 1 of .*0.extxyz.xz: .*0.txt has no line for it"):
        list(read_source(tmp_path / "0.extxyz.xz"))


def test_a_folder_is_read_by_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    write_outcar(tmp_path / "run" / "OUTCAR", FRAMES)
    (tmp_path / "run" / "vasprun.xml").write_text("<modeling/>", encoding="utf-8")
    write_deepmd(tmp_path / "water")
    write_extxyz(tmp_path / "b.xyz")
    (tmp_path / "notes.txt").write_text("none", encoding="utf-8")
    (tmp_path / ".hidden.xyz").write_text("none", encoding="utf-8")
    (tmp_path / "settings.json").write_text('{"a": 1}', encoding="utf-8")
    found = [str(path.relative_to(tmp_path)) for path in find_sources(tmp_path)]
    assert found == ["b.xyz", "run/vasprun.xml", "water"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds nothing that is known by its name"):
        find_sources(tmp_path / "empty")


def test_elements_of_types_must_be_named(tmp_path: Path) -> None:
    dump = tmp_path / "a.dump"
    write_dump(dump, FRAMES, elements=False)
    with pytest.raises(DataError, match=r"frame 0 of .*a.dump: .*no column 'element'.*--elements"):
        list(read_source(dump))
    with pytest.raises(DataError, match=r"an atom of type 2, but --elements names 1"):
        list(read_source(dump, Options(("Au",))))
    (first, *_) = read_source(dump, Options(("Au", "Cu")))
    assert first.symbols.get_chemical_formula() == "Au2Cu2"
    write_deepmd(tmp_path / "dp")
    (tmp_path / "dp" / "type_map.raw").unlink()
    with pytest.raises(DataError, match=r"frame 0 of .*dp: .* no element.*--elements"):
        list(read_source(tmp_path / "dp"))
    (first, *_) = read_source(tmp_path / "dp", Options(("Ag", "Pt")))
    assert set(first.symbols) == {"Ag", "Pt"}


def test_a_dump_cut_between_two_atoms_is_said(tmp_path: Path) -> None:
    """ASE reads the atoms that are left as a frame of its own."""
    path = tmp_path / "a.lammpstrj"
    write_dump(path, FRAMES, elements=True)
    whole = path.read_text(encoding="utf-8")
    lines = whole.splitlines(keepends=True)
    for text in ("".join(lines[:-1]), "".join(lines[:-3]), "".join(lines[:-4]), whole[:-1]):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=r"frame 2 of .*a.lammpstrj: the file ends within it"):
            list(read_source(path))


def test_units_that_a_dump_states_are_converted(tmp_path: Path) -> None:
    path = tmp_path / "a.dump"
    frames = [labelled(k) for k in range(2)]
    for atoms in frames:
        atoms.calc.results["forces"] /= units.kcal / units.mol
    write_dump(path, frames, elements=True)
    plain = path.read_text(encoding="utf-8")
    path.write_text(f"ITEM: UNITS\nreal\n{plain}", encoding="utf-8")
    for atoms, expected in zip(read_source(path), FRAMES, strict=False):
        np.testing.assert_allclose(forces_of(atoms), forces_of(expected), rtol=1e-6)
        np.testing.assert_allclose(atoms.positions, expected.positions)
    with pytest.raises(DataError, match=r"says itself .* 'units real'.*: leave --units-length"):
        compile_store([path], tmp_path / "a.h5", units=Units(force="kcal/mol/angstrom"))
    path.write_text(f"ITEM: UNITS\nlj\n{plain}", encoding="utf-8")
    with pytest.raises(DataError, match="'units lj', which has no eV and Å"):
        list(read_source(path))


@pytest.mark.parametrize("name", ["force", "REF_forces", "dft_forces"])
def test_forces_of_another_name_are_pointed_at(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.extxyz"
    write_extxyz(path)
    text = path.read_text(encoding="utf-8").replace("forces:R:3", f"{name}:R:3")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=f"no column 'forces', but '{name}': rename that"):
        compile_store([path], tmp_path / "a.h5")


def test_a_mark_of_windows_at_the_beginning_is_no_damage(tmp_path: Path) -> None:
    write_extxyz(tmp_path / "a.extxyz")
    text = (tmp_path / "a.extxyz").read_text(encoding="utf-8").replace("\n", "\r\n")
    (tmp_path / "b.extxyz").write_text(text, encoding="utf-8-sig", newline="")
    assert len(list(read_source(tmp_path / "b.extxyz"))) == len(FRAMES)


def nan_forces(atoms: Atoms) -> None:
    atoms.calc.results["forces"][1, 2] = np.nan


def nan_energy(atoms: Atoms) -> None:
    atoms.calc.results["energy"] = np.inf


def no_forces(atoms: Atoms) -> None:
    del atoms.calc.results["forces"]


def flat_cell(atoms: Atoms) -> None:
    atoms.cell[2] = 0.0


def no_element(atoms: Atoms) -> None:
    atoms.numbers[1] = 0


def lost_atom(atoms: Atoms) -> None:
    atoms.positions[3, 0] = np.nan


BAD: dict[Callable[[Atoms], None], str] = {
    nan_forces: "its forces are not finite",
    nan_energy: "its energy is not finite",
    no_forces: "it has no forces; label it first",
    flat_cell: "the cell has no volume",
    no_element: r"atom 2 is no element \(number 0\)",
    lost_atom: "the position of atom 4 is not finite",
}


@pytest.mark.parametrize("spoil", BAD)
def test_a_bad_frame_is_named(tmp_path: Path, spoil: Callable[[Atoms], None]) -> None:
    frames = [labelled(k) for k in range(4)]
    spoil(frames[2])
    ase.io.write(tmp_path / "a.traj", frames)
    out = tmp_path / "out.h5"
    with pytest.raises(DataError, match=f"^frame 2 of .*a.traj: .*{BAD[spoil]}"):
        compile_store([tmp_path / "a.traj"], out)
    assert not out.exists()
    manifest = compile_store([tmp_path / "a.traj"], out, skip_bad=True)
    assert (manifest.frames, manifest.sources[0].bad) == (3, 1)
    assert manifest.sources[0].left_out[0].startswith(f"frame 2 of {tmp_path / 'a.traj'}: ")
    assert Store(out).column("source_frame").tolist() == [0, 1, 3]


def test_a_later_frame_that_is_damaged_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.extxyz"
    write_extxyz(path)
    whole = path.read_text(encoding="utf-8")
    lines = whole.splitlines(keepends=True)
    path.write_text("".join([*lines[:8], "Cu 0.0 zero 0.0\n", *lines[9:]]), encoding="utf-8")
    with pytest.raises(DataError, match=r"frame 1 of .*a.extxyz cannot be read \(.*damaged"):
        list(read_source(path))
    path.write_text("".join(lines[:-2]), encoding="utf-8")
    advice = r"frame 2 of .*: the file ends within it.*, as `data compile --skip-bad` does\."
    with pytest.raises(DataError, match=advice):
        list(read_source(path))
    path.write_text(whole[:-30], encoding="utf-8")
    with pytest.raises(DataError, match=r"frame 2 of .*(ends within it|cannot be read)"):
        list(read_source(path))
    path.write_text("".join([*lines[:6], "\n", *lines[6:]]), encoding="utf-8")
    with pytest.raises(DataError, match=r"frame 1 of .*: there is an empty line"):
        list(read_source(path))


@pytest.mark.parametrize("name", ["a.extxyz.xz", "a.extxyz.gz", "a.db", "a.traj"])
def test_files_cut_short_are_said(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name][0](path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=f"{name}"):
        compile_store([path], tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def test_skip_bad_takes_what_is_whole_of_a_damaged_file(tmp_path: Path) -> None:
    for name in ("a.extxyz", "b.extxyz"):
        write_extxyz(tmp_path / name)
    data = (tmp_path / "a.extxyz").read_bytes()
    (tmp_path / "a.extxyz").write_bytes(data[: len(data) // 2])
    manifest = compile_store([tmp_path], tmp_path / "out.h5", skip_bad=True)
    assert [(source.frames, source.bad) for source in manifest.sources] == [(1, 1), (3, 0)]
    (sentence,) = manifest.sources[0].left_out
    assert sentence.startswith(f"frame 1 of {tmp_path / 'a.extxyz'}: the file ends within it")
    (tmp_path / "b.extxyz").unlink()
    (tmp_path / "a.extxyz").write_bytes(data[:50])
    with pytest.raises(
        DataError, match=r"no frame can be used; the first: frame 0 .*a.extxyz.*cut"
    ):
        compile_store([tmp_path], tmp_path / "out.h5", skip_bad=True)


def test_a_frame_that_is_too_large_is_named(tmp_path: Path) -> None:
    for name in ("a.extxyz", "a.db", "a.traj", "a.lammpstrj"):
        WRITERS[name][0](tmp_path / name)
        with pytest.raises(DataError, match=r"frame 0 of .*4 atoms, more than the limit of 3: "):
            list(read_source(tmp_path / name, Options(max_atoms=3)))


def test_memory_that_is_not_enough_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_extxyz(tmp_path / "a.extxyz")

    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(reading, "read_xyz", full)
    with pytest.raises(DataError, match=r"frame 0 of .*a.extxyz does not fit into memory"):
        list(read_source(tmp_path / "a.extxyz"))


def test_a_fault_without_words_is_told_by_its_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_extxyz(tmp_path / "a.extxyz")

    def broken(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(reading, "read_xyz", broken)
    with pytest.raises(DataError, match=r"frame 0 of .*a.extxyz cannot be read \(AssertionError\)"):
        list(read_source(tmp_path / "a.extxyz"))


def test_labels_without_structures_and_structures_without_labels(tmp_path: Path) -> None:
    write_deepmd(tmp_path / "dp")
    force = tmp_path / "dp" / "set.000" / "force.npy"
    kept = force.read_bytes()
    force.unlink()
    with pytest.raises(DataError, match=r"frame 0 of .*dp: there is no set.000/force.npy"):
        list(read_source(tmp_path / "dp"))
    force.write_bytes(kept)
    (tmp_path / "dp" / "set.000" / "coord.npy").unlink()
    with pytest.raises(DataError, match=r"there is no set.000/coord.npy"):
        list(read_source(tmp_path / "dp"))
    write_dump(tmp_path / "a.dump", FRAMES, elements=True)
    text = (tmp_path / "a.dump").read_text(encoding="utf-8").replace("fx fy fz", "vx vy vz")
    (tmp_path / "a.dump").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"frame 0 of .*a.dump: it has no forces.*dump fx fy fz"):
        compile_store([tmp_path / "a.dump"], tmp_path / "a.h5")
    (tmp_path / "a.unknown").write_text("?\n", encoding="utf-8")
    with pytest.raises(DataError, match="ASE cannot tell the format"):
        list(read_source(tmp_path / "a.unknown"))
    with pytest.raises(DataError, match="there is no file or folder"):
        find_sources(tmp_path / "none")
    (tmp_path / "empty.xyz").touch()
    with pytest.raises(DataError, match="no labelled frame in"):
        compile_store([tmp_path / "empty.xyz"], tmp_path / "out.h5")


def test_deepmd_virials_are_stresses_of_ase(tmp_path: Path) -> None:
    """A stretched pair pulls: positive stress in ASE, negative virial in DeePMD."""
    atoms = label(
        Atoms("Cu2", [[0, 0, 0], [3.0, 0, 0]], cell=[12, 12, 12], pbc=True), np.zeros((2, 3)), 0.0
    )
    atoms.calc.results["stress"] = np.array([0.02, 0.0, 0.0, 0.0, 0.0, 0.0])
    dpdata.LabeledSystem(atoms, fmt="ase/structure").to("deepmd/npy", str(tmp_path / "dp"))
    virial = np.load(tmp_path / "dp" / "set.000" / "virial.npy")
    assert virial.reshape(3, 3)[0, 0] == pytest.approx(-0.02 * 12**3, rel=1e-5)
    (read,) = read_source(tmp_path / "dp")
    np.testing.assert_allclose(read.calc.results["stress"][0], [0.02, 0, 0], atol=1e-6)
