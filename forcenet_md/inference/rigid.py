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
    torque = None
    if not (keep or system.pbc.any()):
        arms = system.positions - system.positions.mean(axis=0)
        torque = np.cross(arms, forces).sum(axis=0)
        forces = forces - np.cross(turn(torque, inertia(arms)), arms)
    return Forces(forces, net_force=net, torque=torque)


def inertia(arms: Array) -> Array:
    """[3, 3] Å² of points of mass one at arms [n, 3] Å from the axes' origin."""
    second = arms.T @ arms
    return np.trace(second) * np.eye(3) - second


def turn(torque: Array, tensor: Array) -> Array:
    """α [3] such that the forces α × arm have this torque: of all that do, the smallest.

    Of a line of atoms the torque has no part along it, and neither has α.
    """
    return np.linalg.pinv(tensor, rcond=1e-9, hermitian=True) @ torque
