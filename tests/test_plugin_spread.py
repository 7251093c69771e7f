"""The spread of a committee inside LAMMPS: it stays with its atom on every rank, in every order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fake_server import Step, fake_server, forces_message, no_forces
from lammps_runs import EXTERNAL, NO_PAIR, crystal, run

pytestmark = pytest.mark.usefixtures("plugin")

PROMISED = {"spread": "yes"}
RUN = """
fix 1 all nve
timestep 0.01
compute mean all reduce ave f_FORCENET_ext
dump 1 all custom 10 steps.dump id f_FORCENET_ext x y z
dump_modify 1 sort id format float %.17g
thermo 10
thermo_style custom step f_FORCENET_ext c_mean
thermo_modify format float %.15g
run 20
balance 0.5 x 0.2 0.5
write_dump all custom after.dump id f_FORCENET_ext modify sort id format float %.17g
"""


def spread_of(ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
    return ids + np.abs(positions).sum(axis=1)


def with_spread(step: Step) -> bytes:
    """Of the id and the place of every atom, and forces that drive all of them along x."""
    forces = np.full_like(step.positions, [0.5, 0.0, 0.0])
    return forces_message(step.step, forces, spread=spread_of(step.ids, step.positions))


def script(address: str, then: str = RUN) -> str:
    forcenet = f"forcenet ext {address} elements Ar\n"
    start = crystal(3, temperature=3000.0, before="processors * 1 1")
    return start + NO_PAIR + EXTERNAL + forcenet + then


def test_every_atom_has_its_own_spread(tmp_path: Path) -> None:
    """While atoms move from rank to rank, and after they were dealt out anew."""
    address = f"unix:{tmp_path}/s"
    with fake_server(address, answer=with_spread, welcome=PROMISED):
        done = run(script(address), tmp_path, 3)
    assert done.returncode == 0, done.output
    [table] = done.thermo()
    frames = (tmp_path / "steps.dump").read_text().split("ITEM: ATOMS id f_FORCENET_ext x y z\n")
    for frame, (_, largest, mean) in zip(frames[1:], table, strict=True):
        rows = np.array([line.split() for line in frame.splitlines()[:108]], dtype=float)
        assert np.array_equal(rows[:, 1], spread_of(rows[:, 0], rows[:, 2:]))
        assert largest == pytest.approx(rows[:, 1].max(), rel=1e-13)
        assert mean == pytest.approx(rows[:, 1].mean(), rel=1e-13)
    after = np.loadtxt(tmp_path / "after.dump", skiprows=9)
    assert np.array_equal(after, rows[:, :2])
    assert done.output.count("a committee answers; the largest spread of its forces is") == 1


@pytest.mark.parametrize("lie", ["promised, not given", "given, not promised"])
def test_a_spread_that_is_not_as_promised_stops_lammps(lie: str, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/s"
    if lie == "promised, not given":
        with fake_server(address, answer=no_forces, welcome=PROMISED):
            done = run(script(address), tmp_path)
        assert "promised energy, virial or spread and gave none at step 0" in done.error
    else:
        with fake_server(address, answer=with_spread):
            done = run(script(address, "run 0"), tmp_path)
        assert "where at most 2672 belong" in done.error
    assert done.returncode != 0
