"""The repulsive pair floor (`model.floor=zbl`): what it does for the stability of dynamics.

    python -m benchmarks.floor --out FOLDER --table benchmarks/results/floor.md

from the root of the repository; some minutes of a quiet core. For every seed a few frames
of a Cu–Au crystal at 600 K, labelled by zhou2004, train two tiny networks that differ by the floor
alone. Both then run Langevin dynamics (0.1 ps) from the same structure and velocities at higher
temperatures, until they leave physics (floor/dynamics.py says when) or the time is over. What is
already in FOLDER is not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator

from benchmarks.floor.dynamics import run
from benchmarks.floor.plan import ELEMENTS, FLOORS, TEACHER, TRAINED_AT, Plan
from benchmarks.floor.report import page
from forcenet_md.artifact.export import read_card
from forcenet_md.data.frames import largest_label, read_frames, shortest_distance, write_frames
from forcenet_md.data.sampling import Dynamics, run_teacher
from forcenet_md.data.teachers import LammpsTeacher, open_teacher
from forcenet_md.data.workers import Crew
from forcenet_md.distill.teacher_calculator import TeacherCalculator
from forcenet_md.errors import ForceNetError
from forcenet_md.evaluation.report import write_text
from forcenet_md.training.config_file import load_config
from forcenet_md.training.finish import export
from forcenet_md.training.loop import Trainer


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    changed = {k: v for k, v in vars(given).items() if k in Plan.__slots__ and v is not None}
    plan = Plan(**changed)
    try:
        with Crew(TEACHER, ELEMENTS, 1) as crew:
            seeds = range(1, plan.seeds + 1)
            results = [carry_out(given.out, TeacherCalculator(crew), plan, k) for k in seeds]
        text = page(plan, results)
        if given.table:
            write_text(given.table, text)
    except ForceNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(text)
    return 0


def carry_out(out: Path, teacher: Calculator, plan: Plan, seed: int) -> dict[str, Any]:
    """Of one seed: errors of both networks, and how each run ended."""
    settings = {k: v for k, v in asdict(plan).items() if k != "seeds"}
    name = "-".join("_".join(map(str, np.atleast_1d(v))) for v in settings.values())
    folder = out / name / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    sample(folder, plan, seed)
    (start,) = read_frames(folder / "start.extxyz")
    result: dict[str, Any] = {"seed": seed, "runs": {}, "teacher": _read(folder / "teacher.json")}
    models = {floor: folder / f"{floor}.pt" for floor in FLOORS}
    for floor, model in models.items():
        if not model.is_file():
            train(folder, model, floor, plan, seed)
        result[floor] = read_card(model).test_errors
    for temperature in plan.temperatures:
        for floor, model in models.items():
            key = f"{floor} {temperature}"
            file = folder / f"{key.replace(' ', '-')}.json"
            if not file.is_file():
                ended = run(start, model, teacher, temperature, plan.ps, seed)
                write_text(file, json.dumps(ended))
            result["runs"][key] = _read(file)
            print(f"seed {seed}, {key} K: {_ended(result['runs'][key])}", flush=True)
    return result


# Frames and networks -----------------------------------------------------------------------------


def sample(folder: Path, plan: Plan, seed: int) -> None:
    """Frames of the training and of the test (another trajectory at 600 K, and hot ones), and by
    temperature how near atoms come (Å) and how large forces are (eV/Å) in them."""
    if (folder / "teacher.json").is_file():
        return
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", "fcc", a=3.9, cubic=True) * (2, 2, 2)
    atoms.set_chemical_symbols(rng.permutation(["Cu", "Au"] * (len(atoms) // 2)).tolist())
    with open_teacher(TEACHER, ELEMENTS) as teacher:
        assert isinstance(teacher, LammpsTeacher)

        def frames(temperature: int, n: int, start: Atoms, pressure: float | None) -> list[Atoms]:
            dynamics = Dynamics(float(temperature), pressure=pressure, frames=n)
            # all of them first: labelling one would end the dynamics in the same LAMMPS
            made = list(run_teacher(teacher.box, start, dynamics, int(rng.integers(1, 10**8))))
            labelled = [teacher.label(each) for each in made]
            for each in labelled:
                each.info.update(temperature=float(temperature))
            return labelled

        train = frames(TRAINED_AT, plan.frames, atoms, 0.0)
        start = train[-1].copy()  # at the density of the training
        tested = frames(TRAINED_AT, plan.tested, atoms, 0.0)
        for temperature in plan.temperatures:
            tested += frames(temperature, plan.tested, start, None)
    write_frames(folder / "train.extxyz", train)
    write_frames(folder / "test.extxyz", tested)
    write_frames(folder / "start.extxyz", [start])
    bounds = {}
    for temperature in (TRAINED_AT, *plan.temperatures):
        seen = [each for each in train + tested if each.info["temperature"] == temperature]
        bounds[temperature] = min(map(shortest_distance, seen)), max(map(largest_label, seen))
    write_text(folder / "teacher.json", json.dumps(bounds))


def train(folder: Path, model: Path, floor: str, plan: Plan, seed: int) -> None:
    """The same frames in the same order from the same weights, with a floor or none."""
    config = load_config(
        "tiny",
        [
            f"seed={seed}",
            f"folder={folder / floor}",
            f"output={model}",
            f"data.train={folder / 'train.extxyz'}",
            f"data.test={folder / 'test.extxyz'}",
            "data.validation_fraction=0",
            f"model.floor={floor}",
            f"model.hidden={plan.hidden}",
            f"model.cutoff={plan.cutoff}",
            f"training.steps={plan.steps}",
            "training.average=0.99",
        ],
    )
    trainer = Trainer(config)
    trainer.run()
    export(trainer)


def _ended(run: dict[str, Any]) -> str:
    return f"{run['ps']:.2f} ps, {run['why'] or 'whole'}"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--table", type=Path, help="the result, as Markdown")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--frames", type=int, help="of each training")
    parser.add_argument("--tested", type=int)
    parser.add_argument("--hidden", type=int)
    parser.add_argument("--cutoff", type=float, help="Å")
    parser.add_argument("--steps", type=int, help="of each training")
    parser.add_argument("--ps", type=float, help="of each run")
    parser.add_argument("--temperatures", type=int, nargs="+", help="K, of the runs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
