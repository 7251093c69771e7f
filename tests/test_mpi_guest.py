"""A LAMMPS on MPI ranks, as one rank of the server sees it: when atoms are divided anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from models import write_model
from recordings import contents

from forcenet_md.inference.evaluator import ModelEvaluator
from forcenet_md.inference.interface import Kind, Request
from forcenet_md.inference.local import LocalModel
from forcenet_md.inference.ranks import Sharing
from forcenet_md.mpi import One
from forcenet_md.recording.options import RecordOptions
from forcenet_md.server.address import MpiAddress
from forcenet_md.server.monitor import Monitor
from forcenet_md.server.mpi_door import Port
from forcenet_md.server.mpi_guest import Guest
from forcenet_md.server.mpi_wire import Head, Order, sources
from forcenet_md.system import Forces, System
from forcenet_md.units import ACCELERATION
from forcenet_md.watching.guards import GuardOptions
from forcenet_md.watching.ranks import RanksWatch
from forcenet_md.watching.watching import Watching

TIMESTEP = 0.002  # ps
HELLO = b"""engine test
units metal
elements Cu Pt
masses 63.546 195.084
mass_check off
periodic 1 1 1
group all
held yes
atoms 32
"""


@pytest.mark.parametrize(
    ("n_ranks", "n_there"), [(1, 1), (2, 2), (2, 3), (3, 7), (4, 3), (5, 2), (6, 1)]
)
def test_each_rank_has_its_partners(n_ranks: int, n_there: int) -> None:
    """As lammps_plugin/src/mpi_server.cpp finds them: with fewer ranks each has several there,
    next to one another, and with more each has one."""
    found = [sources(rank, n_ranks, n_there) for rank in range(n_ranks)]
    if n_ranks <= n_there:
        assert [there for one in found for there in one] == list(range(n_there))
        assert all(found)
    else:
        assert all(len(one) == 1 for one in found)
        assert {one[0] for one in found} == set(range(n_there))
    assert found[0][0] == 0


def test_what_a_killed_server_left_is_gone_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LAMMPS takes the file for the port of whoever holds the lock."""
    monkeypatch.setenv("PMI_RANK", "0")
    path = tmp_path / "alloy"
    path.write_text("the port of a dead server")
    door = Port(MpiAddress(f"mpi:{path}", path), One())  # type: ignore[arg-type]
    assert [file.name for file in tmp_path.iterdir()] == ["alloy.lock"]
    door.close()
    assert list(tmp_path.iterdir()) == []


class Counting(LocalModel):
    divisions = 0

    def divide(self, *arguments: object, **named: object) -> None:
        self.divisions += 1
        super().divide(*arguments, **named)  # type: ignore[arg-type]


class Scripted:
    """A wire with one LAMMPS rank whose steps are given."""

    n_there = 1

    def __init__(self, model: Counting) -> None:
        self.model = model
        self.todo: list[tuple[Order, bool]] = [(Order.HELLO, False)]
        self.ids = np.arange(1, 33)
        self.types = np.array([1, 2] * 16)
        self.x = np.empty((32, 3))
        self.cell = np.empty((3, 3))
        self.steps: list[tuple[np.ndarray, np.ndarray, np.ndarray, bool]] = []
        self.count = -1
        self.velocities: np.ndarray | None = None  # [n_steps, n, 3]
        self.answers: list[tuple[np.ndarray, int]] = []  # with how many divisions there were
        self.told: list[tuple[bytes, bool]] = []

    def step(self, x: np.ndarray, order: np.ndarray | None = None) -> None:
        """All atoms at x [n, 3]; order: LAMMPS has neighboured anew and has them so."""
        fresh = order is not None
        self.todo.append((Order.STEP, fresh))
        if order is not None:
            self.order = order
        self.steps.append((x[self.order], self.ids[self.order], self.types[self.order], fresh))

    def next(self) -> Head:
        order, fresh = self.todo.pop(0) if self.todo else (Order.BYE, False)
        if order is Order.STEP:
            self.x, self.now_ids, self.now_types, _ = self.steps.pop(0)
            self.count += 1
        periodic = np.ones(3, bool)
        moves = self.velocities is not None
        return Head(
            order,
            self.count,
            fresh,
            periodic,
            len(HELLO),
            self.cell,
            Kind.RUN,
            TIMESTEP,
            moves,
            refuse=False,
        )

    def hello(self, length: int) -> bytes:
        return HELLO

    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        return self.now_ids, self.now_types

    def positions(self, velocities: bool) -> np.ndarray:
        if self.velocities is None:
            return self.x[None]
        return np.stack([self.x, self.velocities[self.count][self.now_ids - 1]])

    def answer(self, forces: np.ndarray) -> None:
        self.answers.append((forces, self.model.divisions))

    def tell(self, text: bytes, refused: bool) -> None:
        self.told.append((text, refused))


def test_a_division_lasts_while_it_can(tmp_path: Path) -> None:
    """It holds for the same atoms in another order and wrapped anew, until they have moved half
    the skin; forces are in the order in which the atoms came."""
    write_model(tmp_path / "m.pt")
    network = ModelEvaluator(tmp_path / "m.pt", dtype="float64")
    atoms = bulk("Cu", cubic=True) * 2
    atoms.rattle(0.05, seed=1)
    first, cell = atoms.positions, atoms.cell.array
    random = np.random.default_rng(0)
    same, other = np.arange(32), random.permutation(32)
    near = first + random.uniform(-0.1, 0.1, first.shape)
    wrapped = (near @ np.linalg.inv(cell) % 1.0 + random.integers(-1, 2, near.shape)) @ cell
    far = near.copy()
    far[3] += 0.3
    model = Counting(network, One(), Sharing())
    wire, expected = Scripted(model), []
    wire.cell = cell
    for x, order in (
        (first, same),
        (near, None),
        (wrapped, other),
        (far, None),
        (far, same),
    ):
        wire.step(x, order)
        numbers = np.array([29, 78] * 16)
        system = System.make(x, numbers, cell, True)
        (answer,) = network.evaluate([Request(network.new_session(), system, True)])
        expected.append(answer.forces[wire.order])  # type: ignore[union-attr]
    watch = RanksWatch(model, None, print)
    guest = Guest(model, wire, 100, Monitor(), watch)  # type: ignore[arg-type]
    assert guest.serve() is Order.BYE
    assert [refused for _, refused in wire.told] == [False]
    assert [divisions for _, divisions in wire.answers] == [1, 1, 1, 2, 2]
    for (found, _), wanted in zip(wire.answers, expected, strict=True):
        assert np.abs(found - wanted).max() < 1e-10 * np.abs(wanted).max()


def test_what_comes_is_recorded_and_its_heat_told(tmp_path: Path) -> None:
    """In whatever order: frames have that of the ids, and velocities of the step itself. So has
    what is told while it goes on."""
    write_model(tmp_path / "m.pt")
    network = ModelEvaluator(tmp_path / "m.pt", dtype="float64")
    atoms = bulk("Cu", cubic=True) * 2
    random = np.random.default_rng(1)
    n_steps, shape = 8, atoms.positions.shape
    x = atoms.positions + random.uniform(-0.1, 0.1, (n_steps, *shape))
    v = random.normal(size=(n_steps, *shape))
    numbers, masses = np.array([29, 78] * 16), np.array([63.546, 195.084] * 16)
    said: list[str] = []
    watching = Watching(
        guards=GuardOptions(("off",)), record=RecordOptions(tmp_path / "run.h5", every=3)
    )
    recorder = watching.record.make(said.append)
    assert recorder is not None
    model = Counting(network, One(), Sharing())
    wire = Scripted(model)
    wire.cell, wire.velocities = atoms.cell.array, v
    for k in range(n_steps):
        wire.step(x[k], random.permutation(32) if k in (0, 4) else None)
    watch = watching.over_ranks(model, recorder, said.append)
    assert watch.figures(0) == {}
    monitor = Monitor()
    guest = Guest(model, wire, 100, monitor, watch)  # type: ignore[arg-type]
    assert guest.serve() is Order.BYE
    recorder.close()

    forces = []
    for each in x:
        system = System.make(each, numbers, wire.cell, True)
        (answer,) = network.evaluate([Request(network.new_session(), system, True)])
        assert isinstance(answer, Forces)
        forces.append(answer.forces)
    at_step = 0.5 * (v[:-1] + v[1:])
    found = contents(tmp_path / "run.h5")
    assert found.step.tolist() == [0, 3, 6]
    np.testing.assert_allclose(found.time, TIMESTEP * found.step, rtol=1e-12)
    np.testing.assert_array_equal(found.position, x[[0, 3, 6]])
    assert found.velocity is not None
    np.testing.assert_array_equal(found.velocity, at_step[[0, 3, 6]])
    np.testing.assert_allclose(found.force, np.array(forces)[[0, 3, 6]], rtol=0, atol=1e-10)

    warm = (at_step**2).sum(axis=2) * masses / ACCELERATION / (3.0 * units.kB)
    shown = watch.figures(0)
    assert (shown["step"], shown["atoms"]) == (str(n_steps - 1), "32")
    assert shown["temperature"] == f"Cu {warm[:, ::2].mean():.4g} Pt {warm[:, 1::2].mean():.4g}"
    assert (monitor.totals.steps, monitor.totals.atoms) == (n_steps, 32 * n_steps)

    late, of_late = at_step[2:], np.array(forces)[2:7]
    power = (of_late * late).sum(axis=(1, 2)).mean() / 32
    [told] = said
    assert told.startswith("heat: mean of the last 5 of 7 steps: temperatures in K Cu ")
    words = told.split()
    figures = [float(words[words.index(word) + 1]) for word in ("Cu", "Pt")]
    figures.append(watch._heat._heat.heating[0])
    expected = [warm[2:, ::2].mean(), warm[2:, 1::2].mean(), power / (3.0 * units.kB)]
    np.testing.assert_allclose(figures, expected, rtol=0.005)
    assert "heating" not in shown  # of so few steps
