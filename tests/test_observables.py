"""g(r) and temperatures against known cases and against LAMMPS's own."""

from __future__ import annotations

from pathlib import Path

import lammps_runs
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from PIL import Image

from forcenet_md.errors import DataError
from forcenet_md.simulation.observables import (
    element_temperatures,
    pair_distribution,
    read_ipi_temperatures,
    read_ipi_trajectory,
    read_lammps_dump,
)
from forcenet_md.simulation.plots import (
    TemperatureCurves,
    plot_pair_distributions,
    plot_temperatures,
)


def gas(n_frames: int = 40, seed: int = 0) -> list[Atoms]:
    """Atoms without any correlation, in a skewed cell."""
    rng = np.random.default_rng(seed)
    cell = np.array([[12.0, 0, 0], [3, 11, 0], [-2, 1, 13]])
    symbols = ["Ag"] * 60 + ["Cu"] * 30
    return [
        Atoms(symbols, scaled_positions=rng.random((90, 3)), cell=cell, pbc=True)
        for _ in range(n_frames)
    ]


def test_ideal_gas_has_g_of_one() -> None:
    g = pair_distribution(gas(), r_max=6.0, n_bins=6).g
    assert list(g) == ["Ag-Ag", "Ag-Cu", "Cu-Cu"]
    for values in g.values():
        np.testing.assert_allclose(values[2:], 1.0, atol=0.06)


def test_crystal_counts_its_shells() -> None:
    atoms = bulk("Cu", cubic=True, a=3.6) * 3
    found = pair_distribution([atoms], r_max=4.0, n_bins=400)
    shell = 4.0 * np.pi * found.r**2 * (found.r[1] - found.r[0]) * (len(atoms) - 1)
    neighbours = np.cumsum(found.g["Cu-Cu"] * shell / atoms.get_volume())
    assert neighbours[found.r < 3.0][-1] == pytest.approx(12, rel=1e-3)
    assert neighbours[-1] == pytest.approx(18, rel=1e-3)


def test_alike_and_unlike_pairs_of_an_ordered_alloy() -> None:
    atoms = bulk("CuAu", "cesiumchloride", a=3.0) * 4
    g = pair_distribution([atoms], r_max=2.8, n_bins=28).g
    assert g["Au-Cu"].max() > 10
    assert g["Cu-Cu"].max() == g["Au-Au"].max() == 0


def test_deviation_is_relative_to_the_reference() -> None:
    one, other = pair_distribution(gas(seed=0)), pair_distribution(gas(seed=1))
    assert set(one.deviation(one).values()) == {0.0}
    by_hand = np.abs(one.g["Ag-Cu"] - other.g["Ag-Cu"]).sum() / other.g["Ag-Cu"].sum()
    assert one.deviation(other)["Ag-Cu"] == pytest.approx(by_hand)
    with pytest.raises(DataError, match="cannot be compared"):
        one.deviation(pair_distribution(gas(2), n_bins=7))


def test_temperature_of_each_element() -> None:
    rng = np.random.default_rng(0)
    atoms = Atoms(["Ag"] * 20000 + ["Cu"] * 20000, positions=rng.random((40000, 3)))
    wanted = np.repeat([300.0, 600.0], 20000)
    scale = np.sqrt(units.kB * wanted / atoms.get_masses())[:, None]
    atoms.set_velocities(rng.normal(size=(40000, 3)) * scale)
    found = element_temperatures([atoms, atoms])
    np.testing.assert_allclose(found["Ag"], [300, 300], rtol=0.03)
    np.testing.assert_allclose(found["Cu"], [600, 600], rtol=0.03)
    with pytest.raises(DataError, match="velocities"):
        element_temperatures([bulk("Cu")])


def test_dump_of_lammps(tmp_path: Path) -> None:
    script = (
        lammps_runs.crystal(cells=3, temperature=40)
        + lammps_runs.NO_PAIR
        + "fix move all nve\nthermo 1\nthermo_modify format float %.10g\n"
        + "dump d all custom 5 d.dump id element x y z vx vy vz\n"
        + "dump_modify d element Ar sort id format float %.17g\nrun 10\n"
    )
    run = lammps_runs.run(script, tmp_path)
    assert run.returncode == 0
    frames = read_lammps_dump(tmp_path / "d.dump")
    assert [len(atoms) for atoms in frames] == [108] * 3
    assert set(frames[0].get_chemical_symbols()) == {"Ar"}
    temperatures = element_temperatures(frames)["Ar"]
    of_lammps = run.thermo()[0][::5, 1]  # with 3 (n − 1) degrees of freedom
    np.testing.assert_allclose(temperatures, of_lammps * 107 / 108, rtol=2e-4)


def test_dumps_that_cannot_be_read(tmp_path: Path) -> None:
    empty = tmp_path / "empty.dump"
    empty.write_text("")
    other = tmp_path / "other.dump"
    other.write_text("ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n")
    for path in (empty, other, tmp_path / "missing.dump"):
        with pytest.raises(DataError, match=path.name):
            read_lammps_dump(path)


IPI_PROPERTIES = """\
# column   1     --> step : The current simulation time step.
# column   2     --> time{picosecond} : The elapsed simulation time.
# column   3     --> temperature(Cu){kelvin} : The current temperature.
    0.00000000e+00     0.00000000e+00     2.01975889e+03
    1.00000000e+01     2.00000000e-02     1.42802193e+03
"""
IPI_FRAMES = """\
2
Lattice="3.0 0.0 0.0 0.0 3.0 0.0 0.0 0.0 3.0" Properties=species:S:1:pos:R:3 \
ipi_comment="Step:           0  Bead:       0 positions{ase}  cell{ase}" pbc="T T T"
Ag       0.00000000       0.00000000       0.00000000
Cu       1.50000000      -4.50000000       1.50000000
"""


def test_output_of_ipi(tmp_path: Path) -> None:
    (tmp_path / "a.out").write_text(IPI_PROPERTIES)
    time, temperatures = read_ipi_temperatures(tmp_path / "a.out")
    assert time.tolist() == [0.0, 0.02]
    assert {k: v.tolist() for k, v in temperatures.items()} == {"Cu": [2019.75889, 1428.02193]}
    (tmp_path / "POSCAR.extxyz").write_text(2 * IPI_FRAMES)
    frames = read_ipi_trajectory(tmp_path / "POSCAR.extxyz")
    assert [str(atoms.symbols) for atoms in frames] == ["AgCu"] * 2
    assert frames[0].positions[1].tolist() == [1.5, -4.5, 1.5]
    # i-PI does not wrap its atoms
    g = pair_distribution(frames, r_max=3.0, n_bins=30).g["Ag-Cu"]
    assert np.flatnonzero(g).tolist() == [25]


def test_output_of_ipi_that_cannot_be_read(tmp_path: Path) -> None:
    for text in ("", "Temp 1\n", IPI_PROPERTIES.replace("(Cu)", ""), "# column 1 --> a\n1 2\n"):
        (tmp_path / "a.out").write_text(text)
        with pytest.raises(DataError, match=r"a\.out"):
            read_ipi_temperatures(tmp_path / "a.out")
    forces = IPI_FRAMES.replace("1.50000000      -4.50000000       1.50000000", "0 0 0")
    for text in ("", "not a trajectory\n", forces):
        (tmp_path / "a.xyz").write_text(text)
        with pytest.raises(DataError, match=r"a\.xyz"):
            read_ipi_trajectory(tmp_path / "a.xyz")


def test_plots_are_pictures(tmp_path: Path) -> None:
    curves = {"model": pair_distribution(gas(3)), "teacher": pair_distribution(gas(3, seed=1))}
    plot_pair_distributions(tmp_path / "g.png", curves, title="a gas")
    time = np.linspace(0.0, 2.0, 50)
    rng = np.random.default_rng(0)
    values = {"Ag": rng.normal(300, 9, 50), "Cu": rng.normal(300, 9, 50)}
    run = TemperatureCurves(time, values, averaged_from=1.0)
    plot_temperatures(tmp_path / "t.png", {"one": run, "other": run}, 300.0)
    for name in ("g.png", "t.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 300
            assert len(np.unique(np.asarray(picture.convert("L")))) > 5
