"""Training: graphs turn with their labels, the loss falls, a stopped run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.build import bulk

from forcenet_md.artifact.export import load_model, read_card
from forcenet_md.data.frames import forces_of, read_frames, write_frames
from forcenet_md.data.teachers import open_teacher
from forcenet_md.errors import DataError
from forcenet_md.models.forcenet import ForceNet, ForceNetConfig
from forcenet_md.training import fused
from forcenet_md.training.augment import random_rotation, rotate
from forcenet_md.training.checkpoint import load_checkpoint, save_checkpoint
from forcenet_md.training.config import load_config
from forcenet_md.training.dataset import Dataset
from forcenet_md.training.finish import check_outputs, export
from forcenet_md.training.fused import can_fuse, fused_forces
from forcenet_md.training.graphs import EpochOrder, to_graph
from forcenet_md.training.loop import Trainer
from forcenet_md.training.loss import without_net_force
from forcenet_md.training.metrics import errors_by, frame_errors, pool

MAIN = "from forcenet_md.cli.main import main; main()"


def crystal(seed: int) -> Atoms:
    """A small rattled Cu–Au crystal."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", "fcc", a=3.8, cubic=True) * (2, 2, 2)
    atoms.set_chemical_symbols(rng.choice(["Cu", "Au"], len(atoms)).tolist())
    atoms.positions += rng.normal(0.0, 0.1, atoms.positions.shape)
    atoms.info.update(temperature=float(300 * (seed % 2 + 1)), trajectory=seed)
    return atoms


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames labelled with EMT."""
    frames = []
    with open_teacher("emt") as teacher:
        frames = [teacher.label(crystal(seed)) for seed in range(12)]
    path = tmp_path_factory.mktemp("frames") / "labelled.extxyz"
    write_frames(path, frames)
    return path


def write_config(folder: Path, frames: Path, **training: Any) -> Path:
    tree = {
        "folder": str(folder / "run"),
        "output": str(folder / "m.pt"),
        "data": {"train": str(frames), "test": str(frames), "validation_fraction": 0.0},
        "model": {"hidden": 16, "cutoff": 4.0, "n_radial": 4, "n_hidden_edge": 1},
        "training": {"steps": 20, **training},
        "card": {"name": "tiny", "description": "EMT", "licence": "CC0-1.0", "citation": "none"},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


# Graphs


def test_rotated_graph_is_the_graph_of_the_rotated_structure() -> None:
    """Vectors and labels turn together, as if the structure had been turned and labelled."""
    atoms = crystal(3)
    matrix = random_rotation("so3", np.random.default_rng(5))
    assert torch.allclose(matrix @ matrix.T, torch.eye(3), atol=1e-6)
    turned = atoms.copy()
    q = matrix.numpy().astype(float)
    turned.set_cell(atoms.cell.array @ q.T)
    turned.positions = atoms.positions @ q.T
    with open_teacher("emt") as teacher:
        graph = to_graph(teacher.label(atoms), 4.0)
        expected = to_graph(teacher.label(turned), 4.0)
    rotated = rotate(graph, matrix)
    assert torch.allclose(rotated.forces, expected.forces, atol=1e-5)
    ours = torch.cat([rotated.edge_index.T.float(), rotated.vector], dim=1).numpy()
    theirs = torch.cat([expected.edge_index.T.float(), expected.vector], dim=1).numpy()

    def ordered(rows: Any) -> Any:
        return rows[np.lexsort(np.round(rows, 3).T[::-1])]

    np.testing.assert_allclose(ordered(ours), ordered(theirs), atol=1e-4)


def test_rotations_about_z_keep_z_and_so3_inverts() -> None:
    rng = np.random.default_rng(0)
    z = random_rotation("z", rng)
    assert z[2].tolist() == [0.0, 0.0, 1.0]
    signs = {round(float(torch.det(random_rotation("so3", rng)))) for _ in range(40)}
    assert signs == {-1, 1}


def test_net_force_is_taken_out_per_structure() -> None:
    forces = torch.arange(15, dtype=torch.float64).reshape(5, 3) ** 2
    structure = torch.tensor([0, 0, 1, 1, 1])
    out = without_net_force(forces, structure, 2)
    assert torch.allclose(out[:2].sum(0), torch.zeros(3, dtype=torch.float64))
    assert torch.allclose(out[2:].sum(0), torch.zeros(3, dtype=torch.float64))
    assert torch.allclose(out[0] - out[1], forces[0] - forces[1])


def test_epoch_order_sees_every_frame_and_goes_on_where_it_was() -> None:
    whole = iter(EpochOrder(7, 2, seed=3, start=0))
    steps = [next(whole) for _ in range(9)]
    assert len({row for batch in steps[:3] for row in batch}) == 6
    later = iter(EpochOrder(7, 2, seed=3, start=4))
    assert [next(later) for _ in range(5)] == steps[4:]


def test_errors_against_a_direct_sum(labelled: Path) -> None:
    frames = read_frames(labelled, labelled=True)[:4]
    torch.manual_seed(0)
    model = ForceNet(ForceNetConfig(hidden=16, cutoff=4.0))
    graphs = [to_graph(atoms, 4.0) for atoms in frames]
    errors = frame_errors(model, graphs, remove_net_force=True)
    differences, sizes = [], []
    for atoms, graph in zip(frames, graphs, strict=True):
        f = model(graph.species, *graph.edge_index, graph.vector)["forces"].detach().numpy()
        label = forces_of(atoms)
        differences.append(np.abs(f - f.mean(0) - label + label.mean(0)))
        sizes.append(np.abs(label - label.mean(0)))
    whole = pool(errors)
    assert whole.mae == pytest.approx(np.mean(differences), rel=1e-4)
    assert whole.relative == pytest.approx(np.mean(differences) / np.mean(sizes), rel=1e-4)
    groups = errors_by(errors, frames, "temperature")
    assert list(groups) == ["300", "600"]
    assert groups["300"].mae == pytest.approx(np.mean([differences[0], differences[2]]), rel=1e-4)


@pytest.mark.parametrize("changes", [{}, {"ablation": "no_self"}, {"edge_basis": "gaussian"}])
def test_fused_messages_have_the_values_and_gradients_of_the_model(
    changes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "CHUNK", 300)
    torch.manual_seed(1)
    model = ForceNet(ForceNetConfig(hidden=24, cutoff=5.5, n_hidden_edge=1, **changes)).double()
    assert can_fuse(model)
    with open_teacher("emt") as teacher:
        graph = to_graph(teacher.label(crystal(4)), 5.5)
    inputs = (graph.species, *graph.edge_index, graph.vector.double())
    assert graph.num_edges > 600
    weights = torch.randn(graph.num_nodes, 3, dtype=torch.float64)
    found, gradients = [], []
    for forces in (model(*inputs)["forces"], fused_forces(model, *inputs)):
        model.zero_grad()
        (forces * weights).sum().backward()
        found.append(forces.detach())
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert torch.allclose(found[0], found[1], rtol=0.0, atol=1e-12)
    assert len(gradients[0]) == len(gradients[1]) == len(list(model.parameters()))
    for plain, ours in zip(*gradients, strict=True):
        assert torch.allclose(plain, ours, rtol=1e-9, atol=1e-11)
    model.float()
    single = (graph.species, graph.edge_index[0], graph.edge_index[1], graph.vector)
    exact = fused_forces(model, *single)
    rough = fused_forces(model, *single, half=True)
    assert 0.0 < (exact - rough).abs().max() < 0.02 * exact.abs().max()


def test_validation_holds_out_the_same_groups_when_frames_are_added(labelled: Path) -> None:
    few, many = Dataset.read([labelled]), Dataset.read([labelled, labelled])
    many.frames += [crystal(seed) for seed in range(100, 200)]
    many.labels += [""] * 100
    kept, held = few.split(0.4, "trajectory")
    kept_of_many, held_of_many = many.split(0.4, "trajectory")

    def names(part: Dataset) -> set[Any]:
        return {atoms.info["trajectory"] for atoms in part.frames}

    assert names(held) <= names(held_of_many)
    assert names(kept) <= names(kept_of_many)
    assert 0.2 < len(held_of_many.frames) / len(many.frames) < 0.6


# Training


def test_loss_falls_and_the_model_file_is_whole(labelled: Path, tmp_path: Path) -> None:
    config = load_config(
        write_config(tmp_path, labelled), ["training.steps=150", "training.average=0.9"]
    )
    trainer = Trainer(config)
    losses: list[float] = []
    assert trainer.run(lambda progress: losses.append(progress.loss))
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:20])
    export(trainer)
    card = read_card(config.output)
    assert card.elements == ["Cu", "Au"]
    assert card.augmentation == "so3"
    assert card.test_errors["n_frames"] == 12
    assert set(card.test_errors["by_temperature"]) == {"300", "600"}
    assert 0.0 < card.test_errors["relative"] < 1.0
    module, _ = load_model(config.output)
    graph = trainer.train.graphs[0]
    with torch.no_grad():
        expected = trainer.average(graph.species, *graph.edge_index, graph.vector)["forces"]
        found = module(graph.species, *graph.edge_index, graph.vector)["forces"]
    assert torch.allclose(found, expected, atol=1e-4)


def test_a_resumed_run_has_identical_weights(labelled: Path, tmp_path: Path) -> None:
    for name in ("whole", "halves"):
        (tmp_path / name).mkdir()
    whole = Trainer(load_config(write_config(tmp_path / "whole", labelled)))
    assert whole.run()
    halves = load_config(write_config(tmp_path / "halves", labelled))
    first = Trainer(halves)

    def stop_at_seven(progress: Any) -> None:
        first.stop = progress.step == 7

    assert not first.run(stop_at_seven)
    second = Trainer(halves)
    second.resume()
    assert second.step == 7
    assert second.run()
    for ours, theirs in ((second.model, whole.model), (second.average, whole.average)):
        for mine, value in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(mine, value)


def test_warm_start_takes_the_averaged_weights(labelled: Path, tmp_path: Path) -> None:
    config = load_config(write_config(tmp_path, labelled), ["training.steps=3"])
    first = Trainer(config)
    first.run()
    warm = Trainer(load_config(tmp_path / "config.yaml", [f"training.initial={first.checkpoint}"]))
    for mine, value in zip(warm.model.parameters(), first.average.parameters(), strict=True):
        assert torch.equal(mine, value)
    assert warm.earlier_steps == 3
    with pytest.raises(DataError, match="other settings of the model \\(hidden\\)"):
        Trainer(
            load_config(
                tmp_path / "config.yaml",
                [f"training.initial={first.checkpoint}", "model.hidden=8"],
            )
        )


def test_a_loss_that_is_not_finite_names_the_frames(labelled: Path, tmp_path: Path) -> None:
    trainer = Trainer(load_config(write_config(tmp_path, labelled, batch=12)))
    trainer.train.graphs[5].vector[0] = float("nan")
    with pytest.raises(DataError, match=r"not finite at step 0 on .*frame 5 of "):
        trainer.run()
    trainer.resume()
    assert trainer.step == 0
    assert all(torch.isfinite(value).all() for value in trainer.model.parameters())


def test_a_full_disk_is_said_and_leaves_the_older_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"step": 1})
    (tmp_path / "checkpoint.part").symlink_to("/dev/full")
    with pytest.raises(
        DataError, match=r"cannot be written \(No space left on device\): free some"
    ):
        save_checkpoint(path, {"step": 2, "weights": torch.zeros(100_000)})
    assert load_checkpoint(path)["step"] == 1


def test_frames_with_huge_forces_are_left_out(labelled: Path, tmp_path: Path) -> None:
    config = load_config(write_config(tmp_path, labelled), ["data.max_force=0.001"])
    with pytest.raises(DataError, match="no training frame is left"):
        Trainer(config)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.batch=0", "training.batch"),
        ("training.bach=2", "training.bach"),
        ("model.widht=3", "'widht' is no setting of the model"),
        ("model.envelope=none", "model"),
        ("model.cutoff=0", "model: cutoff must be a positive number, not 0"),
        ("model.cutoff=-1", "model: cutoff must be a positive number"),
        ("model.cutoff=.nan", "model: cutoff must be a positive number"),
        ("model.cutoff=six", "model: cutoff must be a positive number, not 'six'"),
        ("model.mean_neighbours=0", "model: mean_neighbours must be a positive number"),
        ("model.hidden=0", "model: hidden must be an integer of at least 1, not 0"),
        ("model.hidden=8.5", "model: hidden must be an integer"),
        ("model.n_hidden_edge=-1", "model: n_hidden_edge must be an integer of at least 0"),
        ("training.steps=[", "its value is no YAML"),
        ("training.seconds=5", "either seconds or steps"),
        ("data.train=[]", "data.train"),
        ("nonsense", "write key=value"),
    ],
)
def test_a_wrong_key_is_named(labelled: Path, tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_config(write_config(tmp_path, labelled), [override])


def test_a_configuration_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\x80\xff\x00")
    with pytest.raises(DataError, match=r"binary\.yaml is no text: give the YAML file"):
        load_config(tmp_path / "binary.yaml")


def test_a_start_that_is_no_checkpoint(labelled: Path, tmp_path: Path) -> None:
    config = load_config(write_config(tmp_path, labelled), [f"training.initial={labelled}"])
    with pytest.raises(DataError) as raised:
        Trainer(config)
    assert str(raised.value) == (
        f"{labelled} is damaged or no checkpoint: give the checkpoint.pt of a run of"
        " 'forcenet-md train'."
    )


def test_what_cannot_be_written_is_said_before_the_run(labelled: Path, tmp_path: Path) -> None:
    path = write_config(tmp_path, labelled)
    for override, sentence in (
        (f"folder={labelled}", r"checkpoint\.pt cannot be written \(File exists\)"),
        (f"output={labelled}/m.pt", r"m\.pt cannot be written \(File exists\)"),
        (f"output={tmp_path}", "is no ordinary file"),
        (f"output={labelled}", "would replace what the run reads"),
    ):
        with pytest.raises(DataError, match=sentence):
            check_outputs(load_config(path, [override]))
    check_outputs(load_config(path, [f"output={tmp_path}/new/m.pt"]))
    assert list((tmp_path / "new").iterdir()) == []
    assert list((tmp_path / "run").iterdir()) == []


def test_frames_without_neighbours_are_said(labelled: Path, tmp_path: Path) -> None:
    config = load_config(write_config(tmp_path, labelled), ["model.cutoff=0.5"])
    with pytest.raises(DataError, match="no two atoms of a training frame are within"):
        Trainer(config)


def test_a_resumed_run_without_budget_says_so(labelled: Path, tmp_path: Path) -> None:
    path = write_config(tmp_path, labelled)
    Trainer(load_config(path, ["training.steps=3"])).run()
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "train", str(path), "training.steps=2", "--resume"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = "the budget is already used up (3 of 2 steps): the model is exported as it is"
    assert said in done.stderr.splitlines()
    assert "3 steps" in read_card(tmp_path / "m.pt").notes


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_to_go_on_from(labelled: Path, tmp_path: Path) -> None:
    write_config(tmp_path, labelled, steps=100_000, checkpoint_seconds=0.2)
    command = [sys.executable, "-c", MAIN, "train", "config.yaml"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    try:
        checkpoint = tmp_path / "run" / "checkpoint.pt"
        for _ in range(600):
            if checkpoint.is_file() or process.poll() is not None:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, said
    assert "--resume" in said
    step = load_checkpoint(checkpoint)["step"]
    assert step > 0
    config = load_config(tmp_path / "config.yaml", [f"training.steps={step + 5}"])
    trainer = Trainer(config)
    trainer.resume()
    assert trainer.run()
    assert trainer.step == step + 5
