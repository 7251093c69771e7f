"""The first stages: the teacher is timed and screened, then explores."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np
from ase import Atoms

from forcenet_md.data.frames import write_frames
from forcenet_md.data.labelling import label_frames
from forcenet_md.data.sampling import rattled
from forcenet_md.data.screening import POINTS, choose_lines, screen
from forcenet_md.distill.explore import off_the_path, set_apart
from forcenet_md.distill.plan import Plan, make_plan
from forcenet_md.distill.settings import Settings
from forcenet_md.distill.work import Work
from forcenet_md.errors import DataError
from forcenet_md.writing import write_text

TIMED, LONG_ENOUGH = 50, 3.0  # labels of each process that are timed, at most, and s for it
SCREENING = 0.03  # of the budget, at most
RATTLED = 0.08  # Å, of the structures that are screened


def planned(work: Work, start: Atoms) -> Plan:
    """The plan of before, or one after timing the teacher. Raises DataError when it cannot label
    the structure, or the budget is too small."""
    folder = work.files.folder
    if (folder / "plan.json").is_file():
        return Plan.read(folder)
    seconds = seconds_per_call(work.settings, start)
    plan = make_plan(work.settings, seconds)
    work.say(
        f"{work.settings.teacher} takes {seconds:.2g} s for {len(start)} atoms: it explores with"
        f" {len(plan.runs)} trajectories of {plan.steps} steps, and {plan.n_off_path} structures"
        " beside them"
    )
    # From here on the folder is of these settings; with a budget too small it is not yet.
    work.settings.write(folder)
    write_frames(work.files.start, [start])
    plan.write(folder)
    return plan


def seconds_per_call(settings: Settings, start: Atoms) -> float:
    """Of one process while all are at work, without its start."""
    n = settings.workers
    frames = _rattled(start, (TIMED + 1) * n, settings.seed)
    times: list[float] = []
    labels = label_frames(frames, settings.teacher, settings.elements, n, settings.timeout)
    with closing(labels) as outcomes:
        for outcome in outcomes:
            if outcome.atoms is None:
                raise DataError(
                    f"the teacher {settings.teacher} cannot label {settings.structure}:"
                    f" {outcome.reason}"
                )
            times.append(time.monotonic())
            if len(times) >= 2 * n and times[-1] - times[n - 1] > LONG_ENOUGH:
                break
    return (times[-1] - times[n - 1]) * n / (len(times) - n)


def screened(work: Work, plan: Plan, start: Atoms) -> list[dict[str, object]]:
    """What is known of the teacher's smoothness; a rough one is warned of."""
    path = work.files.screening
    if not path.is_file():
        found = _screen(work, plan, start)
        write_text(path, json.dumps(found, indent=1))
        for warning in warnings(work.settings.teacher, found):
            work.say(f"warning: {warning}")
    return list(json.loads(path.read_text("utf-8")))


def warnings(teacher: str, lines: Sequence[dict[str, Any]]) -> list[str]:
    """At most one sentence: the elements along whose lines the teacher is rough."""
    worst: dict[str, dict[str, Any]] = {}
    for line in lines:
        if line["verdict"] == "rough":
            known = worst.get(line["element"], line)
            worst[line["element"]] = max(known, line, key=lambda x: float(x["change"]))
    if not worst:
        return []
    changes = ", ".join(
        f"on {element} by {line['change']:.3g} eV/Å in {line['step']:g} Å"
        f" (roughness {line['roughness']:.2f})"
        for element, line in worst.items()
    )
    return [
        f"{teacher} is rough: the force changes {changes}, where smooth potentials have a roughness"
        " of up to 0.1; no network can learn a jump, its error stalls."
    ]


def _screen(work: Work, plan: Plan, start: Atoms) -> list[dict[str, object]]:
    """One line for each element, two where there is time."""
    settings = work.settings
    n_elements = len(set(start.get_chemical_symbols()))
    affordable = SCREENING * settings.budget * settings.workers / plan.seconds_per_call
    per_element = 2 if 2 * n_elements * POINTS < affordable else 1
    lines = choose_lines(_rattled(start, 2, settings.seed + 1), per_element)
    teacher, timeout = (settings.teacher, settings.elements), plan.timeout(settings)
    with closing(screen(lines, *teacher, settings.workers, timeout)) as labels:
        for _ in labels:
            work.clock.tick()
    return [
        {
            "element": line.element,
            "verdict": line.verdict,
            "roughness": None if np.isnan(line.roughness) else line.roughness,
            "change": line.change if line.verdict != "not labelled" else None,
            "step": line.step,
        }
        for line in lines
    ]


def explored(work: Work, plan: Plan) -> None:
    """The teacher's trajectories, what lies beside them, and the test frames, all labelled."""
    files = work.files
    work.share(
        "teacher's trajectories",
        "forcenet_md.distill.explore_job",
        (str(files.folder),),
        {str(run.number): files.trajectory(run) for run in plan.runs},
    )
    if files.test.is_file():
        return
    trajectories = files.trajectories(plan, held_out=False)
    taught, watched = set_apart(trajectories, work.settings.seed + 3)
    test = [frame for frames in files.trajectories(plan, held_out=True) for frame in frames]
    if not taught or not test:
        raise DataError(
            f"the dynamics of {work.settings.teacher} gave no frames: it fails, or its forces are"
            " beyond physics; look at the structure, or lower the temperature."
        )
    off_path = off_the_path(taught, plan.n_off_path, work.settings.seed + 2)
    work.label("structures beside them", off_path, files.off_path_given, files.off_path)
    write_frames(files.taught, taught)
    write_frames(files.watched, watched)
    write_frames(files.test, test)  # the last: all is there


def _rattled(start: Atoms, n: int, seed: int) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    return [rattled(start, RATTLED, rng) for _ in range(n)]
