"""A run of i-PI with our driver equals the same run with i-PI's own ASE driver."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ipi_peer import socket_file
from ipi_runs import BIN, Direct, Run, Served, Variants, assert_same, ended, i_pi, run_all, versus
from ipi_xml import STRUCTURE, barostat, dynamics, pressure, simulation, system, thermostat
from serving import PATIENCE, ServeProcess, copper

EMT = "ase:emt"
ARGON = "ase:lj,sigma=3.4,epsilon=0.0104,rc=8"
STEPS = 200


def argon() -> Atoms:
    atoms = bulk("Ar", a=5.3, cubic=True) * (2, 2, 2)
    atoms.rattle(0.05, seed=1)
    return atoms


def alloy(repeats: tuple[int, int, int] = (2, 2, 2)) -> Atoms:
    """Copper and gold in a triclinic cell, none of the atoms inside of it."""
    atoms = bulk("Cu", a=3.8) * repeats
    strain = np.array([[1.0, 0.03, 0.01], [0.0, 1.02, 0.05], [0.0, 0.0, 0.99]])
    atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    rng = np.random.default_rng(0)
    atoms.numbers[rng.random(len(atoms)) < 0.5] = 79
    atoms.rattle(0.05, rng=rng)
    atoms.positions += rng.choice([-3, -2, -1, 1, 2, 3], (len(atoms), 3)) @ atoms.cell.array
    return atoms


def ensembles(temperature: float, gigapascal: float, flexible: bool = False) -> str:
    """NVE, NVT and NPT from one structure: three systems that share a force field."""
    npt = thermostat("svr") + barostat("flexible" if flexible else "isotropic")
    return (
        system(dynamics("nve"), "nve", temperature=temperature)
        + system(dynamics("nvt", thermostat("langevin")), "nvt", temperature=temperature)
        + system(
            dynamics("npt", npt), "npt", temperature=temperature, ensemble=pressure(gigapascal)
        )
    )


CASES = {
    "copper": (copper(2), EMT, ensembles(300.0, 5.0)),
    "alloy": (alloy(), EMT, ensembles(300.0, 5.0, flexible=True)),
    "much alloy": (alloy((2, 3, 5)), EMT, ensembles(300.0, 5.0, flexible=True)),
    "argon": (argon(), ARGON, ensembles(40.0, 0.1)),
    "argon flexible": (argon(), ARGON, ensembles(40.0, 0.1, flexible=True)),
    "much copper": (copper(3), EMT, ensembles(300.0, 5.0)),
}


@pytest.mark.parametrize(
    ("case", "steps"),
    [
        ("alloy", 30),
        *(pytest.param(case, STEPS, marks=pytest.mark.slow) for case in CASES if case != "alloy"),
    ],
)
def test_dynamics_of_all_ensembles(tmp_path: Path, case: str, steps: int) -> None:
    atoms, model, systems = CASES[case]
    runs = run_all(versus(model), systems, atoms, tmp_path, steps)
    for ensemble in ("nve", "nvt", "npt"):
        assert_same(runs["ours"], runs["theirs"], steps, ensemble)
    assert_moved(runs["ours"])


def assert_moved(run: Run) -> None:
    """The forces are those of the energy, and the virial moves the cell."""
    nve = run.scalars("nve")
    assert np.ptp(nve["conserved"]) < 0.02 * np.ptp(nve["potential"])
    first, last = run.cells("npt")[[0, -1]]
    assert abs(np.linalg.det(last) / np.linalg.det(first) - 1.0) > 1e-3


OLDER = "<consolidate_messages> False </consolidate_messages>"
BEADS = {
    "one by one": Served(EMT),
    "sockets": Served(EMT, sockets=4),
    "fewer sockets": Served(EMT, sockets=3),
    "batch": Served(EMT, elements="<batch_size> 4 </batch_size>"),
    "padded batches": Served(EMT, sockets=2, elements="<batch_size> 3 </batch_size>"),
    "older flow": Served(EMT, sockets=2, elements=OLDER),
    "locked": Served(EMT, sockets=4, attributes="matching='lock'"),
    "wrapped by i-PI": Served(EMT, sockets=4, pbc=True),
}
FEW = ["sockets", "padded batches", "older flow"]


@pytest.mark.parametrize("names", [FEW, pytest.param(list(BEADS), marks=pytest.mark.slow)])
@pytest.mark.slow
def test_beads_however_they_are_sent(tmp_path: Path, names: list[str]) -> None:
    """Path integrals: each way gives what i-PI's driver gives bead by bead."""
    fields: Variants = {name: [BEADS[name]] for name in names} | {"theirs": [Direct(EMT)]}
    paths = system(dynamics("nvt", thermostat("pile_g")), beads=4)
    runs = run_all(fields, paths, copper(), tmp_path, steps=40)
    for name in names:
        assert_same(runs[name], runs["theirs"], 40)
    x = runs["theirs"].vectors("positions")
    assert np.abs(x[0] - x[1]).max() > 0.01  # bohr: the beads are not one


@pytest.mark.slow
def test_constant_pressure_of_beads(tmp_path: Path) -> None:
    motion = dynamics("npt", thermostat("pile_l") + barostat("isotropic"))
    fields = {**versus(EMT, sockets=4), "batch": [BEADS["batch"]]}
    paths = system(motion, beads=4, ensemble=pressure(5.0))
    runs = run_all(fields, paths, alloy((2, 3, 4)), tmp_path, STEPS)
    assert_same(runs["ours"], runs["theirs"], STEPS)
    assert_same(runs["batch"], runs["theirs"], STEPS)


@pytest.mark.slow
def test_the_commands_a_user_types(tmp_path: Path) -> None:
    """`forcenet-md serve` and i-PI's own `i-pi-driver-py`, as processes at a real i-PI."""
    runs = {}
    for name, driver in {"ours": our_command, "theirs": their_command}.items():
        folder = tmp_path / name
        folder.mkdir()
        alloy().write(folder / STRUCTURE)
        field = Served(EMT)
        text = simulation([field.write(folder)], system(dynamics("nve")), 20)
        with i_pi(folder, text) as process, driver(folder, field.address):
            runs[name] = ended(folder, process)
    assert_same(runs["ours"], runs["theirs"], 20)


@contextlib.contextmanager
def our_command(folder: Path, name: str) -> Iterator[None]:
    arguments = f"--ipi=unix:{name}", f"--template={folder / STRUCTURE}"
    with ServeProcess(*arguments, model=EMT, wait=False) as server:
        yield
        assert server.wait() == 0, server.text
        assert "i-PI said EXIT" in server.text


@contextlib.contextmanager
def their_command(folder: Path, name: str) -> Iterator[None]:
    """It does not wait for i-PI: it is begun when i-PI listens."""
    Direct(EMT).write(folder)
    command = [str(BIN / "i-pi-driver-py"), "-u", "-a", name, "-m", "custom", "-P", "pes_model.py"]
    end = time.monotonic() + PATIENCE
    while not socket_file(name).exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    with subprocess.Popen([*command, "-o", f"template={STRUCTURE}"], cwd=folder) as process:
        try:
            yield
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
