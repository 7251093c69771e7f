"""ASE calculators behind the evaluator's interface: exact, isolated, bounded in memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from serving import LJ, copper, reference

from forcenet_md.errors import EvaluationError, ModelFileError, TooManyEdgesError
from forcenet_md.inference.ase_evaluator import AseEvaluator
from forcenet_md.inference.interface import Request
from forcenet_md.inference.load import load_evaluator
from forcenet_md.system import Forces, System


def answer(evaluator: AseEvaluator, *atoms: Atoms, session: object = None):
    """The answers for all atoms, in one batch; with a session, one after the other in it."""
    if session is None:
        requests = [Request(evaluator.new_session(), System.from_ase(a)) for a in atoms]
        return evaluator.evaluate(requests)
    return [evaluator.evaluate([Request(session, System.from_ase(a))])[0] for a in atoms]


def triclinic() -> Atoms:
    atoms = bulk("Au", "fcc", a=4.1) * (2, 2, 2)
    atoms.set_chemical_symbols(["Au", "Cu"] * 4)
    atoms.rattle(0.05, seed=2)
    return atoms


@pytest.mark.parametrize("make", [triclinic, lambda: molecule("CH3CH2OH", vacuum=4.0)])
def test_emt_is_emt(make):
    atoms = make()
    [got] = answer(AseEvaluator("ase:emt"), atoms)
    atoms.calc = EMT()
    np.testing.assert_array_equal(got.forces, atoms.get_forces())
    assert got.energy == atoms.get_potential_energy()
    np.testing.assert_array_equal(got.stress, atoms.get_stress(voigt=False))


def test_parameters_reach_the_calculator():
    atoms = copper(2)
    [got] = answer(AseEvaluator("ase:lj,sigma=2.2,epsilon=0.4,rc=4,smooth=true"), atoms)
    atoms.calc = LennardJones(sigma=2.2, epsilon=0.4, rc=4.0, smooth=True)
    np.testing.assert_array_equal(got.forces, atoms.get_forces())
    [hard] = answer(AseEvaluator("ase:lj,sigma=2.2,epsilon=0.4,rc=4"), atoms)
    assert abs(hard.forces - got.forces).max() > 1e-3


def test_without_a_volume_there_is_no_stress():
    atoms = molecule("CO")
    [got] = answer(AseEvaluator("ase:emt"), atoms)
    assert got.stress is None
    assert got.energy is not None


def test_a_session_follows_atoms_cell_and_periodicity():
    evaluator = AseEvaluator(LJ)
    session = evaluator.new_session()
    sequence = [copper(), copper(seed=1), copper(2), copper(2)]
    sequence[3].pbc = (True, False, True)
    strained = copper(2)
    strained.set_cell(strained.cell.array * 1.02, scale_atoms=True)
    sequence += [strained, copper()]
    for atoms, got in zip(sequence, answer(evaluator, *sequence, session=session), strict=True):
        energy, forces, _ = reference(atoms)
        np.testing.assert_allclose(got.forces, forces, atol=1e-12)
        assert got.energy == pytest.approx(energy, abs=1e-12)


def test_a_fault_changes_no_other_answer_and_leaves_the_session_good():
    evaluator = AseEvaluator(LJ)
    piled = copper()
    piled.positions[1] = piled.positions[0]
    before, broken, after = answer(evaluator, copper(), piled, copper(seed=1))
    assert isinstance(broken, EvaluationError)
    assert "not finite" in str(broken)
    np.testing.assert_array_equal(before.forces, reference(copper())[1])
    np.testing.assert_array_equal(after.forces, reference(copper(seed=1))[1])
    session = evaluator.new_session()
    _, again = answer(evaluator, piled, copper(), session=session)
    np.testing.assert_array_equal(again.forces, reference(copper())[1])


def test_an_exception_in_the_calculator_is_one_requests_answer(monkeypatch):
    evaluator = AseEvaluator("ase:emt")
    wrong = copper()
    wrong.numbers[0] = 92  # past the codec, which refuses it by name
    bad, good = answer(evaluator, wrong, copper())
    assert isinstance(bad, EvaluationError)
    assert "No EMT-potential for U" in str(bad)
    assert isinstance(good, Forces)


@pytest.mark.parametrize("case", ["piled", "collapsed cell"])
def test_memory_is_not_taken_for_impossible_structures(case):
    if case == "piled":
        atoms = Atoms("Cu20000", positions=np.full((20000, 3), 5.0), cell=[50] * 3, pbc=True)
    else:
        atoms = copper()
        atoms.set_cell(atoms.cell.array * 1e-3, scale_atoms=True)
    tracemalloc.start()
    try:
        [got] = answer(AseEvaluator(LJ), atoms)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(got, TooManyEdgesError)
    assert peak < 50e6


def test_no_atoms_are_told():
    [got] = answer(AseEvaluator(LJ), Atoms(cell=[5, 5, 5], pbc=True))
    assert "no atoms" in str(got)


def test_what_it_says_of_itself():
    emt = load_evaluator("ase:emt").capabilities
    assert sorted(emt.numbers) == [1, 6, 7, 8, 13, 28, 29, 46, 47, 78, 79]
    assert emt.energy
    assert emt.stress
    assert emt.conservative
    lj = load_evaluator(LJ)
    assert lj.capabilities.cutoff == 5.0
    assert len(lj.capabilities.numbers) == 118
    lj.warm_up()
    assert lj.timings.network > 0.0


def test_a_model_file_takes_its_own_way(tmp_path):
    with pytest.raises(ModelFileError, match=r"m\.pt"):
        load_evaluator(str(tmp_path / "m.pt"))
