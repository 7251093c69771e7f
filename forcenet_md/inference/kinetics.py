"""Velocities at a step, and heat in K/ps: one way for whoever records, watches or probes a run."""

from __future__ import annotations

import numpy as np
from ase import units
from numpy.typing import NDArray

from forcenet_md.inference.interface import Kind, Moment
from forcenet_md.units import ACCELERATION

Array = NDArray[np.float64]

HEATING = "power / (degrees of freedom x k_B)"  # what a rate of heating in K/ps is


def velocities_at_step(
    moment: Moment, forces: Array, following: Moment | None = None
) -> Array | None:
    """[n_atoms, 3] Å/ps at the positions that the forces [n_atoms, 3] eV/Å are of; None where the
    engine did not say them.

    LAMMPS asks between the two half kicks of velocity Verlet, and says the velocities of half a
    timestep before. Whatever forces a thermostat adds, those at the step are the mean of the ones
    half a timestep before and after it.

    following: what came next; where that is not the next step, half a kick of the forces alone
    stands for what is not known, without a thermostat's. Held atoms get none.
    """
    before = moment.velocities
    if before is None or moment.kind is not Kind.RUN or not moment.timestep:
        return before
    if following is not None and following.velocities is not None and follows(moment, following):
        return 0.5 * (before + following.velocities)
    if moment.masses is None:
        return None
    kick = 0.5 * moment.timestep * ACCELERATION * forces / moment.masses[:, None]
    return before + np.where(in_motion(before)[:, None], kick, 0.0)


def in_motion(velocities: Array) -> NDArray[np.bool_]:
    """[n_atoms]: all but those that an engine holds, whose velocities [n_atoms, 3] are exactly
    zero during a run (analyse, whose files may have no velocities, looks at positions)."""
    moving: NDArray[np.bool_] = (velocities != 0.0).any(axis=1)
    return moving


def follows(moment: Moment, following: Moment) -> bool:
    """Whether it is the next step of the same run."""
    if moment.step is None or following.kind is not Kind.RUN:
        return False
    return following.step == moment.step + 1


def heating_rate(power: float, n_dof: float) -> float:
    """K/ps of a power in eV/ps that forces put into so many degrees of freedom: P / (n_dof k_B).

    A harmonic system warms so at constant energy, where the potential energy takes half of the
    heat. And, whatever the heat capacity is, a Langevin thermostat of time constant τ keeps it too
    warm by so much times τ: per degree of freedom it takes (T − T₀) k_B / τ.
    """
    return power / (n_dof * units.kB)
