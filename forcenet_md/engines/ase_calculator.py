"""A model as an ASE calculator.

    from ase.optimize import FIRE
    from forcenet_md import ForceNetCalculator
    from forcenet_md.engines.ase_calculator import ForcesOnly

    atoms.calc = ForceNetCalculator("m.pt")
    FIRE(ForcesOnly(atoms)).run(fmax=0.05)

A model without an energy has forces only. ASE's molecular dynamics wants no more (without its
log file); its optimisers ask for the energy at every step to print it, and `ForcesOnly` spares
them that. FIRE, MDMin and BFGS move by forces alone; line searches need an energy.
"""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.optimize.optimize import OptimizableAtoms
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray

from forcenet_md.errors import ForceNetError, RequestError
from forcenet_md.inference.frames import Symmetry
from forcenet_md.inference.interface import Evaluator, Kind, Moment, Request
from forcenet_md.inference.load import load_evaluator
from forcenet_md.recording.frame import Precision
from forcenet_md.recording.options import RecordOptions
from forcenet_md.system import Forces
from forcenet_md.watching.guard_limits import OFF, WARN
from forcenet_md.watching.guards import GuardOptions
from forcenet_md.watching.watching import Watching

log = logging.getLogger(__name__)

# Functions of ASE's optimisers that ask for an energy to go by it: line searches, those of SciPy,
# and FIRE where it looks whether it went downhill. All others print it.
COMPARING = {"func", "f", "step"}


class ForceNetCalculator(Calculator):
    """Forces of a model (eV/Å), with energy (eV) and stress (eV/Å³) where the model has them.

    model: an m.pt file, the name of a shipped model, or `ase:NAME[,key=value…]`
    device: 'cpu' or 'cuda:I'
    threads: of torch on the CPU; None leaves torch as it is set
    dtype: 'float32' or 'float64'
    trust, sha256: as `forcenet-md serve` has them
    committee: further model files, which answer together with `model`: forces are the mean, and
        `results["force_spread"]` [n_atoms] eV/Å is how far they are apart
    record, record_every, record_precision: as `forcenet-md serve` has them; every calculation is a
        step, and `close` or the end of Python completes the file
    guard, guard_frames: as `serve` has --guard and --guard-frames. A warning goes to `logging`;
        past a limit that stops, EvaluationError is raised. ASE does not say whether it runs or
        relaxes: so nothing stops ("warn") unless limits are given, () being those of `serve`.
        "off" or None has no guards. Frames are kept where a file is given.
    frames, align: average over turned copies, and turn structures to one frame first; see
        inference/frames.py

    The net force of a model whose forces are not a gradient is taken out; where atoms are held by
    constraints (FixCom holds none) only if the model was trained without it. `net_force` [3] eV/Å
    is what it was; so is `torque` [3] eV, about the centroid, of free atoms that are periodic
    nowhere, and None of others.
    Raises a ForceNetError (ModelFileError, UnknownElementError, …) with one sentence; asked for
    a property the model lacks, ASE's PropertyNotImplementedError.
    """

    name = "forcenet"

    def __init__(
        self,
        model: str,
        device: str = "cpu",
        threads: int | None = None,
        dtype: str = "float32",
        trust: bool = False,
        sha256: str | None = None,
        committee: Sequence[str | Path] = (),
        record: str | Path | None = None,
        record_every: int = 10,
        record_precision: Precision = "full",
        frames: int = 1,
        align: bool = False,
        guard: str | Sequence[str] | None = WARN,
        guard_frames: str | Path | None = None,
    ) -> None:
        super().__init__()

        def load() -> Evaluator:
            return load_evaluator(
                str(model),
                device=device,
                threads=torch_threads() if threads is None else threads,
                dtype=dtype,
                trust=trust,
                sha256=sha256,
                committee=[str(member) for member in committee],
                symmetry=Symmetry(frames, align),
            )

        guard = OFF if guard is None else guard
        words = (guard,) if isinstance(guard, str) else tuple(guard)
        watching = Watching(
            guards=GuardOptions(words, _path(guard_frames), option='guard=["{}"]'),
            heat=False,
            record=RecordOptions(_path(record), record_every, record_precision),
        )
        stack = ExitStack()
        self.evaluator = stack.enter_context(watching.over(load, log.warning))
        self._close = weakref.finalize(self, stack.close)
        self.capabilities = self.evaluator.capabilities
        self.implemented_properties = ["forces"]
        if self.capabilities.energy:
            self.implemented_properties += ["energy", "free_energy"]
        if self.capabilities.stress:
            self.implemented_properties.append("stress")
        if self.capabilities.spread:
            self.implemented_properties.append("force_spread")
        self.net_force: NDArray[np.float64] | None = None
        self.torque: NDArray[np.float64] | None = None
        self._session = self.evaluator.new_session()

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("forces",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        super().calculate(atoms, list(properties), list(system_changes))
        request = Request.from_ase(
            self._session,
            self.atoms,
            want_stress="stress" in properties,
            moment=Moment(kind=Kind.UNKNOWN, masses=self.atoms.get_masses()),
        )
        answer = self.evaluator.evaluate([request])[0]
        if isinstance(answer, ForceNetError):
            raise answer
        self.net_force, self.torque = answer.net_force, answer.torque
        self.results.update(as_results(answer))

    def close(self) -> None:
        """Complete the recording; nothing is calculated any more."""
        self._close()

    def get_property(
        self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True
    ) -> Any:
        if name not in self.implemented_properties and allow_calculation:
            mending = "take a model that has it"
            if name in ("energy", "free_energy"):
                mending = (
                    "for ASE's optimisers wrap the atoms in ForcesOnly, for its NEB in a Band, and"
                    " give its dynamics no log file"
                )
            raise PropertyNotImplementedError(
                f"the model {self.capabilities.name} has no {name.replace('_', ' ')}, it has"
                f" {', '.join(self.implemented_properties)}: {mending}."
            )
        return super().get_property(name, atoms, allow_calculation)


class ForcesOnly:
    """Atoms for an ASE optimiser that is to ask for no energy: it prints nan in its place.

    Raises RequestError from one that goes by energies, as line searches do.
    """

    def __init__(self, atoms: Atoms) -> None:
        self.atoms = atoms

    def __ase_optimizable__(self) -> OptimizableAtoms:
        return _WithoutEnergy(self.atoms)


class _WithoutEnergy(OptimizableAtoms):
    def get_value(self) -> float:
        # ASE does not say what for; with nan a line search would go on without an end.
        if sys._getframe(1).f_code.co_name in COMPARING:
            raise RequestError(
                "this optimiser compares energies, which the model does not have: take FIRE,"
                " MDMin, BFGS or LBFGS."
            )
        return float("nan")


def as_results(answer: Forces) -> dict[str, Any]:
    """By ASE's names and in its units and signs; what the model does not have is not there."""
    results: dict[str, Any] = {"forces": answer.forces}
    if answer.energy is not None:
        results["energy"] = results["free_energy"] = answer.energy
    if answer.stress is not None:
        results["stress"] = full_3x3_to_voigt_6_stress(answer.stress)
    if answer.force_spread is not None:
        results["force_spread"] = answer.force_spread
    return results


def _path(name: str | Path | None) -> Path | None:
    return None if name is None else Path(name)


def torch_threads() -> int:
    """What torch is set to; it reads OMP_NUM_THREADS when it is imported."""
    import torch

    return torch.get_num_threads()
