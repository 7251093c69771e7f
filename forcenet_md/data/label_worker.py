"""A process that labels what it is sent: `python -m forcenet_md.data.label_worker FD`.

FD is one end of a two-way pipe of `multiprocessing`. First comes (teacher, elements), answered by
("ready", "") or ("fault", sentence); then one structure after the other, each answered by
("done", labelled) or ("failed", reason). It ends when the pipe closes.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
import tempfile
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ase import Atoms

from forcenet_md.data.frames import check_labels, check_structure
from forcenet_md.data.teachers import Teacher, open_teacher
from forcenet_md.errors import ForceNetError

log = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    _die_with(int(sys.argv[2]))
    tempfile.tempdir = sys.argv[3]  # where the caller removes it, even if this process is killed
    with Connection(int(sys.argv[1])) as pipe, contextlib.suppress(EOFError, BrokenPipeError):
        serve(pipe)


def serve(pipe: Connection) -> None:
    """Answer until the pipe closes, which raises EOFError or BrokenPipeError."""
    spec, elements = pipe.recv()
    with ExitStack() as opened:
        try:
            teacher = opened.enter_context(open_teacher(spec, elements))
        except (ForceNetError, OSError, RuntimeError, MemoryError) as error:
            pipe.send(("fault", str(error) or repr(error)))
            return
        pipe.send(("ready", ""))
        while True:
            atoms: Atoms = pipe.recv()
            answer = label_one(teacher, atoms)
            pipe.send(answer)
            if answer[0] == "failed":  # what the fault left behind is not used again
                opened.close()
                teacher = opened.enter_context(open_teacher(spec, elements))


def label_one(teacher: Teacher, atoms: Atoms) -> tuple[str, Any]:
    """("done", labelled copy) or ("failed", reason)."""
    try:
        check_structure(atoms)
        labelled = teacher.label(atoms)
        check_labels(labelled)
    except ForceNetError as error:
        return "failed", str(error)
    except MemoryError:
        return "failed", f"teacher '{teacher.name}' ran out of memory; label it with more."
    except (Exception, SystemExit) as error:
        log.exception("the teacher failed")
        what = " ".join(f"{type(error).__name__}: {error}".split())
        return "failed", f"teacher '{teacher.name}' failed on it ({what[:300]})."
    return "done", labelled


def _die_with(parent: int) -> None:
    """Be killed when the caller is, and before it when memory is short."""
    getattr(ctypes.CDLL(None), "prctl", lambda *_: None)(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")


if __name__ == "__main__":
    main()
