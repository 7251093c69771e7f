"""Averages over frames and aligned structures: exact symmetries, one batch, every route."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path

import in_process_runs
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.lammps import Prism
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.lammpsdata import write_lammps_data
from lammps_runs import EXTERNAL, NO_PAIR, run
from models import ALLOY, write_model
from ranks_runs import RanksProcess
from scipy.spatial.transform import Rotation
from serving import ask

from forcenet_md import ForceNetCalculator
from forcenet_md.cli.main import build_app
from forcenet_md.data.frames import write_frames
from forcenet_md.errors import ForceNetError, RequestError
from forcenet_md.inference import graph_evaluator
from forcenet_md.inference.evaluator import ModelEvaluator
from forcenet_md.inference.frames import AlignedEvaluator, Symmetry, canonical, frames
from forcenet_md.inference.interface import Evaluator, Request
from forcenet_md.inference.load import load_evaluator
from forcenet_md.server.address import Listener, parse_address
from forcenet_md.server.client import Client
from forcenet_md.server.loop import Server
from forcenet_md.system import Forces, System

GROUPS = (1, 2, 4, 8, 24, 120)


def alloy(seed: int = 0) -> Atoms:
    """A triclinic cell, its lattice vectors in no special directions."""
    atoms = bulk("Cu", a=3.9) * (2, 2, 2)
    rng = np.random.default_rng(seed)
    atoms.numbers = rng.choice(ALLOY, len(atoms))
    cell = atoms.cell.array @ (np.eye(3) + 0.05 * rng.normal(size=(3, 3)))
    atoms.set_cell(cell @ Rotation.random(rng=5).as_matrix().T, scale_atoms=True)
    atoms.rattle(0.15, rng=rng)
    return atoms


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    found = [folder / "a.pt", folder / "b.pt"]
    for seed, path in enumerate(found):
        write_model(path, seed=seed, net_force_removed=True)
    return found


def load(paths: Sequence[Path], n: int = 1, align: bool = False) -> Evaluator:
    return load_evaluator(
        str(paths[0]),
        dtype="float64",
        committee=[str(path) for path in paths[1:]],
        symmetry=Symmetry(n, align),
    )


def answer(evaluator: Evaluator, atoms: Atoms, keep: bool = False) -> Forces:
    request = Request(evaluator.new_session(), System.from_ase(atoms), keep_net_force=keep)
    (found,) = evaluator.evaluate([request])
    assert isinstance(found, Forces), found
    return found


def turned(atoms: Atoms, matrix: np.ndarray) -> Atoms:
    twin = atoms.copy()
    twin.set_cell(atoms.cell.array @ matrix.T)
    twin.positions = atoms.positions @ matrix.T
    return twin


@pytest.mark.parametrize("n", GROUPS)
def test_frames_are_groups_with_the_identity_first(n: int) -> None:
    group = frames(n)
    assert group.shape == (n, 3, 3)
    np.testing.assert_array_equal(group[0], np.eye(3))
    if n > 1:
        np.testing.assert_array_equal(group[1], -np.eye(3))
    np.testing.assert_allclose(group @ group.transpose(0, 2, 1), np.eye(3) + 0 * group, atol=1e-15)
    products = np.einsum("aij,bjk->abik", group, group).reshape(-1, 1, 9)
    for some in np.array_split(products, max(1, len(products) // 1000)):
        nearest = np.abs(some - group.reshape(1, n, 9)).max(axis=2).min(axis=1)
        assert nearest.max() < 1e-14
    apart = np.abs(group[:, None] - group[None]).max(axis=(2, 3)) + np.eye(n)
    assert apart.min() > 0.1


@pytest.mark.parametrize("n", [2, 8, 24])
def test_over_a_group_forces_turn_exactly_under_it(paths: list[Path], n: int) -> None:
    evaluator, alone = load(paths[:1], n), load(paths[:1])
    atoms = alloy()
    straight = answer(evaluator, atoms).forces
    single = answer(alone, atoms).forces
    rng = np.random.default_rng(0)
    for matrix in frames(n)[rng.choice(n, min(n, 3), replace=False)]:
        found = answer(evaluator, turned(atoms, matrix)).forces
        np.testing.assert_allclose(found, straight @ matrix.T, rtol=0, atol=1e-13)
    inverted = answer(alone, turned(atoms, -np.eye(3))).forces
    assert np.abs(inverted + single).max() > 1e-3  # a random network does not


@pytest.mark.parametrize("committee", [False, True])
@pytest.mark.parametrize("n", [2, 5])
def test_the_mean_is_that_of_turned_structures_one_by_one(
    paths: list[Path], n: int, committee: bool
) -> None:
    chosen = paths if committee else paths[:1]
    atoms = alloy()
    alone = load(chosen)
    each = np.stack([answer(alone, turned(atoms, m)).forces @ m for m in frames(n)])
    found = answer(load(chosen, n), atoms)
    np.testing.assert_allclose(found.forces, each.mean(axis=0), rtol=0, atol=1e-12)
    if not committee:
        apart = np.sqrt(((each - each.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0))
        assert found.frame_spread == pytest.approx(apart.max(), rel=1e-9)
        assert answer(alone, atoms).frame_spread is None


def test_one_frame_is_none(paths: list[Path]) -> None:
    atoms = alloy()
    one, plain = load(paths[:1], 1), load_evaluator(str(paths[0]), dtype="float64")
    np.testing.assert_array_equal(answer(one, atoms).forces, answer(plain, atoms).forces)
    assert isinstance(one, ModelEvaluator)


def test_all_frames_are_one_batch_and_one_neighbour_list(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several structures; split only where it would be too large."""
    sizes: list[int] = []
    real = ModelEvaluator._network

    def network(self, parts):
        sizes.append(len(parts))
        return real(self, parts)

    monkeypatch.setattr(ModelEvaluator, "_network", network)
    evaluator = load(paths[:1], 8)
    requests = [
        Request(evaluator.new_session(), System.from_ase(alloy(seed))) for seed in (0, 1, 2)
    ]
    together = evaluator.evaluate(requests)
    assert sizes == [24]
    assert [request.session.neighbours.rebuilds for request in requests] == [1, 1, 1]
    n_edges = requests[0].session.neighbours.update(requests[0].system).n_edges
    monkeypatch.setattr(graph_evaluator, "MAX_BATCH_EDGES", 3 * n_edges)
    sizes.clear()
    (apart,) = evaluator.evaluate(requests[:1])
    assert sizes == [3, 3, 2]
    assert isinstance(apart, Forces)
    assert isinstance(together[0], Forces)
    np.testing.assert_allclose(apart.forces, together[0].forces, rtol=0, atol=1e-12)


def test_frames_in_pieces(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """As systems of more than 50,000 atoms are computed, and those of many ranks."""
    atoms = alloy()
    expected = {n: answer(load(paths[:1], n, True), atoms).forces for n in (1, 4)}
    monkeypatch.setattr("forcenet_md.inference.evaluator.LARGE", 4)
    for n, forces in expected.items():
        found = answer(load(paths[:1], n, True), atoms).forces
        np.testing.assert_allclose(found, forces, rtol=0, atol=1e-12)


def test_held_atoms_keep_their_net_force_in_every_frame(tmp_path: Path) -> None:
    write_model(tmp_path / "m.pt")
    evaluator = load([tmp_path / "m.pt"], 4)
    kept, removed = (answer(evaluator, alloy(), keep=keep) for keep in (True, False))
    np.testing.assert_allclose(kept.net_force, removed.net_force, atol=1e-12)
    np.testing.assert_allclose(kept.forces.sum(axis=0), kept.net_force, atol=1e-12)
    np.testing.assert_allclose(removed.forces.sum(axis=0), 0.0, atol=1e-12)


def periodic(atoms: Atoms, pbc: tuple[bool, bool, bool]) -> Atoms:
    atoms = atoms.copy()
    atoms.pbc = pbc
    return atoms


@pytest.mark.parametrize(
    ("pbc", "n"), [((True, True, True), 2), ((True, True, False), 1), ((False, True, True), 1)]
)
def test_aligned_forces_turn_exactly_with_the_cell(
    paths: list[Path], pbc: tuple[bool, bool, bool], n: int
) -> None:
    evaluator = load(paths, n, align=True)
    atoms = periodic(alloy(), pbc)
    straight = answer(evaluator, atoms)
    for matrix in Rotation.random(3, rng=1).as_matrix():
        found = answer(evaluator, turned(atoms, matrix))
        np.testing.assert_allclose(found.forces, straight.forces @ matrix.T, rtol=0, atol=1e-13)
        net = straight.net_force @ matrix.T
        np.testing.assert_allclose(found.net_force, net, rtol=0, atol=1e-10)
    plain = load(paths, n)
    there = answer(plain, turned(atoms, matrix)).forces
    off = np.abs(there - answer(plain, atoms).forces @ matrix.T).max()
    assert off > 0.1 * np.abs(there).max()


def test_a_reflected_cell_is_aligned_to_its_image(paths: list[Path]) -> None:
    evaluator = load(paths[:1], align=True)
    atoms, mirror = alloy(), np.diag([1.0, 1.0, -1.0])
    found = answer(evaluator, turned(atoms, mirror)).forces
    straight = answer(evaluator, atoms).forces
    np.testing.assert_allclose(found, straight @ mirror, rtol=0, atol=1e-13)


def test_the_frame_is_that_of_lammps_and_ipi() -> None:
    """Lower triangular with a positive diagonal, as ASE's own Prism turns cells for LAMMPS."""
    atoms = alloy()
    matrix = canonical(System.from_ase(atoms))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-14)
    expected = Prism(atoms.cell.array).lammps_tilt
    np.testing.assert_allclose(atoms.cell.array @ matrix.T, expected, atol=1e-12)
    standard = turned(atoms, matrix)
    np.testing.assert_allclose(canonical(System.from_ase(standard)), np.eye(3), atol=1e-14)
    for pbc in [(True, True, False), (True, False, True), (False, True, True)]:
        slab = fcc111("Cu", (2, 2, 2), vacuum=5.0)
        if pbc != (True, True, False):
            slab = bulk("Cu", cubic=True) * (2, 1, 1)
        np.testing.assert_allclose(
            canonical(System.from_ase(periodic(slab, pbc))), np.eye(3), atol=1e-14
        )


def test_without_a_plane_of_periods_nothing_is_turned(paths: list[Path]) -> None:
    aligned, plain = load(paths[:1], align=True), load(paths[:1])
    for pbc in [(False, False, False), (False, True, False)]:
        atoms = periodic(alloy(), pbc)
        np.testing.assert_array_equal(answer(aligned, atoms).forces, answer(plain, atoms).forces)


def test_a_fault_stays_one_requests(paths: list[Path]) -> None:
    evaluator = load(paths[:1], 2, align=True)
    strange = alloy()
    strange.numbers[0] = 92
    requests = [
        Request(evaluator.new_session(), System.from_ase(atoms)) for atoms in (strange, alloy())
    ]
    fault, found = evaluator.evaluate(requests)
    assert isinstance(fault, ForceNetError)
    assert "does not know U" in str(fault)
    assert isinstance(found, Forces)


def test_a_cell_that_lammps_has_turned_gets_the_forces_of_ase(tmp_path: Path) -> None:
    """Real LAMMPS, from a file that ASE wrote; and without --align they differ."""
    atoms = alloy()
    prism = Prism(atoms.cell.array)
    write_data(atoms, prism, tmp_path)
    for align in (True, False):
        forces = by_lammps(load([Path("alloy")], 2, align), tmp_path, len(atoms))
        atoms.calc = ForceNetCalculator("alloy", dtype="float64", frames=2, align=align)
        off = np.abs(prism.vector_to_ase(forces) - atoms.get_forces()).max()
        assert off < 1e-10 if align else off > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_lammps_in_process_has_the_forces_of_ase(
    ranks: int, paths: list[Path], tmp_path: Path
) -> None:
    atoms = alloy()
    prism = Prism(atoms.cell.array)
    write_data(atoms, prism, tmp_path)
    options = ["--frames", "4", "--align", "--dtype", "float64"]
    script = SCRIPT.format(address=in_process_runs.NOWHERE)
    in_process_runs.succeed(script, tmp_path, ranks, options, model=str(paths[0]))
    forces = prism.vector_to_ase(dumped(tmp_path, len(atoms)))
    for align in (True, False):
        atoms.calc = ForceNetCalculator(paths[0], dtype="float64", frames=4, align=align)
        off = np.abs(forces - atoms.get_forces()).max() / np.abs(forces).max()
        assert off < 1e-10 if align else off > 1e-3


SCRIPT = (
    "units metal\natom_modify map array\nbox tilt large\nread_data alloy.data\n"
    + NO_PAIR
    + EXTERNAL
    + "forcenet ext {address} elements Cu Pd Ag Pt Au\n"
    + "dump d all custom 1 dump.txt id fx fy fz\n"
    + "dump_modify d sort id format float %.17g\nrun 0\n"
)


def write_data(atoms: Atoms, prism: Prism, folder: Path) -> None:
    write_lammps_data(folder / "alloy.data", atoms, specorder=["Cu", "Pd", "Ag", "Pt", "Au"],
                      masses=True, prismobj=prism)  # fmt: skip


def dumped(folder: Path, n_atoms: int) -> np.ndarray:
    lines = (folder / "dump.txt").read_text().splitlines()
    return np.array([line.split() for line in lines[9 : 9 + n_atoms]], dtype=float)[:, 1:]


def by_lammps(evaluator: Evaluator, folder: Path, n_atoms: int) -> np.ndarray:
    listener = Listener(parse_address(f"unix:{folder}/s"))
    listener.listen()
    server = Server(evaluator, [listener])
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        done = run(SCRIPT.format(address=f"unix:{folder}/s"), folder)
        assert done.returncode == 0, done.output
    finally:
        server.stop()
        thread.join(10)
    return dumped(folder, n_atoms)


@pytest.mark.slow
def test_many_ranks_have_the_frames_of_one(tmp_path: Path) -> None:
    """Also after a structure that one of them has a fault with, in the midst of the frames."""
    atoms = alloy()
    atoms.numbers[:] = 29
    write_model(tmp_path / "m.pt")
    (tmp_path / "server").mkdir()
    address = f"unix:{tmp_path}/s"
    options = ["--model", str(tmp_path / "m.pt"), "--dtype", "float64", "--listen", address]
    options += ["--frames", "3", "--align"]
    bad = atoms.copy()
    bad.positions[1] = bad.positions[0]
    with RanksProcess(2, tmp_path / "server", *options) as server, Client(address) as client:
        assert f"loading {tmp_path}/m.pt, the mean over 3 frames, aligned" in server.text
        client.hello(elements=["Cu"], masses=None)
        first = ask(client, atoms).forces
        with Client(address) as other:
            other.hello(elements=["Cu"], masses=None)
            with pytest.raises(RequestError, match="lie on one point"):
                ask(other, bad)
        second = ask(client, atoms, step=1).forces
    expected = answer(load([tmp_path / "m.pt"], 3, align=True), atoms).forces
    largest = np.abs(expected).max()
    for found in (first, second):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * largest)


def test_ase_calculators_and_cards_have_no_frames(paths: list[Path], tmp_path: Path) -> None:
    for symmetry in (Symmetry(2), Symmetry(align=True)):
        with pytest.raises(RequestError, match="ase:emt turns with the structure as it is"):
            load_evaluator("ase:emt", symmetry=symmetry)
    with pytest.raises(RequestError, match="averaged over 121 frames"):
        load_evaluator(str(paths[0]), symmetry=Symmetry(121))
    with pytest.raises(SystemExit) as end:
        build_app()(["evaluate", "x.xyz", "--model", str(paths[0]), "--frames", "2", "--into-card"])
    assert end.value.code == 2


def test_evaluate_has_both(
    paths: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against a calculator with the same; aligned cells have no rotation instability."""
    atoms = alloy()
    atoms.calc = ForceNetCalculator(paths[0], dtype="float64", frames=4, align=True)
    labels = atoms.get_forces()
    atoms.calc = SinglePointCalculator(atoms, forces=labels)
    write_frames(tmp_path / "data.extxyz", [atoms])
    arguments = [tmp_path / "data.extxyz", "--model", paths[0], "--dtype", "float64", "--json"]
    with pytest.raises(SystemExit):
        build_app()(["evaluate", *map(str, arguments), "--frames", "4", "--align"])
    output = capsys.readouterr()
    found = json.loads(output.out)
    assert (found["model"]["frames"], found["model"]["align"]) == (4, True)
    assert found["all"]["mae"] < 1e-7  # the file has eight digits
    assert found["rotation"]["standard_deviation"] < 1e-12
    assert "Forces are the mean over 4 frames." in output.err
    assert "it tells nothing of the network" in output.err


def test_it_is_what_a_watched_evaluator_can_watch(paths: list[Path]) -> None:
    evaluator = load(paths[:1], 2, align=True)
    assert isinstance(evaluator, AlignedEvaluator)
    evaluator.warm_up()
    answer(evaluator, alloy())
    assert evaluator.timings.network > 0.0
    assert evaluator.capabilities.name == "a"
