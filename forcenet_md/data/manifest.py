"""What a store says of itself: where its frames come from, and what was found in them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

NAMED = 100  # of what is found, so many are named; all are counted


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Source(_Part):
    """A file that was read. sha256 is of its bytes; nearest: middle over frames of the smallest
    distance over the sum of the covalent radii; mean_force: middle over frames of the mean
    |component|, eV/Å; bad: frames that were left out, left_out names them."""

    path: str
    size: int
    sha256: str
    frames: int = 0
    bad: int = 0
    left_out: list[str] = []
    nearest: float | None = None
    mean_force: float | None = None

    def leave_out(self, sentence: str) -> None:
        """Count a frame as bad, and name it if there is room."""
        self.bad += 1
        if len(self.left_out) < NAMED:
            self.left_out.append(sentence)


class Place(_Part):
    """A frame by its row in the store and where it was read; what: what is strange about it."""

    row: int
    source: str
    frame: int
    what: str

    def __str__(self) -> str:
        return f"frame {self.frame} of {self.source or 'the store'}: {self.what}"


class Found(_Part):
    """Frames of one kind: all are counted, the first are named."""

    count: int = 0
    named: list[Place] = []


class ForceStatistics(_Part):
    """Of one element: atoms, mean |component|, root mean square component and largest force
    (length), eV/Å."""

    atoms: int
    mean_abs: float
    rms: float
    largest: float


class Units(_Part):
    """In the store everything is eV and Å; length and force are what the sources were taken to
    be in, checked says how that was seen."""

    length: str = "angstrom"
    force: str = "eV/angstrom"
    checked: str = "not checked"


class Manifest(_Part):
    """The page at the front of a store."""

    frames: int = 0
    atoms: int = 0
    smallest: int = 0
    largest: int = 0
    with_energy: int = 0
    with_stress: int = 0
    fixed_atoms: int = 0
    elements: dict[str, int] = {}
    forces: dict[str, ForceStatistics] = {}
    mean_abs_force: float = 0.0
    units: Units = Units()
    sources: list[Source] = []
    columns: dict[str, str] = {}
    skipped_columns: list[str] = []
    duplicates: Found = Found()
    large_forces: Found = Found()
    near_atoms: Found = Found()
    unconverged: Found = Found()
    remarks: list[str] = []
    written_by: str = ""
