"""Paths of the model: python -m forcenet_md.distill.visit_job FOLDER ROUND NUMBER …"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from forcenet_md.data.frames import read_frames, write_frames
from forcenet_md.distill.explore import beginning
from forcenet_md.distill.files import Files
from forcenet_md.distill.jobs import as_job
from forcenet_md.distill.plan import Plan, VisitPlan
from forcenet_md.distill.settings import Settings
from forcenet_md.distill.visit import visit
from forcenet_md.engines.ase_calculator import ForceNetCalculator
from forcenet_md.writing import write_text


def main(folder: Path, round_number: int, numbers: Sequence[int]) -> None:
    settings, plan, files = Settings.read(folder), Plan.read(folder), Files(folder)
    this = files.round(round_number)
    chosen = VisitPlan.read(this.visit_plan)
    (start,) = read_frames(files.start)
    best = this.model(chosen.best)
    others = [this.model(k) for k in range(settings.members) if k != chosen.best]
    calculator = ForceNetCalculator(str(best), guard="off")
    committee = None
    if others:
        committee = ForceNetCalculator(str(best), committee=others, guard="off")

    def doubt(atoms: Atoms) -> float:
        if committee is None:
            return 0.0
        committee.calculate(atoms)
        return float(np.max(committee.results["force_spread"]))

    for number in numbers:
        run = chosen.runs[number]
        begin = beginning(start, run)
        begin.info = {
            "config_type": "visited",
            "temperature": run.temperature,
            "trajectory": f"round-{round_number}-{number}",
        }
        dynamics = plan.dynamics(run.temperature, chosen.steps)
        path = visit(begin, calculator, doubt, dynamics, run.seed, chosen.nearest, plan.per_path)
        found = {"whole": path.whole, "spread": path.spread, "near": path.near}
        write_text(this.path_figures(number), json.dumps(found))
        write_frames(this.path(number), path.frames)


if __name__ == "__main__":
    as_job(lambda: main(Path(sys.argv[1]), int(sys.argv[2]), [int(word) for word in sys.argv[3:]]))
