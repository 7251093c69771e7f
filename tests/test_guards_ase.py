"""Guards of the ASE calculator: they warn by `logging`, and stop where limits are given."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.md.verlet import VelocityVerlet
from ase.optimize import FIRE

from forcenet_md import ForceNetCalculator
from forcenet_md.errors import EvaluationError, RequestError

LIMITS = "force=0.5,2"


def copper(rattled: float) -> Atoms:
    atoms = bulk("Cu", cubic=True) * 2
    atoms.rattle(rattled, seed=1)
    return atoms


def largest(atoms: Atoms) -> float:
    twin = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True, calculator=EMT())
    return float(np.linalg.norm(twin.get_forces(), axis=1).max())


def test_a_relaxation_is_warned_of_and_nothing_stops_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = copper(0.2)
    assert largest(start) > 2.0
    atoms = start.copy()
    kept = tmp_path / "kept.extxyz"
    atoms.calc = ForceNetCalculator("ase:emt", guard=[LIMITS, "warn"], guard_frames=kept)
    assert FIRE(atoms, logfile=None).run(fmax=0.1, steps=200)
    record = caplog.records[0]
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("guard: step 1: the force on atom ")
    frame = ase.io.read(kept, 0)
    np.testing.assert_allclose(frame.positions, start.positions, atol=1e-7)
    assert frame.info["seen"] == pytest.approx(largest(start), rel=1e-6)


def test_dynamics_is_stopped_at_a_limit_that_is_given() -> None:
    atoms = copper(0.0)
    speed = np.sqrt(3000 * units.kB / atoms.get_masses())[:, None]
    atoms.set_velocities(np.random.default_rng(0).normal(size=(len(atoms), 3)) * speed)
    atoms.calc = ForceNetCalculator("ase:emt", guard=[LIMITS])
    seen: list[float] = []
    dynamics = VelocityVerlet(atoms, 2 * units.fs)
    dynamics.attach(lambda: seen.append(largest(atoms)))
    with pytest.raises(EvaluationError, match=r"model knows; start.* guard=\[.force=off.\]; of"):
        dynamics.run(200)
    assert max(seen) < 2.0 < largest(atoms)


def test_a_molecule_that_the_model_turns(
    small_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The random model's torque is taken out and warned of, and stops the run past its limit."""
    molecule = Atoms("CuPtAuAg", [[0, 0, 0], [2.6, 0, 0], [0, 2.4, 0], [0.5, 0.8, 2.5]])
    kept = tmp_path / "kept.extxyz"
    others = ["force=off", "distance=off", "net=off"]

    def forces(*guard: str, held: Sequence[int] = ()) -> np.ndarray:
        atoms = molecule.copy()
        atoms.set_constraint(FixAtoms(held) if held else None)
        atoms.calc = ForceNetCalculator(
            str(small_model), guard=[*guard, *others], guard_frames=kept, dtype="float64"
        )
        found = atoms.get_forces(apply_constraint=False)
        assert (atoms.calc.torque is None) == bool(held)
        return found

    raw = forces("torque=0,never", held=[0])  # the torque of held atoms is real
    assert caplog.records == []
    taken = raw - raw.mean(axis=0) - forces("torque=0,never")
    size = np.sqrt(np.square(taken).sum(axis=1).mean())
    [said] = caplog.messages
    words = f"a torque with forces of {size:.3g} eV/Å per atom was taken out"
    assert said == f"guard: step 1: {words} (the frame is kept in {kept})"
    frame = ase.io.read(kept)
    assert (frame.info["guard"], frame.info["seen"]) == ("torque", pytest.approx(size, rel=1e-6))
    with pytest.raises(
        EvaluationError, match=rf"^{words}: the run has left .*guard=\[.torque=off.\]"
    ):
        forces(f"torque={size / 3},{size / 2}")


@pytest.mark.parametrize(
    ("given", "stops"),
    [({}, False), ({"guard": ()}, True), ({"guard": "off"}, False), ({"guard": None}, False)],
)
def test_limits_of_serve_are_asked_for(
    given: dict[str, object], stops: bool, caplog: pytest.LogCaptureFixture
) -> None:
    near = Atoms("Cu2", [[0, 0, 0], [0, 0, 0.3]])
    assert np.abs(EMT().get_forces(near)).max() > 500.0
    near.calc = ForceNetCalculator("ase:emt", **given)  # type: ignore[arg-type]
    if stops:
        with pytest.raises(EvaluationError, match="the force on atom 1"):
            near.get_forces()
    else:
        near.get_forces()
    assert len(caplog.records) == (given == {})


def test_a_guard_that_is_none_is_refused_before_a_model_is_loaded() -> None:
    with pytest.raises(RequestError, match="'speed=1' is no guard"):
        ForceNetCalculator("no such model", guard="speed=1")


def test_words_that_mean_nothing_are_refused() -> None:
    """A misspelt `record` or `guard` would be a run without."""
    for word in ("recrd", "gaurd"):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{word}'"):
            ForceNetCalculator("ase:emt", **{word: "x"})
    with pytest.raises(RequestError, match="every 0 steps is no frame"):
        ForceNetCalculator("ase:emt", record="x.h5", record_every=0)
