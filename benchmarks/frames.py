"""What an average over frames brings and costs: rotation instability, error, λ, time.

    python -m benchmarks.frames [MODEL] [--out benchmarks/results/frames.md]

Frames of the alloy's teacher on new compositions (dynamics at 600, 1200 and 2000 K, 108 atoms),
labelled by it. Error: of the force components, against the labels. Instability: standard deviation
of a component over random turns about any axis. Generic: the same frames, all of them turned by one
random rotation before, so that their axes are not those of the crystals. Processor time of a step
at 500 atoms, measured in turn.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from scipy.spatial.transform import Rotation

from benchmarks.committee import Steps
from benchmarks.hardware import hardware
from forcenet_md.data import alloy
from forcenet_md.data.frames import forces_of
from forcenet_md.data.teachers import LammpsTeacher, open_teacher
from forcenet_md.evaluation.cases import Case
from forcenet_md.evaluation.rotation import instability
from forcenet_md.evaluation.run import predict
from forcenet_md.inference.evaluator import ModelEvaluator
from forcenet_md.inference.frames import frames
from forcenet_md.inference.interface import Request
from forcenet_md.inference.load import load_network
from forcenet_md.simulation import jacobian
from forcenet_md.simulation.probed import Asker, Structure
from forcenet_md.system import Forces, System

SIZES = (1, 2, 4, 8, 24)
TURNS, DIRECTIONS, STEPS = 6, 8, 12


def held_out(compositions: int = 2) -> list[Atoms]:
    """Labelled frames, two of each composition and temperature."""
    with open_teacher("zhou2004", alloy.ELEMENTS) as teacher:
        assert isinstance(teacher, LammpsTeacher)
        found = alloy.held_out_structures(teacher.box, [], 99, compositions=compositions, frames=2)
        return [teacher.label(atoms) for atoms in list(found)]


def cases_of(labelled: Sequence[Atoms]) -> list[Case]:
    return [
        Case(k, System.from_ase(a), forces_of(a), None, np.zeros(len(a), dtype=bool))
        for k, a in enumerate(labelled)
    ]


def error(model: ModelEvaluator, cases: Sequence[Case]) -> float:
    """Mean absolute error over mean |F|."""
    answers = [answer for case in cases for answer in predict(model, [case])]
    off, size = [], []
    for case, answer in zip(cases, answers, strict=True):
        assert isinstance(answer, Forces), answer
        off.append(np.abs(answer.forces - case.forces).ravel())
        size.append(np.abs(case.forces).ravel())
    return float(np.concatenate(off).mean() / np.concatenate(size).mean())


def spread(model: ModelEvaluator, cases: Sequence[Case]) -> float:
    found = instability(
        lambda batch: [a for case in batch for a in predict(model, [case])], cases, TURNS, "so3"
    )
    assert found is not None
    return found.standard_deviation


def ratio(model: ModelEvaluator, labelled: Sequence[Atoms]) -> jacobian.Lambda:
    rng, asker = np.random.default_rng(0), Asker(model)
    known = model.capabilities
    images = [
        jacobian.take_images(asker, Structure.of(a, "frame", known), DIRECTIONS, rng)
        for a in labelled
    ]
    return jacobian.estimate(images, 0.0)


def milliseconds(models: Sequence[ModelEvaluator]) -> list[float]:
    """Median processor time of each, of the same steps in turn."""
    steps = Steps(sorted(models[0].capabilities.numbers))
    sessions = [model.new_session() for model in models]
    taken: list[list[float]] = [[] for _ in models]
    for _ in range(STEPS + 2):
        system = steps.next()
        for model, session, seconds in zip(models, sessions, taken, strict=True):
            start = time.process_time()
            (answer,) = model.evaluate([Request(session, system)])
            seconds.append(time.process_time() - start)
            assert isinstance(answer, Forces), answer
    return [1e3 * float(np.median(seconds[2:])) for seconds in taken]


def model_with(name: str, n: int, generic: bool = False, dtype: str = "float64") -> ModelEvaluator:
    model = load_network(name, dtype=dtype)
    model.frames = frames(n)
    if generic:
        model.frames = model.frames @ Rotation.random(rng=1).as_matrix()
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="alloy")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    labelled = held_out()
    cases = cases_of(labelled)
    some = labelled[:: max(1, len(labelled) // 2)][:2]
    turned = cases[:: max(1, len(cases) // 3)][:3]
    times = milliseconds([model_with(arguments.model, n, dtype="float32") for n in SIZES])
    lines = [
        f"# Forces of the model {arguments.model} averaged over frames",
        "",
        f"{hardware()}; one thread. {len(cases)} labelled frames of 108 atoms;"
        f" {TURNS} turns of {len(turned)} of them; λ of {len(some)}, {DIRECTIONS} directions each;"
        f" time in float32, medians of {STEPS} steps.",
        "Made by `python -m benchmarks.frames --out …`.",
        "",
        "| frames | error, % of mean F | instability, eV/Å | λ | ms per step, 500 atoms | ÷ one"
        " | error, generic | instability, generic |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for n, ms in zip(SIZES, times, strict=True):
        model, generic = model_with(arguments.model, n), model_with(arguments.model, n, True)
        of_lambda = ratio(model, some)
        lines.append(
            f"| {n} | {100 * error(model, cases):.3f} | {spread(model, turned):.5f}"
            f" | {of_lambda.value:.5f} ± {of_lambda.standard_error:.1g}"
            f" | {ms:.0f} | {ms / times[0]:.2f}"
            f" | {100 * error(generic, cases):.3f} | {spread(generic, turned):.5f} |"
        )
        print(lines[-1], flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
