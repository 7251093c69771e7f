"""If the electrons of VASP's frames converged, which ASE's readers do not tell.

VASP goes on where they did not, and writes forces that mean little. OUTCAR says so since version 6;
before that, and in vasprun.xml, they have taken as many steps as NELM allows.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO
from xml.etree import ElementTree

from ase import Atoms

CONVERGED = "scf_converged"  # column of the frames, 1 or 0
NELM = re.compile(r"\bNELM\s*=\s*(\d+)")
ITERATION = re.compile(r"Iteration\s+\d+\(\s*(\d+)\)")
FRAME = "FREE ENERGIE OF THE ION-ELECTRON SYSTEM"  # with which ASE ends each


def with_convergence(
    frames: Iterable[Atoms], kind: str, opened: Callable[[], TextIO]
) -> Iterator[Atoms]:
    """Frames as ASE reads them, with the column. kind: ASE's name of the format, of `BY_VASP`"""
    with opened() as file:
        told = itertools.chain(BY_VASP[kind](file), itertools.repeat(None))
        for atoms, converged in zip(frames, told, strict=False):
            if converged is not None:  # not so where a file is cut short
                atoms.info[CONVERGED] = converged
            yield atoms


def converged_in_outcar(lines: Iterable[str]) -> Iterator[bool]:
    """For each frame in order."""
    most, steps, verdict = None, 0, ""
    for line in lines:
        if "Iteration" in line and (found := ITERATION.search(line)):
            steps = int(found[1])
        elif "aborting loop" in line:
            verdict = line
        elif most is None and "NELM" in line and (found := NELM.search(line)):
            most = int(found[1])
        elif FRAME in line:
            if "EDIFF" in verdict:
                yield "not reached" not in verdict
            else:
                yield most is None or steps < most
            steps, verdict = 0, ""


def converged_in_vasprun(file: TextIO) -> Iterator[bool]:
    """For each frame in order; a file that is cut short has fewer, as its reader says."""
    most, steps = None, 0
    try:
        for _, element in ElementTree.iterparse(file):
            if element.tag == "i" and element.get("name") == "NELM":
                most = int(element.text or 0)
            elif element.tag == "scstep":
                steps += 1
            elif element.tag == "calculation":
                yield most is None or steps < most
                steps = 0
                element.clear()
    except ElementTree.ParseError:
        return


BY_VASP: dict[str, Callable[[TextIO], Iterator[bool]]] = {
    "vasp-out": converged_in_outcar,
    "vasp-xml": converged_in_vasprun,
}
