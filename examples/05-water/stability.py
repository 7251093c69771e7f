"""How long a model's water stays water: stability.py MODEL FRAMES.h5 [ps] [tau ps] [seed] [kelvin].

Langevin dynamics, 0.5 fs per step, from the first of FRAMES (DFT, 64 molecules). It ends when a
molecule breaks: a hydrogen atom with no oxygen atom within 1.4 Å, or an oxygen atom that is the
nearest one of other than two hydrogen atoms. Prints the time reached, the temperature of each
element and how far g(r) of O–O is from that of FRAMES (∫|Δg|dr / ∫g dr), from 0.5 ps on.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin

from forcenet_md import ForceNetCalculator
from forcenet_md.data.store import Store
from forcenet_md.errors import ForceNetError
from forcenet_md.simulation.observables import element_temperatures, pair_distribution

STEP_FS, STRIDE, KEEP, SETTLE_PS, BOND = 0.5, 10, 4, 0.5, 1.4


def main(
    model: str, reference: Path, time_ps: float, tau_ps: float, seed: int, temperature: float
) -> None:
    store = Store(reference)
    frames = [store.atoms(row) for row in range(len(store))]
    rng = np.random.default_rng(seed)
    atoms = Atoms(frames[0].numbers, frames[0].positions, cell=frames[0].cell, pbc=True)
    atoms.calc = ForceNetCalculator(model)
    width = np.sqrt(atoms.get_masses() * units.kB * temperature)
    atoms.set_momenta(rng.normal(size=(len(atoms), 3)) * width[:, None])
    friction = 1.0 / (1000.0 * tau_ps * units.fs)
    dynamics = Langevin(
        atoms,
        STEP_FS * units.fs,
        temperature_K=temperature,
        friction=friction,
        fixcm=False,
        rng=rng,
    )
    path: list[Atoms] = []
    begin, end = time.perf_counter(), "whole"
    rounds = round(1000.0 * time_ps / (STEP_FS * STRIDE))
    for k in range(rounds):
        try:
            dynamics.run(STRIDE)
        except ForceNetError as error:
            end = f"no forces: {error}"
            break
        if not is_water(atoms):
            end = "broken"
            break
        if k % KEEP == 0:
            kept = atoms.copy()
            kept.calc = None
            path.append(kept)
    steps = dynamics.get_number_of_steps()
    result: dict[str, object] = {
        "model": model, "tau_ps": tau_ps, "kelvin": temperature, "seed": seed, "end": end,
        "ps": steps * STEP_FS / 1000.0,
        "steps_per_second": round(steps / (time.perf_counter() - begin), 1),
    }  # fmt: skip
    settled = path[round(1000.0 * SETTLE_PS / (STEP_FS * STRIDE * KEEP)) :]
    if settled:
        heat = element_temperatures(settled)
        result["kelvin_by_element"] = {e: round(float(t.mean()), 1) for e, t in heat.items()}
        parts = (settled, frames, frames[::2], frames[1::2])
        g = [pair_distribution(part, r_max=6.0, n_bins=60) for part in parts]
        result["g_OO"] = round(g[0].deviation(g[1])["O-O"], 4)
        result["g_OO_of_the_references_halves"] = round(g[2].deviation(g[3])["O-O"], 4)
        result["peak"] = [round(float(x.g["O-O"].max()), 2) for x in g[:2]]
    print(json.dumps(result), flush=True)


def is_water(atoms: Atoms) -> bool:
    distances = atoms.get_all_distances(mic=True)
    distances = distances[np.ix_(atoms.numbers == 1, atoms.numbers == 8)]
    owners = np.bincount(distances.argmin(axis=1), minlength=distances.shape[1])
    return bool(distances.min(axis=1).max() <= BOND and (owners == 2).all())


if __name__ == "__main__":
    given = sys.argv[3:]
    numbers = [float(x) for x in given] + [5.0, 0.1, 1.0, 300.0][len(given) :]
    main(sys.argv[1], Path(sys.argv[2]), numbers[0], numbers[1], int(numbers[2]), numbers[3])
