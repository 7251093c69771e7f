"""Run by .ci/run with the Python of an environment that holds the built wheel alone:
the shipped model is served and a real `lmp` runs on it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

SCRIPTS = Path(sysconfig.get_path("scripts"))
INPUT = """
units metal
lattice fcc 3.95
region box block 0 3 0 3 0 3
create_box 1 box
create_atoms 1 box
mass 1 63.546
velocity all create 600 1
fix ext all external pf/callback 1 1
forcenet ext {address} elements Cu
fix integrate all nvt temp 600 600 0.1
thermo 5
run 10
"""


def main() -> None:
    import forcenet_md

    home = Path(forcenet_md.__file__).parent
    assert "site-packages" in str(home), f"not the wheel: {home}"
    environment = os.environ | {
        "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
        "FORCENET_MD_CACHE": tempfile.mkdtemp(),
    }

    def run(*command: str, **options: object) -> str:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=300, **options
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("forcenet-md", "build-plugin")
    print(run("forcenet-md", "doctor"))
    print(run("forcenet-md", "inspect", "alloy"))
    with tempfile.TemporaryDirectory() as folder:
        address = f"unix:{folder}/s.sock"
        server = subprocess.Popen(
            ["forcenet-md", "serve", "--model", "alloy", "--listen", address],
            stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        try:
            assert server.stdout is not None
            for line in server.stdout:
                print(line, end="")
                if line.startswith("ready"):
                    break
            Path(folder, "in.lmp").write_text(INPUT.format(address=address))
            print(run("mpirun", "-n", "2", "lmp", "-in", "in.lmp", cwd=folder))
        finally:
            server.terminate()
        assert server.wait(timeout=30) == 0
    print("wheel: 1 passed, 0 failed")


if __name__ == "__main__":
    sys.exit(main())
