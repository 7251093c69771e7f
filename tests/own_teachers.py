"""Calculators with faults, for `module:function` teachers: each fault strikes where it is told."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.emt import EMT


class Faulty(EMT):
    """ASE's EMT, but with a fault on frames whose `info['fault']` names one."""

    def calculate(self, atoms: Atoms | None = None, *arguments: Any, **options: Any) -> None:
        assert atoms is not None
        fault = atoms.info.get("fault")
        if fault == "raise":
            raise KeyError("missing")
        if fault == "exit":
            raise SystemExit(3)
        if fault == "memory":
            raise MemoryError
        if fault == "kill":
            print("my last words", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "sleep":
            time.sleep(600)
        super().calculate(atoms, *arguments, **options)
        if fault == "nan":
            self.results["forces"] = np.full((len(atoms), 3), np.nan)
        if fault == "shape":
            self.results["forces"] = self.results["forces"].ravel()
        self.converged = fault != "loop"


def faulty() -> Faulty:
    return Faulty()


class Slow(EMT):
    """EMT that takes its time, and counts in a file what it was asked."""

    def calculate(self, *arguments: Any, **options: Any) -> None:
        time.sleep(0.15)
        super().calculate(*arguments, **options)
        with Path("asked").open("a") as file:
            file.write("x")


def slow() -> Slow:
    return Slow()


class Hanging(EMT):
    """EMT that never comes back from its seventh frame."""

    asked = 0

    def calculate(self, *arguments: Any, **options: Any) -> None:
        Hanging.asked += 1
        if Hanging.asked == 7:
            time.sleep(600)
        super().calculate(*arguments, **options)


class Jumping(EMT):
    """EMT whose force on the first atom jumps by some eV/Å where its x passes a multiple of 0.3."""

    def __init__(self, jump: float) -> None:
        super().__init__()
        self.jump = jump

    def calculate(self, atoms: Atoms | None = None, *arguments: Any, **options: Any) -> None:
        assert atoms is not None
        super().calculate(atoms, *arguments, **options)
        self.results["forces"][0, 0] += self.jump * (np.floor(atoms.positions[0, 0] / 0.3) % 2)


def jumping(jump: float = 5.0) -> Jumping:
    return Jumping(jump)


def threads() -> EMT:
    """Refuses to be made where more than one thread is allowed."""
    import torch

    assert os.environ["OMP_NUM_THREADS"] == "1"
    assert torch.get_num_threads() == 1
    return EMT()
