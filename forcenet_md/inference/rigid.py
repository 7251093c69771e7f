"""The net force and the torque of a direct-force network, which nature does not have.

A force field without an energy gives a system pushes and turns of its own: 14.8 K/ps of heating in
place of 2.3 in one measurement, most of it motion of the centre of mass.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from forcenet_md.artifact.card import Card
from forcenet_md.system import Forces, System

Array = NDArray[np.float64]


def without_rigid_motion(forces: Array, system: System, card: Card, keep: bool) -> Forces:
    """Forces [n_atoms, 3] of a model as they are served, with the net force that there was, and the
    torque about the centroid of what is periodic nowhere.

    keep: see `inference.interface.Request`
    """
    net = forces.sum(axis=0)
    if card.conservative:
        return Forces(forces, net_force=net)
    # A model trained without it has an arbitrary net force, which would push loose atoms
    # over held ones; true forces between atoms sum to zero whether or not some are held.
    if card.net_force_removed or not keep:
        forces = forces - net / len(forces)
    if keep or system.pbc.any():
        return Forces(forces, net_force=net)
    arms = system.positions - system.positions.mean(axis=0)
    torque = np.cross(arms, forces).sum(axis=0)
    alpha, size = rotation(torque, inertia(arms), len(arms))
    forces = forces - np.cross(alpha, arms)
    return Forces(forces, net_force=net, torque=torque, torque_force=size)


def inertia(arms: Array) -> Array:
    """[3, 3] Å² of points of mass one at arms [n, 3] Å from the axes' origin."""
    second = arms.T @ arms
    return np.trace(second) * np.eye(3) - second


def rotation(torque: Array, tensor: Array, n_atoms: int) -> tuple[Array, float]:
    """α [3] such that the forces α × arm have this torque: of all that do, the smallest; and their
    root mean square over the atoms, eV/Å, as the net force per atom is that of a translation's.

    tensor: [3, 3], the atoms' `inertia`. Of a line of atoms the torque has no part along it, and
    neither has α.
    """
    alpha = np.linalg.pinv(tensor, rcond=1e-9, hermitian=True) @ torque
    squares = float(alpha @ torque)  # Σ |α × arm|² = α · tensor · α, of rounding perhaps below 0
    return alpha, float(np.sqrt(max(squares, 0.0) / max(n_atoms, 1)))
