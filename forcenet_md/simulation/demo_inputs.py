"""The demo's folders: the inputs of inputs/, with what the demo changes in them."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from forcenet_md.data.eam import write_setfl
from forcenet_md.errors import DataError

SCRIPT, STRUCTURE = "alloy-nvt.in", "alloy.data"
IPI_INPUT, IPI_STRUCTURE = "alloy-nvt.xml", "alloy.xyz"
ELEMENTS = ("Ag", "Au", "Cu", "Pd", "Pt")


@dataclass(frozen=True, slots=True)
class Folders:
    """Where each engine runs."""

    lammps: Path
    ipi: Path
    teacher: Path


def prepare_folders(out: Path, steps: int, temperature: float) -> Folders:
    """Folders with inputs and structures in out, without the output of an earlier demo.

    Raises DataError for a folder that cannot be written.
    """
    inputs = inputs_folder()
    folders = Folders(out / "lammps", out / "ipi", out / "teacher")
    try:
        for folder in (folders.lammps, folders.ipi, folders.teacher):
            folder.mkdir(parents=True, exist_ok=True)
        _remove_output(folders.ipi)
        for name in (SCRIPT, STRUCTURE):
            shutil.copyfile(inputs / "lammps" / name, folders.lammps / name)
        shutil.copyfile(inputs / "lammps" / STRUCTURE, folders.teacher / STRUCTURE)
        table = write_setfl(ELEMENTS, folders.teacher / "teacher.eam.alloy")
        script = (inputs / "lammps" / SCRIPT).read_text(encoding="utf-8")
        (folders.teacher / SCRIPT).write_text(teacher_script(script, table.name), encoding="utf-8")
        shutil.copyfile(inputs / "ipi" / IPI_STRUCTURE, folders.ipi / IPI_STRUCTURE)
        text = (inputs / "ipi" / IPI_INPUT).read_text(encoding="utf-8")
        changed = ipi_input(text, steps, temperature, f"forcenet-demo-{os.getpid()}")
        (folders.ipi / IPI_INPUT).write_text(changed, encoding="utf-8")
    except OSError as error:
        # not error.filename, which is the source when there is no room for a copy
        raise DataError(
            f"the folder {out} cannot be written to ({error.strerror}): make room or give another"
            " --out."
        ) from None
    return folders


def _remove_output(folder: Path) -> None:
    """i-PI keeps its earlier files, as #NAME#0#: not those of a demo."""
    for pattern in (f"{Path(IPI_INPUT).stem}.*", "RESTART", "EXIT", "#*#"):
        for path in folder.glob(pattern):
            path.unlink()


def teacher_script(script: str, table: str) -> str:
    """The script with the potential in the place of the server."""
    kept = [
        line
        for line in script.splitlines()
        if line.split()[:1] not in (["forcenet"], ["comm_modify"])
        and line.split()[:2] != ["fix", "ext"]
    ]
    at = next(k for k, line in enumerate(kept) if line.startswith("read_data")) + 1
    pair = ["pair_style eam/alloy", f"pair_coeff * * {table} {' '.join(ELEMENTS)}"]
    return "\n".join([*kept[:at], *pair, *kept[at:]]) + "\n"


def ipi_input(text: str, steps: int, temperature: float, address: str) -> str:
    """The input with another length and temperature, at a socket of its own."""
    values = {
        "total_steps": str(steps),
        "velocities": f"{2 * temperature:g}",  # as in the input: twice the thermostat's
        "temperature": f"{temperature:g}",
        "address": address,
    }
    for tag, value in values.items():
        text = re.sub(rf"(<{tag}\b[^>]*>)[^<]*(</{tag}>)", rf"\g<1> {value} \g<2>", text)
    return text


def inputs_folder() -> Path:
    """The folder inputs: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "_inputs"
    return inside if inside.is_dir() else package.parent / "inputs"
