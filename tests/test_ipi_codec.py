"""The bytes of i-PI's protocol: against struct and NumPy, and against i-PI's own code."""

from __future__ import annotations

import json
import struct
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.lj import LennardJones
from hypothesis import given
from hypothesis import strategies as st
from ipi.interfaces.utils import parse_extra
from ipi.pes._ase import ASEDriver
from ipi.utils import units as ipi_units
from ipi_driven import driven, template_of
from ipi_peer import BOHR, EV_PER_ANGSTROM, HARTREE, RealIpi, posdata, posdata_batch, word
from serving import copper, reference

from forcenet_md.errors import EvaluationError, ProtocolError, StructureError
from forcenet_md.inference.interface import Capabilities
from forcenet_md.server import ipi_codec as codec
from forcenet_md.system import Contact, Forces, System
from forcenet_md.units import IPI

HAS_ALL = Capabilities("all", frozenset({29}), 0.0, energy=True, stress=True, conservative=True)
FORCES_ALONE = Capabilities(
    "f", frozenset({29}), 0.0, energy=False, stress=False, conservative=True
)


def triclinic(seed: int = 0) -> Atoms:
    atoms = copper(2, seed)
    atoms.set_cell(
        atoms.cell.array @ np.array([[1, 0, 0], [0.2, 1, 0], [-0.1, 0.3, 1.1]]), scale_atoms=True
    )
    return atoms


def some_forces(atoms: Atoms) -> Forces:
    rng = np.random.default_rng(5)
    stress = rng.normal(size=(3, 3))
    return Forces(rng.normal(size=(len(atoms), 3)), -3.7, stress, imbalance=1.5)


# Units and layout ------------------------------------------------------------------------------


def test_units_are_those_of_i_pi():
    assert ipi_units.unit_to_internal("length", "angstrom", 1.0) == IPI.angstrom
    assert ipi_units.unit_to_internal("energy", "electronvolt", 1.0) == IPI.electronvolt
    assert ipi_units.unit_to_internal("force", "ev/ang", 1.0) == IPI.force


@pytest.mark.parametrize("batch", [1, 3])
def test_positions_and_triclinic_cells_come_in_as_they_were(batch):
    images = [triclinic(seed) for seed in range(batch)]
    message = posdata(images[0]) if batch == 1 else posdata_batch(images)
    body = message[12:]
    count, cells = codec.split_prefix(body[: 4 + 144 * batch], batch)
    positions = memoryview(body[4 + 144 * batch :])
    systems = codec.read_systems(memoryview(cells), positions, template_of(images[0]))
    assert count == len(images[0])
    assert len(systems) == batch
    for system, atoms in zip(systems, images, strict=True):
        np.testing.assert_allclose(system.positions, atoms.positions, rtol=1e-15)
        np.testing.assert_allclose(system.cell, atoms.cell.array, rtol=1e-15)
        np.testing.assert_array_equal(system.numbers, atoms.numbers)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_an_answer_is_laid_out_as_i_pi_reads_it(batch):
    atoms = triclinic()
    n = len(atoms)
    answer = some_forces(atoms)
    systems = [System.from_ase(atoms)] * min(batch, 2)
    data = codec.write_forces(systems, [answer] * len(systems), batch, HAS_ALL)
    extras = json.dumps(
        {"largest_force": float(np.linalg.norm(answer.forces, axis=1).max()), "imbalance": 1.5}
    ).encode()
    virial = -(answer.stress * HARTREE * atoms.get_volume()).T
    expected = [
        word("forceready"),
        struct.pack(f"={batch}d", *[-3.7 * HARTREE] * batch),
        struct.pack("=i", n),
        np.tile(answer.forces * EV_PER_ANGSTROM, (batch, 1)).tobytes(),
        np.tile(virial, (batch, 1)).tobytes(),
        (struct.pack("=i", len(extras)) + extras) * batch,
    ]
    sizes = np.cumsum([0, 12, 8 * batch, 4, 24 * n * batch, 72 * batch, len(expected[-1])])
    parts = [data[a:b] for a, b in pairwise(sizes)]
    assert len(data) == sizes[-1]
    for k in (0, 1, 2, 5):
        assert parts[k] == expected[k]
    for k in (3, 4):
        one, other = np.frombuffer(parts[k]), np.frombuffer(expected[k])
        np.testing.assert_allclose(one, other, rtol=1e-14)


def test_sign_and_transposition_of_the_virial_are_those_of_i_pis_ase_driver(tmp_path):
    atoms = triclinic()
    atoms.write(tmp_path / "a.extxyz")
    atoms.calc = LennardJones(sigma=2.3, epsilon=0.3, rc=5.0)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    stress = atoms.get_stress(voigt=False)
    theirs = ASEDriver(tmp_path / "a.extxyz").post_process(
        {"energy": energy, "forces": forces, "stress": stress}, atoms
    )
    data = codec.write_forces(
        [System.from_ase(atoms)], [Forces(forces, energy, stress)], 1, HAS_ALL
    )
    n = 24 * len(atoms)
    assert struct.unpack("=d", data[12:20])[0] == pytest.approx(float(theirs[0]), rel=1e-15)
    mine = np.frombuffer(data[24 : 24 + n]).reshape(-1, 3)
    np.testing.assert_allclose(mine, theirs[1], rtol=1e-14)
    virial = np.frombuffer(data[24 + n : 96 + n]).reshape(3, 3)
    assert np.abs(virial - np.diag(np.diag(virial))).max() > 1e-3
    np.testing.assert_allclose(virial, theirs[2], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("settings", [{}, {"consolidate_messages": False}, {"batch_size": 3}])
@pytest.mark.parametrize("sockets", [1, 2])
def test_i_pis_own_interface_gets_exact_answers(settings, sockets):
    images = [triclinic(seed) for seed in range(4)]
    with RealIpi(**settings) as ipi, driven(ipi.address, images[0], sockets=sockets) as mine:
        for _ in range(2):
            for atoms, answer in zip(images, ipi.step(images), strict=True):
                energy, forces, virial = reference(atoms)
                assert answer.energy == pytest.approx(energy, rel=1e-12)
                np.testing.assert_allclose(answer.forces, forces, rtol=1e-9, atol=1e-11)
                full = virial[[0, 3, 4, 3, 1, 5, 4, 5, 2]].reshape(3, 3)
                np.testing.assert_allclose(answer.virial, full, rtol=1e-9, atol=1e-10)
                largest = np.linalg.norm(forces, axis=1).max()
                assert answer.extras["largest_force"] == pytest.approx(largest, rel=1e-9)
        ipi.close()
        assert mine.ends() == ""


# Extras ----------------------------------------------------------------------------------------


def extras_of(**seen: Any) -> dict[str, Any]:
    atoms = copper()
    forces = Forces(np.zeros((4, 3)), **seen)
    data = codec.write_forces([System.from_ase(atoms)], [forces], 1, FORCES_ALONE)
    text = data[12 + 8 + 4 + 96 + 72 + 4 :]
    assert struct.unpack("=i", data[192:196]) == (len(text),)
    assert text.isascii()
    found = parse_extra(text.decode())  # i-PI's own reader
    assert found.pop("raw") == text.decode()
    return found


def test_extras_are_plain_json() -> None:
    found = extras_of(
        net_force=np.array([0.5, 0.0, -1.0]),
        torque=np.array([np.inf, 1.0, 0.0]),
        contact=Contact(0.5, 1.25, 2, 3, True),
        frame_spread=float("nan"),
        imbalance=1.5,
    )
    assert found == {
        "largest_force": 0.0,
        "net_force": [0.5, 0.0, -1.0],
        "torque": [None, 1.0, 0.0],
        "contact_distance": 1.25,
        "contact_ratio": 0.5,
        "frame_spread_max": None,
        "imbalance": 1.5,
    }


def test_the_spread_of_each_atom_is_left_out_where_there_are_many() -> None:
    spread = np.array([0.25, 0.123456789, 1e-9, 2.0])
    found = extras_of(force_spread=spread)
    assert found["force_spread"] == [0.25, 0.123457, 0.0, 2.0]
    assert found["force_spread_max"] == 2.0
    found = extras_of(force_spread=np.ones(codec.MANY + 1))
    assert found == {"largest_force": 0.0, "force_spread_max": 1.0, "force_spread_mean": 1.0}


# What is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoiled", "words"),
    [
        ({"forces": np.full((4, 3), np.nan)}, "not finite"),
        ({"forces": np.full((4, 3), np.inf)}, "not finite"),
        ({"forces": np.zeros((3, 3))}, r"4 atoms with forces \(3, 3\)"),
        ({"forces": np.zeros(12)}, r"forces \(12,\)"),
        ({"energy": np.inf}, "not finite"),
        ({"energy": np.nan}, "not finite"),
        ({"energy": None}, "gave no energy"),
        ({"stress": None}, "gave no energy or no virial"),
        ({"stress": np.full((3, 3), np.nan)}, "not finite"),
        ({"stress": np.full((3, 3), 1.7e308)}, "not finite"),
        ({"stress": np.zeros(6)}, r"stress \(6,\)"),
    ],
)
def test_an_answer_that_would_harm_i_pi_is_never_written(spoiled, words):
    atoms = copper()
    good = {"forces": np.zeros((4, 3)), "energy": 1.0, "stress": np.zeros((3, 3))}
    answers = [Forces(**good), Forces(**(good | spoiled))]
    with pytest.raises(EvaluationError, match=words):
        codec.write_forces([System.from_ase(atoms)] * 2, answers, 2, HAS_ALL)


def test_what_a_model_does_not_have_is_zero():
    data = codec.write_forces(
        [System.from_ase(copper())], [Forces(np.ones((4, 3)))], 1, FORCES_ALONE
    )
    assert struct.unpack("=d", data[12:20]) == (0.0,)
    assert not np.frombuffer(data[120:192]).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e308])
def test_positions_and_cells_that_are_not_finite(value):
    atoms = copper()
    h, x = np.array([atoms.cell.array.T] * 2), atoms.positions.copy()
    if value == 1e308:
        h *= 1e-300  # no volume
    else:
        x[2, 1] = value
    with pytest.raises(StructureError):
        codec.read_systems(memoryview(h.tobytes()), memoryview(x.tobytes()), template_of(atoms))


# The batch size --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (b"", 1),
        (b" ", 1),
        (b"  batch_size:4", 4),
        (b" , batch_size:16", 16),
        (b" template : a.xyz , , batch_size:32", 32),
        (b" no_batch_size:4", 1),
        (b" batch_size : 8 , , batch_size:4", 4),
        (b"batch_size:2, batch_size:3", 3),
        (b"batch_size:3x", 1),
        ("Å batch_size:5".encode(), 5),
    ],
)
def test_the_batch_size_is_read_from_init(text, size):
    assert codec.read_batch_size(text) == size


@pytest.mark.parametrize("text", [b"batch_size:0", b"batch_size:4097", b"batch_size:99999999999"])
def test_a_batch_size_beyond_reason_is_refused(text):
    with pytest.raises(ProtocolError, match="set a batch_size from 1 to 4096"):
        codec.read_batch_size(text)


@given(st.integers(2, 4096), st.text(max_size=20))
def test_i_pis_way_to_announce_a_batch_is_always_understood(size, parameters):
    separator = "," if parameters.strip() else ""  # ipi/interfaces/sockets.py, `initialize`
    text = parameters + f"{separator} batch_size:{size}"
    assert codec.read_batch_size(text.encode("utf-8", "surrogatepass")) == size


@given(st.lists(st.integers(0, 2), min_size=1, max_size=6))
def test_only_copies_at_the_end_are_left_out(kinds):
    systems = [System.from_ase(copper(seed=kind)) for kind in kinds]
    kept = codec.distinct(systems)
    assert kept == systems[: len(kept)]
    assert all(kind == kinds[len(kept) - 1] for kind in kinds[len(kept) :])
    assert len(kept) == 1 or kinds[len(kept) - 1] != kinds[len(kept) - 2]


def test_positions_in_bohr_are_what_a_user_wrote_in_angstrom():
    """Twelve digits of an Å survive the way to atomic units and back."""
    values = np.array([[3.61, 0.123456789012, -17.5]])
    np.testing.assert_array_max_ulp(values * BOHR / IPI.angstrom, values, maxulp=1)
