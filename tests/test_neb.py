"""Bands of images in one batch, in ASE's own NEB, beside a calculator of ASE's for each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc100
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import Trajectory
from ase.mep import NEB, AutoNEB, DyNEB, NEBTools
from ase.optimize import BFGS, FIRE
from models import write_model

from forcenet_md import Band, ForceNetCalculator
from forcenet_md.engines.neb import work_along
from forcenet_md.errors import RequestError, StructureError, UnknownElementError


@pytest.fixture(scope="module")
def ends() -> tuple[Atoms, Atoms]:
    """Gold in two neighbouring hollows of Al(100), relaxed."""
    first = fcc100("Al", (2, 2, 3))
    add_adsorbate(first, "Au", 1.7, "hollow")
    first.center(axis=2, vacuum=4.0)
    first.set_constraint(FixAtoms(mask=[atom.tag > 1 for atom in first]))
    last = first.copy()
    last[-1].x += first.cell[0, 0] / 2
    for atoms in (first, last):
        atoms.calc = EMT()
        BFGS(atoms, logfile=None).run(fmax=0.02)
    return first, last


def band(ends: tuple[Atoms, Atoms], n: int, kind: type[NEB] = NEB, **options: Any) -> NEB:
    first, last = ends
    images = [*(first.copy() for _ in range(n - 1)), last.copy()]
    found = kind(images, method="improvedtangent", **options)
    found.interpolate()
    return found


def emt(images: Sequence[Atoms]) -> None:
    for image in images:
        image.calc = EMT()


def counted(calculator: ForceNetCalculator) -> list[int]:
    """How many structures each batch has, as they come."""
    batches: list[int] = []
    evaluate = calculator.evaluator.evaluate

    def count(requests: Sequence[Any]) -> Any:
        batches.append(len(requests))
        return evaluate(requests)

    calculator.evaluator.evaluate = count  # type: ignore[method-assign]
    return batches


def test_the_band_is_that_of_a_calculator_for_each_image_in_one_batch_a_step(
    ends: tuple[Atoms, Atoms],
) -> None:
    twin, own = band(ends, 5, climb=True), band(ends, 5, climb=True)
    emt(twin.images)
    calculator = ForceNetCalculator("ase:emt")
    batches = counted(calculator)
    Band(own.images, calculator)
    optimisers = [FIRE(neb, logfile=None) for neb in (twin, own)]
    for optimiser in optimisers:
        assert optimiser.run(fmax=0.05, steps=100)
    assert batches == [5, *[3] * optimisers[1].nsteps]  # the ends once
    for image, other in zip(own.images, twin.images, strict=True):
        np.testing.assert_allclose(image.positions, other.positions, atol=1e-9)
    barrier, reaction = NEBTools(own.images).get_barrier()
    assert barrier == pytest.approx(NEBTools(twin.images).get_barrier()[0], abs=1e-9)
    assert barrier == pytest.approx(0.374, abs=2e-3)
    assert reaction == pytest.approx(0.0, abs=1e-3)
    assert sum(batches) == 5 + 3 * optimisers[1].nsteps  # none for the barrier


def test_without_energies_the_barrier_is_the_work_to_a_hundredth_of_an_ev(
    ends: tuple[Atoms, Atoms], tmp_path: Path
) -> None:
    neb = band(ends, 9, climb=True)
    calculator = ForceNetCalculator("ase:emt")
    batches = counted(calculator)
    Band(neb.images, calculator, work=True)
    path = str(tmp_path / "neb.traj")
    with FIRE(neb, logfile=None, trajectory=path) as optimiser:
        assert optimiser.run(fmax=0.1, steps=100)
    assert batches == [9, *[7] * optimiser.nsteps]
    barrier, reaction = NEBTools(neb.images).get_barrier()
    work = [image.get_potential_energy() for image in neb.images]
    emt(neb.images)
    energies = [image.get_potential_energy() for image in neb.images]
    np.testing.assert_allclose(work, np.subtract(energies, energies[0]), atol=0.01)
    assert barrier == pytest.approx(0.3745, abs=0.01)
    assert reaction == pytest.approx(0.0, abs=0.002)
    with Trajectory(path) as frames:
        written = frames[-5]  # of the last band
    assert written.info["energy_is"] == "work along the band"
    assert written.get_potential_energy() == pytest.approx(max(work), abs=1e-9)


def test_work_against_forces_that_are_no_gradient_and_to_images_across_the_boundary() -> None:
    """A force c·(-y, x) along an arc of radius r and angle t takes the work -c·r²·t."""
    angles = np.linspace(0.0, 2.0, 9) ** 1.2  # not evenly
    path = np.zeros((9, 2, 3))
    path[:, 0] = 1.5 * np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    forces = np.zeros_like(path)
    forces[:, 0, 0], forces[:, 0, 1] = -0.4 * path[:, 0, 1], 0.4 * path[:, 0, 0]
    forces[:, 1] = 7.0  # of an atom that does not move
    np.testing.assert_allclose(work_along(path, forces), -0.4 * 1.5**2 * angles, atol=2e-3)

    images = [bulk("Cu", cubic=True) for _ in range(4)]
    for number, image in enumerate(images):
        image.positions[0] += 0.2 * number - 0.3
    Band(images, ForceNetCalculator("ase:emt"), work=True)
    work = [image.get_potential_energy() for image in images]
    assert work[1] < -0.1
    for image in images:
        image.wrap()
    np.testing.assert_allclose([image.get_potential_energy() for image in images], work, atol=1e-9)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "m.pt"
    write_model(path)
    return str(path)


def copper(n: int = 5) -> list[Atoms]:
    """An atom on its way into a vacancy."""
    crystal = bulk("Cu", cubic=True) * 2
    images = []
    for share in np.linspace(0.0, 1.0, n):
        atoms = crystal.copy()
        atoms.positions[1] += share * (atoms.positions[0] - atoms.positions[1])
        del atoms[0]
        images.append(atoms)
    return images


def test_a_model_without_an_energy_moves_a_band_by_work_alone(model: str) -> None:
    images = copper()
    calculator = ForceNetCalculator(model, dtype="float64")
    with pytest.raises(RequestError, match=r"the model m has no energy, which ASE's NEB asks for"):
        Band(images, calculator)
    batches = counted(calculator)
    Band(images, calculator, work=True)
    start = images[2].positions.copy()
    FIRE(NEB(images, climb=True, method="improvedtangent"), logfile=None).run(fmax=0, steps=4)
    assert batches == [5, 3, 3, 3, 3]
    assert np.abs(images[2].positions - start).max() > 1e-5
    assert images[0].get_potential_energy() == 0.0
    forces = np.array([image.get_forces() for image in images])
    for image, found in zip(images, forces, strict=True):
        alone = image.copy()
        alone.calc = ForceNetCalculator(model, dtype="float64")
        np.testing.assert_allclose(found, alone.get_forces(), atol=1e-12)
    path = np.array([image.positions for image in images])
    work = [image.get_potential_energy() for image in images]
    np.testing.assert_allclose(work, work_along(path, forces), atol=1e-12)
    assert np.abs(work).max() > 1e-6


def test_an_end_that_stays_is_told_of_a_band_that_moved(model: str) -> None:
    images = copper()
    Band(images, ForceNetCalculator(model, dtype="float64"), work=True)
    before = images[-1].get_potential_energy()
    images[2].rattle(0.1, seed=1)
    assert abs(images[-1].get_potential_energy() - before) > 1e-8


def broken(change: Callable[[Atoms], None], image: int = 3) -> list[Atoms]:
    images = copper()
    change(images[image])
    return images


def test_a_fault_names_the_image(model: str) -> None:
    def nan(atoms: Atoms) -> None:
        atoms.positions[4, 1] = np.nan

    def hydrogen(atoms: Atoms) -> None:
        atoms.symbols[2] = "H"

    calculator = ForceNetCalculator(model)
    for change, kind, sentence in (
        (
            nan,
            StructureError,
            r"image 3 of the band, counted from 0: the position of atom 5 is not",
        ),
        (hydrogen, UnknownElementError, r"^image 3 of the band, counted from 0: .*\bH\b"),
    ):
        images = broken(change)
        Band(images, calculator, work=True)
        for _ in range(2):  # and no answer that is left over
            with pytest.raises(kind, match=sentence):
                images[0].get_forces()
    images = broken(lambda atoms: atoms.set_positions(copper()[2].positions))
    Band(images, calculator, work=True)
    with pytest.raises(StructureError, match=r"images 2 and 3 of the band are at the same"):
        images[0].get_forces()


@pytest.mark.filterwarnings("ignore:The default method has changed")  # of NEB, inside AutoNEB
@pytest.mark.parametrize(
    ("n_simul", "sentence"),
    [(1, "a Band of 1 images has no work along it: "), (3, "image 0 of the band, from where its")],
)
def test_work_along_a_part_of_a_band_is_refused(
    n_simul: int, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AutoNEB attaches calculators to the images between two that it holds."""
    monkeypatch.chdir(tmp_path)
    for number, atoms in enumerate((copper()[0], copper()[-1])):
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.zeros((len(atoms), 3)))
        atoms.write(f"part00{number}.traj")

    def attach(images: Sequence[Atoms]) -> None:
        Band(images, ForceNetCalculator("ase:emt"), work=True)

    auto = AutoNEB(attach, "part", n_simul=n_simul, n_max=5, maxsteps=3, parallel=False)
    with pytest.raises(RequestError, match=f"^{sentence}.*give Band.*the whole band with both"):
        auto.run()


def test_a_calculator_of_an_image_is_for_no_other_atoms(model: str) -> None:
    images = copper()
    Band(images, ForceNetCalculator(model), work=True)
    other = bulk("Cu", cubic=True)
    other.calc = images[1].calc
    with pytest.raises(RequestError, match=r"of image 1 of a band and of no other atoms"):
        other.get_forces()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The default method has changed")  # of NEB, inside AutoNEB
def test_ase_s_other_bands(
    ends: tuple[Atoms, Atoms], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ours(images: Sequence[Atoms]) -> None:
        Band(images, ForceNetCalculator("ase:emt"))

    monkeypatch.chdir(tmp_path)
    for kind, options in ((DyNEB, {"fmax": 0.05}), (NEB, {"parallel": True})):
        found = []
        for attach in (emt, ours):
            neb = band(ends, 5, kind, **options)
            attach(neb.images)
            FIRE(neb, logfile=None).run(fmax=0.05, steps=10)
            found.append(neb.get_positions())
        np.testing.assert_allclose(found[0], found[1], atol=1e-9)
    energies = []
    for attach in (emt, ours):
        for number, atoms in enumerate(ends):
            end = atoms.copy()
            end.calc = SinglePointCalculator(
                end, energy=atoms.get_potential_energy(), forces=atoms.get_forces()
            )
            end.write(f"{attach.__name__}00{number}.traj")
        auto = AutoNEB(
            attach, attach.__name__, n_simul=1, n_max=5, maxsteps=4, parallel=False, climb=False
        )
        energies.append([image.get_potential_energy() for image in auto.run()])
    np.testing.assert_allclose(energies[0], energies[1], atol=1e-9)
