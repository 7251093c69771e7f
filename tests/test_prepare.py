"""forcenet-md prepare: what it writes runs as it stands."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import lammps_runs
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixCartesian
from ase.io import read, write
from models import write_model
from serving import ServeProcess
from typer.testing import CliRunner, Result

from forcenet_md.cli.main import build_app
from forcenet_md.cli.prepare import prepare as prepare_command
from forcenet_md.engines.lammps_input import MARGIN, Plan, script_text, write_lammps_input
from forcenet_md.engines.prepared import file_name, in_box, remarks_on_size, timestep
from forcenet_md.errors import DataError, ForceNetError, RequestError, UnknownElementError
from forcenet_md.inference.interface import Capabilities
from forcenet_md.inference.load import read_capabilities


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    address = f"unix:{tmp_path_factory.mktemp('server')}/emt.sock"
    with ServeProcess("--listen", address, model="ase:emt"):
        yield address


def prepare(*arguments: object) -> Result:
    """In this process: a start of Python for each would take longer than the rest."""
    return CliRunner().invoke(build_app(), ["prepare", *map(str, arguments)])


def skewed_alloy() -> Atoms:
    """Seven atoms in a left-handed, skewed cell, some of them outside."""
    atoms = bulk("Cu") * (1, 1, 7)
    atoms.symbols = ["Pt", "Cu", "Pd", "Ag", "Au", "Cu", "Cu"]
    atoms.set_cell(atoms.cell.array[[1, 0, 2]])
    assert np.linalg.det(atoms.cell.array) < 0
    atoms.rattle(0.05, seed=2)
    atoms.positions[3] += 2 * atoms.cell.array[2] - atoms.cell.array[0]
    return atoms


def slab() -> Atoms:
    atoms = fcc111("Cu", (2, 2, 3), vacuum=4.0, periodic=False)
    atoms.info.clear()  # not for an XYZ file
    return atoms


def held_slab() -> Atoms:
    """Of its four layers of four atoms the lower two are held."""
    atoms = fcc111("Pt", (2, 2, 4), vacuum=5.0, periodic=True)
    atoms.set_constraint(FixAtoms([a.index for a in atoms if a.tag > 2]))
    return atoms


STRUCTURES = {
    "alloy.cif": skewed_alloy(),
    "POSCAR": skewed_alloy(),
    "slab.xyz": slab(),
    "water.xyz": molecule("H2O"),
}


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("name", lammps_runs.cases(STRUCTURES, {"alloy.cif"}))
def test_script_runs_and_has_the_energy_of_the_structure(
    name: str, server: str, tmp_path: Path
) -> None:
    structure = tmp_path / name
    write(structure, STRUCTURES[name])
    done = prepare(structure, "--model", "ase:emt", "--listen", server, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    (script,) = (tmp_path / "run").glob("*.in")
    run = lammps_runs.run(
        "variable steps index 5\n"
        + script.read_text().replace("thermo 100", "thermo 1\nthermo_modify format float %.12g"),
        tmp_path / "run",
        ranks=2 if name == "slab.xyz" else 1,
    )
    assert run.returncode == 0, run.output
    thermo = run.thermo()[0]
    assert len(thermo) == 6
    twin = read(structure)
    twin.calc = EMT()
    energy = thermo[0, 3]
    assert energy == pytest.approx(twin.get_potential_energy(), abs=1e-5)
    assert thermo[-1, 3] != thermo[0, 3]
    assert list((tmp_path / "run").glob("*-end.data"))


@pytest.mark.usefixtures("plugin")
def test_relaxation_holds_what_the_poscar_holds(server: str, tmp_path: Path) -> None:
    slab = held_slab()
    slab.rattle(0.1, seed=1)
    slab.symbols[:4] = "Cu"
    write(tmp_path / "POSCAR", slab)
    done = prepare(
        tmp_path / "POSCAR", "-m", "ase:emt", "--ensemble", "relax", "--listen", server, "-o",
        tmp_path,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    run = lammps_runs.run((tmp_path / "POSCAR.in").read_text(), tmp_path)
    assert run.returncode == 0, run.output
    assert "Stopping criterion = force tolerance" in run.output
    frames = read(tmp_path / "POSCAR.dump", index=":", format="lammps-dump-text")
    start, end = frames[0], frames[-1]
    moved = np.linalg.norm(end.positions - start.positions, axis=1)
    held = read(tmp_path / "POSCAR").constraints[0].index
    assert len(held) == 8
    assert moved[held].max() == 0.0
    free = np.setdiff1d(np.arange(len(slab)), held)
    assert moved[free].max() > 0.05
    assert np.abs(end.get_forces()[free]).max() <= 0.02


@pytest.mark.usefixtures("plugin")
def test_the_temperature_is_that_of_what_moves(server: str, tmp_path: Path) -> None:
    write(tmp_path / "POSCAR", held_slab())
    done = prepare(
        tmp_path / "POSCAR", "-m", "ase:emt", "--temperature", "250", "--listen", server, "-o",
        tmp_path,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    script = (tmp_path / "POSCAR.in").read_text()
    run = lammps_runs.run("variable steps index 0\n" + script, tmp_path)
    assert run.returncode == 0, run.output
    assert "thermo_modify settings will be lost" not in run.output
    velocity = 2 * 250.0  # K, what the script gives the atoms to begin with
    assert run.thermo()[0][0, 2] == pytest.approx(velocity, rel=1e-4)


def test_the_box_is_the_same_crystal() -> None:
    atoms = skewed_alloy()
    boxed = in_box(atoms, MARGIN)
    assert np.linalg.det(boxed.cell.array) == pytest.approx(atoms.get_volume())
    inside = boxed.get_scaled_positions(wrap=False)
    assert inside.min() >= 0.0
    assert inside.max() < 1.0
    one = np.sort(atoms.get_all_distances(mic=True), axis=None)
    np.testing.assert_allclose(
        np.sort(boxed.get_all_distances(mic=True), axis=None), one, atol=1e-9
    )


def test_open_directions_enclose_the_atoms() -> None:
    slab = fcc111("Cu", (1, 1, 3), periodic=False)
    slab.positions[:, 2] += 100.0
    slab.cell[2] = [1.0, 2.0, 0.0]
    boxed = in_box(slab, MARGIN)
    assert boxed.pbc.tolist() == [True, True, False]
    np.testing.assert_allclose(boxed.cell.array[:2], slab.cell.array[:2])
    assert boxed.cell.array[2] @ boxed.cell.array[0] == pytest.approx(0.0, abs=1e-12)
    z = boxed.positions[:, 2]
    assert z.min() >= 1.9
    assert z.max() <= boxed.cell[2, 2] - 1.9


@pytest.mark.parametrize(
    ("symbols", "expected"), [("PtH", 0.0005), ("CO", 0.001), ("NaCl", 0.002), ("Pt2", 0.002)]
)
def test_timestep_follows_the_lightest_atom(symbols: str, expected: float) -> None:
    assert (
        timestep(Atoms(symbols, positions=[[0, 0, 0], [1, 0, 0]][: len(Atoms(symbols))]))
        == expected
    )


def test_thermo_asks_only_for_what_the_model_has() -> None:
    plan = Plan("a", "m.pt", "unix:/tmp/a.sock")
    atoms = in_box(bulk("Cu"), MARGIN)
    none = np.empty(0, dtype=np.int64)

    def thermo(energy: bool, stress: bool) -> str:
        can = Capabilities("m", frozenset({29}), 6.0, energy, stress, conservative=energy)
        text = script_text(atoms, ["Cu"], none, plan, can)
        return next(line for line in text.splitlines() if line.startswith("thermo_style"))

    assert thermo(False, False) == "thermo_style custom step time temp cpu"
    assert thermo(True, True) == "thermo_style custom step time temp pe press cpu"


def test_held_atoms_in_few_words(tmp_path: Path) -> None:
    atoms = bulk("Cu", cubic=True) * 4
    atoms.set_constraint(FixAtoms(list(range(100)) + list(range(110, 256, 3))))
    write_lammps_input(
        tmp_path, atoms, Plan("a", "ase:emt", "unix:/a"), read_capabilities("ase:emt")
    )
    lines = (tmp_path / "a.in").read_text().splitlines()
    groups = [line for line in lines if line.startswith("group held id ")]
    words = " ".join(line.removeprefix("group held id ") for line in groups).split()
    assert words[:3] == ["1:100", "111", "114"]
    assert len(words) == 50
    assert max(map(len, groups)) < 80
    assert lines.index("fix ext all external pf/callback 1 1") < lines.index(
        "fix hold held setforce 0.0 0.0 0.0"
    )


def test_names_of_files() -> None:
    assert file_name(Path("a/my slab (2).cif")) == "my_slab__2_"
    assert file_name(Path("slab.traj")) == "slab"
    assert file_name(Path("POSCAR")) == "POSCAR"
    assert file_name(Path("POSCAR.2x2")) == "POSCAR.2x2"
    assert file_name(Path("$x.xyz")) == "_x"


def test_refusals(tmp_path: Path) -> None:
    emt = read_capabilities("ase:emt")
    plan = Plan("a", "ase:emt", "unix:/tmp/a.sock")
    with pytest.raises(UnknownElementError, match=r"emt does not know Fe, Zr: it knows Ag Al"):
        write_lammps_input(tmp_path, Atoms("FeZrCu", [[0, 0, k] for k in range(3)]), plan, emt)
    flat = bulk("Cu", cubic=True)
    flat.cell[2] = flat.cell[1]
    with pytest.raises(DataError, match="no volume"):
        write_lammps_input(tmp_path, flat, plan, emt)
    half = bulk("Cu", cubic=True)
    half.set_constraint(FixCartesian([0], mask=(True, False, False)))
    with pytest.raises(DataError, match="in all directions or in none"):
        write_lammps_input(tmp_path, half, plan, emt)
    assert not list(tmp_path.iterdir())
    write_lammps_input(tmp_path, bulk("Cu"), plan, emt)
    with pytest.raises(DataError, match=r"a\.data exists already"):
        write_lammps_input(tmp_path, bulk("Cu"), plan, emt)
    write_lammps_input(tmp_path, bulk("Cu"), plan, emt, overwrite=True)


def test_a_cell_thinner_than_twice_the_cutoff_is_remarked_on() -> None:
    """Not in open directions, and by its height, not by the length of its vectors."""
    known = Capabilities("m", frozenset({29}), 5.0, energy=False, stress=False, conservative=False)
    unit, piece = bulk("Cu", "fcc", 3.6), bulk("Cu", "fcc", 3.6, cubic=True) * (3, 3, 3)
    assert remarks_on_size(piece, known) == []
    [remark] = remarks_on_size(unit, known)
    assert "the cell is only 2.08 Å thick" in remark  # 3.6 / √3, between (111) planes
    assert remark.endswith("`atoms * (5, 5, 5)`")
    slab = fcc111("Cu", (1, 3, 3), a=3.6, vacuum=8.0, periodic=True)  # 2.2 Å, 6.6 Å, and thick
    assert remarks_on_size(slab, known)[0].endswith("`atoms * (5, 2, 1)`")
    open_one = piece.copy()
    open_one.cell[2] *= 0.5
    assert len(remarks_on_size(open_one, known)) == 1
    open_one.pbc = (True, True, False)
    assert remarks_on_size(open_one, known) == []
    [remark] = remarks_on_size(Atoms("Cu"), known)
    assert "no direction is periodic, so this is a free cluster" in remark
    far = dataclasses.replace(known, cutoff=30.0)
    assert (
        "each atom has about 9696 neighbours within the cutoff of 30 Å"
        in (remarks_on_size(piece, far)[0])
    )


@pytest.mark.parametrize(
    ("model", "ensemble", "reason"),
    [
        ("alloy", "npt", "(direct forces have no pressure, so the cell keeps its shape)"),
        ("alloy", "nve", "(direct forces do not conserve energy, so the atoms need a thermostat)"),
        ("ase:emt", "npt", "(though ase:emt can run it: change the input of nvt)"),
        ("ase:emt", "nve", "(though ase:emt can run it: change the input of nvt)"),
        ("alloy", "rexal", "rexal is not prepared: give nvt or relax"),
    ],
)
def test_ensembles_that_are_not_prepared(
    model: str, ensemble: str, reason: str, tmp_path: Path
) -> None:
    write(tmp_path / "cu.cif", bulk("Cu", cubic=True))
    with pytest.raises(RequestError, match=re.escape(reason)):
        prepare_command(tmp_path / "cu.cif", model, out=tmp_path, ensemble=ensemble)
    assert not list(tmp_path.glob("*.in"))


def test_what_the_card_says_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slab = fcc111("Cu", (3, 3, 3), vacuum=8.0, periodic=True)
    slab.info.clear()
    write(tmp_path / "slab.extxyz", slab)
    prepare_command(tmp_path / "slab.extxyz", "slabs", out=tmp_path)
    told = capsys.readouterr().out
    assert "the card of slabs says: For these 30 systems" in told
    assert "Not for other systems or orientations, dynamics," in told
    assert (tmp_path / "slab.in").is_file()


@pytest.mark.slow
def test_command_line_faults(tmp_path: Path) -> None:
    done = prepare(tmp_path / "none.cif", "--model", "ase:emt")
    assert isinstance(done.exception, ForceNetError)
    assert re.match(r"there is no file \S+none\.cif: ", str(done.exception))
    write(tmp_path / "fe.xyz", bulk("Fe"))
    write_model(tmp_path / "m.pt")
    done = prepare(tmp_path / "fe.xyz", "--model", tmp_path / "m.pt", "--out", tmp_path / "o")
    assert isinstance(done.exception, UnknownElementError)
    assert "does not know Fe: it knows Ag Au Cu Pd Pt" in str(done.exception)
    assert not (tmp_path / "o").exists()


MIXED_CIF = """data_mixed
_cell_length_a 3.8
_cell_length_b 3.8
_cell_length_c 3.8
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt 'F m -3 m'
_space_group_IT_number 225
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Cu1 Cu 0 0 0 {occupancy}
"""


@pytest.mark.parametrize(
    ("sites", "fault"),
    [
        ("1.0", None),
        ("0.5", "occupied in part (Cu 0.5)"),
        ("0.5\nPt1 Pt 0 0 0 0.5", "occupied in part (Cu 0.5, Pt 0.5)"),
    ],
)
def test_sites_occupied_in_part(sites: str, fault: str | None, tmp_path: Path) -> None:
    path = tmp_path / "mixed.cif"
    path.write_text(MIXED_CIF.format(occupancy=sites))
    plan, emt = Plan("a", "ase:emt", "unix:/tmp/a.sock"), read_capabilities("ase:emt")
    if fault is None:
        write_lammps_input(tmp_path, read(path), plan, emt)
        return
    with pytest.raises(DataError, match=re.escape(fault)):
        write_lammps_input(tmp_path, read(path), plan, emt)


def test_structures_and_addresses_no_script_can_hold(tmp_path: Path) -> None:
    emt = read_capabilities("ase:emt")
    plan = Plan("a", "ase:emt", "unix:/tmp/a.sock")
    nowhere, endless, held = bulk("Cu"), bulk("Cu"), bulk("Cu")
    nowhere.positions[0, 0] = np.nan
    endless.cell[0, 0] = np.inf
    held.set_constraint(FixAtoms([0]))
    for atoms, fault in ((nowhere, "not finite"), (endless, "not finite"), (held, "all of its")):
        with pytest.raises(DataError, match=fault):
            write_lammps_input(tmp_path, atoms, plan, emt)
    for name in ("a b", 'a"', "$a", "a#", "a&", "é"):
        with pytest.raises(DataError, match="without spaces"):
            write_lammps_input(tmp_path, bulk("Cu"), Plan("a", "ase:emt", f"unix:/tmp/{name}"), emt)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.new.in").mkdir()  # the second of the two files cannot be written
    emt = read_capabilities("ase:emt")
    with pytest.raises(DataError, match=r"cannot be written \(Is a directory\): make room"):
        write_lammps_input(tmp_path, bulk("Cu"), Plan("a", "ase:emt", "unix:/tmp/a"), emt)
    assert [path.name for path in tmp_path.iterdir()] == ["a.new.in"]


@pytest.mark.usefixtures("plugin")
@pytest.mark.slow
def test_one_atom_moves_and_names_are_quoted(server: str, tmp_path: Path) -> None:
    out = tmp_path / "my run"
    write(tmp_path / "cu.cif", bulk("Cu"))
    done = prepare(tmp_path / "cu.cif", "--model", "ase:emt", "--listen", server, "--out", out)
    assert done.exit_code == 0, done.output
    assert f"    cd '{out}' && lmp -in cu.in\n" in done.stdout
    script = "variable steps index 5\n" + (out / "cu.in").read_text()
    run = lammps_runs.run(script, out)
    assert run.returncode == 0, run.output


def test_it_names_the_commands_for_lammps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my run"
    write(tmp_path / "cu.vasp", bulk("Cu", cubic=True) * (4, 4, 4))
    prepare_command(tmp_path / "cu.vasp", "alloy", out=out, listen="unix:/tmp/s")
    assert capsys.readouterr().out.splitlines()[2:] == [  # after the files and the card
        "now, in two terminals:",
        "",
        "    forcenet-md serve --model alloy --listen unix:/tmp/s",
        f"    cd '{out}' && lmp -in cu.in",
        "",
        "or without a server:",
        "",
        f"    cd '{out}' && forcenet-md lammps --model alloy -in cu.in",
        "",
    ]
