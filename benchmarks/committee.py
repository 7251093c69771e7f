"""What a committee costs: against one of its members, and against the members one by one.

    python -m benchmarks.committee [MODEL] [--out benchmarks/results/committee.md]

500 atoms that move a little at every step. The members are MODEL and copies of it with perturbed
weights. One by one means an evaluator for each, with its own neighbour list; bases apart, that each
member computes its own edge basis. Processor time; what is compared is measured in turn.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from ase.build import bulk

from benchmarks.hardware import hardware
from forcenet_md.artifact import archive
from forcenet_md.inference.committee import CommitteeEvaluator
from forcenet_md.inference.evaluator import ModelEvaluator
from forcenet_md.inference.interface import Evaluator, Request
from forcenet_md.inference.load import model_path
from forcenet_md.system import Forces, System

SIZES = (2, 4)
STEPS = 40


def write_perturbed(model: Path, path: Path, seed: int) -> Path:
    """A copy with weights changed at random by a per cent."""
    found = archive.read(model)
    module = torch.jit.load(io.BytesIO(archive.to_zip(found.members)))
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.01 * weight.std() * torch.randn_like(weight))
    data = io.BytesIO()
    torch.jit.save(module, data)
    archive.write(path, archive.strip(data.getvalue()), found.card)
    return path


class Steps:
    """An alloy whose atoms move by about 0.01 Å from step to step."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self.atoms = bulk("Cu", a=3.95, cubic=True) * (5, 5, 5)
        self.rng = np.random.default_rng(0)
        self.atoms.numbers = self.rng.choice(numbers, len(self.atoms))
        self.atoms.rattle(0.1, rng=self.rng)

    def next(self) -> System:
        self.atoms.positions += self.rng.normal(0.0, 0.005, self.atoms.positions.shape)
        return System.from_ase(self.atoms)


def asked(*evaluators: Evaluator) -> Callable[[System], None]:
    sessions = [evaluator.new_session() for evaluator in evaluators]

    def ask(system: System) -> None:
        for evaluator, session in zip(evaluators, sessions, strict=True):
            [answer] = evaluator.evaluate([Request(session, system)])
            assert isinstance(answer, Forces), answer

    return ask


def measure(ways: dict[str, Callable[[System], None]], numbers: Sequence[int]) -> dict[str, float]:
    """Median ms of each way."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    steps = Steps(numbers)
    for _ in range(STEPS + 3):
        system = steps.next()
        for name, ask in ways.items():
            start = time.process_time()
            ask(system)
            seconds[name].append(time.process_time() - start)
    return {name: 1e3 * float(np.median(values[3:])) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="alloy")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    model = model_path(arguments.model)
    lines = [
        f"# A committee of copies of the model {arguments.model}, ms per step",
        "",
        f"{hardware()}; float32, one thread, 500 atoms, medians of {STEPS} steps.",
        "Made by `python -m benchmarks.committee --out …`.",
        "",
        "| members | one model | one by one | committee, bases apart | committee | committee ÷ one"
        " model | committee ÷ one by one |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        paths = [model]
        for seed in range(1, max(SIZES)):
            paths.append(write_perturbed(model, Path(folder, f"{seed}.pt"), seed))
        for size in SIZES:
            singles = [ModelEvaluator(path) for path in paths[:size]]
            committee, apart = (CommitteeEvaluator(paths[:size]) for _ in range(2))
            apart.bases = dict.fromkeys(apart.bases)
            numbers = sorted(committee.capabilities.numbers)
            ms = measure(
                {
                    "one": asked(singles[0]),
                    "one by one": asked(*singles),
                    "apart": asked(apart),
                    "committee": asked(committee),
                },
                numbers,
            )
            lines.append(
                f"| {size} | "
                + " | ".join(f"{t:.1f}" for t in ms.values())
                + f" | {ms['committee'] / ms['one']:.2f}"
                f" | {ms['committee'] / ms['one by one']:.2f} |"
            )
            print(lines[-1], flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
