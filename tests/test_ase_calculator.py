"""The ASE calculator with ASE's own optimisers and dynamics."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc111
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms, FixCom
from ase.filters import FrechetCellFilter
from ase.io import Trajectory
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS, FIRE, BFGSLineSearch, LBFGSLineSearch
from ase.optimize.sciopt import SciPyFminCG
from models import write_model

from forcenet_md import ForceNetCalculator
from forcenet_md.engines.ase_calculator import ForcesOnly
from forcenet_md.errors import ModelFileError, RequestError, UnknownElementError

LJ = "ase:lj,sigma=2.3,epsilon=0.3,rc=5.0"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "m.pt"
    write_model(path)
    return str(path)


def alloy(seed: int = 0) -> Atoms:
    atoms = bulk("Cu", cubic=True) * 2
    rng = np.random.default_rng(seed)
    atoms.symbols = rng.choice(["Ag", "Au", "Cu", "Pd", "Pt"], len(atoms))
    atoms.rattle(0.1, seed=seed)
    return atoms


def heat(atoms: Atoms) -> None:
    """Velocities of 300 K."""
    scale = np.sqrt(300 * units.kB / atoms.get_masses())[:, None]
    atoms.set_velocities(np.random.default_rng(0).normal(size=(len(atoms), 3)) * scale)


def test_properties_of_the_calculator_behind_it() -> None:
    atoms, twin = alloy(), alloy()
    atoms.calc, twin.calc = ForceNetCalculator(LJ), LennardJones(sigma=2.3, epsilon=0.3, rc=5.0)
    np.testing.assert_allclose(atoms.get_forces(), twin.get_forces(), atol=1e-12)
    np.testing.assert_allclose(atoms.get_stress(), twin.get_stress(), atol=1e-12)
    assert atoms.get_potential_energy() == pytest.approx(twin.get_potential_energy(), abs=1e-12)
    assert atoms.get_potential_energy(force_consistent=True) == pytest.approx(
        twin.get_potential_energy(), abs=1e-12
    )


@pytest.mark.slow
def test_fire_and_a_moving_cell_with_energy_and_stress() -> None:
    atoms = bulk("Cu", cubic=True) * 2
    atoms.rattle(0.1, seed=1)
    atoms.set_cell(atoms.cell * 1.03, scale_atoms=True)
    atoms.calc = ForceNetCalculator("ase:emt")
    FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=0.01, steps=300)
    assert np.abs(atoms.get_forces()).max() < 0.01
    assert atoms.cell[0, 0] / 2 == pytest.approx(3.59, abs=0.01)  # EMT's copper


def test_velocity_verlet_conserves_the_energy() -> None:
    atoms = bulk("Cu", cubic=True) * 2
    atoms.calc = ForceNetCalculator("ase:emt")
    heat(atoms)
    before = atoms.get_total_energy()
    VelocityVerlet(atoms, 2 * units.fs).run(50)
    assert atoms.get_total_energy() == pytest.approx(before, abs=2e-3)
    assert atoms.get_kinetic_energy() > 0.1


def test_model_without_energy_says_so(model: str) -> None:
    atoms = alloy()
    atoms.calc = ForceNetCalculator(model)
    assert atoms.calc.implemented_properties == ["forces"]
    assert atoms.get_forces().shape == (32, 3)
    with pytest.raises(PropertyNotImplementedError, match=r"the model m has no energy"):
        atoms.get_potential_energy()
    with pytest.raises(PropertyNotImplementedError, match=r"has no stress, it has forces"):
        atoms.get_stress()
    for calculator in (atoms.calc, ForceNetCalculator(LJ)):
        atoms.calc = calculator
        with pytest.raises(PropertyNotImplementedError, match=r" has no stresses, it has forces"):
            atoms.get_stresses()


@pytest.mark.parametrize("optimiser", [FIRE, BFGS])
def test_optimisers_on_forces_alone(model: str, tmp_path: Path, optimiser: type) -> None:
    atoms = alloy()
    atoms.calc = ForceNetCalculator(model)
    start = atoms.get_positions()
    log, trajectory = tmp_path / "log", tmp_path / "relax.traj"
    with optimiser(ForcesOnly(atoms), logfile=str(log), trajectory=str(trajectory)) as relax:
        relax.run(fmax=1e-6, steps=5)
    assert np.abs(atoms.positions - start).max() > 1e-4
    assert "nan" in log.read_text()
    with Trajectory(str(trajectory)) as images:
        assert len(images) == 6
        np.testing.assert_allclose(images[-1].get_forces(), atoms.get_forces())


@pytest.mark.parametrize(
    "optimiser",
    [BFGSLineSearch, LBFGSLineSearch, SciPyFminCG, partial(FIRE, downhill_check=True)],
)
def test_who_goes_by_energies_is_refused(model: str, optimiser: Callable[..., Any]) -> None:
    atoms = alloy()
    atoms.calc = ForceNetCalculator(model)
    start = atoms.get_positions()
    with pytest.raises(RequestError, match="take FIRE, MDMin, BFGS or LBFGS"):
        optimiser(ForcesOnly(atoms), logfile=None).run(fmax=1e-6, steps=20)
    assert np.abs(atoms.positions - start).max() < 0.5


@pytest.mark.slow
def test_langevin_on_forces_alone_is_the_same_as_forces_one_by_one(model: str) -> None:
    atoms = alloy()
    atoms.calc = ForceNetCalculator(model, dtype="float64")
    atoms.set_constraint(FixCom())  # as ASE wants it beside Langevin
    heat(atoms)
    dynamics = Langevin(
        atoms,
        2 * units.fs,
        temperature_K=300,
        friction=0.01 / units.fs,
        fixcm=False,
        rng=np.random.default_rng(1),
    )
    for _ in range(30):
        dynamics.run(1)
        fresh = atoms.copy()
        fresh.calc = ForceNetCalculator(model, dtype="float64")
        np.testing.assert_allclose(atoms.get_forces(), fresh.get_forces(), atol=1e-12)
        raw = atoms.get_forces(apply_constraint=False)
        np.testing.assert_allclose(raw.sum(axis=0), 0.0, atol=1e-12)
    assert np.isfinite(atoms.get_velocities()).all()


def test_net_force_is_taken_out_unless_atoms_are_held(model: str) -> None:
    atoms = alloy()
    atoms.calc = ForceNetCalculator(model)
    free = atoms.get_forces()
    net = atoms.calc.net_force
    assert net is not None
    assert np.abs(net).max() > 1e-6
    np.testing.assert_allclose(free.sum(axis=0), 0.0, atol=1e-6)
    held = alloy()
    held.set_constraint(FixAtoms([0]))
    held.calc = ForceNetCalculator(model)
    raw = held.get_forces(apply_constraint=False)
    np.testing.assert_allclose(raw - free, np.tile(net / len(atoms), (len(atoms), 1)), atol=1e-6)


def test_net_force_of_a_model_trained_without_it_goes_though_atoms_are_held(tmp_path: Path) -> None:
    write_model(tmp_path / "m.pt", net_force_removed=True)
    atoms = alloy()
    atoms.set_constraint(FixAtoms([0]))
    atoms.calc = ForceNetCalculator(str(tmp_path / "m.pt"))
    raw = atoms.get_forces(apply_constraint=False)
    assert np.abs(atoms.calc.net_force).max() > 1e-6
    np.testing.assert_allclose(raw.sum(axis=0), 0.0, atol=1e-6)


def test_slab_with_held_layers_relaxes() -> None:
    slab = fcc111("Cu", (2, 2, 4), vacuum=6.0)
    slab.set_constraint(FixAtoms([a.index for a in slab if a.tag > 2]))
    slab.calc = ForceNetCalculator("ase:emt")
    twin = slab.copy()
    twin.calc = EMT()
    FIRE(slab, logfile=None).run(fmax=0.02)
    FIRE(twin, logfile=None).run(fmax=0.02)
    np.testing.assert_allclose(slab.positions, twin.positions, atol=1e-8)


def test_one_calculator_follows_other_atoms(model: str) -> None:
    calculator = ForceNetCalculator(model)
    for seed in (0, 1):
        for repeat in (1, 2):
            atoms = alloy(seed) * (1, 1, repeat)
            fresh = atoms.copy()
            atoms.calc, fresh.calc = calculator, ForceNetCalculator(model)
            np.testing.assert_allclose(atoms.get_forces(), fresh.get_forces(), atol=1e-6)


def test_faults_are_sentences(model: str) -> None:
    with pytest.raises(ModelFileError, match=r"nothing\.pt"):
        ForceNetCalculator("nothing.pt")
    atoms = bulk("Fe")
    atoms.calc = ForceNetCalculator(model)
    with pytest.raises(UnknownElementError, match="Fe"):
        atoms.get_forces()


def test_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, forcenet_md; print([m for m in ('torch', 'ase', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    import forcenet_md

    with pytest.raises(AttributeError, match="nothing"):
        _ = forcenet_md.nothing
