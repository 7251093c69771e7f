"""Trajectories of the teacher: python -m forcenet_md.distill.explore_job FOLDER NUMBER …

The teacher is a process of its own: one that crashes or hangs ends its trajectory and nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from forcenet_md.data.frames import read_frames, write_frames
from forcenet_md.data.provenance import describe_teacher
from forcenet_md.data.workers import Crew
from forcenet_md.distill.explore import explore
from forcenet_md.distill.files import Files
from forcenet_md.distill.jobs import as_job
from forcenet_md.distill.plan import Plan
from forcenet_md.distill.settings import Settings
from forcenet_md.distill.teacher_calculator import TeacherCalculator


def main(folder: Path, numbers: Sequence[int]) -> None:
    settings, plan, files = Settings.read(folder), Plan.read(folder), Files(folder)
    (start,) = read_frames(files.start)
    provenance = describe_teacher(settings.teacher, settings.elements)
    with Crew(settings.teacher, settings.elements, 1, plan.timeout(settings)) as crew:
        calculator = TeacherCalculator(crew)
        calculator.calculate(start)  # a teacher that fails here has no dynamics at all
        for run in (plan.runs[number] for number in numbers):
            frames = list(explore(start, run, calculator, plan.dynamics(run.temperature)))
            for frame in frames:
                frame.info.update(provenance)
            if calculator.fault:
                print(f"{run.name} ended early: {calculator.fault}", flush=True)
                calculator.fault = ""
            write_frames(files.trajectory(run), frames)


if __name__ == "__main__":
    as_job(lambda: main(Path(sys.argv[1]), [int(word) for word in sys.argv[2:]]))
