"""Real i-PI processes for tests: the same input with our driver and with i-PI's own forces."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read
from ipi_driven import Driven, driven
from ipi_peer import own_name, socket_file
from ipi_xml import SCALARS, STRUCTURE, VECTORS, simulation
from serving import PATIENCE

from forcenet_md.inference.load import load_evaluator
from forcenet_md.units import IPI

BIN = Path(sys.executable).parent
DIGIT = 1.01e-8  # one unit of the last of the nine digits that i-PI writes of a scalar
IpiProcess = subprocess.Popen[str]
PES = """
from ase.calculators.{module} import {calculator}
from ipi.pes._ase import ASEDriver

__DRIVER_NAME__ = "reference"
__DRIVER_CLASS__ = "Reference"


class Reference(ASEDriver):
    def check_parameters(self):
        super().check_parameters()
        self.ase_calculator = {calculator}({parameters})
"""
CALCULATORS = {"lj": "LennardJones", "emt": "EMT"}


@dataclass(frozen=True)
class Served:
    """A force field of i-PI's input whose forces come from our driver, over so many sockets.

    attributes, elements: more of its <ffsocket>; settings: of `load_evaluator`
    """

    model: str
    name: str = "model"
    sockets: int = 1
    pbc: bool = False
    attributes: str = ""
    elements: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)
    address: str = field(default_factory=own_name)

    def write(self, folder: Path) -> str:
        return f"""
  <ffsocket name='{self.name}' mode='unix' pbc='{self.pbc}' {self.attributes}>
    <address> {self.address} </address> {self.elements}
  </ffsocket>"""

    @contextlib.contextmanager
    def served(self, folder: Path, process: IpiProcess) -> Iterator[Driven | None]:
        """Our driver, from when i-PI is there: a user's waits longer and longer for it."""
        while not socket_file(self.address).exists() and process.poll() is None:
            time.sleep(0.02)
        evaluator = load_evaluator(self.model, **self.settings)  # type: ignore[arg-type]
        atoms = read(folder / STRUCTURE)
        assert isinstance(atoms, Atoms)
        with driven(f"unix:{self.address}", atoms, evaluator, self.sockets) as ours:
            try:
                yield ours
            finally:
                socket_file(self.address).unlink(missing_ok=True)


@dataclass(frozen=True)
class Direct:
    """A calculator in i-PI itself, behind i-PI's own ASEDriver."""

    model: str
    name: str = "model"
    pbc: bool = False

    def write(self, folder: Path) -> str:
        module, *settings = self.model.removeprefix("ase:").split(",")
        script = PES.format(
            module=module, calculator=CALCULATORS[module], parameters=", ".join(settings)
        )
        (folder / f"pes_{self.name}.py").write_text(script)
        return f"""
  <ffdirect name='{self.name}' pbc='{self.pbc}'>
    <pes> custom </pes> <pes_path> pes_{self.name}.py </pes_path>
    <parameters> {{ template: {STRUCTURE} }} </parameters>
  </ffdirect>"""

    def served(self, folder: Path, process: IpiProcess) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


@dataclass(frozen=True)
class AllPairs:
    """i-PI's own Lennard-Jones: all pairs, no cutoff, no images, no virial. In eV and Å."""

    epsilon: float
    sigma: float
    name: str = "model"

    def write(self, folder: Path) -> str:
        # In i-PI's units eV/Å is not quite eV through Å: the forces are to be right.
        epsilon, sigma = self.epsilon * IPI.force * IPI.angstrom, self.sigma * IPI.angstrom
        return f"""
  <fflj name='{self.name}' pbc='false'>
    <parameters> {{ eps: {epsilon:.17g}, sigma: {sigma:.17g} }} </parameters>
  </fflj>"""

    def served(self, folder: Path, process: IpiProcess) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


Field = Served | Direct | AllPairs
Variants = Mapping[str, Sequence[Field]]


def versus(*models: str, names: Sequence[str] = ("model",), sockets: int = 1) -> Variants:
    """Models served by us, and in i-PI itself."""
    return {
        "ours": [Served(m, name, sockets) for m, name in zip(models, names, strict=True)],
        "theirs": [Direct(m, name) for m, name in zip(models, names, strict=True)],
    }


@dataclass
class Run:
    """An i-PI that has ended well. Everything is in its atomic units."""

    folder: Path
    output: str

    def scalars(self, prefix: str = "") -> dict[str, np.ndarray]:
        """[n_steps + 1] each, with nine digits."""
        table = np.loadtxt(self.folder / f"{_stem(prefix)}.scalars", ndmin=2)
        return dict(zip(SCALARS, table.T, strict=True))

    def vectors(self, what: str, prefix: str = "") -> np.ndarray:
        """[n_beads, n_frames, n_atoms, 3], with all digits."""
        return np.stack([vectors for _, vectors in self._beads(what, prefix)])

    def cells(self, prefix: str = "") -> np.ndarray:
        """[n_frames, 3, 3], lattice vectors as columns, with all digits."""
        return self._beads("positions", prefix)[0][0]

    def _beads(self, what: str, prefix: str) -> list[tuple[np.ndarray, np.ndarray]]:
        files = sorted(self.folder.glob(f"{_stem(prefix)}.{what}_*.bin"))
        assert files, self.output
        return [read_frames(file.read_bytes()) for file in files]


def _stem(prefix: str) -> str:
    return f"{prefix}_out" if prefix else "out"


def read_frames(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Cells and vectors of i-PI's binary trajectory.

    A frame is the cell, the number of atoms, the vectors, then names and a title in UCS-4, whose
    length is not told: but it is the same in every frame, and each says its step once.
    """
    n_frames = data.count("Step:".encode("utf-32-le"))
    frames = np.frombuffer(data, np.uint8).reshape(n_frames, -1)
    n_atoms = int(frames[0, 72:80].copy().view(np.int64)[0])
    cells = frames[:, :72].copy().view(np.float64)
    vectors = frames[:, 80 : 80 + 24 * n_atoms].copy().view(np.float64)
    return cells.reshape(n_frames, 3, 3), vectors.reshape(n_frames, n_atoms, 3)


@contextlib.contextmanager
def i_pi(folder: Path, text: str) -> Iterator[IpiProcess]:
    """A running i-PI in its folder; whatever is left of it at the end is killed."""
    (folder / "input.xml").write_text(text)
    process = subprocess.Popen(
        [str(BIN / "i-pi"), "input.xml"],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def run_all(
    variants: Variants,
    systems: str,
    atoms: Atoms,
    folder: Path,
    steps: int,
    more: str = "",
    threads: bool = False,
) -> dict[str, Run]:
    """The same systems with the force fields of each variant, all at the same time.

    more, threads: of `simulation`
    """
    with contextlib.ExitStack() as stack:
        processes = {}
        for name, fields in variants.items():
            own = folder / name
            own.mkdir()
            atoms.write(own / STRUCTURE)
            text = simulation([each.write(own) for each in fields], systems, steps, more, threads)
            processes[name] = stack.enter_context(i_pi(own, text))
        ours = {}
        for name, fields in variants.items():
            managers = [each.served(folder / name, processes[name]) for each in fields]
            ours[name] = [stack.enter_context(manager) for manager in managers]
        return {name: ended(folder / name, processes[name], ours[name]) for name in variants}


def ended(folder: Path, process: IpiProcess, ours: Sequence[Driven | None] = ()) -> Run:
    """Wait for the end of an i-PI, but not for one that waits for a driver that has failed."""
    end = time.monotonic() + 4 * PATIENCE
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            output, _ = process.communicate(timeout=1.0)
            assert process.returncode == 0, output
            return Run(folder, output)
        for one in ours:
            assert one is None or one.driver.failure is None, str(one.driver.failure)
        assert time.monotonic() < end, "i-PI does not end"


def assert_same(one: Run, other: Run, steps: int, prefix: str = "", accuracy: float = 1e-8) -> None:
    """Energies, pressure, positions, velocities, forces and cells, relative to the largest."""
    scalars = one.scalars(prefix)
    for name, expected in other.scalars(prefix).items():
        assert len(expected) == steps + 1
        assert difference(scalars[name], expected) <= accuracy + DIGIT, name
    for name in VECTORS:
        expected = other.vectors(name, prefix)
        assert np.abs(expected).max() > 0.0
        assert difference(one.vectors(name, prefix), expected) <= accuracy, name
    assert difference(one.cells(prefix), other.cells(prefix)) <= accuracy


def difference(values: np.ndarray, expected: np.ndarray) -> float:
    assert values.shape == expected.shape
    assert np.isfinite(expected).all()
    return float(np.abs(values - expected).max() / (np.abs(expected).max() or 1.0))
