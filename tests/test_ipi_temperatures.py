"""What i-PI prints of temperatures, read while it does so."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from forcenet_md.engines import ipi_temperatures
from forcenet_md.engines.ipi_input import IpiInput, read_input
from forcenet_md.engines.ipi_temperatures import KELVIN, IpiTemperatures, advice, printed
from forcenet_md.simulation.demo_inputs import inputs_folder

# As i-PI 3.3 writes it: a property of several numbers, a unit of its own, two elements.
HEADER = """# cols.    1-6   --> cell_h{angstrom} : The simulation cell.
# column   7     --> temperature(Cu){kelvin} : The current temperature.
# column   8     --> temperature(Pt) : The current temperature.
# column   9     --> temperature(3){kelvin} : The current temperature, of one atom.
"""


def line(cu: float, pt: float) -> str:
    return "  ".join(["  1.0"] * 6 + [f"{cu:.8e}", f"{pt / KELVIN:.8e}", "9.0"]) + "\n"


def see(watcher: IpiTemperatures) -> None:
    watcher.see(None, None)  # type: ignore[arg-type]


def test_a_growing_file_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of an earlier run is none of ours, nor is half of a line."""
    monkeypatch.setattr(ipi_temperatures, "LOOK", 0.0)
    path, said = tmp_path / "sim.out", []
    path.write_text(HEADER + line(1.0, 1.0))
    watcher = IpiTemperatures(path, False, said.append)
    see(watcher)
    assert watcher.figures(0) == {}
    os.rename(path, tmp_path / "#sim.out#0#")
    see(watcher)
    rng = np.random.default_rng(0)
    values = rng.normal([300.0, 600.0], [3.0, 30.0], (400, 2))
    with path.open("w") as file:
        file.write(HEADER)
        for k, (cu, pt) in enumerate(values):
            text = line(cu, pt)
            file.write(text[:50])
            file.flush()
            see(watcher)
            if k:
                before = values[k - 1]
                assert watcher.figures(0)["temperature"] == f"Cu {before[0]:.4g} Pt {before[1]:.4g}"
            file.write(text[50:])
    assert watcher.figures(1) == {}
    watcher.close()
    [told] = said
    late = values[128:].mean(axis=0)
    assert told.startswith(
        f"heat: mean of the last 272 of 400 lines of {path}: temperatures in K Cu "
    )
    words = told.split(" in K ")[1].split()
    assert float(words[1]) == pytest.approx(late[0], abs=0.5)
    assert float(words[5]) == pytest.approx(late[1], abs=5.0)
    assert float(words[7]) == pytest.approx(30.0 / np.sqrt(272), rel=0.5)  # "± 2"


def test_a_file_that_is_appended_to(tmp_path: Path) -> None:
    path, said = tmp_path / "sim.out", []
    path.write_text(HEADER + line(1.0, 1.0))
    watcher = IpiTemperatures(path, True, said.append)
    with path.open("a") as file:
        file.write(line(310.0, 290.0))
    watcher.close()
    assert said == [
        f"heat: mean of the last 1 of 1 lines of {path}: temperatures in K Cu 310 ± ? Pt 290 ± ?"
    ]


def test_no_file_is_no_fault(tmp_path: Path) -> None:
    said: list[str] = []
    watcher = IpiTemperatures(tmp_path / "none", False, said.append)
    watcher.close()
    assert said == []


def changed(columns: str) -> IpiInput:
    ipi = read_input(inputs_folder() / "ipi" / "alloy-nvt.xml")
    properties = ipi.simulation.find("output/properties")
    assert isinstance(properties, ET.Element)
    properties.text = columns
    return ipi


def test_what_is_not_printed_is_advised() -> None:
    numbers = [29, 78, 29]
    all_ = changed("[ step, temperature(Cu){kelvin}, temperature( Pt ) ]")
    assert printed(all_) == dict.fromkeys(("Cu", "Pt"), Path("alloy-nvt.out"))
    assert advice(all_, numbers) == ""
    some = changed("[ temperature{kelvin}, temperature(Cu){kelvin}, temperature(Pt){ase} ]")
    assert list(printed(some)) == ["all", "Cu"]
    words = advice(some, numbers)
    assert "write temperature(Pt){kelvin} into its <properties>" in words
    assert advice(some, [29, 29]) == ""
