"""forcenet-md prepare --for ipi: what it writes is what i-PI understands, and runs as it stands."""

from __future__ import annotations

import re
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.constraints import FixAtoms, FixCartesian
from ase.data import atomic_masses
from ase.io import read, write
from ipi.engine.simulation import Simulation
from ipi_peer import BOHR, own_name, socket_file
from models import write_model
from serving import COMMAND
from test_prepare import skewed_alloy, slab

from forcenet_md.cli.prepare import prepare
from forcenet_md.engines.ipi_plan import make_plan
from forcenet_md.engines.ipi_prepare import IpiPlan, readable_name, socket_of, write_ipi_input
from forcenet_md.errors import AddressError, DataError, RequestError, UnknownElementError
from forcenet_md.inference.interface import Capabilities
from forcenet_md.inference.load import read_capabilities
from forcenet_md.server.template import read_template

AMU = 1822.8885  # electron masses, i-PI's
FORCES_ONLY = read_capabilities("alloy")
EMT = read_capabilities("ase:emt")


def held_slab() -> Atoms:
    atoms = fcc111("Pt", (2, 2, 4), vacuum=5.0, periodic=True)
    atoms.set_constraint(FixAtoms([a.index for a in atoms if a.tag > 2]))
    atoms.rattle(0.1, seed=1)
    atoms.symbols[:4] = "Cu"
    return atoms


STRUCTURES = {
    "skewed": skewed_alloy(),
    "held": held_slab(),
    "open": slab(),
    "water": molecule("H2O"),
}


def loaded(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The input as i-PI itself reads it, without running; its only system."""
    monkeypatch.chdir(folder)
    with open(f"{name}.xml", encoding="utf-8") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it does not close the structure
        simulation = Simulation.load_from_xml(
            file, custom_verbosity="quiet", request_banner=False, read_only=True
        )
    (system,) = simulation.syslist
    return simulation, system


def model_for(name: str) -> Capabilities:
    return EMT if name == "water" else FORCES_ONLY


@pytest.mark.parametrize("beads", [1, 4])
@pytest.mark.parametrize("name", STRUCTURES)
def test_ipi_reads_the_structure(
    name: str, beads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    atoms, model = STRUCTURES[name], model_for(name)
    plan = IpiPlan("a", "unix:a", temperature=250.0, beads=beads)
    structure, _, remarks = write_ipi_input(tmp_path, atoms, plan, model)
    simulation, system = loaded(tmp_path, "a", monkeypatch)

    assert list(system.beads.names) == list(atoms.symbols)
    np.testing.assert_allclose(system.beads.m, atomic_masses[atoms.numbers] * AMU, rtol=1e-12)
    h = np.array(system.cell.h) / BOHR
    assert np.abs(np.tril(h, -1)).max() < 1e-12  # i-PI takes no other cell
    assert np.diag(h).min() > 0.0
    ours = Atoms(
        numbers=atoms.numbers,
        positions=np.array(system.beads.q[0]).reshape(-1, 3) / BOHR,
        cell=h.T,
        pbc=True,
    )
    if name in ("skewed", "held"):
        assert h.T.ravel() @ h.T.ravel() == pytest.approx(np.sum(atoms.cell.array**2))
        mic, expected = True, atoms.get_all_distances(mic=True)
        assert remarks == []
    else:
        mic, expected = False, atoms.get_all_distances(mic=False)
        assert "periodic in every direction" in remarks[0]
        empty = np.diag(h) - np.ptp(ours.positions, axis=0)
        assert empty[~atoms.pbc].min() > model.cutoff + 4.0
        if atoms.pbc.any():
            mic, expected = True, atoms.get_all_distances(mic=True)
    np.testing.assert_allclose(ours.get_all_distances(mic=mic), expected, atol=2e-7)

    assert system.beads.nbeads == beads
    (forcefield,) = simulation.fflist.values()
    assert forcefield.socket.batch_size == beads
    assert forcefield.socket.exit_on_disconnect
    assert forcefield.socket.address == "a"
    motion = system.motion
    femtoseconds = 41.341373
    assert (
        motion.tau
        if hasattr(motion, "tau")
        else motion.thermostat.tau == pytest.approx(100 * femtoseconds)
    )
    assert motion.dt / femtoseconds == pytest.approx(0.5 if name == "water" else 2.0)
    assert system.ensemble.temp / 3.1668152e-06 == pytest.approx(250.0)
    held = atoms.constraints[0].index if atoms.constraints else []
    assert sorted(set(np.array(motion.fixatoms_dof) // 3)) == sorted(held)
    assert motion.fixcom == (len(held) == 0)
    template = read_template(structure)
    np.testing.assert_array_equal(template.numbers, atoms.numbers)
    assert template.pbc.all()
    assert template.keep_net_force == (len(held) > 0)


@pytest.mark.parametrize("ensemble", ["nvt", "relax"])
@pytest.mark.parametrize("name", STRUCTURES)
def test_nothing_is_said_against_it(
    name: str, ensemble: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = model_for(name)
    write_ipi_input(Path(), STRUCTURES[name], IpiPlan("a", "unix:a", ensemble), model)
    plan = make_plan(Path("a.xml"), model)
    assert plan.warnings == ()
    assert plan.template.keep_net_force == bool(STRUCTURES[name].constraints)
    _, system = loaded(tmp_path, "a", monkeypatch)
    if ensemble == "relax":
        assert system.motion.mode == ("lbfgs" if model.energy else "bfgstrm")
        assert system.motion.tolerances["force"] == pytest.approx(0.02 * 0.019446904)


def test_columns_are_what_the_model_has(tmp_path: Path) -> None:
    def columns(model: Capabilities, atoms: Atoms) -> list[str]:
        _, xml, _ = write_ipi_input(tmp_path, atoms, IpiPlan("a", "unix:a"), model, overwrite=True)
        found = re.search(r"<properties.*?\[(.*?)\]", xml.read_text(), re.DOTALL)
        assert found is not None
        return [word.strip().partition("{")[0] for word in found[1].split(",")]

    assert columns(FORCES_ONLY, bulk("Cu")) == ["step", "time", "temperature"]
    assert columns(FORCES_ONLY, bulk("CuAu", "rocksalt", a=5.0))[3:] == [
        "temperature(Au)",
        "temperature(Cu)",
    ]
    atoms = held_slab()  # of the copper all is held
    atoms.symbols[-1] = "Pd"
    assert columns(FORCES_ONLY, atoms)[3:] == ["temperature(Pd)", "temperature(Pt)"]
    assert columns(EMT, bulk("Cu"))[3:] == ["potential", "conserved", "pressure_md"]


def test_addresses() -> None:
    assert socket_of("unix:my-run") == ("unix", "my-run", None)
    assert socket_of("unix:/tmp/ipi_my-run") == ("unix", "my-run", None)
    assert socket_of("tcp:node7:31415") == ("inet", "node7", 31415)
    for wrong in ("unix:/home/a/s.sock", "unix:a b", "my-run"):
        with pytest.raises(AddressError, match="unix:"):
            socket_of(wrong)
    assert readable_name("POSCAR") == "poscar"
    assert readable_name("MyAlloy") == "MyAlloy"


def test_refusals(tmp_path: Path) -> None:
    plan = IpiPlan("a", "unix:a")
    half = bulk("Cu", cubic=True)
    half.set_constraint(FixCartesian([0], mask=(True, False, False)))
    flat = bulk("Cu", cubic=True)
    flat.cell[2] = flat.cell[1]
    with pytest.raises(UnknownElementError, match=r"does not know Fe: it knows Ag Au Cu Pd Pt"):
        write_ipi_input(tmp_path, bulk("Fe"), plan, FORCES_ONLY)
    with pytest.raises(DataError, match="in all directions or in none"):
        write_ipi_input(tmp_path, half, plan, FORCES_ONLY)
    with pytest.raises(DataError, match="no volume"):
        write_ipi_input(tmp_path, flat, plan, FORCES_ONLY)
    with pytest.raises(RequestError, match="leave out --beads"):
        write_ipi_input(tmp_path, bulk("Cu"), IpiPlan("a", "unix:a", "relax", beads=4), FORCES_ONLY)
    assert not list(tmp_path.iterdir())
    write_ipi_input(tmp_path, bulk("Cu"), plan, FORCES_ONLY)
    with pytest.raises(DataError, match=r"a-start\.xyz exists already"):
        write_ipi_input(tmp_path, bulk("Cu"), plan, FORCES_ONLY)


def test_a_large_relaxation_is_told_of(tmp_path: Path) -> None:
    many = bulk("Cu", cubic=True) * (8, 8, 4)
    _, _, remarks = write_ipi_input(tmp_path, many, IpiPlan("a", "unix:a", "relax"), FORCES_ONLY)
    assert "3×1024 rows" in remarks[0]


def test_it_names_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "my run"
    write(tmp_path / "POSCAR", bulk("Cu", cubic=True) * (4, 4, 4))
    prepare(tmp_path / "POSCAR", "alloy", engine="ipi", out=out, beads=4)
    xml = out / "poscar.xml"
    assert sorted(out.iterdir()) == [out / "poscar-start.xyz", xml]
    assert "<batch_size> 4 </batch_size>" in xml.read_text()
    first, card, *lines = capsys.readouterr().out.splitlines()
    assert first == f"wrote {out}/poscar-start.xyz and {xml}"
    assert card.startswith("the card of alloy says: For bulk")
    assert lines == [
        "now:",
        "",
        f"    cd '{out}' && forcenet-md ipi poscar.xml --model alloy",
        "",
        "or in two terminals:",
        "",
        f"    cd '{out}' && i-pi poscar.xml",
        "    forcenet-md serve --model alloy --ipi unix:poscar"
        f" --template '{out}/poscar-start.xyz'",
        "",
    ]


def test_a_server_of_a_relaxation_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "cu.cif", bulk("Cu", cubic=True))
    prepare(tmp_path / "cu.cif", "alloy", engine="ipi", out=tmp_path, ensemble="relax")
    last = capsys.readouterr().out.splitlines()[-2]
    assert last.endswith(f" --template {tmp_path}/cu-start.xyz --guard warn")


def test_a_model_file_is_found_from_the_folder_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write("cu.cif", bulk("Cu"))
    write_model(Path("m.pt"))
    prepare(Path("cu.cif"), "m.pt", engine="ipi", out=Path("o"))
    assert (
        f"    cd o && forcenet-md ipi cu.xml --model {tmp_path}/m.pt\n" in capsys.readouterr().out
    )
    prepare(Path("cu.cif"), "m.pt", engine="ipi")
    assert "    forcenet-md ipi cu.xml --model m.pt\n" in capsys.readouterr().out


def test_beads_are_for_ipi(tmp_path: Path) -> None:
    write(tmp_path / "cu.cif", bulk("Cu"))
    with pytest.raises(RequestError, match="give --for ipi with them"):
        prepare(tmp_path / "cu.cif", "ase:emt", beads=4, out=tmp_path / "o")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "model", "options"),
    [
        ("held", "alloy", ["--ensemble", "relax"]),
        ("held", "ase:emt", ["--ensemble", "relax"]),
        ("held", "alloy", ["--beads", "4"]),
        ("skewed", "alloy", []),
        ("open", "alloy", []),
        ("water", "ase:emt", []),
    ],
)
def test_the_commands_it_names_run_it(
    name: str, model: str, options: list[str], tmp_path: Path
) -> None:
    structure, socket = tmp_path / "POSCAR", own_name()
    write(structure, STRUCTURES[name], format="extxyz" if name == "water" else "vasp")
    if name == "water":
        structure = structure.rename(tmp_path / "poscar.xyz")
    out = tmp_path / "my run"
    command = [*COMMAND, "prepare", structure, "-m", model, "--for", "ipi", "-o", out]
    done = subprocess.run(
        [*command, "--listen", f"unix:{socket}", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    xml = out / "poscar.xml"
    xml.write_text(xml.read_text().replace("10000", "10").replace("stride='100'", "stride='5'"))
    commands = [line.strip() for line in done.stdout.splitlines() if line.startswith("    ")]
    assert len(commands) == 3
    script = f'forcenet-md() {{ {COMMAND[0]} -c "{COMMAND[2]}" "$@"; }}; set -e; {{}}'
    binaries = Path(COMMAND[0]).parent
    try:
        for command in (commands[0], f"({commands[1]}) & {commands[2]}; wait $!"):
            ran = subprocess.run(
                ["bash", "-c", script.replace("{}", f"PATH={binaries}:$PATH; {command}")],
                capture_output=True,
                text=True,
                check=False,
                timeout=300,
            )
            assert ran.returncode == 0, ran.stdout + ran.stderr
            frames = read(out / "poscar.pos_0.extxyz", ":")
            moved = np.linalg.norm(frames[-1].positions - frames[0].positions, axis=1)
            held = STRUCTURES[name].constraints[0].index if name == "held" else []
            free = np.setdiff1d(np.arange(len(moved)), held)
            assert moved[held].max(initial=0.0) == 0.0
            assert moved[free].min() > 0.0
            if "relax" in options:
                assert "optimization converged" in ran.stdout
                forces = read(out / "poscar.for_0.extxyz", "-1").get_forces()
                assert np.abs(forces[free]).max() <= 0.02
                assert np.abs(forces[held]).max() > 0.05
    finally:
        socket_file(socket).unlink(missing_ok=True)
