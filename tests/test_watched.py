"""Watchers see every answer with its moment, and their fault is one request's."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from lammps_runs import EXTERNAL, NO_PAIR, crystal, run
from serving import in_thread

from forcenet_md.errors import EvaluationError, ForceNetError
from forcenet_md.inference.interface import Kind, Request
from forcenet_md.inference.load import load_evaluator
from forcenet_md.inference.watched import WatchedEvaluator
from forcenet_md.system import Forces, System


class Seen:
    """Remembers; refuses the forces of streams in `refused`."""

    def __init__(self, velocities: bool = True, refused: int | None = None) -> None:
        self.velocities = velocities
        self.refused = refused
        self.seen: list[tuple[Request, Forces]] = []

    def see(self, request: Request, forces: Forces) -> None:
        self.seen.append((request, forces))
        if request.system.n_atoms == self.refused:
            raise EvaluationError("enough.")

    def close(self) -> None: ...


def test_a_fault_of_a_watcher_is_the_answer_to_that_request_alone() -> None:
    first, second = Seen(refused=8), Seen()
    evaluator = WatchedEvaluator(load_evaluator("ase:emt"), [first, second])
    systems = [bulk("Cu", cubic=True) * (n, 1, 1) for n in (1, 2, 3)]
    for system in systems:
        system.rattle(0.05, seed=1)
    requests = [Request(evaluator.new_session(), System.from_ase(s)) for s in systems]
    answers = evaluator.evaluate(requests)
    assert [isinstance(answer, ForceNetError) for answer in answers] == [False, True, False]
    assert str(answers[1]) == "enough."
    assert [request.system.n_atoms for request, _ in first.seen] == [4, 8, 12]
    assert [request.system.n_atoms for request, _ in second.seen] == [4, 12]
    assert first.seen[0][1] is answers[0]


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("wanted", [True, False])
def test_what_lammps_says_of_itself_reaches_the_watcher(wanted: bool, tmp_path) -> None:
    """Velocities are asked for only where a watcher wants them; LAMMPS's own are the reference."""
    watcher = Seen(velocities=wanted)
    evaluator = WatchedEvaluator(load_evaluator("ase:lj"), [watcher])
    with in_thread(tmp_path / "s", evaluator):
        script = (
            crystal(cells=2)
            + NO_PAIR
            + EXTERNAL
            + f"forcenet ext unix:{tmp_path}/s elements Ar\n"
            + "fix move all nve\ntimestep 0.002\n"
            + "dump d all custom 1 dump.txt id x y z vx vy vz\n"
            + "dump_modify d sort id format float %.17g\nrun 2\n"
        )
        done = run(script, tmp_path)
        assert done.returncode == 0, done.output
    moments = [request.moment for request, _ in watcher.seen]
    assert [moment.step for moment in moments] == [0, 1, 2]
    assert [moment.kind for moment in moments] == [Kind.SETUP, Kind.RUN, Kind.RUN]
    assert all(moment.timestep == pytest.approx(0.002) for moment in moments)
    assert all(moment.stream == 0 for moment in moments)
    for moment in moments:
        assert moment.ids is not None
        assert moment.masses is not None
        np.testing.assert_array_equal(moment.ids, np.arange(1, 33))
        np.testing.assert_allclose(moment.masses, 39.948)
        assert (moment.velocities is not None) == wanted
    if not wanted:
        return
    lines = (tmp_path / "dump.txt").read_text().splitlines()
    v = np.array([line.split() for line in lines[9:41]], dtype=float)[:, 4:7]  # of step 0
    np.testing.assert_allclose(moments[0].velocities, v, rtol=1e-12)
    # velocity Verlet: at step 1 the forces are asked for half a kick after step 0
    half = v + 0.5 * 0.002 * watcher.seen[0][1].forces / 39.948 / 1.0364269e-4
    np.testing.assert_allclose(moments[1].velocities, half, rtol=1e-6, atol=1e-9)
