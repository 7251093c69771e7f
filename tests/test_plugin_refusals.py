"""Set-ups that would move atoms wrongly in silence are refused in LAMMPS's own ERROR line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_server import FakeServer, Step, fake_server, forces_message
from lammps_runs import EXTERNAL, NO_PAIR, cases, crystal
from lammps_runs import quick_run as run
from mpi_launches import lammps_run

pytestmark = pytest.mark.usefixtures("plugin")

NVE = "fix 1 all nve\n"
HEAT_FLUX = """
compute ke all ke/atom
compute pe all pe/atom
compute stress all stress/atom NULL virial
compute flux all heat/flux ke pe stress
"""


@pytest.fixture(scope="module")
def forces_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeServer]:
    """A server whose model has neither energy nor virial."""
    with fake_server(f"unix:{tmp_path_factory.mktemp('fake')}/s") as server:
        yield server


@pytest.fixture(scope="module")
def with_energy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeServer]:
    """A server whose model has energy but no virial."""

    def answer(step: Step) -> bytes:
        return forces_message(step.step, np.zeros_like(step.positions), energy=-1.0)

    address = f"unix:{tmp_path_factory.mktemp('fake')}/s"
    with fake_server(address, answer=answer, welcome={"energy": "yes"}) as server:
        yield server


def script(
    command: str = "elements Ar",
    external: str = EXTERNAL,
    earlier: str = "",
    later: str = NVE + "run 5",
    before: str = "",
) -> str:
    return (
        crystal(2, before=before)
        + NO_PAIR
        + earlier
        + external
        + "forcenet ext {address} "
        + command
        + "\n"
        + later
    )


SET_UPS = {
    "lj": (script().replace("units metal", "units lj"), "'units lj' has no physical scale"),
    "missing fix": (script(external=""), "there is no fix external of the id ext"),
    "another fix": (
        script(external="fix ext all nve\n"),
        "there is no fix external of the id ext",
    ),
    "array": (script(external="fix ext all external pf/array 1\n"), "fix ext is pf/array, or"),
    "ncall": (
        script(external="fix ext all external pf/callback 5 1\n"),
        "fix ext is pf/array, or its Ncall is not 1",
    ),
    "napply": (
        script(external="fix ext all external pf/callback 1 2\n"),
        "the Napply of fix ext is not 1",
    ),
    "respa": (script(later=NVE + "run_style respa 2 2\nrun 5"), "under 'run_style respa'"),
    "ids": (script(before="atom_modify id no"), "atoms without ids"),
    "elements": (script("elements"), "one element symbol for each of the 1 atom types, not 0"),
    "too many elements": (script("elements Ar Ar"), "'Ar' is not a keyword"),
    "no elements": (script("retry 5"), "the command is: forcenet FIX-ID"),
    "element syntax": (
        script("elements 18"),
        "one element symbol for each of the 1 atom types, not 0",
    ),
    "keyword": (script("elements Ar colour red"), "'colour' is not a keyword"),
    "no value": (script("elements Ar retry"), "the keyword retry lacks its value"),
    "mass_check": (script("elements Ar mass_check 1"), "mass_check takes yes or no, not '1'"),
    "seconds": (script("elements Ar retry soon"), "retry takes a number of seconds, not 'soon'"),
    "address": (
        script().replace("{address}", "http://there"),
        "the address 'http://there' is neither unix:PATH nor tcp:HOST:PORT",
    ),
    "port": (
        script().replace("{address}", "tcp:localhost:99999"),
        "the address 'tcp:localhost:99999' is neither unix:PATH nor tcp:HOST:PORT",
    ),
    "long path": (
        script().replace("{address}", "unix:/" + "x" * 200),
        "is longer than the 107 bytes the system allows",
    ),
    "nobody there": (
        script().replace("{address}", "unix:nobody"),
        "the force server at unix:nobody cannot be reached (No such file or directory): start it"
        " with 'forcenet-md serve --model MODEL --listen unix:nobody'",
    ),
    "no box": ("units metal\nforcenet ext {address} elements Ar", "no simulation box yet"),
    "setforce": (
        script(earlier="fix hold all setforce 0 0 0\n"),
        "fix hold (setforce) is defined before fix ext",
    ),
    "aveforce": (
        script(earlier="group some id 1:3\nfix hold some aveforce 0 0 0\n"),
        "fix hold (aveforce) is defined before fix ext",
    ),
    "min_style": (
        script(later="min_style cg\nminimize 0 1e-6 10 10"),
        "min_style cg needs the energy, but the model gives none",
    ),
    "etol": (
        script(later="min_style fire\nminimize 1e-6 1e-6 10 10"),
        "the energy tolerance of minimize must be 0.0",
    ),
    "npt": (
        script(later="fix 1 all npt temp 40 40 0.1 iso 0 0 1\nrun 5"),
        "fix 1 (npt) needs the pressure, but the model gives no virial",
    ),
    "nph": (
        script(later="fix 1 all nph iso 0 0 1\nrun 5"),
        "fix 1 (nph) needs the pressure",
    ),
    "barostat": (
        script(later=NVE + "fix 2 all press/berendsen iso 0 0 1\nrun 5"),
        "fix 2 (press/berendsen) needs the pressure",
    ),
    "box/relax": (
        script(later="fix 1 all box/relax iso 0\nminimize 0 1e-6 10 10"),
        "fix 1 (box/relax) needs the pressure",
    ),
    "stress of atoms": (
        script(later=NVE + "compute s all stress/atom NULL\nrun 5"),
        "compute s (stress/atom) needs each atom's virial, but the model gives no virial, and"
        " would be without its part: take the compute out, or give 'fix_modify ext virial no'",
    ),
    "centroid stress": (
        script(later=NVE + "compute s all centroid/stress/atom NULL virial\nrun 5"),
        "compute s (centroid/stress/atom) needs each atom's virial",
    ),
    "heat flux": (
        script(later=NVE + HEAT_FLUX + "run 5"),
        "compute flux (heat/flux) needs each atom's virial, but the model gives no virial",
    ),
    "stress of a plane": (
        script(later=NVE + "compute s all stress/mop x center total\nrun 5"),
        "compute s (stress/mop) needs each atom's virial",
    ),
    "pressure": (
        script(later=NVE + "compute p all pressure NULL virial\nrun 5"),
        "compute p (pressure) needs the virial, but the model gives none",
    ),
    "energy of atoms": (
        script(later=NVE + "compute e all pe/atom\nrun 5"),
        "compute e (pe/atom) needs each atom's energy, but the model gives none",
    ),
    "monte carlo": (
        script(
            "elements Ar Ar",
            later=NVE + "fix mc all atom/swap 1 1 4711 40 types 1 2 ke no\nrun 5",
        ).replace("create_box 1", "create_box 2"),
        "fix mc (atom/swap) needs the energy",
    ),
}


RARELY = {
    "centroid stress",
    "stress of a plane",
    "energy of atoms",
    "another fix",
    "too many elements",
    "no elements",
    "element syntax",
    "keyword",
    "no value",
    "mass_check",
    "seconds",
    "long path",
    "no box",
    "nph",
    "barostat",
    "monte carlo",
}


@pytest.mark.parametrize("name", cases(SET_UPS, RARELY))
def test_a_wrong_set_up_is_refused(name: str, forces_alone: FakeServer, tmp_path: Path) -> None:
    text, sentence = SET_UPS[name]
    done = run(text.replace("{address}", forces_alone.address), tmp_path)
    assert done.returncode != 0
    assert sentence in done.error
    assert done.error.startswith("forcenet")


def test_every_rank_stops(forces_alone: FakeServer, tmp_path: Path) -> None:
    text = script(external="fix ext all external pf/callback 1 3\n").format(
        address=forces_alone.address
    )
    done = run(text, tmp_path, ranks=2)
    assert done.returncode != 0
    assert "fix ext" in done.error


def test_an_energy_is_enough_for_minimisers_but_not_for_barostats(
    with_energy: FakeServer, tmp_path: Path
) -> None:
    text = script(
        later="min_style cg\nminimize 1e-6 1e-6 10 10\nfix 1 all npt temp 40 40 1 iso 0 0 1\nrun 1"
    )
    done = run(text.format(address=with_energy.address), tmp_path)
    assert "Stopping criterion" in done.output
    assert "fix 1 (npt) needs the pressure" in done.error


@pytest.mark.parametrize("energy", [False, True])
def test_replicas_are_swapped_by_energies_alone(
    energy: bool, forces_alone: FakeServer, with_energy: FakeServer, tmp_path: Path
) -> None:
    later = "fix bath all nvt temp $t $t 0.1\ntemper 4 2 $t bath 1 2\n"
    text = "variable t world 40 50\n" + script(later=later)
    server = with_energy if energy else forces_alone
    text = text.replace("{address}", server.address)
    done = lammps_run(text, tmp_path, 2, "-partition", "2x1")
    assert (done.returncode == 0) == energy, done.output
    if not energy:
        said = "".join((tmp_path / f"screen.{world}").read_text() for world in (0, 1))
        assert "ERROR: forcenet ext: the command temper swaps replicas by their energies" in said


def test_a_virial_of_all_is_none_of_each_atom(tmp_path: Path) -> None:
    """Pressure is computed; each atom's virial only where it is said to lack the model's."""

    def answer(step: Step) -> bytes:
        forces = np.zeros_like(step.positions)
        return forces_message(step.step, forces, energy=-1.0, virial=np.full(6, 3.0))

    pressure = "compute p all pressure NULL virial\nthermo_style custom step c_p\n"
    without = "fix_modify ext virial no energy no\n" + HEAT_FLUX
    later = NVE + pressure + "run 0\n{}thermo_style custom step c_flux[1]\nrun 0"
    both = {"energy": "yes", "virial": "yes"}
    with fake_server(f"unix:{tmp_path}/s", answer=answer, welcome=both) as server:
        refused, done = (
            run(script(later=later.format(more)).replace("{address}", server.address), tmp_path)
            for more in (HEAT_FLUX, without)
        )
    assert refused.thermo()[0][0, 1] == pytest.approx(3.0 / 10.6**3 * 1.6021765e6)
    assert (
        "compute flux (heat/flux) needs each atom's virial, but the model gives only that of all,"
        " and would be without its part" in refused.error
    )
    assert done.returncode == 0, done.output
    assert np.isfinite(done.thermo()[1]).all()


def test_a_right_set_up_runs_and_is_told_once_what_is_missing(
    forces_alone: FakeServer, tmp_path: Path
) -> None:
    later = (
        NVE
        + "fix hold all setforce 0 0 0\nrun 2\nrun 2\n"
        + "unfix 1\nmin_style fire\nminimize 0 1e-6 5 5\nmin_style quickmin\nminimize 0 1e-6 5 5"
    )
    done = run(script(later=later).format(address=forces_alone.address), tmp_path)
    assert done.returncode == 0, done.output
    assert done.output.count("pe, etotal and press, and all made of them, lack its part") == 1


def test_a_force_fix_on_other_atoms_may_come_first(
    forces_alone: FakeServer, tmp_path: Path
) -> None:
    earlier = "group wall id 1:4\ngroup mobile subtract all wall\nfix hold wall setforce 0 0 0\n"
    text = script(external=EXTERNAL.replace(" all ", " mobile "), earlier=earlier)
    done = run(text.format(address=forces_alone.address), tmp_path)
    assert done.returncode == 0, done.output


def test_a_fix_whose_callback_was_taken_away_is_refused(
    forces_alone: FakeServer, tmp_path: Path
) -> None:
    """Also by `run … pre no`, which LAMMPS starts without initialising its fixes."""
    text = script(later=NVE + "run 1\nforcenet ext off\nrun 1 pre no")
    done = run(text.format(address=forces_alone.address), tmp_path)
    assert done.returncode != 0
    assert "a fix external has lost its force server" in done.error
