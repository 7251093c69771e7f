"""Kinds of i-PI input that users have, with our driver: each runs to its end and is right.

Right is what i-PI's own Lennard-Jones gives, an implementation of its own, for a cluster; and for
crystals ASE's behind i-PI's own driver.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ipi_runs import DIGIT, AllPairs, Served, Variants, assert_same, difference, run_all, versus
from ipi_xml import barostat, dynamics, minimise, pressure, system, thermostat
from serving import copper

from forcenet_md.units import IPI

SIGMA, EPSILON, RANGE = 3.4, 0.0104, 99.0  # argon; Å, eV, Å
FREE = f"ase:lj,sigma={SIGMA},epsilon={EPSILON},rc={RANGE}"
FULL = f"ase:lj,sigma={SIGMA},epsilon={EPSILON},rc=7.9"
SHORT = f"ase:lj,sigma={SIGMA},epsilon={EPSILON},rc=5"
PAIRS = AllPairs(EPSILON, SIGMA)
LOWEST = -44.326801  # epsilon: 13 atoms, D. J. Wales & J. P. K. Doye, J. Phys. Chem. A 101 (1997)


def cluster() -> Atoms:
    """An icosahedron of 13 atoms, displaced at random, in a cell beyond all cutoffs."""
    golden = (1 + np.sqrt(5)) / 2
    corners = np.array([[0, a, b * golden] for a in (1, -1) for b in (1, -1)])
    corners = np.vstack([np.zeros(3), *(np.roll(corners, k, axis=1) for k in range(3))])
    atoms = Atoms("Ar13", 1.9 * corners, cell=[210.0] * 3, pbc=True)
    atoms.rattle(0.1, seed=3)
    return atoms


def crystal(repeat: int = 2) -> Atoms:
    atoms = bulk("Ar", a=5.3, cubic=True) * (repeat, repeat, 1)
    atoms.rattle(0.05, seed=3)
    return atoms


LANGEVIN = dynamics("nvt", thermostat("langevin"))
GLE = "<thermostat mode='gle'> <A shape='(2,2)'> [ 1e-4, 3e-4, -3e-4, 2e-4 ] </A> </thermostat>"
CMD = "<normal_modes> <frequencies style='pa-cmd'> [ 0.01 ] </frequencies> </normal_modes>"
MOTIONS = {
    "nve": system(dynamics("nve"), "nve", temperature=20.0),
    "langevin": system(LANGEVIN, "langevin", temperature=20.0),
    "svr": system(dynamics("nvt", thermostat("svr")), "svr", temperature=20.0),
    "gle": system(dynamics("nvt", GLE), "gle", temperature=20.0),
    "held": system(
        dynamics("nvt", thermostat("langevin"), more="<fixatoms> [ 0, 3 ] </fixatoms>"),
        "held",
        temperature=20.0,
    ),
    "paths": system(dynamics("nvt", thermostat("pile_l")), "paths", 4, temperature=20.0),
    "cmd": system(dynamics("nve"), "cmd", 4, temperature=20.0, more=CMD),
}


@pytest.mark.slow
def test_dynamics_of_a_cluster_are_those_of_i_pi_alone(tmp_path: Path) -> None:
    """Seven systems at one force field. Velocities to 1e-8; energies differ by what is known."""
    steps, atoms = 40, cluster()
    fields: Variants = {"ours": [Served(FREE, sockets=4)], "theirs": [PAIRS]}
    runs = run_all(fields, "".join(MOTIONS.values()), atoms, tmp_path, steps)
    ours, theirs = runs["ours"], runs["theirs"]
    n_pairs = len(atoms) * (len(atoms) - 1) / 2
    at_cutoff = 4.0 * EPSILON * ((SIGMA / RANGE) ** 12 - (SIGMA / RANGE) ** 6)
    for kind in MOTIONS:
        for what in ("positions", "velocities", "forces"):
            expected = theirs.vectors(what, kind)
            assert len(expected) == (4 if kind in ("paths", "cmd") else 1)
            assert difference(ours.vectors(what, kind), expected) <= 1e-8, (kind, what)
        one, other = ours.scalars(kind), theirs.scalars(kind)
        assert len(one["step"]) == steps + 1
        assert difference(one["kinetic_md"], other["kinetic_md"]) <= 1e-8 + DIGIT
        energy = one["potential"] / IPI.electronvolt + n_pairs * at_cutoff
        expected = other["potential"] / (IPI.force * IPI.angstrom)
        assert difference(energy, expected) <= 1e-8 + 2 * DIGIT, kind
    held = ours.vectors("positions", "held")[0]
    assert np.array_equal(held[0, [0, 3]], held[-1, [0, 3]])


OPTIMISERS = ("sd", "cg", "bfgs", "lbfgs", "bfgstrm", "damped_bfgs")
TOLERANCE = 1.001e-7  # atomic units: the least that i-PI takes


@pytest.mark.slow
def test_all_optimisers_take_the_same_steps(tmp_path: Path) -> None:
    systems = "".join(system(minimise(mode, TOLERANCE), mode) for mode in OPTIMISERS)
    runs = run_all(versus(FREE), systems, cluster(), tmp_path, 6)
    for mode in OPTIMISERS:
        path = runs["ours"].scalars(mode)["potential"]
        assert (np.diff(path) < 0.0).all()
        assert difference(path, runs["theirs"].scalars(mode)["potential"]) <= 1e-8 + DIGIT
        x = [runs[name].vectors("positions", mode) for name in ("ours", "theirs")]
        assert difference(*x) <= 1e-8


@pytest.mark.slow
@pytest.mark.parametrize("mode", OPTIMISERS)
def test_an_optimiser_finds_the_minimum_and_ends(tmp_path: Path, mode: str) -> None:
    fields = {**versus(FREE), "i-PI alone": [PAIRS]}
    runs = run_all(fields, system(minimise(mode, TOLERANCE)), cluster(), tmp_path, 2000)
    paths = {name: run.scalars()["potential"] for name, run in runs.items()}
    lengths = [len(path) for path in paths.values()]  # rounding may decide when it is the end
    assert 20 < min(lengths) > 0.9 * max(lengths)
    n = min(lengths[:2])
    assert difference(paths["ours"][:n], paths["theirs"][:n]) <= 1e-8 + DIGIT
    for name, unit in {"ours": IPI.electronvolt, "i-PI alone": IPI.force * IPI.angstrom}.items():
        assert paths[name][-1] / (EPSILON * unit) == pytest.approx(LOWEST, abs=1e-5)


def h0(atoms: Atoms) -> str:
    numbers = ", ".join(str(x) for x in atoms.cell.array.T.ravel())
    return f"<h0 units='angstrom'> [ {numbers} ] </h0>"


RESCALE = """<barostat mode='stochastic-rescaling'> <tau units='femtosecond'> 200 </tau>
<compressibility units='bar^-1'> 4.5e-5 </compressibility> </barostat>"""
STRESS = "<stress units='megapascal'> [ 50, 0, 0, 0, 80, 0, 0, 0, 100 ] </stress>"
CELLS = {
    "isotropic": ("npt", thermostat("svr") + barostat("isotropic"), 1, pressure(0.1)),
    "rescaling": ("npt", thermostat("langevin") + RESCALE, 1, pressure(0.1)),
    "flexible": ("npt", thermostat("svr") + barostat("flexible"), 1, pressure(0.1)),
    "stress": (
        "nst",
        thermostat("langevin") + barostat("anisotropic", elements=h0(crystal())),
        1,
        STRESS,
    ),
    "paths": ("npt", thermostat("pile_l") + barostat("isotropic"), 2, pressure(0.1)),
}


@pytest.mark.slow
def test_every_barostat(tmp_path: Path) -> None:
    systems = "".join(
        system(dynamics(mode, elements), name, beads, temperature=40.0, ensemble=ensemble)
        for name, (mode, elements, beads, ensemble) in CELLS.items()
    )
    runs = run_all(versus(FULL, sockets=2), systems, crystal(), tmp_path, 60)
    for name in CELLS:
        assert_same(runs["ours"], runs["theirs"], 60, name)
        cells = runs["ours"].cells(name)
        assert difference(cells[-1], cells[0]) > 1e-5


MTS = """
<force forcefield='full'> <mts_weights> [ 1, 0 ] </mts_weights> </force>
<force forcefield='short'> <mts_weights> [ -1, 1 ] </mts_weights> </force>
"""
CONTRACTED = """
<force forcefield='short'/> <force forcefield='short' nbeads='2' weight='-1'/>
<force forcefield='full' nbeads='2'/>
"""


@pytest.mark.slow
def test_two_models_at_once(tmp_path: Path) -> None:
    """Multiple time steps, and ring-polymer contraction: a server for each of two models."""
    nmts = thermostat("langevin") + "<nmts> [ 1, 4 ] </nmts>"
    systems = system(dynamics("nvt", nmts), "mts", forces=MTS, temperature=40.0) + system(
        dynamics("nvt", thermostat("pile_g")), "rpc", 4, forces=CONTRACTED, temperature=40.0
    )
    fields = versus(FULL, SHORT, names=("full", "short"), sockets=4)
    runs = run_all(fields, systems, crystal(), tmp_path, 20)
    assert_same(runs["ours"], runs["theirs"], 20, "mts")
    assert_same(runs["ours"], runs["theirs"], 20, "rpc")


@pytest.mark.slow
def test_systems_at_the_same_time(tmp_path: Path) -> None:
    """Three systems in threads of i-PI, over four sockets."""
    systems = "".join(
        system(dynamics("nve"), f"t{temperature}", temperature=temperature)
        for temperature in (20, 40, 60)
    )
    runs = run_all(versus(FULL, sockets=4), systems, crystal(), tmp_path, 30, threads=True)
    for temperature in (20, 40, 60):
        assert_same(runs["ours"], runs["theirs"], 30, f"t{temperature}")


@pytest.mark.slow
def test_replica_exchange(tmp_path: Path) -> None:
    """It is decided by energies: the same replicas are exchanged."""
    prefixes = [f"t{temperature}" for temperature in (40, 42, 44)]
    systems = "".join(system(LANGEVIN, p, temperature=float(p[1:])) for p in prefixes)
    remd = "<smotion mode='remd'> <remd> <stride> 3 </stride> </remd> </smotion>"
    runs = run_all(versus(FULL), systems, crystal(), tmp_path, 60, remd)
    for prefix in prefixes:
        assert_same(runs["ours"], runs["theirs"], 60, prefix)
    exchanges = [np.loadtxt(run.folder / "out.remd_idx") for run in runs.values()]
    assert len(exchanges[0]) > 3
    assert np.array_equal(exchanges[0], exchanges[1])


VIBRATIONS = """<motion mode='vibrations'>
  <vibrations mode='fd'> <pos_shift> 0.01 </pos_shift> <prefix> modes </prefix>
  <asr> poly </asr> </vibrations>
</motion>"""


@pytest.mark.slow
def test_vibrations_of_a_cluster(tmp_path: Path) -> None:
    runs = run_all(versus(FREE), system(VIBRATIONS), cluster(), tmp_path, 200)
    found = [np.loadtxt(run.folder / "out.modes.eigval") for run in runs.values()]
    assert len(found[0]) == 39
    assert difference(*found) <= 1e-8 + DIGIT


SWAPS = f"""<motion mode='multi'>
  {dynamics("nvt", thermostat("langevin"))}
  <motion mode='atomswap'>
    <atomswap> <names> [ Cu, Au ] </names> <nxc> 2 </nxc> </atomswap>
  </motion>
</motion>"""


@pytest.mark.slow
def test_atoms_that_are_swapped(tmp_path: Path) -> None:
    """Monte Carlo between elements, decided by energies."""
    atoms = copper(2)
    atoms.numbers[::3] = 79
    runs = run_all(versus("ase:emt"), system(SWAPS, temperature=3000.0), atoms, tmp_path, 40)
    assert_same(runs["ours"], runs["theirs"], 40)
    x = runs["ours"].vectors("positions")[0]
    assert np.abs(x[-1] - x[0]).max() > 2.0  # bohr: farther than an atom goes by itself


@pytest.mark.slow
def test_suzuki_chin(tmp_path: Path) -> None:
    """Fourth-order path integrals: forces at displaced beads, weighted by i-PI."""
    motion = dynamics("sc", thermostat("pile_l"))
    runs = run_all(
        versus(FULL, sockets=4), system(motion, beads=4, temperature=40.0), crystal(), tmp_path, 40
    )
    assert_same(runs["ours"], runs["theirs"], 40)
