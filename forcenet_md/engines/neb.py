"""A band of images for ASE's NEB: all of them are evaluated in one batch.

    from ase.mep import NEB, NEBTools
    from ase.optimize import FIRE
    from forcenet_md import Band, ForceNetCalculator

    neb = NEB(images, climb=True, method="improvedtangent")
    neb.interpolate("idpp")
    Band(images, ForceNetCalculator("alloy"), work=True)
    FIRE(neb).run(fmax=0.05)
    print(NEBTools(images).get_barrier())

ASE asks image after image, but moves all of them before: whichever is asked first, all that have
moved are evaluated. Any of ASE's methods, optimisers and tools for bands can be used. `DyNEB` moves
and asks one image at a time, so that its batches are of one; `AutoNEB`, which has only a part of
the band at a time and adds up energies, takes models with an energy and is refused by `work=True`:
`AutoNEB(lambda images: Band(images, calculator), …)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.geometry import find_mic
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from forcenet_md.engines.ase_calculator import ForceNetCalculator, as_results
from forcenet_md.errors import ForceNetError, RequestError, StructureError
from forcenet_md.inference.interface import Kind, Moment, Request, Session

LABEL = "energy_is"
NOWHERE = 1e-8  # Å
WHOLE = (
    "give Band(…, work=True) the whole band with both ends (ASE's AutoNEB gives it a part, and"
    " needs a model with an energy)"
)


class Band:
    """Gives each image a calculator, behind which they are evaluated together.

    images: the whole band with its ends, where ASE's NEB has the same Atoms objects
    work: an image's energy is the work (eV) that moving there from image 0 along the band takes
        against the model's forces, and not the model's energy. Where forces are no gradient another
        band between the same ends may give another, and the band's own work changes while it moves:
        `info["energy_is"]` of the images says so, also in ASE's trajectories.

    Raises RequestError for a model without an energy if `work` is not given: every method of ASE's
    NEB asks for energies; and for work along what is no whole band: fewer than three images, or,
    when all have moved, one whose image 0 moves with the others, as a part that AutoNEB gives.
    Asked for forces, an image raises the ForceNetError of any image of the band, with its number.
    """

    def __init__(
        self, images: Sequence[Atoms], calculator: ForceNetCalculator, work: bool = False
    ) -> None:
        if not work and not calculator.capabilities.energy:
            raise RequestError(
                f"the model {calculator.capabilities.name} has no energy, which ASE's NEB asks for:"
                " give Band(…, work=True), and the work of the forces along the band takes its"
                " place."
            )
        if work and len(images) < 3:
            raise RequestError(f"a Band of {len(images)} images has no work along it: {WHOLE}.")
        self.work = work
        self._calculator = calculator  # which ends its recording when nothing has it any more
        self._lock = Lock()  # NEB(…, parallel=True) asks from threads
        self._images = [
            Image(self, number, atoms, calculator) for number, atoms in enumerate(images)
        ]

    @property
    def has_moved(self) -> bool:
        """Whether any image has since it was evaluated."""
        return any(image.has_moved for image in self._images)

    def update(self) -> None:
        """Evaluate the images that have moved, in one batch. Raises ForceNetError."""
        with self._lock:
            moved = [image for image in self._images if image.has_moved]
            if not moved:
                return
            if self.work and len(moved) == len(self._images) and moved[0].has_left:
                raise RequestError(
                    f"image 0 of the band, from where its work is counted, moves with the others,"
                    f" and ASE's NEB would leave it where it is: {WHOLE}."
                )
            requests = [image.request() for image in moved]
            path = self._path() if self.work else None
            answers = self._calculator.evaluator.evaluate(requests)
            results = []
            for image, answer in zip(moved, answers, strict=True):
                if isinstance(answer, ForceNetError):
                    raise image.fault(answer)
                results.append(as_results(answer))
            for image, result in zip(moved, results, strict=True):
                image.take(result)
            if path is not None:
                forces = np.array([image.results["forces"] for image in self._images])
                for image, energy in zip(self._images, work_along(path, forces), strict=True):
                    image.results["energy"] = image.results["free_energy"] = float(energy)

    def _path(self) -> NDArray[np.float64]:
        """[n_images, n_atoms, 3] Å: positions, each on the near side of the image before."""
        atoms = self._images[0].atoms_of_band
        path = [atoms.positions]
        for image in self._images[1:]:
            step, _ = find_mic(image.atoms_of_band.positions - path[-1], atoms.cell, atoms.pbc)
            path.append(path[-1] + step)
            if np.linalg.norm(step) < NOWHERE:
                raise StructureError(
                    f"images {image.number - 1} and {image.number} of the band are at the same"
                    " positions: interpolate between the ends first (NEB.interpolate)."
                )
        return np.array(path)


class Image(Calculator):
    """What ASE asks for one image of a band, and no other atoms."""

    name = "forcenet"

    def __init__(
        self, band: Band, number: int, atoms: Atoms, calculator: ForceNetCalculator
    ) -> None:
        super().__init__()
        self.number, self.atoms_of_band = number, atoms
        properties = {*calculator.implemented_properties, "energy", "free_energy"} - {"stress"}
        self.implemented_properties = sorted(properties)
        atoms.info.pop(LABEL, None)  # of another band
        if band.work:
            atoms.info[LABEL] = "work along the band"
        self._band = band
        self._session: Session = calculator.evaluator.new_session()
        self._evaluations = 0
        atoms.calc = self

    @property
    def has_moved(self) -> bool:
        # Asked for every image at every energy: ASE's `compare_atoms` would take most of the time.
        now, then = self.atoms_of_band, self.atoms
        return then is None or not (
            np.array_equal(now.positions, then.positions)
            and np.array_equal(now.numbers, then.numbers)
            and np.array_equal(now.cell.array, then.cell.array)
            and np.array_equal(now.pbc, then.pbc)
        )

    @property
    def has_left(self) -> bool:
        """Whether it is elsewhere than it was evaluated, and not at an image of that."""
        now, then = self.atoms_of_band, self.atoms
        if then is None:
            return False
        _, lengths = find_mic(now.positions - then.positions, now.cell, now.pbc)
        return bool(lengths.max() > NOWHERE)

    def request(self) -> Request:
        """For the forces at its positions. Raises ForceNetError."""
        atoms = self.atoms_of_band
        moment = Moment(self.number, self._evaluations, Kind.MINIMISE, masses=atoms.get_masses())
        try:
            return Request.from_ase(self._session, atoms, moment=moment)
        except ForceNetError as error:
            raise self.fault(error) from None

    def take(self, results: dict[str, Any]) -> None:
        """What was found at its positions."""
        self.atoms, self.results = self.atoms_of_band.copy(), results
        self._evaluations += 1

    def fault(self, error: ForceNetError) -> ForceNetError:
        """The same, with the number of the image."""
        return type(error)(f"image {self.number} of the band, counted from 0: {error}")

    def get_property(
        self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True
    ) -> Any:
        if name not in self.implemented_properties:
            raise PropertyNotImplementedError(
                f"an image of this band has {', '.join(self.implemented_properties)} and no {name}:"
                " give it a ForceNetCalculator of a model that has it."
            )
        if atoms is not None and atoms is not self.atoms_of_band:
            raise RequestError(
                f"this is the calculator of image {self.number} of a band and of no other atoms:"
                " give these a ForceNetCalculator."
            )
        by_work = self._band.work and name in ("energy", "free_energy")  # which others change too
        if self._band.has_moved if by_work else self.has_moved:
            if not allow_calculation:
                return None
            self._band.update()
        found = self.results[name]
        return found.copy() if isinstance(found, np.ndarray) else found


def work_along(path: NDArray[np.float64], forces: NDArray[np.float64]) -> NDArray[np.float64]:
    """[n_images] eV: -∫F·dR from image 0 to each, between the images by splines of R and F.

    path: [n_images, n_atoms, 3] Å; forces: [n_images, n_atoms, 3] eV/Å

    Over the length of the path both are cubic splines: integrated as they are, by Gauss and
    Legendre's three points in each piece.
    """
    rows = path.reshape(len(path), -1)
    s = np.concatenate([[0.0], np.linalg.norm(np.diff(rows, axis=0), axis=1).cumsum()])
    direction = CubicSpline(s, rows).derivative()
    force = CubicSpline(s, forces.reshape(rows.shape))
    nodes, weights = np.polynomial.legendre.leggauss(3)
    half = np.diff(s) / 2
    points = s[:-1, None] + half[:, None] * (1 + nodes)
    pieces = (force(points) * direction(points)).sum(axis=-1) @ weights * half
    return np.concatenate([[0.0], -pieces.cumsum()])
