"""Dynamics with a model, for relabelling: visit.py MODEL OUT SEED [compositions] [ps].

Random alloys of Ag Au Cu Pd Pt at 300, 1300 and 2500 K, each at the teacher's own density,
followed by Langevin dynamics on the model's forces. OUT has the structures and the model's
forces on them; `forcenet-md label` adds the teacher's.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from forcenet_md import ForceNetCalculator
from forcenet_md.data import alloy, sampling
from forcenet_md.data.frames import write_frames
from forcenet_md.data.teachers import LammpsTeacher, open_teacher
from forcenet_md.data.visiting import Visit, follow

# None of the test set's, so that relabelling never brings those into the training.
TEMPERATURES = (300.0, 1300.0, 2500.0)


def main(model: str, out: Path, seed: int, compositions: int, time_ps: float) -> None:
    rng = np.random.default_rng(seed)
    calculator = ForceNetCalculator(model)
    frames = []
    with open_teacher("zhou2004", alloy.ELEMENTS) as teacher:
        assert isinstance(teacher, LammpsTeacher)
        for k in range(compositions):
            lattice = sampling.random_alloy(alloy.ELEMENTS, rng)
            for temperature in TEMPERATURES:
                melt = temperature > alloy.MELT_ABOVE
                plan = sampling.Dynamics(temperature, melt=melt, frames=1)
                step = int(rng.integers(1, 10**8))
                (start,) = sampling.run_teacher(teacher.box, lattice, plan, step)
                start.info.update(
                    config_type="visited", temperature=temperature, trajectory=f"{seed}-{k}"
                )
                path = list(follow(start, calculator, Visit(temperature, time_ps), step))
                frames += path
                print(
                    f"{lattice.get_chemical_formula()} at {temperature:g} K: {len(path)} frames",
                    flush=True,
                )
    if not frames:
        sys.exit(f"{model} has no dynamics, not even 0.2 ps: train it better before relabelling")
    write_frames(out, frames)


if __name__ == "__main__":
    main(
        sys.argv[1],
        Path(sys.argv[2]),
        int(sys.argv[3]),
        int(sys.argv[4]) if len(sys.argv) > 4 else 3,
        float(sys.argv[5]) if len(sys.argv) > 5 else 4.0,
    )
