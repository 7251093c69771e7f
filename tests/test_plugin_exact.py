"""The whole way of a force: plain `lmp` on `forcenet-md serve` with a Lennard-Jones calculator
gives LAMMPS's own numbers for the same potential."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from lammps_runs import BIN, crystal, run

SIGMA, EPSILON, CUTOFF = 3.405, 0.0104, 6.5
NATIVE = f"""
pair_style lj/cut {CUTOFF}
pair_modify shift yes
pair_coeff * * {EPSILON} {SIGMA}
"""
THERMO = """
thermo_style custom step temp pe etotal press vol pxx pyz lx
thermo_modify format float %.15g
thermo 20
timestep 0.002
"""


@pytest.fixture(scope="module")
def lj(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of the same potential, and at the end its exit code 0."""
    address = f"unix:{tmp_path_factory.mktemp('lj')}/lj.sock"
    process = subprocess.Popen(
        [
            str(BIN / "forcenet-md"),
            "serve",
            "--model",
            f"ase:lj,sigma={SIGMA},epsilon={EPSILON},rc={CUTOFF}",
            "--listen",
            address,
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("ready"):
            break
    else:
        pytest.fail("the server did not start: " + "".join(said))
    yield address
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0


def external(address: str) -> str:
    return f"""
pair_style zero {CUTOFF}
pair_coeff * *
fix ext all external pf/callback 1 1
forcenet ext {address} elements Ar
"""


def both(before: str, after: str, address: str, folder: Path, ranks: int) -> list[np.ndarray]:
    """Thermo of LAMMPS's own potential, checked against that of the server's: one table a run."""
    folder.mkdir(exist_ok=True)
    native = run(before + NATIVE + THERMO + after, folder)
    served = run(before + external(address) + THERMO + after, folder, ranks)
    assert native.returncode == 0, native.output
    assert served.returncode == 0, served.output
    assert len(native.thermo()) == len(served.thermo()) > 0
    for own, ours in zip(native.thermo(), served.thermo(), strict=True):
        np.testing.assert_allclose(ours, own, rtol=1e-8, atol=1e-8)
    return native.thermo()


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("ranks", [1, 2])
def test_nve_nvt_npt_and_minimize_give_the_native_thermo(
    ranks: int, lj: str, tmp_path: Path
) -> None:
    script = """
fix 1 all nve
run 200
unfix 1
fix 1 all nvt temp 40 40 0.1
run 200
unfix 1
fix 1 all npt temp 40 40 0.1 aniso 0 0 0.5
run 200
unfix 1
minimize 1e-10 1e-10 200 500
"""
    nve, nvt, npt, minimum = both(crystal(), script, lj, tmp_path, ranks)
    assert len(nve) == len(nvt) == len(npt) == 11
    assert np.ptp(npt[:, 5]) > 50  # the box does change
    assert minimum[-1, 2] < minimum[0, 2] - 0.1
