"""How close atoms come, beside how close they came in a model's training data.

A network knows nothing of distances that it has never seen, and a run that goes wrong mostly shows
it here before it shows it in its temperature.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf, isfinite

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from numpy.typing import NDArray

from forcenet_md.artifact.card import Card
from forcenet_md.graph.edges import Edges
from forcenet_md.system import Contact

# Of the sum of the covalent radii, where a card does not say what was seen in training: below the
# closest approach of atoms in dense melts (Cu–Cu 1.85 Å) and of bonds (O–H 0.68 Å).
OF_RADII = 0.7
# Å beyond the same sum: there atoms no longer touch, as van der Waals radii are about 0.8 Å longer
# than covalent ones (Pauling). No multiple of the sum does for all: the H of two water molecules
# come to 1.3 Å, 2.2 sums, where the guard is wanted; metals at 2.2 sums are 6 Å apart.
TOUCH = 1.6


NONE = Contact(inf, inf, 0, 0, False)  # as ranks tell it


def closest_of(contacts: Iterable[Contact | None]) -> Contact | None:
    """Of those that parts of a structure have; the lower atoms where they are equal."""
    found = [
        Contact(*c[:2], int(c[2]), int(c[3]), bool(c[4])) for c in contacts if c and isfinite(c[0])
    ]
    return min(found, default=None)


class Contacts:
    """The shortest known distance of each pair of elements.

    That of the training frames, as the card has it; OF_RADII of the sum of the covalent radii
    where the card does not tell, or where no such pair of its frames touches: two adsorbates that
    stayed 4 Å apart do not show how near they may come.

    table: [n_numbers, n_numbers] Å, by atomic number; trained: which are of training frames
    """

    def __init__(self, card: Card) -> None:
        radii = np.nan_to_num(covalent_radii, nan=1.5)
        sums = radii[:, None] + radii[None, :]
        self.table = OF_RADII * sums
        self.trained = np.zeros(self.table.shape, dtype=bool)
        seen = card.training_range
        for pair, distance in ({} if seen is None else seen.shortest).items():
            a, b = (chemical_symbols.index(symbol) for symbol in pair.split("-"))
            if distance > sums[a, b] + TOUCH:
                continue
            self.table[a, b] = self.table[b, a] = distance
            self.trained[a, b] = self.trained[b, a] = True
        known = sorted(card.numbers)
        self.longest = float(self.table[np.ix_(known, known)].max())

    def closest(self, edges: Edges, numbers: NDArray[np.int64]) -> Contact | None:
        """None where no pair is closer than `longest`, and so none closer than what is known.

        numbers: [n_atoms] of the rows that edges mean
        """
        if edges.shortest >= self.longest:
            return None
        squared = np.einsum("ij,ij->i", edges.vector, edges.vector)
        near = np.flatnonzero(squared < self.longest**2)
        source, target = edges.source[near], edges.target[near]
        ratio = np.sqrt(squared[near]) / self.table[numbers[source], numbers[target]]
        k = int(ratio.argmin())
        a, b = sorted((int(source[k]), int(target[k])))
        trained = bool(self.trained[numbers[a], numbers[b]])
        return Contact(float(ratio[k]), float(np.sqrt(squared[near[k]])), a, b, trained)
