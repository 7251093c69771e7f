"""How much is done, and with what."""

from __future__ import annotations

from dataclasses import dataclass

ELEMENTS = ("Au", "Cu")
TEACHER = "zhou2004"
TRAINED_AT = 600  # K
FLOORS = ("none", "zbl")


@dataclass(frozen=True, slots=True)
class Plan:
    """frames: of the training, per seed; ps: of each run; temperatures: K, of the runs"""

    seeds: int = 8
    frames: int = 12
    tested: int = 5
    hidden: int = 16
    cutoff: float = 4.5
    steps: int = 300
    ps: float = 1.0
    temperatures: tuple[int, ...] = (1200, 2400)
