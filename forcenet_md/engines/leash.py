"""Run a program that never outlives its caller: `python leash.py PROGRAM [ARGUMENT …]`.

Standard input is the leash. When its other end closes, because the caller lets go or has died in
whatever way, the program gets SIGTERM, a second one if that is not enough, then SIGKILL. If this
process is killed itself, the kernel kills the program. Ends with the program's code, or with
128 + the number of the signal that ended it. Needs nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading

STAGES = ((signal.SIGTERM, 10.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, None))  # s after each
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    # Signals to a whole job reach the program too; handlers, unlike SIG_IGN, are not inherited.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    prctl = getattr(ctypes.CDLL(None), "prctl", lambda *_: None)
    here = os.getpid()

    def die_with_me() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != here:
            os._exit(1)

    try:
        program = subprocess.Popen(
            sys.argv[1:],
            stdin=subprocess.DEVNULL,
            preexec_fn=die_with_me,  # no threads yet
        )
    except OSError as error:
        print(f"{sys.argv[1]} cannot be started: {error.strerror}", file=sys.stderr)
        os._exit(127)
    threading.Thread(target=end_at_release, args=(program,), daemon=True).start()
    code = program.wait()
    os._exit(code if code >= 0 else 128 - code)


def end_at_release(program: subprocess.Popen[bytes]) -> None:
    while os.read(0, 4096):
        pass
    for number, patience in STAGES:
        program.send_signal(number)
        try:
            program.wait(patience)
        except subprocess.TimeoutExpired:
            continue
        return


if __name__ == "__main__":
    main()
