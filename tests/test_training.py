"""Training runs: the loss falls, the model file is whole, a stopped run goes on unchanged."""

from __future__ import annotations

import csv
import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from models import write_model
from training_runs import MAIN, crystal, label, write_config, write_labelled

from forcenet_md.artifact import find
from forcenet_md.artifact.card import TrainingRange
from forcenet_md.artifact.export import load_model, read_card
from forcenet_md.cli.train import train
from forcenet_md.data.frames import read_frames, write_frames
from forcenet_md.errors import DataError, ModelFileError
from forcenet_md.locking import locked
from forcenet_md.training import loop
from forcenet_md.training.batches import NO_EPOCH, Item
from forcenet_md.training.checkpoint import load_checkpoint, save_checkpoint
from forcenet_md.training.config_file import load_config
from forcenet_md.training.finish import export
from forcenet_md.training.loop import Trainer
from forcenet_md.training.start import read_start


def trainer_of(folder: Path, frames: Path, *overrides: str) -> Trainer:
    folder.mkdir(exist_ok=True)
    return Trainer(load_config(write_config(folder, frames), overrides))


def assert_same_weights(first: torch.nn.Module, second: torch.nn.Module) -> None:
    ours, theirs = first.state_dict(), second.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]) or value.isnan().any(), name


def command(*words: object) -> list[str]:
    return [sys.executable, "-c", MAIN, "train", *(str(word) for word in words)]


# Runs and their files


def test_loss_falls_and_the_model_file_is_whole(labelled: Path, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, labelled, "training.steps=150", "training.average=0.9")
    losses: list[float] = []
    assert trainer.run(lambda progress: losses.append(progress.loss))
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:20])
    export(trainer)
    card = read_card(trainer.config.output)
    assert card.elements == ["Cu", "Au"]
    assert_told_as_measured(card.training_range, read_frames(labelled))
    assert card.augmentation == "so3"
    assert card.test_errors["n_frames"] == 12
    assert set(card.test_errors["by_temperature"]) == {"300", "600"}
    assert 0.0 < card.test_errors["relative"] < 1.0
    module, _ = load_model(trainer.config.output)
    graph = trainer.graphs[Item(0, NO_EPOCH)]
    with torch.no_grad():
        expected = trainer.average(graph.species, *graph.edge_index, graph.vector)["forces"]
        found = module(graph.species, *graph.edge_index, graph.vector)["forces"]
    assert torch.allclose(found, expected, atol=1e-4)


def assert_told_as_measured(told: TrainingRange | None, frames: list[Atoms]) -> None:
    """By all distances and forces of ASE, with the four decimals of a card."""
    assert told is not None
    shortest: dict[str, float] = {}
    for atoms in frames:
        distances = atoms.get_all_distances(mic=True)
        for i, j in zip(*np.triu_indices(len(atoms), 1), strict=True):
            pair = "-".join(sorted(atoms.symbols[[i, j]]))
            shortest[pair] = min(distances[i, j], shortest.get(pair, np.inf))
    assert told.shortest == pytest.approx(shortest, abs=6e-5)
    largest = max(np.linalg.norm(atoms.get_forces(), axis=1).max() for atoms in frames)
    assert told.largest_force == pytest.approx(largest, abs=6e-5)


def test_a_range_is_put_into_a_card_that_has_none(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What examples/training_range.py finds in the frames of a training."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    script = importlib.import_module("training_range")
    monkeypatch.delitem(sys.modules, "training_range")
    model = tmp_path / "old.pt"
    before = write_model(model)
    assert before.training_range is None
    script.main(model, str(write_config(tmp_path, labelled)), [], "Of all frames.")
    after = read_card(model)
    assert_told_as_measured(after.training_range, read_frames(labelled))
    assert after.notes.endswith("Of all frames.")
    assert after.sha256 == before.sha256


def test_a_loss_is_the_weighted_sum_of_its_definition(labelled: Path, tmp_path: Path) -> None:
    """Of the first step, Σ w|ΔF| / 3Σw, with numpy from the model's own forces."""
    trainer = trainer_of(tmp_path, labelled, "training.batch=3", "loss.element_weights={Au: 0.2}")
    step = next(trainer.batches.start_at(trainer.position))
    total = weights = 0.0
    for row in step.rows.tolist():
        graph = trainer.graphs[Item(row, 0)]
        with torch.no_grad():
            forces = trainer.model(graph.species, *graph.edge_index, graph.vector)["forces"]
        difference = (forces - forces.mean(0)) - (graph.forces - graph.forces.mean(0))
        w = np.where(graph.species.numpy() == 79, 0.2, 1.0)
        total += (w[:, None] * np.abs(difference.numpy())).sum()
        weights += w.sum()
    losses: list[float] = []

    def stop(progress: Any) -> None:
        losses.append(progress.loss)
        trainer.stop = True

    trainer.run(stop)
    assert losses[0] == pytest.approx(total / (3 * weights), rel=1e-5)


def test_the_log_has_losses_and_validations(labelled: Path, tmp_path: Path) -> None:
    trainer = trainer_of(
        tmp_path, labelled, "training.log_every=5", "training.validations=4",
        "data.validation_fraction=0.3", "training.tensorboard=true",
    )  # fmt: skip
    trainer.run()
    folder = tmp_path / "run"
    with (folder / "log" / "version_0" / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["loss"]] == ["5", "10", "15", "20"]
    assert [row["step"] for row in rows if row["validation_mae"]] == ["5", "10", "15", "20"]
    best = min(float(row["validation_mae"]) for row in rows if row["validation_mae"])
    assert best == pytest.approx(trainer.best)
    assert list((folder / "tensorboard" / "version_0").glob("events*"))


def test_the_best_validation_is_exported(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rate that destroys the weights after the second validation: what is exported is what the
    second saw."""
    monkeypatch.setattr(
        loop, "learning_rate", lambda _kind, fraction, *_: 1e-3 if fraction < 0.5 else 0.1
    )
    options = ("data.validation_fraction=0.3", "training.validations=4", "training.average=0.1")
    trainer = trainer_of(tmp_path, labelled, *options)
    seen: list[float] = []
    kept: list[dict[str, torch.Tensor]] = []

    def observe(progress: Any) -> None:
        if progress.validation is not None:
            seen.append(progress.validation.mae)
            kept.append({k: v.clone() for k, v in trainer.average.state_dict().items()})

    trainer.run(observe)
    best = int(np.argmin(seen))
    assert best < 2
    export(trainer)
    assert (
        f"Weights of the best validation, at step {5 * (best + 1)}."
        in read_card(trainer.config.output).notes
    )
    assert torch.equal(
        trainer.average.state_dict()["decoder_in.weight"], kept[best]["decoder_in.weight"]
    )


def test_a_run_stops_early_and_stays_stopped(labelled: Path, tmp_path: Path) -> None:
    options = (
        "data.validation_fraction=0.3", "training.validations=20", "training.patience=3",
        "training.steps=200", "training.learning_rate=1e-12", "training.final_learning_rate=0",
        "training.average=0",
    )  # fmt: skip
    trainer = trainer_of(tmp_path, labelled, *options)
    maes: list[float] = []
    assert trainer.run(lambda p: maes.append(p.validation.mae) if p.validation else None)
    assert trainer.stopped_early
    best = int(np.argmin(maes))
    assert len(maes) == best + 1 + 3
    assert trainer.step == 10 * len(maes) < 200
    again = trainer_of(tmp_path, labelled, *options)
    again.resume()
    assert again.done


@pytest.mark.parametrize("budget", ["training.epochs=2.5", "training.seconds=1"])
def test_budgets_of_epochs_and_seconds(labelled: Path, tmp_path: Path, budget: str) -> None:
    trainer = trainer_of(tmp_path, labelled, budget, "training.batch=4")
    assert trainer.run()
    if "epochs" in budget:
        assert trainer.step == 8  # two epochs of 3, and the step that passes the half
    else:
        assert 1.0 <= trainer.seconds < 3.0
        assert trainer.step > 3


# Stopping and going on

EVERYTHING = (
    "training.batch_edges=1500", "data.workers=2", "data.validation_fraction=0.3",
    "training.validations=5", "training.patience=4", "training.schedule=paper",
    "training.warmup=0.2", "augmentation.noise=0.05", "augmentation.restore=1",
    "training.optimizer=adamw", "training.weight_decay=0.01", "training.clip=0.5",
    "model.norm=batch",
)  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), marks=pytest.mark.slow, id="plain"),
        pytest.param(EVERYTHING, id="everything"),
        pytest.param(
            ("training.optimizer=muon", "training.weight_decay=0.01"),
            marks=pytest.mark.slow,
            id="muon",
        ),
    ],
)
def test_a_resumed_run_has_identical_weights(
    labelled: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Bit by bit, stopped in the midst of an epoch and before a validation."""
    whole = trainer_of(tmp_path / "whole", labelled, *options)
    assert whole.run()
    first = trainer_of(tmp_path / "halves", labelled, *options)

    def stop_at_seven(progress: Any) -> None:
        first.stop = progress.step == 6

    assert not first.run(stop_at_seven)
    second = trainer_of(tmp_path / "halves", labelled, *options)
    second.resume()
    assert second.step == 7
    assert second.position.place > 0
    assert second.run()
    assert second.step == whole.step == 20
    assert_same_weights(second.model, whole.model)
    assert_same_weights(second.average, whole.average)
    assert (second.best, second.since_best) == (whole.best, whole.since_best)
    if options is EVERYTHING:
        ours, theirs = (load_checkpoint(t.config.best_checkpoint) for t in (second, whole))
        assert ours["step"] == theirs["step"]


def test_a_checkpoint_of_another_run_is_refused(labelled: Path, tmp_path: Path) -> None:
    trainer_of(tmp_path, labelled, "training.steps=2").run()
    for override, sentence in (
        ("seed=2", "with seed=1, and this run has seed=2: give the same"),
        ("data.remove_net_force=false", "with data.remove_net_force=true, and this run"),
        ("data.validation_fraction=0.3", "with other training frames"),
        ("model.hidden=8", r"other settings of the model \(hidden\)"),
    ):
        with pytest.raises(DataError, match=sentence):
            trainer_of(tmp_path, labelled, override).resume()
    watched = write_labelled(tmp_path / "watched.extxyz", [crystal(20)])
    with pytest.raises(DataError, match="with other validation frames"):
        trainer_of(tmp_path, labelled, f"data.validation={watched}").resume()


def test_a_run_goes_on_with_the_settings_that_make_it(labelled: Path, tmp_path: Path) -> None:
    """And with another budget, on another machine."""
    again = trainer_of(tmp_path, labelled, "training.steps=2", "training.batch_edges=1500")
    again.run()
    before = again.config
    for changed in (
        "training.optimizer=muon", "training.learning_rate=0.1", "training.schedule=paper",
        "training.clip=1", "training.average=0.9", "training.bfloat16=0.5",
        "training.batch_edges=1000", "training.batch=4", "training.initial=other.pt",
        "loss.kind=l2", "loss.element_weights={Cu: 2}", "loss.fixed_weight=0.05",
        "augmentation.noise=0.1", "augmentation.rotations=z",
    ):  # fmt: skip
        key = changed.partition("=")[0]
        words = ["training.steps=2", "training.batch_edges=1500", changed]
        again.config = load_config(tmp_path / "config.yaml", words)
        with pytest.raises(DataError, match=f"was trained with .*{key}=.*, and this run has"):
            again.resume()
    free = [
        "training.epochs=7", "training.patience=3", "training.validations=9", "training.threads=2",
        "training.devices=2", "training.checkpoint_seconds=9", "training.log_every=1",
        "data.workers=2", "output=other.pt", "export=last",
    ]  # fmt: skip
    again.config = load_config(tmp_path / "config.yaml", ["training.batch_edges=1500", *free])
    again.resume()
    assert again.config != before


@pytest.mark.slow
def test_frames_of_another_run_are_refused_though_they_are_as_many(
    labelled: Path, tmp_path: Path
) -> None:
    def run(train: Path, watched: Path) -> Trainer:
        words = f"data.train={train}", f"data.validation={watched}"
        return trainer_of(tmp_path, labelled, "training.steps=2", *words)

    one = write_labelled(tmp_path / "one.extxyz", [crystal(20), crystal(21)])
    run(labelled, one).run()
    moved = Path(shutil.copy(one, tmp_path / "moved.extxyz"))
    run(labelled, moved).resume()  # the same frames under another name
    two = write_labelled(tmp_path / "two.extxyz", [crystal(20), crystal(22)])
    with pytest.raises(DataError, match="with other validation frames: use the same"):
        run(labelled, two).resume()
    others = write_labelled(tmp_path / "others.extxyz", [crystal(k) for k in range(30, 42)])
    with pytest.raises(DataError, match="with other training frames: use the same"):
        run(others, one).resume()
    state = load_checkpoint(run(labelled, one).checkpoint)
    older = {key: value for key, value in state.items() if key not in ("frames", "validation")}
    save_checkpoint(run(labelled, one).checkpoint, older)
    run(labelled, two).resume()  # it does not say which frames it was trained with


def test_a_checkpoint_with_an_optimiser_of_another_version_is_refused(
    labelled: Path, tmp_path: Path
) -> None:
    """Such a one had its groups the other way round."""
    settings = ("training.steps=2", "training.optimizer=muon", "model.hidden=16")
    trainer_of(tmp_path, labelled, *settings).run()
    again = trainer_of(tmp_path, labelled, *settings)
    state = load_checkpoint(again.checkpoint)
    state["optimizer"]["parts"].reverse()
    save_checkpoint(again.checkpoint, state)
    with pytest.raises(DataError, match=r"another version of forcenet-md.*--from"):
        again.resume()


def test_a_resumed_run_without_budget_says_so(
    labelled: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trainer_of(tmp_path, labelled, "training.steps=3").run()
    train(str(tmp_path / "config.yaml"), ["training.steps=2"], resume=True)
    said = "the budget is already used up (3 of 2 steps): the model is exported as it is"
    assert said in capfd.readouterr().err.splitlines()
    assert "3 steps" in read_card(tmp_path / "m.pt").notes
    with pytest.raises(DataError, match="is there from an earlier run: go on from it with --res"):
        train(str(tmp_path / "config.yaml"))


def test_a_resumed_run_replaces_no_model_but_its_own(labelled: Path, tmp_path: Path) -> None:
    config = str(write_config(tmp_path, labelled, steps=2))
    train(config)
    train(config, ["training.steps=3"], resume=True)
    assert "3 steps" in read_card(tmp_path / "m.pt").notes
    other = tmp_path / "other.pt"
    other.write_bytes(b"of a week")
    with pytest.raises(DataError, match=r"other\.pt is there already: give output=OTHER\.pt"):
        train(config, ["training.steps=4", f"output={other}"], resume=True)
    assert other.read_bytes() == b"of a week"
    other.unlink()
    train(config, ["training.steps=4", f"output={other}"], resume=True)
    assert "4 steps" in read_card(other).notes


def test_a_full_disk_is_said_and_leaves_the_older_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"step": 1})
    (tmp_path / "checkpoint.part").symlink_to("/dev/full")
    with pytest.raises(
        DataError, match=r"cannot be written \(No space left on device\): free some"
    ):
        save_checkpoint(path, {"step": 2, "weights": torch.zeros(100_000)})
    assert load_checkpoint(path)["step"] == 1


def test_a_run_that_is_stopped_while_its_model_is_written_says_how_to_go_on(
    labelled: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = str(write_config(tmp_path, labelled, steps=2))

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("forcenet_md.training.finish.held_out_errors", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    said = capfd.readouterr().err.splitlines()[-1]
    assert said.endswith("m.pt is not written: the same command with --resume exports it")
    assert not (tmp_path / "m.pt").exists()
    train(config, resume=True)
    assert (tmp_path / "m.pt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_leaves_a_checkpoint_to_go_on_from(
    labelled: Path, tmp_path: Path, workers: int
) -> None:
    """Sent to the whole group of processes, as a terminal does."""
    write_config(tmp_path, labelled, steps=100_000, checkpoint_seconds=0.2)
    words = command("config.yaml", f"data.workers={workers}")
    process = subprocess.Popen(
        words, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        checkpoint = tmp_path / "run" / "checkpoint.pt"
        for _ in range(600):
            if checkpoint.is_file() or process.poll() is not None:
                break
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, said
    assert "--resume" in said
    step = load_checkpoint(checkpoint)["step"]
    assert step > 0
    trainer = Trainer(load_config(tmp_path / "config.yaml", [f"training.steps={step + 5}"]))
    trainer.resume()
    assert trainer.run()
    assert trainer.step == step + 5


# Starting from other weights


def test_fine_tuning_starts_from_the_forces_of_the_file(labelled: Path, tmp_path: Path) -> None:
    """Of the exported, folded network, in double precision."""
    first = trainer_of(tmp_path / "first", labelled, "model.n_hidden_edge=2", "model.norm=batch")
    first.run()
    export(first)
    tuned = Trainer(
        load_config(
            "tiny",
            [f"data.train={labelled}", f"training.initial={first.config.output}",
             f"folder={tmp_path}/tuned", f"output={tmp_path}/tuned.pt", "training.steps=2"],
        )
    )  # fmt: skip
    assert tuned.model.config == first.model.config
    module, card = load_model(first.config.output, dtype=torch.float64)
    assert card.sha256
    graph = tuned.graphs[Item(0, NO_EPOCH)]
    inputs = (graph.species, *graph.edge_index, graph.vector.double())
    with torch.no_grad():
        theirs = module(*inputs)["forces"]
        for model in (tuned.model, tuned.average):
            ours = model.double().eval()(*inputs)["forces"]
            assert (ours - theirs).abs().max() < 1e-12 * theirs.abs().max()
            model.float()
    tuned.run()
    export(tuned)
    assert "Started from m.pt." in read_card(tuned.config.output).notes


def test_a_shipped_model_is_found_by_its_name(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = trainer_of(tmp_path, labelled, "training.steps=1")
    first.run()
    export(first)
    monkeypatch.setattr(find, "SHIPPED", tmp_path)
    start = read_start(Path("m"))
    assert start.path == tmp_path / "m.pt"
    assert start.settings == vars(first.model.config)
    with pytest.raises(ModelFileError, match=r"no shipped model of that name.*shipped: m"):
        read_start(Path("other"))


def test_errors_of_no_atom_and_of_no_force_are_not_figures(tmp_path: Path) -> None:
    frames = label([crystal(seed) for seed in range(4)])
    for atoms in frames[2:]:
        atoms.set_array("fixed", np.ones(len(atoms), dtype=int))
    write_frames(tmp_path / "free.extxyz", frames[:2])
    held = [f"data.validation={tmp_path}/a.extxyz", f"data.test={tmp_path}/b.extxyz"]
    for name, atoms in zip(("a", "b"), frames[2:], strict=True):
        write_frames(tmp_path / f"{name}.extxyz", [atoms])
    trainer = trainer_of(tmp_path, tmp_path / "free.extxyz", "training.steps=2", *held)
    assert "every atom of the validation frames is held" in trainer.data.notes[-1]
    trainer.run()
    card = export(trainer)
    assert trainer.best is None
    assert card.test_errors == {"held_out": "none"}
    still = frames[0].copy()
    still.calc = SinglePointCalculator(still, forces=np.zeros((len(still), 3)))
    write_frames(tmp_path / "b.extxyz", [still])
    errors = export(
        trainer_of(tmp_path, tmp_path / "free.extxyz", "training.steps=2", held[1])
    ).test_errors
    assert errors["mean_abs_force"] == 0.0
    assert "relative" not in errors


@pytest.mark.parametrize(
    ("weight", "sentence"),
    [
        ("heavy", "'(1|heavy)' there"), (-1.0, "'-1.0' there"), (np.inf, "'inf' there"),
        (None, "'nan' there"),
    ],
)  # fmt: skip
def test_a_weight_that_is_none_is_said_before_the_run(
    tmp_path: Path, weight: object, sentence: str
) -> None:
    frames = label([crystal(0), crystal(1)])
    for atoms, value in zip(frames, (1.0, weight), strict=True):
        atoms.info.update({} if value is None else {"trust": value})
    write_frames(tmp_path / "a.extxyz", frames)
    with pytest.raises(
        DataError, match=f"frame_weight=trust: frame . of .*a.extxyz has {sentence}"
    ):
        trainer_of(tmp_path, tmp_path / "a.extxyz", "loss.frame_weight=trust")


def test_one_training_at_a_time_in_a_folder(labelled: Path, tmp_path: Path) -> None:
    config = str(write_config(tmp_path, labelled, steps=2))
    folder = load_config(config).folder
    with (
        locked(folder, "training"),
        pytest.raises(DataError, match=r"another training is at work in .* give another folder="),
    ):
        train(config, [])
    train(config, [])


def test_fine_tuning_learns_elements_the_model_did_not_know(tmp_path: Path) -> None:
    old = write_labelled(tmp_path / "old.extxyz", [crystal(seed) for seed in range(4)])
    test = write_labelled(tmp_path / "test.extxyz", [crystal(7)])
    first = trainer_of(tmp_path, old, "training.steps=3", f"data.test={test}")
    first.run()
    export(first)
    silver = crystal(9)
    silver.symbols[::2] = "Ag"
    new = tmp_path / "new.extxyz"
    write_frames(new, label([silver]))
    config = load_config(
        "tiny",
        [f"data.train={new}", f"training.initial={tmp_path}/m.pt", "training.steps=3",
         f"folder={tmp_path}/tuned", f"output={tmp_path}/tuned.pt"],
    )  # fmt: skip
    tuned = Trainer(config)
    tuned.run()
    export(tuned)
    assert "Ag" in read_card(config.output).elements


def test_a_start_from_a_checkpoint_takes_the_averaged_weights(
    labelled: Path, tmp_path: Path
) -> None:
    first = trainer_of(tmp_path, labelled, "training.steps=3")
    first.run()
    initial = f"training.initial={first.checkpoint}"
    warm = trainer_of(tmp_path, labelled, initial)
    assert_same_weights(warm.model, first.average)
    assert warm.earlier_steps == 3
    with pytest.raises(DataError, match="other settings of the model \\(hidden\\)"):
        trainer_of(tmp_path, labelled, initial, "model.hidden=8")


def test_a_start_that_is_no_checkpoint(labelled: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        trainer_of(tmp_path, labelled, f"training.initial={labelled}")
    assert str(raised.value) == (
        f"{labelled} is damaged or no checkpoint: give the checkpoint.pt of a run of"
        " 'forcenet-md train'."
    )


# What is refused


def test_a_loss_that_is_not_finite_names_the_frames(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(tmp_path, labelled, "training.batch=12")
    graph = trainer.graphs.graph

    def broken(item: Item) -> Any:
        out = graph(item)
        if item.row == 5:
            out.vector[0] = float("nan")
        return out

    monkeypatch.setattr(trainer.graphs, "graph", broken)
    with pytest.raises(DataError, match=r"not finite .* at step 0 on .*frame 5"):
        trainer.run()
    trainer.resume()
    assert trainer.step == 0
    assert all(torch.isfinite(value).all() for value in trainer.model.parameters())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_frame_without_a_graph_is_named(labelled: Path, tmp_path: Path, workers: int) -> None:
    """Two atoms on one point, in the training process and in a worker."""
    frames = read_frames(labelled, labelled=True)
    bad = frames[7]
    bad.positions[3] = bad.positions[4]
    path = tmp_path / "bad.extxyz"
    write_frames(path, frames)
    options = ("training.batch=12", f"data.workers={workers}", "data.max_force=null")
    with pytest.raises(Exception, match=r"frame 7.*: atoms 4 and 5 lie on one point") as raised:
        trainer_of(tmp_path, path, *options).run()
    assert "Traceback" not in str(raised.value)


def test_frames_with_huge_forces_are_left_out(labelled: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training frame is left"):
        trainer_of(tmp_path, labelled, "data.max_force=0.001")


def test_a_cutoff_that_makes_steps_slow_is_said_before_all_else(
    labelled: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path, labelled)
    said: list[str] = []
    for cutoff, cap in ((5, "null"), (12.5, 50), (12.5, "null")):
        settings = [f"model.cutoff={cutoff}", f"model.neighbour_cap={cap}"]
        assert said == []
        Trainer(load_config(config, settings), said.append)
    (note,) = said
    assert "about 596 neighbours within the cutoff of 12.5 Å" in note


def test_frames_without_neighbours_are_said(labelled: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no two atoms of a training frame are within"):
        trainer_of(tmp_path, labelled, "model.cutoff=0.5")


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("training.precision=16-mixed", "needs a GPU"),
        ("training.accelerator=cuda", "CUDAAccelerator"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_devices_that_are_not_there_are_said(
    labelled: Path, tmp_path: Path, override: str, word: str
) -> None:
    with pytest.raises(DataError, match=f"cannot be had: .*{word}"):
        trainer_of(tmp_path, labelled, override)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_the_loss_falls_in_each_precision(labelled: Path, tmp_path: Path, precision: str) -> None:
    trainer = trainer_of(
        tmp_path, labelled, f"training.precision={precision}", "training.steps=60",
        "model.norm=batch", "training.batch=6",
    )  # fmt: skip
    losses: list[float] = []
    trainer.run(lambda progress: losses.append(progress.loss))
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])
