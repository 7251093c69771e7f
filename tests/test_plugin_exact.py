"""The whole way of a force: plain `lmp` on `forcenet-md serve` with a Lennard-Jones calculator
gives LAMMPS's own numbers for the same potential."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
from lammps_runs import BIN, Run, crystal, lmp, run

pytestmark = pytest.mark.usefixtures("plugin")

SIGMA, EPSILON, CUTOFF = 3.405, 0.0104, 6.5
NATIVE = f"""
pair_style lj/cut {CUTOFF}
pair_modify shift yes
pair_coeff * * {EPSILON} {SIGMA}
"""
ZERO = f"""
pair_style zero {CUTOFF}
pair_coeff * *
"""
PE, VOLUME, PYZ = 2, 5, 7  # columns of
THERMO = """
thermo_style custom step temp pe etotal press vol pxx pyz lx
thermo_modify norm no
thermo_modify format float %.15g
thermo 20
timestep 0.002
"""


@contextmanager
def serve(address: str) -> Iterator[subprocess.Popen[str]]:
    """A server of the same potential that has said it is ready."""
    model = f"ase:lj,sigma={SIGMA},epsilon={EPSILON},rc={CUTOFF}"
    with subprocess.Popen(
        [str(BIN / "forcenet-md"), "serve", "--model", model, "--listen", address],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout
            said = list(takewhile(lambda line: not line.startswith("ready"), process.stdout))
            assert process.poll() is None, said
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def lj(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server, which ends with exit code 0."""
    address = f"unix:{tmp_path_factory.mktemp('lj')}/lj.sock"
    with serve(address) as process:
        yield address
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 0


@dataclass
class Comparison:
    """One script twice: with LAMMPS's own potential, and with the server's.

    native, pair: the lines in which they differ; group: of the fix external
    """

    address: str
    folder: Path
    ranks: int = 1
    native: str = NATIVE
    pair: str = ZERO
    group: str = "all"
    options: str = ""
    tolerance: float = 1e-8
    watch: Callable[[str], str] = str  # sees every line as LAMMPS says it

    def thermo(self, before: str, after: str) -> list[np.ndarray]:
        """One table per run, the same for both."""
        external = (
            f"fix ext {self.group} external pf/callback 1 1\n"
            f"forcenet ext {self.address} elements Ar {self.options}\n"
        )
        native = run(before + self.native + THERMO + after, self.folder)
        with lmp(
            before + self.pair + external + THERMO + after, self.folder, self.ranks
        ) as process:
            assert process.stdout
            output = "".join(map(self.watch, process.stdout))
            served = Run(process.wait(), output)
        assert native.returncode == 0, native.output
        assert served.returncode == 0, served.output
        assert len(native.thermo()) == len(served.thermo()) > 0
        for own, ours in zip(native.thermo(), served.thermo(), strict=True):
            np.testing.assert_allclose(ours, own, rtol=self.tolerance, atol=self.tolerance)
        return native.thermo()


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_nve_nvt_npt_and_minimize_give_the_native_thermo(
    ranks: int, lj: str, tmp_path: Path
) -> None:
    script = """
fix 1 all nve
run 100
unfix 1
fix 1 all nvt temp 40 40 0.1
run 100
unfix 1
fix 1 all npt temp 40 40 0.1 aniso 0 0 0.5
run 200
unfix 1
minimize 1e-10 1e-10 200 500
"""
    nve, nvt, npt, minimum = Comparison(lj, tmp_path, ranks).thermo(crystal(2), script)
    assert (len(nve), len(nvt), len(npt)) == (6, 6, 11)
    assert np.ptp(npt[:, VOLUME]) > 10  # the box does change
    assert minimum[-1, PE] < minimum[0, PE] - 0.01


def test_a_triclinic_box_that_changes_its_shape(lj: str, tmp_path: Path) -> None:
    before = crystal(2).replace("block 0 2 0 2 0 2", "prism 0 2 0 2 0 2 0.3 -0.2 0.1")
    script = "fix 1 all npt temp 40 40 0.1 tri 0 0 0.5\nrun 100\n"
    (npt,) = Comparison(lj, tmp_path, ranks=2).thermo(before, script)
    assert np.ptp(npt[:, PYZ]) > 10


def test_relaxations(lj: str, tmp_path: Path) -> None:
    script = """
min_style fire
minimize 0 1e-4 50 100
fix 1 all box/relax iso 0 vmax 0.001
min_style cg
minimize 1e-10 1e-6 50 100
"""
    fire, box = Comparison(lj, tmp_path).thermo(crystal(2), script)
    assert fire[-1, PE] <= fire[0, PE]
    assert box[-1, VOLUME] != box[0, VOLUME]


def test_a_group_held_atoms_and_atoms_that_come_and_go(lj: str, tmp_path: Path) -> None:
    before = crystal(2) + "group wall id 1:4\ngroup mobile subtract all wall\n"
    script = """
fix 1 mobile nve
run 20
fix push mobile addforce 0.01 0 0
fix hold mobile setforce NULL NULL 0
run 20
unfix push
unfix hold
group gone id 20:22
delete_atoms group gone compress no
run 20
create_atoms 1 single 1.3 1.3 1.3 units box
group mobile id 1:40
run 0
"""
    tables = Comparison(lj, tmp_path, ranks=2, group="mobile").thermo(before, script)
    assert len(tables) == 4


def test_another_potential_on_top(lj: str, tmp_path: Path) -> None:
    """Native: lj/cut and morse as pair styles; ours: the server and morse."""
    morse = "pair_coeff * * morse 0.002 1.5 4.0\n"
    native = f"""
pair_style hybrid/overlay lj/cut {CUTOFF} morse 6.0
pair_modify pair lj/cut shift yes
pair_coeff * * lj/cut {EPSILON} {SIGMA}
"""
    ours = f"pair_style hybrid/overlay zero {CUTOFF} morse 6.0\npair_coeff * * zero\n"
    script = "fix 1 all npt temp 40 40 0.1 iso 0 0 0.5\nrun 50"
    comparison = Comparison(lj, tmp_path, native=native + morse, pair=ours + morse)
    (npt,) = comparison.thermo(crystal(2), script)
    assert len(npt) == 4


def test_units_real(lj: str, tmp_path: Path) -> None:
    kcal = 23.06054783061903  # of one eV, per mol
    before = crystal(2).replace("units metal", "units real")
    native = NATIVE.replace(str(EPSILON), repr(EPSILON * kcal))
    script = "timestep 2.0\nfix 1 all npt temp 40 40 100 iso 0 0 500\nrun 50"
    # The two sides' constants of nature differ in the eighth digit.
    Comparison(lj, tmp_path, native=native, tolerance=1e-6).thermo(before, script)


def test_the_server_refuses_elements_and_masses(lj: str, tmp_path: Path) -> None:
    def served(elements: str, mass: float, ranks: int = 1) -> Run:
        script = crystal(2).replace("39.948", str(mass)) + ZERO
        script += "fix ext all external pf/callback 1 1\n"
        return run(script + f"forcenet ext {lj} elements {elements}\nrun 0", tmp_path, ranks)

    unknown = served("Qq", 39.948, ranks=2)
    assert unknown.returncode != 0
    assert "Qq" in unknown.error
    heavy = served("Ar", 40.6)
    assert heavy.returncode != 0
    assert "Ar" in heavy.error
    assert "40.6" in heavy.error
    assert served("Ar mass_check no", 40.6).returncode == 0
    assert served("Ar", 40.4).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_server_that_comes_back(ranks: int, tmp_path: Path) -> None:
    """SIGKILL in the middle of a run; with `retry` the thermo is that of an undisturbed one."""
    address = f"unix:{tmp_path}/lj.sock"
    said: list[str] = []
    with ExitStack() as servers:
        server = servers.enter_context(serve(address))

        def kill_at_20(line: str) -> str:
            said.append(line)
            if line.split()[:1] == ["20"]:
                server.kill()
                server.wait()
                servers.enter_context(serve(address))
            return line

        comparison = Comparison(address, tmp_path, ranks, options="retry 60", watch=kill_at_20)
        comparison.thermo(crystal(2), "fix 1 all nve\nrun 300")
    assert any("was lost at step" in line for line in said)
    assert any("is back, going on at step" in line for line in said)


def test_two_dimensions_have_no_images_along_z(lj: str, tmp_path: Path) -> None:
    flat = crystal(4).replace("lattice fcc", "dimension 2\nlattice hex")
    flat = flat.replace("0 4\ncreate_box", "-0.3 0.3\ncreate_box").replace("5.3", "3.8")
    after = "fix 1 all nve\nfix 2 all enforce2d\nrun 40"
    Comparison(lj, tmp_path).thermo(flat, after)
