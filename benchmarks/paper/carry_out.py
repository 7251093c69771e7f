"""One run: train through the project's trainer, evaluate with the project's evaluation.

A run has a folder of its own, named by all that decides its result. `result.json` there says that
it is done; without it the run goes on from its checkpoint. `spent.json` has the processor seconds
of all tries but those that were killed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.paper.expand import Run
from benchmarks.paper.folds import Fold, Rows, by_system, by_time, thinned, trajectories
from forcenet_md.data.compiling import open_data, sha256
from forcenet_md.data.splits import write_part
from forcenet_md.data.store import Frames
from forcenet_md.evaluation.cases import Cases
from forcenet_md.evaluation.result import Evaluation, Model
from forcenet_md.evaluation.run import evaluate
from forcenet_md.evaluation.totals import Settings
from forcenet_md.inference.load import load_evaluator
from forcenet_md.training.finish import export
from forcenet_md.training.loop import Progress, Trainer
from forcenet_md.writing import write_text


@dataclass(frozen=True)
class Data:
    """The frames of all studies; systems: rows of each in order of time; sha256: of the file."""

    path: Path
    sha256: str
    frames: Frames
    systems: dict[str, Rows]


def open_source(path: Path, out: Path, system: str, moment: str) -> Data:
    """The data file, compiled once into the folder. Raises DataError."""
    frames = Frames(open_data([path], out / "data"))
    return Data(path, sha256(path), frames, trajectories(frames, system, moment))


def fold_of(run: Run, data: Data) -> Fold:
    """Its rows for training and for the test. Raises DataError."""
    systems = {name: rows[: run.first_frames] for name, rows in data.systems.items()}
    if run.split == "time":
        whole = by_time(systems, run.fold)
    else:
        whole = by_system(data.frames, systems, run.fold, run.n_folds)
    return thinned(whole, systems, run.train_frames, run.test_frames)


def result(run: Run, data: Data, out: Path) -> dict[str, Any] | None:
    """What a run found, None as long as it is not done."""
    return _read(_folder(run, data, out) / "result.json")


def spent(run: Run, data: Data, out: Path) -> float:
    """Processor seconds it has used."""
    return (_read(_folder(run, data, out) / "spent.json") or {}).get("seconds", 0.0)


def carry_out(run: Run, data: Data, out: Path, stop: Callable[[], bool]) -> bool:
    """Train, or train on, then evaluate; False when it was stopped before the end.

    stop: asked after every step. Raises ForceNetError where training fails.
    """
    folder = _folder(run, data, out)
    folder.mkdir(parents=True, exist_ok=True)
    before, start = spent(run, data, out), time.process_time()
    try:
        fold = fold_of(run, data)
        config = run.config(_store(run, fold, data, out), folder)
        trainer = Trainer(config)
        if trainer.checkpoint.is_file():
            trainer.resume()

        def watch(_: Progress) -> None:
            trainer.stop = trainer.stop or stop()

        if not trainer.run(watch):
            return False
        export(trainer)
        found = _evaluate(run, fold, data, config.output)
    finally:
        seconds = before + time.process_time() - start
        write_text(folder / "spent.json", json.dumps({"seconds": seconds}))
    found |= {
        "run": asdict(run),
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "train_frames": len(fold.train),
        "steps": trainer.step,
        "processor_seconds": seconds,
    }
    write_text(folder / "result.json", json.dumps(found, indent=1))
    for left in (config.checkpoint, config.best_checkpoint):
        left.unlink(missing_ok=True)  # the model file stays
    return True


def _folder(run: Run, data: Data, out: Path) -> Path:
    return out / "runs" / run.name(data.sha256)


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _store(run: Run, fold: Fold, data: Data, out: Path) -> Path:
    """The training frames as a store, shared by all runs that train on them."""
    words = (run.split, run.n_folds, run.fold, run.first_frames, run.train_frames)
    path = out / "data" / f"{'-'.join(map(str, words))}-{data.sha256[:16]}.h5"
    if not path.is_file():  # it is written whole or not at all
        write_part(data.frames.subset(fold.train), path)
    return path


def _evaluate(run: Run, fold: Fold, data: Data, model: Path) -> dict[str, Any]:
    """Figures of each held-out system (eV/Å, free atoms): mae, that of the median, instability."""
    evaluator = load_evaluator(str(model))
    known = evaluator.capabilities
    described = Model(name=known.name, spec=model.name, sha256=known.sha256, dtype="float32")
    settings = Settings(
        free_only=True, rotations=run.turns, rotation_frames=run.turned_frames, n_worst=0
    )
    systems = {}
    for name, rows in fold.test.items():
        cases = Cases(data.frames.subset(rows), [data.path.name])
        systems[name] = _figures(evaluate(evaluator, cases, described, settings).result)
    return {"systems": systems}


def _figures(found: Evaluation) -> dict[str, float]:
    if found.data.refused.n_frames or found.rotation is None:
        raise ValueError(f"a held-out frame was refused: {found.data.refused.first}")
    median = found.baseline.mae if found.baseline.mae_free is None else found.baseline.mae_free
    return {
        "mae": found.main.mae,
        "median": median,
        "instability": found.rotation.standard_deviation,
    }
