"""Graphs of labelled frames: augmentation, weights, loss, metrics, split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from training_runs import crystal, frames_of, label, with_held_atoms, write_labelled

from forcenet_md.data.frames import forces_of, read_frames, write_frames
from forcenet_md.data.teachers import open_teacher
from forcenet_md.errors import DataError
from forcenet_md.force_error import pool
from forcenet_md.models.forcenet import ForceNet, ForceNetConfig
from forcenet_md.training.augment import Augmented, augment, random_matrix
from forcenet_md.training.batches import NO_EPOCH, Item
from forcenet_md.training.config import AugmentationConfig, DataConfig, LossConfig
from forcenet_md.training.graphs import GraphDataset, to_graph
from forcenet_md.training.loss import atom_errors, without_net_force
from forcenet_md.training.metrics import errors_by, frame_errors
from forcenet_md.training.network import Network
from forcenet_md.training.survey import held_out, open_split, survey

CPU = torch.device("cpu")


def ordered(rows: torch.Tensor) -> NDArray[np.float32]:
    array = rows.numpy()
    return array[np.lexsort(np.round(array, 3).T[::-1])]


def test_a_turned_and_displaced_graph_is_the_graph_of_the_structure(tmp_path: Path) -> None:
    """As if the structure had been displaced and turned, and labelled by its teacher."""
    atoms = crystal(3)
    rng = np.random.default_rng(5)
    matrix = random_matrix("so3", True, rng)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    displacement = rng.normal(0.0, 0.02, (len(atoms), 3))
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ matrix.T)
    turned.positions = (atoms.positions + displacement) @ matrix.T
    with open_teacher("emt") as teacher:
        displaced = atoms.copy()
        displaced.positions += displacement
        change = forces_of(teacher.label(displaced)) - forces_of(teacher.label(atoms))
    frames = frames_of(write_labelled(tmp_path / "a.extxyz", [atoms, turned]), tmp_path)
    graph = to_graph(frames[0], 4.0, None, Augmented(matrix, displacement, change))
    expected = to_graph(frames[1], 4.0)
    assert torch.allclose(graph.forces, expected.forces, atol=1e-4)
    ours = torch.cat([graph.edge_index.T.float(), graph.vector], dim=1)
    theirs = torch.cat([expected.edge_index.T.float(), expected.vector], dim=1)
    np.testing.assert_allclose(ordered(ours), ordered(theirs), atol=1e-4)


def test_rotations_about_z_keep_z_and_inversion_is_a_switch_of_its_own() -> None:
    rng = np.random.default_rng(0)
    assert random_matrix("z", False, rng)[2] == pytest.approx([0.0, 0.0, 1.0])
    for rotations in ("so3", "z", "none"):
        drawn = [random_matrix(rotations, True, rng) for _ in range(40)]
        assert {round(float(np.linalg.det(m))) for m in drawn} == {-1, 1}
        drawn = [random_matrix(rotations, False, rng) for _ in range(40)]
        assert {round(float(np.linalg.det(m))) for m in drawn} == {1}


def test_uniform_rotations_have_the_moments_of_haar_measure() -> None:
    """E[R] = 0 and E[R_ij²] = 1/3."""
    rng = np.random.default_rng(1)
    drawn = np.array([random_matrix("so3", False, rng) for _ in range(4000)])
    assert np.abs(drawn.mean(0)).max() < 0.04
    assert np.abs((drawn**2).mean(0) - 1 / 3).max() < 0.03


def test_noise_moves_free_atoms_and_the_label_pulls_them_back() -> None:
    fixed = np.zeros(500, dtype=bool)
    fixed[:100] = True
    config = AugmentationConfig(
        rotations="none", inversion=False, noise=0.1, noise_share=0.5, restore=3.0
    )
    drawn = [augment(config, fixed, np.random.default_rng(seed)) for seed in range(60)]
    moved = [a for a in drawn if a.displacement.any()]
    assert 18 < len(moved) < 42
    for a in moved:
        assert not a.displacement[fixed].any()
        assert a.displacement[~fixed].std() == pytest.approx(0.1, rel=0.1)
        np.testing.assert_array_equal(a.added_force, -3.0 * a.displacement)


def test_net_force_is_taken_out_per_structure() -> None:
    forces = torch.arange(15, dtype=torch.float64).reshape(5, 3) ** 2
    structure = torch.tensor([0, 0, 1, 1, 1])
    out = without_net_force(forces, structure, 2)
    assert torch.allclose(out[:2].sum(0), torch.zeros(3, dtype=torch.float64))
    assert torch.allclose(out[2:].sum(0), torch.zeros(3, dtype=torch.float64))
    assert torch.allclose(out[0] - out[1], forces[0] - forces[1])


def test_losses_against_their_definitions() -> None:
    rng = np.random.default_rng(0)
    predicted, labels = rng.normal(size=(2, 9, 3))
    difference = np.abs(predicted - labels)
    delta = 0.4
    huber = np.where(difference < delta, difference**2 / (2 * delta), difference - delta / 2).mean(
        1
    )
    for kind, expected in (
        ("l1", difference.sum(1) / 3),
        ("l2", np.sqrt((difference**2).sum(1))),
        ("huber", huber),
    ):
        config = LossConfig(kind=kind, huber_delta=delta)  # type: ignore[arg-type]
        found = atom_errors(config, torch.from_numpy(predicted), torch.from_numpy(labels))
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)
    same = torch.zeros(2, 3, requires_grad=True)
    atom_errors(LossConfig(kind="l2"), same, torch.zeros(2, 3)).sum().backward()
    assert same.grad is not None
    assert torch.equal(same.grad, torch.zeros(2, 3))


def test_weights_of_fixed_atoms_elements_and_frames(tmp_path: Path) -> None:
    frames = [with_held_atoms(atoms, [0, 3]) for atoms in label([crystal(0), crystal(1)])]
    for atoms, weight in zip(frames, (0.5, 4.0), strict=True):
        atoms.info["trust"] = weight
    write_frames(tmp_path / "held.extxyz", frames)
    loss = LossConfig(fixed_weight=0.05, element_weights={"Au": 3.0}, frame_weight="trust")
    graphs = GraphDataset(frames_of(tmp_path / "held.extxyz", tmp_path), 4.0, None, loss=loss)
    for row, trust in enumerate((0.5, 4.0)):
        graph = graphs[Item(row, NO_EPOCH, 2.0)]
        expected = np.where(frames[row].numbers == 79, 3.0, 1.0) * trust * 2.0
        expected[[0, 3]] *= 0.05
        np.testing.assert_allclose(graph.weight.numpy(), expected, rtol=1e-6)
        assert np.flatnonzero(~graph.free.numpy()).tolist() == [0, 3]


def test_a_neighbour_cap_is_in_the_graph(labelled: Path, tmp_path: Path) -> None:
    graph = to_graph(frames_of(labelled, tmp_path)[0], 4.0, cap=5)
    assert torch.bincount(graph.edge_index[1]).tolist() == [5] * graph.num_nodes


def test_errors_against_a_direct_sum(labelled: Path, tmp_path: Path) -> None:
    """Over free atoms; the net force is that of all atoms."""
    held = [2, 5, 6]
    frames = [with_held_atoms(a, held) for a in read_frames(labelled, labelled=True)[:4]]
    write_frames(tmp_path / "held.extxyz", frames)
    torch.manual_seed(0)
    model = ForceNet(ForceNetConfig(hidden=16, cutoff=4.0))
    graphs = GraphDataset(frames_of(tmp_path / "held.extxyz", tmp_path), 4.0, None)
    errors = frame_errors(Network(model, True), graphs, range(4), CPU)
    differences, sizes = [], []
    free = np.setdiff1d(np.arange(len(frames[0])), held)
    for row, atoms in enumerate(frames):
        graph = graphs[Item(row, NO_EPOCH)]
        f = model(graph.species, *graph.edge_index, graph.vector)["forces"].detach().numpy()
        truth = atoms.calc.results["forces"]
        differences.append(np.abs(f - f.mean(0) - truth + truth.mean(0))[free])
        sizes.append(np.abs(truth - truth.mean(0))[free])
    whole = pool(errors)
    assert whole.mae == pytest.approx(np.mean(differences), rel=1e-4)
    assert whole.relative == pytest.approx(np.mean(differences) / np.mean(sizes), rel=1e-4)
    assert len(errors_by(errors, [1000000.0, 1000001.0, 1000002.0, 1000003.0])) == 4
    groups = errors_by(errors, [300.0, float("nan"), 300.0, 600.0])
    assert list(groups) == ["300", "600"]
    assert groups["300"].mae == pytest.approx(np.mean([differences[0], differences[2]]), rel=1e-4)


def test_validation_holds_out_the_same_groups_when_frames_are_added(tmp_path: Path) -> None:
    crystals = [crystal(seed) for seed in range(40)]
    few = frames_of(write_labelled(tmp_path / "few.extxyz", crystals[:12]), tmp_path)
    many = frames_of(write_labelled(tmp_path / "many.extxyz", crystals + crystals[:20]), tmp_path)
    sides: list[dict[str, bool]] = []
    for frames in (few, many):
        held = held_out(frames, np.arange(len(frames)), 0.4, "trajectory")
        sides.append({})
        for name, out in zip(frames.column("trajectory"), held, strict=True):
            assert sides[-1].setdefault(name, bool(out)) == bool(out)
    assert sides[0].items() <= sides[1].items()
    assert 0.2 < np.mean(list(sides[1].values())) < 0.6


def test_a_split_by_single_frames_is_said(labelled: Path, tmp_path: Path) -> None:
    frames = read_frames(labelled, labelled=True)
    for atoms in frames:
        del atoms.info["trajectory"]
    bare = write_labelled(tmp_path / "bare.extxyz", frames)
    split = open_split(DataConfig(train=[bare], validation_fraction=0.3), tmp_path)
    assert len(split.train) + len(split.validation) == 12
    assert "no column 'trajectory'" in split.notes[0]
    assert split.elements == {29, 79}


def test_a_column_to_group_by_that_is_not_there_is_refused(labelled: Path, tmp_path: Path) -> None:
    config = DataConfig(train=[labelled], group_by="trajectry", validation_fraction=0.3)
    with pytest.raises(DataError, match=r"no column 'trajectry' \(they have .*trajectory"):
        open_split(config, tmp_path)


def test_with_validation_files_all_others_are_trained_on(labelled: Path, tmp_path: Path) -> None:
    silver = crystal(30)
    silver.symbols[0] = "Ag"
    torn = crystal(31)
    torn.positions[0] += 1.2
    frames = [crystal(32), silver, torn]
    config = DataConfig(
        train=[labelled],
        validation=[write_labelled(tmp_path / "watched.extxyz", frames)],
        validation_fraction=0.9,
        group_by="nothing",
        max_force=20.0,
    )
    split = open_split(config, tmp_path)
    assert len(split.train) == 12
    assert split.validation.column("trajectory").tolist() == ["t32", "t30"]
    assert split.elements == {29, 79}
    assert [note.split(",")[0] for note in split.notes] == [
        "1 validation frames with a force above 20 eV/Å are left out",
        "validation frames have Ag",
    ]
    few = open_split(config.model_copy(update={"validation_frames": 1}), tmp_path)
    assert len(few.validation) == 1
    with pytest.raises(DataError, match=r"no frame of data\.validation is left"):
        open_split(config.model_copy(update={"max_force": 0.01}), tmp_path)


def test_edges_are_counted(labelled: Path, tmp_path: Path) -> None:
    frames = frames_of(labelled, tmp_path)
    counts = [to_graph(frames[k], 4.0).edge_index.shape[1] for k in range(len(frames))]
    found = survey(frames, 4.0, None, by_edges=True)
    assert found.costs.tolist() == counts
    assert found.mean_neighbours == pytest.approx(sum(counts) / frames.n_atoms.sum())
