"""The LAMMPS codec: what is refused by name, and units, order and signs of what is converted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from wire import HELLO, hello, step

from forcenet_md.errors import ForceNetError, RequestError, UnitsError, UnknownElementError
from forcenet_md.inference.interface import Capabilities
from forcenet_md.server.lammps import Settings, read_hello, read_step, write_forces
from forcenet_md.server.protocol import HEADER, decode_forces, decode_step, encode_step
from forcenet_md.system import Forces, System

MODEL = Capabilities(
    name="alloy",
    numbers=frozenset({47, 79, 29}),
    cutoff=6.0,
    energy=True,
    stress=True,
    conservative=True,
)
FORCES_ONLY = replace(MODEL, energy=False, stress=False, conservative=False)


def settings(model: Capabilities = MODEL, **changes: str) -> Settings:
    return read_hello(hello(**changes)[HEADER.size :], model, max_atoms=1000)


def payload(**changes: object) -> bytes:
    """A STEP of four atoms with some fields replaced."""
    frame = decode_step(step(bulk("Cu", cubic=True))[HEADER.size :])
    return encode_step(frame._replace(**changes))


def test_settings():
    s = settings(elements="Au Cu", masses="196.97 63.5", need="energy virial")
    assert s.numbers.tolist() == [79, 29]
    assert s.need == {"energy", "virial"}


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"units": "lj"}, UnitsError, "lj"),
        ({"units": "parsec"}, UnitsError, "parsec"),
        ({"elements": "Fe"}, UnknownElementError, r"does not know Fe \(atom type 1\): .*Ag Au Cu"),
        ({"elements": "Cu Cv"}, UnknownElementError, "'Cv' .atom type 2. is not"),
        ({"elements": "X"}, UnknownElementError, "'X'"),
        ({"elements": "cu"}, UnknownElementError, "'cu'"),
        ({"elements": ""}, RequestError, "no elements"),
        ({"masses": "107.87"}, RequestError, "type 1 has mass 107.9 amu but Cu has 63.55"),
        ({"masses": "64.1"}, RequestError, "64.1"),
        ({"masses": "nan"}, RequestError, "nan"),
        ({"masses": "heavy"}, RequestError, "heavy"),
        ({"masses": "63.5 63.5"}, RequestError, "1 elements but 2 masses"),
        ({"masses": ""}, RequestError, "0 masses"),
        ({"atoms": "1001"}, RequestError, "1001 atoms .*--max-atoms"),
        ({"atoms": "many"}, RequestError, "many"),
        ({"atoms": "-1"}, RequestError, "-1"),
        ({"need": "charge"}, RequestError, "charge"),
    ],
)
def test_refused_by_name(changes, error, words):
    with pytest.raises(error, match=words):
        settings(**changes)


@pytest.mark.parametrize("key", [key for key, _ in HELLO if key not in ("periodic", "need")])
def test_a_hello_without_a_line_is_refused(key):
    text = hello()[HEADER.size :].decode()
    lines = [line for line in text.splitlines() if not line.startswith(f"{key} ")]
    with pytest.raises(RequestError, match=key):
        read_hello("\n".join(lines).encode(), MODEL, max_atoms=1000)


@pytest.mark.parametrize("need", ["energy", "virial", "energy virial"])
def test_what_the_model_lacks_is_refused_before_the_run(need):
    settings(need=need)
    with pytest.raises(RequestError, match="gives no " + need.replace(" ", " and no ")) as fault:
        settings(FORCES_ONLY, need=need)
    assert "with fix nve and fix langevin" in str(fault.value)
    assert "fix nvt" not in str(fault.value)  # which the server's own warning advises against


@pytest.mark.parametrize(
    ("units", "mass"),
    [("metal", 63.546), ("si", 1.0552e-25), ("cgs", 1.0552e-22), ("micro", 1.0552e-10)],
)
def test_masses_are_compared_in_amu(units, mass):
    settings(units=units, masses=str(mass))
    with pytest.raises(RequestError, match="mass"):
        settings(units=units, masses=str(1.02 * mass))
    settings(units=units, masses=str(1.02 * mass), mass_check="off")
    settings(units=units, masses="none")


@pytest.mark.parametrize(
    ("changes", "kept"),
    [({}, False), ({"group": "mobile"}, True), ({"held": "yes"}, True)],
)
def test_the_net_force_is_kept_where_atoms_are_held(changes, kept):
    assert settings(**changes).keep_net_force is kept


def test_positions_of_metal_units_are_not_copied():
    data = bytearray(payload())
    read = read_step(data, settings(), MODEL, max_atoms=1000)
    assert np.shares_memory(read.system.positions, np.frombuffer(data, dtype=np.uint8))


@pytest.mark.parametrize(
    ("units", "length", "time"),
    [("real", 1.0, 1e-3), ("electron", 0.529177, 1e-3), ("nano", 10.0, 1e3), ("si", 1e10, 1e12)],
)
def test_a_step_in_other_units(units, length, time):
    atoms = bulk("Cu", cubic=True)
    v = np.arange(12.0).reshape(4, 3)
    data = payload(
        positions=atoms.positions / length,
        cell=atoms.cell.array / length,
        velocities=v * time / length,
        timestep=0.002 / time,
    )
    read = read_step(data, settings(units=units, masses="none"), MODEL, max_atoms=1000)
    np.testing.assert_allclose(read.system.positions, atoms.positions, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(read.system.cell, atoms.cell.array, rtol=1e-6)
    assert read.moment.velocities is not None
    np.testing.assert_allclose(read.moment.velocities, v, rtol=1e-6)
    assert read.moment.timestep == pytest.approx(0.002)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ids": np.array([1, 2, 2, 3])}, "ascend"),
        ({"ids": np.array([4, 3, 2, 1])}, "ascend"),
        ({"types": np.array([1, 1, 0, 1])}, "type 0"),
        ({"types": np.array([1, 1, 3, 1])}, "type 3, .* types 1 to 2"),
        ({"positions": np.full((4, 3), np.nan)}, "not finite"),
        ({"cell": np.diag([1.0, np.inf, 1.0])}, "not finite"),
        ({"cell": np.zeros((3, 3))}, "no volume"),
        ({"cell": np.ones((3, 3))}, "no volume"),
    ],
)
def test_a_step_that_is_refused(changes, words):
    with pytest.raises(ForceNetError, match=words):
        read_step(payload(**changes), settings(elements="Cu Au", masses="none"), MODEL, 1000)


def test_a_step_without_atoms_with_too_many_or_without_velocities_is_refused():
    nothing = {"ids": np.empty(0), "positions": np.empty((0, 3)), "types": np.empty(0)}
    with pytest.raises(RequestError, match="no atoms"):
        read_step(payload(**nothing), settings(), MODEL, 1000)
    with pytest.raises(RequestError, match=r"4 atoms .*--max-atoms"):
        read_step(payload(), settings(), MODEL, max_atoms=3)
    with pytest.raises(RequestError, match="needs velocities"):
        read_step(payload(), settings(), replace(MODEL, velocities=True), 1000)


def test_virial_has_the_order_and_sign_of_lammps():
    """Σ r·f over a free cluster, computed here from ASE's forces."""
    atoms = bulk("Cu", cubic=True) * 2
    atoms.pbc = False
    atoms.set_cell([[40, 0, 0], [3, 41, 0], [-2, 5, 42]])
    atoms.rattle(0.1, seed=3)
    atoms.calc = EMT()
    forces = atoms.get_forces()
    answer = Forces(forces, atoms.get_potential_energy(), atoms.get_stress(voigt=False))
    message = write_forces(5, System.from_ase(atoms), answer, settings(need="virial"))
    read = decode_forces(bytes(message)[HEADER.size :])
    w = atoms.positions.T @ forces
    assert read.virial is not None
    np.testing.assert_allclose(
        read.virial, [w[0, 0], w[1, 1], w[2, 2], w[0, 1], w[0, 2], w[1, 2]], atol=1e-10
    )
    assert read.step == 5
    np.testing.assert_array_equal(read.forces, forces)


def test_answers_in_other_units():
    system = System.make(np.zeros((1, 3)), [29], 10 * np.eye(3), True)
    answer = Forces(np.array([[1.0, 2.0, 3.0]]), 4.0, np.eye(3))
    real = decode_forces(bytes(write_forces(0, system, answer, settings(units="real")))[16:])
    np.testing.assert_allclose(real.forces, 23.06055 * answer.forces, rtol=1e-6)
    assert real.energy == pytest.approx(4 * 23.06055)
    assert real.virial is not None
    assert real.virial[0] == pytest.approx(-1000 * 23.06055)
    si = settings(units="si", masses="none")
    read = decode_forces(bytes(write_forces(0, system, answer, si))[16:])
    np.testing.assert_allclose(read.forces, 1.602177e-9 * answer.forces, rtol=1e-6)


def test_what_is_absent_is_absent_and_never_zero():
    system = System.make(np.zeros((1, 3)), [29], 10 * np.eye(3), True)
    alone = Forces(np.ones((1, 3)))
    read = decode_forces(bytes(write_forces(0, system, alone, settings()))[16:])
    assert read.energy is None
    assert read.virial is None
    for need in ("energy", "virial"):
        with pytest.raises(RequestError, match=f"gave no {need}"):
            write_forces(0, system, alone, settings(need=need))


@pytest.mark.parametrize("part", ["forces", "energy", "stress"])
def test_numbers_too_large_for_the_unit_are_refused(part):
    system = System.make(np.zeros((1, 3)), [29], 1e5 * np.eye(3), True)
    parts = {"forces": np.ones((1, 3)), "energy": 1.0, "stress": np.eye(3)}
    parts[part] = parts[part] * 1e307
    with pytest.raises(RequestError, match="too large for units real"):
        write_forces(0, system, Forces(**parts), settings(units="real"))
